"""
Whether PostgreSQL holds what the catalogues say: a program of its own that knows nothing of Penstock.

    python -P compare.py [--files N]        the database's URL is in PENSTOCK_DATABASE_URL

It reads the `.po` files again with polib and the two tables with psycopg, and compares every field of every row:

- a session for each file, named `django/<path inside the Django package>`; its language is the path's, its counts are the
  messages', its times the header's POT-Creation-Date and PO-Revision-Date, its user the header's Last-Translator
- a task for each message, named `<session>#<number in the file>`; its texts are msgid and msgstr (the first plural form where
  there are several), empty texts are NULL; its times are the file's plus one millisecond per number; a message without a
  translation is `pending` and has neither started nor completed; tokens are words; what else a message says is in `metadata`
- no field has a value that Penstock did not know (`_extra` is NULL), and no column is there that this page does not know

Rows that are in no file are `extra`, rows that are missing or were never filled are `lost`. With --files N the rows of the
first N files are compared; rows of the other files may be there (an earlier run's) or not.

Prints one JSON object {"stored", "lost", "extra", "mismatched", "sessions", "tasks"}, and the first differences on stderr.
Exit code 0 when all is equal, 1 when not, 2 when there is nothing to compare with.
"""

# ruff: noqa: T201  # it is a program, and prints
from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import polib
import psycopg
from psycopg.rows import dict_row

Row = dict[str, Any]

#: Differences that are told one by one.
SHOWN = 10


def main() -> int:
    """Compare, print, say it in the exit code."""
    parser = argparse.ArgumentParser(description="Compare the tables with the catalogues.")
    parser.add_argument("--files", type=int, default=None, help="how many files, the first ones; all by default")
    files = parser.parse_args().files
    try:
        with psycopg.connect(os.environ["PENSTOCK_DATABASE_URL"]) as connection:
            stored = {
                "sessions": stored_rows(connection, "sessions", "session_id"),
                "tasks": stored_rows(connection, "tasks", "task_id"),
            }
    except KeyError:
        print("PENSTOCK_DATABASE_URL is not set", file=sys.stderr)
        return 2
    except psycopg.Error as exc:
        print(f"the database cannot be read: {str(exc).splitlines()[0]}", file=sys.stderr)
        return 2
    summary, differences = compare(stored, files)
    for line in differences[:SHOWN]:
        print(line, file=sys.stderr)
    print(json.dumps(summary))
    return 1 if summary["lost"] or summary["extra"] or summary["mismatched"] else 0


def compare(stored: dict[str, dict[str, Row]], files: int | None) -> tuple[dict[str, int], list[str]]:
    """The counts, and a line for each difference."""
    paths = catalogue_paths()
    lost, extra, mismatched, found = [], [], [], 0
    expected: dict[str, dict[str, Row]] = {"sessions": {}, "tasks": {}}
    for session_id, path in list(paths.items())[:files]:
        for table, row in expected_rows(session_id, path):
            expected[table][row["session_id" if table == "sessions" else "task_id"]] = row
    for table, rows in expected.items():
        for key, row in rows.items():
            there = stored[table].get(key)
            if there is None or there["_version"] is None:
                lost.append(f"lost: {table} {key}")
                continue
            found += 1
            mismatched += [f"mismatched: {table} {key}: {line}" for line in differing(row, there)][:1]
    skipped = set(paths) - set(expected["sessions"])
    for table, rows in stored.items():
        extra += [
            f"extra: {table} {key}"
            for key, row in rows.items()
            if key not in expected[table] and row["session_id"] not in skipped
        ]
    counts = {"stored": found, "lost": len(lost), "extra": len(extra), "mismatched": len(mismatched)}
    return {**counts, **{table: len(rows) for table, rows in expected.items()}}, [*lost, *extra, *mismatched]


