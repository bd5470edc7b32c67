"""Pixels → what people look at: a reduced JPEG, a heat map to lay over it, outlines of regions.

Pure: arrays in, bytes out. Colours of a heat map stand for margins, never for the brightest pixel
of the picture at hand: a part far below T1 has no colour at all, so that a good part looks calm.
"""

import math
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from appliance.pixels import FORMATS, Pixels, to_8_bit

LONGEST_PX = 1280
_QUALITY = 80
_HEAT_PX = 512
_IGNORED = 255
_DEFAULT_BITS = 12
"""Of a 16-bit picture whose recipe does not name a pixel format."""

Stop = tuple[float, tuple[int, int, int], float]
SCALE: Sequence[Stop] = (
    # place      RGB              opacity
    (0.00, (148, 163, 175), 0.00),
    (0.16, (148, 163, 175), 0.00),
    (0.33, (176, 190, 198), 0.30),
    (0.34, (255, 214, 64), 0.50),
    (0.66, (255, 138, 18), 0.72),
    (0.67, (236, 44, 24), 0.80),
    (1.00, (150, 0, 62), 0.90),
)
"""Grey below T1 (place 1/3), yellow to orange between, red from T2 (place 2/3) up."""


def stored_bits(pixel_format: str | None) -> int:
    """Bits of a picture that is kept in 16, by the format that its recipe names."""
    known = FORMATS.get(pixel_format or "")
    return known.bits if known and known.bits > 8 else _DEFAULT_BITS


def place(margin: float, t1: float, t2: float) -> float:
    """Where a margin lies between 0 and 1: T1 is 1/3, T2 is 2/3, one band beyond each end is 0, 1.

    A band is the distance of the limits, at least one logit.
    """
    return float(_places(np.array([margin], np.float64), t1, t2)[0])


def _places(margins: npt.NDArray[Any], t1: float, t2: float) -> npt.NDArray[np.float64]:
    band = max(t2 - t1, 1.0)
    at = [t1 - band, t1, t2, t2 + band]
    if t1 < t2:
        return np.interp(margins, at, [0, 1 / 3, 2 / 3, 1])
    below = np.interp(margins, at[:2], [0, 1 / 3])
    return np.where(margins < t1, below, np.interp(margins, at[2:], [2 / 3, 1]))


def reduced_jpeg(frame: Pixels, bits: int = 8) -> tuple[bytes, tuple[int, int]]:
    """A frame as JPEG of at most LONGEST_PX, and the size of the frame itself (width, height).

    frame: (H, W) or (H, W, 3) RGB, uint8, or uint16 with `bits` significant bits.
    """
    height, width = frame.shape[:2]
    reduced: npt.NDArray[Any] = frame
    # Halves again and again: of 5 MP a tenth of the time that any other size takes. The last row or
    # column of an odd size is left out, or it would be one of these.
    while max(reduced.shape[:2]) > LONGEST_PX and min(reduced.shape[:2]) > 1:
        half = reduced.shape[1] // 2, reduced.shape[0] // 2
        even = reduced[: 2 * half[1], : 2 * half[0]]
        reduced = cv2.resize(even, half, interpolation=cv2.INTER_AREA)
    small = to_8_bit(reduced, bits)
    if small.ndim == 3:
        small = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return data.tobytes(), (width, height)


