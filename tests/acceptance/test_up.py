"""`penstock up` as a person runs it: as a process, in a folder, ended by signals."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request

import psutil
import psycopg
import pytest
import redis

from penstock_worker.maintenance.jobs import all_jobs
from penstock_worker.settings import Settings
from penstock_worker.stack.process import is_alive
from tests.servers.process import LocalProcess

pytestmark = pytest.mark.acceptance

PENSTOCK = (sys.executable, "-m", "penstock_worker")


class Up(LocalProcess):
    """`penstock up` in one folder."""

    def __init__(self, folder: Path, prefix: tuple[str, ...] = ()) -> None:
        self.folder = folder
        super().__init__(
            "penstock up",
            [*prefix, *PENSTOCK, "up"],
            log=folder / "up.txt",
            env={"HOME": str(folder), "PYTHONUNBUFFERED": "1"},
            cwd=folder,
            ready=lambda up: "Ctrl-C stops it" in up.recent_log(),
        )

    @property
    def stack(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads((self.folder / ".penstock" / "stack.json").read_text())
        return answer

    def children(self) -> list[psutil.Process]:
        return self.processes()[1:]

    def interrupt(self) -> int:
        """Press Ctrl-C and wait for the end; returns the exit code."""
        self.send_signal(signal.SIGINT)
        assert self._process is not None
        return self._process.wait(120)


@pytest.fixture(scope="module", autouse=True)
def without_settings() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.startswith("PENSTOCK_") and name != "PENSTOCK_SPOOL_FOLDER"]:
            environment.delenv(name)
        yield


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    with_cleanup = Up(tmp_path)
    try:
        yield with_cleanup
    finally:
        with_cleanup.clean_up()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One that runs already, for tests that do not end it; its jobs come as often as beat looks."""
    up = Up(tmp_path_factory.mktemp("running"))
    up._env |= {f"PENSTOCK_{name.upper()}": "1" for name in Settings.model_fields if name.endswith("_every_s")}
    try:
        up.start()
        yield up
    finally:
        up.clean_up()


def test_what_is_stored_stays_through_a_kill_9_and_through_ctrl_c(up: Up) -> None:
    """Three runs in one folder; the second ends what the killed first one has left."""
    up.start()
    first = up.stack
    assert set(first["pids"]) == {"worker", "maintenance", "beat", "flower", "PostgreSQL", "Valkey"}
    publish(up.folder, '{"session_id": "s-1", "status": "running"}')
    wait_for(lambda: stored_sessions(first["database_url"]) == ["s-1"])
    orphans = up.children()
    up.kill()
    assert len([process for process in orphans if is_alive(process)]) >= 5

    up.start()
    assert [process.as_dict(["name", "ppid", "cmdline", "status"]) for process in orphans if is_alive(process)] == []
    assert "ended what a killed run had left: worker, maintenance, beat, flower, PostgreSQL, Valkey" in up.recent_log()
    publish(up.folder, '{"session_id": "s-2"}')
    wait_for(lambda: stored_sessions(up.stack["database_url"]) == ["s-1", "s-2"])
    family = up.children()
    assert up.interrupt() == 0
    assert [process for process in family if is_alive(process)] == []
    assert not (up.folder / ".penstock" / "stack.json").exists()

    up.start()
    assert {name: up.stack[name] for name in ("broker_url", "database_url")} == {
        name: first[name] for name in ("broker_url", "database_url")
    }
    assert stored_sessions(up.stack["database_url"]) == ["s-1", "s-2"]
    assert up.interrupt() == 0


def owners_of(processes: Iterable[psutil.Process]) -> set[int]:
    owners = set()
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # PostgreSQL's come and go
            owners.add(process.uids().real)
    return owners


def test_two_folders_run_at_once_one_as_an_ordinary_user(up: Up, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = Up(tmp_path_factory.mktemp("other"), as_ordinary_user())
    if os.geteuid() == 0:
        shutil.chown(other.folder, "nobody")
    try:
        up.launch()
        other.launch()
        up.wait_ready()
        other.wait_ready()
        for one in (up, other):
            publish(one.folder, json.dumps({"session_id": one.folder.name}))
        for one in (up, other):
            wait_for(lambda one=one: stored_sessions(one.stack["database_url"]) == [one.folder.name])
        owners = owners_of(other.processes())
        assert 0 not in owners
        assert (up.interrupt(), other.interrupt()) == (0, 0)
    finally:
        other.clean_up()


def test_a_second_run_in_the_folder_is_refused_and_a_dead_worker_starts_again(running: Up) -> None:
    up = running
    refused = run(up.folder, "up")
    assert (refused.returncode, one_line(refused.stderr)) == (
        2,
        f"penstock: `penstock up` already runs in {up.folder} (pid {up.pid}): stop it first",
    )

    worker = up.stack["pids"]["worker"]
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: up.stack["pids"].get("worker", worker) != worker)
    assert "worker ended with code -9, starts again in 1 s" in up.recent_log()
    publish(up.folder, '{"session_id": "after a restart"}')
    wait_for(lambda: "after a restart" in stored_sessions(up.stack["database_url"]))


