"""Limits with a guarantee: their definition, their words, and the truth of what they promise.

The simulations are those of `tests/limits_truth.py`: a stated 95 % bound has to hold in at least
94.3 % of 10,000 runs (three standard errors below 95 %), and as far below it as fewer runs allow.
"""

import numpy as np
import pytest

from calibration.bounds import escape_ppm, upper_bound
from calibration.cost import cost_svg
from calibration.limits import (
    Parts,
    Target,
    conformal_limit,
    escape_limit,
    outcome,
    overkill_limit,
    parts_of,
    propose,
    separate,
    summary,
)
from calibration.roc import roc_svg
from calibration.tradeoff import Costs, cost_of, cost_per_1000, curve, false_alarms_at, flips
from tests import limits_truth as truth
from tests.limits_truth import RUNS, TYPES, draw, least

FEW = 2_000
"""Runs of what is drawn part by part; `python -m tests.limits_truth` makes 10,000 of all."""


@pytest.mark.parametrize(("count", "rate"), [(59, 0.05), (60, 0.05), (150, 0.05), (300, 0.01)])
def test_the_escape_limit_keeps_its_promise(count: int, rate: float) -> None:
    assert truth.escape(RUNS, count, rate) >= least(RUNS)


@pytest.mark.parametrize(("count", "rate"), [(59, 0.05), (200, 0.05), (1000, 0.01)])
def test_the_overkill_limit_keeps_its_promise(count: int, rate: float) -> None:
    assert truth.overkill(RUNS, count, rate) >= least(RUNS)


@pytest.mark.parametrize(("count", "rate"), [(19, 0.05), (50, 0.05), (333, 0.01)])
def test_the_conformal_limit_rejects_no_more_good_parts_than_it_says(
    count: int, rate: float
) -> None:
    rejected, three_errors = truth.conformal(RUNS, count, rate)
    assert rejected <= rate + three_errors
    # The guarantee is tight: at most 1/(n + 1) is given away.
    assert rejected >= rate - 1 / (count + 1) - three_errors


def test_false_alarms_at_a_share_of_the_bad_keep_their_bound() -> None:
    assert truth.alarms(FEW, 0.95) >= least(FEW)


@pytest.mark.parametrize("per_type", [True, False])
def test_a_proposal_keeps_all_it_states_choice_of_limits_included(per_type: bool) -> None:
    covered = truth.proposal(FEW, per_type=per_type)
    assert {name: share for name, share in covered.items() if share < least(FEW)} == {}


@pytest.mark.parametrize("looks", [1, 3])
def test_fresh_parts_bound_any_limit_however_it_was_chosen(looks: int) -> None:
    covered = truth.fresh(FEW, looks)
    assert {name: share for name, share in covered.items() if share < least(FEW)} == {}


def test_every_opening_of_the_same_verify_parts_keeps_its_bound() -> None:
    assert truth.opened_again(FEW) >= least(FEW)


def test_three_standard_errors_of_ten_thousand_runs() -> None:
    assert least(RUNS) == pytest.approx(0.943, abs=5e-4)


@pytest.mark.parametrize(("looks", "is_honest"), [(5, True), (1, False)])
def test_the_best_of_five_looks_keeps_its_bound_only_where_five_were_planned(
    looks: int, is_honest: bool
) -> None:
    """59 bad parts, five scores that all miss 5 %; the one with the fewest misses is quoted."""
    missed = np.random.default_rng(6).binomial(59, 0.05, (RUNS, 5)).min(axis=1)
    bound_of = [outcome(_missing(k), 0.0, 0.0, 0.95, looks).escapes_all.upper for k in range(60)]
    covered = (np.array(bound_of)[missed] >= 0.05).mean()
    assert (covered >= least(RUNS)) == is_honest


def _missing(count: int) -> Parts:
    margins = np.where(np.arange(59) < count, -1.0, 1.0).astype(np.float32)
    return Parts(margins, ("dent",) * 59)


