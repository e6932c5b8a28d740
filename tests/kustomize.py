"""What `kubectl kustomize` would print, as far as deploy/kubernetes uses it: resources, components, JSON patches."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from shoal.processes import HOME

FOLDER = HOME / "deploy" / "kubernetes"
KNOWN = {"apiVersion", "kind", "resources", "components", "patches"}
Object = dict[str, Any]


def documents(file: Path) -> list[Object]:
    """The objects of one file."""
    return [found for found in yaml.safe_load_all(file.read_text(encoding="utf-8")) if found is not None]


def render(folder: Path, into: list[Object] | None = None) -> list[Object]:
    """All objects of a kustomization, patched; a component's patches meet the objects that are there `into`."""
    (plan,) = documents(folder / "kustomization.yaml")
    assert set(plan) <= KNOWN, f"{folder}: this reader does not know {set(plan) - KNOWN}"
    objects = [] if into is None else into
    for name in plan.get("resources", ()):
        path = folder / name
        objects += render(path) if path.is_dir() else documents(path)
    for name in plan.get("components", ()):
        render(folder / name, objects)
    for patch in plan.get("patches", ()):
        target = patch["target"]
        (chosen,) = [o for o in objects if (o["kind"], o["metadata"]["name"]) == (target["kind"], target["name"])]
        _apply(chosen, documents(folder / patch["path"])[0])
    return copy.deepcopy(objects)


def _apply(document: Any, operations: Any) -> None:
    """Those of RFC 6902 that are used here: `add`, into a mapping or at a list's end."""
    for operation in operations:
        *path, last = [part.replace("~1", "/") for part in operation["path"].split("/")[1:]]
        place = document
        for part in path:
            place = place[int(part)] if isinstance(place, list) else place[part]
        assert operation["op"] == "add", operation
        if isinstance(place, list):
            assert last == "-", operation
            place.append(copy.deepcopy(operation["value"]))
        else:
            assert last not in place, f"{operation} would replace {place[last]!r}"
            place[last] = copy.deepcopy(operation["value"])


def template_of(workload: Object) -> Object:
    """A workload's pod, or the pod itself, as {metadata, spec}."""
    found: Object = workload if workload["kind"] == "Pod" else workload["spec"]["template"]
    return found


def workloads(objects: list[Object]) -> Iterator[tuple[Object, Object, Object]]:
    """Workload, pod spec and its one container, of everything that runs."""
    for workload in objects:
        if workload["kind"] in ("Job", "StatefulSet", "Deployment", "Pod"):
            pod = template_of(workload)["spec"]
            (container,) = pod["containers"]
            yield workload, pod, container
