"""The first tables: Penstock's own and those of the built-in record types."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from penstock_migrations import operations as penstock

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

#: `store/functions.sql` as it was; a later change of a function is a later migration.
FUNCTIONS = r"""
-- What the upsert calls for the rare row that has seen partial records, deletes or unknown fields.
-- A stamp is text that sorts as (version, event id), under COLLATE "C"; with a rank in front as (rank, version, event id).

CREATE OR REPLACE FUNCTION penstock.stamp(version bigint, event uuid) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT lpad(to_hex(version), 16, '0') || replace(event::text, '-', '')
$$;

-- The union of two stamp objects, each key's winning stamp kept, in canonical form:
--   * for columns that keep their first value, and for '@first', the lower stamp wins, else the higher one;
--   * what is not above `deleted` goes;
--   * a column's stamp that its base already says goes ("+name" and "@base" have no base);
--   * NULL where every base is present and says `newest` and nothing else is left: the row is plain.
-- bases: object, column -> its base, for columns whose base is not '@full'. base_count: how many bases the type has.
CREATE OR REPLACE FUNCTION penstock.merge_stamps(
    a jsonb, b jsonb, bases jsonb, base_count integer, deleted text, newest text
) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    WITH both_sides AS (
        SELECT key, coalesce(bases ->> key, CASE WHEN left(key, 1) IN ('@', '+') THEN key ELSE '@full' END) AS base,
               l.value COLLATE "C" AS l, r.value COLLATE "C" AS r
        FROM jsonb_each_text(coalesce(a, '{}')) AS l FULL JOIN jsonb_each_text(coalesce(b, '{}')) AS r USING (key)
    ), won AS (
        SELECT key, base, CASE WHEN base = '@first' THEN least(l, r) ELSE greatest(l, r) END AS stamp
        FROM both_sides
    ), alive AS (
        SELECT key, base, stamp FROM won WHERE deleted IS NULL OR stamp > deleted COLLATE "C"
    ), canonical AS (
        SELECT c.key, c.stamp
        FROM alive AS c LEFT JOIN alive AS base ON base.key = c.base AND c.key <> c.base
        WHERE base.key IS NULL OR CASE WHEN c.base = '@first' THEN c.stamp < base.stamp ELSE c.stamp > base.stamp END
    )
    SELECT CASE
        WHEN count(*) = base_count AND bool_and(left(key, 1) = '@' AND right(stamp, 48) = newest) THEN NULL
        ELSE coalesce(jsonb_object_agg(key, stamp), '{}')
    END
    FROM canonical
$$;

-- Unknown fields, each with the value of its higher stamp; NULL where none is left.
CREATE OR REPLACE FUNCTION penstock.merge_extra(
    a jsonb, b jsonb, a_stamps jsonb, b_stamps jsonb, deleted text
) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    WITH sides AS (
        SELECT key, value, a_stamps ->> ('+' || key) AS stamp FROM jsonb_each(coalesce(a, '{}'))
        UNION ALL
        SELECT key, value, b_stamps ->> ('+' || key) FROM jsonb_each(coalesce(b, '{}'))
    ), won AS (
        SELECT DISTINCT ON (key) key, value, stamp FROM sides ORDER BY key, stamp COLLATE "C" DESC
    )
    SELECT jsonb_object_agg(key, value) FROM won WHERE deleted IS NULL OR stamp > deleted COLLATE "C"
