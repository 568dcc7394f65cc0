"""Where the outcomes of a batch go: ledger entries, dead letters, and the counts that are the task's result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple
from uuid import UUID

from penstock_worker.ingest.cloudevents import is_cloudevents, read_cloudevents
from penstock_worker.ingest.decode import Decoded, Refused
from penstock_worker.ingest.message import Envelope, Event, Message
from penstock_worker.ingest.outcome import Outcome, Verdict
from penstock_worker.ingest.outline import split_events
from penstock_worker.store.dead_letters import Letter, fingerprints_of
from penstock_worker.store.ledger import Entry, Sighting, merge_entries

__all__ = [
    "Lettered",
    "by_outcome",
    "count_by_type",
    "count_outcomes",
    "entries_by_envelope",
    "entries_of",
    "hold",
    "letters_of",
    "sightings_of",
]

_LETTERED = (Outcome.DEAD, Outcome.HELD)


class Lettered(NamedTuple):
    """A letter and what it is about."""

    letter: Letter
    subject: Event | Refused


def count_outcomes(decoded: Decoded) -> dict[str, int]:
    """Events by outcome."""
    return by_outcome(count_by_type(decoded))


def count_by_type(decoded: Decoded) -> Counter[tuple[str, str]]:
    """Events by type and outcome. The type of one that could not be read is the sender's word, or empty."""
    counts = Counter((event.record.name, event.outcome.value) for event in decoded.events)
    for block in decoded.blocks:
        name = block.record.name
        counts[name, Outcome.STORED.value] += len(block) - len(block.superseded) - len(block.fenced)
        counts[name, Outcome.SUPERSEDED.value] += len(block.superseded)
        counts[name, Outcome.FENCED.value] += len(block.fenced)
    for refused in decoded.refused:
        counts[refused.hints.get("type") or "", refused.verdict.outcome.value] += refused.count
    return +counts


def by_outcome(counts: Mapping[tuple[str, str], int]) -> dict[str, int]:
    """The same without the types."""
    totals: Counter[str] = Counter()
    for (_, outcome), count in counts.items():
        totals[outcome] += count
    return dict(totals)


def entries_of(decoded: Decoded) -> list[Entry]:
    """What the ledger gets: every number of every envelope once, drops included."""
    return merge_entries(entry for _, entries in entries_by_envelope(decoded) for entry in entries)


def entries_by_envelope(decoded: Decoded) -> Iterator[tuple[Envelope, Iterable[Entry]]]:
    """The same, told apart by envelope."""
    odd: dict[int, dict[int, str]] = {}
    for event in decoded.events:
        if event.outcome is not Outcome.STORED:
            odd.setdefault(id(event.envelope), {})[event.index] = event.outcome.value
    for block in decoded.blocks:
        for marked, outcome in ((block.superseded, Outcome.SUPERSEDED), (block.fenced, Outcome.FENCED)):
            for place in marked:
                odd.setdefault(id(block.envelopes[place]), {})[block.index(place)] = outcome.value
    for refused in decoded.refused:
        places = range(refused.first, refused.first + refused.count)
        odd.setdefault(id(refused.envelope), {}).update(dict.fromkeys(places, refused.verdict.outcome.value))
    for envelope in decoded.envelopes:
        yield envelope, _entries(envelope, odd.get(id(envelope), {}))


def _entries(envelope: Envelope, odd: dict[int, str]) -> Iterator[Entry]:
    epoch, seq = envelope.epoch, envelope.seq
    if epoch is None:
        return
    for first, last, reason in envelope.dropped:
        if first <= last:
            yield Entry(epoch, Outcome.DROPPED.value, reason, first, last)
    if not odd and envelope.count:
        yield Entry(epoch, Outcome.STORED.value, None, seq, seq + envelope.count - 1)
        return
    for outcome, run in groupby(range(envelope.count), lambda index: odd.get(index, Outcome.STORED.value)):
        places = list(run)
        yield Entry(epoch, outcome, None, seq + places[0], seq + places[-1])


def sightings_of(decoded: Decoded, known: set[UUID]) -> list[Sighting]:
    """What is new about producers: those not `known` yet, and what heartbeats say. Queries say nothing."""
    return [
        Sighting(envelope.epoch, envelope.producer or "", envelope.seq + envelope.count, envelope.is_closed)
        for envelope in decoded.envelopes
        if envelope.epoch and not envelope.query and (envelope.epoch not in known or envelope.count == 0)
    ]


def letters_of(decoded: Decoded) -> list[Lettered]:
    """A letter for every event that is dead or held, with the one it is about."""
    refused = [Lettered(_letter_of_refused(part), part) for part in decoded.refused if part.verdict.outcome in _LETTERED]
    ended = [event for event in decoded.events if event.outcome in _LETTERED]
    return refused + list(_letters_of_events(ended))


def _letters_of_events(events: Iterable[Event]) -> Iterator[Lettered]:
    pieces: dict[int, list[bytes]] = {}
    for event in events:
        envelope, verdict = event.envelope, event.verdict
        assert verdict is not None, "an event that is dead or held has a verdict"
        if id(envelope) not in pieces:
            pieces[id(envelope)] = _pieces(envelope.message)
        found = pieces[id(envelope)]
        payload = found[event.index] if event.index < len(found) else envelope.message.body
        event_id = UUID(event.id)
        letter = _letter(envelope, event.index, payload, verdict, event_id)
        letter.type, letter.op, letter.version = event.record.name, "delete" if event.is_delete else "upsert", event.version
        letter.event_id = event_id
        yield Lettered(letter, event)


def _pieces(message: Message) -> list[bytes]:
    """The bytes of each event, in the form of Penstock's own wire: it is what a replay reads."""
    if is_cloudevents(message):
        return [reading.event for reading in read_cloudevents(message)]
    parts = split_events(message.body)
    return parts[1] if parts else []


def _letter_of_refused(refused: Refused) -> Letter:
    """The letter's id is the event's, so that an event sent again in another envelope has one letter still."""
    envelope = refused.envelope
    event_id = UUID(refused.event_id) if refused.event_id else None
    letter = _letter(envelope, refused.first, refused.payload, refused.verdict, event_id or envelope.message.id)
    letter.event_id = event_id
    letter.type, letter.op, letter.version = (refused.hints.get(name) for name in ("type", "op", "version"))
    if event_id is None:
        message = envelope.message
        letter.content_type, letter.headers = message.content_type, message.headers
        letter.events = envelope.count if envelope.epoch else None
    return letter


def _letter(envelope: Envelope, index: int, payload: bytes, verdict: Verdict, letter_id: UUID) -> Letter:
    return Letter(
        letter_id,
        verdict.outcome.value,
        verdict.reason,
        verdict.detail,
        payload,
        sqlstate=verdict.sqlstate,
        constraint=verdict.constraint,
        column=verdict.column,
        producer=envelope.producer,
        epoch=envelope.epoch,
        seq=envelope.seq + index if envelope.epoch else None,
    )


def hold(letters: Sequence[Lettered], fingerprints: set[str]) -> None:
    """Turn dead into held for letters of these fingerprints, and what they are about with them."""
    if not fingerprints:
        return
    for (letter, subject), fingerprint in zip(letters, fingerprints_of(letter for letter, _ in letters), strict=True):
        if letter.state == Outcome.DEAD and fingerprint in fingerprints:
            letter.state = Outcome.HELD.value
            subject.hold()
