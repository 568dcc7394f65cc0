"""What can be said of the containers without an engine; the rest is tests/compose."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from penstock_worker.settings import Settings
from tests.compose import __main__ as trial

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yml").read_text())


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """Of a copy: an installation may be in this folder."""
    for name in ("secrets/make-secrets", "redis/users.acl", "rabbitmq/definitions.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(DEPLOY / name, tmp_path / name)
    make_secrets(tmp_path)
    return tmp_path / "secrets" / "files"


def make_secrets(deploy: Path) -> str:
    return subprocess.run(["sh", deploy / "secrets" / "make-secrets"], capture_output=True, text=True, check=True).stdout


def pins(lock: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9._-]+)(?:\[[a-z,]+\])?==([^ ;\\]+)", lock.read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize("name", ["requirements.lock", "build.lock"])
def test_the_image_has_the_versions_that_are_tested(name: str) -> None:
    tested, text = pins(ROOT / "requirements.lock"), (DEPLOY / name).read_text()
    installed = pins(DEPLOY / name)
    assert {package: tested.get(package) for package in installed} == installed
    assert "--hash=sha256:" in text
    assert re.findall(r"https?://|--(?:extra-)?index-url|--find-links", text) == []


def test_every_container_is_hardened_and_limited(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert {"mem_limit", "cpus", "pids_limit", "logging"} <= service.keys(), name
        assert "penstock:" in service["image"] or service["user"].split(":")[0] not in ("", "0"), name


def test_only_flower_has_a_port_and_a_way_out(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert {name: service["ports"] for name, service in services.items() if "ports" in service} == {
        "flower": ["127.0.0.1:${FLOWER_PORT:-5555}:5555"]
    }
    open_networks = {name for name, network in compose["networks"].items() if not network.get("internal")}
    assert open_networks == {"door"}
    assert [name for name, service in services.items() if "door" in service["networks"]] == ["flower"]


def test_a_worker_has_more_time_to_end_than_a_batch(compose: dict[str, Any]) -> None:
    limit_s = Settings.model_fields["batch_time_limit_s"].default
    for name in ("worker", "maintenance"):
        assert int(compose["services"][name]["stop_grace_period"].removesuffix("s")) >= limit_s + 30


def test_secrets_of_compose_are_those_that_are_made(compose: dict[str, Any], secrets: Path) -> None:
    named = {Path(secret["file"]).name for secret in compose["secrets"].values()}
    made = {file.name for file in secrets.iterdir()}
    assert made - named == {"broker_publisher_password"}  # of services
    assert named <= made
    for name, service in compose["services"].items():
        given = {f"/run/secrets/{secret}" for secret in service.get("secrets", ())}
        used = {value for key, value in service.get("environment", {}).items() if key.endswith(("_FILE", "__FILE"))}
        assert {value for value in used if value.startswith("/run/secrets/")} <= given, name


def test_secrets_are_random_stay_and_are_closed(secrets: Path) -> None:
    before = {file.name: file.read_text() for file in secrets.iterdir()}
    passwords = [text for name, text in before.items() if name.endswith("password")]
    assert len(set(passwords)) == len(passwords)
    assert min(map(len, passwords)) == 32
    assert secrets.stat().st_mode & 0o777 == 0o700
    assert make_secrets(secrets.parents[1]) == ""
    assert {file.name: file.read_text() for file in secrets.iterdir()} == before


def test_a_new_password_goes_to_the_broker_too(secrets: Path) -> None:
    (secrets / "broker_worker_password").unlink()
    made = [line.rpartition("/")[2] for line in make_secrets(secrets.parents[1]).splitlines()]
    assert made == ["broker_worker_password", "users.acl", "rabbitmq_definitions.json"]
    worker = (secrets / "broker_worker_password").read_text()
    assert f" >{worker} " in (secrets / "users.acl").read_text()
    assert f'"password": "{worker}"' in (secrets / "rabbitmq_definitions.json").read_text()
    assert "@" not in (secrets / "users.acl").read_text().replace("-@", "").replace("+@", "")


@pytest.mark.parametrize("name", ["redis.env", "rabbitmq.env"])
def test_an_environment_sets_what_compose_reads(name: str, compose: dict[str, Any]) -> None:
    text = (DEPLOY / "compose.yml").read_text()
    names = re.findall(r"^#?([A-Z_]+)=", (DEPLOY / name).read_text(), flags=re.MULTILINE)
    assert [each for each in names if f"${{{each}:-" not in text and not each.startswith("COMPOSE_")] == []
    (profiles,) = re.findall(r"^COMPOSE_PROFILES=(.*)$", (DEPLOY / name).read_text(), flags=re.MULTILINE)
    assert set(profiles.split(",")) <= {
        profile for service in compose["services"].values() for profile in service.get("profiles", ())
    }


def test_nothing_but_sources_gets_into_the_image() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    copied = re.findall(r"^COPY ((?!--from).*) \S+$", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert {f"!{source}" for words in copied for source in words.split()} == {line for line in lines if line.startswith("!")}


def test_secrets_are_not_committed() -> None:
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"deploy/.env", "deploy/secrets/files/"} <= set(ignored)


def test_the_trial_is_skipped_with_the_reason_where_no_engine_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent")
    monkeypatch.setattr("os.geteuid", lambda: 65534)
    monkeypatch.setattr("sys.argv", ["tests.compose"])
    monkeypatch.setattr(trial, "_hear_endings", lambda: None)  # signals are pytest's here
    assert trial.main() == 0
    assert capsys.readouterr().out.startswith("skipped: ")