$$;
"""
DROPPED = (
    "stamp(bigint, uuid)",
    "merge_stamps(jsonb, jsonb, jsonb, integer, text, text)",
    "merge_extra(jsonb, jsonb, jsonb, jsonb, text)",
)


def upgrade() -> None:
    penstock.execute_script(FUNCTIONS)
    penstock.create_schema("guardian")
    penstock.create_schema("scheduler")
    penstock.create_schema("translation")
    op.create_table(
        "metrics",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("timestamp", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("agent_performance", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("cache_stats", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_version", sa.BigInteger(), nullable=True),
        sa.Column("_event", sa.Uuid(), nullable=True),
        sa.Column("_stamps", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_extra", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_stored_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", "timestamp", name="metrics_pkey"),
        schema="guardian",
        postgresql_partition_by='RANGE ("timestamp")',
    )
    op.create_index(
        "metrics__extra_idx", "metrics", ["id"], unique=False, schema="guardian", postgresql_where=sa.text("_extra IS NOT NULL")
    )
    op.create_table(
        "dead_letters",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("sqlstate", sa.Text(), nullable=True),
        sa.Column("constraint_name", sa.Text(), nullable=True),
        sa.Column("column_name", sa.Text(), nullable=True),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=True),
        sa.Column("op", sa.Text(), nullable=True),
        sa.Column("version", sa.BigInteger(), nullable=True),
        sa.Column("event_id", sa.Uuid(), nullable=True),
        sa.Column("producer", sa.Text(), nullable=True),
        sa.Column("epoch", sa.Uuid(), nullable=True),
        sa.Column("seq", sa.BigInteger(), nullable=True),
        sa.Column("payload", postgresql.BYTEA(), nullable=False),
        sa.Column("at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="dead_letters_pkey"),
        schema="penstock",
    )
    op.create_index("dead_letters_fingerprint_at_idx", "dead_letters", ["fingerprint", "at"], unique=False, schema="penstock")
    op.create_index(
        "dead_letters_state_fingerprint_idx", "dead_letters", ["state", "fingerprint"], unique=False, schema="penstock"
    )
    op.create_table(
        "ledger",
        sa.Column("epoch", sa.Uuid(), nullable=False),
        sa.Column("seqs", postgresql.INT8RANGE(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        schema="penstock",
    )
    op.create_index("ledger_epoch_idx", "ledger", ["epoch"], unique=False, schema="penstock")
    op.create_table(
        "producers",
        sa.Column("epoch", sa.Uuid(), nullable=False),
        sa.Column("producer", sa.Text(), nullable=False),
        sa.Column("high_water", sa.BigInteger(), nullable=False),
        sa.Column("is_closed", sa.Boolean(), nullable=False),
        sa.Column("first_seen", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("last_seen", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("epoch", name="producers_pkey"),
        schema="penstock",
    )
    op.create_table(
        "suspects",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kills", sa.Integer(), nullable=False),
        sa.Column("is_running", sa.Boolean(), nullable=False),
        sa.Column("at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="suspects_pkey"),
        schema="penstock",
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("pipeline", sa.Text(), nullable=True),
        sa.Column("cron_expr", sa.Text(), nullable=True),
        sa.Column("enabled", sa.Boolean(), nullable=True),
        sa.Column("next_run", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("last_run", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("last_result", sa.Text(), nullable=True),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("_version", sa.BigInteger(), nullable=True),
        sa.Column("_event", sa.Uuid(), nullable=True),
        sa.Column("_deleted_version", sa.BigInteger(), nullable=True),
        sa.Column("_deleted_event", sa.Uuid(), nullable=True),
        sa.Column("_stamps", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_extra", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_stored_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="jobs_pkey"),
        schema="scheduler",
    )
    op.create_index(
        "jobs__extra_idx", "jobs", ["id"], unique=False, schema="scheduler", postgresql_where=sa.text("_extra IS NOT NULL")
    )
    op.create_index("jobs_enabled_next_run_idx", "jobs", ["enabled", "next_run"], unique=False, schema="scheduler")
    op.create_table(
        "pipelines",
        sa.Column("name", sa.Text(collation="C"), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("config", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("_version", sa.BigInteger(), nullable=True),
        sa.Column("_event", sa.Uuid(), nullable=True),
        sa.Column("_deleted_version", sa.BigInteger(), nullable=True),
        sa.Column("_deleted_event", sa.Uuid(), nullable=True),
        sa.Column("_stamps", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_extra", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_stored_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pipelines_pkey"),
        schema="scheduler",
    )
    op.create_index(
        "pipelines__extra_idx",
        "pipelines",
        ["name"],
        unique=False,
        schema="scheduler",
        postgresql_where=sa.text("_extra IS NOT NULL"),
    )
    op.create_table(
        "sessions",
        sa.Column("session_id", sa.Text(collation="C"), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("source_language", sa.Text(), nullable=True),
        sa.Column("target_language", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=True),
        sa.Column("total_tasks", sa.BigInteger(), nullable=True),
        sa.Column("completed_tasks", sa.BigInteger(), nullable=True),
        sa.Column("failed_tasks", sa.BigInteger(), nullable=True),
        sa.Column("started_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("ended_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("metadata", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_version", sa.BigInteger(), nullable=True),
        sa.Column("_event", sa.Uuid(), nullable=True),
        sa.Column("_deleted_version", sa.BigInteger(), nullable=True),
        sa.Column("_deleted_event", sa.Uuid(), nullable=True),
        sa.Column("_stamps", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_extra", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_stored_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("session_id", name="sessions_pkey"),
        schema="translation",
    )
    op.create_index(
        "sessions__extra_idx",
        "sessions",
        ["session_id"],
        unique=False,
        schema="translation",
        postgresql_where=sa.text("_extra IS NOT NULL"),
    )
    op.create_index("sessions_status_started_at_idx", "sessions", ["status", "started_at"], unique=False, schema="translation")
    op.create_index("sessions_user_id_idx", "sessions", ["user_id"], unique=False, schema="translation")
    op.create_table(
        "executions",
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("job_id", sa.Text(collation="C"), nullable=True),
        sa.Column("pipeline", sa.Text(), nullable=True),
        sa.Column("start_time", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("end_time", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("duration", sa.Double(), nullable=True),
        sa.Column("status", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("context", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("steps", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("triggered_by", sa.Text(), nullable=True),
        sa.Column("_version", sa.BigInteger(), nullable=True),
        sa.Column("_event", sa.Uuid(), nullable=True),
        sa.Column("_oldest", sa.BigInteger(), nullable=True),
        sa.Column("_deleted_version", sa.BigInteger(), nullable=True),
        sa.Column("_deleted_event", sa.Uuid(), nullable=True),
        sa.Column("_stamps", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_extra", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_stored_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["scheduler.jobs.id"], name="executions_job_id_fkey"),
        sa.PrimaryKeyConstraint("id", name="executions_pkey"),
        schema="scheduler",
    )
    op.create_index(
        "executions__extra_idx",
        "executions",
        ["id"],
        unique=False,
        schema="scheduler",
        postgresql_where=sa.text("_extra IS NOT NULL"),
    )
    op.create_index("executions_job_id_idx", "executions", ["job_id"], unique=False, schema="scheduler")
    op.create_index("executions_start_time_idx", "executions", ["start_time"], unique=False, schema="scheduler")
    op.create_table(
        "tasks",
        sa.Column("task_id", sa.Text(collation="C"), nullable=False),
        sa.Column("session_id", sa.Text(collation="C"), nullable=True),
        sa.Column("sequence", sa.BigInteger(), nullable=True),
        sa.Column("status", sa.Text(), nullable=True),
        sa.Column("source_text", sa.Text(), nullable=True),
        sa.Column("translated_text", sa.Text(), nullable=True),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("tokens", sa.BigInteger(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("retry_count", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("started_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("completed_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("metadata", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_version", sa.BigInteger(), nullable=True),
        sa.Column("_event", sa.Uuid(), nullable=True),
        sa.Column("_oldest", sa.BigInteger(), nullable=True),
        sa.Column("_deleted_version", sa.BigInteger(), nullable=True),
        sa.Column("_deleted_event", sa.Uuid(), nullable=True),
        sa.Column("_stamps", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_extra", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_stored_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["session_id"], ["translation.sessions.session_id"], name="tasks_session_id_fkey"),
        sa.PrimaryKeyConstraint("task_id", name="tasks_pkey"),
        schema="translation",
    )
    op.create_index(
        "tasks__extra_idx",
        "tasks",
        ["task_id"],
        unique=False,
        schema="translation",
        postgresql_where=sa.text("_extra IS NOT NULL"),
    )
    op.create_index("tasks_session_id_idx", "tasks", ["session_id"], unique=False, schema="translation")
    penstock.create_partitions("guardian.metrics")


def downgrade() -> None:
    op.drop_index("tasks_session_id_idx", table_name="tasks", schema="translation")
    op.drop_index("tasks__extra_idx", table_name="tasks", schema="translation")
    op.drop_table("tasks", schema="translation")
    op.drop_index("executions_start_time_idx", table_name="executions", schema="scheduler")
    op.drop_index("executions_job_id_idx", table_name="executions", schema="scheduler")
    op.drop_index("executions__extra_idx", table_name="executions", schema="scheduler")
    op.drop_table("executions", schema="scheduler")
    op.drop_index("sessions_user_id_idx", table_name="sessions", schema="translation")
    op.drop_index("sessions_status_started_at_idx", table_name="sessions", schema="translation")
    op.drop_index("sessions__extra_idx", table_name="sessions", schema="translation")
    op.drop_table("sessions", schema="translation")
    op.drop_index("pipelines__extra_idx", table_name="pipelines", schema="scheduler")
    op.drop_table("pipelines", schema="scheduler")
    op.drop_index("jobs_enabled_next_run_idx", table_name="jobs", schema="scheduler")
    op.drop_index("jobs__extra_idx", table_name="jobs", schema="scheduler")
    op.drop_table("jobs", schema="scheduler")
    op.drop_table("suspects", schema="penstock")
    op.drop_table("producers", schema="penstock")
    op.drop_index("ledger_epoch_idx", table_name="ledger", schema="penstock")
    op.drop_table("ledger", schema="penstock")
    op.drop_index("dead_letters_state_fingerprint_idx", table_name="dead_letters", schema="penstock")
    op.drop_index("dead_letters_fingerprint_at_idx", table_name="dead_letters", schema="penstock")
    op.drop_table("dead_letters", schema="penstock")
    op.drop_index("metrics__extra_idx", table_name="metrics", schema="guardian")
    op.drop_table("metrics", schema="guardian")
    penstock.drop_schema("translation")
    penstock.drop_schema("scheduler")
    penstock.drop_schema("guardian")
    for signature in DROPPED:
        op.execute(f"DROP FUNCTION penstock.{signature}")
