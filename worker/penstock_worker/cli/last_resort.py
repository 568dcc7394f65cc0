"""The log lines of a command: warnings and errors on stderr, in the form that the settings say."""

from __future__ import annotations

import logging
import sys

from penstock_worker.errors import ConfigurationError

__all__ = ["LastResort"]


class LastResort(logging.Handler):
    """
    In the place of Python's handler for programs that have set up none.

    What it needs is loaded with the first line: most commands log nothing, and a health check must not wait for it.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._handler: logging.Handler | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        if self._handler is None:
            self._handler = _make()
        self._handler.handle(record)


def _make() -> logging.Handler:
    try:
        from penstock_worker.logs import log_handler
        from penstock_worker.settings import Settings, load_settings
    except ModuleNotFoundError:  # `penstock publish` without the extra [worker]
        return logging.StreamHandler(sys.stderr)
    try:
        settings = load_settings()
    except ConfigurationError:  # the command itself says so
        settings = Settings.model_construct()
    return log_handler(settings, "json" if settings.log_format == "json" else "bare")
