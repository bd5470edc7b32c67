"""What is owed to the central database, and the central database's own side of it.

A change of a row and the note that it is owed are one transaction (`Store.add`). What the central
database has confirmed is struck off, unless the row changed meanwhile; taking a row in twice writes
the same row again.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from appliance.database import Database
from appliance.migrations.tables import line_parts, outbox, parts


class Outgoing(NamedTuple):
    """A row on its way to the central database."""

    part_id: int
    version: int
    """Grows with every change of the row while it waits."""
    values: dict[str, Any]


class Outbox(Database):
    """The rows of this box, and which of them are owed."""

    def outgoing(self, count: int) -> list[Outgoing]:
        """Rows that the central database has not confirmed, the oldest parts first."""
        query = (
            sa.select(outbox.c.part_id.label("of"), outbox.c.version, parts)
            .join(parts, parts.c.part_id == outbox.c.part_id)
            .order_by(outbox.c.part_id)
            .limit(count)
        )
        with self.reading() as connection:
            return [
                Outgoing(row["of"], row["version"], {c.name: row[c.name] for c in parts.c})
                for row in connection.execute(query).mappings()
            ]

    def confirm(self, sent: Sequence[Outgoing]) -> None:
        """The central database has these; a row that changed meanwhile stays owed."""
        if sent:
            values = [{"of": out.part_id, "as_of": out.version} for out in sent]
            with self.writing() as connection:
                connection.execute(_CONFIRM, values)

    def owe(self, part_ids: Sequence[int]) -> None:
        """The central database lacks these: they are sent like rows that are new."""
        with self.writing() as connection:
            connection.execute(owing(self), [{"part_id": part_id} for part_id in part_ids])

    def ids_below(self, part_id: int | None, count: int) -> list[int]:
        """The highest ids below this one (None = the highest of all), falling."""
        query = sa.select(parts.c.part_id).order_by(parts.c.part_id.desc()).limit(count)
        if part_id is not None:
            query = query.where(parts.c.part_id < part_id)
        with self.reading() as connection:
            return list(connection.execute(query).scalars())


class Central(Database):
    """Rows of many boxes."""

    def ids_of(self, box: str, first: int, last: int) -> set[int]:
        """The rows of a box between two ids, both included."""
        query = sa.select(line_parts.c.part_id).where(
            line_parts.c.box == box, line_parts.c.part_id.between(first, last)
        )
        with self.reading() as connection:
            return set(connection.execute(query).scalars())

    def take_in(self, box: str, rows: Sequence[Outgoing]) -> None:
        """The newest state of each row of a box, once."""
        values = [{"box": box, **row.values} for row in rows]
        new = self.insert(line_parts)
        keys = [column.name for column in line_parts.primary_key]
        of_row = {c.name: new.excluded[c.name] for c in line_parts.c if c.name not in keys}
        statement = new.on_conflict_do_update(index_elements=keys, set_=of_row)
        with self.writing() as connection:
            connection.execute(statement, values)


def owing(database: Database) -> Any:
    """Note that a row is owed, or that it changed while it waited; for `part_id`."""
    new = database.insert(outbox).values(version=1)
    return new.on_conflict_do_update(
        index_elements=[outbox.c.part_id], set_={"version": outbox.c.version + 1}
    )


_CONFIRM = sa.delete(outbox).where(
    outbox.c.part_id == sa.bindparam("of"), outbox.c.version == sa.bindparam("as_of")
)
