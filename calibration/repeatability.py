"""Does the same part get the same answer? Score repeatability and attribute agreement. Pure.

Enters: presentations of parts, each a new acquisition. Leaves: the spread of the margin per part,
the guard band that it asks for, and what AIAG's MSA manual (4th edition, attribute studies) asks of
an inspection: effectiveness, miss rate, false alarms. Kappa is left out on purpose: it mixes both
errors and hides how few parts there were.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

from appliance.codes import Word
from appliance.errors import ConfigError
from calibration.bounds import CONFIDENCE, Share, parts_needed, percent, share

GUARD_SIGMAS = 6.0
ADVISED_REPEATS = 10
_NEAR_SIGMAS = 6.0
"""Parts whose mean lies so close to a limit say how wide the guard band has to be."""

Rating = Literal["acceptable", "marginal", "unacceptable"]
AIAG: Mapping[str, tuple[float, float]] = {
    "effectiveness": (0.90, 0.80),
    "miss": (0.02, 0.05),
    "false alarm": (0.05, 0.10),
}
"""Acceptable and marginal, of the share of decisions that was seen: effectiveness at least, the
others at most. AIAG asks for no bound: what the parts prove is another question."""
_COUNTED = {"effectiveness": "parts", "miss": "bad parts", "false alarm": "good parts"}


class Presentation(NamedTuple):
    """One acquisition of one part."""

    part: str
    frame_hash: str
    """Of the pixels: two acquisitions never have the same noise."""
    margin: float
    word: Word
    is_simulated: bool = False


class PartStudy(NamedTuple):
    """All presentations of one part."""

    part: str
    margins: tuple[float, ...]
    mean: float
    sigma: float
    words: tuple[Word, ...]

    @property
    def flips(self) -> bool:
        """Not always the same verdict."""
        return len(set(self.words)) > 1


@dataclass(frozen=True)
class Repeatability:
    """The score study."""

    parts: tuple[PartStudy, ...]
    sigma: float
    """Pooled over the parts near a limit, or over all where none is near; in margins."""
    sigma_upper: float
    """One-sided 95 % bound of it (chi-squared)."""
    near: tuple[str, ...]
    limits: tuple[float, float]
    is_simulated: bool
    notes: tuple[str, ...]

    @property
    def guard_band(self) -> float:
        """Least T2 - T1: 6 sigma."""
        return GUARD_SIGMAS * self.sigma

    @property
    def is_wide_enough(self) -> bool:
        """The limits in force leave that much room."""
        return self.limits[1] - self.limits[0] >= self.guard_band


class Agreement(NamedTuple):
    """One figure of the attribute study."""

    name: str
    decisions: Share
    """As AIAG counts: every decision."""
    parts: Share
    """Parts with at least one wrong decision (effectiveness: with none), for the bound: decisions
    about the same part are not independent."""
    rating: Rating
    """By the share of decisions alone."""

    @property
    def sign(self) -> str:
        """Of what is good."""
        return "≥" if self.name == "effectiveness" else "≤"

    @property
    def proof(self) -> str:
        """In words: what these parts prove, and how many it takes to prove AIAG's figure."""
        asked, wrong = AIAG[self.name][0], self.parts.cases
        bound, rate, what = self.parts.upper, asked, _COUNTED[self.name]
        is_proved = bound <= asked
        if self.name == "effectiveness":
            bound, rate, wrong = self.parts.lower, 1 - asked, self.parts.total - wrong
            is_proved = bound >= asked
        told = f"{self.sign} {percent(bound)}"
        if is_proved:
            return f"{told}, and so {self.sign} {percent(asked)}"
        needed = f"{parts_needed(rate, wrong, CONFIDENCE)} {what}"
        if wrong:
            needed += f", at most {wrong} of them wrong"
        return f"{told}; {self.sign} {percent(asked)} takes {needed}"


