"""Bounds and sample sizes against SciPy's own intervals and the tables of operations.md 5.5."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from calibration.bounds import (
    CONFIDENCE,
    advice,
    confidence_of,
    escape_ppm,
    figure,
    lower_bound,
    most_missed,
    parts_needed,
    percent,
    share,
    upper_bound,
)

NEEDED = {
    0.05: (59, 93, 124, 153, 208),
    0.02: (149, 236, 313, 386, 523),
    0.01: (299, 473, 628, 773, 1049),
    0.005: (598, 947, 1258, 1549, 2100),
    0.001: (2995, 4742, 6294, 7752, 10511),
}
"""Rate → bad parts needed with 0, 1, 2, 3 and 5 of them missed, confidence 95 %."""


@pytest.mark.parametrize("rate", NEEDED)
def test_parts_needed_are_those_of_the_published_table(rate: float) -> None:
    found = tuple(parts_needed(rate, missed, 0.95) for missed in (0, 1, 2, 3, 5))
    assert found == NEEDED[rate]


@pytest.mark.parametrize(
    ("good", "rejected", "percent"),
    [
        (1000, 0, 0.30), (1000, 1, 0.47), (1000, 5, 1.05),
        (3000, 0, 0.10), (3000, 1, 0.16), (3000, 5, 0.35),
        (10000, 0, 0.03), (10000, 1, 0.05), (10000, 5, 0.11),
    ],
)  # fmt: skip
def test_overkill_bounds_are_those_of_the_published_table(
    good: int, rejected: int, percent: float
) -> None:
    assert round(100 * upper_bound(rejected, good, 0.95), 2) == percent


@pytest.mark.parametrize(("bad", "percent"), [(30, 9.5), (50, 5.8), (100, 3.0)])
def test_no_miss_among_few_parts_proves_little(bad: int, percent: float) -> None:
    assert round(100 * upper_bound(0, bad, 0.95), 1) == percent


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "0 %"), (4e-9, "0.0000004 %"), (0.0123, "1.23 %"), (0.5, "50 %"), (0.9888, "98.9 %"),
        (0.999, "99.9 %"), (0.99951, "99.951 %"), (0.9996, "99.96 %"), (0.99996, "99.996 %"),
        (1 - 1e-12, "99.9999999999 %"), (1, "100 %"), (12.34, "1230 %"),
    ],
)  # fmt: skip
def test_a_share_is_never_rounded_to_0_or_to_100(value: float, said: str) -> None:
    assert percent(value) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "0"), (4e-5, "0.00004"), (12.345, "12.3"), (99.96, "100"), (1428.57, "1 430"),
        (1e6, "1 000 000"),
    ],
)  # fmt: skip
def test_a_figure_has_no_power_of_ten(value: float, said: str) -> None:
    assert figure(value) == said.replace(" ", "\N{NO-BREAK SPACE}")


@given(
    st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    st.sampled_from([0.9, 0.95, 0.99]),
)
def test_bounds_equal_those_of_scipy(counts: tuple[int, int], confidence: float) -> None:
    count, total = counts
    test = stats.binomtest(count, total)
    interval = test.proportion_ci(2 * confidence - 1, "exact")
    assert lower_bound(count, total, confidence) == pytest.approx(interval.low, abs=1e-9)
    assert upper_bound(count, total, confidence) == pytest.approx(interval.high, abs=1e-9)


@given(st.integers(1, 2000), st.floats(0.001, 0.3), st.sampled_from([0.9, 0.95, 0.99]))
def test_one_more_miss_than_allowed_proves_less_than_asked(
    total: int, rate: float, confidence: float
) -> None:
    allowed = most_missed(total, rate, confidence)
    if allowed is None:
        assert upper_bound(0, total, confidence) > rate
        assert parts_needed(rate, 0, confidence) > total
    else:
        assert upper_bound(allowed, total, confidence) <= rate
        assert upper_bound(allowed + 1, total, confidence) > rate
        assert parts_needed(rate, allowed, confidence) <= total


def test_a_proof_may_take_ten_million_parts_and_no_more() -> None:
    needed = math.ceil(math.log(0.05) / math.log1p(-3e-7))  # (1 - rate) ** parts <= 5 %
    assert parts_needed(3e-7, 0, 0.95) == needed == 9_985_773
    with pytest.raises(ValueError, match=r"a provable rate, got 2\.9e-07: over 10000000 parts"):
        parts_needed(2.9e-7, 0, 0.95)


def test_one_part_may_prove_a_share_near_one_and_no_part_proves_any() -> None:
    assert most_missed(1, 0.96, 0.95) == 0
    assert most_missed(0, 0.99, 0.95) is None


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 1.1])
def test_a_rate_lies_between_0_and_1(rate: float) -> None:
    with pytest.raises(ValueError, match="expected a rate between 0 and 1"):
        most_missed(100, rate, 0.95)
    with pytest.raises(ValueError, match="expected a rate between 0 and 1"):
        parts_needed(rate, 0, 0.95)


def test_all_openings_together_have_the_doubt_of_one_bound() -> None:
    doubts = [1 - confidence_of(look) for look in range(1, 50)]
    assert doubts[:3] == pytest.approx([0.025, 0.0125, 0.00625])
    assert sum(doubts) == pytest.approx(1 - CONFIDENCE)


def test_advice_says_how_many_parts_would_do() -> None:
    assert advice(41, 0, 0.05, 0.95) == (
        "41 bad parts, even with none of them on the wrong side: cannot prove at most 5 %, "
        "only 7.05 %; 59 can"
    )
    assert "at most 4.95 % is proved" in advice(59, 0, 0.05, 0.95)
    assert advice(59, 2, 0.05, 0.95) == (
        "59 bad parts, with 2 of them on the wrong side: cannot prove at most 5 %, only 10.3 %; "
        "124 can"
    )
    assert advice(1, 0, 0.05, 0.95, "bad parts (dent)").startswith("1 bad part (dent), even with")
    assert advice(1, 0, 0.05, 0.95, "bad parts (spare parts)").startswith(
        "1 bad part (spare parts)"
    )
    assert "no practical number" in advice(41, 0, 1e-9, 0.95)
    assert "cannot prove" in advice(0, 0, 0.05, 0.95)


def test_escapes_per_million_delivered_parts() -> None:
    assert escape_ppm(0.005, 0.02) == pytest.approx(100, rel=0.01)
    assert escape_ppm(0.001, 0.01) == pytest.approx(10, rel=0.01)
    assert escape_ppm(0.01, 1.0) == pytest.approx(10_000)
    assert escape_ppm(0.5, 1.0) == 500_000
    assert escape_ppm(0.5, 0.5) == pytest.approx(1e6 / 3), "a quarter escapes, three are delivered"
    assert escape_ppm(1.0, 0.0) == 1e6, "nothing is delivered at all: no claim of cleanness"


def test_counts_that_cannot_be_are_refused() -> None:
    for count, total, confidence in ((3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0), (1, 2, 0.3)):
        for bound in (lower_bound, upper_bound):
            with pytest.raises(ValueError, match="expected"):
                bound(count, total, confidence)
    assert lower_bound(1, 2, 0.5) < 0.5 < upper_bound(1, 2, 0.5), "the least doubtful is one in two"
    assert share(0, 0, 0.95) == (0, 0, 0.0, 1.0)
    assert share(0, 0, 0.95).estimate is None
    assert share(1, 4, 0.95).estimate == 0.25
