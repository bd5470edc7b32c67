"""What another limit would do: ROC, cost curve, flips. Pure; for people, estimates without bounds
unless they say so.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from calibration.bounds import Share, share
from calibration.limits import Parts

Doubles = npt.NDArray[np.float64]


class Costs(NamedTuple):
    """Of one part each, in any one currency."""

    escape: float = 100.0
    overkill: float = 1.0
    review: float = 0.2


class Curve(NamedTuple):
    """One row per limit that makes a difference, from the lowest to the highest."""

    limits: npt.NDArray[np.float32]
    """(M,): a part is called bad from here up."""
    escape: Doubles
    """(M,) share of the bad parts below the limit."""
    overkill: Doubles
    """(M,) share of the good parts at or above it."""


def curve(parts: Parts) -> Curve:
    """All single limits (T1 = T2) and what they do; needs a good and a bad part."""
    good, bad = np.sort(parts.good), np.sort(parts.bad)
    if not (len(good) and len(bad)):
        raise ValueError(f"expected good and bad parts, got {len(good)} and {len(bad)}")
    highest = np.nextafter(max(good[-1], bad[-1]), np.float32(np.inf))
    limits = np.append(np.unique(np.concatenate([good, bad])), highest)
    return Curve(
        limits.astype(np.float32),
        np.searchsorted(bad, limits, "left") / len(bad),
        1 - np.searchsorted(good, limits, "left") / len(good),
    )


def false_alarms_at(parts: Parts, recall: float, confidence: float) -> Share:
    """False alarms (NG among the good) of the highest limit that still finds `recall` of the bad.

    An estimate: the limit was chosen on the same parts.
    """
    bad, good = np.sort(parts.bad), parts.good
    # 9 digits: 0.95 · 20 must be 19 whatever binary fractions make of it.
    index = len(bad) - int(np.ceil(round(recall * len(bad), 9)))
    limit = bad[max(0, index)]
    return share(int((good >= limit).sum()), len(good), confidence)


def cost_per_1000(curve: Curve, defect_rate: float, costs: Costs) -> Doubles:
    """(M,) expected cost of 1000 parts for every single limit."""
    bad, good = 1000 * defect_rate, 1000 * (1 - defect_rate)
    return bad * curve.escape * costs.escape + good * curve.overkill * costs.overkill


def cost_of(parts: Parts, limits: tuple[float, float], defect_rate: float, costs: Costs) -> float:
    """Expected cost of 1000 parts with two limits, what a person has to look at included.

    Needs a good and a bad part.
    """
    low, high = np.float32(limits[0]), np.float32(limits[1])

    def reviewed(margins: npt.NDArray[np.float32]) -> float:
        return float(((margins >= low) & (margins < high)).mean())

    good, bad = parts.good, parts.bad
    of_good = float((good >= high).mean()) * costs.overkill + reviewed(good) * costs.review
    of_bad = float((bad < low).mean()) * costs.escape + reviewed(bad) * costs.review
    return 1000 * ((1 - defect_rate) * of_good + defect_rate * of_bad)


class Flips(NamedTuple):
    """Indices of parts whose verdict another pair of limits would change."""

    to_ok: npt.NDArray[np.intp]
    to_uncertain: npt.NDArray[np.intp]
    to_ng: npt.NDArray[np.intp]


def flips(
    margins: npt.NDArray[np.float32], old: tuple[float, float], new: tuple[float, float]
) -> Flips:
    """margins: (N,) of parts that were judged; old and new: T1 and T2. Compared as float32."""

    def words(limits: tuple[float, float]) -> npt.NDArray[np.int8]:
        return np.searchsorted(np.array(limits, np.float32), margins, "right").astype(np.int8)

    before, after = words(old), words(new)
    changed = before != after
    return Flips(*(np.flatnonzero(changed & (after == word)) for word in range(3)))
