"""Held letters go by themselves once they can be stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pytest

from penstock_schemas.registry import Registry, load_registry
from penstock_worker.app import create_app
from penstock_worker.ingest.message import RawMessage
from penstock_worker.letters import held
from penstock_worker.letters.replay import Replay
from penstock_worker.letters.summary import Summary
from penstock_worker.maintenance.job import run_job
from penstock_worker.maintenance.jobs import all_jobs
from penstock_worker.maintenance.schedule.scheduler import defaults_of
from penstock_worker.settings import Settings
from penstock_worker.store.dead_letters import Letter
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
    changed = office.settings.model_copy(update=settings)
    done = run_job(all_jobs(changed)["held"], changed, registry or load_registry(), started_by="test")
    return done.counts or {done.state: done.error}


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


def pipelines(count: int) -> list[bytes]:
    return [event("scheduler.pipeline", {"name": f"p{n}"}) for n in range(count)]


def refuse_all(office: Office, but: int = -1) -> None:
    """The database takes no job but one; why is each job's own affair."""
    office.query(f"ALTER TABLE scheduler.jobs ADD CONSTRAINT well CHECK (id = 'j{but:04d}')")


def test_many_that_fail_leave_room_for_others(office: Office) -> None:
    """A page of those whose cause is each letter's own goes first, but not if the others would get nothing."""
    office.writer = office.open_writer()
    refuse_all(office)
    office.write(*jobs(20))
    office.writer = office.open_writer(without("scheduler.pipeline", "scheduler.execution"))
    office.write(*pipelines(4))
    assert set(office.letters()) == {("held", "constraint"), ("held", "unknown_type")}

    done = run(office, held_letters_per_run=10)

    assert done == {"letters": 9, "remaining": 5, "held": 5, "stored": 4}
    assert count(office, "scheduler.pipelines") == 4


def test_one_that_goes_through_is_no_promise_for_the_others(office: Office) -> None:
    """The first job is stored and none of the others: they stop after a page, and keep nobody from going on."""
    office.writer = office.open_writer(without(JOB, "scheduler.execution", "scheduler.pipeline"))
    office.write(*jobs(1_300), *pipelines(600))
    refuse_all(office, but=0)

    done = run(office, held_letters_per_run=1_200)

    assert done["stored"] == 1 + 600
    assert count(office, "scheduler.pipelines") == 600


def test_a_table_that_somebody_has_locked_keeps_no_other_waiting(office: Office) -> None:
    """The database is away for that table only, and for as long as that lasts."""
    office.writer = office.open_writer(without(JOB, "scheduler.execution", "scheduler.pipeline"))
    office.write(*jobs(3), *pipelines(3))

    with psycopg.connect(office.url) as other:
        other.execute("LOCK TABLE scheduler.jobs")
        done = run(office, statement_timeout_s=3)

    assert done == {"letters": 3, "remaining": 0, "stored": 3}
    assert pauses(office) == [(1, 30)]
    end_pauses(office)
    assert run(office)["stored"] == 3