def test_the_limit_is_the_order_statistic_that_the_number_of_parts_allows() -> None:
    bad = np.arange(93, dtype=np.float32)
    np.random.default_rng(0).shuffle(bad)
    assert escape_limit(bad, 0.05, 0.95) == 1, "93 parts allow one miss"
    assert escape_limit(bad[:58], 0.05, 0.95) is None
    good = np.arange(93, dtype=np.float32)
    assert overkill_limit(good, 0.05, 0.95) == np.nextafter(np.float32(91), np.float32(92))
    assert conformal_limit(good[:19], 0.05) == np.nextafter(np.float32(18), np.float32(19))
    assert conformal_limit(good[:18], 0.05) is None


def test_many_samples_at_once_have_each_its_own_limit() -> None:
    one = np.arange(93, dtype=np.float32)
    both = np.stack([one, one[::-1] + 1000])
    for limit in (
        lambda margins: escape_limit(margins, 0.05, 0.95),
        lambda margins: overkill_limit(margins, 0.05, 0.95),
        lambda margins: conformal_limit(margins, 0.05),
    ):
        np.testing.assert_array_equal(limit(both), [limit(row) for row in both])


def test_too_few_parts_give_no_limit_and_the_number_that_would_do() -> None:
    parts = draw(np.random.default_rng(0), 20, 41, ("dent",))
    proposal = propose(parts, Target(max_escape=0.05, max_overkill=0.05))
    assert not proposal.is_proved and proposal.t1 is None and proposal.t2 is None
    assert "41 bad parts (dent)" in proposal.advice[0] and "59 can" in proposal.advice[0]
    assert "20 good parts" in proposal.advice[1] and "59 can" in proposal.advice[1]


def test_without_bad_parts_nothing_is_said_of_escapes() -> None:
    parts = draw(np.random.default_rng(0), 200, 0)
    proposal = propose(parts, Target(max_overkill=0.05))
    assert proposal.t1 is None and not proposal.is_proved and "no bad parts" in proposal.advice[0]
    proved = overkill_limit(parts.good, 0.05, 0.95)
    conformal = conformal_limit(parts.good, 0.05)
    assert proved is not None and conformal is not None and conformal < proved
    assert (
        f"NG from {float(proved):.4f} up: at most 5 % of the good parts get NG"
        in proposal.advice[2]
    )
    assert len(proposal.advice) == 3, "what holds on the average is not among what is proved"
    (on_average,) = proposal.on_average
    assert f"NG from {float(conformal):.4f} up: the next good part gets NG" in on_average
    for sentence in (proposal.advice[2], on_average):
        assert "those from T1 up are UNCERTAIN and come on top" in sentence
        assert "rejected" not in sentence, "UNCERTAIN parts may be, too"
    few = propose(draw(np.random.default_rng(0), 10, 0), Target(max_overkill=0.05))
    assert (len(few.advice), few.on_average) == (2, ())
    with_bad = propose(draw(np.random.default_rng(0), 200, 200), Target(max_overkill=0.05))
    assert with_bad.on_average == ()


def test_one_limit_without_the_other_is_no_proof() -> None:
    rng = np.random.default_rng(0)
    target = Target(max_escape=0.05, max_overkill=0.05)
    few_good = propose(draw(rng, 20, 100, ("dent",)), target)
    assert few_good.t1 is not None and few_good.t2 is None and not few_good.is_proved
    few_bad = propose(draw(rng, 100, 20, ("dent",)), target)
    assert few_bad.t1 is None and few_bad.t2 is not None and not few_bad.is_proved
    assert propose(draw(rng, 100, 100, ("dent",)), target).is_proved


def test_what_is_proved_counts_the_parts_that_may_be_missed() -> None:
    """Of 93 parts one may lie on the wrong side at 5 %."""
    found = propose(draw(np.random.default_rng(0), 93, 93, ("dent",)), Target(max_escape=0.05))
    bound = upper_bound(1, 93, 0.95)
    assert found.proved_escape == {"dent": bound} and found.proved_overkill == bound
    assert upper_bound(0, 93, 0.95) < bound <= 0.05


