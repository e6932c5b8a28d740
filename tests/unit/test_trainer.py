"""learner/trainer.py with fakes around it: what is done with a delivery, and when a run evaluates, saves and ends."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from core.clock import FakeClock
from core.config import CheckpointConfig, Config, EvaluationConfig
from core.errors import DivergedError
from core.types import Context, Result, UnrollHeader
from learner import trainer as trainer_module
from learner.progress import Progress
from learner.source import Delivery
from learner.status import Status
from learner.trainer import Trainer


class Run:
    """A trainer whose source, algorithm, evaluator and recorder are the test's own; `log` is all that happened."""

    def __init__(
        self, deliveries: Sequence[Delivery | None], *, returns: Sequence[float] = (), **settings: Any
    ) -> None:
        self.log: list[Any] = []
        self.clock = FakeClock()
        settings = {"env_steps": 10**9, "seed": 5, **settings}
        self.progress = Progress(self.clock.now_s, settings["env_steps"])
        self.contexts: list[Context] = []
        self.draws: list[float] = []
        self.result = Result(3, {"loss": 1.0})
        self.woken = 0
        self.received: list[UnrollHeader] = []
        self._deliveries, self._returns = iter(deliveries), iter(returns)
        self.trainer = Trainer(
            Config(**settings),
            cast(Any, SimpleNamespace(update=self._update)),
            "network",
            cast(Any, "flat"),
            "state",
            cast(Any, SimpleNamespace(next=self._next, wake=self._wake, set_priorities=self._set_priorities)),
            self.progress,
            cast(
                Any,
                SimpleNamespace(tick=lambda status: None, received=self.received.extend, evaluation=self._evaluation),
            ),
            cast(Any, SimpleNamespace(run=lambda flat, env_steps, stopped, number: (next(self._returns), 1.5))),
            publish=lambda version, env_steps: self.log.append(("publish", version, env_steps)),
            before_publish=lambda version: None,
            save=lambda: self.log.append("save"),
            save_every_s=settings.get("checkpoint", CheckpointConfig()).every_s,
            status=Status,
        )

    def _next(self, timeout_s: float) -> Delivery | None:
        self.clock.advance(1.0)
        try:
            return next(self._deliveries)
        except StopIteration:
            self.trainer.stop("no more")
            return None

    def _wake(self) -> None:
        self.woken += 1

    def _set_priorities(self, keys: Any, priorities: Any) -> None:
        self.log.append(("priorities", keys.tolist(), priorities.tolist()))

    def _update(self, network: str, state: str, batch: Any, context: Context) -> Result:
        assert (network, state) == ("network", "state")
        self.contexts.append(context)
        self.draws.append(float(context.rng.random()))
        self.log.append(("update", float(batch["reward"].sum())))
        return self.result

    def _evaluation(self, mean_return: float, episodes: int, took_s: float) -> None:
        assert took_s == 1.5
        self.log.append(("evaluation", mean_return, episodes))

    def kinds(self) -> list[str]:
        return [entry if isinstance(entry, str) else entry[0] for entry in self.log]


def delivery(env_steps: int = 100, reward: float = 1.0, slot: int = 0, version: int = 0) -> Delivery:
    batch = {"reward": torch.full((2, 2), reward)}
    return Delivery(batch, [UnrollHeader(slot, 0, version, env_steps)])


def test_a_round_is_update_then_publish_with_the_env_steps_that_are_in() -> None:
    run = Run([delivery(100, 1.0), delivery(50, 2.0)])
    assert run.trainer.run() == "no more"
    assert run.log == [
        ("publish", 0, 0),
        ("update", 4.0),
        ("publish", 1, 100),
        ("update", 8.0),
        ("publish", 2, 150),
    ]
    assert [(c.round, c.env_steps) for c in run.contexts] == [(0, 100), (1, 150)]
    assert (run.progress.updates, run.progress.version, run.progress.algorithm) == (6, 2, {"loss": 1.0})
    assert run.trainer.first_update_unix_s is not None
    assert run.woken == 1


