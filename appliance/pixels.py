"""Bytes of a camera → an array: known pixel formats unpacked, row padding cut, colours in RGB.

In: the bytes of one buffer and what the device says about them. Out: (H, W) for grey and (H, W, 3)
in RGB order for colour, uint8 for 8 bits, uint16 for 10 and 12 bits, values as the sensor gave
them. A format that is not in `FORMATS` is refused by name, never guessed.

Bayer mosaics are interpolated bilinearly by OpenCV, at their own depth. Of two pixels that share
their colour (4:2:2) both get it as it is. YUV422 and YCbCr422 span 0 to 255 (JFIF), YCbCr601_422
spans 16 to 235 (ITU-R BT.601).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from appliance.codes import Reason
from appliance.errors import PartError
from appliance.packing import PACKINGS, Packing, unpack_bits

Pixels: TypeAlias = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
"""(H, W) or (H, W, 3) RGB."""


class Format(NamedTuple):
    """One pixel format of the GenICam Pixel Format Naming Convention."""

    bits: int
    """Significant bits of a channel."""
    channels: int
    """Channels in the buffer."""
    to_rgb: int | None = None
    """OpenCV's conversion to RGB; None where the buffer is as it should be."""
    packing: Packing | None = None
    """10 or 12 bits that are not in two bytes of their own."""
    luma: int | None = None
    """4:2:2 in full range: which byte of each pixel is its luma. OpenCV's conversion takes three
    channels then."""

    @property
    def pixel_bytes(self) -> int:
        """Bytes of one pixel in the buffer, where it is not packed."""
        return self.channels * (1 if self.bits == 8 else 2)

    @property
    def unpacked_bytes(self) -> int:
        """Bytes of one pixel after `unpack`."""
        return (1 if self.bits == 8 else 2) * (self.channels if self.to_rgb is None else 3)

    def buffer_bytes(self, width: int, height: int, row_padding: int = 0) -> int:
        """Least bytes of a buffer with a picture of this size."""
        if self.packing:
            return self.packing.buffer_bytes(width, height, row_padding)
        return (self._columns(width) * self.pixel_bytes + row_padding) * height - row_padding

    def raw(self, data: Any, width: int, height: int, row_padding: int) -> Pixels:
        """What lies in the buffer; a view where it is not packed. Pairs of pixels are whole."""
        if self.packing:
            return unpack_bits(data, width, height, self.packing, row_padding)
        columns = self._columns(width)
        dtype = np.dtype(np.uint8) if self.bits == 8 else np.dtype("<u2")
        shape = (height, columns) if self.channels == 1 else (height, columns, self.channels)
        row_bytes = columns * self.pixel_bytes + row_padding
        strides = (row_bytes, self.pixel_bytes, dtype.itemsize)[: len(shape)]
        return np.ndarray(shape, dtype, data, 0, strides)

    def _columns(self, width: int) -> int:
        return width + width % 2 if self.channels == 2 else width


def _bayer() -> dict[str, Format]:
    # OpenCV's four-letter names say the first two rows, as GenICam's do; its two-letter names
    # ("BayerBG") say the second row and stand for another pattern.
    conversions = {
        "BayerRG": cv2.COLOR_BayerRGGB2RGB,
        "BayerGR": cv2.COLOR_BayerGRBG2RGB,
        "BayerGB": cv2.COLOR_BayerGBRG2RGB,
        "BayerBG": cv2.COLOR_BayerBGGR2RGB,
    }
    return {
        f"{name}{ending}": Format(form.bits, 1, conversion, form.packing)
        for name, conversion in conversions.items()
        for ending, form in _DEPTHS.items()
    }