def test_the_mix_of_types_is_proved_under_one_name() -> None:
    target = Target(max_escape=0.05, per_type=False)
    found = propose(draw(np.random.default_rng(0), 100, 40, ("dent", "stain")), target)
    assert set(found.proved_escape) == {"all"} and "(" not in found.advice[0].partition(",")[0]
    none = propose(draw(np.random.default_rng(0), 100, 0), target)
    assert none.proved_escape == {} and "no bad parts" in none.advice[0]


def test_the_type_that_is_hardest_to_find_sets_the_limit() -> None:
    parts = draw(np.random.default_rng(0), 100, 100)
    target = Target(max_escape=0.05, max_overkill=0.05)
    strict = propose(parts, target)
    mixed = propose(parts, target._replace(per_type=False))
    assert strict.t1 is not None and mixed.t1 is not None
    assert strict.t1 < mixed.t1
    each = 1 - 0.05 / 3
    lowest = [escape_limit(parts.of(name), 0.05, each) for name in parts.types]
    assert strict.t1 == min(float(x) for x in lowest if x is not None)
    assert set(strict.proved_escape) == set(TYPES)


def test_classes_that_lie_far_apart_meet_in_the_middle_and_a_guard_band_widens_it() -> None:
    margins = np.concatenate([np.linspace(-1, 0, 200), np.linspace(8, 9, 200)]).astype(np.float32)
    parts = Parts(margins, ("good",) * 200 + ("dent",) * 200)
    target = Target(max_escape=0.05, max_overkill=0.05)
    touching = propose(parts, target)
    allowed = escape_limit(parts.bad, 0.05, 0.95), overkill_limit(parts.good, 0.05, 0.95)
    middle = np.mean([float(limit) for limit in allowed if limit is not None])
    assert touching.t1 == touching.t2 == pytest.approx(middle)
    apart = propose(parts, target, guard_band=2.0)
    assert apart.t1 is not None and apart.t2 is not None
    assert (apart.t1, apart.t2) == pytest.approx((middle - 1, middle + 1))
    wide = propose(parts, target, guard_band=30.0)
    assert wide.t1 is not None and wide.t2 is not None and wide.t1 < -1 and wide.t2 > 9


def test_outcome_counts_as_the_line_does() -> None:
    parts = Parts(
        np.array([0.0, 1.0, 1.5, 2.0, 0.9999, 1.0, 2.0], np.float32),
        ("good",) * 4 + ("dent", "dent", "scratch"),
    )
    seen = outcome(parts, 1.0, 2.0, 0.95)
    assert seen.overkill[:2] == (1, 4), "NG is from T2 up"
    assert seen.escapes["dent"][:2] == (1, 2) and seen.escapes["scratch"][:2] == (0, 1)
    assert seen.escapes_all[:2] == (1, 3)
    assert seen.uncertain_good[:2] == (2, 4) and seen.uncertain_bad[:2] == (1, 3)
    assert seen.worst_type == "dent"
    load, bound = seen.review_load(0.1)
    assert load == pytest.approx(0.9 * 0.5 + 0.1 / 3) and bound > load
    alone = outcome(_missing(3), 0.0, 0.0, 0.95)
    assert alone.escapes_all[:2] == (3, 59), "more are above the limit than below"
    assert alone.escapes["dent"] == alone.escapes_all, "one type has all of the doubt"
    upper = seen.escapes_all.upper
    assert seen.escape_ppm(0.1) == (escape_ppm(0.1, 1 / 3), escape_ppm(0.1, upper))
    twice = outcome(parts, 1.0, 2.0, 0.95, looks=2)
    assert twice.overkill.upper > seen.overkill.upper


def test_a_look_is_at_least_one() -> None:
    with pytest.raises(ValueError, match="expected at least 1 look, got 0"):
        outcome(_missing(1), 0.0, 0.0, 0.95, looks=0)


