"""The job `audit`: the ledger says the same folded, and only what is long over and whole is forgotten."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
import pytest

from penstock_schemas.answer import PRECEDENCE
from penstock_worker.maintenance import audit as job_module
from penstock_worker.maintenance.job import run_job
from penstock_worker.maintenance.jobs import all_jobs
from penstock_worker.queue_look import QueueLook
from penstock_worker.settings import Settings
from penstock_worker.store.audit import Rules, audit_epochs, begin_audit
from penstock_worker.store.ledger import find_outcomes, fold
from penstock_worker.store.ledger_fold import Heap, find_heaps, fold_heap

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
EPOCH, OTHER = UUID(int=7), UUID(int=8)
REASONS: dict[str, tuple[str | None, ...]] = {
    "dropped": ("buffer_full", "spool_full"),
    "dead": ("schema", "discarded: by hand"),
    "held": ("unknown_type", "discarded: by hand"),
}


class Row(NamedTuple):
    """A row of the ledger, told so many minutes before `NOW`."""

    first: int
    last: int
    outcome: str
    reason: str | None
    minutes: float
    epoch: UUID = EPOCH


class Books:
    """A ledger, what is asked of it, and the job."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.connection: psycopg.Connection[Any] = psycopg.connect(url, autocommit=True, options="-c timezone=UTC")

    def close(self) -> None:
        self.connection.close()

    def tell(self, rows: Sequence[Row]) -> None:
        self.connection.cursor().executemany(
            "INSERT INTO penstock.ledger (epoch, seqs, outcome, reason, at) VALUES (%s, int8range(%s, %s, '[]'), %s, %s, %s)",
            [(r.epoch, r.first, r.last, r.outcome, r.reason, NOW - timedelta(minutes=r.minutes)) for r in rows],
        )

    def heard(self, high_water: int, days: float = 0, epoch: UUID = EPOCH, *, is_closed: bool = False) -> None:
        self.connection.execute(
            "INSERT INTO penstock.producers VALUES (%s, 'web', %s, %s, %s, %s)",
            [epoch, high_water, is_closed, NOW - timedelta(days=days), NOW - timedelta(days=days)],
        )

    def letter(self, seq: int, state: str, epoch: UUID = EPOCH) -> None:
        self.connection.execute(
            "INSERT INTO penstock.dead_letters (id, state, reason, detail, fingerprint, payload, epoch, seq)"
            " VALUES (gen_random_uuid(), %s, 'r', 'd', 'f', '', %s, %s)",
            [state, epoch, seq],
        )

    def clear(self) -> None:
        self.connection.execute(
            "TRUNCATE penstock.ledger, penstock.producers, penstock.dead_letters, penstock.maintenance_runs"
        )

    def answers(self) -> list[Any]:
        """All that anybody asks of a ledger, but for the times of single entries."""
        asked = {EPOCH: [(0, 7), (20, 31)], OTHER: [(3, 60)]}
        told: list[Any] = [fold(self.connection), sorted(find_outcomes(self.connection, asked))]
        for look in (None, QueueLook(1, 0, is_readable=True, events={EPOCH: [(40, 44)]}, high_water={EPOCH: 45}, producers={})):
            with begin_audit(self.connection):
                told.append([_without_now(found) for found in audit_epochs(self.connection, Rules(grace_s=0), look)])
        return told

    def rows(self) -> int:
        return self.count("ledger")

    def count(self, table: str) -> int:
        ((number,),) = self.connection.execute(f"SELECT count(*) FROM penstock.{table}".encode()).fetchall()
        return int(number)

    def run(self, *, is_dry_run: bool = False, **options: Any) -> dict[str, Any]:
        given = Settings(database_url=self.url, broker_url="redis://127.0.0.1:1/0", connect_timeout_s=1, **options)
        job = all_jobs(given)["audit"]
        done = run_job(job, given, {}, started_by="test", is_dry_run=is_dry_run, now=lambda: NOW)
        return done.counts


def _without_now(found: Any) -> Any:
    """A gap at the end of what waits is known since this very moment, which is another one each time."""
    for gap in found.gaps:
        if gap.published_before is not None and gap.published_before > NOW:
            object.__setattr__(gap, "published_before", None)
    return found


