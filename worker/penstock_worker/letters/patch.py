"""
JSON merge patches (RFC 7396) on payloads, and JSON that keeps its numbers as they were written.

A patch changes what it names and nothing else: no float stands for a decimal number, and one of a thousand digits is kept.
"""

from __future__ import annotations

import json
from typing import Any

__all__ = ["Number", "dump_exact", "load_exact", "merge_patch"]


class Number(str):
    """A number as it was written."""

    __slots__ = ()


def load_exact(text: str | bytes) -> Any:
    """
    Read JSON, numbers as `Number`.

    Raises:
        ValueError: It is not JSON, not UTF-8, or nested too deeply.
    """
    try:
        return json.loads(text, parse_int=Number, parse_float=Number, parse_constant=Number)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc


def dump_exact(value: Any, indent: int | None = None, *, is_ascii: bool = True) -> str:
    """Write what `load_exact` has read."""
    return _dump(value, indent, "\n", is_ascii=is_ascii)


def merge_patch(target: Any, patch: Any) -> Any:
    """The target with the patch applied: objects are merged, null removes, everything else replaces (RFC 7396, section 2)."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def _dump(value: Any, indent: int | None, line: str, *, is_ascii: bool) -> str:
    if isinstance(value, Number):
        return str(value)
    inner = line if indent is None else line + " " * indent
    if isinstance(value, dict):
        pairs = (
            f"{json.dumps(k, ensure_ascii=is_ascii)}: {_dump(v, indent, inner, is_ascii=is_ascii)}" for k, v in value.items()
        )
        return _enclose("{}", list(pairs), indent, line, inner)
    if isinstance(value, list):
        return _enclose("[]", [_dump(part, indent, inner, is_ascii=is_ascii) for part in value], indent, line, inner)
    return json.dumps(value, ensure_ascii=is_ascii)


def _enclose(brackets: str, parts: list[str], indent: int | None, line: str, inner: str) -> str:
    if not parts:
        return brackets
    if indent is None:
        return brackets[0] + ", ".join(parts) + brackets[1]
    return brackets[0] + inner + f",{inner}".join(parts) + line + brackets[1]
