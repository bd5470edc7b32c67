"""What people said about parts, and the limits that they proposed. In `people.db`, append-only.

A label is a human verdict on one part. Whether its part calibrates or verifies follows from its id
alone (`is_fresh`), so that nobody can choose, and no margin can. A proposal is two limits that
somebody asks for; it changes nothing until somebody else approves it.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa

from appliance.errors import ConfigError
from appliance.scores import Decides
from calibration.limits import GOOD
from calibration.people import People, Role, User
from calibration.people_file import BIG, metadata
from calibration.reason import checked

State = Literal["open", "approved", "rejected"]

_labels = sa.Table(
    "labels",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("part_id", BIG, nullable=False, index=True),
    sa.Column("kind", sa.String(64), nullable=False),
    sa.Column("by", sa.String(64), nullable=False),
    sa.Column("utc_ns", BIG, nullable=False),
)
_proposals = sa.Table(
    "proposals",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("recipe", sa.String(128), nullable=False),
    sa.Column("base_version", sa.Integer, nullable=False),
    sa.Column("t1", sa.Double, nullable=False),
    sa.Column("t2", sa.Double, nullable=False),
    sa.Column("by", sa.String(64), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("utc_ns", BIG, nullable=False),
    sa.Column("evidence", sa.JSON, nullable=False),
    sa.Column("verified", sa.JSON),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("decided_by", sa.String(64), nullable=False),
    sa.Column("decided_reason", sa.Text, nullable=False),
    sa.Column("decided_utc_ns", BIG, nullable=False),
    sa.Column("bundle", sa.JSON),
)


class Label(NamedTuple):
    """The newest human verdict on a part."""

    part_id: int
    kind: str
    """"good", or the type of defect."""
    by: str
    utc_ns: int


class NewBundle(NamedTuple):
    """What a proposal puts in the place of the recipe's bundle, beside the limits."""

    id: str
    folder: str
    """Below `bundles/`."""
    decides: Decides
    job: str
    """That made it, and holds what the verify parts say."""


class Asked(NamedTuple):
    """One proposal."""

    id: int
    recipe: str
    base_version: int
    t1: float
    t2: float
    by: str
    reason: str
    utc_ns: int
    evidence: dict[str, Any]
    """Of the calibrate parts when it was made: an estimate."""
    verified: dict[str, Any] | None
    """What the verify parts said, once they were opened for it."""
    state: State
    decided_by: str
    decided_reason: str
    decided_utc_ns: int
    bundle: NewBundle | None = None
    """None: it asks for limits alone."""

    @property
    def made_by(self) -> str:
        """Who had the bundle made, "" = it asks for none: no more their own judge than who asks."""
        return str(self.evidence.get("made_by", "")) if self.bundle is not None else ""


def is_fresh(recipe: str, part: str) -> bool:
    """This part verifies; the others calibrate. Half of all, by a hash of names."""
    return bool(hashlib.sha256(f"{recipe}:{part}".encode()).digest()[0] & 1)