@pytest.fixture
def books(database_url: str) -> Iterator[Books]:
    books = Books(database_url)
    yield books
    books.close()


def random_rows(chance: random.Random) -> Iterator[Row]:
    """Of few outcomes and short ranges, many in one hour: some overlap, some touch, and some numbers are in none."""
    outcomes = chance.sample([*REASONS, *PRECEDENCE], 2)
    for _ in range(chance.randint(5, 40)):
        first, outcome = chance.randint(0, 60), chance.choice(outcomes)
        reason = chance.choice(REASONS.get(outcome, (None,)))
        minutes = chance.choice([0, 95, 31, *(chance.uniform(30.1, 90) for _ in range(5))])
        yield Row(
            first, first + chance.choice([0, 0, 1, 4]), outcome, reason, minutes, chance.choice([EPOCH, EPOCH, EPOCH, OTHER])
        )


def test_a_folded_ledger_answers_as_before(books: Books) -> None:
    """Every heap is folded here, whether it is worth it or not, and then once more."""
    for seed in range(40):
        chance = random.Random(seed)
        books.clear()
        books.tell(list(random_rows(chance)))
        books.heard(chance.randint(0, 70), days=1)
        books.letter(chance.randint(0, 60), "dead")
        before, rows_before = books.answers(), books.rows()
        heaps = books.connection.execute("SELECT DISTINCT epoch, date_trunc('hour', at) FROM penstock.ledger").fetchall()

        for epoch, hour in heaps * 2:
            fold_heap(books.connection, Heap(epoch, hour, 0, 0))

        assert books.answers() == before, f"seed {seed}"
        assert books.rows() <= rows_before


def test_what_touches_becomes_a_few_rows(books: Books) -> None:
    """Overlapping outcomes stay apart; an hour that is not over, or has few rows, stays as it is."""
    books.heard(1_000)
    books.tell([Row(n, n, "stored", None, 60 + n / 100) for n in range(1_000)])
    books.tell([Row(n, n + 1, "superseded", None, 60 + n / 100) for n in range(0, 1_000, 3)])
    books.tell([Row(n, n, "held", "unknown_type", 60) for n in range(500, 600)])
    books.tell([Row(1_000 + n, 1_000 + n, "stored", None, 1) for n in range(20)])
    before = books.answers()

    done = books.run()

    assert books.answers() == before
    assert (done["rows_folded"], done["rows_left"]) == (1_434, 1_434 - (1_454 - books.rows()))
    assert done["rows_left"] < 700  # every third pair of superseded ones is a run of its own
    assert books.run()["rows_folded"] == 0
    assert done["outcomes"] == {"stored": 1_020}