_DEPTHS: Mapping[str, Format] = {
    "8": Format(8, 1),
    "10": Format(10, 1),
    "12": Format(12, 1),
    **{ending: Format(int(ending[:2]), 1, None, packing) for ending, packing in PACKINGS.items()},
}
FORMATS: Mapping[str, Format] = {
    **{f"Mono{ending}": form for ending, form in _DEPTHS.items()},
    **_bayer(),
    "RGB8": Format(8, 3),
    "BGR8": Format(8, 3, cv2.COLOR_BGR2RGB),
    "RGBa8": Format(8, 4, cv2.COLOR_RGBA2RGB),
    "BGRa8": Format(8, 4, cv2.COLOR_BGRA2RGB),
    "YUV422_8": Format(8, 2, cv2.COLOR_YCrCb2RGB, luma=0),
    "YUV422_8_UYVY": Format(8, 2, cv2.COLOR_YCrCb2RGB, luma=1),
    "YCbCr422_8": Format(8, 2, cv2.COLOR_YCrCb2RGB, luma=0),
    "YCbCr422_8_CbYCrY": Format(8, 2, cv2.COLOR_YCrCb2RGB, luma=1),
    "YCbCr601_422_8": Format(8, 2, cv2.COLOR_YUV2RGB_YUY2),
    "YCbCr601_422_8_CbYCrY": Format(8, 2, cv2.COLOR_YUV2RGB_UYVY),
}
_OLD_NAMES: Mapping[str, str] = {
    # Before PFNC, SFNC called them so; the pixel format of a buffer is a number and has no age.
    "RGB8Packed": "RGB8",
    "BGR8Packed": "BGR8",
    "RGBA8Packed": "RGBa8",
    "BGRA8Packed": "BGRa8",
    "YUV422Packed": "YUV422_8_UYVY",
    "YUYVPacked": "YUV422_8",
    "YUV422_YUYV_Packed": "YUV422_8",
}
KNOWN = ", ".join(FORMATS)
"""For messages that refuse another format."""


def known_as(name: str) -> str:
    """The name in FORMATS of what an older camera calls otherwise."""
    return _OLD_NAMES.get(name, name)


def unpack(data: Any, width: int, height: int, name: str, row_padding: int = 0) -> Pixels:
    """One picture from `data`, a buffer of bytes; a view of it where nothing had to be converted.

    width, height: pixels. name: a key of FORMATS. row_padding: bytes behind each row.
    Raises PartError (incomplete image) where `data` is too short.
    """
    form = FORMATS[name]
    needed = form.buffer_bytes(width, height, row_padding)
    got = memoryview(data).nbytes
    if got < needed:
        detail = f"{needed} bytes for {width}x{height} {name}, got {got}"
        raise PartError(Reason.INCOMPLETE_IMAGE, f"expected {detail}")
    raw = form.raw(data, width, height, row_padding)
    if form.to_rgb is None:
        return raw
    if form.luma is not None:
        raw = _full_chroma(raw, form.luma)
    rgb: Any = cv2.cvtColor(raw, form.to_rgb)
    return rgb[:, :width]


def _full_chroma(pairs: Pixels, luma: int) -> npt.NDArray[np.uint8]:
    """(H, W, 2) bytes of 4:2:2 → (H, W, 3) as Y, Cr, Cb, the colour of a pair in both pixels."""
    height, width = pairs.shape[:2]
    whole = np.empty((height, width, 3), np.uint8)
    whole[..., 0] = pairs[..., luma]
    colours = pairs[..., 1 - luma]
    for channel, first in ((2, 0), (1, 1)):  # Cb lies before Cr
        for pixel in (0, 1):
            whole[:, pixel::2, channel] = colours[:, first::2]
    return whole


def to_8_bit(array: Pixels, bits: int) -> npt.NDArray[np.uint8]:
    """What the network sees: `bits` significant bits shifted to 8, training and line alike.

    8 bits come back as they are, not copied. A value beyond `bits` becomes 255, never a wrap.
    """
    if array.dtype == np.uint8:
        return array.view(np.uint8)
    shifted = array >> np.uint16(bits - 8)
    return np.minimum(shifted, np.uint16(255), out=shifted).astype(np.uint8)
