"""Has the process moved since its limits were approved? Pure; it warns, and never moves a limit.

Enters: an approved baseline and what the line saw lately. Leaves: findings and a level (`warn` →
`challenge` → `hold`). Means of accepted parts by EWMA and CUSUM (Montgomery, Introduction to
Statistical Quality Control, chapter 9), whole distributions by PSI and Kolmogorov–Smirnov, rates of
rejects by the beta-binomial, which knows how few parts the baseline had.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

Doubles = npt.NDArray[np.float64]

FALSE_ALARM = 0.001
"""Of one look at one window."""
BINS = 10
_LEAST_PSI = 0.1
"""Smaller shifts of a whole distribution are not worth a person's time, however sure they are."""
_LEAST_KS = 0.1
_LEAST_PARTS = 50
_LONGEST_RUN = 100_000


class Level(IntEnum):
    """What the line does about it. No level changes a limit."""

    CALM = 0
    WARN = 1
    CHALLENGE = 2
    """A challenge part is due."""
    HOLD = 3


class Finding(NamedTuple):
    """One alarm, in numbers."""

    what: str
    value: float
    limit: float


class Ewma:
    """Exponentially weighted mean of accepted margins; alarms on slow shifts.

    weight 0.05 and 2.615 deviations: a false alarm about every 500 independent parts (Lucas and
    Saccucci 1990), so a single one is a warning and nothing more.
    """

    def __init__(
        self, mean: float, deviation: float, weight: float = 0.05, width: float = 2.615
    ) -> None:
        _check_spread(deviation)
        self._mean, self._deviation, self._weight, self._width = mean, deviation, weight, width
        self.value = mean
        self._count = 0

    @property
    def limit(self) -> float:
        """Largest distance from the mean that is no alarm, after the parts seen so far."""
        fading = 1 - (1 - self._weight) ** (2 * self._count)
        variance = self._weight / (2 - self._weight) * fading
        return self._width * self._deviation * math.sqrt(variance)

    def add(self, margin: float) -> Finding | None:
        """One accepted part. An alarm stays as long as the mean is out."""
        self._count += 1
        self.value += self._weight * (margin - self.value)
        distance = abs(self.value - self._mean)
        return (
            Finding("EWMA of accepted margins", distance, self.limit)
            if (distance > self.limit)
            else None
        )


class Cusum:
    """Two-sided cumulative sum: finds a shift of one deviation within about ten parts.

    reference 0.5 and decision 5 deviations: a false alarm about every 465 parts.
    """

    def __init__(
        self, mean: float, deviation: float, reference: float = 0.5, decision: float = 5.0
    ) -> None:
        _check_spread(deviation)
        self._mean, self._deviation = mean, deviation
        self._reference, self._decision = reference, decision
        self.high = self.low = 0.0

    def add(self, margin: float) -> Finding | None:
        """One accepted part."""
        step = (margin - self._mean) / self._deviation
        self.high = max(0.0, self.high + step - self._reference)
        self.low = max(0.0, self.low - step - self._reference)
        worst = max(self.high, self.low)
        if worst <= self._decision:
            return None
        return Finding("CUSUM of accepted margins", worst, self._decision)


def psi(baseline: Doubles, recent: Doubles, bins: int = BINS) -> float:
    """Population stability index over the baseline's quantile bins; 0 = the same shares.

    Half a part is added to every bin, so that an empty one does not make it infinite.
    """
    edges = np.unique(np.quantile(baseline, np.linspace(0, 1, bins + 1)[1:-1]))
    shares: list[Doubles] = []
    for sample in (baseline, recent):
        counts = np.bincount(np.searchsorted(edges, sample, "right"), minlength=len(edges) + 1)
        shares.append((counts + 0.5) / (counts.sum() + 0.5 * len(counts)))
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())


def psi_limit(baseline: int, recent: int, false_alarm: float = FALSE_ALARM) -> float:
    """What PSI stays below without any drift: chi-squared / harmonic size, at least 0.1."""
    harmonic = baseline * recent / (baseline + recent)
    return max(_LEAST_PSI, float(stats.chi2.isf(false_alarm, BINS - 1)) / harmonic)


def compare(
    baseline: Mapping[str, Doubles],
    recent: Mapping[str, Doubles],
    false_alarm: float = FALSE_ALARM,
) -> tuple[Finding, ...]:
    """PSI and Kolmogorov–Smirnov of every named figure (margin, statistics of regions, gates).

    The false alarm is that of all figures together. Figures with fewer than 50 values on either
    side say nothing.
    """
    each = false_alarm / max(1, 2 * len(baseline))
    found: list[Finding] = []
    for name, old in baseline.items():
        new = recent.get(name, np.empty(0))
        old, new = old[np.isfinite(old)], new[np.isfinite(new)]
        if min(len(old), len(new)) < _LEAST_PARTS:
            continue
        index, limit = psi(old, new), psi_limit(len(old), len(new), each)
        if index > limit:
            found.append(Finding(f"PSI of {name}", index, limit))
        test: Any = stats.ks_2samp(old, new, method="asymp")
        distance, chance = float(test.statistic), float(test.pvalue)
        if chance < each and distance > _LEAST_KS:
            found.append(Finding(f"KS distance of {name}", distance, _LEAST_KS))
    return tuple(found)


