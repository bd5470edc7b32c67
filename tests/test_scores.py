"""The average of two scores: in which units they are heard, and what comes out."""

import numpy as np
import pytest

from appliance.scores import Unit, Units, average, unit_of

UNITS: Units = {"segad": Unit(middle=1.0, spread=2.0), "map_max": Unit(middle=10.0, spread=5.0)}


def test_a_unit_goes_from_the_median_half_the_way_between_16_and_84_percent() -> None:
    assert unit_of(np.arange(101, dtype=np.float32)) == Unit(middle=50.0, spread=34.0)


def test_scores_of_good_parts_that_do_not_spread_have_no_unit() -> None:
    assert unit_of(np.full(20, 3, np.float32)) is None


def test_a_few_parts_wrongly_called_good_hardly_move_a_unit() -> None:
    rng = np.random.default_rng(0)
    good = rng.normal(size=150).astype(np.float32)
    before, spoilt = unit_of(good), good.copy()
    spoilt[:3] = 500
    after = unit_of(spoilt)
    assert before is not None and after is not None
    assert after.spread == pytest.approx(before.spread, rel=0.1)
    assert after.middle == pytest.approx(before.middle, abs=0.1)


def test_the_average_hears_the_scores_that_have_a_unit_and_each_in_its_own() -> None:
    margins = {"segad": [1.0, 3.0], "map_max": [10.0, 30.0], "classification": [9.0, 9.0]}
    together = average(margins, UNITS)
    assert together.dtype == np.float32 and together.tolist() == [0.0, 2.5]
    assert average({"segad": 3.0, "map_max": 30.0}, UNITS) == np.float32(2.5)


def test_a_score_that_is_no_number_leaves_no_average() -> None:
    """A verdict of it is ERROR: the other score alone is not what the limits were set for."""
    assert np.isnan(average({"segad": np.nan, "map_max": 30.0}, UNITS))
    with pytest.raises(KeyError):
        average({"map_max": 30.0}, UNITS)
