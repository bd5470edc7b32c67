import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from appliance.codes import Reason
from appliance.errors import ArtefactError, PartError
from appliance.segments import IGNORED, SegmentIndex, column_names


def published(maps, labels, n_segments):
    """The paper's code, written plainly with NumPy and SciPy, plus the rules for what it lacks."""
    columns = []
    for segment in range(n_segments):
        for single in maps:
            pixels = single[labels == segment].astype(np.float64)
            if pixels.size == 0:
                columns += [0.0, 0.0, 0.0, 0.0]
            elif pixels.min() == pixels.max():
                columns += [pixels[0], 0.0, 0.0, pixels[0]]
            else:
                quantile, mean = np.quantile(pixels, 0.995), pixels.mean()
                columns += [quantile, stats.skew(pixels), stats.kurtosis(pixels), mean]
    seen = labels != IGNORED
    return np.array([*columns, *(single[seen].max() if seen.any() else 0.0 for single in maps)])


def agree(features, expected, scale):
    """Within 1e-5 relative; where terms cancel, relative to what was added up."""
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6 * scale)


@st.composite
def inspected(draw):
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    n_segments = draw(st.integers(1, 4))
    label = st.sampled_from([*range(n_segments), IGNORED])
    labels = draw(hnp.arrays(np.uint8, (height, width), elements=label))
    value = st.integers(-400, 400).map(lambda n: n / 16)
    shape = (draw(st.integers(1, 3)), height, width)
    maps = draw(hnp.arrays(np.float32, shape, elements=value))
    return maps, labels, n_segments


@given(inspected())
@settings(max_examples=200, deadline=None)
def test_equals_scipy(case):
    maps, labels, n_segments = case
    features = SegmentIndex(labels, n_segments).features(maps)
    assert features.dtype == np.float32
    agree(features, published(maps, labels, n_segments), 30.0)


def test_equals_scipy_on_a_thousand_random_maps():
    rng = np.random.default_rng(11)
    for _ in range(1000):
        shape, n_segments = tuple(rng.integers(4, 40, 2)), int(rng.integers(1, 5))
        labels = rng.integers(0, n_segments, shape).astype(np.uint8)
        labels[rng.random(shape) < 0.1] = IGNORED
        maps = (rng.gumbel(size=(1, *shape)) * rng.uniform(0.1, 9) + rng.normal() * 20).astype(
            np.float32
        )
        got = SegmentIndex(labels, n_segments).features(maps)
        agree(got, published(maps, labels, n_segments), 1.0)


@pytest.mark.parametrize("offset", [0.0, -7.5, 1000.0])
@pytest.mark.parametrize("kind", ["normal", "gumbel", "student"])
def test_equals_scipy_on_a_whole_map(kind, offset):
    rng = np.random.default_rng(3)
    draw = {
        "normal": rng.normal(size=(2, 256, 256)),
        "gumbel": rng.gumbel(size=(2, 256, 256)),
        "student": rng.standard_t(3, size=(2, 256, 256)),
    }[kind]
    maps = (draw + offset).astype(np.float32)
    labels = rng.integers(0, 8, (256, 256)).astype(np.uint8)
    labels[:10] = IGNORED
    features = SegmentIndex(labels, 8).features(maps)
    np.testing.assert_allclose(features, published(maps, labels, 8), rtol=1e-5, atol=1e-7)


def test_the_order_is_that_of_the_columns():
    names = column_names(["left", "right"], ["a", "b"])
    assert names == (
        *("left/a/q99.5", "left/a/skewness", "left/a/kurtosis", "left/a/mean"),
        *("left/b/q99.5", "left/b/skewness", "left/b/kurtosis", "left/b/mean"),
        *("right/a/q99.5", "right/a/skewness", "right/a/kurtosis", "right/a/mean"),
        *("right/b/q99.5", "right/b/skewness", "right/b/kurtosis", "right/b/mean"),
        *("*/a/max", "*/b/max"),
    )
    labels = np.array([[0, 0, 1, 1]], np.uint8)
    maps = np.array([[[1, 1, 2, 2]], [[3, 3, 4, 9]]], np.float32)
    got = dict(zip(names, SegmentIndex(labels, 2).features(maps), strict=True))
    means = [got[f"{segment}/{map_}/mean"] for segment in ("left", "right") for map_ in "ab"]
    assert means == [1.0, 3.0, 2.0, 6.5]
    assert (got["*/a/max"], got["*/b/max"]) == (2.0, 9.0)


