"""No password is told: by commands that cannot connect, are refused, or are given a URL that cannot be read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from penstock_producers import Producer
from tests.commands import penstock_here
from tests.producing import eventually
from tests.records import Pair
from tests.servers.databases import PostgresServer
from tests.servers.rabbitmq import RabbitServer
from tests.servers.valkey import ValkeyServer

MARK = "MARKEDSECRET"

#: Each with the arguments that it cannot do without. `worker`, `beat` and `flower` become other programs, which is noted here.
COMMANDS: list[Sequence[str]] = [
    ("config", "show"),
    ("config", "check"),
    ("worker",),
    ("beat",),
    ("flower",),
    ("up",),
    ("migrate", "up"),
    ("migrate", "status"),
    ("publish", "--timeout-s", "0.1"),
    ("spool", "drain", "--timeout-s", "0.1"),
    ("status",),
    ("health",),
    ("flush",),
    ("audit",),
    ("trace", "translation.task", "x"),
    ("dead-letters", "list"),
    ("dead-letters", "replay", "--all"),
    ("retention", "plan"),
    ("recovery", "list"),
    ("export-person", "ann"),
    ("backup",),
    ("backups",),
    ("verify",),
    ("restore", "--yes"),
    ("maintenance", "runs"),
    ("maintenance", "run", "audit"),
    ("schedule", "list"),
    ("dump", "translation.task"),
    ("vacuum",),
    ("disk",),
]


@pytest.fixture(autouse=True)
def becomes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A command that would become another program prints what anybody on the machine could read of it: its command line."""

    def become(program: str, words: Sequence[str], _environment: Any) -> None:
        print(program, *words)
        raise SystemExit(0)

    monkeypatch.setattr(os, "execve", become)
    monkeypatch.chdir(tmp_path)


def told(words: Sequence[str], **environment: str) -> str:
    """All that a command prints; one that ends in a traceback is a bug of its own."""
    done = penstock_here(*words, **environment)
    text = done.stdout + done.stderr
    assert "Traceback" not in text, words
    return text


def leaks(database_url: str, broker_url: str, commands: Sequence[Sequence[str]] = COMMANDS, **more: str) -> dict[str, str]:
    """What commands print that has the mark in it."""
    environment = {
        "PENSTOCK_DATABASE_URL": database_url,
        "PENSTOCK_BROKER_URL": broker_url,
        "PENSTOCK_CONNECT_TIMEOUT_S": "0.2",
        **more,
    }
    said = {" ".join(words): told(words, **environment) for words in commands}
    assert any(said.values())
    return {name: text for name, text in said.items() if MARK in text}


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_nobody_is_there(scheme: str) -> None:
    assert leaks(f"postgresql://ann:{MARK}@127.0.0.1:1/d?sslpassword={MARK}", f"{scheme}://ann:{MARK}@127.0.0.1:1/0") == {}


FEW: list[Sequence[str]] = [("config", "show"), ("config", "check"), ("worker",), ("status",), ("publish",), ("migrate", "up")]


@pytest.mark.parametrize(
    "secret", [f"{MARK}%zz", f"{MARK}/a", f"a/{MARK}", f"{MARK}@x", f"x:{MARK}", f"{MARK}#x", f"x?{MARK}", f"[{MARK}"]
)
def test_a_url_with_a_password_that_should_be_escaped(secret: str) -> None:
    for scheme in ("redis", "amqps"):
        assert leaks(f"postgresql://ann:{secret}@127.0.0.1:1/d", f"{scheme}://ann:{secret}@127.0.0.1:1/0", FEW) == {}


def test_given_twice() -> None:
    urls = f"postgresql://ann:{MARK}@127.0.0.1:1/d", f"redis://ann:{MARK}@127.0.0.1:1/0"
    assert leaks(*urls, FEW, PENSTOCK_BROKER_PASSWORD=MARK, PENSTOCK_DATABASE_PASSWORD=MARK) == {}


@pytest.fixture(params=["redis", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def refusing(request: pytest.FixtureRequest, postgres_server: PostgresServer) -> tuple[str, str]:
    """URLs of servers that are there, with a wrong password."""
    database = f"postgresql://penstock:{MARK}@127.0.0.1:{postgres_server.endpoint.port}/penstock"
    if request.param == "redis":
        valkey: ValkeyServer = request.getfixturevalue("valkey_server")
        return database, f"redis://:{MARK}@127.0.0.1:{valkey.endpoint.port}/0"
    rabbitmq: RabbitServer = request.getfixturevalue("rabbitmq_server")
    return database, f"amqp://guest:{MARK}@127.0.0.1:{rabbitmq.port}//"


def test_a_wrong_password(refusing: tuple[str, str]) -> None:
    few: list[Sequence[str]] = [*FEW[:-2], ("publish", "--timeout-s", "0.2"), ("flush",), ("audit",), ("backup",)]
    assert leaks(*refusing, few) == {}
    with Producer(refusing[1], durability="memory", linger_s=0, exit_deadline_s=0) as producer:
        producer.publish(Pair(tenant="a", number=1))
        eventually(lambda: producer.status().last_error)
        assert MARK not in repr(producer.status())


def test_the_mark_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from penstock_worker.stack import checks

    monkeypatch.setattr(checks, "hide_password", lambda url: url)
    url = f"redis://:{MARK}@127.0.0.1:1/0"
    assert list(leaks("postgresql://127.0.0.1:1/d", url, [("config", "check")])) == ["config check"]
    assert urlsplit(url).password == MARK


def test_a_folder_of_up_is_its_owners(tmp_path: Path) -> None:
    """What `penstock up` writes with addresses in it, others cannot read."""
    from penstock_worker.stack.runfile import write_privately

    write_privately(tmp_path / "stack.json", MARK)
    assert (tmp_path / "stack.json").stat().st_mode & 0o777 == 0o600