def differing(expected: Row, there: Row) -> Iterator[str]:
    """The fields in which a row differs."""
    for name, value in there.items():
        if name == "_version":
            continue
        if name not in expected:
            yield f"{name} is unknown"
        elif canonical(value) != canonical(expected[name]):
            yield f"{name} is {value!r}, not {expected[name]!r}"
    for name in expected.keys() - there.keys():
        yield f"{name} has no column"


def canonical(value: Any) -> Any:
    """JSON by its text, since true is 1 in Python and not in JSON."""
    return json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else value


def stored_rows(connection: psycopg.Connection[Any], table: str, key: str) -> dict[str, Row]:
    """All rows by key: the columns that are the record's, and `_version` and `_extra`."""
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(f"SELECT * FROM translation.{table}")
        return {
            row[key]: {name: value for name, value in row.items() if not name.startswith("_") or name in ("_version", "_extra")}
            for row in cursor
        }


def catalogue_paths() -> dict[str, Path]:
    """Every file by its session's id, in the order of the paths."""
    spec = find_spec("django")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("Django is not installed")
    root = Path(spec.submodule_search_locations[0])
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.po"))
    return {f"django/{name}": root / name for name in names}


def expected_rows(session_id: str, path: Path) -> Iterator[tuple[str, Row]]:
    """The rows that one file must have given."""
    file = polib.pofile(str(path))
    created, revised = header_time(file, "POT-Creation-Date"), header_time(file, "PO-Revision-Date")
    for number, entry in enumerate(file):
        yield "tasks", expected_task(session_id, number, entry, created, revised)
    yield (
        "sessions",
        {
            "session_id": session_id,
            "user_id": file.metadata.get("Last-Translator") or None,
            "source_language": "en",
            "target_language": path.parent.parent.name,
            "status": "completed",
            "total_tasks": len(file),
            "completed_tasks": len(file.translated_entries()),
            "failed_tasks": 0,
            "started_at": created,
            "ended_at": revised,
            "metadata": {"domain": path.stem, "headers": file.metadata, "comment": file.header},
            "_extra": None,
        },
    )


def expected_task(session_id: str, number: int, entry: Any, created: datetime | None, revised: datetime | None) -> Row:
    """The row of one message."""
    is_done = entry.translated()
    late = timedelta(milliseconds=number)
    text = entry.msgstr_plural[min(entry.msgstr_plural)] if entry.msgstr_plural else entry.msgstr
    return {
        "task_id": f"{session_id}#{number:05d}",
        "session_id": session_id,
        "sequence": number,
        "status": "completed" if is_done else "pending",
        "source_text": entry.msgid,
        "translated_text": text or None,
        "model": "human",
        "tokens": len(f"{entry.msgid} {text}".split()),
        "error": None,
        "retry_count": 0,
        "created_at": None if created is None else created + late,
        "started_at": None if created is None or not is_done else created + late,
        "completed_at": None if revised is None or not is_done else revised + late,
        "metadata": expected_metadata(entry),
        "_extra": None,
    }


def expected_metadata(entry: Any) -> Row:
    """What a message says beside its text."""
    forms = [entry.msgstr_plural[index] for index in sorted(entry.msgstr_plural)]
    previous = [entry.previous_msgctxt, entry.previous_msgid, entry.previous_msgid_plural]
    metadata = {
        "context": entry.msgctxt,
        "plural": entry.msgid_plural,
        "plural_forms": forms if any(forms) else None,
        "comment": entry.comment,
        "translator_comment": entry.tcomment,
        "occurrences": [f"{name}:{line}" if line else name for name, line in entry.occurrences],
        "flags": entry.flags,
        "is_fuzzy": entry.fuzzy,
        "is_obsolete": entry.obsolete == 1,
        "previous": previous if any(previous) else None,
    }
    return {name: value for name, value in metadata.items() if value}


def header_time(file: Any, name: str) -> datetime | None:
    """A date of the header, with its zone; None where there is none."""
    try:
        return datetime.strptime(file.metadata[name], "%Y-%m-%d %H:%M%z")
    except (KeyError, ValueError):
        return None


if __name__ == "__main__":
    sys.exit(main())