def heat_png(
    amap: npt.NDArray[np.float32],
    margin: float,
    t1: float,
    t2: float,
    is_map_scale: bool,
    labels: npt.NDArray[np.uint8] | None = None,
) -> bytes:
    """A heat map as PNG with opacity.

    amap: (K, H, W) raw values; the first of the K detectors leads and is shown, for the units of
    others are their own. is_map_scale: the limits are limits of the map itself
    (`decides = "map_max"`), so every pixel has its own place on the scale. Otherwise (forest,
    classification) the hottest pixel gets the place of the part's margin, the median pixel the
    scale's cold end, and what lies between follows the map. labels: (H, W); ignored pixels stay
    clear.
    """
    values = np.nan_to_num(amap[0].astype(np.float64), nan=math.inf)
    seen = None if labels is None or labels.shape != values.shape else labels != _IGNORED
    if not is_map_scale:
        counted = values if seen is None or not seen.any() else values[seen]
        middle, top = float(np.median(counted)), float(counted.max())
        cold = t1 - max(t2 - t1, 1.0)
        share = (values - middle) / (top - middle) if middle < top < math.inf else values * 0 + 1
        values = cold + np.clip(share, 0, 1) * max(margin - cold, 0)
    # Enlarged before it is coloured: the other way round the scale's steps become stairs.
    factor = max(1, _HEAT_PX // max(values.shape))
    size = (values.shape[1] * factor, values.shape[0] * factor)
    steps = (_places(values, t1, t2) * 255).astype(np.float32)
    index = cv2.convertScaleAbs(cv2.resize(steps, size, interpolation=cv2.INTER_LINEAR))
    if seen is not None:
        shown = cv2.resize(seen.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        index = cv2.bitwise_and(index, index, mask=shown)  # place 0 is clear
    return _indexed_png(np.asarray(index, np.uint8))


def outline_png(labels: npt.NDArray[np.uint8]) -> bytes:
    """Borders of regions as PNG with opacity, at three times the size of the map.

    labels: (H, W) uint8; pixels of label 255 are ignored by the model and shown hatched.
    """
    big = np.repeat(np.repeat(labels, 3, axis=0), 3, axis=1)
    border = np.zeros(big.shape, bool)
    border[:, 1:] |= big[:, 1:] != big[:, :-1]
    border[1:, :] |= big[1:, :] != big[:-1, :]
    rows, columns = np.indices(big.shape, dtype=np.int32)
    picture = np.zeros((*big.shape, 4), np.uint8)
    picture[(big == _IGNORED) & ((rows + columns) % 12 < 2)] = (180, 172, 160, 110)
    halo = cv2.dilate(border.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    picture[halo] = (28, 20, 8, 120)
    picture[border] = (234, 214, 126, 235)
    return _png(picture)


def scale_css() -> str:
    """The colours of a heat map as a CSS gradient, for the legend."""
    stops = [
        f"rgba({red},{green},{blue},{opacity:g}) {at * 100:g}%"
        for at, (red, green, blue), opacity in SCALE
    ]
    return f"linear-gradient(to right, {', '.join(stops)})"


def _table() -> npt.NDArray[np.uint8]:
    """(256, 4) colours of places 0 to 1: red, green, blue, opacity."""
    at = np.linspace(0, 1, 256)
    places = [stop[0] for stop in SCALE]
    channels = [np.interp(at, places, [stop[1][c] for stop in SCALE]) for c in range(3)]
    channels.append(np.interp(at, places, [stop[2] * 255 for stop in SCALE]))
    return np.rint(np.stack(channels, axis=1)).astype(np.uint8)


def _indexed_png(index: npt.NDArray[np.uint8]) -> bytes:
    """(H, W) places of the table above, in the colours of a palette: OpenCV writes none, and takes
    fifteen times as long for four channels."""
    height, width = index.shape
    rows = np.zeros((height, 1 + width), np.uint8)  # each row begins with its filter: 0, none
    rows[:, 1:] = index
    squeeze = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_RLE)
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)  # 8 bits, palette
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (
            _chunk(b"IHDR", header),
            _PALETTE,
            _chunk(b"IDAT", squeeze.compress(rows.tobytes()) + squeeze.flush()),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(bgra: npt.NDArray[np.uint8]) -> bytes:
    _, data = cv2.imencode(".png", bgra, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return data.tobytes()


_COLOURS = _table()
_PALETTE = _chunk(b"PLTE", _COLOURS[:, :3].tobytes()) + _chunk(b"tRNS", _COLOURS[:, 3].tobytes())
