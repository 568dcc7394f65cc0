"""Why a body cannot be read, in words of the person who sent it."""

from __future__ import annotations

from pydantic_core import from_json

from penstock_worker.ingest.outcome import Outcome, Verdict

__all__ = ["not_json", "why_unreadable"]

#: How bodies begin that are no JSON, but something that is often mistaken for it on its way.
_SIGNS = {
    b"\x1f\x8b": "it is compressed by gzip",
    b"\x28\xb5\x2f\xfd": "it is compressed by zstd",
    b"BZh": "it is compressed by bzip2",
    b"\xfd7zXZ\x00": "it is compressed by xz",
    b"\x78\x01": "it is compressed by zlib",
    b"\x78\x9c": "it is compressed by zlib",
    b"\x78\xda": "it is compressed by zlib",
    b"\xef\xbb\xbf": "it begins with a byte order mark",
    b"\xff\xfe": "it is in UTF-16 or UTF-32",
    b"\xfe\xff": "it is in UTF-16 or UTF-32",
    b"\x00\x00\xfe\xff": "it is in UTF-16 or UTF-32",
    b"{\x00": "it is in UTF-16 or UTF-32",
    b"\x00{": "it is in UTF-16 or UTF-32",
    b"\x00\x00\x00{": "it is in UTF-16 or UTF-32",
    b"\x80\x02": "it is a pickle",
    b"\x80\x04": "it is a pickle",
    b"\x80\x05": "it is a pickle",
}


def why_unreadable(body: bytes) -> Verdict:
    """The verdict on a body that is no envelope."""
    try:
        from_json(body)
    except ValueError as exc:
        return not_json(str(exc), body)
    return Verdict(Outcome.DEAD, "invalid_envelope", 'it is JSON, but no object with a list under "events"')


def not_json(complaint: str, body: bytes = b"") -> Verdict:
    """The verdict on what the parser complains about: bad JSON, or more levels than it reads."""
    if "recursion limit" in complaint:
        return Verdict(Outcome.DEAD, "too_deep", "lists or objects are nested in more than 200 levels")
    if not body.strip():
        return Verdict(Outcome.DEAD, "not_json", "it is empty")
    sign = next((f"{meaning}, JSON in UTF-8 is read here" for start, meaning in _SIGNS.items() if body.startswith(start)), None)
    return Verdict(Outcome.DEAD, "not_json", sign or complaint.removeprefix("Invalid JSON: "))
