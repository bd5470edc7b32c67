"""Where OK ends: two limits from labelled parts, and what they prove. Pure.

Enters: one raw margin per **part**, with its label. Leaves: limits in raw float32 margins (OK below
T1, NG from T2 up) and what is proved of them. Every limit here is an order statistic whose rank
follows from the numbers of parts alone, before any margin is looked at: that is what keeps its
bound valid. A limit that looks best on the same parts has no bound; only fresh ones can judge it
(`verify`).

Sources: order statistics as tolerance limits, Wilks (1941); split conformal prediction,
Papadopoulos et al. (2002) and Vovk et al. (2005).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from calibration.bounds import (
    Share,
    advice,
    escape_ppm,
    most_missed,
    percent,
    share,
    upper_bound,
)

Floats = npt.NDArray[np.float32]

GOOD = "good"


class Target(NamedTuple):
    """What the user asks for, in shares of parts."""

    max_escape: float = 0.01
    """Bad parts that may get OK."""
    max_overkill: float = 0.05
    """Good parts that may get NG."""
    confidence: float = 0.95
    per_type: bool = True
    """T1 has to keep `max_escape` for every defect type, not only for their mix. The confidence
    then holds for all types together (Bonferroni)."""


@dataclass(frozen=True)
class Parts:
    """Labelled parts, one number each."""

    margins: Floats
    """(N,) raw margins."""
    kinds: tuple[str, ...]
    """"good", or the type of defect."""

    _labels: npt.NDArray[np.str_] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.margins.shape != (len(self.kinds),):
            raise ValueError(f"expected {len(self.kinds)} margins, got {self.margins.shape}")
        if not np.isfinite(self.margins).all():
            raise ValueError("expected finite margins, got NaN or infinity")
        object.__setattr__(self, "_labels", np.array(self.kinds, np.str_))

    @property
    def good(self) -> Floats:
        """Margins of the good parts."""
        return self.margins[self._labels == GOOD]

    @property
    def bad(self) -> Floats:
        """Margins of all bad parts."""
        return self.margins[self._labels != GOOD]

    @property
    def types(self) -> tuple[str, ...]:
        """Types of defect, sorted."""
        return tuple(sorted(set(self.kinds) - {GOOD}))

    def of(self, kind: str) -> Floats:
        """Margins of the parts of one kind."""
        return self.margins[self._labels == kind]


def parts_of(names: Sequence[str], kinds: Sequence[str], margins: Sequence[float]) -> Parts:
    """Views → parts: a part has the largest margin of its views, since one NG view is enough.

    names: of the part that each view shows. Raises ValueError where views of a part disagree.
    """
    largest: dict[str, float] = {}
    kind_of: dict[str, str] = {}
    for name, kind, margin in zip(names, kinds, margins, strict=True):
        if kind_of.setdefault(name, kind) != kind:
            raise ValueError(f"part {name}: expected one label, got {kind_of[name]} and {kind}")
        largest[name] = max(largest.get(name, -math.inf), margin)
    return Parts(np.array(list(largest.values()), np.float32), tuple(kind_of.values()))


def escape_limit(bad: Floats, max_escape: float, confidence: float) -> Floats | None:
    """The highest T1 that keeps escapes at `max_escape`; None: too few parts to prove that.

    bad: (..., n) margins of bad parts, independent and as the line will see them. Returns (...,).
    Of n parts, k = `most_missed` may lie below T1, so T1 is the margin of rank k + 1 from below:
    the share of all bad parts below it exceeds `max_escape` with probability at most
    1 - confidence, whatever their distribution.
    """
    allowed = most_missed(bad.shape[-1], max_escape, confidence)
    return None if allowed is None else np.sort(bad, axis=-1)[..., allowed]


def overkill_limit(good: Floats, max_overkill: float, confidence: float) -> Floats | None:
    """The lowest T2 that keeps overkill at `max_overkill`; None: too few parts to prove that.

    good: (..., n) margins of good parts. T2 lies just above the margin of rank k + 1 from above.
    """
    count = good.shape[-1]
    allowed = most_missed(count, max_overkill, confidence)
    if allowed is None:
        return None
    return just_above(np.sort(good, axis=-1)[..., count - 1 - allowed])


def conformal_limit(good: Floats, max_overkill: float) -> Floats | None:
    """T2 from good parts alone; None with fewer than 1/max_overkill - 1 of them.

    good: (..., n). Split conformal: just above the margin of rank ceil((n + 1)(1 - max_overkill)).
    Guarantee: the **next** good part gets NG with probability at most `max_overkill`, on the
    average over all samples that could have been drawn. Of one given sample nothing is proved;
    `overkill_limit` does that. It knows nothing of escapes.
    """
    count = good.shape[-1]
    # 9 digits: 20 · 0.95 must be 19 whatever binary fractions make of it.
    rank = math.ceil(round((count + 1) * (1 - max_overkill), 9))
    return None if rank > count else just_above(np.sort(good, axis=-1)[..., rank - 1])


def just_above(margin: npt.ArrayLike) -> Floats:
    """The next float32: NG is "from T2 up"."""
    return np.nextafter(np.asarray(margin, np.float32), np.float32(np.inf))


@dataclass(frozen=True)
class Proposal:
    """Two limits, or the reason why there are none."""

    t1: float | None
    t2: float | None
    advice: tuple[str, ...]
    """Sentences for people: what is proved, what is not, and how many parts would do."""
    on_average: tuple[str, ...] = ()
    """Sentences for people about a limit of which nothing is proved."""
    proved_escape: Mapping[str, float] = field(default_factory=dict)
    """Type of defect → the bound that the rank of T1 proves, before any margin was seen."""
    proved_overkill: float | None = None

    @property
    def is_proved(self) -> bool:
        """Both limits are there: the calibrate parts suffice for the target."""
        return self.t1 is not None and self.t2 is not None


def propose(parts: Parts, target: Target, guard_band: float = 0.0) -> Proposal:
    """T1 and T2 that prove the target on these parts alone.

    guard_band: least T2 - T1 in margins (6 σ of a repeatability study). The limits only move apart
    to make room: T1 down and T2 up keep what was proved of them.
    """
    words: list[str] = []
    groups = parts.types if target.per_type else (("all",) if len(parts.bad) else ())
    each = 1 - (1 - target.confidence) / max(1, len(groups))
    lowest: list[float] = []
    proved: dict[str, float] = {}
    for name in groups:
        bad = parts.of(name) if target.per_type else parts.bad
        limit = escape_limit(bad, target.max_escape, each)
        allowed = most_missed(len(bad), target.max_escape, each) or 0
        proved[name] = upper_bound(allowed, len(bad), each)
        what = f"bad parts ({name})" if target.per_type else "bad parts"
        words.append(f"T1: {advice(len(bad), allowed, target.max_escape, each, what)}")
        lowest.append(-math.inf if limit is None else float(limit))
    if not groups:
        words.append("T1: no bad parts, so nothing can be said of escapes")
    t1 = min(lowest) if lowest and min(lowest) > -math.inf else None

    good = parts.good
    upper = overkill_limit(good, target.max_overkill, target.confidence)
    allowed = most_missed(len(good), target.max_overkill, target.confidence) or 0
    words.append(
        f"T2: {advice(len(good), allowed, target.max_overkill, target.confidence, 'good parts')}"
    )
    overkill = upper_bound(allowed, len(good), target.confidence)
    t2 = None if upper is None else float(upper)
    on_average: tuple[str, ...] = ()
    if not groups:
        of_this_limit, on_average = _good_alone(good, target)
        words += of_this_limit
    if t1 is not None and t2 is not None:
        t1, t2 = _ordered(t1, t2, guard_band)
    return Proposal(t1, t2, tuple(words), on_average, proved, overkill)


_UNCERTAIN = "those from T1 up are UNCERTAIN and come on top"


def _good_alone(good: Floats, target: Target) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What good parts without any bad one are good for: a person may set NG by it, knowing that it
    promises nothing of escapes. What is proved of this limit, and what holds on the average."""
    most = percent(target.max_overkill)
    of_this_limit: tuple[str, ...] = ()
    on_average: tuple[str, ...] = ()
    if (proved := overkill_limit(good, target.max_overkill, target.confidence)) is not None:
        of_this_limit = (
            f"NG from {float(proved):.4f} up: at most {most} of the good parts get NG, with "
            f"{target.confidence:.0%} confidence; {_UNCERTAIN}",
        )
    if (conformal := conformal_limit(good, target.max_overkill)) is not None:
        on_average = (
            f"NG from {float(conformal):.4f} up: the next good part gets NG with a chance of at "
            f"most {most}, on the average over all samples (split conformal); {_UNCERTAIN}",
        )
    return of_this_limit, on_average


