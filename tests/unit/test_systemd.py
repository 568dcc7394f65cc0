"""The units in deploy/systemd: what they start exists, and systemd itself finds no fault with them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from penstock_worker import cli
from penstock_worker.settings import Settings, load_settings
from tests.unit.test_docs import problem_with

FOLDER = Path(__file__).parents[2] / "deploy" / "systemd"
COMMON = FOLDER / "penstock-.service.d" / "00-common.conf"
SERVICES = sorted(FOLDER.glob("*.service"))
PROGRAM = "/opt/penstock/bin/penstock"

service = pytest.mark.parametrize("service", SERVICES, ids=lambda path: path.name)


def values(file: Path, name: str) -> list[str]:
    """Every value of a directive."""
    return re.findall(rf"^{name}=(.*)$", file.read_text(), re.MULTILINE)


def environment(service: Path, credentials: Path) -> dict[str, str]:
    """What the service finds in its environment, in the order in which systemd reads it."""
    settings = [word for file in (service, COMMON) for line in values(file, "Environment") for word in line.split()]
    for file in (COMMON, service):
        for path in values(file, "EnvironmentFile"):
            settings += re.findall(r"^([A-Z_]+=.*)$", (FOLDER / "etc" / Path(path).name).read_text(), re.MULTILINE)
    found = dict(word.split("=", 1) for word in settings)
    return {name: value.replace("%d", str(credentials)).replace("%i", "1") for name, value in found.items()}


@service
def test_what_a_service_runs_exists(service: Path) -> None:
    (command,) = values(service, "ExecStart")
    program, *words = command.split()
    assert program == PROGRAM
    assert problem_with(typer.main.get_command(cli.app), words) is None


@service
def test_a_service_finds_its_settings_and_passwords(service: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [credential.partition(":")[0] for credential in values(service, "LoadCredential")]
    for name in names:
        (tmp_path / name).write_text("user:a-password\n" if name == "flower_login" else "a-password\n")
    found = environment(service, tmp_path)
    assert {value for name, value in found.items() if name.endswith("_FILE")} == {str(tmp_path / name) for name in names}
    known = {f"PENSTOCK_{name.upper()}" for name in Settings.model_fields}
    assert {name.removesuffix("_FILE") for name in found} - known == set()

    for name in [name for name in os.environ if name.startswith("PENSTOCK_")]:
        monkeypatch.delenv(name)
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    if "database_password" in names:
        assert ":a-password@127.0.0.1:5432/penstock" in settings.database
    if "broker_password" in names:
        assert ":a-password@127.0.0.1:6379/0" in settings.broker


def test_no_two_processes_of_a_host_have_the_same_port(tmp_path: Path) -> None:
    found = [environment(service, tmp_path) for service in SERVICES]
    ports = [value for one in found for name, value in one.items() if re.fullmatch("PENSTOCK_(PROBE|EXPORTER)_PORT", name)]
    assert sorted(ports) == ["9187", "9188", "9189", "9191"]


def test_a_worker_has_the_time_to_finish_its_batches() -> None:
    limit_s = Settings.model_fields["batch_time_limit_s"].default
    for name in ("penstock-worker@.service", "penstock-maintenance.service"):
        assert [int(value) > limit_s for value in values(FOLDER / name, "TimeoutStopSec")] == [True]
    assert values(COMMON, "KillMode") == ["mixed"]
    # What differs between units may not stand in the file that systemd reads after them.
    ours = set(re.findall(r"^([A-Z]\w+)=", COMMON.read_text(), re.MULTILINE)) - {"Environment", "EnvironmentFile"}
    assert [(path.name, name) for path in SERVICES for name in sorted(ours) if values(path, name) and name != "After"] == []


def test_a_mistake_in_the_settings_is_not_tried_again_and_again() -> None:
    assert values(COMMON, "RestartPreventExitStatus") == [str(cli._EXIT_MISTAKE)]
    restarts = {path.name: values(path, "Restart") for path in SERVICES}
    assert {name: restart for name, restart in restarts.items() if restart != ["always"]} == {
        "penstock-migrate.service": ["no"]
    }


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units as they would be installed, but with a program that this machine has."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    for file in tmp_path.glob("*.service"):
        file.write_text(file.read_text().replace(PROGRAM, sys.executable))
    return tmp_path


def analyze(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`systemd-analyze`, which finds the machine's own units behind ours."""
    return subprocess.run(
        ["systemd-analyze", *words],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_systemd_finds_no_fault(installed: Path) -> None:
    names = [path.name.replace("@.", "@1.") for path in SERVICES] + ["penstock.target"]
    done = analyze(installed, "verify", "--man=no", "--recursive-errors=no", *names)
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_finds_them_hardened(installed: Path) -> None:
    """An exposure of at most 1.5 of 10; one without the common file has above 9."""
    if "--offline" not in analyze(installed, "security", "--help").stdout:
        pytest.skip("this systemd-analyze cannot look at units that are not installed")
    told = {
        path.name: analyze(installed, "security", "--offline=yes", "--threshold=15", path.name.replace("@.", "@1."))
        for path in SERVICES
    }
    assert {name: done.stdout[-200:] + done.stderr for name, done in told.items() if done.returncode} == {}
