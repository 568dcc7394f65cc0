"""
Settings from the environment, or from the files that it names.

Every `PENSTOCK_<NAME>` may be given as `PENSTOCK_<NAME>_FILE` instead, with the path of a file that has the value: that is how
containers get secrets. A variable that is empty counts as not set.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["file_of", "read"]


def read(variable: str, environ: Mapping[str, str]) -> str | None:
    """
    The value of a variable, or the content of its file without the last newline; None where neither is set.

    Raises:
        ValueError: Both are set, or the file cannot be read; the message names the variable.
    """
    value, path = environ.get(variable), file_of(variable, environ)
    if path is None:
        return value or None
    if value:
        raise ValueError(f"{variable} and {variable}_FILE are both set: keep one")
    try:
        # "-sig": some editors begin a file with a mark that nobody sees, and that is no part of a password.
        text = path.read_text("utf-8-sig")
    except OSError as exc:
        raise ValueError(f"{variable}_FILE: {path} cannot be read: {exc.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{variable}_FILE: {path} is no text in UTF-8") from None
    if "\0" in text:  # which no variable can have; libpq would refuse it with the whole password in its words
        raise ValueError(f"{variable}_FILE: {path} is no text in UTF-8")
    return _without_newline(text) or None


def file_of(variable: str, environ: Mapping[str, str]) -> Path | None:
    """The file that has a variable's value, if one is named."""
    path = environ.get(f"{variable}_FILE")
    return Path(path) if path else None


def _without_newline(text: str) -> str:
    """The one that editors put at the end; any other white space may be meant."""
    return text.removesuffix("\n").removesuffix("\r")