def _ordered(t1: float, t2: float, guard_band: float) -> tuple[float, float]:
    """At least `guard_band` apart, T1 <= T2. T1 only falls and T2 only rises: both stay proved."""
    # Classes that lie far apart give T1 > T2: every margin between satisfies both.
    if t2 - t1 < guard_band:
        middle = (t1 + t2) / 2
        t1, t2 = middle - guard_band / 2, middle + guard_band / 2
    return float(np.float32(t1)), float(np.float32(t2))


@dataclass(frozen=True)
class Outcome:
    """What two limits do to labelled parts, with bounds at one confidence."""

    escapes: Mapping[str, Share]
    """Bad parts that got OK, by type; the confidence holds for all types together."""
    escapes_all: Share
    """Of all types, in the mix in which they were sampled."""
    overkill: Share
    """Good parts that got NG."""
    uncertain_good: Share
    uncertain_bad: Share
    confidence: float

    @property
    def worst_type(self) -> str | None:
        """The type with the largest upper bound: holds for any mix of types."""
        return max(self.escapes, key=lambda name: self.escapes[name].upper, default=None)

    def review_load(self, defect_rate: float) -> tuple[float, float]:
        """Share of production that a person has to look at: as seen, and its upper bound.

        The bound adds the bounds of good and bad parts, each at half the allowed doubt; it is 1
        for a class without parts.
        """
        each = 1 - (1 - self.confidence) / 2
        seen = bound = 0.0
        for part, weight in (
            (self.uncertain_good, 1 - defect_rate),
            (self.uncertain_bad, defect_rate),
        ):
            seen += weight * (part.estimate if part.estimate is not None else 1.0)
            bound += weight * upper_bound(part.cases, part.total, each)
        return seen, bound

    def escape_ppm(self, defect_rate: float) -> tuple[float | None, float]:
        """Bad parts per million delivered: as seen, and the upper bound, of the mix sampled."""
        seen = self.escapes_all.estimate
        return (
            None if seen is None else escape_ppm(defect_rate, seen),
            escape_ppm(defect_rate, self.escapes_all.upper),
        )