class Opinions:
    """Labels and proposals of one box."""

    def __init__(self, people: People, clock: Callable[[], int] = time.time_ns) -> None:
        self._people, self._clock = people, clock
        with people.transaction() as connection:
            metadata.create_all(connection)
            known = connection.exec_driver_sql("PRAGMA table_info(proposals)").mappings()
            if "bundle" not in {row["name"] for row in known}:  # made by an older version
                connection.exec_driver_sql("ALTER TABLE proposals ADD COLUMN bundle JSON")

    def label(self, part_id: int, kind: str, by: User, source: str = "page") -> Label:
        """A human verdict. Raises ConfigError on a kind that cannot be a name."""
        kind = kind.strip().lower()
        letters = kind.replace("_", "").replace("-", "").replace(" ", "")
        if not letters.isalnum() or kind == "ok":  # whoever types "ok" means good, not a defect
            raise ConfigError("label", "good or the name of a defect", repr(kind[:80]))
        if len(kind) > 64 or part_id < 1:
            raise ConfigError("label", "a part and at most 64 letters", f"{part_id}, {kind[:80]!r}")
        old = self.labels([part_id]).get(part_id)
        if old is not None and old.kind == kind:
            return old
        self._people.journal.append(
            by.name, "part.labelled", subject=str(part_id), old=old.kind if old else None,
            new=kind, role=by.role.name, source=source,
        )  # fmt: skip
        label = Label(part_id, kind, by.name, self._clock())
        with self._people.transaction() as connection:
            connection.execute(sa.insert(_labels).values(**label._asdict()))
        return label

    def labels(self, part_ids: Sequence[int] | None = None) -> dict[int, Label]:
        """The newest label of these parts, or of all that have one."""
        query = sa.select(_labels).order_by(_labels.c.id)
        if part_ids is not None:
            query = query.where(_labels.c.part_id.in_(part_ids))
        with self._people.transaction() as connection:
            rows = connection.execute(query).mappings().all()
        return {
            row["part_id"]: Label(row["part_id"], row["kind"], row["by"], row["utc_ns"])
            for row in rows
        }

    def kinds(self) -> tuple[str, ...]:
        """Types of defect in use, sorted."""
        with self._people.transaction() as connection:
            found = connection.execute(sa.select(_labels.c.kind).distinct()).scalars().all()
        return tuple(sorted(set(found) - {GOOD}))

    def propose(
        self,
        recipe: str,
        base_version: int,
        limits: tuple[float, float],
        reason: str,
        evidence: dict[str, Any],
        by: User,
        source: str = "page",
        bundle: NewBundle | None = None,
    ) -> Asked:
        """Ask for two limits, and for another bundle where they belong to one.

        Raises ConfigError: role, reason, limits, one that is still open."""
        _may(by, Role.ENGINEER)
        reason = checked(reason)
        if not -3.4e38 <= limits[0] <= limits[1] <= 3.4e38:
            raise ConfigError("limits", "finite T1 <= T2", f"{limits[0]}, {limits[1]}")
        if any(one.state == "open" for one in self.proposals(recipe)):
            raise ConfigError("proposal", f"none that is open for {recipe}", "one that is")
        new: dict[str, Any] = {
            "t1": limits[0], "t2": limits[1], "base": f"{recipe}/{base_version}",
        }  # fmt: skip
        if bundle is not None:
            new |= {"bundle": bundle.id, "bundle_dir": bundle.folder, "decides": bundle.decides}
        what = "limits.proposed" if bundle is None else "bundle.proposed"
        self._people.journal.append(
            by.name, what, subject=recipe, new=new, reason=reason,
            role=by.role.name, source=source,
        )  # fmt: skip
        with self._people.transaction() as connection:
            identity = connection.execute(
                sa.insert(_proposals).values(
                    recipe=recipe, base_version=base_version, t1=limits[0], t2=limits[1],
                    by=by.name, reason=reason, utc_ns=self._clock(), evidence=evidence,
                    verified=None, state="open", decided_by="", decided_reason="",
                    decided_utc_ns=0, bundle=None if bundle is None else bundle._asdict(),
                )
            ).inserted_primary_key  # fmt: skip
        assert identity is not None
        return self.proposal(int(identity[0]))

    def proposals(self, recipe: str = "") -> tuple[Asked, ...]:
        """Newest first."""
        query = sa.select(_proposals).order_by(_proposals.c.id.desc())
        if recipe:
            query = query.where(_proposals.c.recipe == recipe)
        with self._people.transaction() as connection:
            rows = connection.execute(query).mappings().all()
        return tuple(
            Asked(**{**row, "bundle": NewBundle(**row["bundle"]) if row["bundle"] else None})
            for row in rows
        )

    def proposal(self, identity: int) -> Asked:
        """One of them. Raises ConfigError."""
        found = next((one for one in self.proposals() if one.id == identity), None)
        if found is None:
            raise ConfigError("proposal", "a known number", str(identity))
        return found

    def looks(self, recipe: str) -> int:
        """Proposals for which the verify parts of this recipe were opened."""
        return sum(one.verified is not None for one in self.proposals(recipe))

    def verify(self, identity: int, verified: dict[str, Any], by: User) -> Asked:
        """Keep what the verify parts said. Once per proposal: raises ConfigError the second time,
        and where it is no longer open."""
        asked = self._open(identity)
        _may(by, Role.ENGINEER)
        if asked.verified is not None:
            raise ConfigError("verify parts", "one opening per proposal", "a second one")
        self._people.journal.append(
            by.name, "verify.opened", subject=f"{asked.recipe} proposal {identity}",
            new=verified, role=by.role.name, source="page",
        )  # fmt: skip
        self._set(identity, verified=verified)
        return self.proposal(identity)

    def check_decision(
        self, identity: int, reason: str, by: User, state: State = "approved"
    ) -> Asked:
        """Whether this person may decide so now. Raises ConfigError: own proposal, role, reason,
        already decided; and an approval by whoever had its bundle made."""
        asked = self._open(identity)
        _may(by, Role.ENGINEER)
        checked(reason)
        if by.name == asked.by or (state == "approved" and by.name == asked.made_by):
            others = " or ".join(dict.fromkeys(filter(None, (asked.by, asked.made_by))))
            raise ConfigError("approval", f"another person than {others}", by.name)
        return asked

    def decide(self, identity: int, state: State, reason: str, by: User) -> Asked:
        """Close it. The caller has journalled what follows from it (`publish` does)."""
        self.check_decision(identity, reason, by, state)
        if state == "rejected":
            asked = self.proposal(identity)
            what = "limits.rejected" if asked.bundle is None else "bundle.rejected"
            self._people.journal.append(
                by.name, what, subject=f"proposal {identity}", reason=checked(reason),
                role=by.role.name, source="page",
            )  # fmt: skip
        self._set(
            identity, state=state, decided_by=by.name, decided_reason=checked(reason),
            decided_utc_ns=self._clock(),
        )  # fmt: skip
        return self.proposal(identity)

    def _open(self, identity: int) -> Asked:
        asked = self.proposal(identity)
        if asked.state != "open":
            raise ConfigError("proposal", "one that is open", f"one that was {asked.state}")
        return asked

    def _set(self, identity: int, **values: Any) -> None:
        query = sa.update(_proposals).where(_proposals.c.id == identity).values(**values)
        with self._people.transaction() as connection:
            connection.execute(query)


def _may(user: User, least: Role) -> None:
    if user.role < least:
        raise ConfigError("role", f"{least.name.lower()} or above", user.role.name.lower())
