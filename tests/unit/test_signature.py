import json
import math
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np
import pytest

from core.algorithms import make
from core.algorithms.signature import item_signature, zeros
from core.specs import ActionSpec, ArraySpec, ColumnSpec, EnvSpec, Signature
from core.types import Columns, Task

IMAGE = ArraySpec((8, 8), "uint8")
DISCRETE = EnvSpec("Test-v0", IMAGE, ActionSpec("discrete", ArraySpec((), "int64"), n=3))
BOX_ACTION = ActionSpec("box", ArraySpec((2, 3), "float32"), low=(-1.0,) * 6, high=(1.0,) * 6)
UNROLL = {
    "obs": ColumnSpec(IMAGE, extra_rows=1),
    "action": ColumnSpec(ArraySpec((), "int64")),
    "reward": ColumnSpec(ArraySpec((), "float32")),
    "discount": ColumnSpec(ArraySpec((), "float32")),
    "valid": ColumnSpec(ArraySpec((), "uint8")),
}


def signature_of(algorithm: Any, spec: EnvSpec = DISCRETE) -> Signature:
    return item_signature(algorithm, algorithm.network(spec), spec, envs=4)


def test_dqn_sends_the_unroll() -> None:
    signature = signature_of(make("dqn", {"unroll_length": 16, "hidden": [8]}))
    assert signature == Signature(UNROLL, max_rows=16, max_envs=4)


def test_ppo_sends_the_log_prob_beside_it() -> None:
    signature = signature_of(make("ppo", {"unroll_length": 32, "hidden": [8]}))
    wanted = {**UNROLL, "log_prob": ColumnSpec(ArraySpec((), "float32"))}
    assert signature == Signature(wanted, max_rows=32, max_envs=4)


def test_box_actions_keep_their_shape() -> None:
    spec = EnvSpec("Test-v0", ArraySpec((3,), "float32"), BOX_ACTION)
    signature = signature_of(make("ppo", {"hidden": [8]}), spec)
    assert signature.columns["action"] == ColumnSpec(ArraySpec((2, 3), "float32"))
    assert signature.columns["log_prob"].array.shape == ()


def test_an_item_may_have_a_row_of_its_own() -> None:
    ppo: Any = make("ppo", {"hidden": [8]})

    def gradient(network: Any, unroll: Columns, task: Task) -> Columns:
        return {"gradient": np.zeros((1, 1, 123), np.float32), "staleness": np.zeros((1, 1), np.int64)}

    ppo.item = gradient
    wanted: Mapping[str, ColumnSpec] = {
        "gradient": ColumnSpec(ArraySpec((123,), "float32")),
        "staleness": ColumnSpec(ArraySpec((), "int64")),
    }
    assert signature_of(ppo) == Signature(wanted, max_rows=1, max_envs=1)


@pytest.mark.parametrize("name", ["ppo", "dqn"])
def test_zeros_are_columns_of_the_largest_size(name: str) -> None:
    columns = zeros(signature_of(make(name, {"unroll_length": 5, "hidden": [8]})))
    assert columns["obs"].shape == (6, 4, 8, 8)
    assert columns["action"].shape == (5, 4)
    assert sum(c.nbytes for c in columns.values()) == signature_of(make(name, {"unroll_length": 5})).nbytes(5, 4)


def test_an_unbounded_action_is_carried_as_plain_json() -> None:
    array = ArraySpec((3,), "float32")
    spec = EnvSpec(
        "Test-v0", array, ActionSpec("box", array, low=(-math.inf, -1.0, 0.0), high=(math.inf, 1.0, math.inf))
    )
    text = json.dumps(spec.to_plain(), allow_nan=False)
    assert EnvSpec.from_plain(json.loads(text)) == spec
    assert EnvSpec.from_plain(msgpack.unpackb(msgpack.packb(spec.to_plain()))) == spec


def test_a_columns_window_travels_and_is_all_of_it_where_it_is_not_said() -> None:
    memory = ColumnSpec(IMAGE, extra_rows=1, window_rows="first")
    signature = Signature({**UNROLL, "memory": memory}, 4, 2)
    assert Signature.from_plain(msgpack.unpackb(msgpack.packb(signature.to_plain()))) == signature
    plain = memory.to_plain()
    del plain["window_rows"]
    assert ColumnSpec.from_plain(plain) == ColumnSpec(IMAGE, extra_rows=1)
    with pytest.raises(ValueError, match="window_rows 'last'"):
        ColumnSpec.from_plain(plain | {"window_rows": "last"})
