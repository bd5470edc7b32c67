import cv2
import numpy as np
import pytest

from appliance.codes import Reason
from appliance.errors import PartError
from appliance.packing import PACKINGS
from appliance.pixels import FORMATS, KNOWN, known_as, to_8_bit, unpack

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


def bits_of(data: bytes, bits: int, count: int) -> list[int]:
    """PFNC "p": one stream of bits, the lowest first."""
    places = [divmod(bits * index, 8) for index in range(count)]
    windows = [(int.from_bytes(data[byte : byte + 3], "little"), bit) for byte, bit in places]
    return [window >> bit & (1 << bits) - 1 for window, bit in windows]


def triples_of(data: bytes, bits: int, count: int) -> list[int]:
    """GigE Vision "Packed": high bits in the outer bytes, low bits in the middle one."""
    values: list[int] = []
    for index in range(count):
        first = index // 2 * 3
        middle = data[first + 1] if first + 1 < len(data) else 0
        high = data[first + 2 * (index % 2)]
        low = middle >> 4 * (index % 2) & (1 << bits - 8) - 1
        values.append(high << bits - 8 | low)
    return values


def packed_rows(name: str, width: int, height: int, padding: int, seed: int):
    """Random bytes of a packed picture, and what they mean."""
    bits, is_p = int(name[:2]), name.endswith("p")
    stored = bits if is_p else 12
    decode = bits_of if is_p else triples_of
    rng = np.random.default_rng(seed)
    if padding == 0:
        data = rng.integers(0, 256, -(-width * height * stored // 8)).astype(np.uint8).tobytes()
        return data, np.array(decode(data, bits, width * height)).reshape(height, width)
    row_bytes = -(-width * stored // 8)
    rows = rng.integers(0, 256, (height, row_bytes)).astype(np.uint8)
    meant = [decode(row.tobytes(), bits, width) for row in rows]
    return padded(rows, padding)[:-padding], np.array(meant)


SIZES = [(8, 6), (1, 1), (2, 1), (3, 1), (5, 1), (7, 5), (13, 11), (4, 1), (6, 3), (641, 3)]


@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("name", PACKINGS)
def test_packed_grey_is_exact_to_the_bit_at_every_size(name, padding):
    for seed, (width, height) in enumerate(SIZES):
        data, meant = packed_rows(name, width, height, padding, seed)
        got = unpack(data, width, height, f"Mono{name}", padding)
        np.testing.assert_array_equal(got, meant)
        assert got.dtype == np.uint16
        assert len(data) == FORMATS[f"Mono{name}"].buffer_bytes(width, height, padding)


@pytest.mark.parametrize("name", PACKINGS)
def test_a_large_packed_picture_has_no_seams(name):
    """Blocks, the last groups and the bytes behind the picture."""
    data, meant = packed_rows(name, 1023, 260, 0, 9)
    got = unpack(data + b"chunk data", 1023, 260, f"Mono{name}")
    np.testing.assert_array_equal(got, meant)


def demosaiced(mosaic: np.ndarray, tile: str) -> np.ndarray:
    """Bilinear, rounded half up, inner pixels alone: (H - 2, W - 2, 3)."""
    height, width = mosaic.shape
    colours = np.array(list(tile)).reshape(2, 2)
    out = np.zeros((height - 2, width - 2, 3), np.int64)
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            for channel, colour in enumerate("RGB"):
                near = [
                    int(mosaic[y + dy, x + dx])
                    for dy in (-1, 0, 1)
                    for dx in (-1, 0, 1)
                    if colours[(y + dy) % 2, (x + dx) % 2] == colour
                ]
                own = colours[y % 2, x % 2]
                if own == colour:
                    near = [int(mosaic[y, x])]
                out[y - 1, x - 1, channel] = (sum(near) + len(near) // 2) // len(near)
    return out


@pytest.mark.parametrize("size", [(8, 6), (9, 7)])
@pytest.mark.parametrize("depth", ["8", "10", "12", *PACKINGS])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_bayer_of_every_depth_is_interpolated_exactly(pattern, depth, size):
    width, height = size
    if depth in PACKINGS:
        data, mosaic = packed_rows(depth, width, height, 0, 3)
    else:
        rng = np.random.default_rng(3)
        kind = np.uint8 if depth == "8" else np.dtype("<u2")
        mosaic = rng.integers(0, 2 ** int(depth), (height, width)).astype(kind)
        data = mosaic.tobytes()
    got = unpack(data, width, height, f"Bayer{pattern}{depth}")
    assert got.shape == (height, width, 3)
    assert got.dtype == (np.uint8 if depth == "8" else np.uint16)
    np.testing.assert_array_equal(got[1:-1, 1:-1], demosaiced(mosaic, PATTERNS[pattern]))


def rgb_of(y: int, cb: int, cr: int, is_full: bool) -> tuple[float, float, float]:
    """ITU-R BT.601, in JFIF's full range or in studio range."""
    blue, red = cb - 128, cr - 128
    if is_full:
        scale, luma = 1.0, float(y)
    else:
        scale, luma = 255 / 224, max(0, y - 16) * 255 / 219  # nothing is blacker than black
    r = luma + scale * 1.402 * red
    g = luma - scale * (0.344136 * blue + 0.714136 * red)
    b = luma + scale * 1.772 * blue
    return r, g, b


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("width", [8, 7])
@pytest.mark.parametrize(
    "name", [n for n in FORMATS if "422" in n], ids=lambda name: name.replace("_8", "")
)
def test_colour_that_two_pixels_share(name, width, padding):
    pairs = np.random.default_rng(5).integers(0, 256, (6, -(-width // 2), 4)).astype(np.uint8)
    got = unpack(padded(as_bytes(pairs), padding), width, 6, name, padding)
    is_luma_first = not name.endswith(("UYVY", "CbYCrY"))
    order = (0, 1, 2, 3) if is_luma_first else (1, 0, 3, 2)
    is_full = "601" not in name
    meant = np.zeros((6, width, 3))
    for y in range(6):
        for x in range(width):
            luma0, cb, luma1, cr = (int(pairs[y, x // 2, i]) for i in order)
            meant[y, x] = rgb_of(luma1 if x % 2 else luma0, cb, cr, is_full)
    # OpenCV computes with 14 to 20 bits behind the point: one grey level at most.
    assert np.abs(got.astype(float) - np.clip(meant, 0, 255)).max() <= 1.01


def test_old_names_of_the_naming_convention_are_understood():
    assert known_as("YUV422Packed") == "YUV422_8_UYVY"
    assert known_as("Mono8") == "Mono8"
    assert known_as("Mono14") == "Mono14"


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
    needed = FORMATS[name].buffer_bytes(8, 6)
    assert unpack(bytes(needed), 8, 6, name).shape[:2] == (6, 8)
    with pytest.raises(
        PartError, match=f"expected {needed} bytes.*{name}, got {needed - 1}"
    ) as err:
        unpack(bytes(needed - 1), 8, 6, name)
    assert err.value.reason == Reason.INCOMPLETE_IMAGE


@pytest.mark.parametrize("name", FORMATS)
def test_the_promised_size_is_the_size_that_comes(name):
    form = FORMATS[name]
    for width, height in ((8, 6), (5, 3)):
        got = unpack(bytes(form.buffer_bytes(width, height)), width, height, name)
        assert got.nbytes == width * height * form.unpacked_bytes
        assert got.shape[:2] == (height, width)
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