def test_the_classification_logit_stands_last():
    names = column_names(["all"], ["a", "b"], classification=True)
    assert names[-3:] == ("*/a/max", "*/b/max", "*/classification/logit")
    assert names[:-1] == column_names(["all"], ["a", "b"])


def test_ignored_pixels_move_nothing():
    labels = np.zeros((8, 8), np.uint8)
    labels[0, 0] = IGNORED
    maps = np.random.default_rng(0).normal(size=(1, 8, 8)).astype(np.float32)
    index = SegmentIndex(labels, 1)
    before = index.features(maps)
    maps[0, 0, 0] = 1e6
    np.testing.assert_array_equal(index.features(maps), before)


def test_nothing_to_see_is_zero():
    features = SegmentIndex(np.full((4, 4), IGNORED, np.uint8), 2).features(
        np.ones((1, 4, 4), np.float32)
    )
    np.testing.assert_array_equal(features, np.zeros(9, np.float32))


@pytest.mark.parametrize("value", [0.1, -3.3, 1e-40, 3e38])
def test_equal_and_single_pixels_have_no_skew(value):
    labels = np.array([[0, 0, 0, 1]], np.uint8)
    features = SegmentIndex(labels, 2).features(np.full((1, 1, 4), value, np.float32))
    exact = np.float32(value)
    np.testing.assert_array_equal(features, [exact, 0, 0, exact, exact, 0, 0, exact, exact])


def test_one_pixel_that_differs_by_the_last_bit_is_no_rounding_error():
    maps = np.full((1, 1, 100), 1000.0, np.float32)
    maps[0, 0, 5] = np.nextafter(np.float32(1000), np.float32(2000))
    features = SegmentIndex(np.zeros((1, 100), np.uint8), 1).features(maps)
    expected = np.zeros(100)
    expected[5] = 1
    np.testing.assert_allclose(features[1], stats.skew(expected), rtol=1e-5)
    np.testing.assert_allclose(features[2], stats.kurtosis(expected), rtol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0), (1, 1)])
def test_no_number_is_an_error_even_where_it_is_ignored(value, place):
    labels = np.array([[IGNORED, 0], [0, 0]], np.uint8)
    maps = np.zeros((1, 2, 2), np.float32)
    maps[0][place] = value
    with pytest.raises(PartError) as caught:
        SegmentIndex(labels, 1).features(maps)
    assert caught.value.reason is Reason.INVALID_NUMBER


@pytest.mark.parametrize("shape", [(2, 2), (1, 3, 2), (1, 2, 3), (1, 1, 2, 2)])
def test_another_shape_is_an_error(shape):
    with pytest.raises(PartError, match="expected maps") as caught:
        SegmentIndex(np.zeros((2, 2), np.uint8), 1).features(np.zeros(shape, np.float32))
    assert caught.value.reason is Reason.INFERENCE_ERROR


def test_the_maps_are_left_alone():
    maps = np.random.default_rng(0).normal(size=(1, 16, 16)).astype(np.float32)
    before = maps.copy()
    SegmentIndex(np.zeros((16, 16), np.uint8), 1).features(maps)
    np.testing.assert_array_equal(maps, before)


def test_a_label_without_a_name_is_refused():
    with pytest.raises(ArtefactError, match="labels below 2 or 255, got label 2"):
        SegmentIndex(np.array([[0, 2]], np.uint8), 2)


@pytest.mark.parametrize("names", [["a", "a"], ["a/b"], ["a[0]"], ["*"], [""], ["<1"]])
def test_names_that_the_table_cannot_hold_are_refused(names):
    with pytest.raises(ArtefactError):
        column_names(names, ["net"])
    with pytest.raises(ArtefactError):
        column_names(["all"], names)
