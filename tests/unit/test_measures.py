"""What a batch adds to the metrics: events by type and outcome, and how long they took."""

from __future__ import annotations

from collections import Counter
from uuid import UUID

import pytest
from celery.utils.saferepr import saferepr

from penstock_schemas.metrics import LAG_S
from penstock_worker.ingest.block import Block
from penstock_worker.ingest.decode import Decoded, Refused
from penstock_worker.ingest.lag import Lag, lag_of
from penstock_worker.ingest.measures import MAX_MEASURES_CHARACTERS, Measures, measure
from penstock_worker.ingest.message import Envelope, Event, Message
from penstock_worker.ingest.outcome import Outcome, Verdict
from penstock_worker.ingest.request import _parse
from penstock_worker.ingest.tasks import MAX_RESULT_CHARACTERS
from tests.records import REGISTRY

NOW = 1_800_000_000_000_000
SECOND = 1_000_000
PAIR, RUN = REGISTRY["lab.pair"], REGISTRY["lab.run"]


def epoch_from(start_us: int) -> UUID:
    """Of a process that began then."""
    return UUID(int=(start_us // 1000) << 80 | 0x7 << 76 | 0x2 << 62)


def envelope(start_us: int | None = 0) -> Envelope:
    return Envelope(Message(b""), epoch=None if start_us is None else epoch_from(start_us))


def block(*versions: int, of: Envelope | None = None) -> Decoded:
    """A batch that is one block."""
    given = of or envelope()
    ids = [str(number) for number in range(len(versions))]
    return Decoded([given], blocks=[Block(PAIR, [given] * len(versions), list(versions), ids, {}, [("a", 1)] * len(versions))])


def event(version: int, *, of: Envelope, verdict: Verdict | None = None) -> Event:
    made = Event(PAIR, False, version, "id", {"tenant": "a", "number": 1}, of, 0)
    if verdict is not None:
        made.end(verdict)
    return made


def counted(lag: Lag) -> dict[float, int]:
    """By upper bound."""
    return {bound: count for bound, count in zip((*LAG_S, float("inf")), lag.counts, strict=True) if count}


def test_lag_is_counted_by_bounds_which_are_part_of_theirs() -> None:
    lag = lag_of(block(NOW - 25_000, NOW - 25_001, NOW - 3 * SECOND, NOW, NOW - 4000 * SECOND, NOW - 2 * SECOND), NOW)
    assert counted(lag) == {0.025: 2, 0.05: 1, 2.5: 1, 5.0: 1, float("inf"): 1}
    assert lag.total_s == pytest.approx(4005.050001)


def test_a_clock_that_is_ahead_makes_no_negative_lag() -> None:
    lag = lag_of(block(NOW + 3600 * SECOND, NOW - SECOND), NOW)
    assert (counted(lag), lag.total_s) == ({0.025: 1, 1.0: 1}, 1.0)


def test_what_happened_before_its_process_began_was_not_published_then() -> None:
    """A backfill is no lag; nor does it hide that of its neighbours, of the same or of another producer."""
    young, old, foreign = envelope(NOW - 10 * SECOND), envelope(NOW - 90 * SECOND), envelope(None)
    of_young = block(NOW - 86_400 * SECOND, NOW - 2 * SECOND, NOW - 10 * SECOND, of=young)
    parts = [of_young, block(NOW - 20 * SECOND, of=old), block(5, of=foreign)]
    decoded = Decoded([young, old, foreign], blocks=[part.blocks[0] for part in parts])
    decoded.events = [event(NOW - 11 * SECOND, of=young), event(NOW - 12 * SECOND, of=old)]

    lag = lag_of(decoded, NOW)
    assert counted(lag) == {2.5: 1, 10.0: 1, 30.0: 2, float("inf"): 1}
    assert lag.total_s == pytest.approx((NOW - 5) / SECOND + 2 + 10 + 20 + 12)


def test_an_epoch_that_tells_no_time_excludes_nothing() -> None:
    given = Envelope(Message(b""), epoch=UUID("ffffffff-ffff-4fff-bfff-ffffffffffff"))
    assert counted(lag_of(block(NOW - SECOND, of=given), NOW)) == {1.0: 1}


def test_dead_and_held_events_have_no_lag() -> None:
    given = envelope()
    ends = [None, Verdict(Outcome.DEAD, "for a test"), Verdict(Outcome.HELD, "for a test"), Verdict(Outcome.EXPIRED, "old")]
    decoded = Decoded([given], events=[event(NOW - SECOND, of=given, verdict=verdict) for verdict in ends])
    decoded.events[0].outcome = Outcome.SUPERSEDED
    assert counted(lag_of(decoded, NOW)) == {1.0: 1}


def test_lag_adds_up() -> None:
    one, other = lag_of(block(NOW - SECOND), NOW), lag_of(block(NOW - SECOND, NOW - 2 * SECOND), NOW)
    assert (counted(one + other), (one + other).total_s) == ({1.0: 2, 2.5: 1}, 4.0)
    assert lag_of(Decoded(), NOW) == Lag()


def test_events_are_counted_by_type_and_outcome() -> None:
    decoded = block(NOW, NOW, NOW, NOW)
    decoded.blocks[0].superseded.add(1)
    decoded.blocks[0].fenced.update({2, 3})
    given = decoded.envelopes[0]
    dead = Verdict(Outcome.DEAD, "for a test")
    decoded.events = [event(NOW, of=given), event(NOW, of=given, verdict=dead)]
    decoded.refused = [
        Refused(given, 0, 1, b"", dead, {"type": "lab.run"}),
        Refused(given, 0, 1, b"", Verdict(Outcome.HELD, "unknown_type"), {"type": "made.up_by_an_attacker"}),
        Refused(given, 0, 7, b"", dead),
    ]

    assert measure(decoded, REGISTRY, NOW).events == {
        ("lab.pair", "stored"): 2,
        ("lab.pair", "superseded"): 1,
        ("lab.pair", "fenced"): 2,
        ("lab.pair", "dead"): 1,
        ("lab.run", "dead"): 1,
        ("unknown", "held"): 1,
        ("unknown", "dead"): 7,
    }


def test_measures_travel_as_a_line() -> None:
    measures = Measures(Counter({("lab.pair", "stored"): 12, ("unknown", "dead"): 1}), lag_of(block(NOW - SECOND), NOW))
    line = measures.line()
    assert line == "lab.pair/stored=12 unknown/dead=1 lag=1.000000:0,0,0,0,0,1,0,0,0,0,0,0,0,0"
    assert _parse(saferepr({"measures": line}, MAX_RESULT_CHARACTERS)) == {"measures": line}
    assert Measures.parse(line) == measures
    assert Measures.parse("") == Measures()


def test_a_line_is_bounded_however_many_types_there_are() -> None:
    """What does not fit counts as of an unknown type; what is cut off could not be read, and the batch would come again."""
    names = [f"{'d' * 63}.{number:063}" for number in range(1_000)]
    events = Counter({(name, outcome.value): 99_999_999 for name in names for outcome in Outcome})
    events["unknown", "dead"] = 1
    line = Measures(events, Lag((99_999_999,) * 14, 1e15)).line()
    assert len(line) <= MAX_MEASURES_CHARACTERS
    told = Measures.parse(line).events
    assert told.total() == events.total()
    assert len({name for name, _ in told} - {"unknown"}) >= 40
