"""The ledger is written by transactions of its own, before and after that of the rows: it tells of what was rolled back."""

from __future__ import annotations

from typing import Any

from penstock_worker.ingest import write
from penstock_worker.ingest.account import entries_of
from penstock_worker.ingest.decode import Decoded
from penstock_worker.store.connection import connect_with
from penstock_worker.store.ledger import record_entries

_transaction = write.Writer._transaction


def _tell(writer: write.Writer, decoded: Decoded) -> None:
    with connect_with(writer.settings)() as connection:
        record_entries(connection, entries_of(decoded))


def _transaction_between(writer: write.Writer, decoded: Decoded, *args: Any, **options: Any) -> str:
    _tell(writer, decoded)
    answers = _transaction(writer, decoded, *args, **options)
    _tell(writer, decoded)
    return answers


write.Writer._transaction = _transaction_between  # type: ignore[method-assign,assignment]
write.record_entries = lambda *_: None  # type: ignore[attr-defined]
