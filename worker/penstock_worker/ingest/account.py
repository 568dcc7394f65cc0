"""Where the outcomes of a batch go: ledger entries, dead letters, and the counts that are the task's result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from uuid import UUID

from penstock_worker.ingest.decode import Decoded, Refused
from penstock_worker.ingest.message import Envelope, Event
from penstock_worker.ingest.outcome import Outcome, Verdict
from penstock_worker.ingest.outline import split_events
from penstock_worker.store.dead_letters import Letter
from penstock_worker.store.ledger import Entry, Sighting, merge_entries

__all__ = ["count_outcomes", "entries_of", "hold", "letters_of", "sightings_of"]

_LETTERED = (Outcome.DEAD, Outcome.HELD)


def count_outcomes(decoded: Decoded) -> dict[str, int]:
    """Events by outcome."""
    counts: Counter[str] = Counter(event.outcome.value for event in decoded.events)
    for refused in decoded.refused:
        counts[refused.verdict.outcome.value] += refused.count
    return dict(counts)


def entries_of(decoded: Decoded) -> list[Entry]:
    """What the ledger gets: every number of every envelope once, drops included."""
    odd: dict[int, dict[int, str]] = {}
    for event in decoded.events:
        if event.outcome is not Outcome.STORED:
            odd.setdefault(id(event.envelope), {})[event.index] = event.outcome.value
    for refused in decoded.refused:
        places = range(refused.first, refused.first + refused.count)
        odd.setdefault(id(refused.envelope), {}).update(dict.fromkeys(places, refused.verdict.outcome.value))
    return merge_entries(entry for envelope in decoded.envelopes for entry in _entries(envelope, odd.get(id(envelope), {})))


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
    """What is new about producers: those not `known` yet, and what heartbeats say."""
    return [
        Sighting(envelope.epoch, envelope.producer or "", envelope.seq + envelope.count, envelope.is_closed)
        for envelope in decoded.envelopes
        if envelope.epoch and (envelope.epoch not in known or envelope.count == 0)
    ]


def letters_of(decoded: Decoded) -> list[Letter]:
    """A letter for every event that is dead or held."""
    letters = [_letter_of_refused(refused) for refused in decoded.refused if refused.verdict.outcome in _LETTERED]
    ended = [event for event in decoded.events if event.outcome in _LETTERED]
    return letters + list(_letters_of_events(ended))


def _letters_of_events(events: Iterable[Event]) -> Iterator[Letter]:
    pieces: dict[int, list[bytes]] = {}
    for event in events:
        envelope, verdict = event.envelope, event.verdict
        assert verdict is not None, "an event that is dead or held has a verdict"
        if id(envelope) not in pieces:
            parts = split_events(envelope.message.body)
            pieces[id(envelope)] = parts[1] if parts else []
        found = pieces[id(envelope)]
        payload = found[event.index] if event.index < len(found) else envelope.message.body
        letter = _letter(envelope, event.index, payload, verdict, UUID(event.id))
        letter.type, letter.op, letter.version = event.record.name, "delete" if event.is_delete else "upsert", event.version
        letter.event_id = UUID(event.id)
        yield letter


def _letter_of_refused(refused: Refused) -> Letter:
    """The letter's id is the event's, so that an event sent again in another envelope has one letter still."""
    envelope = refused.envelope
    event_id = UUID(refused.event_id) if refused.event_id else None
    letter = _letter(envelope, refused.first, refused.payload, refused.verdict, event_id or envelope.message.id)
    letter.event_id = event_id
    letter.type, letter.op, letter.version = (refused.hints.get(name) for name in ("type", "op", "version"))
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


def hold(decoded: Decoded, letters: list[Letter], fingerprints: set[str]) -> None:
    """Turn dead into held for letters of these fingerprints, and their events with them."""
    if not fingerprints:
        return
    turned = {letter.id for letter in letters if letter.fingerprint in fingerprints and letter.state == Outcome.DEAD}
    for letter in letters:
        if letter.id in turned:
            letter.state = Outcome.HELD.value
    for event in decoded.events:
        if event.verdict and UUID(event.id) in turned:
            event.outcome = Outcome.HELD
    for refused in decoded.refused:
        if _letter_of_refused(refused).id in turned:
            refused.verdict = replace(refused.verdict, outcome=Outcome.HELD)
