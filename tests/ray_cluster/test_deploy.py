"""The cluster files of deploy/ray: as far as they can be checked without a cloud."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from shoal import cli, settings

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]
FOLDER = Path(__file__).parents[2] / "deploy" / "ray"
VERSION = "2.60.0"


def kuberay() -> dict[str, Any]:
    documents = list(yaml.safe_load_all((FOLDER / "kuberay.yaml").read_text()))
    return {document["kind"]: document for document in documents}


def test_ray_up_takes_the_cluster() -> None:
    from ray.autoscaler._private.util import fillout_defaults, validate_config

    config = yaml.safe_load((FOLDER / "cluster.yaml").read_text())
    validate_config(fillout_defaults(config))
    with pytest.raises(Exception, match="Additional properties"):
        validate_config(fillout_defaults({**config, "max_wrokers": 3}))


def test_all_have_the_ray_that_is_tested() -> None:
    import ray

    assert ray.__version__ == VERSION
    assert kuberay()["RayJob"]["spec"]["rayClusterSpec"]["rayVersion"] == VERSION
    for file in (FOLDER / "cluster.yaml", FOLDER / "Dockerfile", FOLDER.parents[1] / "Makefile"):
        assert VERSION in file.read_text(), file


def test_the_job_on_kubernetes_is_a_run() -> None:
    job = kuberay()["RayJob"]["spec"]
    arguments = cli.parse(shlex.split(job["entrypoint"])[1:])
    flags = {name: getattr(arguments, name) for name in settings.FLAGS}
    assert settings.read(None, flags, arguments.set).actors == 8
    assert (arguments.launcher, arguments.resume) == ("ray", "auto")
    pod = job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    claims = {
        volume["name"]: volume["persistentVolumeClaim"]
        for volume in pod["volumes"]
        if "persistentVolumeClaim" in volume
    }
    claim = claims[mounts["/runs"]]["claimName"]
    assert claim == kuberay()["PersistentVolumeClaim"]["metadata"]["name"]
    assert arguments.run_dir.startswith("/runs/")
