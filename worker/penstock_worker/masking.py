"""
What never stands in a log: passwords, and what is in events or rows.

Passwords: those of URLs, `password=...`, and the values of secret settings wherever they occur. Contents: PostgreSQL's DETAIL,
CONTEXT and the like, the value that it objects to; the input that pydantic or Python's own conversions object to; the body of a
message that Celery cannot read. All else stays as it is. Whole events are in the dead letters, which fewer people read.
"""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Collection, Iterator
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import SecretStr

from penstock_worker.settings import SECRET_OPTIONS, Settings

__all__ = ["Mask", "Told", "secrets_of"]

#: What stands in the place of a secret, and of contents.
SECRET, CONTENT = "***", "…"
#: Shorter ones are parts of ordinary words; where they stand in a URL, they are masked all the same.
SHORTEST_SECRET = 6

#: A password may have signs in it that should be escaped in a URL and are not, so that its end is the last `@`.
_IN_URL = re.compile(r"(://[^\s/:@'\"]*:)[^\s'\"]+@")
_BY_NAME = re.compile(
    rf"((?:password|{'|'.join(SECRET_OPTIONS)})(?:\s*=|['\"]\s*:)\s*)('[^']*'|\"[^\"]*\"|[^\s'\"&,;)]+)", re.IGNORECASE
)
#: Fields of PostgreSQL's errors, after which contents may stand up to the end, also as a `repr` writes them.
_FIELDS = re.compile(r"(?:\s|\\n)*(?:(?<=\\n)|\b)(?:DETAIL|CONTEXT|QUERY|STATEMENT|LINE \d+):.*", re.DOTALL)
#: What PostgreSQL says in front of the value that it objects to.
_VALUE = re.compile(r"((?:invalid|malformed|out of range|unrecognized)[^\"\n]{0,80}: |\bvalue )\\?\".*", re.DOTALL)
_PYDANTIC_INPUT = re.compile(r"input_value=.*?(?=, input_type=)", re.DOTALL)
#: What Celery writes in front of a message that it does not know.
_BODY = re.compile(r"(The full contents of the message body was|Can't decode message body|^body):?.*", re.DOTALL | re.MULTILINE)

#: Errors of Python that quote what they were given. Those below them that do not are told whole.
_QUOTING = (ValueError, LookupError)
_HARMLESS = (UnicodeError, json.JSONDecodeError)


class Told(str):
    """What is told of an error in place of itself, also where `%r` asks for it."""

    __slots__ = ("kind",)

    #: The name of the error's class.
    kind: str

    def __repr__(self) -> str:
        """As an error's own would be."""
        return f"{self.kind}({super().__repr__()})"


class Mask:
    """
    Takes out of texts what a log must not have.

    Args:
        secrets: Texts that are taken out wherever they occur, see `secrets_of`.
    """

    def __init__(self, secrets: Collection[str] = ()) -> None:
        # The longest first: one may be a part of another.
        words = sorted((word for word in secrets if len(word) >= SHORTEST_SECRET), key=len, reverse=True)
        self._secrets = re.compile("|".join(map(re.escape, words))) if words else None

    def text(self, text: str) -> str:
        """A text without passwords and contents."""
        text = _FIELDS.sub(f" {CONTENT}", text)
        text = _VALUE.sub(rf'\1"{CONTENT}"', text)
        text = _PYDANTIC_INPUT.sub(f"input_value={CONTENT}", text)
        text = _BODY.sub(rf"\1: {CONTENT}", text)
        text = _BY_NAME.sub(rf"\1{SECRET}", _IN_URL.sub(rf"\1{SECRET}@", text))
        return self._secrets.sub(SECRET, text) if self._secrets else text

    def error(self, error: BaseException) -> str:
        """What an error says, in the same way."""
        text = str(error)
        if isinstance(error, _QUOTING) and not isinstance(error, _HARMLESS):
            text = _up_to_a_quote(text)
        return self.text(text)

    def argument(self, value: object) -> object:
        """What stands for an argument of a message; itself, where there is nothing to take out."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, BaseException):
            told = self.error(value)
            return value if told == str(value) else _told(told, type(value).__name__)
        return value

    def traceback(self, error: BaseException) -> str:
        """The traceback of an error and of those that it came from, as Python writes it."""
        whole = "".join(self._parts(error, set())).rstrip("\n")
        return self.quoted(whole, error)

    def quoted(self, text: str, error: BaseException) -> str:
        """A text that may quote an error, or one that it came from."""
        for each in _chain(error, set()):
            raw, told = str(each), self.error(each)
            if told != raw:
                text = text.replace(repr(raw)[1:-1], told).replace(raw, told)
        return text

    def _parts(self, error: BaseException, seen: set[int]) -> Iterator[str]:
        seen.add(id(error))
        before, why = error.__cause__, "\nThe above exception was the direct cause of the following exception:\n\n"
        if before is None and not error.__suppress_context__:
            before, why = error.__context__, "\nDuring handling of the above exception, another exception occurred:\n\n"
        if before is not None and id(before) not in seen:
            yield from self._parts(before, seen)
            yield why
        if error.__traceback__ is not None:
            yield "Traceback (most recent call last):\n"
            yield from traceback.format_tb(error.__traceback__)
        module, name = type(error).__module__, type(error).__qualname__
        says = self.error(error)
        yield f"{name if module in ('builtins', '__main__') else f'{module}.{name}'}{says and f': {says}'}\n"
        for each in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
            yield from self._parts(each, seen)


def secrets_of(settings: Settings) -> set[str]:
    """Every password that the settings have, as it is and as a URL writes it."""
    found: set[str] = set()
    for value in settings.model_dump().values():
        if isinstance(value, SecretStr):
            # Flower's login is user:password.
            found |= {value.get_secret_value(), value.get_secret_value().partition(":")[2]}
        elif isinstance(value, str) and "://" in value:
            found |= set(_of_url(value))
    return {word for word in found if word}


def _of_url(url: str) -> Iterator[str]:
    try:
        parts = urlsplit(url)
        user, password = parts.username, parts.password
    except ValueError:
        return
    # A password that is the user's name, as on many a laptop, is no secret, and its word is in half of all lines.
    if password and password != user:
        yield from (password, unquote(password))
    for name, values in parse_qs(parts.query).items():
        if name == "password" or name in SECRET_OPTIONS:
            yield from values


def _told(text: str, kind: str) -> Told:
    told = Told(text)
    told.kind = kind
    return told


def _chain(error: BaseException, seen: set[int]) -> Iterator[BaseException]:
    seen.add(id(error))
    yield error
    # Billiard's has the error of a pool process as a field, and its traceback as a text.
    for other in (error.__cause__, error.__context__, getattr(error, "exc", None)):
        if isinstance(other, BaseException) and id(other) not in seen:
            yield from _chain(other, seen)


def _up_to_a_quote(text: str) -> str:
    found = re.search(r"['\"]", text)
    return text if found is None else f"{text[: found.start()]}{CONTENT}"
