"""`penstock dead-letters` as a person runs it: what it says, and its exit codes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import typer

from penstock_schemas.wire import CONTENT_TYPE
from penstock_worker.cli import main
from penstock_worker.ingest.message import RawMessage
from tests.replaying import VERSION, Office, event
from tests.servers.celery_worker import Failpoints

JOB = "scheduler.job"
PATCH = json.dumps({"data": {"name": "patched"}})
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def office(database_url: str) -> Iterator[Office]:
    office = Office(database_url, dead_letter_rate_per_minute=100_000)
    yield office
    office.close()


@pytest.fixture
def letters(office: Office, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process: exit code, standard output, standard error."""
    monkeypatch.setenv("PENSTOCK_DATABASE_URL", office.url)
    monkeypatch.setenv("COLUMNS", "300")

    def run(*words: str, answer: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["penstock", "dead-letters", *words])
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run


def bad_jobs(count: int) -> list[bytes]:
    return [event(JOB, {"id": f"j{n:05d}", "name": n}) for n in range(count)]


def ids(office: Office) -> list[str]:
    return [str(found) for (found,) in office.query("SELECT id FROM penstock.dead_letters ORDER BY id")]


# -- list and show -------------------------------------------------------------------------------------------------------------


def test_list_filters(office: Office, letters: Run) -> None:
    office.write(*bad_jobs(2), event("who.knows", {}))

    code, out, _ = letters("list", "--reason", "invalid", "--since", "1h", "--json")

    found = json.loads(out)
    assert code == 0
    assert [(group["reason"], group["letters"], len(group["mark"])) for group in found["groups"]] == [("invalid", 2, 10)]
    assert {letter["reason"] for letter in found["letters"]} == {"invalid"}
    assert letters("list", "--since", "2099-01-01T00:00:00Z")[1] == "no dead letters\n"
    assert letters("list", "--until", "1h")[1] == "no dead letters\n"
    mark = found["groups"][0]["mark"]
    assert mark in letters("list")[1]
    assert len(json.loads(letters("list", "--fingerprint", mark, "--json")[1])["letters"]) == 2


