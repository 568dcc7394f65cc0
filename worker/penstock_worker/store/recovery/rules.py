"""When a record is stale and when it is given up: what its declaration says, unless `PENSTOCK_RECOVERY` says otherwise."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta

from penstock_schemas.declaration import Lifecycle
from penstock_schemas.record import RecordType
from penstock_schemas.registry import Registry
from penstock_worker.errors import ConfigurationError

__all__ = ["INTERRUPTED", "Rule", "read_overrides", "rules_of"]

#: The state of a record that was given up. It is not terminal: newer events of the record go on from it.
INTERRUPTED = "interrupted"

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_OVERRIDE = re.compile(r"(\S+?)\s*=\s*(\d+)([smhd])\s*/\s*(\d+)([smhd])")


@dataclass(frozen=True, slots=True)
class Rule:
    """How records of a type are recovered: `stale_after` and `abandon_after` are silences."""

    record: RecordType
    lifecycle: Lifecycle
    stale_after: timedelta
    abandon_after: timedelta

    @property
    def over(self) -> tuple[str, ...]:
        """The states in which nobody waits for a record: those that are terminal, and `interrupted`."""
        return tuple(dict.fromkeys((*self.lifecycle.terminal, INTERRUPTED)))


def rules_of(registry: Registry, setting: str) -> dict[str, Rule]:
    """
    The rule of every type with a lifecycle, parents before their children.

    Raises:
        ConfigurationError: The setting names a type that has no lifecycle, or is written otherwise.
    """
    overrides = read_overrides(setting)
    rules = {}
    for name, record in registry.items():
        lifecycle = record.declaration.lifecycle
        # What is only ever added to has no state that moves on.
        if lifecycle is not None and not record.declaration.append_only:
            times = overrides.pop(name, (lifecycle.stale_after, lifecycle.abandon_after))
            rules[name] = Rule(record, lifecycle, *times)
    if overrides:
        known = ", ".join(rules) or "none"
        raise ConfigurationError(f"PENSTOCK_RECOVERY: {next(iter(overrides))} has no lifecycle; types that have one: {known}")
    return rules


def read_overrides(setting: str) -> dict[str, tuple[timedelta, timedelta]]:
    """
    `translation.session=10m/1d, ...`: stale and given up, by type.

    Raises:
        ConfigurationError: It is written otherwise, or records would be given up before they are stale.
    """
    overrides = {}
    for part in filter(None, map(str.strip, setting.split(","))):
        found = _OVERRIDE.fullmatch(part)
        if found is None:
            raise ConfigurationError(f"PENSTOCK_RECOVERY: {part!r}: write translation.session=10m/1d, with s, m, h or d")
        name, *words = found.groups()
        try:
            stale, abandon = (timedelta(**{_UNITS[unit]: int(number)}) for number, unit in (words[:2], words[2:]))
        except OverflowError as exc:
            raise ConfigurationError(f"PENSTOCK_RECOVERY: {part!r}: that is longer than calendars are") from exc
        if not timedelta(0) < stale < abandon:
            raise ConfigurationError(f"PENSTOCK_RECOVERY: {part!r}: a record must be stale before it is given up")
        overrides[name] = (stale, abandon)
    return overrides
