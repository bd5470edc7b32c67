"""The few challenge parts among all others, found without reading all others."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("parts") as batch:
        batch.create_index(
            "ix_parts_challenge",
            ["part_id"],
            sqlite_where=sa.text("is_challenge = 1"),
            postgresql_where=sa.text("is_challenge"),
        )


def downgrade() -> None:
    with op.batch_alter_table("parts") as batch:
        batch.drop_index("ix_parts_challenge")
