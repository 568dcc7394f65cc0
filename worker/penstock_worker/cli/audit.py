"""`penstock audit`: what became of every event that producers have numbered, and which are missing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from penstock_schemas.answer import PRECEDENCE
from penstock_worker.cli.output import plain, print_json
from penstock_worker.errors import BrokerAway, ConfigurationError
from penstock_worker.settings import Settings, load_settings

if TYPE_CHECKING:
    from penstock_worker.queue_look import QueueLook
    from penstock_worker.store.audit import EpochAudit, Rules
    from penstock_worker.store.gaps import Gap, GapState

__all__ = ["read_since", "register"]

#: What a script may go by. 2 is a person's mistake, as with every command.
_EXIT_MISSING, _EXIT_UNPROVEN = 1, 3
#: Lines of gaps and of silent producers for people; `--json` has all.
LINES_SHOWN = 20
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
#: The states of gaps, and the word for people.
_STATES: dict[GapState, str] = {"pending": "pending", "queued_or_missing": "queued or missing", "missing": "missing"}
#: Columns that are there also when they are all zero.
_ALWAYS = ("sent", "stored", "dead", "missing")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("audit")(audit)


def audit(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    producer: Annotated[str | None, typer.Option(help="Only the producer of this name.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Only what was heard of since then: 90m, 24h, 7d, or a time in ISO 8601.")
    ] = None,
    grace_s: Annotated[
        float, typer.Option("--grace", min=0, help="Seconds that a gap may be on its way before it is missing.")
    ] = 60.0,
    silent_after_s: Annotated[
        float, typer.Option("--silent-after", min=0, help="Seconds of silence after which a producer counts as killed.")
    ] = 90.0,
) -> None:
    """
    Tell for every producer how many events it sent and what became of them.

    `missing` events were numbered, and are neither in the ledger nor in the queue. `unknown` is what a producer that was killed
    accepted and never sent: nobody can count it.

    Exit code 0: nothing is missing. 1: something is. 3: that could not be told, because the broker is away, or because events
    that are nowhere else may wait in RabbitMQ, which does not show them.
    """
    from penstock_worker.store.audit import Rules

    settings = load_settings()
    rules = Rules(grace_s, silent_after_s, producer, read_since(since))
    look, trouble = look_if_possible(settings)
    epochs = collect(settings, rules, look)
    if as_json:
        print_json(as_report(epochs, look, trouble))
    else:
        _show(epochs, look, trouble, Console())
    if any(epoch.in_gaps("missing") for epoch in epochs):
        raise typer.Exit(_EXIT_MISSING)
    if doubt := find_doubt(epochs, trouble):
        typer.echo(f"penstock: not proven: {doubt}", err=True)
        raise typer.Exit(_EXIT_UNPROVEN)


def look_if_possible(settings: Settings) -> tuple[QueueLook | None, str | None]:
    """What waits on the broker, or why that is not known: an audit can do without."""
    from penstock_worker.queue_look import look_at_queue

    try:
        return look_at_queue(settings), None
    except (BrokerAway, ConfigurationError) as exc:
        return None, f"the broker does not say what waits: {exc}"


def find_doubt(epochs: Iterable[EpochAudit], trouble: str | None) -> str | None:
    """Why nobody can say that nothing is missing, and what to do; one line, None where there is no doubt."""
    if trouble:
        what = "events that are nowhere else may wait there; ask again when it is back, or check PENSTOCK_BROKER_URL"
        return " ".join(f"{trouble}; {what}".split())
    hidden = sum(epoch.in_gaps("queued_or_missing") for epoch in epochs)
    if hidden:
        return f"{hidden:,} events are queued or missing, RabbitMQ does not show which; ask again when its queue is empty"
    return None


def collect(settings: Settings, rules: Rules, look: QueueLook | None) -> list[EpochAudit]:
    """
    Audit every epoch in one state of the database; call it after the look at the queue.

    Raises:
        ConfigurationError: The database cannot be reached, or is not migrated.
    """
    from penstock_worker.store import queries
    from penstock_worker.store.audit import audit_epochs, begin_audit

    with queries.open_reader(settings) as reader, begin_audit(reader):
        return list(audit_epochs(reader, rules, look))


def read_since(text: str | None, now: datetime | None = None) -> datetime | None:
    """
    A time: so long ago, or written out.

    Raises:
        ConfigurationError: It is neither.
    """
    if text is None:
        return None
    if match := re.fullmatch(r"(\d{1,9})([smhd])", text.strip()):
        try:
            return (now or datetime.now(UTC)) - timedelta(seconds=int(match[1]) * _UNITS[match[2]])
        except OverflowError as exc:
            raise ConfigurationError(f"--since {text}: that is before the year 1") from exc
    try:
        time = datetime.fromisoformat(text)
    except ValueError as exc:
        raise ConfigurationError(f"--since {text!r}: give 90m, 24h, 7d, or a time such as 2026-11-21T08:00+00:00") from exc
    return time if time.tzinfo else time.astimezone()


def as_report(epochs: Sequence[EpochAudit], look: QueueLook | None, trouble: str | None) -> dict[str, Any]:
    """What `--json` prints: sums per producer, and each of its epochs."""
    producers = [
        {"producer": name, **_sums(own), "epochs": [_as_json(epoch) for epoch in own]}
        for name, own in _by_producer(epochs).items()
    ]
    queue = look and {name: getattr(look, name) for name in ("waiting_messages", "held_messages", "is_readable")}
    return {"queue": queue, "broker_trouble": trouble, "doubt": find_doubt(epochs, trouble), "producers": producers}


def _by_producer(epochs: Iterable[EpochAudit]) -> dict[str, list[EpochAudit]]:
    groups: dict[str, list[EpochAudit]] = {}
    for epoch in epochs:
        groups.setdefault(epoch.producer, []).append(epoch)
    return groups


def _as_json(epoch: EpochAudit) -> dict[str, Any]:
    return {**asdict(epoch), "is_tail_unknown": epoch.state == "silent"}


def _sums(epochs: Sequence[EpochAudit]) -> dict[str, Any]:
    """The sums of some epochs; `unknown_tails` is of how many epochs the end is not known."""
    reasons: Counter[str] = Counter()
    for epoch in epochs:
        reasons.update(epoch.dropped)
    queued = [epoch.queued for epoch in epochs]
    return {
        "sent": sum(epoch.sent for epoch in epochs),
        "outcomes": {name: sum(epoch.outcomes.get(name, 0) for epoch in epochs) for name in PRECEDENCE},
        "dropped": dict(reasons),
        "queued": None if None in queued else sum(number or 0 for number in queued),
        **{state: sum(epoch.in_gaps(state) for epoch in epochs) for state in _STATES},
        "unknown_tails": sum(epoch.state == "silent" for epoch in epochs),
        "without_letter": sum(epoch.without_letter for epoch in epochs),
    }


def _show(epochs: list[EpochAudit], look: QueueLook | None, trouble: str | None, console: Console) -> None:
    console.print(plain(_of_queue(look, trouble), limit=400))
    if not epochs:
        console.print("no producer has been heard of")
        return
    console.print(_table({name: _sums(own) for name, own in _by_producer(epochs).items()}))
    lines = [_of_gap(epoch, gap) for epoch in epochs for gap in epoch.gaps if gap.state != "pending"]
    lines += [_of_tail(epoch) for epoch in epochs if epoch.state == "silent"]
    lines += [_of_letters(epoch) for epoch in epochs if epoch.without_letter]
    for line in lines[:LINES_SHOWN]:
        console.print(plain(line, limit=400))
    if len(lines) > LINES_SHOWN:
        console.print(f"and {len(lines) - LINES_SHOWN:,} lines more, see --json")


def _of_queue(look: QueueLook | None, trouble: str | None) -> str:
    if look is None:
        return f"{trouble}; without it a gap cannot be told from what is queued"
    held = "an unknown number" if look.held_messages is None else f"{look.held_messages:,}"
    waiting = f"{look.waiting_messages:,} messages wait, {held} are in workers' hands"
    return f"{waiting}; RabbitMQ does not show what is in them" if look.may_hide_events else waiting


def _table(sums: dict[str, dict[str, Any]]) -> Table:
    """One line per producer. What nobody has any of is left out, but for what is asked for first."""
    columns: dict[str, list[str]] = {"producer": [plain(name, limit=40) for name in sums]}
    values = list(sums.values())
    outcomes = {name: [each["outcomes"][name] for each in values] for name in values[0]["outcomes"]}
    numbers = {"sent": [each["sent"] for each in values], **outcomes}
    numbers |= {word: [each[state] for each in values] for state, word in _STATES.items()}
    numbers |= {"without a letter": [each["without_letter"] for each in values]}
    columns |= {name: [f"{cell:,}" for cell in cells] for name, cells in numbers.items() if any(cells) or name in _ALWAYS}
    columns["queued"] = ["?" if each["queued"] is None else f"{each['queued']:,}" for each in values]
    columns["unknown"] = [f"the end of {each['unknown_tails']:,}" if each["unknown_tails"] else "-" for each in values]
    table = Table(title="events by producer")
    for name in columns:
        table.add_column(name, justify="left" if name == "producer" else "right")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table


def _of_gap(epoch: EpochAudit, gap: Gap) -> str:
    after, before = (f"{time:%F %T}" if time else "?" for time in (gap.published_after, gap.published_before))
    who = (
        f"{epoch.producer} {epoch.epoch}: {gap.first} to {gap.last}"
        if gap.count > 1
        else f"{epoch.producer} {epoch.epoch}: {gap.first}"
    )
    return f"{_STATES[gap.state]}: {who}, {gap.count:,} events published about {after} to {before} UTC"


def _of_tail(epoch: EpochAudit) -> str:
    return (
        f"unknown: {epoch.producer} {epoch.epoch} was last heard of at {epoch.last_heard:%F %T} UTC and never closed; "
        f"what it accepted from number {epoch.sent} on, if anything, was not sent"
    )


def _of_letters(epoch: EpochAudit) -> str:
    return (
        f"without a letter: {epoch.producer} {epoch.epoch}, {epoch.without_letter:,} events that the ledger calls dead or held"
    )
