"""
What a batch has to answer: those who wait for its events, and those who ask about others.

Both are told from the ledger's entries, so that an answer never says more than is noted. The result is one line of text for
each address and epoch, `<address> <answer>`, joined to one ASCII text: it travels from the pool's child as a `repr`, which
Celery makes of plain text best.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from penstock_schemas.answer import UNKNOWN, Answer, SeqRange
from penstock_worker.ingest.account import entries_by_envelope
from penstock_worker.ingest.decode import Decoded
from penstock_worker.seq_ranges import from_multirange, intersect, join, subtract
from penstock_worker.store.connection import Connection
from penstock_worker.store.ledger import Entry, find_outcomes, merge_entries

__all__ = ["ANSWERS", "MAX_ANSWERS_CHARACTERS", "AddressedAnswer", "answers_to", "join_answers", "split_answers"]

#: Characters of all answers of a batch. What is left out is as good as lost on the way: it is asked again.
MAX_ANSWERS_CHARACTERS = 1024 * 1024
#: Ranges in one answer; of a longer one the rest is asked again.
MAX_ANSWER_RANGES = 5_000
_SEPARATOR = ";"

#: Where the answers are in the result of `penstock.write_batch`; absent when there are none.
ANSWERS = "answers"


class AddressedAnswer(NamedTuple):
    """An answer and where it goes."""

    address: str
    line: str


def answers_to(connection: Connection, decoded: Decoded) -> str:
    """
    The answers that a batch owes; see `split_answers`.

    Args:
        connection: In the batch's transaction, so that a query sees the events of the same batch.
        decoded: The batch, its outcomes final and its entries written.
    """
    return join_answers([*_to_waiters(decoded), *_to_queries(connection, decoded)])


def join_answers(answers: Iterable[AddressedAnswer]) -> str:
    """Answers as one text of bounded size."""
    lines: list[str] = []
    size = 0
    for answer in answers:
        line = " ".join(answer)
        size += len(line) + 1
        if size > MAX_ANSWERS_CHARACTERS:
            break
        lines.append(line)
    return _SEPARATOR.join(lines)


def split_answers(text: str) -> list[AddressedAnswer]:
    """Back to answers."""
    return [AddressedAnswer(*line.split(" ", 1)) for line in text.split(_SEPARATOR)] if text else []


def _to_waiters(decoded: Decoded) -> Iterator[AddressedAnswer]:
    """Those whose events are in the batch."""
    if not any(envelope.reply_to for envelope in decoded.envelopes):
        return
    told: dict[str, list[Entry]] = defaultdict(list)
    for envelope, entries in entries_by_envelope(decoded):
        if envelope.reply_to:
            # Why it was dropped is not told, and must not keep ranges apart.
            told[envelope.reply_to] += [entry._replace(reason=None) for entry in entries]
    for address, entries in told.items():
        outcomes: dict[UUID, list[tuple[str, int, int]]] = defaultdict(list)
        for entry in merge_entries(entries):
            outcomes[entry.epoch].append((entry.outcome, entry.first, entry.last))
        yield from (_answer(address, epoch, parts) for epoch, parts in outcomes.items())


def _to_queries(connection: Connection, decoded: Decoded) -> Iterator[AddressedAnswer]:
    """Those who ask, from the ledger: all in one look."""
    asked: dict[tuple[str, UUID], list[SeqRange]] = defaultdict(list)
    for envelope in decoded.envelopes:
        if envelope.query and envelope.reply_to and envelope.epoch:
            asked[envelope.reply_to, envelope.epoch] += [part for part in envelope.query if part[0] <= part[1]]
    of_epochs: dict[UUID, list[SeqRange]] = defaultdict(list)
    for (_, epoch), ranges in asked.items():
        of_epochs[epoch] += ranges
    known: dict[UUID, dict[str, list[SeqRange]]] = defaultdict(dict)
    for epoch, outcome, seqs in find_outcomes(connection, of_epochs):
        known[epoch][outcome] = from_multirange(seqs)
    for (address, epoch), ranges in asked.items():
        if ranges:
            yield _answer(address, epoch, _cut_out(known[epoch], join(ranges)))


def _cut_out(known: Mapping[str, Sequence[SeqRange]], asked: Sequence[SeqRange]) -> list[tuple[str, int, int]]:
    parts = [(outcome, *part) for outcome, ranges in known.items() for part in intersect(asked, ranges)]
    unknown = subtract(asked, [part for ranges in known.values() for part in ranges])
    return parts + [(UNKNOWN, *part) for part in unknown]


def _answer(address: str, epoch: UUID, parts: list[tuple[str, int, int]]) -> AddressedAnswer:
    parts.sort(key=lambda part: part[1])
    return AddressedAnswer(address, Answer(epoch, parts[:MAX_ANSWER_RANGES]).line())
