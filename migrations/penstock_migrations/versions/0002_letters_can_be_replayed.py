"""Dead letters can be replayed: what a whole message needs for it, and the pauses between tries of those that are held."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "replay_pauses",
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("last_id", sa.Uuid(), nullable=False),
        sa.Column("until", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", name="replay_pauses_pkey"),
        schema="penstock",
    )
    op.add_column("dead_letters", sa.Column("content_type", sa.Text(), nullable=True), schema="penstock")
    op.add_column(
        "dead_letters",
        sa.Column("headers", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        schema="penstock",
    )
    op.add_column("dead_letters", sa.Column("events", sa.Integer(), nullable=True), schema="penstock")
    # With the id, so that a replay finds the next page of a million equal letters without looking at all of them.
    op.create_index(
        "dead_letters_state_fingerprint_id_idx", "dead_letters", ["state", "fingerprint", "id"], unique=False, schema="penstock"
    )
    op.drop_index("dead_letters_state_fingerprint_idx", table_name="dead_letters", schema="penstock")


def downgrade() -> None:
    op.create_index(
        "dead_letters_state_fingerprint_idx", "dead_letters", ["state", "fingerprint"], unique=False, schema="penstock"
    )
    op.drop_index("dead_letters_state_fingerprint_id_idx", table_name="dead_letters", schema="penstock")
    op.drop_column("dead_letters", "events", schema="penstock")
    op.drop_column("dead_letters", "headers", schema="penstock")
    op.drop_column("dead_letters", "content_type", schema="penstock")
    op.drop_table("replay_pauses", schema="penstock")
