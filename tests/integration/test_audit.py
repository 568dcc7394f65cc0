"""The audit, on ledgers written by hand: every number once, and gaps by the database's clock."""

from __future__ import annotations

import tracemalloc
from datetime import datetime, timedelta
from types import SimpleNamespace
from uuid import UUID

import psycopg
import pytest

from penstock_schemas.wire import new_epoch
from penstock_worker.queue_look import QueueLook
from penstock_worker.settings import Settings
from penstock_worker.store import queries
from penstock_worker.store.audit import Rules, audit_epochs, begin_audit

EPOCH, OTHER = UUID(int=1), UUID(int=2)
EMPTY = QueueLook(0, 0, is_readable=True)


@pytest.fixture
def settings(database_url):
    return Settings(database_url=database_url, broker_url="redis://localhost:1/0")


@pytest.fixture
def ledger(database_url):
    """Writes what workers would have, so many seconds ago."""
    with psycopg.connect(database_url, autocommit=True) as connection:

        def tell(outcome, first, last, ago_s=1_000, epoch=EPOCH, reason=None):
            connection.execute(
                "INSERT INTO penstock.ledger (epoch, seqs, outcome, reason, at)"
                " VALUES (%s, int8range(%s, %s, '[]'), %s, %s, now() - make_interval(secs => %s))",
                [epoch, first, last, outcome, reason, ago_s],
            )

        def heard(high_water, ago_s=1_000, *, is_closed=False, epoch=EPOCH, name="web"):
            connection.execute(
                "INSERT INTO penstock.producers (epoch, producer, high_water, is_closed, last_seen)"
                " VALUES (%s, %s, %s, %s, now() - make_interval(secs => %s))",
                [epoch, name, high_water, is_closed, ago_s],
            )

        def letter(seq, event_id=None, epoch=EPOCH):
            connection.execute(
                "INSERT INTO penstock.dead_letters (id, state, reason, detail, fingerprint, payload, epoch, seq, event_id)"
                " VALUES (gen_random_uuid(), 'dead', 'r', 'd', 'f', '', %s, %s, %s)",
                [epoch, seq, event_id],
            )

        yield SimpleNamespace(tell=tell, heard=heard, letter=letter, connection=connection)


def audit(settings, look=EMPTY, **rules):
    with queries.open_reader(settings) as reader, begin_audit(reader):
        return list(audit_epochs(reader, Rules(**rules), look))


def gaps_of(found):
    return [(gap.first, gap.last, gap.state) for gap in found.gaps]


def test_every_number_counts_once(ledger, settings):
    """Delivered twice, replayed, dropped but delivered all the same: one outcome each."""
    ledger.heard(30, is_closed=True)
    ledger.tell("stored", 0, 9)
    ledger.tell("stored", 0, 9)
    ledger.tell("superseded", 5, 9)
    ledger.tell("held", 10, 14)
    ledger.tell("stored", 12, 12)
    ledger.tell("dropped", 15, 19, reason="buffer_full")
    ledger.tell("stored", 15, 15)
    ledger.tell("dropped", 20, 24, reason="spool_full")
    ledger.tell("expired", 25, 27)
    ledger.tell("fenced", 28, 29)
    ledger.letter(10)

    (found,) = audit(settings)

    assert (found.producer, found.epoch, found.state, found.sent) == ("web", EPOCH, "closed", 30)
    assert found.outcomes == {"stored": 12, "fenced": 2, "expired": 3, "held": 4, "dropped": 9}
    assert found.dropped == {"buffer_full": 4, "spool_full": 5}
    assert (found.queued, found.gaps, found.without_letter) == (0, [], 0)


def test_a_gap_waits_for_its_grace(ledger, settings):
    """Since something above it was told, however long ago that was published; by the database's clock."""
    ledger.heard(100, ago_s=10)
    ledger.tell("stored", 0, 9, ago_s=500)
    ledger.tell("stored", 20, 29, ago_s=400)
    ledger.tell("stored", 40, 59, ago_s=30)

    (found,) = audit(settings, grace_s=60)
    (hasty,) = audit(settings, grace_s=20)

    assert gaps_of(found) == [(10, 19, "missing"), (30, 39, "pending"), (60, 99, "pending")]
    assert gaps_of(hasty) == [(10, 19, "missing"), (30, 39, "missing"), (60, 99, "pending")]
    window = found.gaps[0].published_before - found.gaps[0].published_after
    assert timedelta(seconds=99) < window < timedelta(seconds=101)


def test_a_gap_is_as_old_as_the_first_word_above_it(ledger, settings):
    """A producer that goes on sending must not keep its own gap young."""
    ledger.heard(40, ago_s=0)
    ledger.tell("stored", 20, 29, ago_s=300)
    ledger.tell("stored", 30, 39, ago_s=0)

    (found,) = audit(settings)

    assert gaps_of(found) == [(0, 19, "missing")]


def test_what_comes_late_is_not_missing_any_more(ledger, settings):
    ledger.heard(10, is_closed=True)
    ledger.tell("stored", 5, 9)
    before = audit(settings)
    ledger.tell("stored", 0, 4, ago_s=0)
    after = audit(settings)

    assert [gaps_of(found) for found in (*before, *after)] == [[(0, 4, "missing")], []]


