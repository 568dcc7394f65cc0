"""`penstock publish`: which lines become which events, and what is said of the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from penstock_producers.testing import MemoryProducer, PublishedEvent
from penstock_worker.cli import publish as command
from penstock_worker.errors import ConfigurationError

Producers = list[MemoryProducer]


@pytest.fixture
def producers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Producers:
    """The producers that the command makes, without a broker; the working folder is empty."""
    made: Producers = []

    def make(url: str, **options: Any) -> MemoryProducer:
        if not url.startswith("redis://"):
            raise ValueError("a wrong URL")
        made.append(MemoryProducer(**options))
        return made[-1]

    monkeypatch.setattr(command, "Producer", make)
    monkeypatch.chdir(tmp_path)
    for name in ("PENSTOCK_BROKER_URL", "PENSTOCK_QUEUE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PENSTOCK_RECORDS", "tests.records")
    return made


def run(*arguments: str, lines: str | bytes = "", broker: str | None = "redis://unused") -> Result:
    app = typer.Typer()
    command.register(app)
    given = [*arguments, *(["--broker-url", broker] if broker else [])]
    return CliRunner().invoke(app, given, input=lines)


def events(producers: Producers) -> list[PublishedEvent]:
    (producer,) = producers
    return producer.transport.events()


def test_lines_say_what_they_are(producers: Producers) -> None:
    lines = [
        {"type": "lab.pair", "data": {"tenant": "a", "number": 1}},
        {"type": "lab.site", "data": {"site_id": "s", "status": "open"}},
    ]
    result = run(lines="".join(json.dumps(line) + "\n" for line in lines))
    assert (result.exit_code, result.stdout, result.stderr) == (0, "2 published, 0 bad\n", "")
    assert [(event.type, event.data) for event in events(producers)] == [(line["type"], line["data"]) for line in lines]


def test_with_a_type_lines_are_the_data(producers: Producers) -> None:
    result = run("--type", "lab.pair", lines='{"tenant": "a", "number": 1}\n\n{"tenant": "b", "number": 2}')
    assert result.exit_code == 0
    assert [event.data["tenant"] for event in events(producers)] == ["a", "b"]


def test_bad_lines_are_told_by_number_and_the_others_go(producers: Producers) -> None:
    lines = [
        '{"type": "lab.pair", "data": {"tenant": "a", "number": 1}}',
        '{"type": "lab.pair", "data": {"tenant": "a"',
        "",
        '["lab.pair"]',
        '{"type": "lab.nothing", "data": {}}',
        '{"tenant": "a", "number": 1}',
        '{"type": "lab.pair", "data": {"tenant": "a", "number": "one"}}',
        '{"type": "lab.pair", "data": {"tenant": "a", "number": 1, "colour": "red"}}',
        '{"type": "lab.pair", "data": {"tenant": "a\\u0000", "number": 1}}',
        '{"type": "lab.note", "data": {"number": 1, "site_id": "s", "size": NaN}}',
        '{"type": "lab.pair", "data": {"tenant": "z", "number": 9}}',
    ]
    result = run(lines="\n".join(lines))
    assert result.exit_code == 1
    assert result.stdout == "2 published, 8 bad\n"
    told = [line.split(": ", 1) for line in result.stderr.splitlines()]
    assert [number for number, _ in told] == [f"line {n}" for n in (2, 4, 5, 6, 7, 8, 9, 10)]
    reasons = [
        "not JSON: EOF while parsing",
        "not a JSON object",
        "unknown type 'lab.nothing'",
        'neither {"type": ..., "data": {...}} nor told by --type',
        "lab.pair: number: Input should be a valid integer",
        "lab.pair: colour: Extra inputs are not permitted",
        "lab.pair: a text holds a NUL character",
        "not JSON:",
    ]
    for (_, said), reason in zip(told, reasons, strict=True):
        assert said.startswith(reason)
    assert [event.data["tenant"] for event in events(producers)] == ["a", "z"]


def test_backfill_dates_events_by_a_field(producers: Producers) -> None:
    lines = [
        '{"type": "lab.run", "data": {"run_id": "r", "site_id": "s", "started_at": "2001-01-01T00:00:00Z"}}',
        '{"type": "lab.pair", "data": {"tenant": "a", "number": 1}, "started_at": "2001-01-01T02:00:00.000001+01:00"}',
        '{"type": "lab.pair", "data": {"tenant": "a", "number": 1}}',
        '{"type": "lab.pair", "data": {"tenant": "a", "number": 1}, "started_at": "2001-01-01T02:00:00"}',
        '{"type": "lab.pair", "data": {"tenant": "a", "number": 1}, "started_at": "1931-01-01T02:00:00Z"}',
    ]
    result = run("--occurred-at", "started_at", lines="\n".join(lines))
    assert [event.version for event in events(producers)] == [978_307_200_000_000, 978_310_800_000_001]
    assert (result.exit_code, result.stdout) == (1, "2 published, 3 bad\n")
    assert result.stderr.splitlines() == [
        "line 3: no 'started_at', by which --occurred-at would date the event",
        "line 4: lab.pair: Input should have timezone info",
        "line 5: occurred_at 1931-01-01T02:00:00+00:00 is before 1970",
    ]


def test_a_line_too_long_is_read_past(producers: Producers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_MAX_LINE_BYTES", 100)
    long = '{"tenant": "' + "x" * 1_000 + '", "number": 1}'
    result = run("--type", "lab.pair", lines=f'{{"tenant": "a", "number": 1}}\n{long}\n{{"tenant": "b", "number": 2}}\n')
    assert (result.exit_code, result.stderr) == (1, "line 2: longer than 100 bytes\n")
    assert [event.data["tenant"] for event in events(producers)] == ["a", "b"]


def test_it_reads_files_and_prints_json(producers: Producers, tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"tenant": "a", "number": 1}\nbad\n')
    result = run("pairs.jsonl", "--type", "lab.pair", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (1, {"published": 1, "bad": 1, "undelivered": 0})
    assert len(events(producers)) == 1


def test_a_broker_that_is_away_is_given_up(monkeypatch: pytest.MonkeyPatch, producers: Producers) -> None:
    def make(_url: str, **options: Any) -> MemoryProducer:
        producer = MemoryProducer(**options, exit_deadline_s=0, max_events=3)
        producer.transport.is_away = True
        return producer

    monkeypatch.setattr(command, "Producer", make)
    result = run("--type", "lab.pair", "--timeout-s", "0.1", "--json", lines='{"tenant": "a", "number": 1}\n' * 10)
    assert json.loads(result.stdout) == {"published": 0, "bad": 0, "undelivered": 3}
    assert isinstance(result.exception, ConfigurationError)
    assert str(result.exception) == "gave up, 3 events are not delivered: the memory broker is away"


@pytest.mark.parametrize(
    ("arguments", "broker", "reason"),
    [
        (["--type", "lab.nothing"], "redis://unused", "--type lab.nothing: unknown; there are "),
        ([], "http://host", "a wrong URL"),
        ([], None, "no broker and no `penstock up` in this folder: give --broker-url"),
        (["missing.jsonl"], "redis://unused", "missing.jsonl cannot be read: No such file"),
        (["--records", "no.such.module"], "redis://unused", "record module 'no.such.module' cannot be imported"),
    ],
)
def test_what_a_person_must_change_is_one_line(
    producers: Producers, arguments: list[str], broker: str | None, reason: str
) -> None:
    result = run(*arguments, broker=broker)
    assert isinstance(result.exception, (ConfigurationError, ValueError))
    assert str(result.exception).startswith(reason)
    assert "\n" not in str(result.exception)


def test_the_broker_comes_from_the_environment_or_a_running_stack(
    producers: Producers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".penstock").mkdir()
    (tmp_path / ".penstock" / "stack.json").write_text('{"broker_url": "redis://stack"}')
    assert run(broker=None).exit_code == 0
    monkeypatch.setenv("PENSTOCK_BROKER_URL", "http://wrong")
    assert str(run(broker=None).exception) == "a wrong URL"
