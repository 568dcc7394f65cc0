"""
A producer at 5,000 events a second whose broker goes away: nothing slows down, nothing grows without bound, nothing is missing.

The broker is away for `PENSTOCK_AWAY_S` seconds, few by default; for the full minute and its figures:

    PENSTOCK_AWAY_S=60 make test ARGS="-n 0 -s tests/acceptance/test_broker_away.py"

`PENSTOCK_AWAY_JSON=figures.jsonl` adds the figures to a file, one line per broker.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import pytest

from tests.acceptance.witness import Witness, until
from tests.servers.celery_worker import WorkerProcess
from tests.servers.process import LocalProcess
from tests.servers.rabbitmq import RabbitServer
from tests.servers.valkey import ValkeyServer

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(400)]

AWAY_S = float(os.environ.get("PENSTOCK_AWAY_S", "4"))
#: Publishing before the outage, to compare with.
BEFORE_S = 2.0
EVENTS_PER_S = 5_000
#: `max_bytes` of a producer by default, and what a process may need beside it: the spool's cache, messages being sent, the
#: figures that the program itself collects, and what Python's allocator does not give back.
MEMORY_BOUND = 64 * 1024 * 1024 + 64 * 1024 * 1024
#: A call that waits for a broker waits for `timeout_s`, five seconds; a busy machine takes the processor away for less.
LONGEST_CALL_S = 4.0

#: Fifty events every hundredth of a second, and no burst afterwards where the machine was too slow. Writes how long each call
#: took, and now and then what the producer says of itself.
PROGRAM = """
import json, os, sys, time
from array import array
from dataclasses import asdict
from pathlib import Path
from penstock_producers import Producer
from penstock_schemas.records.translation import TranslationTask

broker_url, folder, per_tick = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
TEXT = "x" * 100
PAGE = os.sysconf("SC_PAGE_SIZE")
at, took = array("d"), array("d")

def tell(producer, file):
    status = producer.status()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
    said = {**asdict(status), "is_synced": status.is_synced, "resident_bytes": resident, "at": time.monotonic()}
    file.write(json.dumps(said, default=str) + "\\n")
    file.flush()

with Producer(broker_url, name="paced") as producer, (folder / "said.jsonl").open("w") as said:
    number, tick_at, tell_at = 0, time.monotonic(), 0.0
    while not (folder / "stop").exists():
        for _ in range(per_tick):
            task = TranslationTask(
                task_id=f"t{number:08d}", session_id=f"s{number // 1000}", sequence=number, status="running", source_text=TEXT
            )
            begun = time.perf_counter()
            producer.publish(task)
            took.append(time.perf_counter() - begun)
            at.append(time.monotonic())
            number += 1
        if time.monotonic() >= tell_at:
            tell(producer, said)
            tell_at = time.monotonic() + 0.1
        tick_at = max(tick_at + 0.01, time.monotonic() - 0.1)
        time.sleep(max(0, tick_at - time.monotonic()))
    assert producer.flush(300), producer.status()
    tell(producer, said)
    for name, values in ("at", at), ("took", took):
        (folder / name).write_bytes(values.tobytes())
