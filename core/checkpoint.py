"""Checkpoints: a folder of safetensors and JSON, written atomically, checked when read. No pickle.

    checkpoints/000000081920/   named by env_steps
        tensors.safetensors     "network" is the flat float32 vector of params and buffers; the rest belongs to `state`
        meta.json               algorithm, settings, environment, counters, sha256 of the tensors and of itself

Called by the learner (write) and by whoever loads a run. torch is imported by safetensors' torch half only when used.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import CheckpointError

FORMAT = 3
_TENSOR = "__tensor__"


@dataclass(frozen=True)
class Checkpoint:
    """What was read: `meta` (JSON), `tensors` by name, and `state`, the algorithm's nested state with its tensors.

    `resume` is the same for what else an exact resume needs; None: it was not made at a reset point.
    """

    path: Path
    meta: dict[str, Any]
    tensors: dict[str, Any]
    state: Any
    resume: Any = None


def write(
    folder: Path,
    meta: Mapping[str, Any],
    network: Any,
    state: Mapping[str, Any],
    resume: Mapping[str, Any] | None = None,
) -> Path:
    """Write `folder/<env_steps>` (tmp, fsync, rename, fsync) and return it. `network` is the flat float32 tensor.

    `state` and `resume` are nested mappings and lists of numbers, text and tensors. Raises CheckpointError; what was
    there before is untouched then.
    """
    from safetensors.torch import save

    tensors: dict[str, Any] = {"network": network}
    plain = _pack(state, "state", tensors)
    go_on = None if resume is None else _pack(resume, "resume", tensors)
    data = save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    document = {"format": FORMAT, "sha256": hashlib.sha256(data).hexdigest(), **meta, "state": plain, "resume": go_on}
    document = json.loads(json.dumps(document, allow_nan=False))  # as it will be read
    document["meta_sha256"] = _digest(document)
    path = folder / f"{int(meta['env_steps']):012d}"
    temporary = folder / f".tmp-{path.name}-{os.getpid()}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        _write_synced(temporary / "tensors.safetensors", data)
        _write_synced(temporary / "meta.json", json.dumps(document, indent=1, allow_nan=False).encode())
        _sync_folder(temporary)
        replaced = path.with_suffix(".old")  # still a checkpoint, should we die before the new one is in its place
        if path.exists():
            _delete(replaced)
            path.rename(replaced)
        temporary.rename(path)
        _sync_folder(folder)
        _delete(replaced)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(f"cannot write checkpoint {path}: {error}; the ones before it are untouched") from error
    return path


def read(path: Path) -> Checkpoint:
    """Read and verify one checkpoint. Raises CheckpointError."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        meta = _meta(path)
        data = (path / "tensors.safetensors").read_bytes()
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"cannot read checkpoint {path}: {error}") from error
    if meta.get("format") != FORMAT:
        raise CheckpointError(f"checkpoint {path} has format {meta.get('format')}, this Shoal reads {FORMAT}")
    if hashlib.sha256(data).hexdigest() != meta.get("sha256"):
        raise CheckpointError(f"checkpoint {path} is damaged: its sha256 does not match; use an older one")
    try:
        tensors = load(data)
        return Checkpoint(path, meta, tensors, _unpack(meta["state"], tensors), _unpack(meta.get("resume"), tensors))
    except KeyError as error:
        raise CheckpointError(f"checkpoint {path} is damaged: {error} is missing; use an older one") from error
    except (SafetensorError, TypeError, RecursionError) as error:  # its checksums fit: it was written like that
        raise CheckpointError(f"checkpoint {path} is no checkpoint of Shoal's: {error}; use an older one") from error


def all_in(folder: Path) -> list[Path]:
    """The complete checkpoints of a folder, oldest first."""
    found = {p.name: p for p in folder.glob("[0-9]*") if (p / "meta.json").is_file()}
    # N.old beside N: a process was killed when it had replaced it
    return [found[name] for name in sorted(found) if not (name.endswith(".old") and name.removesuffix(".old") in found)]


def latest(folder: Path) -> Path:
    """The newest one. Raises CheckpointError where there is none."""
    found = all_in(folder)
    if not found:
        raise CheckpointError(f"no checkpoint in {folder}")
    return found[-1]


def best(folder: Path) -> Path:
    """The one with the highest evaluation return; the newest of those, and the newest of all where none has any."""
    latest(folder)
    return max(all_in(folder), key=lambda p: (_eval_return(p), p.name))


def prune(folder: Path, keep: int) -> None:
    """Delete all but the `keep` newest, the best, and the two newest of reset points (one may turn out to be torn).

    What a killed process left half-written goes, too.
    """
    reset_points = [path for path in all_in(folder) if _reset_point(path) is not None]
    spared = {*all_in(folder)[-keep:], best(folder), *reset_points[-2:]}
    for path in (*all_in(folder), *folder.glob(".tmp-*")):
        if path not in spared:
            _delete(path)


def _meta(path: Path) -> dict[str, Any]:
    meta = json.loads((path / "meta.json").read_text())
    if not isinstance(meta, dict):
        raise ValueError("meta.json holds no object")
    said = {name: value for name, value in meta.items() if name != "meta_sha256"}
    if meta.get("format") == FORMAT and _digest(said) != meta.get("meta_sha256"):
        raise ValueError("meta.json is damaged: its sha256 does not match; use an older one")
    return meta


def _digest(meta: Mapping[str, Any]) -> str:
    """Of what it says, however it is spaced."""
    return hashlib.sha256(json.dumps(meta, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def reset_points(folder: Path) -> list[int]:
    """The versions of those made at reset points, oldest first."""
    versions = [_reset_point(path) for path in all_in(folder)]
    return [version for version in versions if version is not None]


def _reset_point(path: Path) -> int | None:
    """Its version; None: it was not made at one, or is damaged."""
    try:
        meta = _meta(path)
        return None if meta.get("resume") is None else int(meta["version"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _eval_return(path: Path) -> float:
    try:
        value = _meta(path).get("eval_return")
        return float("-inf") if value is None else float(value)
    except (OSError, ValueError, TypeError, RecursionError):
        return float("-inf")  # damaged: never the best


def _pack(value: Any, name: str, tensors: dict[str, Any]) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _pack(v, f"{name}/{k}", tensors) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_pack(v, f"{name}/{i}", tensors) for i, v in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    tensors[name] = value
    return {_TENSOR: name}


def _unpack(plain: Any, tensors: Mapping[str, Any]) -> Any:
    if isinstance(plain, dict):
        if plain.keys() == {_TENSOR}:
            return tensors[plain[_TENSOR]]
        return {k: _unpack(v, tensors) for k, v in plain.items()}
    return [_unpack(v, tensors) for v in plain] if isinstance(plain, list) else plain


def _delete(path: Path) -> None:
    (path / "meta.json").unlink(missing_ok=True)  # from here on it is no checkpoint, however far the rest gets
    shutil.rmtree(path, ignore_errors=True)


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
