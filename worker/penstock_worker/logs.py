"""
The log of a process: lines for people, or one JSON object a line (`PENSTOCK_LOG_FORMAT`), on stderr.

Whoever logs uses Python's `logging`, with `extra={"action": ...}` and further fields; structlog's own loggers go the same way.
Nothing leaves it that `masking` takes out. docs/logs.md lists fields and actions.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from typing import Any, Literal, TextIO

import structlog
from structlog.stdlib import ExtraAdder, ProcessorFormatter

from penstock_worker.masking import Mask, secrets_of
from penstock_worker.settings import Settings

__all__ = ["log_handler", "set_up_logging", "take_over_celery"]

Fields = MutableMapping[str, Any]
Form = Literal["console", "json", "bare"]

#: Colours of a terminal by level, as Celery has them.
_COLOURS = {"ERROR": "\x1b[1;31m", "CRITICAL": "\x1b[1;35m", "WARNING": "\x1b[1;33m", "DEBUG": "\x1b[1;34m"}
_NO_COLOUR = "\x1b[0m"
#: Libraries that say at INFO what they do at every turn.
_TALKATIVE = ("httpx", "urllib3", "asyncio")


def set_up_logging(settings: Settings, *, level: int | str | None = None, file: str | None = None) -> None:
    """
    Make the log of this process, in the place of any other.

    Args:
        settings: How it is written, from which level on, and which secrets must not be in it.
        level: In the place of the setting's.
        file: Where it is written instead of stderr; one that is moved away is begun anew.
    """
    handler = log_handler(settings, settings.log_format, file=file)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level or settings.log_level)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.contextvars.merge_contextvars,
            ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def take_over_celery(settings: Settings) -> None:
    """
    Make the log of a program of Celery's: worker, beat, Flower. Celery makes none then.

    From now on, for Flower has no signal for it; and once more with the level and the file that the command line says.
    """
    from celery.signals import celeryd_init, setup_logging
    from celery.utils.log import get_multiprocessing_logger

    def set_up(loglevel: int | None = None, logfile: str | None = None, **_: Any) -> None:
        set_up_logging(settings, level=loglevel, file=logfile)
        # It does not hand on, and says little more than that a process could not be started.
        pool: logging.Logger = get_multiprocessing_logger()
        pool.handlers = list(logging.getLogger().handlers)
        pool.setLevel(logging.ERROR)

    def note_name(sender: str, **_: Any) -> None:
        _process.worker = sender

    set_up()
    setup_logging.connect(set_up, weak=False)
    celeryd_init.connect(note_name, weak=False)


def log_handler(settings: Settings, form: Form, *, file: str | None = None) -> logging.Handler:
    """A handler that writes as `set_up_logging` says; `bare` is the message alone, for a command's person."""
    stream = sys.__stderr__ or sys.stderr
    handler: logging.Handler = WatchedFileHandler(file, encoding="utf-8") if file else _Stream(stream)
    has_colours = not file and form == "console" and stream.isatty()
    handler.setFormatter(_Formatter(Mask(secrets_of(settings)), form, has_colours=has_colours))
    return handler


class _Stream(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # the name that logging calls
        """A record that cannot be written. Python would print its arguments, which nobody has looked through."""
        error = sys.exception()
        place = f"{record.pathname}:{record.lineno}"
        self.stream.write(f"a line of the log cannot be written: {type(error).__name__} at {place}\n")


@dataclass
class _Process:
    """Of which process these lines are. A child of the pool has its parent's, and another id."""

    host: str = field(default_factory=socket.gethostname)
    worker: str | None = None


_process = _Process()


class _Formatter(ProcessorFormatter):
    """Masks the arguments before they are parts of a message: there it is known which of them is an error."""

    def __init__(self, mask: Mask, form: Form, *, has_colours: bool) -> None:
        self._mask = mask
        render: dict[Form, Callable[..., str]] = {"json": _as_json, "console": _Console(has_colours=has_colours), "bare": _bare}
        super().__init__(
            processors=[self._tell, ProcessorFormatter.remove_processors_meta, render[form]],
            foreign_pre_chain=[ExtraAdder()],
        )

    def format(self, record: logging.LogRecord) -> str:
        record = logging.makeLogRecord(record.__dict__)
        if isinstance(record.args, Mapping):
            record.args = {name: self._mask.argument(value) for name, value in record.args.items()}
        elif record.args:
            record.args = tuple(map(self._mask.argument, record.args))
        return super().format(record)

    def _tell(self, _logger: Any, _method: str, said: Fields) -> Fields:
        """The fields of a line, in their order."""
        record: logging.LogRecord = said["_record"]
        error = _error_of(said.pop("exc_info", None))
        told: Fields = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "event": self._masked(str(said.pop("event")), error),
            "action": said.pop("action", None),
            "worker": _process.worker,
            "host": _process.host,
            "pid": os.getpid(),
            "process": record.processName,
            **_task_of(said.pop("data", None)),
            **{
                name: self._extra(record, value) for name, value in said.items() if not name.startswith("_") and name != "level"
            },
        }
        if error is not None:
            # Billiard wraps what was raised in a process of the pool.
            told["error"] = type(getattr(error, "exc", error)).__name__
            told["exception"] = self._mask.traceback(error)
        if stack := told.pop("stack_info", None):
            told["stack"] = stack
        kept = {name: value for name, value in told.items() if value is not None}
        return {**kept, "_record": record, "_from_structlog": said["_from_structlog"]}

    def _masked(self, text: str, error: BaseException | None) -> str:
        return self._mask.text(text if error is None else self._mask.quoted(text, error))

    def _extra(self, record: logging.LogRecord, value: Any) -> Any:
        """Numbers and texts, and of our own fields whatever JSON has; what others add may hold arguments of a task."""
        if isinstance(value, (str, BaseException)):
            return self._mask.text(str(self._mask.argument(value)))
        if isinstance(value, (bool, int, float)) or value is None:
            return value
        return self._mask.text(json.dumps(value, default=str)) if record.name.startswith("penstock") else None


def _error_of(exc_info: Any) -> BaseException | None:
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        error: BaseException | None = exc_info[1]
        return error
    return sys.exception() if exc_info else None


def _task_of(data: Any) -> dict[str, Any]:
    """Which task a line is about: Celery says it, beside its arguments, or is just running it."""
    if isinstance(data, Mapping):
        return {"task": data.get("name"), "task_id": data.get("id")}
    celery = sys.modules.get("celery")
    running = celery.current_task if celery is not None else None
    return {"task": running.name, "task_id": running.request.id} if running else {}


def _as_json(_logger: Any, _method: str, told: Fields) -> str:
    return json.dumps(told, default=str)


def _bare(_logger: Any, _method: str, told: Fields) -> str:
    return "\n".join(filter(None, (told["event"], told.get("exception"))))


class _Console:
    """As Celery writes it: `[2026-11-21 20:27:44,123: WARNING/MainProcess] text`, times being the host's."""

    def __init__(self, *, has_colours: bool) -> None:
        self._has_colours = has_colours

    def __call__(self, _logger: Any, _method: str, told: Fields) -> str:
        at = datetime.fromisoformat(told["timestamp"]).astimezone()
        place = f"{at:%Y-%m-%d %H:%M:%S},{at.microsecond // 1000:03d}: {told['level']}/{told['process']}"
        line = "\n".join(filter(None, (f"[{place}] {told['event']}", told.get("exception"), told.get("stack"))))
        colour = _COLOURS.get(told["level"]) if self._has_colours else None
        return f"{colour}{line}{_NO_COLOUR}" if colour else line