def most_rejects(
    window: int, rate: float, parts: float = math.inf, false_alarm: float = FALSE_ALARM
) -> int:
    """Rejects in a window of parts that are no alarm: more of them come with probability at most
    `false_alarm` while nothing has changed.

    rate: share of rejects among `parts` approved parts; math.inf = known for sure. How far such a
    share may be from the true one is in it (beta-binomial of Jeffreys' prior; Gelman et al.,
    Bayesian Data Analysis, 3rd edition, section 2.4 and 2.8), so that no reject among 500 is a
    baseline as well.
    """
    if math.isinf(parts):
        return int(stats.binom.isf(false_alarm, window, rate))
    return int(stats.betabinom.isf(false_alarm, window, *_beta(rate, parts)))


def most_in_a_row(rate: float, parts: float = math.inf, false_alarm: float = FALSE_ALARM) -> float:
    """Consecutive rejects that are no alarm: one more has at most this chance at any part.

    math.inf where nearly all of the baseline was rejected.
    """
    if math.isinf(parts):
        return max(1, math.ceil(math.log(false_alarm) / math.log(rate)) - 1)
    return max(1.0, _shortest_run(rate, parts, false_alarm) - 1)


def longest_silence(
    rate: float, parts: float = math.inf, false_alarm: float = FALSE_ALARM
) -> float:
    """Parts without a reject that are no alarm; beyond it the rejecting itself is in doubt.

    math.inf where the baseline had so few rejects that no silence says anything.
    """
    if math.isinf(parts):
        return math.ceil(math.log(false_alarm) / math.log1p(-rate))
    return _shortest_run(1 - rate, parts, false_alarm)


def _shortest_run(rate: float, parts: float, false_alarm: float) -> float:
    """How many in a row of what has this rate come with a chance of at most `false_alarm`."""
    these, others = _beta(rate, parts)
    before = np.arange(_LONGEST_RUN)
    chance = np.cumprod((these + before) / (these + others + before))
    return float(np.argmax(chance <= false_alarm)) + 1 if chance[-1] <= false_alarm else math.inf


def _beta(rate: float, parts: float) -> tuple[float, float]:
    """What is known of the true rate."""
    return rate * parts + 0.5, (1 - rate) * parts + 0.5


@dataclass(frozen=True)
class Rates:
    """Approved shares of production."""

    reject: float
    uncertain: float
    parts: int = 500
    """Among so many parts."""


def judge_rates(
    rejects: Sequence[bool], uncertain: Sequence[bool], rates: Rates
) -> tuple[Finding, ...]:
    """The last parts, oldest first, against the approved rates."""
    window, parts = len(rejects), rates.parts
    found: list[Finding] = []
    for what, flags, rate in (
        ("rejects", rejects, rates.reject),
        ("uncertain parts", uncertain, rates.uncertain),
    ):
        if sum(flags) > (most := most_rejects(window, rate, parts)):
            found.append(Finding(f"{what} in the last {window} parts", sum(flags), most))
    row = longest_row(rejects, True)
    if row > (most := most_in_a_row(rates.reject, parts)):
        found.append(Finding("rejects in a row", row, most))
    silence = next((n for n, flag in enumerate(reversed(rejects)) if flag), window)
    if silence > (most := longest_silence(rates.reject, parts)):
        found.append(Finding("parts without a reject", silence, most))
    return tuple(found)


def longest_row(flags: Sequence[bool], wanted: bool) -> int:
    """Length of the longest run."""
    longest = current = 0
    for flag in flags:
        current = current + 1 if flag == wanted else 0
        longest = max(longest, current)
    return longest


def escalate(level: Level, has_findings: bool) -> Level:
    """The level after one more window: a step up with every window that alarms, none down.

    Down it goes by a person, or by a passed challenge (`CALM`). A single false alarm is a warning;
    three windows in a row that alarm stop the line, and no limit moves by itself.
    """
    return Level(min(level + 1, Level.HOLD)) if has_findings else level


def _check_spread(deviation: float) -> None:
    if not (math.isfinite(deviation) and deviation > 0):
        raise ValueError(f"expected a positive deviation of accepted margins, got {deviation}")
