"""Every case of the corpus ends as it says, with a reason that a person can read, and costs its neighbours nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from penstock_schemas.registry import load_registry
from penstock_worker.ingest.write import Writer
from penstock_worker.settings import Settings
from tests.bad_input.case import Case
from tests.bad_input.corpus import CLASSES
from tests.servers.databases import PostgresServer


class Desk:
    """A writer that counts its tries, and a look at the letters."""

    def __init__(self, url: str) -> None:
        self.connection = psycopg.connect(url, autocommit=True)
        self.connection.execute(f'ALTER DATABASE "{self.connection.info.dbname}" SET synchronous_commit = off')  # for speed
        self.writer = Writer.of(Settings(database_url=url, dead_letter_rate_per_minute=10**9), load_registry())
        self.tries = 0
        transaction = self.writer._transaction

        def counted(*args: Any, **options: Any) -> None:
            self.tries += 1
            transaction(*args, **options)

        self.writer._transaction = counted  # type: ignore[method-assign]

    def close(self) -> None:
        self.writer.database.close()
        self.connection.close()

    def end(self, case: Case, *, is_redis: bool = True) -> tuple[dict[str, int], Counter[tuple[str, str]]]:
        """Write a case; events by outcome, and its letters by state and reason."""
        self.connection.execute("DELETE FROM penstock.dead_letters")
        result = self.writer.write([case.on_redis() if is_redis else case.on_rabbitmq()])
        letters = self.connection.execute("SELECT state, reason, detail FROM penstock.dead_letters").fetchall()
        for _, _, detail in letters:
            assert is_readable(detail), (case.name, detail)
        ends = {outcome: count for outcome, count in result.outcomes.items() if count}
        return ends, Counter((state, reason) for state, reason, _ in letters)

    def count_numbered(self) -> int:
        """Events that the ledger tells of."""
        found = self.connection.execute("SELECT coalesce(sum(upper(seqs) - lower(seqs)), 0) FROM penstock.ledger").fetchone()
        return int(found[0]) if found else 0


def is_readable(detail: str) -> bool:
    """One line of a few words, without anything that moves a cursor or turns the direction of writing."""
    return 0 < len(detail) <= 500 and detail.isprintable() and detail == detail.strip()


@pytest.fixture(scope="module")
def desk(postgres_server: PostgresServer, template_database: str) -> Iterator[Desk]:
    url = postgres_server.create_database(template_database)
    desk = Desk(url)
    yield desk
    desk.close()
    postgres_server.drop_database(url)


@pytest.mark.parametrize("name", CLASSES)
def test_each_case_ends_as_it_says(desk: Desk, name: str) -> None:
    cases = list(CLASSES[name]())
    numbered = desk.count_numbered()
    ended = {case.name: desk.end(case) for case in cases}
    expected = {case.name: (dict(case.ends), Counter(case.letters)) for case in cases}
    assert {case: end for case, end in ended.items() if end != expected[case]} == {}
    assert ended.keys() == expected.keys()
    assert desk.count_numbered() - numbered == sum(sum(case.ends.values()) for case in cases if case.is_numbered)


@pytest.mark.parametrize("name", ["headers", "content types"])
def test_what_only_rabbitmq_carries_ends_the_same(desk: Desk, name: str) -> None:
    """Headers are tables there, with types that JSON does not have."""
    for case in CLASSES[name]():
        assert desk.end(case, is_redis=False) == (dict(case.ends), Counter(case.letters)), case.name


def test_nothing_of_it_takes_a_second_try(desk: Desk) -> None:
    """
    All that is bad is found before PostgreSQL sees it: bad events are written with good ones, in one transaction.

    That is why good producers keep their pace beside bad ones; `python -m bench bad-input` measures it.
    """
    messages = [case.on_redis() for name in CLASSES.keys() - {"huge"} for case in CLASSES[name]()]
    before = desk.tries
    batches = [messages[start : start + 200] for start in range(0, len(messages), 200)]
    for batch in batches:
        desk.writer.write(batch)
    assert desk.tries - before == len(batches)
    assert len(messages) > 1_500


@pytest.mark.parametrize("start", [b'{"events":[{"a":"', b"", b'{"a":"'])
def test_no_quotation_mark_is_looked_at_twice(desk: Desk, start: bytes) -> None:
    """Each of a million could be the beginning of a text that never ends."""
    for middle in (rb"\"", rb'"\"', rb"[\"", rb'{"', b'"'):
        body = start + middle * 500_000
        ends, _ = desk.end(Case("quotation marks", body, {}))
        assert ends == {"dead": 1}