def test_every_job_is_scheduled_and_the_frequent_ones_have_run(running: Up) -> None:
    listed = json.loads(run(running.folder, "schedule", "list", "--json", **running._env).stdout)
    jobs = all_jobs(Settings.model_validate({name: 1 for name in Settings.model_fields if name.endswith("_every_s")}))
    assert {row["name"] for row in listed["rows"] if row["is_enabled"] and row["trouble"] is None} >= set(jobs)
    assert [row["name"] for row in listed["rows"] if row["next_run"] is None] == []
    assert [beat["leads"] for beat in listed["beats"]] == [True]

    frequent = {job.name for job in jobs.values() if job.every_s == 1}
    assert frequent >= {"flush", "audit", "adopt", "held", "retention", "recovery", "disk"}
    wait_for(lambda: {name for name, state, by in runs(running) if (state, by) == ("done", "beat")} >= frequent)

    assert {name: state for name, state, _ in runs(running) if state not in ("done", "running", "skipped")} == {}
    logs = {name: (running.folder / ".penstock" / "log" / f"{name}.log").read_text() for name in ("worker", "maintenance")}
    assert [name for name, log in logs.items() if "Task penstock.maintain." in log] == ["maintenance"]


def runs(up: Up) -> list[tuple[str, str, str]]:
    """Job, state and who started it, of every run."""
    with psycopg.connect(up.stack["database_url"]) as connection:
        return list(connection.execute("SELECT job, state, started_by FROM penstock.maintenance_runs"))


def test_flower_shows_itself_to_those_who_have_the_printed_address(running: Up) -> None:
    url = urlsplit(running.stack["flower_url"])
    assert url.geturl() in running.recent_log()
    address = f"http://{url.hostname}:{url.port}/api/workers"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(address, timeout=60)
    login = base64.b64encode(f"{url.username}:{url.password}".encode()).decode()
    with urllib.request.urlopen(Request(address, headers={"Authorization": f"Basic {login}"}), timeout=60) as page:
        assert page.status == 200


def test_given_urls_are_used_and_no_server_is_started(up: Up, empty_database_url: str, valkey_url: str) -> None:
    up._env |= {"PENSTOCK_DATABASE_URL": empty_database_url, "PENSTOCK_BROKER_URL": valkey_url}
    up.start()
    assert set(up.stack["pids"]) == {"worker", "maintenance", "beat", "flower"}
    assert up.stack["database_url"] == empty_database_url
    assert valkey_url not in up.recent_log()
    publish(up.folder, '{"session_id": "s-1"}')
    wait_for(lambda: stored_sessions(empty_database_url) == ["s-1"])
    assert up.interrupt() == 0
    with redis.Redis.from_url(valkey_url) as client:
        assert client.ping()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"PENSTOCK_DATABASE_URL": "postgresql://nobody:secret@127.0.0.1:1/x"}, "the database cannot be reached: "),
        ({"PENSTOCK_DATABASE_URL": "mysql://127.0.0.1/x"}, "PENSTOCK_DATABASE_URL: must begin with postgresql://"),
        ({"PENSTOCK_BROKER_URL": "redis://127.0.0.1:1/0"}, "the broker cannot be reached: "),
        ({"PENSTOCK_BROKER_URL": "amqp://guest:secret@127.0.0.1:1//"}, "the broker cannot be reached: "),
        ({"PENSTOCK_BROKER_URL": "http://127.0.0.1"}, "PENSTOCK_BROKER_URL: must begin with redis://"),
        ({"PENSTOCK_FLOWER_PORT": "{busy}"}, "port {busy} for Flower is busy: set PENSTOCK_FLOWER_PORT to another one"),
        ({"PENSTOCK_RECORDS": "no_such_module"}, "no_such_module"),
    ],
)
def test_what_cannot_work_is_one_line(
    settings: dict[str, str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = taken.getsockname()[1]
        for name, value in settings.items():
            monkeypatch.setenv(name, value.format(busy=busy))
        done = run(tmp_path, "up")
    assert (done.returncode, says.format(busy=busy) in one_line(done.stderr), "secret" in done.stderr) == (2, True, False)
    assert [process for process in psutil.process_iter(["cwd"]) if (process.info["cwd"] or "").startswith(str(tmp_path))] == []


def as_ordinary_user() -> tuple[str, ...]:
    """
    What runs a command as `nobody` where we are root.

    The Python that runs the tests may lie in a folder of root's, so it keeps the right to pass by permissions; what programs do
    as root and what they do otherwise depends on the user alone.
    """
    if os.geteuid() != 0:
        return ()
    words = ["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    return ("setpriv", *words, "--")


def run(folder: Path, *words: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    command, env = [*PENSTOCK, *words], {**os.environ, **environment}
    return subprocess.run(command, cwd=folder, env=env, input=stdin, capture_output=True, text=True, timeout=120, check=False)


def publish(folder: Path, session: str) -> None:
    """A session through the command line, to the broker of the stack that runs in this folder."""
    done = run(folder, "publish", "--type", "translation.session", "-", stdin=session + "\n")
    assert done.returncode == 0, done.stderr


def stored_sessions(database_url: str) -> list[str]:
    with psycopg.connect(database_url) as connection:
        return [key for (key,) in connection.execute("SELECT session_id FROM translation.sessions ORDER BY 1")]


def one_line(text: str) -> str:
    assert text.count("\n") == 1, text
    return text.strip()


def wait_for(holds: Any, within_s: float = 120) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)
