"""A known part moved, turned and scaled by known amounts: is it found, placed, or refused?"""

import math

import cv2
import msgspec
import numpy as np
import pytest

from appliance.codes import OfflineReason, Reason
from appliance.errors import ArtefactError, PartError
from appliance.fixture import Finder, finder_of
from appliance.recipe import Fixture
from tests.networks import picture, write_network_bundle

SIZE = (240, 320)
FIXTURE = Fixture(region=(100, 70, 90, 80), max_shift_px=20)


def part() -> np.ndarray:
    """A textured plate with holes and an edge, on a dark ground."""
    rng = np.random.default_rng(5)
    image = np.full(SIZE, 30.0)
    image[40:200, 60:260] = 120
    for x, y, radius, grey in ((120, 90, 9, 220), (170, 130, 14, 60), (210, 170, 8, 200)):
        cv2.circle(image, (x, y), radius, grey, -1)
    image += cv2.GaussianBlur(rng.normal(0, 30, SIZE), (0, 0), 2)
    return image.clip(0, 255).astype(np.uint8)


def moved(x: float, y: float, turn: float = 0.0, scale: float = 1.0, origin=(0, 0), noise=2.0):
    """The part as a camera would see it: about the region's middle, in a frame 30 px larger."""
    left, top, width, height = FIXTURE.region
    middle = (left + (width - 1) / 2, top + (height - 1) / 2)
    matrix = cv2.getRotationMatrix2D(middle, -turn, scale)
    matrix[:, 2] += (x + origin[0], y + origin[1])
    size = (SIZE[1] + 60, SIZE[0] + 60)
    frame = cv2.warpAffine(part(), matrix, size, borderMode=cv2.BORDER_REPLICATE)
    frame = frame + np.random.default_rng(1).normal(0, noise, frame.shape)
    return frame.clip(0, 255).astype(np.uint8)


def finder(origin=(0, 0), **changes) -> Finder:
    return Finder(msgspec.structs.replace(FIXTURE, **changes), part(), origin, "recipe: fixture")


@pytest.mark.parametrize(
    ("shift", "origin"),
    [
        ((0, 0), (0, 0)),
        ((19, 0), (0, 0)),
        ((7, -3), (30, 25)),
        ((-11.4, 12.6), (30, 25)),
    ],
)
def test_a_shift_is_found_and_undone(shift, origin):
    one = finder(origin)
    frame = moved(*shift, origin=origin)
    found = one.locate(frame)
    assert found.shift_px == pytest.approx(shift, abs=0.2)
    assert (found.rotation_deg, found.scale) == (0, 1)
    placed = one.placed(frame, found)
    assert placed.shape == SIZE
    inner = np.s_[60:180, 80:240]
    if all(float(value).is_integer() for value in shift):
        assert np.abs(placed[inner].astype(int) - part()[inner]).mean() < 2.5
        assert np.shares_memory(placed, frame)


@pytest.mark.parametrize("method", ["template", "ecc"])
@pytest.mark.parametrize("pose", [(5, 3, 6.0, 1.0), (-8, 6, -9.5, 1.0), (4, -5, 3.0, 1.05)])
def test_a_turned_and_scaled_part_is_laid_back(method, pose):
    x, y, turn, scale = pose
    one = finder((30, 30), method=method, max_rotation_deg=12, scale=(0.94, 1.06))
    frame = moved(x, y, turn, scale, origin=(30, 30))
    found = one.locate(frame)
    close = (0.3, 0.2, 0.004) if method == "ecc" else (1.5, 2.0, 0.02)
    assert found.shift_px == pytest.approx((x, y), abs=close[0])
    assert found.rotation_deg == pytest.approx(turn, abs=close[1])
    assert found.scale == pytest.approx(scale, abs=close[2])
    placed = one.placed(frame, found)
    inner = np.s_[70:150, 100:190]
    apart = np.abs(placed[inner].astype(int) - part()[inner]).mean()
    assert apart < (4 if method == "ecc" else 12)


