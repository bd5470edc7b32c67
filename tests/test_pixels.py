import cv2
import numpy as np
import pytest

from appliance.codes import Reason
from appliance.errors import PartError
from appliance.pixels import FORMATS, KNOWN, to_8_bit, unpack

COLOURS = np.array([[200, 30, 90], [10, 220, 60], [80, 90, 250]], np.uint8)
"""Red, green and blue that no channel swap leaves alone."""
PATTERNS = {"RG": "RGGB", "GR": "GRBG", "GB": "GBRG", "BG": "BGGR"}


def padded(rows: np.ndarray, padding: int) -> bytes:
    """Rows of bytes with a recognisable filling behind each."""
    filling = np.full((rows.shape[0], padding), 0xEE, np.uint8)
    return np.hstack([rows, filling]).tobytes()


def as_bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(array.shape[0], -1).view(np.uint8)


@pytest.mark.parametrize("padding", [0, 1, 6])
@pytest.mark.parametrize(("name", "bits"), [("Mono8", 8), ("Mono10", 10), ("Mono12", 12)])
def test_grey_keeps_every_bit_and_loses_the_padding(name, bits, padding):
    rng = np.random.default_rng(0)
    sent = rng.integers(0, 2**bits, (7, 5)).astype(np.uint8 if bits == 8 else "<u2")
    got = unpack(padded(as_bytes(sent), padding), 5, 7, name, padding)
    np.testing.assert_array_equal(got, sent)
    assert got.dtype == (np.uint8 if bits == 8 else np.uint16)
    assert FORMATS[name].bits == bits


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize(
    ("name", "order"), [("RGB8", [0, 1, 2]), ("BGR8", [2, 1, 0]), ("RGBa8", [0, 1, 2, None])]
)
def test_colour_comes_out_as_rgb(name, order, padding):
    rgb = np.random.default_rng(1).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    planes = [np.full((4, 6), 77, np.uint8) if c is None else rgb[..., c] for c in order]
    got = unpack(padded(as_bytes(np.dstack(planes)), padding), 6, 4, name, padding)
    np.testing.assert_array_equal(got, rgb)


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("colour", range(3))
@pytest.mark.parametrize("pattern", PATTERNS)
def test_bayer_is_demosaiced_by_its_own_pattern(pattern, colour, padding):
    """A sensor that sees one plain colour must give that colour in every pixel."""
    rgb = COLOURS[colour]
    tile = np.array(["RGB".index(c) for c in PATTERNS[pattern]]).reshape(2, 2)
    mosaic = rgb[np.tile(tile, (4, 5))]
    got = unpack(padded(mosaic, padding), 10, 8, f"Bayer{pattern}8", padding)
    assert got.shape == (8, 10, 3)
    np.testing.assert_array_equal(got, np.broadcast_to(rgb, got.shape))


def test_what_needs_no_conversion_is_not_copied():
    data = bytearray(12)
    view = unpack(data, 4, 3, "Mono8")
    data[5] = 9
    assert view[1, 1] == 9
    assert unpack(memoryview(data)[:8], 2, 2, "Mono12").base is not None


def test_the_last_row_may_come_without_its_padding():
    rows = np.arange(6, dtype=np.uint8).reshape(2, 3)
    np.testing.assert_array_equal(unpack(padded(rows, 2)[:-2], 3, 2, "Mono8", 2), rows)


@pytest.mark.parametrize("name", FORMATS)
def test_too_few_bytes_are_an_incomplete_image(name):
    needed = 8 * 6 * FORMATS[name].pixel_bytes
    assert unpack(bytes(needed), 8, 6, name).shape[:2] == (6, 8)
    with pytest.raises(
        PartError, match=f"expected {needed} bytes.*{name}, got {needed - 1}"
    ) as err:
        unpack(bytes(needed - 1), 8, 6, name)
    assert err.value.reason == Reason.INCOMPLETE_IMAGE


@pytest.mark.parametrize("name", FORMATS)
def test_the_promised_size_is_the_size_that_comes(name):
    form = FORMATS[name]
    assert unpack(bytes(8 * 6 * form.pixel_bytes), 8, 6, name).nbytes == 48 * form.unpacked_bytes
    assert name in KNOWN


def test_shift_to_8_bits_is_exact_and_never_wraps():
    for bits in (10, 12, 16):
        values = np.arange(2**bits, dtype=np.uint16)
        np.testing.assert_array_equal(to_8_bit(values, bits), values // 2 ** (bits - 8))
    assert to_8_bit(np.array([4095, 4096, 65535], np.uint16), 12).tolist() == [255, 255, 255]


def test_8_bits_are_passed_on_uncopied_and_16_bits_are_not_harmed():
    grey = np.arange(6, dtype=np.uint8)
    assert np.shares_memory(to_8_bit(grey, 8), grey)
    deep = np.array([[16, 4095]], np.uint16)
    deep.setflags(write=False)
    assert to_8_bit(deep, 12).tolist() == [[1, 255]]
    assert deep.tolist() == [[16, 4095]]


def test_a_read_only_buffer_of_a_device_is_enough_for_opencv():
    data = bytes(range(64))
    assert cv2.mean(unpack(data, 8, 8, "Mono8"))[0] == pytest.approx(31.5)
    assert unpack(data, 4, 4, "RGBa8").shape == (4, 4, 3)
