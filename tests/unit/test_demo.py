"""The demo's texts, its events, and the comparison that must not know Penstock."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from penstock_worker.demo import compare
from penstock_worker.demo.catalogues import Catalogue, find_catalogues
from penstock_worker.demo.events import Side, events_of

HEADER = r"""
msgid ""
msgstr ""
"Last-Translator: Ada <ada@example.org>\n"
"POT-Creation-Date: 2026-11-01 12:00+0200\n"
"PO-Revision-Date: YEAR-MO-DA HO:MI+ZONE\n"
"Content-Type: text/plain; charset=UTF-8\n"
"""
MESSAGES = r"""
#. for the gate
#: gate.py:7
#, fuzzy
msgctxt "door"
msgid "open it"
msgstr "öffne es"

msgid "%d gate"
msgid_plural "%d gates"
msgstr[0] "%d Tor"
msgstr[1] "%d Tore"

msgid "not yet"
msgstr ""

#~ msgid "old"
#~ msgstr "alt"
"""


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    path = tmp_path / "de" / "LC_MESSAGES" / "django.po"
    path.parent.mkdir(parents=True)
    path.write_text(HEADER + MESSAGES, encoding="utf-8")
    return Catalogue("django/de/LC_MESSAGES/django.po", path)


def test_a_file_is_a_session(catalogue):
    session, _ = catalogue.read()

    assert session.model_dump() == {
        "session_id": "django/de/LC_MESSAGES/django.po",
        "user_id": "Ada <ada@example.org>",
        "source_language": "en",
        "target_language": "de",
        "status": "completed",
        "total_tasks": 4,
        "completed_tasks": 1,
        "failed_tasks": 0,
        "started_at": datetime(2026, 11, 1, 10, 0, tzinfo=UTC),
        "ended_at": None,
        "metadata": {
            "domain": "django",
            "headers": {
                "Last-Translator": "Ada <ada@example.org>",
                "POT-Creation-Date": "2026-11-01 12:00+0200",
                "PO-Revision-Date": "YEAR-MO-DA HO:MI+ZONE",
                "Content-Type": "text/plain; charset=UTF-8",
            },
            "comment": "",
        },
    }


def test_a_message_is_a_task(catalogue):
    _, tasks = catalogue.read()

    told = [(task.task_id[-6:], task.status, task.source_text, task.translated_text, task.tokens) for task in tasks]
    assert told == [
        ("#00000", "pending", "open it", "öffne es", 4),  # fuzzy: somebody has to look at it
        ("#00001", "completed", "%d gate", "%d Tor", 4),
        ("#00002", "pending", "not yet", None, 2),
        ("#00003", "pending", "old", "alt", 2),
    ]
    assert [task.metadata for task in tasks] == [
        {"context": "door", "comment": "for the gate", "occurrences": ["gate.py:7"], "flags": ["fuzzy"], "is_fuzzy": True},
        {"plural": "%d gates", "plural_forms": ["%d Tor", "%d Tore"]},
        {},
        {"is_obsolete": True},
    ]
    assert tasks[1].created_at == tasks[1].started_at == datetime(2026, 11, 1, 10, 0, 0, 1_000, tzinfo=UTC)
    assert tasks[2].started_at is None


def test_the_comparison_expects_the_same_rows(catalogue):
    """Two programs that share no code read one file."""
    session, tasks = catalogue.read()
    records = [("tasks", task.model_dump()) for task in tasks] + [("sessions", session.model_dump())]

    expected = list(compare.expected_rows(catalogue.session_id, catalogue.path))

    assert expected == [(table, row | {"_extra": None}) for table, row in records]


@pytest.mark.parametrize("number", [0, 1, 300, 700, 1_200])
def test_the_parts_of_a_record_make_the_whole(number):
    """What the two sides send amounts to the records of the file, each field set."""
    catalogue = find_catalogues()[number]
    session, tasks = catalogue.read()
    events = [event for side in Side for event in events_of(catalogue, side)]

    rows: dict[str, dict] = {}
    for event in sorted(events, key=lambda event: event.moment):
        data = event.record.model_dump(exclude_unset=True)
        rows.setdefault(data.get("task_id", data["session_id"]), {}).update(data)

    assert rows == {
        **{task.task_id: task.model_dump() for task in tasks},
        session.session_id: session.model_dump(),
    }
    assert all(task.model_fields_set == set(type(task).model_fields) for task in tasks)


def test_some_tasks_are_sent_in_parts_by_both_sides():
    events = [event for side in Side for event in events_of(find_catalogues()[0], side)]
    tasks = [event for event in events if hasattr(event.record, "task_id")]

    sides = {event.side for event in tasks if len([e for e in tasks if e.record.task_id == event.record.task_id]) == 3}

    assert sides == {Side.FRONT, Side.BACK}


def test_every_difference_is_told(monkeypatch, catalogue):
    monkeypatch.setattr(
        compare, "catalogue_paths", lambda: {catalogue.session_id: catalogue.path, "django/other": Path("absent")}
    )
    stored = {"sessions": {}, "tasks": {}}
    for table, row in compare.expected_rows(catalogue.session_id, catalogue.path):
        stored[table][row.get("task_id", row["session_id"])] = row | {"_version": 1}
    task = "django/de/LC_MESSAGES/django.po#0000"
    good, _ = compare.compare(stored, 1)
    stored["tasks"][f"{task}0"]["metadata"] = {"is_fuzzy": 1}
    del stored["tasks"][f"{task}1"]
    stored["tasks"][f"{task}2"]["_version"] = None
    stored["tasks"]["x"] = {"task_id": "x", "session_id": catalogue.session_id, "_version": None}
    stored["tasks"]["y"] = {"task_id": "y", "session_id": "django/other", "_version": 1}

    counts, lines = compare.compare(stored, 1)

    assert good == {"stored": 5, "lost": 0, "extra": 0, "mismatched": 0, "sessions": 1, "tasks": 4}
    assert counts == {"stored": 3, "lost": 2, "extra": 1, "mismatched": 1, "sessions": 1, "tasks": 4}
    assert [line.split(":")[0] for line in lines] == ["lost", "lost", "extra", "mismatched"]


def test_the_comparison_imports_nothing_of_penstock():
    program = (
        "import runpy, sys; runpy.run_path(sys.argv[1]); print([name for name in sys.modules if name.startswith('penstock')])"
    )

    done = subprocess.run([sys.executable, "-P", "-c", program, compare.__file__], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