def test_an_empty_cohort_is_a_round_without_updates() -> None:
    run = Run([Delivery(None, [])])
    run.trainer.run()
    assert run.log == [("publish", 0, 0), ("publish", 1, 0)]
    assert run.progress.updates == 0
    assert run.trainer.first_update_unix_s is None


def test_new_priorities_are_handed_on_with_their_keys_before_the_version_that_asks_for_more() -> None:
    drawn = delivery()
    drawn.keys = np.array([7, 3])
    run = Run([drawn, delivery()])
    run.result = Result(1, {}, np.array([0.5, 0.25], np.float32))
    run.trainer.run()
    assert run.kinds() == ["publish", "update", "priorities", "publish", "update", "publish"]
    assert run.log[2] == ("priorities", [7, 3], [0.5, 0.25])


def test_priorities_of_a_round_that_diverged_are_not_handed_on() -> None:
    drawn = delivery()
    drawn.keys = np.array([7])
    run = Run([drawn])
    run.result = Result(1, {"loss": float("nan")}, np.array([np.nan], np.float32))
    with pytest.raises(DivergedError):
        run.trainer.run()
    assert run.kinds() == ["publish", "update"]


def test_news_count_env_steps_and_are_no_round() -> None:
    run = Run([Delivery(None, [UnrollHeader(0, 0, 0, 70)], is_round=False), None])
    run.trainer.run()
    assert run.log == [("publish", 0, 0)]
    assert (run.progress.env_steps, run.progress.version) == (70, 0)
    assert [header.env_steps for header in run.received] == [70]


def test_every_round_draws_from_its_own_generator_that_is_no_actors() -> None:
    first, again = Run([delivery(), delivery()]), Run([delivery(), delivery()])
    first.trainer.run()
    again.trainer.run()
    assert first.draws == again.draws
    assert len(set(first.draws)) == 2
    other = Run([delivery()], seed=6)
    other.trainer.run()
    assert other.draws[0] != first.draws[0]
    resumed = Run([delivery()])
    resumed.progress.env_steps, resumed.progress.updates, resumed.progress.version = 100, 3, 1
    resumed.trainer.run()
    assert resumed.draws == [first.draws[1]]


def test_the_budget_ends_the_run_after_the_round_that_reaches_it() -> None:
    run = Run([delivery(100), delivery(100), delivery(100)], env_steps=150)
    assert run.trainer.run() == "budget"
    assert run.kinds() == ["publish", "update", "publish", "update", "publish"]
    assert run.contexts[-1].progress == 1.0


def test_evaluations_come_every_so_many_env_steps_and_solved_ends_the_run() -> None:
    run = Run(
        [delivery(60)] * 10,
        returns=[10.0, 20.0, 30.0],
        target_return=25.0,
        evaluation=EvaluationConfig(every_env_steps=100, episodes=7),
    )
    assert run.trainer.run() == "solved"
    evaluations = [entry for entry in run.log if entry[0] == "evaluation"]
    assert evaluations == [("evaluation", 10.0, 7), ("evaluation", 20.0, 7), ("evaluation", 30.0, 7)]
    assert run.progress.solved_at_env_steps == 300
    assert run.kinds().count("update") == 5  # evaluated at 120, 240, 300
    assert run.progress.times.evaluation_s == 4.5
    assert run.trainer.solved_unix_s is not None


def test_every_evaluation_is_a_fresh_one_and_belongs_to_its_version() -> None:
    run = Run([delivery(60)], returns=[10.0, 20.0])
    run.trainer.run()
    run.trainer.evaluate()
    run.trainer.evaluate()
    assert (run.progress.eval_return, run.progress.times.evaluation_s) == (20.0, 3.0)
    assert run.progress.evaluated_version == run.progress.version == 1


