"""JSON objects from a message to COPY as they came, if PostgreSQL is sure to read in them what the validators read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from penstock_worker.ingest.odd import Odd
from penstock_worker.store.copy_text import Encoder, escaped

__all__ = ["JsonObjects"]

#: Bytes of an object that cannot be nested so deeply that it is refused for that, nor hold a number too long to be read.
_SHALLOW_BYTES = 400
#: What JSON may hold that the validators round, refuse or write otherwise than PostgreSQL: fractions, exponents, surrogates.
_FRACTION, _EXPONENT, _SURROGATE = b"0.0", b"0e0", b"\\ud"
#: Any digit stands for all, and signs are left out, so that a fraction or an exponent is seen by its middle.
_LOOKS = bytes.maketrans(b"123456789ED", b"000000000ed")
_SIGNS = b"+-"
#: No JSON holds it bare.
_BETWEEN = b"\x00"


@dataclass(frozen=True, slots=True)
class JsonObjects:
    """The texts of a column's objects; `read` makes them of what wants a closer look."""

    read: Encoder

    def __call__(self, values: Iterable[bytes]) -> list[str]:
        raws = list(values)
        joined = _BETWEEN.join(raws)
        looks = joined.translate(_LOOKS, _SIGNS)
        if _FRACTION in looks or _EXPONENT in looks or _SURROGATE in looks or max(map(len, raws), default=0) > _SHALLOW_BYTES:
            return self.read(raws)
        if raws and not (joined.startswith(b"{") and joined.count(_BETWEEN + b"{") == len(raws) - 1):
            raise Odd("not an object")
        return escaped(joined.decode().split("\x00")) if raws else []
