"""`shoal status HOST:PORT`: what a learner says about its run, or a replay server about its tables, right now."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from core import rpc
from core.errors import CodecError, PeerIncompatibleError
from protos import experience_pb2, learner_pb2
from replay_server.definition import ReplayDefinition
from shoal.data_place import size_text

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    Told = experience_pb2.TableInfo | learner_pb2.LearnerTable
    """A table as either server tells of it: a name and figures."""

TIMEOUT_S = 5.0
RATE_S = 1.0
"""A replay server is asked twice, so long apart: its rates are the difference."""
MOST_NAMES = 4
IN_COLUMNS = {"items", "capacity", "held_bytes", "inserted", "sampled", "manifest_age_s"}
"""Figures of a table that have a column of their own."""


@dataclass(frozen=True)
class Tables:
    """A replay server's answer, and the one before it, `apart_s` earlier."""

    before: experience_pb2.InfoReply
    now: experience_pb2.InfoReply
    apart_s: float


@dataclass(frozen=True)
class Wait:
    """Somebody who waits for what of which table, for how long, and why."""

    table: str
    what: str
    who: str
    waited_s: float
    reason: str


def show(address: str) -> RenderableType:
    """What to print. Raises the errors of core.errors: UnavailableError where nobody answers."""
    answer = ask(address)
    return tables(answer, address) if isinstance(answer, Tables) else run(answer)


def ask(address: str, timeout_s: float = TIMEOUT_S, rate_s: float = RATE_S) -> learner_pb2.LearnerInfoReply | Tables:
    """Ask whoever listens there: a learner, or else a replay server."""
    channel = rpc.open_channel(address)
    try:
        learner = rpc.Client(channel, learner_pb2.DESCRIPTOR.services_by_name["Learner"], f"the learner at {address}")
        try:
            reply = learner.unary("Info", learner_pb2.LearnerInfoRequest(), learner_pb2.LearnerInfoReply, timeout_s)
        except PeerIncompatibleError:  # it does not know the call
            return _ask_replay(channel, address, timeout_s, rate_s)
        rpc.check_protocol(reply.protocol, learner.peer)
        return reply
    finally:
        channel.close()


def _ask_replay(channel: rpc.Channel, address: str, timeout_s: float, rate_s: float) -> Tables:
    service, peer = experience_pb2.DESCRIPTOR.services_by_name["Experience"], f"the server at {address}"
    client, request = rpc.Client(channel, service, peer), experience_pb2.InfoRequest()
    before = client.unary("Info", request, experience_pb2.InfoReply, timeout_s)
    rpc.check_protocol(before.protocol, peer)
    asked_s = time.monotonic()
    time.sleep(rate_s)
    now = client.unary("Info", request, experience_pb2.InfoReply, timeout_s)
    return Tables(before, now, time.monotonic() - asked_s)


# ---------------------------------------------------------------------------------------------------- a learner


def run(reply: learner_pb2.LearnerInfoReply) -> RenderableType:
    """A learner's reply as tables for a terminal."""
    from rich import box
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    figures = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    figures.add_column(style="dim")
    figures.add_column(justify="right", style="bold")
    for name, value in sorted(reply.figures.items()):
        figures.add_row(name.replace("_", " "), _number(value))
    actors = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    actors.add_column("slot", justify="right", no_wrap=True)
    actors.add_column("host", overflow="fold")
    actors.add_column("pid", justify="right", no_wrap=True)
    actors.add_column("state", no_wrap=True, min_width=7)
    for name in ("env\nsteps/s", "acting", "version", "silent", "restarts"):
        actors.add_column(name, justify="right", no_wrap=True)
    for actor in sorted(reply.actors, key=lambda a: a.slot):
        style = "" if actor.state == "acting" else "yellow"
        silent = f"{actor.silent_s:,.1f} s" if actor.HasField("silent_s") else "-"
        version = "-" if actor.version < 0 else f"{actor.version:,}"
        speed = f"{actor.env_steps_per_s:,.0f}"
        acting = f"{actor.act_share:.0%}" if actor.HasField("act_share") else "-"
        row = (str(actor.slot), actor.host, str(actor.pid), actor.state)
        actors.add_row(*row, speed, acting, version, silent, str(actor.restarts), style=style)
    parts: list[RenderableType] = [Text.assemble((reply.run, "bold cyan"), f" at {reply.address}")]
    if reply.figures:
        parts.append(figures)
    if reply.bottleneck:
        advice = f": {reply.advice}" if reply.advice else ""
        parts += [Text.assemble(("bottleneck ", "dim"), (reply.bottleneck, "bold magenta"), advice)]
    if reply.tables:
        parts += [Text(), _overview(reply.tables), *(Padding(_more(table), (0, 0, 0, 2)) for table in reply.tables)]
    if reply.waiters:
        waits = _waits(Wait(w.table, w.what, w.who, w.waited_s, w.reason) for w in reply.waiters)
        parts += [Text(), *waits[:-1]]
    parts.append(actors if reply.actors else Text("\nno actors have joined yet", style="dim"))
    return Group(*parts)


