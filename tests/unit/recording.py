"""Small Minari datasets whose numbers say where they are from. Set MINARI_DATASETS_PATH first."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from core.datasets import minari
from core.specs import EnvSpec


def write_dataset(name: str, spec: EnvSpec, lengths: Sequence[int]) -> None:
    """Episode e of so many steps: observations 100 e + t, rewards t, actions by turns, the even ones terminate."""
    buffers = []
    for number, steps in enumerate(lengths):
        obs = np.arange(steps + 1, dtype=np.float32) + 100 * number
        last = np.arange(steps) == steps - 1
        buffers.append(
            importlib.import_module("minari.data_collector").EpisodeBuffer(
                observations=np.repeat(obs[:, None], spec.observation.size, 1),
                actions=spec.action.start + np.arange(steps) % spec.action.n,
                rewards=np.arange(steps, dtype=np.float64),
                terminations=last & (number % 2 == 0),
                truncations=last & (number % 2 == 1),
                infos=None,
            )
        )
    action: spaces.Space[Any] = spaces.Discrete(spec.action.n, start=spec.action.start)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        minari().create_dataset_from_buffers(
            name,
            buffers,
            observation_space=spaces.Box(-np.inf, np.inf, spec.observation.shape, np.float32),
            action_space=action,
            jpeg_encoding=False,
        )