def outcome(parts: Parts, t1: float, t2: float, confidence: float, looks: int = 1) -> Outcome:
    """Count and bound.

    The bounds hold only for parts that had no say in choosing the limits (`verify`); on the
    calibrate parts they are estimates and have to be labelled so. looks: how many proposals were
    **planned** to be judged by the same parts; each gets its share of the doubt, so that the one
    that is taken in the end still has its bound (Bonferroni).
    """
    if looks < 1:
        raise ValueError(f"expected at least 1 look, got {looks}")
    confidence = 1 - (1 - confidence) / looks
    types = parts.types
    each = 1 - (1 - confidence) / max(1, len(types))
    low, high = np.float32(t1), np.float32(t2)
    good, bad = parts.good, parts.bad

    def between(margins: Floats) -> int:
        return int(((margins >= low) & (margins < high)).sum())

    by_type = {name: parts.of(name) for name in types}
    return Outcome(
        escapes={n: share(int((m < low).sum()), len(m), each) for n, m in by_type.items()},
        escapes_all=share(int((bad < low).sum()), len(bad), confidence),
        overkill=share(int((good >= high).sum()), len(good), confidence),
        uncertain_good=share(between(good), len(good), confidence),
        uncertain_bad=share(between(bad), len(bad), confidence),
        confidence=confidence,
    )


def summary(seen: Outcome, defect_rate: float) -> dict[str, Any]:
    """An outcome as plain numbers: each share as cases, total, estimate and both bounds."""
    load, load_bound = seen.review_load(defect_rate)
    ppm, ppm_bound = seen.escape_ppm(defect_rate)
    return {
        "confidence": seen.confidence,
        "escapes": {name: told(share) for name, share in seen.escapes.items()},
        "escapes_all": told(seen.escapes_all),
        "worst_type": seen.worst_type,
        "overkill": told(seen.overkill),
        "review_load": {"estimate": load, "upper": load_bound},
        "escape_ppm": {"estimate": ppm, "upper": ppm_bound, "defect_rate": defect_rate},
    }


def told(one: Share) -> dict[str, Any]:
    """A share as plain numbers: cases, total, estimate (None without parts), lower, upper."""
    return one._asdict() | {"estimate": one.estimate}


def separate(names: Sequence[str], kinds: Sequence[str], seed: int, share: float = 0.5) -> set[str]:
    """Names of the parts for `verify`; the rest calibrates. Every kind is split by itself.

    Which part goes where depends on names, kinds and the seed alone, never on a margin.
    """
    rng = np.random.default_rng(seed)
    kind_of = dict(zip(names, kinds, strict=True))
    chosen: set[str] = set()
    for kind in sorted(set(kinds)):
        own = sorted(name for name, known in kind_of.items() if known == kind)
        count = round(len(own) * share)
        chosen.update(own[index] for index in rng.permutation(len(own))[:count])
    return chosen
