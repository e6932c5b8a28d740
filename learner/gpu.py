"""How full and how busy the learner's GPU is, for the metrics. Nothing on a CPU."""

from __future__ import annotations

import logging

import torch

logger = logging.getLogger(__name__)
_silent: set[torch.device] = set()
"""GPUs that do not say how busy they are: they are asked once."""


def figures(device: torch.device | None) -> dict[str, float]:
    """By the names of core/metrics.py. How busy it is needs NVIDIA's `nvidia-ml-py` and is absent without."""
    if device is None or device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    found = {"gpu_memory_bytes": float(total - free), "gpu_memory_limit_bytes": float(total)}
    if device not in _silent:
        try:
            found["gpu_busy_share"] = torch.cuda.utilization(device) / 100
        except Exception as error:  # no such package, no driver, or errors of its own: a figure is no reason to end
            _silent.add(device)
            logger.info("how busy %s is stays unknown: %s", device, error)
    return found