# ---------------------------------------------------------------------------------------------------- a replay server


def tables(answer: Tables, address: str) -> RenderableType:
    """A replay server's reply as tables for a terminal."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    reply = answer.now
    parts: list[RenderableType] = [Text.assemble(("replay server", "bold cyan"), f" at {address}")]
    others = [other for other in reply.addresses if other != address]
    if others:
        parts.append(Text(f"also at {', '.join(others)}", style="dim"))
    if not reply.tables:
        return Group(*parts, Text(), Text("no tables yet: a learner or a ReplayClient makes them", style="dim"))
    parts += [Text(), _overview(reply.tables, answer), Text()]
    for table in reply.tables:
        parts += [Text.assemble((table.name, "bold"), f": {_kind(table)}"), Padding(_more(table), (0, 0, 0, 2))]
    waits = [Wait(t.name, w.what, w.who, w.waited_s, w.reason) for t in reply.tables for w in t.waiters]
    parts += [Text(), *(_waits(waits) or [Text("nobody waits", style="dim")])]
    return Group(*parts)


def _overview(tables: Iterable[Told], answer: Tables | None = None) -> Table:
    """A line for each table, with its rates where somebody was asked twice."""
    from rich.table import Table

    overview = Table(box=None, pad_edge=False, padding=(0, 1))
    overview.add_column("table", no_wrap=True, min_width=6)  # of a replay server its name is below in full
    for name in ("items", "capacity", "bytes", *(("inserted/s", "sampled/s") if answer else ()), "manifest"):
        overview.add_column(name, justify="right", no_wrap=True)
    before = {table.name: table for table in answer.before.tables} if answer else {}
    for table in tables:
        rates = [_rate(before.get(table.name), table, n, answer.apart_s) for n in ("inserted", "sampled") if answer]
        overview.add_row(table.name, *_sizes(table), *rates, _manifest(table))
    return overview


def _sizes(table: Told) -> list[str]:
    figures = table.figures
    held = size_text(figures["held_bytes"]) if "held_bytes" in figures else "-"
    return [*(f"{figures[name]:,.0f}" if name in figures else "-" for name in ("items", "capacity")), held]


def _rate(before: Told | None, now: Told, name: str, apart_s: float) -> str:
    if before is None or name not in before.figures or name not in now.figures:
        return "-"
    return f"{max(0.0, now.figures[name] - before.figures[name]) / apart_s:,.0f}"


def _manifest(table: Told) -> str:
    age_s = table.figures.get("manifest_age_s")
    return "none" if age_s is None else f"{age_s:,.1f} s ago"


def _kind(table: experience_pb2.TableInfo) -> str:
    """What a table is, in words."""
    if not table.definition.settings:
        return "a queue of the learner"
    try:
        definition = ReplayDefinition.unpack(table.definition.settings)
    except CodecError:
        return "a replay table of another version of Shoal"
    words: list[str] = [definition.sampler]
    if definition.samples_per_insert:
        words.append(f"{definition.samples_per_insert:g} samples an insert")
    words += [f"from {definition.min_size:,} items on", f"batches of {definition.batch_size:,}"]
    words += [f"{n} rows {where}" for n, where in ((definition.before, "before"), (definition.after, "after")) if n]
    if definition.staged:
        words.append("applied by rounds")
    if not definition.evict:
        words.append("nothing is evicted")
    return ", ".join(words)


def _more(table: Told) -> RenderableType:
    from rich.text import Text

    others = [(name, v) for name, v in sorted(table.figures.items()) if name not in IN_COLUMNS and v]
    shown = [f"{name.replace('_', ' ')} {_number(v)}" for name, v in others]
    totals = [f"{table.figures[n]:,.0f} items {n}" for n in ("inserted", "sampled") if n in table.figures]
    return Text(", ".join([*totals, *shown]), style="dim")


def _waits(waits: Iterable[Wait]) -> Sequence[RenderableType]:
    """Who waits for what of which table, since when, and why; those who wait for the same in one."""
    from rich.padding import Padding
    from rich.text import Text

    parts: list[RenderableType] = []
    for (table, what), group in groupby(sorted(waits, key=lambda w: (w.table, w.what)), lambda w: (w.table, w.what)):
        some = sorted(group, key=lambda w: -w.waited_s)
        names = [f"{w.who} ({w.waited_s:,.1f} s)" for w in some[:MOST_NAMES]]
        if len(some) > MOST_NAMES:
            names.append(f"{len(some) - MOST_NAMES} more")
        verb = "waits" if len(some) == 1 else "wait"
        head = Text.assemble((table, "bold"), ": ", ", ".join(names), f" {verb} for ", (what, "bold yellow"))
        parts += [head, *(Padding(Text(reason), (0, 0, 0, 2)) for reason in _reasons(some)), Text()]
    return parts


def _reasons(waits: Sequence[Wait]) -> list[str]:
    """Those of the ones who wait longest; each once."""
    return list(dict.fromkeys(wait.reason for wait in waits if wait.reason))[:2]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.2f}"
