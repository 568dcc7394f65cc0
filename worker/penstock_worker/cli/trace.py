"""`penstock trace`: where an event is, or why it is not; or what a row is made of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from penstock_schemas import Registry, load_registry
from penstock_worker.cli.output import print_json
from penstock_worker.errors import BrokerAway, ConfigurationError
from penstock_worker.settings import Settings, load_settings

if TYPE_CHECKING:
    from penstock_worker.redis_look import Seen
    from penstock_worker.store.row_trace import LetterSeen, RowTrace
    from penstock_worker.store.trace import EventTrace

__all__ = ["explain_event", "explain_row", "register"]

#: What an outcome means, for people.
_OUTCOMES = {
    "stored": "It is stored.",
    "superseded": "It is superseded: newer events of the same row had said it all when it came.",
    "fenced": "It was refused because its person has been erased.",
    "expired": "It is expired: it was too old to be kept when it came.",
    "dead": "It is dead: it can never be stored as it is.",
    "held": "It is held: it could not be stored when it came, and is tried again when the cause is gone.",
    "dropped": "Its producer dropped it: it never reached the broker.",
}
_ROWS = {
    "absent": "There is no such row, and no tombstone of one.",
    "placeholder": "The row is a placeholder: a child names it, no event of its own has come. Readers do not see it.",
    "tombstone": "The row is deleted; what is left is its tombstone.",
    "hidden": "The row is hidden: it fell with its parent.",
    "visible": "The row is there, and readers see it.",
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("trace")(trace)


def trace(
    words: Annotated[list[str], typer.Argument(metavar="EVENT_ID | TYPE KEY...", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    grace_s: Annotated[
        float, typer.Option("--grace", min=0, help="Seconds that an event may be on its way before it is missing.")
    ] = 60.0,
) -> None:
    """
    Tell where an event is, or why it is not; or what is known of a row, by its type and key.

    With both, an event's id and then a type and a key, it tells which event has superseded it in that row.
    """
    settings = load_settings()
    registry = load_registry(settings.records)
    event_id = _as_event_id(words[0])
    row_words = words if event_id is None else words[1:]
    seen, may_be_queued, trouble = _look(settings, event_id) if event_id is not None else (None, False, None)
    event, row = _ask(settings, registry, event_id, row_words, (seen, may_be_queued, grace_s))
    if as_json:
        print_json({"event": event and asdict(event), "row": row and asdict(row), "broker_trouble": trouble})
        return
    of_event = [] if event is None else list(explain_event(event, is_row_known=row is not None))
    of_row = [] if row is None else list(explain_row(row, event))
    is_row_asked = _as_event_id(words[0]) is None
    for line in [*([trouble] if trouble else []), *(of_row + of_event if is_row_asked else of_event + of_row)]:
        typer.echo(plain_text(line))


def plain_text(line: str) -> str:
    """A line without control sequences of the terminal; nothing here is markup."""
    return "".join(character if character.isprintable() else " " for character in line)


def _as_event_id(word: str) -> UUID | None:
    with suppress(ValueError):
        return UUID(word)
    return None


def _look(settings: Settings, event_id: UUID) -> tuple[Seen | None, bool, str | None]:
    """The message that holds the event, whether it may be where nobody can look, and why."""
    from penstock_worker.queue_look import find_message, look_at_queue

    try:
        seen = find_message(settings, event_id)
        return seen, seen is None and look_at_queue(settings).may_hide_events, None
    except (BrokerAway, ConfigurationError) as exc:
        return None, True, f"The broker does not say what waits: {exc}"


def _ask(
    settings: Settings, registry: Registry, event_id: UUID | None, row_words: list[str], look: tuple[Seen | None, bool, float]
) -> tuple[EventTrace | None, RowTrace | None]:
    from penstock_worker.store import queries
    from penstock_worker.store.row_trace import letters_of_key, trace_row
    from penstock_worker.store.trace import trace_event

    seen, may_be_queued, grace_s = look
    event = row = None
    with queries.open_reader(settings) as reader:
        if row_words:
            row = trace_row(reader, registry, row_words[0], row_words[1:])
            row.letters = letters_of_key(reader, registry[row.type], row.key)
            if event_id is None:
                event_id = row.event or (None if row.is_erased else row.deleted_event)
        if event_id is not None:
            event = trace_event(reader, registry, event_id, seen, grace_s, may_be_queued=may_be_queued, needs_row=row is None)
            row = row or event.row
    return event, row


def explain_event(event: EventTrace, *, is_row_known: bool = False) -> Iterator[str]:
    """What a person is told of an event; its rows were searched unless one was asked for by its key."""
    if event.epoch is not None:
        yield f"Event {event.event_id} is number {event.seq} of {event.producer or 'a producer'}, epoch {event.epoch}."
    else:
        yield f"Event {event.event_id} is of no producer that this database or the queue knows."
    yield from _explain_state(event)
    for noted in event.noted:
        yield f"Ledger, {_time(noted.at)}: {noted.outcome}{f' ({noted.reason})' if noted.reason else ''}."
    if event.letter is not None:
        yield from _explain_letter(event.letter)
    elif event.state in ("dead", "held"):
        yield "It has no dead letter any more: it was discarded, or its letter is lost."
    if not is_row_known and event.row is None and event.state in ("stored", "superseded"):
        yield "No row names it: newer events have taken its place. Give the type and the key to see which."
    if event.unsearched:
        yield f"Not searched, for they are large: rows of {', '.join(event.unsearched)}."


def _explain_state(event: EventTrace) -> Iterator[str]:
    if event.state in _OUTCOMES:
        yield _OUTCOMES[event.state]
    elif event.state == "queued" and event.seen is not None and event.seen.where == "queue":
        yield f"It waits in the queue, {event.seen.place} newer messages are behind its own."
    elif event.state == "queued":
        yield "A worker has it in hand: it is being written, or comes back when the worker's lease ends."
    elif event.state == "not_given":
        yield f"Its producer is known to have sent {event.high_water} events, which are numbered from 0: not this one, so far."
        yield (
            "It closed, so no more will come."
            if event.is_closed
            else "If it was accepted, the producer still has it, or was killed."
        )
    elif event.gap is not None:
        yield from _explain_gap(event)


def _explain_gap(event: EventTrace) -> Iterator[str]:
    assert event.gap is not None, "asked for a gap only"
    if event.state == "pending":
        yield "It is not there yet: later events were told less than the grace time ago, so it may be on its way."
    elif event.state == "queued_or_missing":
        yield "It is not in the database. It waits in the queue, which cannot be looked into now, or it is missing."
    else:
        yield "It is missing: later events of its producer have come, and it is neither in the database nor in the queue."
        yield "Unless its producer still has it in its spool, it is lost."
    yield f"It was published about between {_time(event.gap.published_after)} and {_time(event.gap.published_before)}."


def explain_row(row: RowTrace, event: EventTrace | None) -> Iterator[str]:
    """What a person is told of a row, beside an event of its or of another's."""
    yield f"Row {row.type} {', '.join(f'{name}={value}' for name, value in row.key.items())}: {_ROWS[row.state]}"
    if row.parent_deleted_at is not None:
        yield f"Its parent was deleted as of {_time(row.parent_deleted_at)}."
    if row.is_erased:
        yield f"It was erased with the person it was about, or with its parent: all up to {_time(row.deleted_at)} is refused."
    elif row.deleted_event is not None:
        yield f"Its last delete is event {row.deleted_event}, as of {_time(row.deleted_at)}."
    if row.event is not None:
        yield f"Its newest event is {row.event}, as of {_time(row.version)}; it was last written {_time(row.stored_at)}."
    if event is not None:
        yield from _explain_part(row, event.event_id)
    if row.letters:
        yield f"Dead letters of this key: {len(row.letters)}."
    for letter in row.letters:
        yield from _explain_letter(letter)


def _explain_part(row: RowTrace, event_id: UUID) -> Iterator[str]:
    if event_id == row.event:
        yield "That is the newest event of this row."
    elif event_id == row.deleted_event:
        yield "That is the last delete of this row."
    elif columns := [name for name in row.columns_of.get(str(event_id), ()) if name[:1] != "@"]:
        yield f"It is not the newest event of this row, but still the one of {', '.join(columns)}."
    elif not row.is_erased and (row.event is not None or row.deleted_event is not None):
        yield f"This row holds nothing of it: event {row.event or row.deleted_event} is newer, or it was another row's."


def _explain_letter(letter: LetterSeen) -> Iterator[str]:
    yield f"Dead letter {letter.id}, {letter.state} since {_time(letter.at)}: {letter.reason}. {letter.detail}"


def _time(time: datetime | None) -> str:
    return f"{time:%F %T} UTC" if time is not None else "a time that is not known"
