"""What reading without a closer look says where it is not sure."""

from __future__ import annotations

__all__ = ["Odd"]


class Odd(ValueError):  # noqa: N818  # what the value is
    """Raised when a value is not in the form that needs no closer look. It may be valid all the same."""
