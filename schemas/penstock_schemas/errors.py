"""
What can be wrong with a declaration or a record.

    SchemaError
    ├── DeclarationError   a record class says something Penstock cannot keep
    └── RecordError        one record cannot go on the wire
        └── RecordTooLarge
"""

from __future__ import annotations

__all__ = ["DeclarationError", "RecordError", "RecordTooLarge", "SchemaError"]


class SchemaError(ValueError):
    """Root of every error of this package."""


class DeclarationError(SchemaError):
    """Raised when a record class is declared in a way that cannot be stored."""


class RecordError(SchemaError):
    """Raised when one record cannot be written to the wire as it is."""


class RecordTooLarge(RecordError):  # noqa: N818  # says it better than RecordTooLargeError
    """Raised when a record is over the size limit; put such payloads into object storage and publish their address."""
