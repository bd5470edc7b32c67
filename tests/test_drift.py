"""Drift: the figures of operations.md 5.6, and charts that alarm as often as their books say."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from calibration.drift import (
    FALSE_ALARM,
    Cusum,
    Ewma,
    Finding,
    Level,
    Rates,
    compare,
    escalate,
    judge_rates,
    longest_row,
    longest_silence,
    most_in_a_row,
    most_rejects,
    psi,
    psi_limit,
)

KNOWN = 10**7
"""Parts of a baseline whose shares are as good as the truth."""


def power(window: int, rate: float, true_rate: float) -> float:
    """How probably one window alarms when the true rate has become `true_rate`."""
    return float(stats.binom.sf(most_rejects(window, rate), window, true_rate))


@pytest.mark.parametrize(
    ("window", "most", "at_2_percent"), [(500, 9, 54), (1000, 13, 94), (2000, 21, 100)]
)
def test_reject_alarm_has_the_published_limits_and_power(
    window: int, most: int, at_2_percent: int
) -> None:
    assert most_rejects(window, 0.005) == most
    assert round(100 * power(window, 0.005, 0.02)) == at_2_percent


def test_reject_alarm_of_the_long_window_finds_a_doubled_rate() -> None:
    assert round(100 * power(2000, 0.005, 0.01)) == 36
    assert power(2000, 0.005, 0.005) <= 0.001


def test_rejects_in_a_row_and_silence() -> None:
    assert most_in_a_row(0.005) == 1 and 0.005**2 <= 0.001
    assert most_in_a_row(0.1) == 2
    assert most_in_a_row(1e-4) == 1, "a single reject is no row"
    assert longest_silence(0.005) == 1379 and 0.995**1379 <= 0.001 < 0.995**1378
    assert longest_row([True, False, True, True], True) == 2
    assert longest_row([], True) == 0


@pytest.mark.parametrize(("chart", "in_control"), [(Ewma, 500), (Cusum, 465)])
def test_charts_alarm_by_chance_as_often_as_published(
    chart: type[Ewma] | type[Cusum], in_control: int
) -> None:
    """Mean run length without a shift; 300 runs, so within a fifth."""
    rng = np.random.default_rng(0)
    lengths: list[int] = []
    for _ in range(300):
        one, count = chart(3.0, 2.0), 1
        while one.add(rng.normal(3.0, 2.0)) is None:
            count += 1
        lengths.append(count)
    assert 0.8 * in_control < np.mean(lengths) < 1.2 * in_control


@pytest.mark.parametrize("chart", [Ewma, Cusum])
@pytest.mark.parametrize("shift", [-1.0, 1.0])
def test_charts_find_a_shift_of_one_deviation_soon(
    chart: type[Ewma] | type[Cusum], shift: float
) -> None:
    rng = np.random.default_rng(1)
    lengths: list[int] = []
    for _ in range(100):
        one, count = chart(0.0, 1.0), 1
        while one.add(rng.normal(shift, 1.0)) is None:
            count += 1
        lengths.append(count)
    assert np.mean(lengths) < 13


def test_the_limit_of_the_weighted_mean_opens_with_the_parts_seen() -> None:
    """Of the mean of k parts: 2.615 deviations of 2, the first part alone weighs 0.05."""
    chart = Ewma(3.0, 2.0)
    assert chart.limit == 0 and chart.add(3.0 + 5.22) is None
    assert chart.value == pytest.approx(3.0 + 0.05 * 5.22)
    assert chart.limit == pytest.approx(2.615 * 2 * 0.05)
    chart = Ewma(3.0, 2.0)
    found = chart.add(3.0 - 5.24)
    assert found == ("EWMA of accepted margins", pytest.approx(0.262), pytest.approx(0.2615))
    for _ in range(1000):
        chart.add(3.0)
    assert chart.limit == pytest.approx(2.615 * 2 * np.sqrt(0.05 / 1.95))


def test_the_cumulative_sum_counts_both_ways_what_exceeds_half_a_deviation() -> None:
    chart = Cusum(3.0, 2.0)
    assert chart.add(3.0 + 2 * 3.25) is None
    assert (chart.high, chart.low) == (2.75, 0.0)
    assert chart.add(3.0 + 2 * 2.75) is None, "5 deviations are no alarm"
    assert chart.add(3.0 + 2 * 1.0) == Finding("CUSUM of accepted margins", 5.5, 5.0)
    assert chart.add(3.0 - 2 * 5.75) == Finding("CUSUM of accepted margins", 5.25, 5.0)
    assert (chart.high, chart.low) == (0.0, 5.25)


def test_a_baseline_without_spread_is_refused() -> None:
    for spread in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="positive deviation"):
            Ewma(0.0, spread)
        with pytest.raises(ValueError, match="positive deviation"):
            Cusum(0.0, spread)


def test_the_same_distribution_raises_no_finding_and_a_moved_one_does() -> None:
    rng = np.random.default_rng(2)
    names = [f"figure {n}" for n in range(20)]
    alarms = 0
    for _ in range(60):
        baseline = {name: rng.normal(size=500) for name in names}
        alarms += bool(compare(baseline, {name: rng.normal(size=500) for name in names}))
    assert alarms <= 1, "0.06 expected"
    baseline = {name: rng.normal(size=500) for name in names}
    moved = {name: rng.normal(size=500) for name in names} | {"figure 7": rng.normal(0.6, 1, 500)}
    assert {finding.what for finding in compare(baseline, moved)} == {
        "PSI of figure 7",
        "KS distance of figure 7",
    }


def test_figures_that_say_nothing_are_left_alone() -> None:
    constant = {"constant": np.zeros(100), "few": np.arange(10.0), "gone": np.arange(100.0)}
    assert compare(constant, {"constant": np.zeros(100), "few": np.arange(100.0)}) == ()
    jumped = compare({"constant": np.zeros(100)}, {"constant": np.ones(100)})
    assert "KS distance of constant" in {finding.what for finding in jumped}
    spoilt = {"x": np.full(100, np.nan)}
    assert compare(spoilt, spoilt) == ()
    assert compare({"new": np.arange(100.0)}, {}) == ()


@pytest.mark.parametrize(("old", "new", "count"), [(50, 50, 2), (49, 500, 0), (500, 49, 0)])
def test_fewer_than_50_values_say_nothing(old: int, new: int, count: int) -> None:
    assert len(compare({"x": np.arange(float(old))}, {"x": 1000 + np.arange(float(new))})) == count


def test_a_sure_but_small_shift_is_not_worth_a_persons_time() -> None:
    ramp = np.arange(20_000.0)
    test: Any = stats.ks_2samp(ramp, ramp + 1000, method="asymp")
    assert test.pvalue < 1e-10
    assert compare({"x": ramp}, {"x": ramp + 1000}) == ()
    found = compare({"x": ramp}, {"x": ramp + 2200})
    assert found[1] == ("KS distance of x", pytest.approx(0.11), 0.1)


def test_two_questions_of_a_figure_share_the_false_alarm() -> None:
    found = compare({"x": np.arange(100.0)}, {"x": np.arange(100.0) + 60})
    assert found[0].limit == psi_limit(100, 100, FALSE_ALARM / 2)
    two = {"x": np.arange(100.0), "y": np.arange(100.0)}
    found = compare(two, {name: old + 60 for name, old in two.items()})
    assert found[0].limit == psi_limit(100, 100, FALSE_ALARM / 4)


def test_psi_is_zero_for_equal_shares_and_known_for_a_known_shift() -> None:
    ramp = np.arange(1000.0)
    assert psi(ramp, ramp) == 0
    full, empty = 100.5 / 505, 0.5 / 505  # of ten bins; half a part is added to each
    expected = 5 * ((full - 0.1) * np.log(full / 0.1) + (empty - 0.1) * np.log(empty / 0.1))
    assert psi(ramp, ramp[:500]) == pytest.approx(expected, rel=1e-9)
    assert psi_limit(100, 400) == pytest.approx(float(stats.chi2.isf(0.001, 9)) / 80)
    assert psi_limit(10_000, 10_000) == 0.1
    assert psi_limit(100, 100) > 0.5


def test_rates_of_the_last_parts() -> None:
    rates = Rates(reject=0.005, uncertain=0.02, parts=KNOWN)
    calm = [n % 200 == 100 for n in range(1000)]
    assert judge_rates(calm, [n % 50 == 0 for n in range(1000)], rates) == ()
    many = [n % 50 == 0 for n in range(1000)]
    found = judge_rates(many, calm, rates)
    assert [(f.what, f.value, f.limit) for f in found] == [
        ("rejects in the last 1000 parts", 20, 13)
    ]
    row = [False] * 500 + [True, True] + [False] * 498
    assert [f.what for f in judge_rates(row, calm, rates)] == ["rejects in a row"]
    silent = judge_rates([False] * 2000, [False] * 2000, rates)
    assert [f.what for f in silent] == ["parts without a reject"]


def test_one_more_than_the_most_that_is_no_alarm_is_one() -> None:
    rates = Rates(reject=0.005, uncertain=0.02, parts=KNOWN)

    def found(rejects: list[bool], uncertain: list[bool]) -> list[Finding]:
        return list(judge_rates(rejects, uncertain, rates))

    calm = [False] * 1379
    assert found([True, *calm], [False]) == []
    assert found([True, *calm, False], [False]) == [("parts without a reject", 1380, 1379)]
    # 13 of 1000 rejects and 35 of 1000 uncertain parts are no alarm.
    assert [most_rejects(1000, rate) for rate in (0.005, 0.02)] == [13, 35]
    rejects = [n % 70 == 0 for n in range(1000)][90:] + [False] * 90
    uncertain = [n < 35 for n in range(1000)]
    assert sum(rejects) == 13 and found(rejects, uncertain) == []
    assert found([*rejects[1:], True], [n < 36 for n in range(1000)]) == [
        ("rejects in the last 1000 parts", 14, 13),
        ("uncertain parts in the last 1000 parts", 36, 35),
    ]


@pytest.mark.parametrize(("seen", "most"), [(0, 7), (2, 13), (10, 28)])
def test_a_baseline_of_few_parts_allows_for_what_it_does_not_know(seen: int, most: int) -> None:
    assert most_rejects(500, seen / 500, 500) == most
    assert most > stats.binom.isf(FALSE_ALARM, 500, seen / 500)
    # Whatever the true rate was: baseline and window of the same line alarm as seldom as promised.
    rng = np.random.default_rng(seen)
    true = rng.beta(seen + 0.5, 500 - seen + 0.5, 100_000)
    assert (rng.binomial(500, true) > most).mean() <= FALSE_ALARM * 1.3


def test_no_reject_in_the_baseline_is_a_baseline_as_well() -> None:
    never = Rates(reject=0.0, uncertain=0.0, parts=500)
    calm = [False] * 500
    assert judge_rates(calm, calm, never) == ()
    apart = [n % 60 == 0 and n < 420 for n in range(500)]
    assert sum(apart) == 7 and judge_rates(apart, apart, never) == ()
    apart[490] = True
    assert [(f.what, f.value, f.limit) for f in judge_rates(apart, apart, never)] == [
        ("rejects in the last 500 parts", 8, 7),
        ("uncertain parts in the last 500 parts", 8, 7),
    ]
    row = [*calm[2:], True, True]
    assert [f.what for f in judge_rates(row, calm, never)] == ["rejects in a row"]


def test_where_everything_was_rejected_only_silence_is_told() -> None:
    always = Rates(reject=1.0, uncertain=0.0, parts=500)
    assert judge_rates([True] * 500, [False] * 500, always) == ()
    found = judge_rates([True] * 498 + [False] * 2, [False] * 500, always)
    assert [f.what for f in found] == ["parts without a reject"]


def test_how_long_a_silence_is_depends_on_what_the_baseline_knew() -> None:
    assert longest_silence(0.005, KNOWN) == longest_silence(0.005)
    assert longest_silence(0.005, 2000) > longest_silence(0.005)
    assert longest_silence(0.0, 500) == np.inf
    assert most_in_a_row(0.11, KNOWN) == most_in_a_row(0.11) == 3
    assert most_in_a_row(0.0, 500) == 1


def test_three_alarming_windows_hold_the_line_and_quiet_ones_forgive_nothing() -> None:
    level = Level.CALM
    seen: list[Level] = []
    for alarms in (False, True, False, True, True, True):
        level = escalate(level, alarms)
        seen.append(level)
    assert seen == [Level.CALM, Level.WARN, Level.WARN, Level.CHALLENGE, Level.HOLD, Level.HOLD]