def test_a_start_is_told_by_the_epoch(ledger, settings):
    """The first event is missing: it was published after its process started."""
    epoch = new_epoch()
    ledger.heard(1, epoch=epoch)

    ((gap,),) = [found.gaps for found in audit(settings)]

    assert (gap.first, gap.last, gap.state) == (0, 0, "missing")
    assert abs(gap.published_after - datetime.now().astimezone()) < timedelta(minutes=5)


def test_queued_is_not_missing(ledger, settings):
    """Numbers that the ledger has by now count there; those of an epoch that the database never heard of count as queued."""
    ledger.heard(20)
    ledger.tell("stored", 0, 9)
    look = QueueLook(3, 1, is_readable=True)
    look.events = {EPOCH: [(5, 14), (18, 25)], OTHER: [(3, 4)]}
    look.high_water = {EPOCH: 26, OTHER: 5}
    look.producers = {EPOCH: "web", OTHER: "new"}

    known, new = audit(settings, look)

    assert (known.sent, known.queued, gaps_of(known)) == (26, 13, [(15, 17, "missing")])
    assert (new.producer, new.state, new.sent, new.queued, gaps_of(new)) == ("new", "open", 5, 2, [(0, 2, "pending")])


@pytest.mark.parametrize(
    ("look", "state"),
    [
        (None, "queued_or_missing"),
        (QueueLook(1, 0, is_readable=False), "queued_or_missing"),
        (QueueLook(0, 2, is_readable=False), "queued_or_missing"),
        (QueueLook(0, None, is_readable=False), "queued_or_missing"),
        (QueueLook(0, 0, is_readable=False), "missing"),
    ],
)
def test_a_queue_that_cannot_be_read_may_hold_it(ledger, settings, look, state):
    ledger.heard(10)

    (found,) = audit(settings, look)

    assert (found.queued, gaps_of(found)) == (None, [(0, 9, state)])


def test_the_end_of_a_killed_producer_is_unknown(ledger, settings):
    """Silence counts from the last word of any kind; who has closed has no more to say."""
    ledger.heard(10, ago_s=100)
    ledger.heard(10, ago_s=100, epoch=OTHER, name="closed", is_closed=True)
    ledger.heard(10, ago_s=100, epoch=UUID(int=3), name="busy")
    for epoch in (EPOCH, OTHER):
        ledger.tell("stored", 0, 9, epoch=epoch)
    ledger.tell("stored", 0, 9, epoch=UUID(int=3), ago_s=5)

    states = {found.producer: found.state for found in audit(settings)}
    patient = {found.producer: found.state for found in audit(settings, silent_after_s=300)}

    assert states == {"web": "silent", "closed": "closed", "busy": "open"}
    assert patient == {"web": "open", "closed": "closed", "busy": "open"}


def test_dead_letters_and_ledger_agree(ledger, settings):
    """A letter for each, or one for a whole message, or a discard; what has none of them is told."""
    ledger.heard(100)
    ledger.tell("stored", 0, 79)
    ledger.tell("dead", 80, 99)
    ledger.tell("dead", 90, 91, reason="discarded by hand by ada")
    ledger.letter(80)  # a whole message: up to the next letter
    ledger.letter(85, event_id=UUID(int=85))
    ledger.letter(86, event_id=UUID(int=86))
    ledger.letter(95)

    (found,) = audit(settings)

    assert found.outcomes["dead"] == 20
    assert found.without_letter == 20 - 5 - 2 - 2 - 5


def test_only_what_was_asked_for(ledger, settings):
    ledger.heard(1, ago_s=5_000)
    ledger.heard(1, ago_s=5_000, epoch=OTHER, name="batch")
    ledger.tell("stored", 0, 0, ago_s=10, epoch=OTHER)
    (since,) = ledger.connection.execute("SELECT now() - interval '1 minute'").fetchone()
    look = QueueLook(1, 0, True, {EPOCH: [(0, 0)]}, {EPOCH: "web"}, {EPOCH: 1})

    assert [found.producer for found in audit(settings, look)] == ["batch", "web"]
    assert [found.producer for found in audit(settings, look, producer="web")] == ["web"]
    assert [found.producer for found in audit(settings, look, producer="nobody")] == []
    assert [found.producer for found in audit(settings, look, since=since)] == ["batch"]


def test_a_large_ledger_takes_little_memory(ledger, settings):
    """200,000 entries, half of them told twice, with a gap at each end."""
    ledger.heard(1_000_010, is_closed=True)
    ledger.connection.execute(
        "INSERT INTO penstock.ledger (epoch, seqs, outcome, at) SELECT %s, int8range(10 + 10 * n, 20 + 10 * n),"
        " CASE n %% 50 WHEN 7 THEN 'superseded' ELSE 'stored' END, now() - interval '1 hour'"
        " FROM generate_series(0, 99999) AS n, generate_series(1, 2)",
        [EPOCH],
    )
    ledger.connection.execute("UPDATE penstock.producers SET high_water = high_water + 5")
    tracemalloc.start()

    (found,) = audit(settings)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.outcomes == {"stored": 980_000, "superseded": 20_000}
    assert gaps_of(found) == [(0, 9, "missing"), (1_000_010, 1_000_014, "missing")]
    assert peak < 20_000_000
