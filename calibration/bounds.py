"""What a count proves: exact one-sided bounds of a share, and how many parts a proof needs. Pure.

Enters: counts of **parts** (never of images: several views of a part are one sample). Leaves:
shares between 0 and 1. All bounds are Clopper–Pearson (Biometrika 26, 1934): they hold for every
true share and every sample size, at the price of being a little wide.
"""

from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple

from scipy import stats

CONFIDENCE = 0.95
"""Of every bound that the pages show."""
_MOST_PARTS = 10_000_000


class Share(NamedTuple):
    """`cases` of `total` parts, and what that proves."""

    cases: int
    total: int
    lower: float
    """One-sided: the true share is at least this, with the confidence asked for."""
    upper: float
    """One-sided: the true share is at most this, with the confidence asked for."""

    @property
    def estimate(self) -> float | None:
        """The share seen; None without parts."""
        return self.cases / self.total if self.total else None


@lru_cache(maxsize=65536)
def upper_bound(count: int, total: int, confidence: float) -> float:
    """Largest share that `count` of `total` does not contradict, one-sided; 1.0 without parts."""
    _check(count, total, confidence)
    return 1.0 if count == total else float(stats.beta.ppf(confidence, count + 1, total - count))


@lru_cache(maxsize=65536)
def lower_bound(count: int, total: int, confidence: float) -> float:
    """Smallest share that `count` of `total` does not contradict, one-sided; 0.0 without parts."""
    _check(count, total, confidence)
    return 0.0 if count == 0 else float(stats.beta.ppf(1 - confidence, count, total - count + 1))


def share(count: int, total: int, confidence: float) -> Share:
    """Both one-sided bounds; together they are an interval of confidence 2 · confidence - 1."""
    return Share(
        count, total, lower_bound(count, total, confidence), upper_bound(count, total, confidence)
    )


@lru_cache(maxsize=4096)
def parts_needed(rate: float, missed: int, confidence: float) -> int:
    """Fewest parts of which `missed` may fail while a share of at most `rate` is proved.

    operations.md 5.5 has the table: 5 %, none missed, confidence 95 %: 59 parts. Raises ValueError
    where more than ten million would be needed.
    """
    _check_rate(rate)
    low, high = missed, max(missed + 1, 16)
    while upper_bound(missed, high, confidence) > rate:
        if high >= _MOST_PARTS:
            raise ValueError(f"expected a provable rate, got {rate:g}: over {_MOST_PARTS} parts")
        low, high = high, min(2 * high, _MOST_PARTS)
    while high - low > 1:
        middle = (low + high) // 2
        if upper_bound(missed, middle, confidence) > rate:
            low = middle
        else:
            high = middle
    return high


@lru_cache(maxsize=4096)
def most_missed(total: int, rate: float, confidence: float) -> int | None:
    """How many of `total` parts may fail while `rate` stays proved; None: not even with none."""
    _check_rate(rate)
    if upper_bound(0, total, confidence) > rate:
        return None
    low, high = 0, total  # low is allowed, high is not: all of them failing proves nothing
    while high - low > 1:
        middle = (low + high) // 2
        if upper_bound(middle, total, confidence) <= rate:
            low = middle
        else:
            high = middle
    return low


def advice(total: int, missed: int, rate: float, confidence: float, what: str = "bad parts") -> str:
    """In plain words: what these parts prove, and how many would prove the target."""
    proved = upper_bound(missed, total, confidence)
    parts = f"{total} {what.replace('parts', 'part', 1) if total == 1 else what}"
    seen = f"{missed or 'none'} of them on the wrong side"
    if proved <= rate:
        return f"{parts}, {seen}: at most {percent(proved)} is proved (asked: {percent(rate)})"
    try:
        needed = f"{parts_needed(rate, missed, confidence)} can"
    except ValueError:
        needed = "no practical number can"
    even = "even with" if missed == 0 else "with"  # it need not be so: it would not be enough
    told = f"cannot prove at most {percent(rate)}, only {percent(proved)}; {needed}"
    return f"{parts}, {even} {seen}: {told}"


def percent(value: float) -> str:
    """0.0123 → "1.23 %", 0.99951 → "99.951 %": three digits of the share, or near 1 of what is left
    of it, so that it is never rounded to 0 or to 100."""
    if 0.999 < value < 1:
        return f"{100 - _three(100 * (1 - value)):f} %"
    return f"{_three(100 * value):f} %"


def figure(value: float) -> str:
    """1428.57 → "1 430": three significant digits, and never a power of ten."""
    return f"{_three(value):,f}".replace(",", "\N{NO-BREAK SPACE}")


def escape_ppm(defect_rate: float, escape_rate: float) -> float:
    """Bad parts per million **delivered** ones, where all good parts are delivered.

    defect_rate: share of bad parts before inspection. escape_rate: share of those that get OK.
    """
    escaped = defect_rate * escape_rate
    delivered = 1 - defect_rate * (1 - escape_rate)
    return 1e6 * escaped / delivered if delivered else 1e6


def _three(value: float) -> Decimal:
    return Decimal(f"{value:.3g}")


def _check(count: int, total: int, confidence: float) -> None:
    if not 0 <= count <= total:
        raise ValueError(f"expected 0 <= count <= total, got {count} of {total}")
    if not 0.5 <= confidence < 1:
        raise ValueError(f"expected a confidence from 0.5 to below 1, got {confidence}")


def _check_rate(rate: float) -> None:
    if not 0 < rate < 1:
        raise ValueError(f"expected a rate between 0 and 1, got {rate}")


def confidence_of(look: int) -> float:
    """Of the bounds of opening number `look`: 95 % for all openings together, however many there
    will be (each takes half of the doubt that is left)."""
    return 1 - (1 - CONFIDENCE) / 2**look
