"""`shoal status HOST:PORT`: what a learner says about its run right now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core import rpc
from protos import learner_pb2

if TYPE_CHECKING:
    from rich.console import RenderableType

TIMEOUT_S = 5.0


def ask(address: str, timeout_s: float = TIMEOUT_S) -> learner_pb2.LearnerInfoReply:
    """Call the learner's Info. Raises the errors of core.errors: UnavailableError where nobody answers."""
    channel = rpc.open_channel(address)
    try:
        client = rpc.Client(channel, learner_pb2.DESCRIPTOR.services_by_name["Learner"], f"the learner at {address}")
        reply = client.unary("Info", learner_pb2.LearnerInfoRequest(), learner_pb2.LearnerInfoReply, timeout_s)
    finally:
        channel.close()
    rpc.check_protocol(reply.protocol, client.peer)
    return reply


def table(reply: learner_pb2.LearnerInfoReply) -> RenderableType:
    """The reply as tables for a terminal."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    figures = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    figures.add_column(style="dim")
    figures.add_column(justify="right", style="bold")
    for name, value in sorted(reply.figures.items()):
        figures.add_row(name.replace("_", " "), f"{value:,.0f}" if value == int(value) else f"{value:,.2f}")
    actors = Table(box=box.SIMPLE, pad_edge=False)
    for name in ("slot", "host", "pid", "state"):
        actors.add_column(name, justify="right" if name in ("slot", "pid") else "left")
    for actor in sorted(reply.actors, key=lambda a: a.slot):
        style = "" if actor.state == "acting" else "yellow"
        actors.add_row(str(actor.slot), actor.host, str(actor.pid), actor.state, style=style)
    parts: list[RenderableType] = [Text.assemble((reply.run, "bold cyan"), f" at {reply.address}")]
    if reply.figures:
        parts.append(figures)
    if reply.bottleneck:
        advice = f": {reply.advice}" if reply.advice else ""
        parts += [Text.assemble(("bottleneck ", "dim"), (reply.bottleneck, "bold magenta"), advice), Text()]
    parts.append(actors if reply.actors else Text("no actors have joined yet", style="dim"))
    return Group(*parts)
