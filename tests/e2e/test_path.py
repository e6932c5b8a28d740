"""One row from env.step to the learner's batch, and one version from publish to acting: not one off by one."""

from __future__ import annotations

import itertools
import signal
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from core import envs as vector
from core.types import Array, UnrollHeader
from tests.e2e.envs import MODULE, rows_of, uid_of
from tests.e2e.harness import DEADLINE_S, TestLearner
from tests.services.serving import wait_until

pytestmark = pytest.mark.slow


def settings(actors: int, lag: int, env: str = f"{MODULE}:Counting-v0") -> dict[str, object]:
    return {
        "env": env,
        "actors": actors,
        "envs_per_actor": 2,
        "policy_lag": lag,
        "faults": {"rejoin_grace_s": 60.0},
        "ppo": {"unroll_length": 7, "hidden": [8]},
    }


@pytest.mark.parametrize(("actors", "lag"), [(1, 0), (3, 1)])
def test_every_row_arrives_once_and_in_order(tmp_path: Path, actors: int, lag: int) -> None:
    rounds = 12
    columns: dict[str, list[Array]] = defaultdict(list)
    with TestLearner(tmp_path, settings(actors, lag)) as learner:
        for _ in range(actors):
            learner.start_actor()
        for round_ in range(rounds):
            learner.publish()
            batch, headers = learner.take()
            assert [(h.slot, h.round, h.version) for h in headers] == [
                (slot, round_, max(0, round_ - lag)) for slot in range(actors)
            ]
            for name, column in batch.items():
                columns[name].append(column)
    for slot, b in itertools.product(range(actors), range(2)):
        uid = uid_of(vector.seed_of(1, slot) + b)
        want = list(itertools.islice(rows_of(uid), rounds * 7 + 1))
        at = 2 * slot + b
        got = {name: np.concatenate([c[:7, at] for c in columns[name]]) for name in columns}
        np.testing.assert_array_equal(got["obs"], [row.obs for row in want[:-1]])
        np.testing.assert_array_equal(got["reward"], [row.reward for row in want[:-1]])
        np.testing.assert_array_equal(got["discount"], [row.discount for row in want[:-1]])
        np.testing.assert_array_equal(got["valid"], [row.valid for row in want[:-1]])
        bootstraps = [c[7, at] for c in columns["obs"]]
        np.testing.assert_array_equal(bootstraps, [want[7 * (k + 1)].obs for k in range(rounds)])


def log_probs(learner: TestLearner, version: int, obs: Array, actions: Array) -> Array:
    """What the policy of a version says of recorded actions."""
    learner.flat.load(learner.params[version])
    with torch.no_grad():
        distribution = learner.network.policy(torch.from_numpy(obs))
        return np.asarray(distribution.log_prob(torch.from_numpy(actions)))


@pytest.mark.parametrize("lag", [0, 1])
def test_joining_and_dying_actors_act_with_exactly_their_versions(tmp_path: Path, lag: int) -> None:
    taken: list[tuple[dict[str, Array], tuple[UnrollHeader, ...]]] = []
    with TestLearner(tmp_path, settings(2, lag, "CartPole-v1")) as learner:
        first, _ = learner.start_actor(), learner.start_actor()
        newcomer = 0
        while not newcomer or len(taken) < newcomer + 30:
            learner.publish()
            batch, headers = learner.take()
            taken.append((batch, headers))
            if len(taken) == 20:
                learner.start_actor()
            if len(taken) == 30:
                first.send_signal(signal.SIGKILL)
                first.wait()
                learner.start_actor()  # takes the dead one's slot and its undelivered rounds
            if not newcomer and len(headers) == 3:
                newcomer = max(31, len(taken))
            assert len(taken) < 20_000, learner.logs()
        seen = set()
        for round_, (batch, headers) in enumerate(taken):
            for i, header in enumerate(headers):
                assert header.round == round_
                assert header.version == max(0, round_ - lag)
                assert (header.slot, round_) not in seen
                seen.add((header.slot, round_))
                obs, actions, want = (batch[k][:7, 2 * i : 2 * i + 2] for k in ("obs", "action", "log_prob"))
                np.testing.assert_allclose(log_probs(learner, header.version, obs, actions), want, atol=1e-5)
                other = log_probs(learner, header.version + (1 if header.version == 0 else -1), obs, actions)
                assert np.abs(other - want).max() > 1e-4, "another version would have passed, too"
        slots = [tuple(h.slot for h in headers) for _, headers in taken]
        assert slots[:20] == [(0, 1)] * 20
        assert slots[-1] == (0, 1, 2)
        assert {0, 1} <= set.intersection(*map(set, slots)), "no slot missed a round"
        assert learner.services.status().replaced == 1
        assert not learner.services.status().deterministic


def test_an_actor_ends_in_order_by_sigterm(tmp_path: Path) -> None:
    """In a container nothing else would end it; here a signal without a handler would give -15."""
    with TestLearner(tmp_path, settings(1, 1, "CartPole-v1")) as learner:
        actor = learner.start_actor()
        learner.publish()
        learner.take()
        actor.send_signal(signal.SIGTERM)
        assert actor.wait(DEADLINE_S) == 128 + signal.SIGTERM, learner.logs()
        wait_until(lambda: [seat.state for seat in learner.services.status().seated] == ["lost"], "it is missed")
    assert "Traceback" not in learner.logs()
