"""Spaces of every kind through packing and back, masks, wrappers, factories, lives, modules of the user's own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import shoal
from actors.unroller import Unroller
from core import atari, plugins
from core import envs as vector
from core.algorithms import REGISTRY, register
from core.algorithms.ppo import PPO
from core.errors import ConfigError
from core.packing import PackedEnvs, unpack
from core.spaces import action_of, observation_of
from core.specs import ArraySpec, EnvSpec
from core.types import Array, Rows, Step

NESTED = spaces.Dict(
    {
        "image": spaces.Box(0, 255, (2, 2), np.uint8),
        "inner": spaces.Dict({"speed": spaces.Box(-1, 1, (3,), np.float64), "gear": spaces.Discrete(5, start=1)}),
        "flags": spaces.MultiBinary(3),
        "place": spaces.MultiDiscrete([3, 4]),
        "pair": spaces.Tuple((spaces.Discrete(2), spaces.Box(0, 1, (), np.float32))),
    }
)


class Counting(gym.Env[Any, Any]):
    """Observes its step count in every part; episodes of four steps."""

    metadata: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, space: spaces.Space[Any] = NESTED, mask: str = "", scale: int = 1) -> None:
        self.observation_space, self.action_space = space, spaces.Discrete(4)
        self.count, self.mask, self.scale = 0, mask, scale

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = 0
        return self._obs(), self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        return self._obs(), float(self.count), self.count == 4, False, self._info()

    def _info(self) -> dict[str, Any]:
        legal = np.zeros(4, np.int8)
        legal[self.count % 4] = 1
        return {"action_mask": legal} if self.mask == "info" else {}

    def _obs(self) -> Any:
        n = self.count * self.scale
        if not isinstance(self.observation_space, spaces.Dict):
            return np.full(self.observation_space.shape or (), n, self.observation_space.dtype)
        if self.mask == "dict":
            return {"x": np.array([n], np.float32), "action_mask": np.array([1, 0, 0, self.count % 2], np.int8)}
        return {
            "image": np.full((2, 2), n, np.uint8),
            "inner": {"speed": np.full(3, n / 10), "gear": 1 + n % 5},
            "flags": np.array([n % 2, 1, 0], np.int8),
            "place": np.array([n % 3, n % 4]),
            "pair": (n % 2, np.float32(n / 10)),
        }


def one(**kwargs: Any) -> gym.Env[Any, Any]:
    return Counting(**kwargs)


def many(num_envs: int, autoreset: AutoresetMode = AutoresetMode.NEXT_STEP) -> Any:
    return SyncVectorEnv([Counting] * num_envs, autoreset_mode=autoreset)


HERE = "tests.unit.test_spaces"


def test_a_nested_observation_is_packed_and_unpacked_bit_for_bit() -> None:
    envs = vector.make(f"{HERE}:one", 3)
    spec = vector.spec_of("Nested", envs)
    assert isinstance(envs, PackedEnvs)
    assert spec.observation == ArraySpec((spec.parts[-1].offset + 8,), "uint8")
    assert [(p.name, p.array.dtype, p.n) for p in spec.parts] == [
        ("image", "uint8", 0),
        ("inner.speed", "float32", 0),
        ("inner.gear", "int64", 5),
        ("flags", "float32", 0),
        ("place.0", "int64", 3),
        ("place.1", "int64", 4),
        ("pair.0", "int64", 2),
        ("pair.1", "float32", 0),
    ] or [p.name for p in spec.parts] == sorted(p.name for p in spec.parts)
    envs.reset(seed=1)
    obs = envs.step(np.zeros(3, np.int64))[0]
    obs = envs.step(np.zeros(3, np.int64))[0]
    assert obs.shape == (3, *spec.observation.shape)
    assert obs.dtype == np.uint8
    parts = unpack(obs, spec.parts)
    assert parts["image"].tolist() == [[[2, 2], [2, 2]]] * 3
    np.testing.assert_allclose(parts["inner.speed"], 0.2)
    assert parts["inner.gear"].tolist() == [2, 2, 2]  # 1 + 2, from 0 on
    assert parts["flags"].tolist() == [[0, 1, 0]] * 3
    assert (parts["place.0"].tolist(), parts["place.1"].tolist(), parts["pair.0"].tolist()) == (
        [2] * 3,
        [2] * 3,
        [0] * 3,
    )
    assert EnvSpec.from_plain(spec.to_plain()) == spec
    envs.close()


def test_single_arrays_stay_as_they_are() -> None:
    box = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    assert observation_of("e", box) == (ArraySpec((4, 84, 84), "uint8"), ())
    array, (part,) = observation_of("e", spaces.Discrete(7))
    assert (array, part.name, part.n) == (ArraySpec((8,), "uint8"), "observation", 7)


@pytest.mark.parametrize("space", [spaces.Text(3), spaces.Dict({"a": spaces.Sequence(spaces.Discrete(2))})])
def test_other_observations_are_refused_with_what_to_do(space: Any) -> None:
    with pytest.raises(ConfigError, match=r"environment 'e' observes .* wrap the environment \(env_wrappers\)"):
        observation_of("e", space)


def test_several_discrete_actions_have_one_spec() -> None:
    action = action_of("e", spaces.MultiDiscrete([2, 3], start=[0, 5]))
    assert (action.n, action.nvec, action.starts, str(action)) == (5, (2, 3), (0, 5), "MultiDiscrete([2, 3])")
    spec = EnvSpec("e", ArraySpec((1,), "float32"), action)
    assert EnvSpec.from_plain(spec.to_plain()) == spec


@pytest.mark.parametrize("where", ["info", "dict"])
def test_a_mask_is_a_part_wherever_it_comes_from(where: str) -> None:
    space: Any = spaces.Box(0, 9, (1,), np.float32)
    if where == "dict":
        space = spaces.Dict({"x": space, "action_mask": spaces.Box(0, 1, (4,), np.int8)})
    envs = vector.make(f"{HERE}:one", 2, {"space": space, "mask": where})
    spec = vector.spec_of("Masked", envs)
    assert {p.name for p in spec.parts} == {"x" if where == "dict" else "observation", "action_mask"}
    envs.reset(seed=1)
    parts = unpack(envs.step(np.zeros(2, np.int64))[0], spec.parts)
    assert parts["action_mask"].tolist() == [[1, 0, 0, 1] if where == "dict" else [0, 1, 0, 0]] * 2
    envs.close()


def test_a_mask_of_another_size_is_refused() -> None:
    space = spaces.Dict({"x": spaces.Box(0, 9, (1,), np.float32), "action_mask": spaces.Box(0, 1, (3,), np.int8)})
    with pytest.raises(ConfigError, match=r"an action mask of \(3,\), its actions are Discrete\(4\)"):
        vector.make(f"{HERE}:one", 2, {"space": space})


def test_factories_make_single_environments_or_all_of_them() -> None:
    for name in ("one", "many"):
        envs = vector.make(f"{HERE}:{name}", 3)
        assert (envs.num_envs, envs.metadata["autoreset_mode"]) == (3, AutoresetMode.NEXT_STEP)
        envs.close()
    with pytest.raises(ConfigError, match="Shoal needs NEXT_STEP"):
        vector.make(f"{HERE}:many", 3, {"autoreset": AutoresetMode.SAME_STEP})
    with pytest.raises(ConfigError, match="unknown environment"):
        vector.make(f"{HERE}:nothing", 3)


def test_wrappers_wrap_each_single_environment_the_innermost_first() -> None:
    box = {"space": spaces.Box(0, 255, (2, 2), np.uint8), "scale": 3}
    envs = vector.make(f"{HERE}:one", 2, box, ["FlattenObservation", f"{HERE}:Doubled"])
    assert vector.spec_of("e", envs).observation.shape == (4,)
    envs.reset(seed=1)
    assert envs.step(np.zeros(2, np.int64))[0].tolist() == [[6] * 4] * 2
    envs.close()
    envs = vector.make("CartPole-v1", 2, None, [f"{HERE}:Doubled"])
    assert isinstance(envs, SyncVectorEnv)
    envs.close()
    with pytest.raises(ConfigError, match="there is no single one to wrap"):
        vector.make(f"{HERE}:many", 2, None, ["FlattenObservation"])
    with pytest.raises(ConfigError, match="there is no wrapper 'FlatenObservation': did you mean FlattenObservation"):
        vector.make("CartPole-v1", 2, None, ["FlatenObservation"])


class Doubled(gym.ObservationWrapper[Any, Any, Any]):
    """Twice the observation."""

    def observation(self, observation: Any) -> Any:
        return 2 * observation


# lives


class Lives(gym.vector.VectorEnv[Any, Any, Any]):
    """Two environments: the first loses a life at steps 2 and 4, the second ends at step 3."""

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self) -> None:
        self.num_envs, self.single_action_space = 2, spaces.Discrete(2)
        self.single_observation_space = spaces.Box(0, 9, (1,), np.float32)
        self.count = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.count = 0
        return np.zeros((2, 1), np.float32), {"lives": np.array([3, 1])}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.count += 1
        lives = np.array([3 - (self.count >= 2) - (self.count >= 4), 0 if self.count == 3 else 1])
        ended = np.array([False, self.count == 3])
        return np.full((2, 1), self.count, np.float32), np.ones(2), ended, np.zeros(2, bool), {"lives": lives}


def test_a_lost_life_has_discount_0_and_does_not_end_the_reported_episode() -> None:
    envs = atari.LivesTold(Lives())
    spec = EnvSpec("Lives-v0", ArraySpec((1,), "float32"), action_of("Lives-v0", spaces.Discrete(2)))
    unroller = Unroller(envs, spec, Rows(5), 1)

    def policy(obs: Array, memory: Any) -> Step:
        return Step(np.zeros(2, np.int64), {})

    columns, episodes = unroller.collect(policy)
    assert columns["discount"].T.tolist() == [[1, 0, 1, 0, 1], [1, 1, 0, 1, 1]]
    assert columns["valid"].T.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 1]]
    assert [e.length for e in episodes] == [3]


@pytest.mark.parametrize("name", ["reward_clipping", "episodic_life"])
def test_what_would_make_reported_returns_untrue_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"env_kwargs\.{name}: .*returns stay true"):
        vector.make("ALE/Pong-v5", 1, {name: True})


@pytest.mark.slow
def test_atari_gives_uint8_frames_true_rewards_and_lives() -> None:
    envs = vector.make("ALE/Breakout-v5", 2, {"stack_num": 2, "img_height": 80, "img_width": 80, "num_threads": 1})
    spec = vector.spec_of("ALE/Breakout-v5", envs)
    assert spec.observation == ArraySpec((2, 80, 80), "uint8")
    envs.reset(seed=1)
    rng, lost = np.random.default_rng(0), 0
    for _ in range(300):
        *_, info = envs.step(rng.integers(0, 4, 2))
        lost += int(info[atari.LIFE_LOST].sum())
    envs.close()
    assert lost >= 4


# the user's own


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    source = (
        "import shoal\nfrom tests.unit.test_spaces import Counting\nfrom core.algorithms.ppo import PPO\n"
        "class Own(PPO):\n    pass\n"
        "shoal.register.environment('Own-v7', Counting)\nshoal.register.algorithm('own_ppo', Own)\n"
    )
    (tmp_path / "own_things.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "own_things"
    sys.modules.pop("own_things", None)
    REGISTRY.pop("own_ppo", None)
    vector._FACTORIES.pop("Own-v7", None)


def test_a_module_of_the_users_registers_by_being_imported(own_module: str) -> None:
    plugins.import_modules([own_module])
    plugins.import_modules([own_module])
    envs = vector.make("Own-v7", 2)
    assert envs.num_envs == 2
    envs.close()
    assert "own_ppo" in REGISTRY


def test_names_that_are_taken_and_things_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="environment 'CartPole-v1': there is one of that name already"):
        shoal.register.environment("CartPole-v1", Counting)
    with pytest.raises(ConfigError, match="algorithm 'ppo': must be a Python name that no other algorithm has"):
        register("ppo", Counting)
    with pytest.raises(ConfigError, match="needs an attribute Config, a dataclass of its settings"):
        register("counting", Counting)
    register("ppo", PPO)  # the same thing again is no mistake


def test_a_module_that_cannot_be_imported_is_told_with_what_every_process_needs() -> None:
    with pytest.raises(
        ConfigError, match=r"imports: 'no_such_thing' cannot be imported: ModuleNotFoundError.*PYTHONPATH"
    ):
        plugins.import_modules(["no_such_thing", "os"])
