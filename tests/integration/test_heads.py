"""A look whether a database has the newest migrations agrees with Alembic, which it does without."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from alembic.script import ScriptDirectory

from penstock_migrations import heads
from penstock_migrations.packages import Package
from penstock_schemas.registry import load_registry

OWN = Path(heads.__file__).parent
REGISTRY = load_registry(())


def is_at_heads(url: str) -> bool:
    with psycopg.connect(url, autocommit=True) as connection:
        return heads.is_at_heads(connection, REGISTRY)


def test_a_migrated_database_is_at_heads(database_url: str, empty_database_url: str) -> None:
    assert is_at_heads(database_url)
    assert not is_at_heads(empty_database_url)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE penstock.alembic_version SET version_num = '0001'")
    assert not is_at_heads(database_url)


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, []),
        ({"a": "revision = 'a'\ndown_revision = None"}, ["a"]),
        (
            {
                "a": 'revision: str = "a"\ndown_revision: str | None = None',
                "b": "revision = 'b'\ndown_revision = 'a'",
                "c": "revision = 'c'\ndown_revision = ('a',)",
            },
            ["b", "c"],
        ),
        (
            {
                "a": "revision = 'a'\ndown_revision = None",
                "b": "revision = 'b'\ndown_revision = 'a'",
                "c": "revision = 'c'\ndown_revision = 'a'",
                "d": "revision = 'd'\ndown_revision = ('b', 'c')",
            },
            ["d"],
        ),
        ({"a": "revision = make()\ndown_revision = None"}, None),
        ({"a": "revision = 'a'"}, None),
    ],
)
def test_heads_are_what_no_other_follows(tmp_path: Path, files: dict[str, str], found: list[str] | None) -> None:
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(text + "\n")
    assert heads._heads(Package("shop", tmp_path, ())) == found


def test_it_reads_the_same_as_alembic() -> None:
    script = ScriptDirectory(str(OWN), version_locations=[str(OWN / "versions")])
    assert heads._heads(Package("penstock_schemas", OWN / "versions", ())) == sorted(script.get_heads())


def test_it_does_without_alembic() -> None:
    code = "import sys, penstock_migrations.heads; sys.exit('alembic' in sys.modules or 'sqlalchemy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
