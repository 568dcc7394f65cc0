"""What a line of the log has, what it never has, and that the page lists all actions."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import structlog
from pydantic import BaseModel

from penstock_worker.cli.last_resort import LastResort
from penstock_worker.logs import log_handler, set_up_logging
from penstock_worker.masking import Mask, secrets_of
from penstock_worker.settings import Settings

ROOT = Path(__file__).parents[2]
PAYLOAD = "PAYLOAD-of-Ada"
SETTINGS = Settings(
    broker_url="redis://user:br%2Fker-pw@host:6379/0",
    database_url="postgresql://penstock:penstock@host/db?sslpassword=key-word&oauth_client_secret=own-word",
    flower_login="boss:fl0wer-pw",  # type: ignore[arg-type]  # becomes a secret
)


@pytest.fixture
def mask() -> Mask:
    return Mask(secrets_of(SETTINGS))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cannot reach redis://u:p@ss@h:1/0 now", "cannot reach redis://u:***@h:1/0 now"),
        ("amqp://u:p@h// and amqp://v:q@h//", "amqp://u:***@h// and amqp://v:***@h//"),
        ("host=h password='a b' user=u", "host=h password=*** user=u"),
        ("{'password': 'a b', 'x': 1}", "{'password': ***, 'x': 1}"),
        ("it said br/ker-pw, br%2Fker-pw and fl0wer-pw, with key-word, own-word", "it said ***, *** and ***, with ***, ***"),
        ("host=h scram_client_key=abc= oauth_client_secret='a b'", "host=h scram_client_key=*** oauth_client_secret=***"),
        ("see `penstock audit`: password authentication failed", "see `penstock audit`: password authentication failed"),
        ("events of scheduler.job are held: no column x; migrate", "events of scheduler.job are held: no column x; migrate"),
        ("duplicate key DETAIL: Key (id)=(Ada) exists.", "duplicate key …"),
        ("Bad('duplicate key\\nDETAIL:  Key (id)=(Ada)')", "Bad('duplicate key …"),
        ('invalid input syntax for type bigint: "Ada"\nCONTEXT:  COPY', 'invalid input syntax for type bigint: "…"'),
        ('value "Ada" is out of range for type integer', 'value "…"'),
        ('date/time field value out of range: "Ada"', 'date/time field value out of range: "…"'),
        (
            "Received.\n\nThe full contents of the message body was: Ada {1}",
            "Received.\n\nThe full contents of the message body was: …",
        ),
    ],
)
def test_a_text_is_told_without_secrets_and_contents(mask: Mask, text: str, told: str) -> None:
    assert mask.text(text) == told


class Form(BaseModel):
    number: int


def errors() -> Iterator[Exception]:
    yield ValueError(f"invalid literal for int() with base 10: {PAYLOAD!r}")
    yield KeyError(PAYLOAD)
    yield psycopg.errors.UniqueViolation(f"duplicate key\nDETAIL:  Key (id)=({PAYLOAD}) exists.\nCONTEXT:  COPY {PAYLOAD}")
    yield psycopg.errors.InvalidTextRepresentation(
        f'invalid input syntax for type json: "{PAYLOAD}\n{PAYLOAD}"\nLINE 1: {PAYLOAD}'
    )
    try:
        Form.model_validate({"number": PAYLOAD})
    except ValueError as exc:
        yield exc


def fail(error: Exception) -> None:
    try:
        raise error  # noqa: TRY301  # what it is about
    except Exception as exc:
        raise RuntimeError(f"while it was written: {exc}") from exc


@pytest.mark.parametrize("error", list(errors()), ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("form", ["json", "console", "bare"])
def test_an_error_is_told_without_contents(error: Exception, form: Any) -> None:
    lines = Lines(form)
    try:
        fail(error)
    except RuntimeError as exc:
        lines.logger.exception("it failed: %s", error)
        lines.logger.warning("it failed: %r", error)
        data = {"args": PAYLOAD}
        lines.logger.warning("Task failed: %(exc)s", {"exc": repr(error)}, exc_info=exc.__cause__, extra={"data": data})
    assert PAYLOAD not in lines.text
    assert lines.text.count("it failed") == 2
    assert type(error).__name__ in lines.text
    assert "in fail" in lines.text
    assert "RuntimeError: while it was written" in lines.text.encode().decode("unicode_escape")


class Lines:
    """A logger, and what its handler writes."""

    def __init__(self, form: Any = "json") -> None:
        self._stream = io.StringIO()
        handler = log_handler(SETTINGS, form)
        assert isinstance(handler, logging.StreamHandler)
        handler.setStream(self._stream)
        self.logger = logging.Logger("penstock.test")  # noqa: LOG001  # no other test has it
        self.logger.addHandler(handler)

    @property
    def text(self) -> str:
        return self._stream.getvalue()

    @property
    def last(self) -> dict[str, Any]:
        return dict(json.loads(self.text.splitlines()[-1]))


def test_a_line_of_json_has_what_it_was_given() -> None:
    lines = Lines()
    lines.logger.warning("paused, %s", "away", extra={"action": "paused", "rows": 7, "ranges": [1, 2], "url": "redis://u:p@h"})
    told = lines.last
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", told.pop("timestamp"))
    assert {told.pop(name) is not None for name in ("host", "pid")} == {True}
    assert told == {
        "level": "WARNING",
        "logger": "penstock.test",
        "event": "paused, away",
        "action": "paused",
        "process": "MainProcess",
        "rows": 7,
        "ranges": "[1, 2]",
        "url": "redis://u:***@h",
    }


def test_a_traceback_is_a_field_of_its_line() -> None:
    lines = Lines()
    try:
        json.loads("{")
    except ValueError:
        lines.logger.exception("it failed")
    assert lines.text.count("\n") == 1
    assert lines.last["error"] == "JSONDecodeError"
    assert lines.last["exception"].startswith("Traceback (most recent call last):\n")
    assert lines.last["exception"].endswith(
        "json.decoder.JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
    )


def test_celerys_words_about_a_task_become_fields_and_its_arguments_none() -> None:
    lines = Lines()
    data = {"name": "penstock.maintain.audit", "id": "17", "args": "secret", "kwargs": "secret"}
    lines.logger.info("Task %(name)s received", data, extra={"data": data})
    assert (lines.last["event"], lines.last["task"], lines.last["task_id"]) == (
        "Task penstock.maintain.audit received",
        "penstock.maintain.audit",
        "17",
    )
    assert "secret" not in lines.text


def test_a_line_for_people_is_as_celery_writes_it() -> None:
    lines = Lines("console")
    lines.logger.warning("resumed, the database is back", extra={"action": "resumed"})
    assert re.fullmatch(
        r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}: WARNING/MainProcess\] resumed, the database is back\n", lines.text
    )


def test_a_line_that_cannot_be_written_is_told_without_its_arguments() -> None:
    lines = Lines("console")
    lines.logger.warning("%d", PAYLOAD)
    assert lines.text.startswith("a line of the log cannot be written: TypeError at ")
    assert PAYLOAD not in lines.text


@pytest.fixture
def own_root() -> Iterator[logging.Logger]:
    """The root logger, put back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    root.handlers = list(handlers)
    yield root
    root.handlers = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def test_structlogs_own_loggers_go_the_same_way(own_root: logging.Logger, tmp_path: Path) -> None:
    set_up_logging(SETTINGS.model_copy(update={"log_format": "json"}), file=str(tmp_path / "log"))
    structlog.get_logger("shop").warning("sold", action="sold", url="redis://u:p@h")
    own_root.handlers[0].close()
    told = json.loads((tmp_path / "log").read_text())
    assert (told["event"], told["logger"], told["level"], told["url"]) == ("sold", "shop", "WARNING", "redis://u:***@h")


def test_a_command_writes_its_warnings_as_the_settings_say(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    logger = logging.Logger("penstock.test")  # noqa: LOG001  # no other test has it
    for form in ("console", "json"):
        monkeypatch.setenv("PENSTOCK_LOG_FORMAT", form)
        logger.handlers = [LastResort()]
        logger.info("not told")
        logger.warning("left: redis://u:p@h")
        sys.stderr.flush()
    bare, as_json = capfd.readouterr().err.splitlines()
    assert bare == "left: redis://u:***@h"
    assert json.loads(as_json)["event"] == bare


def test_the_page_lists_every_action() -> None:
    """And none that nobody logs."""
    sources = (path for folder in ("producers", "worker", "migrations") for path in (ROOT / folder).rglob("*.py"))
    used = {action for path in sources for action in re.findall(r'"action": "(\w+)"', path.read_text())}
    table = (ROOT / "docs" / "logs.md").read_text().partition("\n## Actions\n")[2]
    listed = re.findall(r"^\| `(\w+)` \| ", table, flags=re.MULTILINE)
    assert listed == sorted(used)
