"""Processes of the stack: started, watched, stopped, found again after a kill -9."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from penstock_worker.errors import ConfigurationError
from penstock_worker.stack.ports import Endpoint, find_free_port, is_port_free
from penstock_worker.stack.process import end_leftovers, is_alive
from penstock_worker.stack.runfile import end_recorded, hold_folder, record, write_privately
from penstock_worker.stack.server import EmbeddedServer
from penstock_worker.stack.supervisor import Supervisor, _Watched
from tests.servers.process import LocalProcess

WAITS = "import sys, time; print('ready', flush=True); time.sleep(600)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
PARENT = f"import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', {WAITS!r}]); child.wait()"


class Maker:
    """Makes processes and ends them with the test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.made: list[LocalProcess] = []

    def __call__(self, code: str, name: str = "it") -> LocalProcess:
        process = LocalProcess(
            name,
            [sys.executable, "-c", code],
            log=self._folder / f"{name}.log",
            cwd=self._folder,
            ready=lambda process: "ready" in process.recent_log(),
        )
        self.made.append(process)
        return process


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Maker]:
    maker = Maker(tmp_path)
    yield maker
    for process in maker.made:
        process.clean_up()


def test_a_program_that_ends_too_early_is_an_error_with_its_last_words(make: Maker) -> None:
    with pytest.raises(ConfigurationError, match=r"it ended with code 3: the port is taken \(all of it: .*it\.log\)"):
        make("print('one'); print('the port is taken'); raise SystemExit(3)").start()


def test_a_program_that_is_never_ready_is_ended(make: Maker) -> None:
    process = make("import time; time.sleep(600)")
    with pytest.raises(ConfigurationError, match="it did not answer within 0 s: it said nothing"):
        process.start(ready_within_s=0.3)
    assert not process.is_running


def test_last_words_are_of_the_last_start(make: Maker) -> None:
    process = make("print('ready'); import os, time; print(os.getpid(), flush=True); time.sleep(600)")
    process.start()
    process.wait_until(lambda: str(process.pid) in process.recent_log(), 60)
    process.restart()
    process.wait_until(lambda: process.last_words() == str(process.pid), 60)
    assert process.logs().count("ready") == 2


def test_what_does_not_stop_is_killed_with_all_it_started(make: Maker) -> None:
    process = make(STUBBORN)
    process.start()
    process.stop(within_s=0.2)
    assert process.exit_code == -signal.SIGKILL
    parent = make(PARENT, "parent")
    parent.start()
    family = parent.processes()
    parent.stop()
    assert (len(family), [one for one in family if is_alive(one)]) == (2, [])


def test_a_pause_freezes_the_children_too(make: Maker) -> None:
    parent = make(PARENT)
    parent.start()
    parent.pause()
    assert [process.status() for process in parent.processes()] == [psutil.STATUS_STOPPED] * 2
    parent.resume()
    assert psutil.STATUS_STOPPED not in {process.status() for process in parent.processes()}


def test_what_a_killed_run_recorded_is_ended_and_nothing_else(make: Maker, tmp_path: Path) -> None:
    left, other = make(WAITS, "left"), make(WAITS, "other")
    left.start()
    other.start()
    file = tmp_path / "run.json"
    record(file, [left])
    # The pid of `other` as that of a process long gone.
    entries = [*json.loads(file.read_text()), {"name": "gone", "pid": other.pid, "started_at": 1.0}]
    write_privately(file, json.dumps(entries))

    assert end_recorded(file) == ["left"]
    assert (is_alive_by_pid(left.pid), is_alive_by_pid(other.pid), file.exists()) == (False, True, False)
    assert end_recorded(file) == []


def test_a_broken_record_stops_nobody(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text('{"half of a')
    assert end_recorded(file) == []


def test_leftovers_are_known_by_program_and_folder(make: Maker, tmp_path: Path) -> None:
    process = make(WAITS)
    process.start()
    program = Path(psutil.Process(process.pid).exe())
    end_leftovers(program, tmp_path.parent)
    assert is_alive_by_pid(process.pid)
    end_leftovers(program, tmp_path)
    assert not is_alive_by_pid(process.pid)


def test_one_run_holds_a_folder(tmp_path: Path) -> None:
    refused = pytest.raises(ConfigurationError, match=rf"already runs in .* \(pid {os.getpid()}\)")
    with hold_folder(tmp_path), refused, hold_folder(tmp_path):
        pass
    with hold_folder(tmp_path):
        pass


def test_files_with_passwords_are_their_owners_only(tmp_path: Path) -> None:
    write_privately(tmp_path / "stack.json", "{}")
    Endpoint(1, "secret").remember(tmp_path / "endpoint.json")
    assert {file.name: oct(file.stat().st_mode & 0o777) for file in tmp_path.iterdir()} == {
        "stack.json": "0o600",
        "endpoint.json": "0o600",
    }


def test_an_endpoint_stays_while_its_port_is_free(tmp_path: Path) -> None:
    file = tmp_path / "endpoint.json"
    first = Endpoint.recall(file)
    first.remember(file)
    assert Endpoint.recall(file) == first
    with socket.create_server(("127.0.0.1", first.port)):
        assert not is_port_free(first.port)
        other = Endpoint.recall(file)
    assert (other.port != first.port, other.password) == (True, first.password)


class Listener(EmbeddedServer):
    """Listens on its port and does nothing else."""

    port_is_busy_words = "Address already in use"

    def command(self) -> Sequence[str]:
        code = f"import socket, time; s = socket.create_server(('127.0.0.1', {self.endpoint.port})); time.sleep(600)"
        return [sys.executable, "-c", code]

    def is_ready(self) -> bool:
        return not is_port_free(self.endpoint.port)


def test_a_port_that_is_taken_between_choice_and_start_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = find_free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = iter([taken.getsockname()[1], free])
        monkeypatch.setattr("penstock_worker.stack.ports.find_free_port", lambda: next(ports))
        monkeypatch.setattr(Listener, "is_ready", lambda self: self.endpoint.port == free and not is_port_free(free))
        server = Listener("listener", tmp_path, log=tmp_path / "listener.log")
        try:
            server.start()
            assert server.endpoint.port == free
        finally:
            server.kill()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_program_that_dies_again_and_again_is_started_ever_less_often(make: Maker) -> None:
    clock = Clock()
    said: list[str] = []
    restarts: list[float] = []
    supervisor = Supervisor(lambda: restarts.append(clock.now), said.append, clock)
    process = make("raise SystemExit(7)")
    watched = _Watched(process, started_at=0.0)
    process.launch()
    while clock.now < 80:
        wait_for_end(process)
        supervisor.look_at(watched)
        clock.now += 1
    assert [later - earlier for earlier, later in pairwise(restarts)] == [3, 5, 9, 17, 31]
    assert [line.partition(" (")[0] for line in said[:2]] == [
        "it ended with code 7, starts again in 1 s",
        "it ended with code 7, starts again in 2 s",
    ]


def test_a_program_that_lived_long_starts_again_soon(make: Maker) -> None:
    clock = Clock()
    supervisor = Supervisor(lambda: None, lambda _: None, clock)
    process = make(WAITS)
    process.start()
    watched = _Watched(process, started_at=0.0, delay_s=30)
    clock.now = 61
    supervisor.look_at(watched)
    assert watched.delay_s == 1


def is_alive_by_pid(pid: int) -> bool:
    return psutil.pid_exists(pid) and is_alive(psutil.Process(pid))


def wait_for_end(process: LocalProcess) -> None:
    process.wait_until(lambda: not process.is_running, 60)
