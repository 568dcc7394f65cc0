"""A key as a person writes it, made what its columns' types say: a UUID in any form, a time in any zone."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg import sql

from penstock_schemas.record import RecordType
from penstock_worker.errors import ConfigurationError
from penstock_worker.store.connection import Connection

__all__ = ["key_texts"]


def key_texts(connection: Connection, record: RecordType, words: Sequence[str]) -> list[str]:
    """
    The texts of a key's columns as PostgreSQL writes them; one word for each.

    Raises:
        ConfigurationError: A word is no value of its column.
    """
    kinds = [str(record.by_name[name].kind) for name in record.key]
    values = [sql.SQL("{}::{}::text").format(word, sql.SQL(kind)) for word, kind in zip(words, kinds, strict=True)]
    try:
        row = connection.execute(sql.SQL("SELECT {}").format(sql.SQL(", ").join(values))).fetchone()
    except psycopg.DataError as exc:
        raise ConfigurationError(f"that is no key of {record.name}: {str(exc).splitlines()[0]}") from exc
    assert row is not None  # a SELECT without FROM has a row
    return [str(value) for value in row]
