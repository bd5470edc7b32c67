"""Margin and limits → verdict, several views → one. Pure; only here can a part become OK."""

import math
from collections.abc import Sequence

import numpy as np

from appliance.codes import Reason, Word
from appliance.recipe import Limits
from appliance.scores import Decides

_REASONS: dict[Decides, Reason] = {
    "segad": Reason.SEGAD,
    "average": Reason.BOTH,
    "map_max": Reason.ANOMALY_SCORE,
    "classification": Reason.ANOMALY_SCORE,
}
_WORST_FIRST = (Word.NG, Word.ERROR, Word.UNCERTAIN, Word.OK)


def judge(margin: float, limits: Limits, decides: Decides) -> tuple[Word, Reason]:
    """Compare one raw margin with two limits, all as float32.

    OK below t1, NG from t2 up, UNCERTAIN between; anything that is not finite is ERROR.
    """
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, and so ERROR
        value, t1, t2 = np.float32(margin), np.float32(limits.t1), np.float32(limits.t2)
    if not (math.isfinite(value) and math.isfinite(t1) and math.isfinite(t2) and t1 <= t2):
        return Word.ERROR, Reason.INVALID_NUMBER
    if value >= t2:
        return Word.NG, _REASONS[decides]
    if value >= t1:
        return Word.UNCERTAIN, Reason.UNCERTAIN_BAND
    return Word.OK, Reason.NONE


def worst(words: Sequence[Word]) -> int:
    """Which view decides about its part: the first NG, else ERROR, else UNCERTAIN, else OK.

    What is known to be bad stays NG though another view failed; nothing is OK unless all are.
    Raises ValueError where there is no view, or one without a word.
    """
    return min(range(len(words)), key=lambda index: _WORST_FIRST.index(words[index]))


def display_score(margin: float | None) -> int:
    """10000 × sigmoid of a margin, for people only; 0 where there is none."""
    if margin is None or math.isnan(margin):
        return 0
    clipped = min(60.0, max(-60.0, margin))
    return round(10_000 / (1 + math.exp(-clipped)))
