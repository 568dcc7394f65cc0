"""
What can go wrong on the worker's side.

    PenstockError
    ├── ConfigurationError   a person must change something; one line, exit code 2
    │   └── PersonOnHold     of whom nothing may be erased
    ├── DatabaseAway         try again later; never an event's fault
    ├── BrokerAway           a look into the queue has to do without it
    └── CulpritUnknown       something in a batch cannot be written, and bisecting it has not found what
"""

from __future__ import annotations

__all__ = ["BrokerAway", "ConfigurationError", "CulpritUnknown", "DatabaseAway", "PenstockError", "PersonOnHold"]


class PenstockError(Exception):
    """Root of every error of this package."""


class ConfigurationError(PenstockError):
    """Raised when a person must change something; the message says what to do."""


class PersonOnHold(ConfigurationError):  # noqa: N818  # it is a state, not a mistake
    """Raised when a person is to be erased of whom everything is on legal hold; nothing was changed."""


class DatabaseAway(PenstockError):  # noqa: N818  # it is a state, not a mistake
    """Raised when the database cannot be reached or will not work now; nothing was stored."""


class BrokerAway(PenstockError):  # noqa: N818  # it is a state, not a mistake
    """Raised when the broker cannot be reached or does not say what waits."""


class CulpritUnknown(PenstockError):  # noqa: N818  # what is not known, not what went wrong
    """Raised when PostgreSQL objects to a batch for ever, and not to an event's row; nothing was stored."""
