"""Studies that were made on the page, with their reports. In `people.db`, append-only."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import sqlalchemy as sa

from appliance.errors import ConfigError
from calibration.people import People, Role, User
from calibration.people_file import BIG, metadata
from calibration.studies import Study

_studies = sa.Table(
    "studies",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("first", BIG, nullable=False),
    sa.Column("last", BIG, nullable=False),
    sa.Column("by", sa.String(64), nullable=False),
    sa.Column("utc_ns", BIG, nullable=False),
    sa.Column("told", sa.JSON, nullable=False),
    sa.Column("page", sa.Text, nullable=False),
)


class Kept(NamedTuple):
    """One study."""

    id: int
    first: int
    last: int
    by: str
    utc_ns: int
    told: dict[str, Any]


class StudyLog:
    """Of one box."""

    def __init__(self, people: People, clock: Callable[[], int] = time.time_ns) -> None:
        self._people, self._clock = people, clock
        with people.transaction() as connection:
            metadata.create_all(connection)

    def add(self, first: int, last: int, study: Study, by: User) -> None:
        """Keep it. Raises ConfigError where this person may not."""
        if by.role < Role.TECHNICIAN:
            raise ConfigError("role", "technician or above", by.role.name.lower())
        told = {name: study.told[name] for name in ("sigma", "guard_band", "is_acceptable")}
        self._people.journal.append(
            by.name, "study.made", subject=f"parts {first} to {last}", new=told,
            role=by.role.name, source="page",
        )  # fmt: skip
        with self._people.transaction() as connection:
            connection.execute(
                sa.insert(_studies).values(
                    first=first, last=last, by=by.name, utc_ns=self._clock(), told=study.told,
                    page=study.page,
                )
            )  # fmt: skip

    def studies(self, count: int = 20) -> tuple[Kept, ...]:
        """Newest first."""
        columns = [_studies.c[name] for name in Kept._fields]
        query = sa.select(*columns).order_by(_studies.c.id.desc()).limit(count)
        with self._people.transaction() as connection:
            return tuple(Kept(**row) for row in connection.execute(query).mappings())

    def page(self, identity: int) -> str | None:
        """The report as it was printed then; None = there is no such study."""
        query = sa.select(_studies.c.page).where(_studies.c.id == identity)
        with self._people.transaction() as connection:
            return connection.execute(query).scalar_one_or_none()
