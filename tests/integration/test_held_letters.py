"""Held letters go by themselves once they can be stored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from penstock_schemas.registry import Registry, load_registry
from penstock_worker.app import create_app
from penstock_worker.ingest.message import RawMessage
from penstock_worker.maintenance.held import HeldTask
from penstock_worker.settings import Settings
from tests.replaying import VERSION, Office, event, without

JOB = "scheduler.job"
FEWER = without(JOB, "scheduler.execution")


@pytest.fixture
def office(database_url: str) -> Iterator[Office]:
    """Its worker does not know jobs yet."""
    office = Office(database_url, FEWER)
    yield office
    office.close()


def jobs(count: int, version: int = VERSION) -> list[bytes]:
    return [event(JOB, {"id": f"j{n:04d}", "name": "good"}, version) for n in range(count)]


def run(office: Office, registry: Registry | None = None, **settings: Any) -> dict[str, Any]:
    return HeldTask(office.settings.model_copy(update=settings), registry or load_registry()).run()


def pauses(office: Office) -> list[tuple[Any, ...]]:
    """Tries, and seconds until the next one."""
    return office.query(
        "SELECT tries, round(extract(epoch FROM until - now()) / 10) * 10 FROM penstock.replay_pauses ORDER BY fingerprint"
    )


def end_pauses(office: Office) -> None:
    office.query("UPDATE penstock.replay_pauses SET until = now()")


def count(office: Office, table: str = "scheduler.jobs") -> int:
    (found,) = office.query(f"SELECT count(*) FROM {table}")[0]
    return int(found)


def test_nothing_is_held(office: Office) -> None:
    assert run(office) == {"letters": 0, "remaining": 0}


def test_one_goes_first_and_the_others_wait(office: Office) -> None:
    """A worker that knows fewer types than the others is just one more reason to wait."""
    office.write(*jobs(20))

    assert run(office, FEWER) == {"letters": 1, "remaining": 1, "held": 1}
    assert pauses(office) == [(1, 30)]
    assert run(office) == {"letters": 0, "remaining": 0}

    end_pauses(office)
    assert run(office, FEWER)["letters"] == 1
    assert pauses(office) == [(2, 60)]

    end_pauses(office)
    assert run(office) == {"letters": 18, "remaining": 0, "stored": 18}
    # The two that were tried in vain come last.
    assert run(office) == {"letters": 2, "remaining": 0, "stored": 2}
    assert (count(office), office.letters(), pauses(office)) == (20, [], [])
    assert office.outcomes() == {"stored": 20}


def test_pauses_grow_up_to_a_limit(office: Office) -> None:
    office.write(*jobs(1))
    for expected in (30, 60, 120, 150, 150):
        end_pauses(office)
        run(office, FEWER, held_replay_max_pause_s=150)
        assert pauses(office)[0][1] == expected


def test_a_run_takes_so_many_and_the_next_one_goes_on(office: Office) -> None:
    office.write(*jobs(25))

    taken = [run(office, held_letters_per_run=10)["letters"] for _ in range(4)]

    assert taken == [10, 10, 5, 0]
    assert office.outcomes() == {"stored": 25}


def test_a_table_that_was_migrated(office: Office) -> None:
    office.writer = office.open_writer()
    office.query("ALTER TABLE scheduler.jobs RENAME name TO title")
    office.write(*jobs(3))
    assert run(office) == {"letters": 1, "remaining": 1, "held": 1}

    office.query("ALTER TABLE scheduler.jobs RENAME title TO name")
    end_pauses(office)

    assert (run(office)["stored"], run(office)["stored"]) == (2, 1)
    assert (count(office), office.letters()) == (3, [])


def test_a_sick_letter_keeps_the_others_waiting_once(office: Office) -> None:
    """The table takes all but the first letter."""
    office.write(*jobs(5))
    first = office.query("SELECT seq FROM penstock.dead_letters ORDER BY id LIMIT 1")[0][0]
    office.query(f"ALTER TABLE scheduler.jobs ADD CONSTRAINT well CHECK (id <> 'j{first:04d}')")

    assert run(office) == {"letters": 1, "remaining": 1, "held": 1}
    # What it is held for is another reason now, whose own first try it is.
    run(office)
    end_pauses(office)
    run(office)

    assert (count(office), office.letters()) == (4, [("held", "constraint")])


def test_a_clock_that_was_ahead(office: Office) -> None:
    office.writer = office.open_writer()
    (now,) = office.query("SELECT (extract(epoch FROM now()) * 1000000)::bigint")[0]
    office.write(*jobs(3, now + 3_600_000_000))
    assert office.letters() == [("held", "clock_ahead")] * 3

    assert run(office) == {"letters": 0, "remaining": 0}
    assert run(office, clock_ahead_limit_s=4_000) == {"letters": 3, "remaining": 0, "stored": 3}


def test_letters_above_the_rate_become_dead_when_it_is_down(office: Office) -> None:
    office.writer = office.open_writer(dead_letter_rate_per_minute=5)
    office.write(*(event("scheduler.pipeline", {"name": [n]}) for n in range(10)))
    assert office.letters() == [("held", "invalid")] * 10

    assert run(office, dead_letter_rate_per_minute=5) == {"letters": 1, "remaining": 1, "held": 1}
    office.query("UPDATE penstock.dead_letters SET at = at - interval '2 minutes'")
    end_pauses(office)
    run(office, dead_letter_rate_per_minute=5)
    run(office, dead_letter_rate_per_minute=5)

    assert office.letters() == [("dead", "invalid")] * 10
    assert office.outcomes() == {"dead": 10}


def test_whole_messages_go_too(office: Office) -> None:
    message = office.message(*jobs(3), v=2)
    office.writer.write([message])
    office.query(
        "UPDATE penstock.dead_letters SET payload = replace(convert_from(payload, 'UTF8'), '\"v\": 2', '\"v\": 1')::bytea"
    )

    assert run(office) == {"letters": 1, "remaining": 0, "stored": 3}
    assert office.outcomes() == {"stored": 3}


def test_what_is_dead_stays(office: Office) -> None:
    office.writer.write([RawMessage(b"{", "application/json", {})])
    assert run(office) == {"letters": 0, "remaining": 0}
    assert office.letters() == [("dead", "not_json")]


def test_while_one_run_lasts_another_does_nothing(office: Office) -> None:
    office.write(*jobs(1))
    with office.open_writer().database.connection() as other:
        other.execute("SELECT pg_advisory_lock(%s)", [0x70656E68656C])
        assert run(office) == {"skipped": "another run is under way"}
    assert run(office)["stored"] == 1


def test_a_database_that_is_away_ends_the_run_in_order() -> None:
    settings = Settings(database_url="postgresql://nobody@127.0.0.1:1/none", connect_timeout_s=1)
    assert set(HeldTask(settings, load_registry()).run()) == {"away"}


def test_beat_sends_it(office: Office) -> None:
    office.write(*jobs(2))
    app = create_app(office.settings.model_copy(update={"broker_url": "redis://127.0.0.1:1/0", "held_replay_every_s": 7.0}))

    entry = app.conf.beat_schedule["held"]

    assert entry == {"task": "penstock.replay_held", "schedule": 7.0, "options": {"expires": 7.0}}
    assert app.tasks[entry["task"]]() == {"letters": 2, "remaining": 0, "stored": 2}
