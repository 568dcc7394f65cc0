"""`penstock migrate` as a person uses it: what it prints, and how it ends."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from penstock_worker.cli import main

OURS = ("--package", "penstock_schemas")
TYPES = """
from penstock_schemas import Declaration, Record

class Visit(Record):
    __record__ = Declaration(type="visits.visit", table="visits.visits", key="visit_id")
    visit_id: str
    page: str | None = None
"""


@pytest.fixture
def penstock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, empty_database_url: str, capsys: pytest.CaptureFixture[str]):
    """Runs the command line on an empty database, with a module of record types beside it."""
    (tmp_path / "visit_records.py").write_text(TYPES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setenv("PENSTOCK_DATABASE_URL", empty_database_url)
    monkeypatch.setenv("PENSTOCK_RECORDS", "visit_records")
    monkeypatch.setenv("PENSTOCK_MIGRATIONS", "visit_records=versions")

    def run(*words: str, **settings: str) -> tuple[int | str | None, list[str]]:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["penstock", "migrate", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return ended.value.code or 0, (printed.out + printed.err).splitlines()

    yield run
    sys.modules.pop("visit_records", None)


def test_from_nothing_to_a_table_and_back(penstock: Any, tmp_path: Path):
    assert penstock("up") == (0, [f"applied penstock_schemas:000{number}" for number in range(1, 6)])
    assert penstock("up", "--roles") == (0, ["the database is up to date"])
    code, (line,) = penstock("create", "-m", "visits")
    (path,) = (tmp_path / "versions").glob("*_visits.py")
    revision = path.name.split("_")[3]
    assert (code, line) == (0, f"wrote {path}")
    assert penstock("status")[1][1] == f"visit_records: at nothing, to apply: {revision}"
    assert penstock("steps", "1") == (0, [f"visit_records: at {revision}, up to date"])
    assert penstock("create", "-m", "x") == (0, ["nothing has changed in visit_records: no migration was written"])
    assert penstock("steps", "-1") == (0, [f"visit_records: at nothing, to apply: {revision}"])
    assert penstock("up") == (0, [f"applied visit_records:{revision}"])
    assert penstock("down", "--to", "base")[0] == 0

    code, lines = penstock("status", "--json")
    assert code == 0
    assert json.loads("\n".join(lines)) == {
        "penstock_schemas": {
            "package": "penstock_schemas",
            "current": "0005",
            "head": "0005",
            "pending": [],
            "is_further": False,
        },
        "visit_records": {
            "package": "visit_records",
            "current": None,
            "head": revision,
            "pending": [revision],
            "is_further": False,
        },
    }


@pytest.mark.parametrize(
    ("words", "settings", "line"),
    [
        (["create", "-m", "x"], {}, "penstock: the database is not migrated (penstock_schemas): run `penstock migrate up`"),
        (["down"], {}, "penstock: visit_records: there are no migrations in "),
        (["down", *OURS], {}, "penstock: penstock_schemas: Relative revision -1 didn't produce 1 migrations"),
        (["down", "--to", "nowhere", *OURS], {}, "penstock: penstock_schemas: Can't locate revision identified by 'nowhere'"),
        (["down", "--package", "who"], {}, "penstock: no package 'who' declares record types; there are "),
        (["up"], {"PENSTOCK_MIGRATIONS": ""}, "penstock: visit_records declares record types but no migrations: give it "),
        (["up"], {"PENSTOCK_MIGRATIONS": "versions"}, "penstock: PENSTOCK_MIGRATIONS: 'versions' is not package=folder"),
        (["up"], {"PENSTOCK_DATABASE_URL": "postgresql://x@127.0.0.1:1/x"}, "penstock: the database says: connection failed"),
        (["up"], {"PENSTOCK_DATABASE_URL": "postgresql://[x"}, "penstock: PENSTOCK_DATABASE_URL: has a wrong address or port"),
        (["up"], {"PENSTOCK_RECORDS": "nowhere"}, "penstock: record module 'nowhere' cannot be imported"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(penstock: Any, words: list[str], settings: dict[str, str], line: str):
    (code, lines) = penstock(*words, **settings)

    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith(line)
