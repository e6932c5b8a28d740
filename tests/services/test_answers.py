"""shoal/sockets.py: whether a process that a launcher started still answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.errors import DeadlineError
from protos import learner_pb2
from shoal.sockets import LEARNER, REPLAY, answers
from tests.services.serving import Serving


class Learner:
    async def Join(self, request: object, context: object) -> Any: ...

    async def Weights(self, request: object, context: object) -> Any: ...

    async def Info(self, request: object, context: object) -> learner_pb2.LearnerInfoReply:
        return learner_pb2.LearnerInfoReply()


def test_who_answers_does_not_hang(serving: Serving, tmp_path: Path) -> None:
    path = Path(serving.address.removeprefix("unix:"))
    assert not answers(path.with_name(LEARNER), 0.1), "nobody is there"
    serving.address = f"unix:{path.with_name(LEARNER)}"
    serving.start(learner_pb2.DESCRIPTOR.services_by_name["Learner"], Learner())
    assert answers(path.with_name(LEARNER))
    path.with_name(REPLAY).symlink_to(path.with_name(LEARNER))
    assert answers(path.with_name(REPLAY)), "it says that it is no replay server"


def test_who_is_silent_hangs(serving: Serving) -> None:
    class Silent(Learner):
        async def Info(self, request: object, context: object) -> learner_pb2.LearnerInfoReply:
            raise DeadlineError("too late")

    path = Path(serving.address.removeprefix("unix:")).with_name(LEARNER)
    serving.address = f"unix:{path}"
    serving.start(learner_pb2.DESCRIPTOR.services_by_name["Learner"], Silent())
    assert not answers(path)
