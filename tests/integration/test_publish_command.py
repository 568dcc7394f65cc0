"""`penstock publish` as a program: without the worker's extras, on a terminal, against a real broker."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import redis

from penstock_schemas.wire import QUEUE

#: The command line where only the client's dependencies can be imported.
CLIENT_ONLY = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"celery", "psycopg", "pydantic_settings", "sqlalchemy", "alembic", "psutil"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
from penstock_worker.cli import main
main()
"""
LINES = ["".join(f'{{"tenant": "a", "number": {number}}}\n' for number in range(1_200)), "bad\n"]


def start(broker_url: str, arguments: list[str], **given: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PENSTOCK_BROKER_URL": broker_url, "PENSTOCK_RECORDS": "tests.records"}
    command = [sys.executable, "-c", CLIENT_ONLY, "publish", *arguments]
    return subprocess.run(command, env=environment, text=True, timeout=120, check=False, **given)  # type: ignore[call-overload,no-any-return]


def test_a_pipe_of_lines_arrives(broker_url: str) -> None:
    done = start(broker_url, ["--type", "lab.pair", "--json"], input="".join(LINES), capture_output=True)
    assert done.stderr == "line 1201: not JSON: expected value at line 1 column 1\n"
    assert (done.returncode, json.loads(done.stdout)) == (1, {"published": 1_200, "bad": 1, "undelivered": 0})


def test_a_terminal_shows_the_progress(valkey_url: str, tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text(LINES[0])
    terminal, seen_by_it = pty.openpty()
    arguments = [str(tmp_path / "pairs.jsonl"), "--type", "lab.pair"]
    done = start(valkey_url, arguments, stdout=subprocess.PIPE, stderr=seen_by_it)
    os.close(seen_by_it)
    shown = os.read(terminal, 65_536).decode()
    os.close(terminal)
    assert (done.returncode, done.stdout) == (0, "1,200 published, 0 bad\n")
    assert "publishing" in shown
    with redis.Redis.from_url(valkey_url) as client:
        assert client.llen(QUEUE) >= 3


def test_a_broker_that_is_not_there_is_one_line() -> None:
    arguments = ["--type", "lab.pair", "--timeout-s", "2"]
    done = start("redis://127.0.0.1:1/0", arguments, input=LINES[0], capture_output=True)
    assert (done.returncode, done.stdout) == (2, "0 published, 0 bad\n")
    assert done.stderr.splitlines()[-1].startswith("penstock: gave up, 1,200 events are not delivered: Redis: ")
    assert "Traceback" not in done.stderr


def test_a_wrong_url_is_one_line() -> None:
    done = start("redis+cluster://host", [], input="", capture_output=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("penstock: redis+cluster://: Redis Cluster is not supported")
    assert len(done.stderr.splitlines()) == 1
