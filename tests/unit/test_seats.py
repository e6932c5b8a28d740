import pytest

from core.types import UnrollHeader
from learner.seats import RATE_S, ActorProcess
from learner.status import Seated


def test_speed_and_share_are_those_of_late_and_fall_in_silence() -> None:
    actor = ActorProcess(0, 1, "host", 2, -1.0, restarts=3)
    assert actor.seated(1.0) == Seated(0, "host", 2, "joining", restarts=3)
    for second in range(30):
        steps, act_s = (100, 0.8) if second < 15 else (10, 0.2)
        header = UnrollHeader(0, second, second // 2, steps, act_s=act_s, wait_weights_s=0.1, wait_acks_s=0.9 - act_s)
        actor.seen(header, float(second))
    now = actor.seated(30.0)
    assert now.env_steps == 15 * 100 + 15 * 10
    assert (now.version, now.silent_s) == (14, 1.0)
    assert now.act_share == pytest.approx(0.2)
    assert actor.seated(29.0).env_steps_per_s == pytest.approx(10.0), "what is older than ten seconds counts no more"
    assert actor.seated(29.0 + 3 * RATE_S).env_steps_per_s < 4.0
