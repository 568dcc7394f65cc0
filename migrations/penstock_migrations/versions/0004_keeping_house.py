"""Keeping house: the schedule and its runs, legal holds, recoveries, fences of erased people, and how tables grow."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from penstock_migrations import operations as penstock

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


#: Of `store/functions.sql`.
FUNCTIONS = r"""
-- What a batch begins with: the clock, and a number that grows with every erasure; NULL where there was none.
-- Until its transaction ends the batch is seen in pg_locks, by which an erasure waits for those that may not know its fence:
-- whoever is not seen there yet reads, in a statement with a snapshot of its own, after the fence was committed.
CREATE OR REPLACE FUNCTION penstock.begin_batch(OUT now_us bigint, OUT erasures bigint)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(1885695590, 0);
    SELECT max(generation) INTO erasures FROM penstock.fence_key;
    now_us := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
END
$$;
"""


def upgrade() -> None:
    penstock.execute_script(FUNCTIONS)
    op.create_table(
        "erased_parents",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="erased_parents_pkey"),
        schema="penstock",
    )
    op.create_table(
        "fence_key",
        sa.Column("key", postgresql.BYTEA(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        schema="penstock",
    )
    op.create_table(
        "fences",
        sa.Column("subject", postgresql.BYTEA(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("subject", name="fences_pkey"),
        schema="penstock",
    )
    op.create_table(
        "legal_holds",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("type", sa.Text(), nullable=True),
        sa.Column("key", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("subject", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("placed_by", sa.Text(), nullable=False),
        sa.Column("placed_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("released_by", sa.Text(), nullable=True),
        sa.Column("released_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("type IS NOT NULL OR (subject IS NOT NULL AND key IS NULL)", name="legal_holds_what"),
        sa.PrimaryKeyConstraint("id", name="legal_holds_pkey"),
        schema="penstock",
    )
    op.create_table(
        "maintenance_runs",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("started_by", sa.Text(), nullable=False),
        sa.Column("is_dry_run", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("started_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("ended_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=True),
        sa.Column("counts", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="maintenance_runs_pkey"),
        schema="penstock",
    )
    op.create_index(
        "maintenance_runs_job_started_at_idx", "maintenance_runs", ["job", "started_at"], unique=False, schema="penstock"
    )
    op.create_index(
        "maintenance_runs_running_idx",
        "maintenance_runs",
        ["job"],
        unique=False,
        schema="penstock",
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_table(
        "privacy_log",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", postgresql.BYTEA(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("started_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("ended_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("report", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.PrimaryKeyConstraint("id", name="privacy_log_pkey"),
        schema="penstock",
    )
    op.create_index("privacy_log_subject_idx", "privacy_log", ["subject"], unique=False, schema="penstock")
    op.create_table(
        "recoveries",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("key", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("state", sa.Text(), nullable=True),
        sa.Column("found_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("last_activity", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("checked_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("offers", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("next_offer_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("claimed_by", sa.Text(), nullable=True),
        sa.Column("claim", sa.Uuid(), nullable=True),
        sa.Column("claimed_until", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("ended_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("ended_by", sa.Text(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="recoveries_pkey"),
        schema="penstock",
    )
    op.create_index("recoveries_ended_at_idx", "recoveries", ["ended_at"], unique=False, schema="penstock")
    op.create_index(
        "recoveries_open_idx",
        "recoveries",
        ["type", "key"],
        unique=True,
        schema="penstock",
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_index(
        "recoveries_type_key_ended_at_idx", "recoveries", ["type", "key", "ended_at"], unique=False, schema="penstock"
    )
    op.create_table(
        "recovery_scans",
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("page", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("listens_since", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("looked_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("type", name="recovery_scans_pkey"),
        schema="penstock",
    )
    op.create_table(
        "schedule",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("every_s", sa.Double(), nullable=True),
        sa.Column("cron", sa.Text(), nullable=True),
        sa.Column("time_zone", sa.Text(), server_default=sa.text("'UTC'"), nullable=False),
        sa.Column("arguments", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("queue", sa.Text(), nullable=True),
        sa.Column("is_enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("seed", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("last_run", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("next_run", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("planned_by", sa.Text(), nullable=True),
        sa.Column("last_result", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
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
        sa.PrimaryKeyConstraint("name", name="schedule_pkey"),
        schema="penstock",
    )
    op.create_table(
        "table_sizes",
        sa.Column("table_name", sa.Text(), nullable=False),
        sa.Column("at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("table_name", "at", name="table_sizes_pkey"),
        schema="penstock",
    )


def downgrade() -> None:
    op.drop_table("table_sizes", schema="penstock")
    op.drop_table("schedule", schema="penstock")
    op.drop_table("recovery_scans", schema="penstock")
    op.drop_index(
        "recoveries_open_idx", table_name="recoveries", schema="penstock", postgresql_where=sa.text("ended_at IS NULL")
    )
    op.drop_index("recoveries_ended_at_idx", table_name="recoveries", schema="penstock")
    op.drop_index("recoveries_type_key_ended_at_idx", table_name="recoveries", schema="penstock")
    op.drop_table("recoveries", schema="penstock")
    op.drop_index("privacy_log_subject_idx", table_name="privacy_log", schema="penstock")
    op.drop_table("privacy_log", schema="penstock")
    op.drop_index(
        "maintenance_runs_running_idx",
        table_name="maintenance_runs",
        schema="penstock",
        postgresql_where=sa.text("state = 'running'"),
    )
    op.drop_index("maintenance_runs_job_started_at_idx", table_name="maintenance_runs", schema="penstock")
    op.drop_table("maintenance_runs", schema="penstock")
    op.drop_table("legal_holds", schema="penstock")
    op.drop_table("fences", schema="penstock")
    op.drop_table("fence_key", schema="penstock")
    op.drop_table("erased_parents", schema="penstock")
    op.execute("DROP FUNCTION penstock.begin_batch()")
