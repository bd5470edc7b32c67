"""Margin and limits to verdict: tables, float32 edges, and nothing that is no number is OK."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.codes import Reason, Word
from appliance.recipe import Limits
from appliance.scores import Decides
from appliance.verdict import display_score, judge

OK, NG, UNCERTAIN, ERROR = Word.OK, Word.NG, Word.UNCERTAIN, Word.ERROR
BELOW_1 = float(np.nextafter(np.float32(1), np.float32(0)))
BELOW_2 = float(np.nextafter(np.float32(2), np.float32(0)))


@pytest.mark.parametrize(
    ("margin", "t1", "t2", "word"),
    [
        (0.0, 1.0, 2.0, OK),
        (-1e30, 1.0, 2.0, OK),
        (BELOW_1, 1.0, 2.0, OK),
        (1.0, 1.0, 2.0, UNCERTAIN),
        (1.5, 1.0, 2.0, UNCERTAIN),
        (BELOW_2, 1.0, 2.0, UNCERTAIN),
        (2.0, 1.0, 2.0, NG),
        (1e30, 1.0, 2.0, NG),
        # one limit: nothing lies between
        (BELOW_1, 1.0, 1.0, OK),
        (1.0, 1.0, 1.0, NG),
        (-0.0, 0.0, 0.0, NG),
        # compared as float32: what rounds up to the limit has reached it
        (1 - 1e-12, 1.0, 2.0, UNCERTAIN),
        (2 - 1e-12, 1.0, 2.0, NG),
        (0.1, float(np.float32(0.1)), 1.0, UNCERTAIN),
        # no number, no verdict
        (math.nan, 1.0, 2.0, ERROR),
        (math.inf, 1.0, 2.0, ERROR),
        (-math.inf, 1.0, 2.0, ERROR),
        (1e39, 1.0, 2.0, ERROR),
        (-1e39, 1.0, 2.0, ERROR),
        # limits that are none
        (0.0, math.nan, 2.0, ERROR),
        (0.0, 1.0, math.nan, ERROR),
        (0.0, 1.0, math.inf, ERROR),
        (0.0, -math.inf, 2.0, ERROR),
        (0.0, 2.0, 1.0, ERROR),
        (0.0, 1e39, 1e39, ERROR),
    ],
)
def test_table(margin: float, t1: float, t2: float, word: Word) -> None:
    got, reason = judge(margin, Limits(t1=t1, t2=t2), "map_max")
    assert got == word
    expected = {
        OK: Reason.NONE,
        NG: Reason.ANOMALY_SCORE,
        UNCERTAIN: Reason.UNCERTAIN_BAND,
        ERROR: Reason.INVALID_NUMBER,
    }
    assert reason == expected[word]


@pytest.mark.parametrize(
    ("decides", "reason"),
    [
        ("segad", Reason.SEGAD),
        ("average", Reason.BOTH),
        ("map_max", Reason.ANOMALY_SCORE),
        ("classification", Reason.ANOMALY_SCORE),
    ],
)
def test_reason_names_the_score_that_decided(decides: Decides, reason: Reason) -> None:
    assert judge(5.0, Limits(t1=1, t2=2), decides) == (NG, reason)


@given(st.floats(), st.floats(), st.floats())
def test_ok_only_where_all_three_are_finite_and_the_margin_is_below(
    margin: float, t1: float, t2: float
) -> None:
    word, reason = judge(margin, Limits(t1=t1, t2=t2), "segad")
    assert (reason == Reason.NONE) == (word == OK)
    if word == OK:
        with np.errstate(over="ignore"):
            value, low, high = (np.float32(x) for x in (margin, t1, t2))
        assert np.isfinite([value, low, high]).all()
        assert value < low <= high


@pytest.mark.parametrize(
    ("margin", "shown"),
    [
        (None, 0),
        (math.nan, 0),
        (0.0, 5000),
        (math.inf, 10_000),
        (-math.inf, 0),
        (1e300, 10_000),
        (-1e300, 0),
        (2.0, 8808),
    ],
)
def test_score_for_people(margin: float | None, shown: int) -> None:
    assert display_score(margin) == shown
