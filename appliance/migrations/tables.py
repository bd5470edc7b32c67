"""The tables as the newest revision makes them, in `parts.db` and in a PostgreSQL alike."""

from typing import Any

import sqlalchemy as sa

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_JSON = sa.JSON()

metadata = sa.MetaData(
    naming_convention={"ix": "ix_%(table_name)s_%(column_0_N_name)s", "pk": "pk_%(table_name)s"}
)


def _columns() -> list[sa.Column[Any]]:
    """What a row says of its part."""
    return [
        sa.Column("acq_id", sa.Integer, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("word", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(32), nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("reasons", _JSON, nullable=False),
        sa.Column("part_tag", _BIG, nullable=False),
        sa.Column("part_text", sa.Text, nullable=False),
        sa.Column("lot", sa.Text, nullable=False),
        sa.Column("camera", sa.Text, nullable=False),
        sa.Column("region_px", sa.JSON(none_as_null=True)),
        sa.Column("defects", sa.Integer, nullable=False),
        sa.Column("decides", sa.String(32), nullable=False),
        sa.Column("margin", sa.Double),
        sa.Column("t1", sa.Double),
        sa.Column("t2", sa.Double),
        sa.Column("map_max", sa.Double),
        sa.Column("classification", sa.Double),
        sa.Column("features", _JSON, nullable=False),
        sa.Column("gates", _JSON, nullable=False),
        sa.Column("opened_utc_ns", _BIG, nullable=False),
        sa.Column("latency_ns", _BIG, nullable=False),
        sa.Column("deadline_ns", _BIG, nullable=False),
        sa.Column("stages_ns", _JSON, nullable=False),
        sa.Column("frame_id", _BIG, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("bundle", sa.String(64), nullable=False),
        sa.Column("recipe", sa.Text, nullable=False),
        sa.Column("recipe_hash", sa.String(64), nullable=False),
        sa.Column("setup_hash", sa.String(64), nullable=False),
        sa.Column("passport", sa.Text, nullable=False),
        sa.Column("software", sa.Text, nullable=False),
        sa.Column("is_simulated", sa.Boolean, nullable=False),
        sa.Column("is_challenge", sa.Boolean, nullable=False),
        sa.Column("expected_word", sa.String(16), nullable=False),
        sa.Column("is_rebuilt", sa.Boolean, nullable=False),
        sa.Column("views", sa.JSON(none_as_null=True)),  # NULL = one camera
        sa.Column("late_word", sa.String(16), nullable=False),
        sa.Column("late_margin", sa.Double),
        sa.Column("image", sa.Text, nullable=False),  # below the data directory; "" = not kept
        sa.Column("stored_utc_ns", _BIG, nullable=False),
    ]


parts = sa.Table(
    "parts",
    metadata,
    sa.Column("part_id", _BIG, primary_key=True, autoincrement=False),
    *_columns(),
    sa.Index(None, "word", "part_id"),
    sa.Index("ix_parts_report", "opened_utc_ns", "word", "reason", "latency_ns"),
    sa.Index(
        "ix_parts_challenge",
        "part_id",
        sqlite_where=sa.text("is_challenge = 1"),
        postgresql_where=sa.text("is_challenge"),
    ),
)
"""Of this box."""
outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("part_id", _BIG, primary_key=True, autoincrement=False),
    sa.Column("version", sa.Integer, nullable=False),
)
"""Parts whose row the central database has not confirmed."""
line_parts = sa.Table(
    "line_parts",
    metadata,
    sa.Column("box", sa.String(64), nullable=False),
    sa.Column("part_id", _BIG, autoincrement=False, nullable=False),
    *_columns(),
    sa.PrimaryKeyConstraint("box", "part_id", "opened_utc_ns"),
    sa.Index(None, "opened_utc_ns"),
)
"""Of all boxes, in the central database. A part is one of a box, an id and a time of opening: ids
begin anew where a journal was lost."""