def test_each_type_has_its_share_of_the_doubt() -> None:
    """Bonferroni: two types at 95 % together are two bounds at 97.5 %."""
    parts = Parts(np.zeros(20, np.float32), ("dent",) * 10 + ("stain",) * 10)
    seen = outcome(parts, 0.0, 1.0, 0.95)
    assert seen.escapes["dent"].upper == upper_bound(0, 10, 1 - 0.05 / 2)
    assert seen.escapes_all.upper == upper_bound(0, 20, 0.95)


def test_the_summary_of_an_outcome_says_every_figure_under_its_name() -> None:
    parts = Parts(np.array([0.0, 1.5, 0.5, 2.0], np.float32), ("good", "good", "dent", "dent"))
    seen = outcome(parts, 1.0, 2.0, 0.95)
    load, ppm = seen.review_load(0.01), seen.escape_ppm(0.01)
    assert summary(seen, 0.01) == {
        "confidence": 0.95,
        "escapes": {"dent": seen.escapes["dent"]._asdict() | {"estimate": 0.5}},
        "escapes_all": seen.escapes_all._asdict() | {"estimate": 0.5},
        "worst_type": "dent",
        "overkill": seen.overkill._asdict() | {"estimate": 0.0},
        "review_load": {"estimate": load[0], "upper": load[1]},
        "escape_ppm": {"estimate": ppm[0], "upper": ppm[1], "defect_rate": 0.01},
    }
    assert outcome(Parts(parts.margins[:2], parts.kinds[:2]), 1, 2, 0.95).worst_type is None


def test_a_class_without_parts_is_thought_of_as_the_worst() -> None:
    seen = outcome(Parts(np.zeros(2, np.float32), ("good", "good")), 1.0, 2.0, 0.95)
    assert seen.review_load(0.2) == pytest.approx((0.2, 0.8 * upper_bound(0, 2, 0.975) + 0.2))
    assert seen.escape_ppm(0.01)[0] is None


def test_parts_have_one_finite_margin_each() -> None:
    with pytest.raises(ValueError, match=r"expected 3 margins, got \(2,\)"):
        Parts(np.zeros(2, np.float32), ("good",) * 3)


def test_what_a_target_asks_for_unless_told_otherwise() -> None:
    assert Target() == (0.01, 0.05, 0.95, True)


def test_a_part_is_as_bad_as_its_worst_view_and_counts_once() -> None:
    parts = parts_of(["a", "b", "a"], ["good", "dent", "good"], [1.0, 5.0, 3.0])
    assert parts.margins.tolist() == [3.0, 5.0] and parts.kinds == ("good", "dent")
    with pytest.raises(ValueError, match="part a: expected one label, got good and dent"):
        parts_of(["a", "a"], ["good", "dent"], [1.0, 2.0])
    with pytest.raises(ValueError, match="finite"):
        parts_of(["a"], ["good"], [float("nan")])
    with pytest.raises(ValueError, match="argument"):
        parts_of(["a", "b"], ["good", "dent"], [1.0])


def test_calibrate_and_verify_are_split_by_part_and_kind() -> None:
    names = [f"p{i}" for i in range(40)]
    kinds = ["good"] * 20 + ["dent"] * 10 + ["stain"] * 10
    chosen = separate(names, kinds, seed=3)
    count = {kind: sum(kinds[names.index(n)] == kind for n in chosen) for kind in set(kinds)}
    assert count == {"good": 10, "dent": 5, "stain": 5}
    assert chosen == separate(names[::-1], kinds[::-1], seed=3), "the order of files says nothing"
    assert chosen != separate(names, kinds, seed=4)
    assert len(separate(names[:5], kinds[:5], seed=3)) == 2, "half, the odd one calibrates"
    assert len(separate(names, kinds, seed=3, share=0.25)) == 5 + 2 + 2
    with pytest.raises(ValueError, match="argument"):
        separate(["a", "b"], ["good"], seed=3)


def test_the_curve_counts_at_every_limit() -> None:
    parts = draw(np.random.default_rng(0), 30, 20)
    lines = curve(parts)
    for limit, escape, overkill in zip(*lines, strict=True):
        assert escape == pytest.approx((parts.bad < limit).mean())
        assert overkill == pytest.approx((parts.good >= limit).mean())
    assert lines.escape[0] == 0 and lines.escape[-1] == 1
    assert lines.overkill[-1] == 0
    with pytest.raises(ValueError, match="good and bad"):
        curve(draw(np.random.default_rng(0), 30, 0))


