"""A record type without ids, beside those of `records`: whoever loads these has no table for it."""

from __future__ import annotations

from pydantic import AwareDatetime

from penstock_schemas import Declaration, Record

__all__ = ["Sample"]


class Sample(Record):
    """Append-only: its time is what tells two samples of a sensor apart."""

    __record__ = Declaration(type="lab.sample", table="lab.samples", key=("sensor", "at"), append_only="at")

    sensor: str
    at: AwareDatetime
    value: float | None = None