@pytest.mark.parametrize(
    ("pose", "message"),
    [
        ((24, 0, 0.0, 1.0), r"a shift of at most 20 px, got 2\d"),
        ((0, 0, 8.0, 1.0), r"a turn of at most 5°, got [78]"),
        ((0, 0, 0.0, 1.06), r"a scale of 0.98 to 1.02, got 1.0[456]"),
    ],
)
@pytest.mark.parametrize("method", ["template", "ecc"])
def test_a_part_outside_the_limits_is_never_placed(method, pose, message):
    one = finder((30, 30), method=method, max_rotation_deg=5, scale=(0.98, 1.02), min_likeness=0.4)
    with pytest.raises(PartError, match=f"fixture not found: expected {message}") as caught:
        one.locate(moved(*pose, origin=(30, 30)))
    assert caught.value.reason is Reason.FIXTURE


def deformed(linear, origin=(30, 30)):
    """The part through a 2x2 matrix about the region's middle."""
    left, top, width, height = FIXTURE.region
    middle = np.array([left + (width - 1) / 2, top + (height - 1) / 2])
    linear = np.array(linear, float)
    matrix = np.hstack([linear, (middle + origin - linear @ middle)[:, None]])
    size = (SIZE[1] + 60, SIZE[0] + 60)
    frame = cv2.warpAffine(part(), matrix, size, borderMode=cv2.BORDER_REPLICATE)
    return frame.astype(np.uint8)


@pytest.mark.parametrize("turn", [0, 12])
@pytest.mark.parametrize(
    "linear", [[[1.15, 0], [0, 0.87]], [[0.87, 0], [0, 1.15]], [[1, 0.1], [0, 1]]]
)
def test_a_deformed_part_is_refused_and_never_straightened(linear, turn):
    one = finder((30, 30), method="ecc", max_rotation_deg=turn, scale=(0.9, 1.1), min_likeness=0.3)
    with pytest.raises(PartError, match="fixture not found") as caught:
        one.locate(deformed(linear))
    assert caught.value.reason is Reason.FIXTURE


def test_a_small_deformation_stays_for_the_network_to_see():
    one = finder((30, 30), method="ecc", max_rotation_deg=5, scale=(0.95, 1.05))
    found = one.locate(deformed([[1.015, 0], [0, 0.985]]))
    turned = found.matrix[:, :2] / found.scale
    assert turned @ turned.T == pytest.approx(np.eye(2), abs=1e-9)
    assert 0.3 < found.deformed_px < 1.5


@pytest.mark.parametrize("noise", [2.0, 10.0])
def test_a_scaled_part_that_may_not_turn_is_found_through_noise(noise):
    one = finder((30, 30), method="ecc", scale=(0.95, 1.05))
    for scale in (0.97, 1.0, 1.03):
        found = one.locate(moved(4, -5, 0.0, scale, origin=(30, 30), noise=noise))
        assert found.rotation_deg == 0
        assert found.scale == pytest.approx(scale, abs=0.004)
    with pytest.raises(PartError, match="turned where no turn is allowed"):
        one.locate(moved(4, -5, 4.0, 1.0, origin=(30, 30), noise=noise))


def test_what_may_not_change_is_exact():
    shift = finder((30, 30), method="ecc").locate(moved(3.4, 2.7, origin=(30, 30)))
    assert (shift.rotation_deg, shift.scale, shift.deformed_px) == (0, 1, pytest.approx(0))
    turn = finder((30, 30), method="ecc", max_rotation_deg=5).locate(
        moved(3.4, 2.7, 2.0, origin=(30, 30))
    )
    assert turn.scale == 1


@pytest.mark.parametrize("method", ["template", "ecc"])
@pytest.mark.parametrize(
    ("pose", "origin", "beyond"),
    [
        ((-4, 0, 0.0), (0, 0), 4),
        ((0, -5, 0.0), (0, 0), 5),
        ((6, 0, 0.0), (60, 30), 6),
        ((0, 9, 0.0), (30, 60), 9),
        ((0, 0, 5.0), (0, 0), 15),
    ],
)
def test_a_part_that_the_frame_cuts_off_is_never_judged(method, pose, origin, beyond):
    one = finder(origin, method=method, max_rotation_deg=6 if pose[2] else 0)
    frame = moved(*pose, origin=origin)
    found = one.locate(frame)
    with pytest.raises(PartError, match="px beyond its edge") as caught:
        one.placed(frame, found)
    assert caught.value.reason is Reason.FIXTURE
    needed = float(str(caught.value).split("needs ")[1].split()[0])
    assert needed == pytest.approx(beyond, abs=0.3 if pose[2] == 0 else 4)