def test_the_cheapest_limit_follows_the_price_of_an_escape() -> None:
    lines = curve(draw(np.random.default_rng(0), 300, 100))
    dear = cost_per_1000(lines, 0.01, Costs(escape=10_000))
    cheap = cost_per_1000(lines, 0.01, Costs(escape=1))
    assert lines.limits[dear.argmin()] < lines.limits[cheap.argmin()]
    assert cheap[-1] == pytest.approx(10), "nothing is rejected: 10 bad parts escape"


def test_two_limits_cost_what_their_errors_and_looks_cost() -> None:
    margins = np.array([0.0, 1.0, 2.0, 3.0, 0.5, 2.5], np.float32)
    parts = Parts(margins, ("good",) * 4 + ("dent",) * 2)
    prices = Costs(escape=100, overkill=4, review=1)
    # Of the good a quarter is NG and a half is looked at, of the bad one half each escapes and is
    # looked at.
    assert cost_of(parts, (1.0, 3.0), 0.1, prices) == pytest.approx(
        900 * (0.25 * 4 + 0.5 * 1) + 100 * (0.5 * 100 + 0.5 * 1)
    )
    lines = curve(parts)
    for limit, one in zip(lines.limits, cost_per_1000(lines, 0.1, prices), strict=True):
        assert cost_of(parts, (float(limit), float(limit)), 0.1, prices) == pytest.approx(one)
    svg = cost_svg(parts, (1.0, 3.0), 0.1, prices)
    assert "Cheapest single limit" in svg and svg.count("cost-limit") == 2
    assert cost_svg(Parts(margins[:4], ("good",) * 4), (1.0, 3.0), 0.1, prices) == ""


def test_both_limits_stand_on_the_curve_and_one_beyond_its_edge_stands_at_it() -> None:
    """Of 100 good parts at 0 to 99 and 20 bad ones at 90 to 109; across 5 % in 252 pixels."""
    margins = np.concatenate([np.arange(100), np.arange(20) + 90]).astype(np.float32)
    parts = Parts(margins, ("good",) * 100 + ("dent",) * 20)
    svg = roc_svg(parts, (98.0, 102.0))  # 2 good and 12 bad parts; no good and 8 bad parts
    assert '<circle class="roc-t1" cx="140.8" cy="69.6"' in svg
    assert '<circle class="roc-t2" cx="40.0" cy="100.4"' in svg
    line = svg.partition('<polyline class="roc-line" points="')[2].partition('"')[0].split()
    assert line[0] == "40.0,162.0", "nothing is rejected and nothing found"
    assert line[-1] == "292.0,46.5" and "140.8,69.6" in line
    assert '<circle class="roc-t1" cx="292.0" cy="8.0"' in roc_svg(parts, (0.0, 102.0))
    assert roc_svg(Parts(margins[:9], ("good",) * 9), (0.0, 1.0)) == ""


def test_false_alarms_at_a_share_of_defects_found() -> None:
    margins = np.concatenate([np.arange(20), np.arange(20) + 10]).astype(np.float32)
    parts = Parts(margins, ("good",) * 20 + ("dent",) * 20)
    assert false_alarms_at(parts, 1.0, 0.95)[:2] == (10, 20)
    assert false_alarms_at(parts, 0.95, 0.95)[:2] == (9, 20)


def test_flips_are_the_parts_whose_word_changes() -> None:
    margins = np.array([0.5, 1.5, 2.5], np.float32)
    changed = flips(margins, (1.0, 2.0), (0.0, 3.0))
    assert changed.to_ok.tolist() == []
    assert changed.to_uncertain.tolist() == [0, 2] and changed.to_ng.tolist() == []
    assert flips(margins, (1.0, 2.0), (2.0, 2.0)).to_ok.tolist() == [1]
