"""Reports by time, and rows for a central database."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    with op.batch_alter_table("parts") as batch:
        batch.drop_index("ix_parts_opened_utc_ns")
        batch.create_index("ix_parts_report", ["opened_utc_ns", "word", "reason", "latency_ns"])
    op.create_table(
        "outbox",
        sa.Column("part_id", _BIG, autoincrement=False, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("part_id", name="pk_outbox"),
    )
    op.create_table(
        "line_parts",
        sa.Column("box", sa.String(64), nullable=False),
        sa.Column("part_id", _BIG, autoincrement=False, nullable=False),
        sa.Column("acq_id", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("word", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(32), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("reasons", sa.JSON(), nullable=False),
        sa.Column("part_tag", _BIG, nullable=False),
        sa.Column("part_text", sa.Text(), nullable=False),
        sa.Column("lot", sa.Text(), nullable=False),
        sa.Column("camera", sa.Text(), nullable=False),
        sa.Column("region_px", sa.JSON()),
        sa.Column("defects", sa.Integer(), nullable=False),
        sa.Column("decides", sa.String(32), nullable=False),
        sa.Column("margin", sa.Double()),
        sa.Column("t1", sa.Double()),
        sa.Column("t2", sa.Double()),
        sa.Column("map_max", sa.Double()),
        sa.Column("classification", sa.Double()),
        sa.Column("features", sa.JSON(), nullable=False),
        sa.Column("gates", sa.JSON(), nullable=False),
        sa.Column("opened_utc_ns", _BIG, nullable=False),
        sa.Column("latency_ns", _BIG, nullable=False),
        sa.Column("deadline_ns", _BIG, nullable=False),
        sa.Column("stages_ns", sa.JSON(), nullable=False),
        sa.Column("frame_id", _BIG, nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("bundle", sa.String(64), nullable=False),
        sa.Column("recipe", sa.Text(), nullable=False),
        sa.Column("recipe_hash", sa.String(64), nullable=False),
        sa.Column("setup_hash", sa.String(64), nullable=False),
        sa.Column("passport", sa.Text(), nullable=False),
        sa.Column("software", sa.Text(), nullable=False),
        sa.Column("is_simulated", sa.Boolean(), nullable=False),
        sa.Column("is_challenge", sa.Boolean(), nullable=False),
        sa.Column("expected_word", sa.String(16), nullable=False),
        sa.Column("is_rebuilt", sa.Boolean(), nullable=False),
        sa.Column("late_word", sa.String(16), nullable=False),
        sa.Column("late_margin", sa.Double()),
        sa.Column("image", sa.Text(), nullable=False),
        sa.Column("stored_utc_ns", _BIG, nullable=False),
        sa.PrimaryKeyConstraint("box", "part_id", "opened_utc_ns", name="pk_line_parts"),
    )
    with op.batch_alter_table("line_parts") as batch:
        batch.create_index("ix_line_parts_opened_utc_ns", ["opened_utc_ns"])


def downgrade() -> None:
    with op.batch_alter_table("line_parts") as batch:
        batch.drop_index("ix_line_parts_opened_utc_ns")
    op.drop_table("line_parts")
    op.drop_table("outbox")
    with op.batch_alter_table("parts") as batch:
        batch.drop_index("ix_parts_report")
        batch.create_index("ix_parts_opened_utc_ns", ["opened_utc_ns"])
