"""deploy/kubernetes: every object fits the API's schema, and files that name each other mean the same."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

import shoal
from core import config as configuration
from core.algorithms import make
from core.config import Config
from core.errors import ShoalError, all_errors, another_life_may_help
from core.metrics import CATALOGUE
from core.security import NEEDED, ROLES, parse
from shoal import cli, settings
from shoal.replay_command import size_bytes
from tests.kustomize import FOLDER, Object, documents, render, template_of, workloads

BASE = render(FOLDER / "base")
ALL = [*render(FOLDER / "overlays" / "all"), *documents(FOLDER / "results.yaml")]
VERSIONS = ("1.31", kubernetes_validate.latest_version())
RUN_AS = 10001
METRICS_PORT = 9100
NOT_IN_THE_API = {"PodMonitor"}


def named(objects: list[Object], kind: str, name: str) -> Object:
    (found,) = [o for o in objects if (o["kind"], o["metadata"]["name"]) == (kind, name)]
    return found


def argument(container: Object, flag: str) -> str:
    (found,) = [a.partition("=")[2] for a in container["args"] if a.startswith(f"{flag}=")]
    return str(found)


def secrets() -> list[Object]:
    said = subprocess.run([FOLDER / "tokens.sh"], capture_output=True, text=True, check=True, timeout=30)
    return list(yaml.safe_load_all(said.stdout))


def run_settings() -> Config:
    (file,) = [o for o in documents(FOLDER / "base" / "run.yaml") if o["kind"] == "ConfigMap"]
    return configuration.from_plain(yaml.safe_load(file["data"]["run.yaml"]))


# ------------------------------------------------------------------------------------------------------- the schemas


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", ["base", "overlays/gpu", "overlays/all"])
def test_every_object_fits_the_api(overlay: str, version: str) -> None:
    checked = [o for o in render(FOLDER / overlay) if o["kind"] not in NOT_IN_THE_API]
    for found in [*checked, *documents(FOLDER / "results.yaml"), *secrets()]:
        kubernetes_validate.validate(found, version, strict=True)
    assert len(checked) >= 11


def test_a_misspelt_field_and_a_wrong_type_are_refused() -> None:
    for place, value in (("replica", 1), ("replicas", "one")):
        broken = {**named(BASE, "Deployment", "shoal-actor")}
        broken["spec"] = {**broken["spec"], place: value}
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


def test_every_file_is_in_a_kustomization_or_applied_by_hand() -> None:
    by_hand = {"results.yaml", "prometheus-adapter.yaml"}
    used = {FOLDER / name for name in by_hand}
    for plan in FOLDER.rglob("kustomization.yaml"):
        (found,) = documents(plan)
        names = [
            *found.get("resources", ()),
            *found.get("components", ()),
            *(p["path"] for p in found.get("patches", ())),
        ]
        for name in names:
            assert (plan.parent / name).exists(), f"{plan}: {name}"
        used |= {plan, *(plan.parent / name for name in names)}
    assert {file for file in FOLDER.rglob("*.yaml")} <= used
    assert len({(o["kind"], o["metadata"]["name"]) for o in ALL}) == len(ALL), "an object comes twice"


# ------------------------------------------------------------------------------------------------------- who is meant


def pods_of(objects: list[Object], labels: dict[str, str]) -> list[Object]:
    return [w for w, _, _ in workloads(objects) if labels.items() <= template_of(w)["metadata"]["labels"].items()]


def test_selectors_choose_the_pods_of_one_role() -> None:
    for found in ALL:
        spec, role = found.get("spec", {}), found["metadata"]["labels"].get("app.kubernetes.io/component")
        if found["kind"] in ("Deployment", "StatefulSet"):
            chosen = pods_of(ALL, spec["selector"]["matchLabels"])
        elif found["kind"] == "Service":
            chosen = pods_of(ALL, spec["selector"])
        elif found["kind"] == "NetworkPolicy":
            chosen = pods_of(ALL, spec["podSelector"]["matchLabels"])
        else:
            continue
        labels = [template_of(w)["metadata"]["labels"]["app.kubernetes.io/component"] for w in chosen]
        assert labels == [role], f"{found['kind']} {found['metadata']['name']}"
    monitor = named(ALL, "PodMonitor", "shoal")["spec"]
    roles = {w["kind"] for w in pods_of(ALL, monitor["selector"]["matchLabels"])}
    assert roles >= {"Job", "StatefulSet", "Deployment"}
    (relabeling,) = monitor["podMetricsEndpoints"][0]["relabelings"]
    component = "__meta_kubernetes_pod_label_app_kubernetes_io_component"
    assert relabeling == {"sourceLabels": [component], "targetLabel": "job"}, "the rules know jobs by their roles"
    for _, _, container in workloads(BASE):
        ports = {port["name"] for port in container["ports"]}
        assert {endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]} <= ports


def test_addresses_lead_to_the_services_that_listen_there() -> None:
    containers = {c["name"]: c for _, _, c in workloads(BASE)}
    for service, role, address in (
        ("shoal-learner", "learner", argument(containers["actor"], "--learner")),
        ("shoal-replay", "replay", argument(containers["learner"], "--replay-address")),
    ):
        (port,) = named(BASE, "Service", service)["spec"]["ports"]
        (target,) = [p["containerPort"] for p in containers[role]["ports"] if p["name"] == port["targetPort"]]
        host, _, number = address.rpartition(":")
        assert host.split(".")[-1] == service
        assert argument(containers[role], "--listen") == f"0.0.0.0:{target}"
        assert int(number) == port["port"] == target, "network policies see the pod's port"
    stateful = named(BASE, "StatefulSet", "shoal-replay")
    assert stateful["spec"]["serviceName"] == "shoal-replay"
    assert named(BASE, "Service", "shoal-replay")["spec"]["clusterIP"] == "None", "else a pod has no name"
    pod = argument(containers["learner"], "--replay-address").partition(".")[0]
    assert pod == f"{stateful['metadata']['name']}-0"
    assert stateful["spec"]["replicas"] == 1


def test_the_network_lets_through_what_is_used_and_nothing_else() -> None:
    allowed, asked = set(), set()
    for policy in [o for o in BASE if o["kind"] == "NetworkPolicy"]:
        role = policy["metadata"]["labels"]["app.kubernetes.io/component"]
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"], "what has no rule is refused"
        for rule in policy["spec"]["ingress"]:
            allowed |= {(_who(peer), role, p["port"]) for peer in rule["from"] for p in rule["ports"]}
        for rule in policy["spec"]["egress"]:
            for peer in rule.get("to", [{}]):
                asked |= {(role, _who(peer), p["port"]) for p in rule["ports"]}
    grpc = {("actor", "learner", 7400), ("actor", "replay", 7500), ("learner", "replay", 7500)}
    assert allowed == grpc | {("monitoring", role, METRICS_PORT) for role in ("learner", "replay", "actor")}
    assert asked == grpc | {("actor", "anybody", 53), ("learner", "anybody", 53)}


def _who(peer: Object) -> str:
    if "podSelector" in peer:
        return str(peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"])
    if "namespaceSelector" in peer:
        return str(peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"])
    return "anybody"


# ------------------------------------------------------------------------------------------------------- what runs


def test_every_command_line_is_one_that_shoal_takes() -> None:
    for workload, _, container in workloads(ALL):
        if workload["kind"] == "Pod":
            continue
        arguments = cli.parse(container["args"])
        assert arguments.name == container["name"]
        assert container["image"] == f"shoal-{container['name']}:{shoal.__version__}"
        with pytest.raises(ShoalError, match="unknown argument"):
            cli.parse([*container["args"], "--retired"])


def test_the_settings_can_be_used_and_fit_the_cluster(tmp_path: Path) -> None:
    job, pod, container = next(w for w in workloads(ALL) if w[0]["kind"] == "Job")
    config = run_settings()
    file = tmp_path / "run.yaml"
    file.write_text(named(ALL, "ConfigMap", "shoal-run")["data"]["run.yaml"])
    arguments = cli.parse(container["args"])
    flags = {name: getattr(arguments, name) for name in settings.FLAGS}
    read = settings.read(file, flags, arguments.set)
    make(read.algorithm, read.settings)
    assert (read.device, read.run_dir, arguments.resume) == ("cuda", "/runs/run", "auto")
    assert (config.network.metrics_host, config.network.metrics_port) == ("0.0.0.0", METRICS_PORT)
    assert config.learner_threads == int(container["resources"]["requests"]["cpu"])
    assert config.actors == named(ALL, "HorizontalPodAutoscaler", "shoal-actor")["spec"]["minReplicas"]
    assert pod["terminationGracePeriodSeconds"] >= 30, "the checkpoint is written within 10 s"
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never", "podFailurePolicy needs it"


def test_the_replay_servers_tables_fit_its_volume() -> None:
    stateful, _, container = next(w for w in workloads(ALL) if w[0]["kind"] == "StatefulSet")
    (claim,) = stateful["spec"]["volumeClaimTemplates"]
    size = claim["spec"]["resources"]["requests"]["storage"]
    assert size_bytes(argument(container, "--max-bytes")) <= 0.9 * size_bytes(size)
    (mount,) = [m for m in container["volumeMounts"] if m["name"] == claim["metadata"]["name"]]
    place = argument(container, "--data-dir")
    assert place.startswith(mount["mountPath"] + "/"), "a new volume has lost+found, and a data directory begins empty"


def test_a_learner_is_tried_again_where_the_launcher_would() -> None:
    (ignored, failed) = named(BASE, "Job", "shoal-learner")["spec"]["podFailurePolicy"]["rules"]
    assert [c["type"] for c in ignored["onPodConditions"]] == ["DisruptionTarget"]
    codes = {error.exit_code for error in all_errors(ShoalError)}
    assert set(failed["onExitCodes"]["values"]) == {code for code in codes if not another_life_may_help(code)}
    assert failed["onExitCodes"]["containerName"] == "learner"


def test_every_container_can_do_little_and_is_probed() -> None:
    for workload, pod, container in workloads(ALL):
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False, "variables of services begin with SHOAL_, too"
        own = pod["securityContext"]
        assert (own["runAsNonRoot"], own["runAsUser"], own["fsGroup"]) == (True, RUN_AS, RUN_AS)
        assert own["seccompProfile"] == {"type": "RuntimeDefault"}
        inner = container["securityContext"]
        assert inner["allowPrivilegeEscalation"] is False
        assert inner["readOnlyRootFilesystem"] is True
        assert inner["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]
        if workload["kind"] == "Pod":
            continue
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports["metrics"] == METRICS_PORT
        probes = {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
        for probe, path in probes.items():
            assert container[probe]["httpGet"] == {"path": path, "port": "metrics"}
        if workload["kind"] != "Job":  # of the learner they are settings
            assert argument(container, "--metrics-port") == str(METRICS_PORT)
            assert argument(container, "--metrics-host") == "0.0.0.0"
        start = container["startupProbe"]
        assert start["periodSeconds"] * start["failureThreshold"] >= 120, "torch is read from a cold disk"


def test_every_volume_is_there_and_mounted() -> None:
    for workload, pod, container in workloads(ALL):
        claims = {c["metadata"]["name"] for c in workload["spec"].get("volumeClaimTemplates", ())}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes.keys() | claims == {mount["name"] for mount in container["volumeMounts"]}
        for volume in volumes.values():
            if "persistentVolumeClaim" in volume:
                named(ALL, "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
            if "configMap" in volume:
                named(ALL, "ConfigMap", volume["configMap"]["name"])
            if "secret" in volume:
                assert volume["secret"]["defaultMode"] == 0o440, "the process's group may read it"
        places = [mount["mountPath"] for mount in container["volumeMounts"]]
        assert len(set(places)) == len(places)
        for variable in container.get("env", ()):
            assert any(f"{variable['value']}/".startswith(f"{place}/") for place in places), variable


def test_tokens_are_those_that_each_role_needs() -> None:
    made = {secret["metadata"]["name"]: secret for secret in secrets()}
    held = {}
    for workload, pod, container in workloads(BASE):
        (volume,) = [v for v in pod["volumes"] if "secret" in v]
        (mount,) = [m for m in container["volumeMounts"] if m["name"] == volume["name"]]
        (variable,) = [v["value"] for v in container["env"] if v["name"] == "SHOAL_TOKEN_FILE"]
        folder, _, key = variable.rpartition("/")
        assert folder == mount["mountPath"], workload["kind"]
        held[container["name"]] = parse(made[volume["secret"]["secretName"]]["stringData"][key], key)
    assert {token.role for token in held["learner"]} == set(ROLES) == {token.role for token in held["replay"]}
    assert [token.role for token in held["actor"]] == ["actor"] == [NEEDED["Join"]]
    assert held["actor"][0] in held["learner"]
    assert held["actor"] != parse(
        {s["metadata"]["name"]: s for s in secrets()}["shoal-actor-tokens"]["stringData"]["tokens"], "again"
    )


# ------------------------------------------------------------------------------------------------------- the autoscaler


def law() -> tuple[float, int, int]:
    spec = named(BASE, "HorizontalPodAutoscaler", "shoal-actor")["spec"]
    assert spec["scaleTargetRef"]["kind"] == "Deployment"
    assert "replicas" not in named(BASE, "Deployment", spec["scaleTargetRef"]["name"])["spec"], (
        "apply would set it back"
    )
    (metric,) = spec["metrics"]
    (rule,) = documents(FOLDER / "prometheus-adapter.yaml")[0]["rules"]["external"]
    assert metric["external"]["metric"]["name"] == rule["name"]["as"]
    series = rule["seriesQuery"].partition("{")[0]
    assert CATALOGUE[series.removeprefix("shoal_")].kind == "gauge"
    assert rule["metricsQuery"].startswith("1 / clamp_min(1 - avg(avg_over_time(<<.Series>>{<<.LabelMatchers>>}")
    assert rule["metricsQuery"].endswith(", 0.05)")
    milli = metric["external"]["target"]["value"]
    assert milli.endswith("m")
    return int(milli[:-1]) / 1000, spec["minReplicas"], spec["maxReplicas"]


@pytest.mark.parametrize("enough", [0.5, 3.0, 7.3, 30.0, 1000.0])
def test_the_autoscaler_settles_where_the_learner_waits_a_fifth_of_its_time(enough: float) -> None:
    """`enough` actors keep the learner busy all the time; fewer, in proportion."""
    target, least, most = law()
    actors, seen = least, []
    for _ in range(60):
        busy = min(1.0, actors / enough)
        ratio = 1 / max(busy, 0.05) / target
        wanted = actors if abs(ratio - 1) <= 0.1 else math.ceil(ratio * actors)  # as Kubernetes computes it
        actors = max(least, min(most, 2 * actors, wanted))
        seen.append(actors)
    assert len(set(seen[-10:])) == 1, f"it swings: {seen}"
    expected = max(least, min(most, enough / target))
    assert abs(actors - expected) <= max(1.0, 0.13 * expected)
