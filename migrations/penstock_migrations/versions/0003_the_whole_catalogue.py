"""The rest of the catalogue: agents and their sessions, what a memory system keeps, and two logs."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from penstock_migrations import operations as penstock

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    penstock.create_schema("orchestration")
    op.create_table(
        "access_logs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("timestamp", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("access_type", sa.Text(), nullable=True),
        sa.Column("ip_address", sa.Text(), nullable=True),
        sa.Column("success", sa.Boolean(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("_version", sa.BigInteger(), nullable=True),
        sa.Column("_event", sa.Uuid(), nullable=True),
        sa.Column("_stamps", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_extra", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_stored_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", "timestamp", name="access_logs_pkey"),
        schema="guardian",
        postgresql_partition_by='RANGE ("timestamp")',
    )
    op.create_index(
        "access_logs__extra_idx",
        "access_logs",
        ["id"],
        unique=False,
        schema="guardian",
        postgresql_where=sa.text("_extra IS NOT NULL"),
    )
    op.create_index(
        "access_logs_user_id_timestamp_idx", "access_logs", ["user_id", "timestamp"], unique=False, schema="guardian"
    )
    op.create_table(
        "dream_cycles",
        sa.Column("cycle_id", sa.Text(collation="C"), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("schedule", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("memories", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("simulations", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("insights", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("timestamp", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("_version", sa.BigInteger(), nullable=True),
        sa.Column("_event", sa.Uuid(), nullable=True),
        sa.Column("_deleted_version", sa.BigInteger(), nullable=True),
        sa.Column("_deleted_event", sa.Uuid(), nullable=True),
        sa.Column("_stamps", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_extra", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_stored_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("cycle_id", name="dream_cycles_pkey"),
        schema="guardian",
    )
    op.create_index(
        "dream_cycles__extra_idx",
        "dream_cycles",
        ["cycle_id"],
        unique=False,
        schema="guardian",
        postgresql_where=sa.text("_extra IS NOT NULL"),
    )
    op.create_index(
        "dream_cycles_user_id_timestamp_idx", "dream_cycles", ["user_id", "timestamp"], unique=False, schema="guardian"
    )
    op.create_table(
        "emotional_states",
        sa.Column("state_id", sa.Text(collation="C"), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("emotion", sa.Text(), nullable=True),
        sa.Column("intensity", sa.Double(), nullable=True),
        sa.Column("stability", sa.Double(), nullable=True),
        sa.Column("timestamp", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("_version", sa.BigInteger(), nullable=True),
        sa.Column("_event", sa.Uuid(), nullable=True),
        sa.Column("_deleted_version", sa.BigInteger(), nullable=True),
        sa.Column("_deleted_event", sa.Uuid(), nullable=True),
        sa.Column("_stamps", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_extra", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_stored_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("state_id", name="emotional_states_pkey"),
        schema="guardian",
    )
    op.create_index(
        "emotional_states__extra_idx",
        "emotional_states",
        ["state_id"],
        unique=False,
        schema="guardian",
        postgresql_where=sa.text("_extra IS NOT NULL"),
    )
    op.create_index(
        "emotional_states_user_id_timestamp_idx", "emotional_states", ["user_id", "timestamp"], unique=False, schema="guardian"
    )
    op.create_table(
        "interactions",
        sa.Column("interaction_id", sa.Text(collation="C"), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("session_id", sa.Text(), nullable=True),
        sa.Column("type", sa.Text(), nullable=True),
        sa.Column("response_time", sa.Double(), nullable=True),
        sa.Column("agent_mode", sa.Text(), nullable=True),
        sa.Column("metadata", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("timestamp", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("_version", sa.BigInteger(), nullable=True),
        sa.Column("_event", sa.Uuid(), nullable=True),
        sa.Column("_deleted_version", sa.BigInteger(), nullable=True),
        sa.Column("_deleted_event", sa.Uuid(), nullable=True),
        sa.Column("_stamps", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_extra", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_stored_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("interaction_id", name="interactions_pkey"),
        schema="guardian",
    )
    op.create_index(
        "interactions__extra_idx",
        "interactions",
        ["interaction_id"],
        unique=False,
        schema="guardian",
        postgresql_where=sa.text("_extra IS NOT NULL"),
    )
    op.create_index("interactions_session_id_idx", "interactions", ["session_id"], unique=False, schema="guardian")
    op.create_index(
        "interactions_user_id_timestamp_idx", "interactions", ["user_id", "timestamp"], unique=False, schema="guardian"
    )
    op.create_table(
        "memories",
        sa.Column("memory_id", sa.Text(collation="C"), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("type", sa.Text(), nullable=True),
        sa.Column("strength", sa.Double(), nullable=True),
        sa.Column("patterns", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("metadata", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("timestamp", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("_version", sa.BigInteger(), nullable=True),
        sa.Column("_event", sa.Uuid(), nullable=True),
        sa.Column("_deleted_version", sa.BigInteger(), nullable=True),
        sa.Column("_deleted_event", sa.Uuid(), nullable=True),
        sa.Column("_stamps", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_extra", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_stored_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("memory_id", name="memories_pkey"),
        schema="guardian",
    )
    op.create_index(
        "memories__extra_idx",
        "memories",
        ["memory_id"],
        unique=False,
        schema="guardian",
        postgresql_where=sa.text("_extra IS NOT NULL"),
    )
    op.create_index(
        "memories_patterns_gin_idx", "memories", ["patterns"], unique=False, schema="guardian", postgresql_using="gin"
    )
    op.create_index("memories_user_id_timestamp_idx", "memories", ["user_id", "timestamp"], unique=False, schema="guardian")
    op.create_table(
        "profile_snapshots",
        sa.Column("snapshot_id", sa.Text(collation="C"), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("dimensions", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("evolution_score", sa.Double(), nullable=True),
        sa.Column("insights", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("timestamp", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("_version", sa.BigInteger(), nullable=True),
        sa.Column("_event", sa.Uuid(), nullable=True),
        sa.Column("_deleted_version", sa.BigInteger(), nullable=True),
        sa.Column("_deleted_event", sa.Uuid(), nullable=True),
        sa.Column("_stamps", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_extra", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_stored_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("snapshot_id", name="profile_snapshots_pkey"),
        schema="guardian",
    )
    op.create_index(
        "profile_snapshots__extra_idx",
        "profile_snapshots",
        ["snapshot_id"],
        unique=False,
        schema="guardian",
        postgresql_where=sa.text("_extra IS NOT NULL"),
    )
    op.create_index(
        "profile_snapshots_user_id_timestamp_idx",
        "profile_snapshots",
        ["user_id", "timestamp"],
        unique=False,
        schema="guardian",
    )
    op.create_table(
        "sessions",
        sa.Column("session_id", sa.Text(collation="C"), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=True),
        sa.Column("start_time", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("end_time", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("metadata", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_version", sa.BigInteger(), nullable=True),
        sa.Column("_event", sa.Uuid(), nullable=True),
        sa.Column("_deleted_version", sa.BigInteger(), nullable=True),
        sa.Column("_deleted_event", sa.Uuid(), nullable=True),
        sa.Column("_stamps", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_extra", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_stored_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("session_id", name="sessions_pkey"),
        schema="guardian",
    )
    op.create_index(
        "sessions__extra_idx",
        "sessions",
        ["session_id"],
        unique=False,
        schema="guardian",
        postgresql_where=sa.text("_extra IS NOT NULL"),
    )
    op.create_index("sessions_user_id_start_time_idx", "sessions", ["user_id", "start_time"], unique=False, schema="guardian")
    op.create_table(
        "achievements",
        sa.Column("achievement_id", sa.Text(collation="C"), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("points", sa.BigInteger(), nullable=True),
        sa.Column("awarded_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("metadata", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_version", sa.BigInteger(), nullable=True),
        sa.Column("_event", sa.Uuid(), nullable=True),
        sa.Column("_deleted_version", sa.BigInteger(), nullable=True),
        sa.Column("_deleted_event", sa.Uuid(), nullable=True),
        sa.Column("_stamps", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_extra", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_stored_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("achievement_id", name="achievements_pkey"),
        schema="orchestration",
    )
    op.create_index(
        "achievements__extra_idx",
        "achievements",
        ["achievement_id"],
        unique=False,
        schema="orchestration",
        postgresql_where=sa.text("_extra IS NOT NULL"),
    )
    op.create_index(
        "achievements_agent_id_awarded_at_idx", "achievements", ["agent_id", "awarded_at"], unique=False, schema="orchestration"
    )
    op.create_table(
        "agents",
        sa.Column("agent_id", sa.Text(collation="C"), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("role", sa.Text(), nullable=True),
        sa.Column("type", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=True),
        sa.Column("capabilities", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("metadata", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("last_seen_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("_version", sa.BigInteger(), nullable=True),
        sa.Column("_event", sa.Uuid(), nullable=True),
        sa.Column("_deleted_version", sa.BigInteger(), nullable=True),
        sa.Column("_deleted_event", sa.Uuid(), nullable=True),
        sa.Column("_stamps", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_extra", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_stored_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("agent_id", name="agents_pkey"),
        schema="orchestration",
    )
    op.create_index(
        "agents__extra_idx",
        "agents",
        ["agent_id"],
        unique=False,
        schema="orchestration",
        postgresql_where=sa.text("_extra IS NOT NULL"),
    )
    op.create_index(
        "agents_capabilities_gin_idx", "agents", ["capabilities"], unique=False, schema="orchestration", postgresql_using="gin"
    )
    op.create_index(
        "agents_last_seen_at_676d30e9_idx",
        "agents",
        ["last_seen_at"],
        unique=False,
        schema="orchestration",
        postgresql_where=sa.text("status = 'active'"),
    )
    op.create_index("agents_role_status_idx", "agents", ["role", "status"], unique=False, schema="orchestration")
    op.create_table(
        "audit_logs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("actor", sa.Text(), nullable=True),
        sa.Column("action", sa.Text(), nullable=True),
        sa.Column("entity_type", sa.Text(), nullable=True),
        sa.Column("entity_id", sa.Text(), nullable=True),
        sa.Column("before", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("after", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("ip_address", sa.Text(), nullable=True),
        sa.Column("_version", sa.BigInteger(), nullable=True),
        sa.Column("_event", sa.Uuid(), nullable=True),
        sa.Column("_stamps", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_extra", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_stored_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", "at", name="audit_logs_pkey"),
        schema="orchestration",
        postgresql_partition_by='RANGE ("at")',
    )
    op.create_index(
        "audit_logs__extra_idx",
        "audit_logs",
        ["id"],
        unique=False,
        schema="orchestration",
        postgresql_where=sa.text("_extra IS NOT NULL"),
    )
    op.create_index("audit_logs_actor_at_idx", "audit_logs", ["actor", "at"], unique=False, schema="orchestration")
    op.create_index(
        "audit_logs_entity_type_entity_id_at_idx",
        "audit_logs",
        ["entity_type", "entity_id", "at"],
        unique=False,
        schema="orchestration",
    )
    op.create_table(
        "sessions",
        sa.Column("session_id", sa.Text(collation="C"), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=True),
        sa.Column("data", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("started_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("ended_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("_version", sa.BigInteger(), nullable=True),
        sa.Column("_event", sa.Uuid(), nullable=True),
        sa.Column("_deleted_version", sa.BigInteger(), nullable=True),
        sa.Column("_deleted_event", sa.Uuid(), nullable=True),
        sa.Column("_stamps", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_extra", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_stored_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("session_id", name="sessions_pkey"),
        schema="orchestration",
    )
    op.create_index(
        "sessions__extra_idx",
        "sessions",
        ["session_id"],
        unique=False,
        schema="orchestration",
        postgresql_where=sa.text("_extra IS NOT NULL"),
    )
    op.create_index(
        "sessions_expires_at_676d30e9_idx",
        "sessions",
        ["expires_at"],
        unique=False,
        schema="orchestration",
        postgresql_where=sa.text("status = 'active'"),
    )
    op.create_index(
        "sessions_status_started_at_idx", "sessions", ["status", "started_at"], unique=False, schema="orchestration"
    )
    op.create_index("sessions_user_id_idx", "sessions", ["user_id"], unique=False, schema="orchestration")
    op.create_table(
        "tasks",
        sa.Column("task_id", sa.Text(collation="C"), nullable=False),
        sa.Column("session_id", sa.Text(collation="C"), nullable=True),
        sa.Column("agent_id", sa.Text(), nullable=True),
        sa.Column("type", sa.Text(), nullable=True),
        sa.Column("priority", sa.BigInteger(), nullable=True),
        sa.Column("status", sa.Text(), nullable=True),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("result", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("started_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("completed_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("_version", sa.BigInteger(), nullable=True),
        sa.Column("_event", sa.Uuid(), nullable=True),
        sa.Column("_oldest", sa.BigInteger(), nullable=True),
        sa.Column("_deleted_version", sa.BigInteger(), nullable=True),
        sa.Column("_deleted_event", sa.Uuid(), nullable=True),
        sa.Column("_stamps", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_extra", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("_stored_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["session_id"], ["orchestration.sessions.session_id"], name="tasks_session_id_fkey"),
        sa.PrimaryKeyConstraint("task_id", name="tasks_pkey"),
        schema="orchestration",
    )
    op.create_index(
        "tasks__extra_idx",
        "tasks",
        ["task_id"],
        unique=False,
        schema="orchestration",
        postgresql_where=sa.text("_extra IS NOT NULL"),
    )
    op.create_index("tasks_agent_id_status_idx", "tasks", ["agent_id", "status"], unique=False, schema="orchestration")
    op.create_index("tasks_payload_gin_idx", "tasks", ["payload"], unique=False, schema="orchestration", postgresql_using="gin")
    op.create_index("tasks_session_id_idx", "tasks", ["session_id"], unique=False, schema="orchestration")
    op.create_index("tasks_status_priority_idx", "tasks", ["status", "priority"], unique=False, schema="orchestration")
    penstock.create_partitions("guardian.access_logs")
    penstock.create_partitions("orchestration.audit_logs")


def downgrade() -> None:
    op.drop_index("tasks_status_priority_idx", table_name="tasks", schema="orchestration")
    op.drop_index("tasks_session_id_idx", table_name="tasks", schema="orchestration")
    op.drop_index("tasks_payload_gin_idx", table_name="tasks", schema="orchestration", postgresql_using="gin")
    op.drop_index("tasks_agent_id_status_idx", table_name="tasks", schema="orchestration")
    op.drop_index(
        "tasks__extra_idx", table_name="tasks", schema="orchestration", postgresql_where=sa.text("_extra IS NOT NULL")
    )
    op.drop_table("tasks", schema="orchestration")
    op.drop_index("sessions_user_id_idx", table_name="sessions", schema="orchestration")
    op.drop_index("sessions_status_started_at_idx", table_name="sessions", schema="orchestration")
    op.drop_index(
        "sessions_expires_at_676d30e9_idx",
        table_name="sessions",
        schema="orchestration",
        postgresql_where=sa.text("status = 'active'"),
    )
    op.drop_index(
        "sessions__extra_idx", table_name="sessions", schema="orchestration", postgresql_where=sa.text("_extra IS NOT NULL")
    )
    op.drop_table("sessions", schema="orchestration")
    op.drop_index("audit_logs_entity_type_entity_id_at_idx", table_name="audit_logs", schema="orchestration")
    op.drop_index("audit_logs_actor_at_idx", table_name="audit_logs", schema="orchestration")
    op.drop_index(
        "audit_logs__extra_idx", table_name="audit_logs", schema="orchestration", postgresql_where=sa.text("_extra IS NOT NULL")
    )
    op.drop_table("audit_logs", schema="orchestration")
    op.drop_index("agents_role_status_idx", table_name="agents", schema="orchestration")
    op.drop_index(
        "agents_last_seen_at_676d30e9_idx",
        table_name="agents",
        schema="orchestration",
        postgresql_where=sa.text("status = 'active'"),
    )
    op.drop_index("agents_capabilities_gin_idx", table_name="agents", schema="orchestration", postgresql_using="gin")
    op.drop_index(
        "agents__extra_idx", table_name="agents", schema="orchestration", postgresql_where=sa.text("_extra IS NOT NULL")
    )
    op.drop_table("agents", schema="orchestration")
    op.drop_index("achievements_agent_id_awarded_at_idx", table_name="achievements", schema="orchestration")
    op.drop_index(
        "achievements__extra_idx",
        table_name="achievements",
        schema="orchestration",
        postgresql_where=sa.text("_extra IS NOT NULL"),
    )
    op.drop_table("achievements", schema="orchestration")
    op.drop_index("sessions_user_id_start_time_idx", table_name="sessions", schema="guardian")
    op.drop_index(
        "sessions__extra_idx", table_name="sessions", schema="guardian", postgresql_where=sa.text("_extra IS NOT NULL")
    )
    op.drop_table("sessions", schema="guardian")
    op.drop_index("profile_snapshots_user_id_timestamp_idx", table_name="profile_snapshots", schema="guardian")
    op.drop_index(
        "profile_snapshots__extra_idx",
        table_name="profile_snapshots",
        schema="guardian",
        postgresql_where=sa.text("_extra IS NOT NULL"),
    )
    op.drop_table("profile_snapshots", schema="guardian")
    op.drop_index("memories_user_id_timestamp_idx", table_name="memories", schema="guardian")
    op.drop_index("memories_patterns_gin_idx", table_name="memories", schema="guardian", postgresql_using="gin")
    op.drop_index(
        "memories__extra_idx", table_name="memories", schema="guardian", postgresql_where=sa.text("_extra IS NOT NULL")
    )
    op.drop_table("memories", schema="guardian")
    op.drop_index("interactions_user_id_timestamp_idx", table_name="interactions", schema="guardian")
    op.drop_index("interactions_session_id_idx", table_name="interactions", schema="guardian")
    op.drop_index(
        "interactions__extra_idx", table_name="interactions", schema="guardian", postgresql_where=sa.text("_extra IS NOT NULL")
    )
    op.drop_table("interactions", schema="guardian")
    op.drop_index("emotional_states_user_id_timestamp_idx", table_name="emotional_states", schema="guardian")
    op.drop_index(
        "emotional_states__extra_idx",
        table_name="emotional_states",
        schema="guardian",
        postgresql_where=sa.text("_extra IS NOT NULL"),
    )
    op.drop_table("emotional_states", schema="guardian")
    op.drop_index("dream_cycles_user_id_timestamp_idx", table_name="dream_cycles", schema="guardian")
    op.drop_index(
        "dream_cycles__extra_idx", table_name="dream_cycles", schema="guardian", postgresql_where=sa.text("_extra IS NOT NULL")
    )
    op.drop_table("dream_cycles", schema="guardian")
    op.drop_index("access_logs_user_id_timestamp_idx", table_name="access_logs", schema="guardian")
    op.drop_index(
        "access_logs__extra_idx", table_name="access_logs", schema="guardian", postgresql_where=sa.text("_extra IS NOT NULL")
    )
    op.drop_table("access_logs", schema="guardian")
    penstock.drop_schema("orchestration")
