"""
How long rows are kept: what each type declares, unless the settings say otherwise.

What the settings say is put into the registry where it is loaded, so that the judge of late events, the makers of partitions
and the purge all go by one answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from penstock_schemas.registry import Registry, load_registry
from penstock_worker.errors import ConfigurationError
from penstock_worker.retention_setting import parse_retention
from penstock_worker.settings import Settings

__all__ = ["Policy", "policy_of", "registry_for"]


@dataclass(frozen=True, slots=True)
class Policy:
    """How long the rows of a type are kept, None for ever, and who says so."""

    retention: timedelta | None
    source: Literal["setting", "declaration", "nobody"]


def registry_for(settings: Settings) -> Registry:
    """
    All record types, with the retention that is in force.

    Raises:
        ConfigurationError: PENSTOCK_RETENTION names a type that there is not.
        DeclarationError: See `load_registry`.
    """
    registry = load_registry(settings.records)
    policies = parse_retention(settings.retention)
    for type in policies:
        if type not in registry:
            raise ConfigurationError(f"PENSTOCK_RETENTION: there is no type {type!r}; there are {', '.join(registry)}")
    return registry.with_retention(policies)


def policy_of(settings: Settings, registry: Registry, type: str) -> Policy:
    """The policy of a type of `registry_for(settings)`."""
    retention = registry[type].declaration.retention
    if type in parse_retention(settings.retention):
        return Policy(retention, "setting")
    return Policy(retention, "nobody" if retention is None else "declaration")
