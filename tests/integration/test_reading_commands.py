"""`penstock status` and `penstock dead-letters list`, run as a person runs them."""

from __future__ import annotations

import json

import psycopg
import pytest

from penstock_producers import Producer
from penstock_schemas.records.translation import TranslationSession
from tests.commands import penstock_here as penstock


def test_status_tells_what_waits(database_url, broker_url):
    urls = {"PENSTOCK_DATABASE_URL": database_url, "PENSTOCK_BROKER_URL": broker_url}
    before = penstock("status", "--json", **urls)
    with Producer(broker_url, batch_events=1) as producer:
        producer.publish_many([TranslationSession(session_id="a"), TranslationSession(session_id="b")])
        assert producer.flush()

        after = penstock("status", "--json", **urls)

    assert (before.returncode, after.returncode) == (0, 0), before.stderr + after.stderr
    empty = {"queue": "penstock.events", "workers": [], "outcomes": {}, "producers": [], "last_seen_s": None}
    first, second = json.loads(before.stdout), json.loads(after.stdout)
    assert {name: first[name] for name in empty} == empty
    assert first["rows"]["translation.session"] == 0
    assert first["dead_letters"] == {"dead": 0, "held": 0}
    assert (first["waiting_messages"], second["waiting_messages"]) == (0, 2)


def test_dead_letters_are_listed_as_they_are(database_url):
    """What a stranger sent is text: no markup, no control of the terminal."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO penstock.dead_letters (id, state, reason, detail, fingerprint, type, producer, payload)"
            " VALUES (gen_random_uuid(), 'dead', 'schema', E'[red]no[/red]\\x1b[2J', 'f', 'a.b', 'web', '\\x00')"
        )

    for_people = penstock("dead-letters", "list", PENSTOCK_DATABASE_URL=database_url)
    as_json = penstock("dead-letters", "list", "--json", "--state", "dead", PENSTOCK_DATABASE_URL=database_url)
    held = penstock("dead-letters", "list", "--json", "--state", "held", PENSTOCK_DATABASE_URL=database_url)

    assert "[red]no[/red]" in for_people.stdout
    assert "\x1b" not in for_people.stdout
    found = json.loads(as_json.stdout)
    assert [(group["reason"], group["letters"]) for group in found["groups"]] == [("schema", 1)]
    assert [(letter["detail"], letter["payload_bytes"]) for letter in found["letters"]] == [("[red]no[/red]\x1b[2J", 1)]
    assert json.loads(held.stdout) == {"groups": [], "has_more_groups": False, "letters": []}


def test_groups_without_number_are_listed_as_the_largest(database_url):
    """A producer that puts a number into its type's name makes a group of each letter."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO penstock.dead_letters (id, state, reason, detail, fingerprint, payload)"
            " SELECT gen_random_uuid(), 'held', 'unknown_type', '', 'f' || greatest(n, 2), '' FROM generate_series(1, 600) AS n"
        )

    for_people = penstock("dead-letters", "list", PENSTOCK_DATABASE_URL=database_url)
    as_json = penstock("dead-letters", "list", "--json", PENSTOCK_DATABASE_URL=database_url)

    found = json.loads(as_json.stdout)
    assert (len(found["groups"]), found["has_more_groups"], found["groups"][0]["letters"]) == (500, True, 2)
    assert "the 500 largest" in for_people.stdout


@pytest.mark.parametrize("words", [("status",), ("status", "--json"), ("dead-letters", "list")])
def test_a_database_that_is_away_is_one_line(words):
    done = penstock(*words)

    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "PENSTOCK_DATABASE_URL" in done.stderr


@pytest.mark.parametrize("broker", ["redis://127.0.0.1:1/0", "amqp://guest:guest@127.0.0.1:1//"])
def test_a_broker_that_is_away_is_one_line(database_url, broker):
    done = penstock("status", PENSTOCK_DATABASE_URL=database_url, PENSTOCK_BROKER_URL=broker)

    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "PENSTOCK_BROKER_URL" in done.stderr


def test_a_database_that_is_not_migrated_is_one_line(empty_database_url):
    done = penstock("status", PENSTOCK_DATABASE_URL=empty_database_url)

    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "penstock migrate up" in done.stderr
