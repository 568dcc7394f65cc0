"""The name of the PostgreSQL schema of Penstock's own tables, for those who do not need the tables as data."""

from __future__ import annotations

__all__ = ["OWN_SCHEMA"]

OWN_SCHEMA = "penstock"
