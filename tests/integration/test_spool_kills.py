"""Producers killed by SIGKILL with real brokers: what was on their disk arrives, sent by whoever comes next."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest

from penstock_producers import Producer
from penstock_producers.spool.listing import list_spools
from penstock_schemas.wire import event_id
from penstock_worker.maintenance.adopt import adopt_spools
from penstock_worker.settings import Settings
from tests.producing import eventually
from tests.servers.rabbitmq import RabbitServer
from tests.servers.valkey import ValkeyServer
from tests.spooling import read_events

#: Publishes without an end, and says after each `publish()` that it has returned; at the end of a line it waits for a word.
PROGRAM = """
import sys
from penstock_producers import Producer
from tests.records import Pair

producer = Producer(sys.argv[1], name="killed", durability=sys.argv[2], timeout_s=60)
first = producer.publish(Pair(tenant="a", number=0))
assert not sys.argv[4:] or producer.flush(60)
print(first.epoch, flush=True)
sys.stdin.readline()
for number in range(1, int(sys.argv[3])):
    producer.publish(Pair(tenant="a", number=number))
    print(number, flush=True)
sys.stdin.readline()
"""


class Publisher:
    """The program above, until it is killed."""

    def __init__(self, broker_url: str, durability: str, count: int, *flags: str) -> None:
        command = [sys.executable, "-c", PROGRAM, broker_url, durability, str(count), *flags]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self._told = self._process.stdout
        self.epoch = self._told.readline().decode().strip()
        assert self.epoch, "the program failed"

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def read(self, count: int) -> None:
        """Until this many events more were accepted."""
        for _ in range(count):
            assert self._told.readline()

    def kill(self) -> int:
        """How many events it had accepted for sure."""
        self._process.kill()
        rest = self._told.read().splitlines(keepends=True)
        self._process.wait(60)
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._told.close()
        return sum(line.endswith(b"\n") for line in rest)


@pytest.fixture
def publisher() -> Iterator[Callable[..., Publisher]]:
    made: list[Publisher] = []

    def start(broker_url: str, durability: str, count: int, *flags: str) -> Publisher:
        made.append(Publisher(broker_url, durability, count, *flags))
        return made[-1]

    yield start
    for one in made:
        one._process.kill()
        one._process.wait(60)


def on_disk(folder: Path) -> int:
    return sum(seen.events or 0 for seen in list_spools(folder))


def ids(epoch: str, count: int) -> set[str]:
    return {event_id(UUID(epoch), seq) for seq in range(count)}


def test_a_spilling_producer_killed_while_the_broker_is_away(
    broker_url: str, broker_server: ValkeyServer | RabbitServer, publisher: Callable[..., Publisher], spool_folder: Path
) -> None:
    killed = publisher(broker_url, "spill", 1_000, "flush")
    broker_server.stop()
    killed.go()
    killed.read(999)
    eventually(lambda: on_disk(spool_folder) == 999)
    killed.kill()
    broker_server.start()
    with Producer(broker_url, name="next") as producer:
        assert producer.sync(60)
        assert producer.status().adopted == 999
    assert set(read_events(broker_url)) == ids(killed.epoch, 1_000)
    assert on_disk(spool_folder) == 0


def test_a_spilling_producer_killed_while_the_broker_is_frozen(
    broker_url: str, broker_server: ValkeyServer | RabbitServer, publisher: Callable[..., Publisher], spool_folder: Path
) -> None:
    killed = publisher(broker_url, "spill", 700, "flush")
    broker_server.pause()
    try:
        killed.go()
        killed.read(699)
        # Its sender hangs in the broker for `timeout_s`, which is a minute.
        eventually(lambda: on_disk(spool_folder) == 699)
        killed.kill()
    finally:
        broker_server.resume()
    settings = Settings(broker_url=broker_url, spool_folder=spool_folder)
    assert adopt_spools(settings) == {"sent": 699, "left": 0, "error": None}
    assert adopt_spools(settings) == {"sent": 0, "left": 0}
    assert set(read_events(broker_url)) >= ids(killed.epoch, 700)


def test_a_journaling_producer_killed_at_any_moment(
    broker_url: str, publisher: Callable[..., Publisher], spool_folder: Path
) -> None:
    chance = random.Random(3)
    accepted: set[str] = set()
    for _ in range(3):
        killed = publisher(broker_url, "journal", 100_000)
        killed.go()
        read = chance.randrange(1, 400)
        killed.read(read)
        accepted |= ids(killed.epoch, 1 + read + killed.kill())
    with Producer(broker_url, name="next") as producer:
        assert producer.sync(60)
    assert set(read_events(broker_url)) >= accepted
    # Nobody has stored them yet: they stay on disk.
    assert on_disk(spool_folder) >= len(accepted)


def test_drain_sends_and_says_what_is_left(
    valkey_url: str, valkey_server: ValkeyServer, publisher: Callable[..., Publisher], spool_folder: Path
) -> None:
    broker_url, broker_server = valkey_url, valkey_server
    killed = publisher(broker_url, "spill", 50, "flush")
    broker_server.stop()
    killed.go()
    killed.read(49)
    eventually(lambda: on_disk(spool_folder) == 49)
    told = json.loads(penstock("list", "--json").stdout)
    assert [(file["state"], file["events"], file["producer"]) for file in told["files"]] == [("alive", 49, "killed")]
    killed.kill()
    away = penstock("drain", "--broker-url", broker_url, "--timeout", "0.5", "--json")
    left = json.loads(away.stdout)
    assert (away.returncode, left["sent"], left["left"], bool(left["error"])) == (1, 0, 49, True)
    assert "orphan" in penstock("list").stdout
    broker_server.start()
    done = penstock("drain", "--broker-url", broker_url)
    assert (done.returncode, done.stdout) == (0, "49 events sent, 0 left\n")
    assert penstock("list").stdout == f"nothing is spooled in {spool_folder}\n"
    assert set(read_events(broker_url)) == ids(killed.epoch, 50)


def test_drain_without_a_broker_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PENSTOCK_BROKER_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    done = penstock("drain")
    assert (done.returncode, done.stderr.count("\n"), "--broker-url" in done.stderr) == (2, 1, True)


def penstock(*words: str) -> subprocess.CompletedProcess[str]:
    program = "from penstock_worker.cli import main; main()"
    command = [sys.executable, "-c", program, "spool", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
