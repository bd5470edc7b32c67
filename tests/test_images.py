"""What people see of pixels: colours that stand for limits, never for the brightest pixel."""

import cv2
import numpy as np
import pytest

from appliance.images import (
    LONGEST_PX,
    SCALE,
    heat_png,
    outline_png,
    place,
    reduced_jpeg,
    scale_css,
)

T1, T2 = -1.0, 2.0


def rgba(png: bytes) -> np.ndarray:
    decoded = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    assert decoded is not None
    assert decoded.shape[2] == 4
    return cv2.cvtColor(decoded, cv2.COLOR_BGRA2RGBA)


def at(picture: np.ndarray, row: int, column: int, size: int = 32) -> np.ndarray:
    """The pixel over the middle of a map's pixel."""
    factor = picture.shape[0] // size
    return picture[row * factor + factor // 2, column * factor + factor // 2]


def quiet(top: float, floor: float = -8.0) -> np.ndarray:
    """(1, 32, 32) with one place of 5x5 pixels that is hotter than the rest."""
    amap = np.full((1, 32, 32), floor, np.float32)
    amap[0, 10:15, 20:25] = top
    return amap


def test_the_limits_have_fixed_places() -> None:
    assert place(T1, T1, T2) == pytest.approx(1 / 3)
    assert place(T2, T1, T2) == pytest.approx(2 / 3)
    assert place(T1 - 3, T1, T2) == place(-1e9, T1, T2) == 0
    assert place(T2 + 3, T1, T2) == place(np.inf, T1, T2) == 1
    margins = np.linspace(-6, 7, 60)
    places = [place(margin, T1, T2) for margin in margins]
    assert places == sorted(places)


def test_one_limit_for_both_is_a_step() -> None:
    assert place(0.999, 1.0, 1.0) < 1 / 3
    assert place(1.0, 1.0, 1.0) == pytest.approx(2 / 3)


@pytest.mark.parametrize("is_map_scale", [True, False])
@pytest.mark.parametrize("margin", [-6.0, -4.0])
def test_a_good_part_looks_calm(margin: float, is_map_scale: bool) -> None:
    """However its own values are spread, far below T1 nothing is coloured."""
    picture = rgba(heat_png(quiet(margin), margin, T1, T2, is_map_scale))
    assert picture[:, :, 3].max() == 0


def test_just_below_t1_is_grey_and_faint() -> None:
    picture = rgba(heat_png(quiet(T1 - 0.2), T1 - 0.2, T1, T2, is_map_scale=False))
    red, green, blue, opacity = (int(x) for x in at(picture, 12, 22))
    assert 0 < opacity < 90
    assert max(red, green, blue) - min(red, green, blue) < 40


@pytest.mark.parametrize("is_map_scale", [True, False])
def test_a_bad_place_is_red_and_the_rest_is_clear(is_map_scale: bool) -> None:
    picture = rgba(heat_png(quiet(4.0), 4.0, T1, T2, is_map_scale))
    red, green, _, opacity = (int(x) for x in at(picture, 12, 22))
    assert red > 140 > 60 > green
    assert opacity > 190
    assert at(picture, 25, 5)[3] == 0


def test_between_the_limits_is_yellow_to_orange() -> None:
    picture = rgba(heat_png(quiet(0.5), 0.5, T1, T2, is_map_scale=False))
    red, green, blue, _ = (int(x) for x in at(picture, 12, 22))
    assert red > 230
    assert 130 < green < 225
    assert blue < 80


def test_limits_of_the_map_apply_to_every_pixel() -> None:
    """decides = "map_max": a second place above T2 is red although a first is hotter."""
    amap = quiet(9.0)
    amap[0, 25:30, 2:7] = T2 + 0.1
    picture = rgba(heat_png(amap, 9.0, T1, T2, is_map_scale=True))
    assert at(picture, 27, 4)[0] > 200
    assert at(picture, 27, 4)[1] < 70


def test_the_forest_may_say_ok_where_the_map_is_hot() -> None:
    """The colours follow what decided, not the detector alone."""
    picture = rgba(heat_png(quiet(40.0), -6.0, T1, T2, is_map_scale=False))
    assert picture[:, :, 3].max() == 0


def test_the_leading_detector_is_shown_and_nan_is_hot() -> None:
    amap = np.concatenate([quiet(4.0), quiet(-8.0) + 100])
    assert at(rgba(heat_png(amap, 4.0, T1, T2, True)), 25, 5)[3] == 0
    assert at(rgba(heat_png(amap, 4.0, T1, T2, True)), 12, 22)[3] > 190
    amap = quiet(-8.0)
    amap[0, 12, 22] = np.nan
    picture = rgba(heat_png(amap, 4.0, T1, T2, True))
    assert at(picture, 12, 22)[3] > 190
    assert at(picture, 25, 5)[3] == 0


def test_a_constant_map_is_one_colour() -> None:
    picture = rgba(heat_png(np.full((1, 8, 8), 3.0, np.float32), 4.0, T1, T2, False))
    assert picture[:, :, 3].min() == picture[:, :, 3].max() > 190


def test_ignored_pixels_stay_clear_and_do_not_count() -> None:
    labels = np.zeros((32, 32), np.uint8)
    labels[10:15, 20:25] = 255
    amap = quiet(50.0)
    amap[0, 25:30, 2:7] = 3.0
    picture = rgba(heat_png(amap, 4.0, T1, T2, False, labels))
    assert at(picture, 12, 22)[3] == 0
    assert at(picture, 27, 4)[0] > 140
    other_size = rgba(heat_png(amap, 4.0, T1, T2, True, np.full((8, 8), 255, np.uint8)))
    assert at(other_size, 12, 22)[3] > 190


@pytest.mark.parametrize("odd", [0, 1])
def test_a_frame_is_halved_and_keeps_its_shape_and_colours(odd: int) -> None:
    frame = np.zeros((2400 + odd, 4800 + odd, 3), np.uint8)
    frame[:, :2400, 0] = 255
    jpeg, size = reduced_jpeg(frame)
    assert size == (4800 + odd, 2400 + odd)
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape == (600, 1200, 3)
    blue, green, red = (int(x) for x in picture[240, 200])
    assert red > 240
    assert max(green, blue) < 15
    assert picture[240, 1000].max() < 15


@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1), (LONGEST_PX, 1)])
def test_what_cannot_be_halved_is_shown_as_it_is(shape: tuple[int, int]) -> None:
    jpeg, size = reduced_jpeg(np.full(shape, 7, np.uint8))
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture is not None
    assert picture.shape == shape == size[::-1]


def test_a_small_frame_is_not_blown_up_and_12_bits_are_shifted() -> None:
    jpeg, size = reduced_jpeg(np.full((30, 40), 2048, np.uint16), bits=12)
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture is not None
    assert (size, picture.shape) == ((40, 30), (30, 40))
    assert abs(int(picture.mean()) - 128) <= 1


def test_borders_of_regions_are_drawn_and_ignored_ones_hatched() -> None:
    labels = np.zeros((20, 20), np.uint8)
    labels[:, 10:] = 1
    labels[15:, :] = 255
    picture = rgba(outline_png(labels))
    assert picture.shape == (60, 60, 4)
    opacity = picture[:, :, 3]
    assert opacity[10, 30] > 200  # the border between 0 and 1
    assert opacity[10, 10] == 0  # inside a region
    hatch = opacity[50:58, 3:27]
    assert 0 < np.count_nonzero(hatch) < hatch.size / 2


def test_the_legend_shows_the_colours_of_the_map() -> None:
    css = scale_css()
    for stop, (red, green, blue), opacity in SCALE:
        assert f"rgba({red},{green},{blue},{opacity:g}) {stop * 100:g}%" in css