def test_a_pixel_at_the_border_is_interpolated():
    one = finder()
    frame = moved(-0.6, -0.4)
    assert one.placed(frame, one.locate(frame)).shape == SIZE


def frames_without_the_part():
    rng = np.random.default_rng(0)
    shape = (SIZE[0] + 60, SIZE[1] + 60)
    noise = rng.integers(0, 256, shape).astype(np.uint8)
    return {
        "noise": noise,
        "smooth": cv2.GaussianBlur(noise, (0, 0), 6),
        "black": np.zeros(shape, np.uint8),
        "white": np.full(shape, 255, np.uint8),
        "upside down": np.ascontiguousarray(moved(0, 0, origin=(30, 30))[::-1, ::-1]),
    }


@pytest.mark.parametrize("method", ["template", "ecc"])
@pytest.mark.parametrize("name", sorted(frames_without_the_part()))
def test_no_part_no_fixture(method, name):
    one = finder((30, 30), method=method, max_rotation_deg=5)
    with pytest.raises(PartError, match=r"not found: expected a (likeness|shift)") as caught:
        one.locate(frames_without_the_part()[name])
    assert caught.value.reason is Reason.FIXTURE


def test_a_frame_that_cannot_hold_the_region_has_no_fixture():
    with pytest.raises(PartError, match="a frame that holds the region"):
        finder().locate(part()[:100])


def test_colour_brightness_and_contrast_do_not_matter():
    one = finder((30, 30))
    frame = moved(6, 4, origin=(30, 30))
    changed = np.stack([(frame * 0.5 + 40).astype(np.uint8)] * 3, axis=2)
    found = one.locate(changed)
    assert found.shift_px == pytest.approx((6, 4), abs=0.2)
    assert one.placed(changed, found).shape == (*SIZE, 3)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"region": (0, 0, 8, 40)}, "region"),
        ({"region": (300, 0, 40, 40)}, "region"),
        ({"region": (0, 0, 20, 20)}, "region"),
        ({"max_shift_px": 0}, "max_shift_px"),
        ({"max_shift_px": math.nan}, "max_shift_px"),
        ({"max_rotation_deg": -1}, "max_rotation_deg"),
        ({"scale": (1.1, 1.2)}, "scale"),
        ({"min_likeness": 0}, "min_likeness"),
        ({"max_rotation_deg": 180, "scale": (0.5, 2.0)}, "max_rotation_deg and scale"),
    ],
)
def test_limits_that_make_no_sense_are_refused_by_name(changes, key):
    image = part()
    image[:30, :30] = 30
    with pytest.raises(ArtefactError) as caught:
        Finder(msgspec.structs.replace(FIXTURE, **changes), image, (0, 0), "recipe: fixture")
    assert caught.value.where == f"recipe: fixture.{key}"
    assert caught.value.offline is OfflineReason.NO_RECIPE


def test_the_reference_is_a_picture_of_the_bundle(tmp_path):
    bundle = write_network_bundle(tmp_path / "b")
    fixture = Fixture(region=(10, 10, 40, 30), max_shift_px=5, reference="golden/0.png")
    one = finder_of(fixture, bundle, (4, 2, 96, 64), "recipe: camera.top.fixture")
    frame = np.zeros((80, 110), np.uint8)
    frame[5:69, 6:102] = picture(0)
    assert one.locate(frame).shift_px == pytest.approx((2, 3), abs=0.1)
    for wrong, roi, where in (
        ({"reference": "golden/77.png"}, None, "fixture.reference"),
        ({"reference": "segments.png"}, None, "fixture.reference"),
        ({}, (0, 0, 90, 64), "roi"),
    ):
        with pytest.raises(ArtefactError) as caught:
            finder_of(
                msgspec.structs.replace(fixture, **wrong), bundle, roi, "recipe: camera.top.fixture"
            )
        assert caught.value.where == f"recipe: camera.top.{where}"
