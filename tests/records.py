"""Record types that exist for tests only; between them they use every rule of merging."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal
from uuid import UUID

from pydantic import AwareDatetime

from penstock_schemas import Declaration, First, Lifecycle, Max, Min, Parent, Record, Registry

__all__ = ["RECORDS", "REGISTRY", "Mark", "Note", "Pair", "Reading", "Remark", "Run", "Site", "Tally"]

State = Literal["open", "busy", "done", "failed"]


class Site(Record):
    """A parent with a lifecycle, a lowest and a highest value: a delete is final."""

    __record__ = Declaration(
        type="lab.site",
        table="lab.sites",
        key="site_id",
        lifecycle=Lifecycle("status", terminal=("done", "failed"), moves=("error",)),
    )

    site_id: str
    name: str | None = None
    since: Min[AwareDatetime] | None = None
    most: Max[int] | None = None
    status: State | None = None
    error: str | None = None


class Run(Record):
    """A child with every rule of merging: a delete is final."""

    __record__ = Declaration(
        type="lab.run",
        table="lab.runs",
        key="run_id",
        parent=Parent("site_id", "lab.site"),
        lifecycle=Lifecycle("status", terminal=("done", "failed"), moves=("ended_at",)),
    )

    run_id: str
    site_id: str
    label: str | None = None
    details: dict[str, Any] | None = None
    origin: First[str] | None = None
    opened_by: First[int] | None = None
    lowest: Min[int] | None = None
    started_at: Min[AwareDatetime] | None = None
    highest: Max[float] | None = None
    last_word: Max[str] | None = None
    status: State | None = None
    ended_at: AwareDatetime | None = None


class Note(Record):
    """A child whose columns are all `newest`, itself a parent: it starts again after a delete."""

    __record__ = Declaration(type="lab.note", table="lab.notes", key="number", parent=Parent("site_id", "lab.site"))

    number: int
    site_id: str
    text: str | None = None
    size: float | None = None
    tags: list[Any] | None = None


class Remark(Record):
    """A grandchild, so that a placeholder is at times a child itself."""

    __record__ = Declaration(type="lab.remark", table="lab.remarks", key="remark_id", parent=Parent("note", "lab.note"))

    remark_id: UUID
    note: int
    text: str | None = None


class Pair(Record):
    """A key of two columns, no parent, all `newest`."""

    __record__ = Declaration(type="lab.pair", table="lab.pairs", key=("tenant", "number"))

    tenant: str
    number: int
    text: str | None = None
    flag: bool | None = None


class Reading(Record):
    """Append-only, with rules of merging nevertheless: two events may have one key."""

    __record__ = Declaration(
        type="lab.reading",
        table="lab.readings",
        key=("id", "at"),
        append_only="at",
        retention=timedelta(days=90),
    )

    id: UUID | None = None
    at: AwareDatetime
    value: float | None = None
    note: str | None = None
    peak: Max[int] | None = None


class Mark(Record):
    """A key and nothing else."""

    __record__ = Declaration(type="lab.mark", table="lab.marks", key="mark_id")

    mark_id: str


class Tally(Record):
    """No column of the usual rule."""

    __record__ = Declaration(type="lab.tally", table="lab.tallies", key="tally_id")

    tally_id: int
    most: Max[int] | None = None


RECORDS = (Site, Run, Note, Remark, Pair, Reading, Mark, Tally)
REGISTRY = Registry(RECORDS)