def study(presentations: Iterable[Presentation], limits: tuple[float, float]) -> Repeatability:
    """Spread of the margins per part.

    Raises ConfigError where two presentations show the same pixels (a picture that was shown twice
    is no repeat), where a part was presented once only, and on margins that are not finite.
    """
    by_part: dict[str, list[Presentation]] = {}
    seen: dict[str, str] = {}
    is_simulated = False
    for one in presentations:
        if one.frame_hash in seen:
            raise ConfigError(
                f"part {one.part}", "a new acquisition for every presentation",
                f"the very picture that was shown as part {seen[one.frame_hash]}",
            )  # fmt: skip
        if not math.isfinite(one.margin):
            raise ConfigError(f"part {one.part}", "a finite margin", str(one.margin))
        seen[one.frame_hash] = one.part
        by_part.setdefault(one.part, []).append(one)
        is_simulated = is_simulated or one.is_simulated
    if not by_part:
        raise ConfigError("repeatability study", "presentations", "none")
    parts: list[PartStudy] = []
    for name, shown in by_part.items():
        if len(shown) < 2:
            raise ConfigError(f"part {name}", "at least 2 presentations", "1")
        margins = np.array([one.margin for one in shown], np.float64)
        parts.append(
            PartStudy(
                name, tuple(margins.tolist()), float(margins.mean()),
                float(margins.std(ddof=1)), tuple(one.word for one in shown),
            )
        )  # fmt: skip
    everywhere, _ = _pooled(parts)
    near = [
        part for part in parts
        if min(abs(part.mean - limit) for limit in limits) <= _NEAR_SIGMAS * everywhere
    ]  # fmt: skip
    sigma, freedom = _pooled(near or parts)
    notes: list[str] = []
    fewest = min(len(part.margins) for part in parts)
    if fewest < ADVISED_REPEATS:
        notes.append(f"{fewest} presentations of a part; {ADVISED_REPEATS} or more are advised")
    if not near:
        notes.append("no part near a limit: the guard band is that of all parts")
    return Repeatability(
        parts=tuple(parts),
        sigma=sigma,
        sigma_upper=sigma * math.sqrt(freedom / float(stats.chi2.ppf(0.05, freedom))),
        near=tuple(part.part for part in near),
        limits=limits,
        is_simulated=is_simulated,
        notes=tuple(notes),
    )


def agreement(parts: Sequence[PartStudy], is_bad: Mapping[str, bool]) -> tuple[Agreement, ...]:
    """Effectiveness, miss and false alarm against the known truth of each part.

    UNCERTAIN and ERROR are no correct decision, but neither a miss (a bad part given OK) nor a
    false alarm (a good part given NG). Raises ConfigError where a part's truth is not known.
    """
    for part in parts:
        if part.part not in is_bad:
            raise ConfigError(f"part {part.part}", "a known truth, good or bad", "none")
    bad = [part for part in parts if is_bad[part.part]]
    good = [part for part in parts if not is_bad[part.part]]

    def count(name: str, chosen: Sequence[PartStudy], wrong: Mapping[bool, Word]) -> Agreement:
        is_right = name == "effectiveness"
        hits = [sum(w is wrong[is_bad[part.part]] for w in part.words) for part in chosen]
        total = sum(len(part.words) for part in chosen)
        decisions = share(sum(hits), total, CONFIDENCE)
        whole = [
            n == len(p.words) if is_right else n > 0 for n, p in zip(hits, chosen, strict=True)
        ]
        return Agreement(
            name, decisions, share(sum(whole), len(chosen), CONFIDENCE),
            rating(name, decisions.estimate),
        )  # fmt: skip

    right, false = {True: Word.NG, False: Word.OK}, {True: Word.OK, False: Word.NG}
    return (
        count("effectiveness", parts, right),
        count("miss", bad, false),
        count("false alarm", good, false),
    )


def rating(name: str, value: float | None) -> Rating:
    """By AIAG's limits; without any part: unacceptable, because nothing was shown."""
    if value is None:
        return "unacceptable"
    acceptable, marginal = AIAG[name]
    if name == "effectiveness":
        value, acceptable, marginal = -value, -acceptable, -marginal
    if value <= acceptable:
        return "acceptable"
    return "marginal" if value <= marginal else "unacceptable"


def _pooled(parts: Sequence[PartStudy]) -> tuple[float, int]:
    """Root mean variance, weighted by degrees of freedom, and these."""
    freedom = sum(len(part.margins) - 1 for part in parts)
    squares = sum((len(part.margins) - 1) * part.sigma**2 for part in parts)
    return math.sqrt(squares / freedom), freedom