def test_only_an_evaluation_that_is_the_best_so_far_makes_a_checkpoint() -> None:
    config: dict[str, Any] = {"target_return": 99.0, "evaluation": EvaluationConfig(every_env_steps=10)}
    run = Run([delivery(10)] * 4, returns=[5.0, 4.0, 5.0, 6.0], **config)
    run.trainer.run()
    assert [kind for kind in run.kinds() if kind in ("evaluation", "save")] == [
        *("evaluation", "save", "evaluation", "evaluation", "evaluation", "save"),
    ]


def test_without_a_target_there_is_no_evaluation_on_the_way() -> None:
    run = Run([delivery(60)] * 5, evaluation=EvaluationConfig(every_env_steps=10))
    run.trainer.run()
    assert "evaluation" not in run.kinds()
    assert run.trainer.solved_unix_s is None


def test_a_resumed_run_evaluates_at_the_next_multiple() -> None:
    config: dict[str, Any] = {"target_return": 1.0, "evaluation": EvaluationConfig(every_env_steps=100)}
    run = Run([delivery(30)] * 2, returns=[0.0] * 9, **config)
    run.progress.env_steps, run.progress.next_evaluation = 250, 0
    again = Trainer(
        run.trainer._config,
        run.trainer._algorithm,
        run.trainer._network,
        run.trainer._flat,
        run.trainer._state,
        run.trainer._source,
        run.progress,
        run.trainer._recorder,
        run.trainer._evaluator,
        publish=lambda version, env_steps: run.log.append(("publish", version, env_steps)),
        before_publish=lambda version: None,
        save=lambda: None,
        save_every_s=60.0,
        status=Status,
    )
    run.trainer = again
    again.run()
    assert run.kinds() == ["publish", "update", "publish", "update", "publish", "evaluation"]


def test_checkpoints_come_every_so_many_seconds_once_there_was_an_update() -> None:
    run = Run([None] * 5 + [delivery()] * 6, checkpoint=CheckpointConfig(every_s=3.0))
    run.trainer.run()
    assert run.kinds() == [
        "publish",
        *["update", "publish"],
        "save",
        *["update", "publish"] * 3,
        "save",
        *["update", "publish"] * 2,
        "save",
    ]


def test_stop_ends_the_run_after_the_round_and_the_first_reason_wins() -> None:
    run = Run([delivery(100), delivery(100)], env_steps=50)
    publish = run.trainer._publish

    def stopping(version: int, env_steps: int) -> None:
        publish(version, env_steps)
        if version == 1:
            run.trainer.stop("signal SIGINT")

    run.trainer._publish = stopping
    assert run.trainer.run() == "signal SIGINT"
    assert run.kinds() == ["publish", "update", "publish"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_figure_that_is_not_finite_names_itself_and_the_actors(value: float) -> None:
    run = Run([delivery(slot=3)])
    run.result = Result(1, {"loss": 1.0, "kl": value})
    with pytest.raises(DivergedError, match=rf"round 0: kl = {value} is not finite \(unrolls of slots \[3\]\)"):
        run.trainer.run()
    assert run.kinds() == ["publish", "update"]  # nothing of it is published
    assert DivergedError.exit_code == 5


def test_waits_are_counted_and_the_loop_looks_up_every_half_second(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = iter([0.5, 0.25, 0.0])
    monkeypatch.setattr(trainer_module, "timed_next", lambda source, timeout_s: (source.next(timeout_s), next(waits)))
    run = Run([delivery(), None])
    run.trainer.run()
    assert run.progress.times.wait_data_s == 0.25  # not the wait for the first one
    assert trainer_module.POLL_S <= 0.5


def test_the_learners_generator_is_none_of_the_actors() -> None:
    run = Run([])
    learners = run.trainer._rng().bit_generator.state["state"]["key"]
    np.testing.assert_array_equal(learners, np.array([5, 1 << 32], np.uint64))
