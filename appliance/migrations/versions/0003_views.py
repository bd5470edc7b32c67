"""The views of a part, on a line with several cameras."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("parts", "line_parts"):
        op.add_column(table, sa.Column("views", sa.JSON()))


def downgrade() -> None:
    for table in ("parts", "line_parts"):
        with op.batch_alter_table(table) as batch:
            batch.drop_column("views")
