"""Challenge parts of one box and the tests that were run with them. In `people.db`, append-only.

A part is taken out of the list, never forgotten; a test ends as passed, failed or broken off and
stays. Who, when and why stands in the audit journal as well.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa

from appliance.codes import Word
from appliance.errors import ConfigError
from calibration.challenge_rules import KINDS, Kind, Shown
from calibration.people import People, Role, User
from calibration.people_file import BIG, metadata

State = Literal["running", "passed", "failed", "broken off"]
_parts = sa.Table(
    "challenge_parts",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("expected", sa.String(16), nullable=False),
    sa.Column("note", sa.String(200), nullable=False),
    sa.Column("use_by_utc_ns", BIG, nullable=False),
    sa.Column("by", sa.String(64), nullable=False),
    sa.Column("removed_by", sa.String(64), nullable=False),
)
_tests = sa.Table(
    "challenge_tests",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("begun_by", sa.String(64), nullable=False),
    sa.Column("begun_utc_ns", BIG, nullable=False),
    sa.Column("after_part_id", BIG, nullable=False),
    sa.Column("ended_by", sa.String(64), nullable=False),
    sa.Column("ended_utc_ns", BIG, nullable=False),
    sa.Column("last_part_id", BIG, nullable=False),
    sa.Column("problems", sa.JSON, nullable=False),
    sa.Column("shown", sa.JSON, nullable=False),
)


class Known(NamedTuple):
    """A part whose verdict is known."""

    id: int
    name: str
    """As the PLC names it: PartText, or the number of its PartTag."""
    expected: Word
    note: str
    use_by_utc_ns: int
    """0 = for ever, as older lists have it."""
    by: str


class Trial(NamedTuple):
    """One test."""

    id: int
    kind: Kind
    state: State
    begun_by: str
    begun_utc_ns: int
    after_part_id: int
    """The challenge parts above this id are its own."""
    ended_by: str
    ended_utc_ns: int
    last_part_id: int
    """Parts up to here were made before it ended."""
    problems: tuple[str, ...]
    shown: tuple[Mapping[str, Any], ...]


class Challenges:
    """Of one box."""

    def __init__(self, people: People, clock: Callable[[], int] = time.time_ns) -> None:
        self._people, self._clock = people, clock
        with people.transaction() as connection:
            metadata.create_all(connection)

    def parts(self) -> tuple[Known, ...]:
        """Those in use, by name."""
        query = sa.select(_parts).where(_parts.c.removed_by == "").order_by(_parts.c.name)
        with self._people.transaction() as connection:
            rows = connection.execute(query).mappings().all()
        return tuple(
            Known(
                row["id"], row["name"], Word[row["expected"]], row["note"], row["use_by_utc_ns"],
                row["by"],
            )
            for row in rows
        )  # fmt: skip

    def in_date(self) -> tuple[Known, ...]:
        """Those that may still be used."""
        now_ns = self._clock()
        return tuple(p for p in self.parts() if not p.use_by_utc_ns or p.use_by_utc_ns > now_ns)

    def add(self, name: str, expected: Word, days: int, note: str, by: User) -> None:
        """Another part, to be used for so many days. Raises ConfigError."""
        _may(by)
        name = name.strip()
        if not name or len(name) > 64 or not name.isprintable():
            raise ConfigError("challenge part", "a name of 1 to 64 signs", repr(name[:80]))
        if expected not in (Word.OK, Word.NG, Word.UNCERTAIN):
            raise ConfigError("challenge part", "OK, NG or UNCERTAIN", expected.name)
        if any(part.name == name for part in self.parts()):
            raise ConfigError("challenge part", "a new name", f"{name!r}, which is there already")
        if not 1 <= days <= 3660:
            raise ConfigError("challenge part", "1 to 3660 days", str(days))
        note = note.strip()
        if len(note) > 200:
            raise ConfigError("challenge part", "a note of at most 200 letters", f"{len(note)}")
        self._journal(by, "challenge.part_added", name, new={"expected": expected.name})
        until_ns = self._clock() + days * 86_400_000_000_000
        with self._people.transaction() as connection:
            connection.execute(
                sa.insert(_parts).values(
                    name=name, expected=expected.name, note=note,
                    use_by_utc_ns=until_ns, by=by.name, removed_by="",
                )
            )  # fmt: skip

    def remove(self, identity: int, by: User) -> None:
        """Out of use."""
        _may(by)
        found = next((part for part in self.parts() if part.id == identity), None)
        if found is None:
            raise ConfigError("challenge part", "one in use", str(identity))
        self._journal(by, "challenge.part_removed", found.name)
        query = sa.update(_parts).where(_parts.c.id == identity).values(removed_by=by.name)
        with self._people.transaction() as connection:
            connection.execute(query)

    def tests(self, count: int = 20) -> tuple[Trial, ...]:
        """Newest first."""
        query = sa.select(_tests).order_by(_tests.c.id.desc()).limit(count)
        with self._people.transaction() as connection:
            return tuple(_test(row) for row in connection.execute(query).mappings())

    def running(self) -> Trial | None:
        """The one under way."""
        return next((test for test in self.tests(1) if test.state == "running"), None)

    def last_passed(self) -> Trial | None:
        """The newest good one; fail-safe proves the gate, and no verdict."""
        is_proof = sa.and_(_tests.c.state == "passed", _tests.c.kind != "fail-safe")
        query = sa.select(_tests).where(is_proof).order_by(_tests.c.id.desc())
        with self._people.transaction() as connection:
            row = connection.execute(query.limit(1)).mappings().one_or_none()
        return _test(row) if row is not None else None

    def begin(self, kind: str, after_part_id: int, by: User) -> Trial:
        """Start one. Raises ConfigError: role, another one under way, nothing to show."""
        self.check_begin(kind, by)
        with self._people.transaction() as connection:
            connection.execute(
                sa.insert(_tests).values(
                    kind=kind, state="running", begun_by=by.name, begun_utc_ns=self._clock(),
                    after_part_id=after_part_id, ended_by="", ended_utc_ns=0,
                    last_part_id=0, problems=[], shown=[],
                )
            )  # fmt: skip
        begun = self.running()
        assert begun is not None
        return begun

    def check_begin(self, kind: str, by: User) -> None:
        """Whether one may start now. Raises ConfigError."""
        _may(by)
        if kind not in KINDS:
            raise ConfigError("test", f"one of {', '.join(KINDS)}", repr(kind[:80]))
        if self.running() is not None:
            raise ConfigError("test", "none under way", "one that is")
        if kind != "fail-safe" and not self.in_date():
            raise ConfigError("test", "challenge parts in the list and in date", "none")

    def end(
        self,
        test: Trial,
        state: State,
        problems: Sequence[str],
        shown: Sequence[Shown],
        last_part_id: int,
        by: User,
    ) -> Trial:
        """Close it. Raises ConfigError where somebody else did so meanwhile."""
        _may(by)
        current = self.running()
        if current is None or current.id != test.id:
            raise ConfigError("test", f"number {test.id} still under way", "one that was ended")
        told = [
            {"part_id": one.part_id, "name": one.name, "expected": one.expected.name,
             "word": one.word.name}
            for one in shown
        ]  # fmt: skip
        self._journal(
            by, f"challenge.{state.replace(' ', '_')}", f"test {test.id}",
            new={"kind": test.kind, "problems": list(problems), "shown": told},
        )  # fmt: skip
        with self._people.transaction() as connection:
            connection.execute(
                sa.update(_tests)
                .where(_tests.c.id == test.id)
                .values(
                    state=state, ended_by=by.name, ended_utc_ns=self._clock(),
                    last_part_id=last_part_id, problems=list(problems), shown=told,
                )
            )  # fmt: skip
        return self.tests(1)[0]

    def _journal(self, by: User, what: str, subject: str, new: Any = None) -> None:
        self._people.journal.append(
            by.name, what, subject=subject, new=new, role=by.role.name, source="page"
        )


def _test(row: sa.RowMapping) -> Trial:
    fields: dict[str, Any] = dict(row)
    fields["problems"], fields["shown"] = tuple(row["problems"]), tuple(row["shown"])
    return Trial(**fields)


def _may(user: User) -> None:
    if user.role < Role.TECHNICIAN:
        raise ConfigError("role", "technician or above", user.role.name.lower())
