"""
Penstock's own tables as SQLAlchemy data, in the schema `penstock`.

| table                      | what it holds                                                | written by   |
|----------------------------|--------------------------------------------------------------|--------------|
| `ledger`, `producers`      | how each number of each producer ended                       | ingest       |
| `dead_letters`, `suspects` | what could not be stored, and what killed its reader         | ingest       |
| `replay_pauses`            | when held letters are tried again                            | maintenance  |
| `schedule`                 | what beat starts, and when                                   | beat, people |
| `maintenance_runs`         | each run of a job: when, by whom, what it did                | maintenance  |
| `legal_holds`              | what must not be deleted                                     | people       |
| `recoveries`               | records that were found incomplete, and who looks after them | maintenance  |
| `recovery_scans`           | how far the search for them is, and since when it listens    | maintenance  |
| `fences`, `fence_key`      | whose events are refused, as HMAC, and the HMAC's key        | erasure      |
| `erased_parents`           | rows whose children are still to be emptied                  | ingest       |
| `privacy_log`              | every export and erasure: who, why, what                     | erasure      |
| `table_sizes`              | bytes and rows of each table over time                       | maintenance  |
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from penstock_worker.store.own_schema import OWN_SCHEMA

__all__ = ["add_own_tables"]

_NOW = sa.text("now()")
_TEXT, _BIG, _INT, _BOOL, _UUID = sa.Text(), sa.BigInteger(), sa.Integer(), sa.Boolean(), sa.Uuid()
_TIME, _JSON, _BYTES = sa.TIMESTAMP(timezone=True), postgresql.JSONB(), postgresql.BYTEA()


def add_own_tables(metadata: sa.MetaData) -> None:
    """Add them all."""
    for add in (_ingest, _schedule, _maintenance, _recovery, _privacy):
        add(metadata)


def _table(metadata: sa.MetaData, name: str, *parts: sa.schema.SchemaItem) -> None:
    sa.Table(name, metadata, *parts, schema=OWN_SCHEMA)


def _column(
    name: str, kind: sa.types.TypeEngine[Any], *, null: bool = False, now: bool = False, default: str | None = None
) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=null, server_default=_NOW if now else sa.text(default) if default else None)


def _id() -> sa.Column[Any]:
    return sa.Column("id", _BIG, sa.Identity(always=True), nullable=False)


def _ingest(metadata: sa.MetaData) -> None:
    _table(
        metadata,
        "ledger",
        _column("epoch", _UUID),
        _column("seqs", postgresql.INT8RANGE()),
        _column("outcome", _TEXT),
        _column("reason", _TEXT, null=True),
        _column("at", _TIME, now=True),
        sa.Index("ledger_epoch_idx", "epoch"),
    )
    _table(
        metadata,
        "producers",
        _column("epoch", _UUID),
        _column("producer", _TEXT),
        _column("high_water", _BIG),
        _column("is_closed", _BOOL),
        _column("first_seen", _TIME, now=True),
        _column("last_seen", _TIME, now=True),
        sa.PrimaryKeyConstraint("epoch", name="producers_pkey"),
    )
    _table(
        metadata,
        "dead_letters",
        _column("id", _UUID),
        _column("state", _TEXT),
        _column("reason", _TEXT),
        _column("detail", _TEXT),
        _column("sqlstate", _TEXT, null=True),
        _column("constraint_name", _TEXT, null=True),
        _column("column_name", _TEXT, null=True),
        _column("fingerprint", _TEXT),
        _column("type", _TEXT, null=True),
        _column("op", _TEXT, null=True),
        _column("version", _BIG, null=True),
        _column("event_id", _UUID, null=True),
        _column("producer", _TEXT, null=True),
        _column("epoch", _UUID, null=True),
        _column("seq", _BIG, null=True),
        _column("payload", _BYTES),
        _column("at", _TIME, now=True),
        _column("content_type", _TEXT, null=True),
        _column("headers", _JSON, null=True),
        _column("events", _INT, null=True),
        sa.PrimaryKeyConstraint("id", name="dead_letters_pkey"),
        sa.Index("dead_letters_state_fingerprint_id_idx", "state", "fingerprint", "id"),
        sa.Index("dead_letters_fingerprint_at_idx", "fingerprint", "at"),
    )
    _table(
        metadata,
        "replay_pauses",
        _column("fingerprint", _TEXT),
        _column("tries", _INT),
        _column("last_id", _UUID),
        _column("until", _TIME),
        sa.PrimaryKeyConstraint("fingerprint", name="replay_pauses_pkey"),
    )
    _table(
        metadata,
        "suspects",
        _column("id", _UUID),
        _column("kills", _INT),
        _column("is_running", _BOOL),
        _column("at", _TIME, now=True),
        sa.PrimaryKeyConstraint("id", name="suspects_pkey"),
    )


def _schedule(metadata: sa.MetaData) -> None:
    _table(
        metadata,
        "schedule",
        _column("name", _TEXT),
        _column("task", _TEXT),
        _column("every_s", sa.Double(), null=True),
        _column("cron", _TEXT, null=True),
        _column("time_zone", _TEXT, default="'UTC'"),
        _column("arguments", _JSON, default="'{}'"),
        _column("queue", _TEXT, null=True),
        _column("is_enabled", _BOOL, default="true"),
        # What the settings said when beat wrote the row: where it says something else, a person does. NULL in rows of people.
        _column("seed", _JSON, null=True),
        _column("last_run", _TIME, null=True),
        _column("next_run", _TIME, null=True),
        # The timing that `next_run` follows from: where the row has another one by now, it is planned anew.
        _column("planned_by", _TEXT, null=True),
        _column("last_result", _JSON, null=True),
        sa.PrimaryKeyConstraint("name", name="schedule_pkey"),
        # What the server refuses at the edit cannot trouble beat: NaN, infinity and times that Python does not have among it.
        sa.CheckConstraint("(every_s IS NULL) <> (cron IS NULL)", name="schedule_every_or_cron"),
        sa.CheckConstraint("every_s >= 0.1 AND every_s <= 31622400", name="schedule_every_s"),
        sa.CheckConstraint(
            "jsonb_typeof(arguments) IN ('object', 'array')"
            " AND jsonb_typeof(seed) = 'object' AND jsonb_typeof(last_result) = 'object'",
            name="schedule_json",
        ),
        sa.CheckConstraint(
            "next_run >= '2000-01-01 UTC' AND next_run < '9000-01-01 UTC'"
            " AND last_run >= '2000-01-01 UTC' AND last_run < '9000-01-01 UTC'",
            name="schedule_times",
        ),
    )


def _maintenance(metadata: sa.MetaData) -> None:
    _table(
        metadata,
        "maintenance_runs",
        _id(),
        _column("job", _TEXT),
        _column("started_by", _TEXT),
        _column("is_dry_run", _BOOL, default="false"),
        _column("state", _TEXT),
        _column("started_at", _TIME, now=True),
        _column("ended_at", _TIME, null=True),
        _column("seconds", sa.Double(), null=True),
        _column("counts", _JSON, null=True),
        _column("error", _TEXT, null=True),
        sa.PrimaryKeyConstraint("id", name="maintenance_runs_pkey"),
        sa.Index("maintenance_runs_job_started_at_idx", "job", "started_at"),
        # A handful of rows, which every run looks at for those that have died.
        sa.Index("maintenance_runs_running_idx", "job", postgresql_where=sa.text("state = 'running'")),
    )
    _table(
        metadata,
        "legal_holds",
        _id(),
        _column("type", _TEXT, null=True),
        _column("key", _JSON, null=True),
        _column("subject", _TEXT, null=True),
        _column("reason", _TEXT),
        _column("placed_by", _TEXT),
        _column("placed_at", _TIME, now=True),
        _column("released_by", _TEXT, null=True),
        _column("released_at", _TIME, null=True),
        sa.PrimaryKeyConstraint("id", name="legal_holds_pkey"),
        # A hold on nothing would look like one on everything.
        sa.CheckConstraint("type IS NOT NULL OR (subject IS NOT NULL AND key IS NULL)", name="legal_holds_what"),
    )
    _table(
        metadata,
        "table_sizes",
        _column("table_name", _TEXT),
        _column("at", _TIME, now=True),
        _column("bytes", _BIG),
        _column("rows", _BIG),
        sa.PrimaryKeyConstraint("table_name", "at", name="table_sizes_pkey"),
    )


def _recovery(metadata: sa.MetaData) -> None:
    _table(
        metadata,
        "recoveries",
        _id(),
        _column("type", _TEXT),
        _column("key", _JSON),
        # The record's, as it was last seen.
        _column("state", _TEXT, null=True),
        _column("found_at", _TIME, now=True),
        _column("last_activity", _TIME),
        _column("checked_at", _TIME),
        _column("offers", _INT, default="0"),
        _column("next_offer_at", _TIME, null=True),
        _column("claimed_by", _TEXT, null=True),
        _column("claim", _UUID, null=True),
        _column("claimed_until", _TIME, null=True),
        _column("ended_at", _TIME, null=True),
        _column("ended_by", _TEXT, null=True),
        _column("outcome", _TEXT, null=True),
        sa.PrimaryKeyConstraint("id", name="recoveries_pkey"),
        # What is not over yet is there once, however many scans look at once.
        sa.Index("recoveries_open_idx", "type", "key", unique=True, postgresql_where=sa.text("ended_at IS NULL")),
        sa.Index("recoveries_ended_at_idx", "ended_at"),
        sa.Index("recoveries_type_key_ended_at_idx", "type", "key", "ended_at"),
    )
    _table(
        metadata,
        "recovery_scans",
        _column("type", _TEXT),
        _column("page", _BIG, default="0"),
        _column("listens_since", _TIME),
        _column("looked_at", _TIME),
        sa.PrimaryKeyConstraint("type", name="recovery_scans_pkey"),
    )


def _privacy(metadata: sa.MetaData) -> None:
    _table(
        metadata,
        "fences",
        _column("subject", _BYTES),
        _column("version", _BIG),
        _column("generation", _BIG),
        _column("at", _TIME, now=True),
        sa.PrimaryKeyConstraint("subject", name="fences_pkey"),
    )
    _table(
        metadata,
        "fence_key",
        _column("key", _BYTES),
        _column("generation", _BIG),
        _column("at", _TIME, now=True),
    )
    _table(
        metadata,
        "erased_parents",
        _id(),
        _column("type", _TEXT),
        _column("key", _TEXT),
        _column("version", _BIG),
        sa.PrimaryKeyConstraint("id", name="erased_parents_pkey"),
    )
    _table(
        metadata,
        "privacy_log",
        _id(),
        _column("action", _TEXT),
        _column("subject", _BYTES),
        _column("who", _TEXT),
        _column("why", _TEXT),
        _column("started_at", _TIME, now=True),
        _column("ended_at", _TIME, null=True),
        _column("report", _JSON, null=True),
        sa.PrimaryKeyConstraint("id", name="privacy_log_pkey"),
        sa.Index("privacy_log_subject_idx", "subject"),
    )