def test_list_on_a_narrow_terminal_has_ids_and_fingerprints_whole(
    office: Office, letters: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    office.write(*bad_jobs(1))
    found = json.loads(letters("list", "--json")[1])

    _, out, _ = letters("list")

    assert found["groups"][0]["mark"] in out
    assert f"{ids(office)[0]} dead {JOB} invalid: " in out


def test_show_tells_everything_and_controls_no_terminal(office: Office, letters: Run) -> None:
    name = "\x1b[2J\u202eevil"
    piece = event(JOB, {"id": "a", "name": name, "enabled": "perhaps"}).replace(b"\\u202e", "\u202e".encode())
    office.write(piece)
    (letter,) = ids(office)

    code, out, _ = letters("show", letter)

    assert code == 0
    assert all(character.isprintable() or character == "\n" for character in out)
    for part in (letter, "invalid", "office", str(office.epoch), '"name": "\\u001b[2J\\u202eevil"', '  "op": "upsert",'):
        assert part in out
    as_json = json.loads(letters("show", letter, "--json")[1])
    assert json.loads(as_json["payload"])["data"]["name"] == name
    assert (as_json["id"], as_json["seq"], as_json["type"], as_json["version"]) == (letter, 0, JOB, VERSION)


def test_show_binary_payloads_as_hexadecimal(office: Office, letters: Run) -> None:
    office.writer.write([RawMessage(b"\xff\x00\x1b[2J", CONTENT_TYPE, {"x-trace": "\u202e"})])
    (letter,) = ids(office)

    _, out, _ = letters("show", letter)

    assert "ff00 1b5b 324a" in out
    assert "\\u202e" in out
    assert json.loads(letters("show", letter, "--json")[1])["payload_base64"] == "/wAbWzJK"


def test_show_cuts_long_payloads(office: Office, letters: Run) -> None:
    office.write(event(JOB, {"id": "a", "name": ["x" * 100_000]}))
    _, out, _ = letters("show", ids(office)[0])
    assert "bytes more; --json shows all" in out
    assert len(out) < 70_000


def test_show_cuts_between_two_characters(office: Office, letters: Run) -> None:
    for shift in "", "x":
        office.write(event(JOB, {"id": "a", "name": [shift + "\u00e4" * 100_000]}).replace(b"\\u00e4", "\u00e4".encode()))
    for letter in ids(office):
        assert "\u00e4" * 100 in letters("show", letter)[1]


# -- replay --------------------------------------------------------------------------------------------------------------------


def test_replay_says_what_became_of_them(office: Office, letters: Run) -> None:
    office.write(*bad_jobs(3), event("who.knows", {}))

    code, out, err = letters("replay", "--reason", "invalid", "--patch", PATCH)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "3 letters replayed: 3 stored; 0 letters remain"

    code, out, _ = letters("replay", "--all")
    assert code == 1
    assert "no record type 'who.knows' is installed in this worker" in out
    assert out.splitlines()[-1] == "1 letters replayed: 1 held; 1 letters remain"

    code, out, _ = letters("replay", "--reason", "invalid", "--json")
    assert code == 0
    assert json.loads(out)["letters"] == 0


def test_replay_by_id_and_json(office: Office, letters: Run) -> None:
    office.write(*bad_jobs(3))
    first, second, _ = ids(office)

    code, out, _ = letters("replay", "--id", first, "--id", second, "--patch", PATCH, "--json")

    told = json.loads(out)
    assert (code, told["letters"], told["remaining"], told["events"]) == (0, 2, 0, {"stored": 2})
    assert [ending["id"] for ending in told["examples"]] == [first, second]


def test_a_dry_run_shows_rows_before_and_after(office: Office, letters: Run) -> None:
    office.write(event(JOB, {"id": "a", "name": "old"}), event(JOB, {"id": "a", "name": 1}, VERSION + 1))
    before = office.snapshot()

    code, out, _ = letters("replay", "--all", "--dry-run", "--patch", PATCH)

    assert code == 0
    change = out[out.index("scheduler.job stored") :].splitlines()
    assert change[0] == 'scheduler.job stored ["a"]'
    assert '"name": "old"' in change[1]
    assert '"name": "patched"' in change[2]
    assert change[3] == "1 letters would be replayed, nothing was changed: 1 stored; 0 letters remain"
    assert office.snapshot() == before


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("replay",), "penstock: say which letters: give a filter such as --reason or --id, or --all"),
        (("discard", "--yes"), "penstock: say which letters: give a filter such as --reason or --id"),
        (("replay", "--all", "--patch", "{"), "penstock: --patch is not JSON: "),
        (("replay", "--all", "--patch", "[1]"), "penstock: --patch must be a JSON object, such as "),
        (("show", "00000000-0000-4000-8000-000000000000"), "penstock: there is no dead letter 00000000-"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(letters: Run, words: tuple[str, ...], line: str) -> None:
    code, out, err = letters(*words)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith(line)


@pytest.mark.parametrize("words", [("replay", "--all"), ("discard", "--reason", "x"), ("export", "-o", "-")])
def test_a_database_that_is_away_or_not_migrated_is_one_line(
    letters: Run, words: tuple[str, ...], empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for url, said in [(empty_database_url, "penstock migrate up"), ("postgresql://x@127.0.0.1:1/x", "PENSTOCK_DATABASE_URL")]:
        monkeypatch.setenv("PENSTOCK_DATABASE_URL", url)
        code, _, err = letters(*words)
        assert (code, err.count("\n")) == (2, 1)
        assert said in err


# -- kills ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("place", "left"), [("before_commit", 1_100), ("after_commit", 600)])
def test_a_killed_replay_is_finished_by_the_next(office: Office, letters: Run, tmp_path: Path, place: str, left: int) -> None:
    """SIGKILL in the middle: nothing lost, nothing doubled."""
    office.write(*bad_jobs(1_100))
    failpoints = Failpoints(tmp_path, f"{place}=kill")
    failpoints.arm(place)
    words = [sys.executable, "-m", "penstock_worker", "dead-letters", "replay", "--all", "--patch", PATCH]
    environment = {**os.environ, "PENSTOCK_DATABASE_URL": office.url, "PENSTOCK_FAILPOINTS": failpoints.setting}

    assert subprocess.run(words, env=environment, timeout=120, check=False).returncode == -9

    assert failpoints.has_struck(place)
    assert len(office.letters()) == left
    assert office.query("SELECT count(*) FROM scheduler.jobs") == [(1_100 - left,)]
    assert office.outcomes() == {name: number for name, number in [("dead", left), ("stored", 1_100 - left)] if number}

    assert letters("replay", "--all", "--patch", PATCH)[0] == 0
    assert office.letters() == []
    assert office.query("SELECT count(*), count(DISTINCT name) FROM scheduler.jobs") == [(1_100, 1)]
    assert office.outcomes() == {"stored": 1_100}
    assert office.query("SELECT sum(upper(seqs) - lower(seqs)) FROM penstock.ledger WHERE outcome = 'stored'") == [(1_100,)]


# -- discard -------------------------------------------------------------------------------------------------------------------


def test_discard_asks_and_the_ledger_says_so(office: Office, letters: Run) -> None:
    office.write(*bad_jobs(3), event("who.knows", {}))
    office.writer.write([office.message(*bad_jobs(2), v=2)])

    assert letters("discard", "--state", "held", "--dry-run")[:2] == (0, "2 letters would be discarded, nothing was changed\n")
    code, out, err = letters("discard", "--state", "held", answer="n\n")
    assert (code, out.strip()) == (1, "")
    assert "Discard 2 dead letters for good?" in err
    assert len(office.letters()) == 5

    assert letters("discard", "--state", "held", answer="y\n")[1].endswith("2 letters discarded\n")

    assert office.letters() == [("dead", "invalid")] * 3
    assert office.outcomes() == {"dead": 6}
    reasons = office.query("SELECT seqs::text, reason FROM penstock.ledger WHERE reason IS NOT NULL ORDER BY lower(seqs)")
    assert [seqs for seqs, _ in reasons] == ["[3,6)"]
    assert reasons[0][1].startswith("discarded by hand")


def test_a_broken_heartbeat_had_no_events_to_give_up(office: Office, letters: Run) -> None:
    heartbeat = office.message()
    office.writer.write([heartbeat._replace(body=b"{"), office.message(event(JOB, {"id": "a"}))])

    assert letters("discard", "--reason", "not_json", "--yes")[0] == 0

    assert (office.letters(), office.outcomes()) == ([], {"stored": 1})


def test_discard_without_asking(office: Office, letters: Run) -> None:
    office.write(*bad_jobs(2_500))
    code, out, _ = letters("discard", "--reason", "invalid", "--yes", "--json")
    assert (code, json.loads(out)) == (0, {"dry_run": False, "meant": 2_500, "discarded": 2_500})
    assert (office.letters(), office.outcomes()) == ([], {"dead": 2_500})


def test_discard_leaves_what_comes_meanwhile(office: Office, letters: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has been asked about it, and where a producer goes on failing there would be no end."""
    office.write(*bad_jobs(2))

    def answer(*_: Any, **__: Any) -> bool:
        office.write(*bad_jobs(1))
        return True

    monkeypatch.setattr(typer, "confirm", answer)
    assert letters("discard", "--reason", "invalid")[1] == "2 letters discarded\n"
    assert office.letters() == [("dead", "invalid")]


# -- export --------------------------------------------------------------------------------------------------------------------


def test_export_gives_payloads_as_text_or_base64(office: Office, letters: Run, tmp_path: Path) -> None:
    office.write(*bad_jobs(1))
    office.writer.write([RawMessage(b"\xff\x00", CONTENT_TYPE, {})])

    code, out, err = letters("export", "--output", "-")
    lines = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "2 letters exported\n")
    assert sorted(line.get("payload") or line["payload_base64"] for line in lines) == ["/wA=", bad_jobs(1)[0].decode()]
    assert {line["reason"] for line in lines} == {"invalid", "not_json"}

    file = tmp_path / "letters.ndjson"
    assert letters("export", "-o", str(file), "--reason", "invalid")[2] == "1 letters exported\n"
    assert file.read_text() in out


def test_an_export_of_many_takes_no_memory(office: Office, letters: Run, tmp_path: Path) -> None:
    """Thirty megabytes of payload."""
    office.query(
        "INSERT INTO penstock.dead_letters (id, state, reason, detail, fingerprint, payload)"
        " SELECT gen_random_uuid(), 'dead', 'invalid', '', 'f', repeat(n::text, 300)::bytea"
        " FROM generate_series(10000, 29999) n"
    )
    letters("export", "-o", os.devnull, "--reason", "none")
    before = psutil.Process().memory_info().rss
    peak: list[int] = []

    class Sink(io.StringIO):
        def write(self, line: str) -> int:
            sizes.append(len(line))
            if len(sizes) % 1_000 == 0:
                peak.append(psutil.Process().memory_info().rss)
            return len(line)

    sizes: list[int] = []
    sink: Any = Sink()
    real, sys.stdout = sys.stdout, sink
    try:
        _, _, err = letters("export", "-o", "-")
    finally:
        sys.stdout = real

    assert err == "20,000 letters exported\n"
    assert (len(sizes), min(sizes) > 1_500) == (20_000, True)
    assert max(peak) - before < 15_000_000