def test_folding_is_bounded(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest heaps first; the rest is the next run's."""
    monkeypatch.setattr(job_module, "ROWS_PER_RUN", 50)
    books.tell([Row(n, n, "stored", None, 60) for n in range(40)])
    books.tell([Row(n, n, "stored", None, 120) for n in range(40, 70)])
    books.tell([Row(n, n, "stored", None, 180) for n in range(70, 90)])
    before = books.answers()

    folded = [books.run()["rows_folded"] for _ in range(3)]

    assert folded == [70, 20, 0]
    assert books.answers() == before


def test_what_is_inserted_meanwhile_stays_and_two_folds_fold_once(books: Books) -> None:
    books.tell([Row(n, n, "stored", None, 60) for n in range(100)])
    (heap,) = find_heaps(books.connection, NOW)
    results: list[tuple[int, int]] = []
    with psycopg.connect(books.url) as worker, psycopg.connect(books.url) as first:
        worker.execute(
            "INSERT INTO penstock.ledger VALUES (%s, '[100,101)', 'stored', NULL, %s)", [EPOCH, NOW - timedelta(minutes=60)]
        )
        assert fold_heap(first, heap) == (100, 3)  # not committed yet
        second = threading.Thread(target=lambda: results.append(fold_heap(books.connection, heap)))
        second.start()
        worker.commit()
        first.commit()
        second.join(60)

    assert len(results) == 1
    assert [list(map(str, found.seqs)) for found in fold(books.connection)] == [["[0, 101)"]]


def test_gaps_are_counted(books: Books) -> None:
    """Without the queue, which is away here, nobody can say of an old gap whether it waits there."""
    books.heard(30, days=1)
    books.tell([Row(0, 9, "stored", None, 300), Row(15, 19, "dead", "schema", 300)])

    done = books.run()

    assert done["gaps"] == {"missing": 0, "queued_or_missing": 15, "pending": 0}
    assert (done["epochs"], done["silent"], done["without_letter"], done["outcomes"]) == (1, 1, 5, {"stored": 10, "dead": 5})


def test_missing_events_are_an_alarm(books: Books, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(job_module, "waiting_messages", lambda _: 0)
    monkeypatch.setattr(job_module, "look_at_queue", lambda _: QueueLook(0, 0, is_readable=True))
    books.heard(30, days=1)

    done = books.run()
    assert (done["gaps"]["missing"], done["epochs_missing"]) == (30, 1)
    assert "30 events are missing, see `penstock audit`" in caplog.text

    monkeypatch.setattr(job_module, "waiting_messages", lambda _: job_module.LOOK_MESSAGES + 1)
    done = books.run()
    assert (done["gaps"], done["epochs_missing"]) == ({"missing": 0, "queued_or_missing": 30, "pending": 0}, 0)


DAY = 24 * 60


@pytest.mark.parametrize(
    ("why", "is_forgotten"),
    [
        ("whole", True),
        ("closed", True),
        ("ledger only", True),
        ("gap", False),
        ("held", False),
        ("heard", False),
        ("told", False),
    ],
)
def test_an_epoch_is_forgotten_when_it_is_long_over_and_whole(books: Books, why: str, is_forgotten: bool) -> None:
    if why != "ledger only":
        books.heard(20, days=30 if why == "heard" else 91, is_closed=why == "closed")
    books.tell([Row(0, 17 if why == "gap" else 19, "stored", None, 91 * DAY)])
    books.tell([Row(19, 19, "stored", None, 89 * DAY if why == "told" else 91 * DAY)])
    books.letter(3, "held" if why == "held" else "dead")
    books.tell([Row(0, 9, "stored", None, 5, OTHER)])
    books.heard(10, epoch=OTHER)
    here = (2, 2) if why != "ledger only" else (2, 1)

    would = books.run(is_dry_run=True)
    assert (books.rows() - 1, books.count("producers")) == here
    kept = books.run(ledger_keep_days=-1)
    done = books.run()

    forgotten = {"epochs_deleted": int(is_forgotten), "ledger_rows_deleted": 2 * is_forgotten, "runs_deleted": 0}
    assert {name: would[name] for name in forgotten} == {name: done[name] for name in forgotten} == forgotten
    assert kept["epochs_deleted"] == 0
    assert (books.rows(), books.count("producers")) == ((1, 1) if is_forgotten else (3, 2))
    assert books.run()["epochs_deleted"] == 0


def test_an_epoch_that_is_heard_of_at_that_moment_stays(books: Books) -> None:
    """A batch tells of it while the job deletes it: the job waits for the batch, and sees that."""
    books.heard(20, days=91)
    books.tell([Row(0, 19, "stored", None, 91 * DAY)])
    done: list[dict[str, Any]] = []
    with psycopg.connect(books.url) as worker:
        worker.execute("UPDATE penstock.producers SET last_seen = now()")
        deleting = threading.Thread(target=lambda: done.append(books.run()))
        deleting.start()
        waits = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        while not books.connection.execute(waits).fetchone():
            assert deleting.is_alive()
        worker.commit()
        deleting.join(60)

    assert [each["epochs_deleted"] for each in done] == [0]
    assert (books.rows(), books.count("producers")) == (1, 1)


def test_old_runs_are_deleted(books: Books) -> None:
    for days in (31, 31, 29):
        books.connection.execute(
            "INSERT INTO penstock.maintenance_runs (job, started_by, state, started_at) VALUES ('held', 'beat', 'done', %s)",
            [NOW - timedelta(days=days)],
        )

    assert books.run(is_dry_run=True)["runs_deleted"] == 2
    assert books.run(runs_keep_days=-1)["runs_deleted"] == 0
    assert books.run()["runs_deleted"] == 2
    assert books.run()["runs_deleted"] == 0
    assert books.connection.execute("SELECT count(*) FROM penstock.maintenance_runs WHERE job = 'held'").fetchone() == (1,)