"""


@dataclass(frozen=True)
class Calls:
    """How long calls of `publish()` took, in seconds."""

    took: list[float]

    def figures(self) -> dict[str, float]:
        return {
            "calls": len(self.took),
            "median_us": round(median(self.took) * 1e6, 1),
            "p99_us": round(quantiles(self.took, n=100)[-1] * 1e6, 1),
            "longest_ms": round(max(self.took) * 1e3, 2),
        }


class PacedProducer(LocalProcess):
    """A service that publishes until it is told to stop, with a producer of default options."""

    def __init__(self, folder: Path, broker_url: str) -> None:
        self.folder = folder
        argv = [sys.executable, "-c", PROGRAM, broker_url, str(folder), str(EVENTS_PER_S // 100)]
        environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PENSTOCK_SPOOL_FOLDER": str(folder / "spool")}
        super().__init__(
            "producer", argv, log=folder / "producer.log", env=environment, cwd=folder, ready=lambda _: bool(self.said())
        )

    def said(self) -> list[dict[str, Any]]:
        """What the producer said of itself, so far."""
        file = self.folder / "said.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def finish(self) -> dict[str, Any]:
        """Tell it to stop; what it said when everything was confirmed."""
        (self.folder / "stop").touch()
        until(lambda: not self.is_running, 300)
        assert self.exit_code == 0, self.logs()
        return self.said()[-1]

    def calls(self, since: float, before: float) -> Calls:
        """The calls that ended in a time."""
        return Calls([took for at, took in zip(self._read("at"), self._read("took"), strict=True) if since <= at < before])

    def _read(self, name: str) -> memoryview:
        return memoryview((self.folder / name).read_bytes()).cast("d")


@pytest.fixture
def producer(broker_url: str, tmp_path: Path) -> Iterator[PacedProducer]:
    process = PacedProducer(tmp_path, broker_url)
    yield process
    process.clean_up()


def test_a_broker_that_is_away_slows_nobody_and_loses_nothing(
    producer: PacedProducer,
    witness: Witness,
    new_worker: Callable[[], WorkerProcess],
    worker_options: dict[str, object],
    broker_server: ValkeyServer | RabbitServer,
) -> None:
    # On Redis, what the worker had when the broker went comes back when its leases have run out.
    worker_options.update(concurrency=1, batch_max_events=5_000, lease_s=3)
    worker = new_worker()
    worker.start()
    producer.start()
    until(lambda: witness.count_told() > 0)  # from here on everything has been done once
    started_at = time.monotonic()
    let_pass(BEFORE_S)
    leaving_at = time.monotonic()
    broker_server.stop()
    away_at = time.monotonic()
    until(lambda: producer.said()[-1]["breaker"] == "open")
    let_pass(AWAY_S - (time.monotonic() - away_at))
    back_at = time.monotonic()
    broker_server.start()
    until(lambda: producer.said()[-1]["breaker"] == "closed", 300)
    # Not later: a slow machine might send what is spooled more slowly than more of it comes.
    last = producer.finish()
    until(lambda: witness.count_rows() >= last["accepted"], 300)

    # While it was away ...
    here, away = producer.calls(started_at, leaving_at).figures(), producer.calls(away_at, back_at).figures()
    said = producer.said()
    during = [each for each in said if away_at <= each["at"] < back_at]
    grown = max(each["resident_bytes"] for each in said) - max(e["resident_bytes"] for e in said if e["at"] < leaving_at)
    tell(
        {
            "broker": broker_server.name,
            "away_s": round(back_at - away_at, 1),
            "events_per_s_while_away": round(away["calls"] / (back_at - away_at)),
            "publish_here": here,
            "publish_away": away,
            "memory_grown_mb": round(grown / 1e6, 1),
            "spooled_at_most": max(each["spooled"] for each in said),
            "caught_up_after_s": round(last["at"] - back_at, 1),
            "events": last["accepted"],
            "rows": witness.count_rows(),
            "dropped": last["dropped"],
        }
    )
    assert away["median_us"] <= 3 * here["median_us"]
    assert away["longest_ms"] < LONGEST_CALL_S * 1e3
    assert grown < MEMORY_BOUND
    assert not during[-1]["is_synced"]
    assert during[-1]["spooled"] > 0
    assert during[-1]["pending_writes"] > 0
    # ... and afterwards.
    assert (last["dropped"], last["spooled"], last["pending_writes"], last["is_synced"]) == ({}, 0, 0, True)
    assert (last["breaker"], last["confirmed"]) == ("closed", last["accepted"])
    assert witness.count_rows() == last["accepted"]
    assert ledger(witness) == [(last["epoch"], 0, last["accepted"])]
    assert witness.reasons() == {}


def let_pass(seconds: float) -> None:
    """Time itself is what is measured here: the producer goes on meanwhile."""
    time.sleep(max(0, seconds))


def ledger(witness: Witness) -> list[tuple[Any, ...]]:
    """Every range of numbers that was stored; one that begins at 0 and has no hole is a complete one."""
    folded = "SELECT epoch::text, unnest(range_agg(seqs)) AS part FROM penstock.ledger WHERE outcome = 'stored' GROUP BY epoch"
    return witness.query(f"SELECT epoch, lower(part), upper(part) FROM ({folded}) AS told")


def tell(figures: dict[str, Any]) -> None:
    line = json.dumps(figures)
    print(line)
    if file := os.environ.get("PENSTOCK_AWAY_JSON"):
        with Path(file).open("a") as collected:
            collected.write(line + "\n")
