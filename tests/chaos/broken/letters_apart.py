"""Dead letters are gathered and written by transactions of their own: what a child has gathered goes down with it."""

from __future__ import annotations

from typing import Any

from penstock_worker.ingest import write
from penstock_worker.ingest.account import letters_of
from penstock_worker.ingest.decode import Decoded
from penstock_worker.store.connection import connect_with
from penstock_worker.store.dead_letters import Letter, record_letters

#: So many make a transaction worth it, in the eyes of whoever broke it.
_TOGETHER = 20

_transaction = write.Writer._transaction
_gathered: list[Letter] = []


def _transaction_then_letters(writer: write.Writer, decoded: Decoded, *args: Any, **options: Any) -> str:
    answers = _transaction(writer, decoded, *args, **options)
    _gathered.extend(letter for letter, _ in letters_of(decoded))
    if len(_gathered) >= _TOGETHER:
        with connect_with(writer.settings)() as connection, connection.transaction():
            record_letters(connection, _gathered)
        _gathered.clear()
    return answers


write.Writer._transaction = _transaction_then_letters  # type: ignore[method-assign,assignment]
write.record_letters = lambda *_: None  # type: ignore[attr-defined]
