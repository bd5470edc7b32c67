"""Drift: the figures of operations.md 5.6, and charts that alarm as often as their books say."""

import numpy as np
import pytest
from scipy import stats

from calibration.drift import (
    Cusum,
    Ewma,
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


def test_a_baseline_without_spread_is_refused() -> None:
    for spread in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="positive deviation"):
            Ewma(0.0, spread)


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


def test_psi_is_zero_for_equal_shares_and_known_for_a_known_shift() -> None:
    ramp = np.arange(1000.0)
    assert psi(ramp, ramp) == 0
    half = psi(ramp, ramp[:500])
    assert half == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(100), rel=0.02)
    assert psi_limit(10_000, 10_000) == 0.1
    assert psi_limit(100, 100) > 0.5


def test_rates_of_the_last_parts() -> None:
    rates = Rates(reject=0.005, uncertain=0.02)
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


def test_three_alarming_windows_hold_the_line_and_quiet_ones_forgive_nothing() -> None:
    level = Level.CALM
    seen: list[Level] = []
    for alarms in (False, True, False, True, True, True):
        level = escalate(level, alarms)
        seen.append(level)
    assert seen == [Level.CALM, Level.WARN, Level.WARN, Level.CHALLENGE, Level.HOLD, Level.HOLD]
