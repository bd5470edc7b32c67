"""What accepted parts looked like when somebody said that they were right, and how far they moved.

Baselines are approved by a person and kept; the level that drift has reached outlives a restart.
In `people.db`. One baseline of a recipe counts: the newest of its bundle and score.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from appliance.codes import Word
from appliance.errors import ConfigError
from appliance.recipe import LoadedRecipe
from appliance.rows import PartRow
from calibration.drift import Level, Rates
from calibration.people import People, Role, User
from calibration.people_file import BIG, metadata
from calibration.reason import checked

WINDOW = 500
"""Production parts of a baseline, and of each window that is compared with it."""
Figures = Mapping[str, npt.NDArray[np.float64]]

_baselines = sa.Table(
    "baselines",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("recipe", sa.String(128), nullable=False),
    sa.Column("bundle", sa.String(64), nullable=False),
    sa.Column("decides", sa.String(32), nullable=False),
    sa.Column("last_part_id", BIG, nullable=False),
    sa.Column("figures", sa.JSON, nullable=False),
    sa.Column("rates", sa.JSON, nullable=False),
    sa.Column("by", sa.String(64), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("utc_ns", BIG, nullable=False),
    sa.Column("level", sa.Integer, nullable=False),
    sa.Column("looked_part_id", BIG, nullable=False),
    sa.Column("findings", sa.JSON, nullable=False),
)


class Baseline(NamedTuple):
    """One, and what came of it since."""

    id: int
    figures: Figures
    """Of its accepted parts: name → values."""
    rates: Rates
    by: str
    reason: str
    utc_ns: int
    level: Level
    looked_part_id: int
    """The newest part that a window held."""
    findings: tuple[str, ...]
    """Of the newest window, in words."""


def figures_of(rows: Sequence[PartRow], columns: Sequence[str]) -> dict[str, Any]:
    """Every figure of the accepted parts: margin, statistics of regions, image gates, latency.

    columns: names of the features; where they do not fit the rows, the features stay out.
    """
    accepted = [row.verdict for row in rows if row.verdict.word is Word.OK]
    found: dict[str, list[float]] = {"margin": [], "latency_ms": []}
    for verdict in accepted:
        found["margin"].append(np.nan if verdict.margin is None else verdict.margin)
        found["latency_ms"].append(verdict.latency_ns / 1e6)
        if len(verdict.features) == len(columns):
            for name, value in zip(columns, verdict.features, strict=True):
                found.setdefault(name, []).append(value)
        for name, value in verdict.gates.items():
            found.setdefault(f"image {name}", []).append(value)
    return {name: np.array(values, np.float64) for name, values in found.items()}


def rates_of(rows: Sequence[PartRow]) -> Rates:
    """Shares of rejects and uncertain parts."""
    words = [row.verdict.word for row in rows]
    reject, uncertain = (words.count(word) / len(words) for word in (Word.NG, Word.UNCERTAIN))
    return Rates(reject, uncertain, len(words))


class Baselines:
    """Of one box."""

    def __init__(self, people: People, clock: Callable[[], int] = time.time_ns) -> None:
        self._people, self._clock = people, clock
        with people.transaction() as connection:
            metadata.create_all(connection)

    def of(self, recipe: LoadedRecipe) -> Baseline | None:
        """The one that counts for this recipe; None = nobody approved one for its bundle."""
        query = (
            sa.select(_baselines)
            .where(
                _baselines.c.recipe == recipe.recipe.id,
                _baselines.c.bundle == recipe.recipe.bundle,
                _baselines.c.decides == recipe.recipe.decides,
            )
            .order_by(_baselines.c.id.desc())
            .limit(1)
        )
        with self._people.transaction() as connection:
            row = connection.execute(query).mappings().one_or_none()
        if row is None:
            return None
        figures = {
            name: np.array([np.nan if x is None else x for x in values], np.float64)
            for name, values in row["figures"].items()
        }
        return Baseline(
            row["id"], figures, Rates(**row["rates"]), row["by"], row["reason"], row["utc_ns"],
            Level(row["level"]), row["looked_part_id"], tuple(row["findings"]),
        )  # fmt: skip

    def approve(
        self,
        recipe: LoadedRecipe,
        rows: Sequence[PartRow],
        columns: Sequence[str],
        reason: str,
        by: User,
    ) -> None:
        """These parts, newest first, are right: from now on others are compared with them.

        Raises ConfigError: role, reason, too few parts.
        """
        if by.role < Role.ENGINEER:
            raise ConfigError("role", "engineer or above", by.role.name.lower())
        reason = checked(reason)
        if len(rows) < WINDOW:
            raise ConfigError("baseline", f"{WINDOW} parts of this bundle", str(len(rows)))
        figures = figures_of(rows, columns)
        first, last = rows[-1].verdict.part_id, rows[0].verdict.part_id
        self._people.journal.append(
            by.name, "baseline.approved", subject=recipe.name, new={"parts": [first, last]},
            reason=reason, role=by.role.name, source="page",
        )  # fmt: skip
        told = {
            name: [float(x) if np.isfinite(x) else None for x in values]
            for name, values in figures.items()
        }
        with self._people.transaction() as connection:
            connection.execute(
                sa.insert(_baselines).values(
                    recipe=recipe.recipe.id, bundle=recipe.recipe.bundle,
                    decides=recipe.recipe.decides, last_part_id=last, figures=told,
                    rates=asdict(rates_of(rows)), by=by.name, reason=reason,
                    utc_ns=self._clock(), level=int(Level.CALM), looked_part_id=last, findings=[],
                )
            )  # fmt: skip

    def looked(
        self, baseline: Baseline, level: Level, last_part_id: int, findings: Sequence[str]
    ) -> None:
        """A window was compared. A level that rose stands in the journal."""
        if level != baseline.level:
            self._people.journal.append(
                "system", "drift.level", subject=f"baseline {baseline.id}",
                old=baseline.level.name, new=level.name, reason="; ".join(findings),
            )  # fmt: skip
        self._set(
            baseline.id, level=int(level), looked_part_id=last_part_id, findings=list(findings)
        )

    def calm(self, baseline: Baseline, who: str, reason: str, role: str = "") -> None:
        """Back to calm: by a person, or because a challenge was passed."""
        self._people.journal.append(
            who, "drift.level", subject=f"baseline {baseline.id}", old=baseline.level.name,
            new=Level.CALM.name, reason=reason.strip(), role=role, source="page" if role else "",
        )  # fmt: skip
        self._set(baseline.id, level=int(Level.CALM))

    def _set(self, identity: int, **values: Any) -> None:
        query = sa.update(_baselines).where(_baselines.c.id == identity).values(**values)
        with self._people.transaction() as connection:
            connection.execute(query)