def test_a_run_that_is_killed_leaves_the_next_one_to_the_others(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first letter ends the process, whenever it is tried."""

    def die(*_: Any) -> None:
        raise SystemExit

    office.writer = office.open_writer(without(JOB, "scheduler.execution", "scheduler.pipeline"))
    office.write(*jobs(1), *pipelines(1))
    with monkeypatch.context() as patched:
        patched.setattr(Replay, "replay_page", die)
        with pytest.raises(SystemExit):
            run(office)

    assert run(office) == {"letters": 1, "remaining": 0, "stored": 1}
    assert (count(office), count(office, "scheduler.pipelines")) == (0, 1)


def test_new_ones_do_not_keep_those_waiting_that_were_tried(office: Office) -> None:
    """A letter a run: the pause of the jobs is over, and pipelines have come since."""
    office.writer = office.open_writer(without(JOB, "scheduler.execution", "scheduler.pipeline"))
    office.write(*jobs(1))
    run(office, without(JOB, "scheduler.execution"))
    office.query("UPDATE penstock.replay_pauses SET until = now() - interval '1 second'")
    office.query("UPDATE penstock.dead_letters SET at = at - interval '1 hour'")
    office.write(*pipelines(1))

    assert run(office, held_letters_per_run=1)["stored"] == 1
    assert (count(office), count(office, "scheduler.pipelines")) == (1, 0)


def ahead(office: Office, letters: int, by_s: int) -> None:
    (now,) = office.query("SELECT (extract(epoch FROM now()) * 1000000)::bigint")[0]
    office.write(*jobs(letters, now + by_s * 1_000_000))


def test_those_whose_time_has_come_leave_room_for_others(office: Office) -> None:
    office.writer = office.open_writer(without("scheduler.execution", "scheduler.pipeline"))
    ahead(office, 20, 3_600)
    office.write(*pipelines(4))

    done = run(office, held_letters_per_run=10, clock_ahead_limit_s=4_000)

    assert done["letters"] == 10
    assert 1 <= count(office, "scheduler.pipelines") <= 4 < count(office)


def test_a_look_for_those_whose_time_has_come_is_bounded(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten letters a run; the next one goes on behind them, and after the last the first is next."""
    monkeypatch.setattr(held, "LOOKED_AT", 10)
    office.writer = office.open_writer()
    ahead(office, 15, 3_600)
    ahead(office, 5, 600)

    assert [run(office, clock_ahead_limit_s=1_000)["letters"] for _ in range(3)] == [0, 5, 0]
    assert [run(office, clock_ahead_limit_s=4_000)["letters"] for _ in range(3)] == [5, 10, 0]
    assert office.outcomes()["stored"] == 20


def test_large_letters_are_read_few_at_a_time(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three letters of 100 bytes and more in a page of 250 bytes: also those that need not be tried."""
    monkeypatch.setattr(held, "PAGE_BYTES", 250)
    office.writer = office.open_writer()
    ahead(office, 7, 3_600)
    office.query("UPDATE penstock.dead_letters SET payload = payload || convert_to(repeat(' ', 100), 'UTF8')")
    pages = []
    replay_page = Replay.replay_page

    def note(self: Replay, letters: Sequence[Letter], summary: Summary) -> None:
        pages.append(len(letters))
        replay_page(self, letters, summary)

    monkeypatch.setattr(Replay, "replay_page", note)

    assert run(office, clock_ahead_limit_s=4_000)["stored"] == 7
    assert pages == [2, 2, 2, 1]


def test_a_page_of_many_equal_letters_is_found_by_the_index(office: Office) -> None:
    """Neither the other letters nor those of its own fingerprint that are behind it are looked at."""
    office.query(
        "INSERT INTO penstock.dead_letters (id, state, reason, detail, fingerprint, payload)"
        " SELECT gen_random_uuid(), 'held', 'unknown_type', '', 'f' || n % 2, '' FROM generate_series(1, 20000) AS n"
    )
    office.query("ANALYZE penstock.dead_letters")
    (plan,) = office.query(
        "EXPLAIN (ANALYZE, FORMAT JSON) SELECT id FROM penstock.dead_letters"
        " WHERE (state = 'held' AND fingerprint = 'f1') AND id > '00000000-0000-0000-0000-000000000000' ORDER BY id LIMIT 500"
    )[0]
    scan = plan[0]["Plan"]["Plans"][0]
    assert scan["Node Type"].startswith("Index")
    assert scan["Index Name"] == "dead_letters_state_fingerprint_id_idx"
    assert scan["Actual Rows"] == 500
    assert "Filter" not in scan


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
        other.execute("SELECT pg_advisory_lock(%s, hashtext('held'))", [0x70656E6A])
        assert run(office) == {"skipped": "another run is under way"}
        other.execute("SELECT pg_advisory_unlock_all()")
    assert run(office)["stored"] == 1


def test_a_run_that_is_over_keeps_nobody_from_the_next(office: Office) -> None:
    """The lock is gone when it returns, not when the server has noticed the connection's end."""
    job, registry = all_jobs(office.settings)["held"], load_registry()
    for _ in range(50):
        assert run_job(job, office.settings, registry, started_by="test").counts == {"letters": 0, "remaining": 0}


def test_a_database_that_is_away_ends_the_run_in_order() -> None:
    settings = Settings(database_url="postgresql://nobody@127.0.0.1:1/none", connect_timeout_s=1)
    assert run_job(all_jobs(settings)["held"], settings, load_registry(), started_by="test").state == "away"


def test_beat_sends_it(office: Office) -> None:
    office.write(*jobs(2))
    settings = office.settings.model_copy(update={"broker_url": "redis://127.0.0.1:1/0", "held_replay_every_s": 7.0})

    entry = defaults_of(settings)["held"]

    assert (entry.task, entry.every_s, entry.cron) == ("penstock.maintain.held", 7.0, None)
    assert create_app(settings).tasks[entry.task]()["counts"] == {"letters": 2, "remaining": 0, "stored": 2}
