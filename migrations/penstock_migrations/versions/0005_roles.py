"""The roles penstock_ingest, penstock_read and penstock_admin, to which login roles belong."""

from penstock_migrations import operations as penstock

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    penstock.create_roles()


def downgrade() -> None:
    penstock.withdraw_roles()
