"""Bytes of a camera → an array: known pixel formats unpacked, row padding cut, colours in RGB.

In: the bytes of one buffer and what the device says about them. Out: (H, W) for grey and (H, W, 3)
in RGB order for colour, uint8 for 8 bits, uint16 for 10 and 12 bits, values as the sensor gave
them. A format that is not in `FORMATS` is refused by name, never guessed.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from appliance.codes import Reason
from appliance.errors import PartError

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

    @property
    def pixel_bytes(self) -> int:
        """Bytes of one pixel in the buffer."""
        return self.channels * (1 if self.bits == 8 else 2)

    @property
    def unpacked_bytes(self) -> int:
        """Bytes of one pixel after `unpack`."""
        return self.pixel_bytes if self.to_rgb is None else 3


FORMATS: Mapping[str, Format] = {
    "Mono8": Format(8, 1),
    "Mono10": Format(10, 1),
    "Mono12": Format(12, 1),
    # OpenCV's four-letter names say the first two rows, as GenICam's do; its two-letter names
    # ("BayerBG") say the second row and stand for another pattern.
    "BayerRG8": Format(8, 1, cv2.COLOR_BayerRGGB2RGB),
    "BayerGR8": Format(8, 1, cv2.COLOR_BayerGRBG2RGB),
    "BayerGB8": Format(8, 1, cv2.COLOR_BayerGBRG2RGB),
    "BayerBG8": Format(8, 1, cv2.COLOR_BayerBGGR2RGB),
    "RGB8": Format(8, 3),
    "BGR8": Format(8, 3, cv2.COLOR_BGR2RGB),
    "RGBa8": Format(8, 4, cv2.COLOR_RGBA2RGB),
}
KNOWN = ", ".join(FORMATS)
"""For messages that refuse another format."""


def unpack(data: Any, width: int, height: int, name: str, row_padding: int = 0) -> Pixels:
    """One picture from `data`, a buffer of bytes; a view of it where nothing had to be converted.

    width, height: pixels. name: a key of FORMATS. row_padding: bytes behind each row.
    Raises PartError (incomplete image) where `data` is too short.
    """
    form = FORMATS[name]
    dtype = np.dtype(np.uint8) if form.bits == 8 else np.dtype("<u2")
    shape = (height, width) if form.channels == 1 else (height, width, form.channels)
    row_bytes = width * form.pixel_bytes + row_padding
    strides = (row_bytes, form.pixel_bytes, dtype.itemsize)[: len(shape)]
    needed = row_bytes * height - row_padding
    got = memoryview(data).nbytes
    if got < needed:
        detail = f"{needed} bytes for {width}x{height} {name}, got {got}"
        raise PartError(Reason.INCOMPLETE_IMAGE, f"expected {detail}")
    raw: Pixels = np.ndarray(shape, dtype, data, 0, strides)
    if form.to_rgb is None:
        return raw
    return np.asarray(cv2.cvtColor(raw, form.to_rgb), np.uint8)


def to_8_bit(array: Pixels, bits: int) -> npt.NDArray[np.uint8]:
    """What the network sees: `bits` significant bits shifted to 8, training and line alike.

    8 bits come back as they are, not copied. A value beyond `bits` becomes 255, never a wrap.
    """
    if array.dtype == np.uint8:
        return array.view(np.uint8)
    shifted = array >> np.uint16(bits - 8)
    return np.minimum(shifted, np.uint16(255), out=shifted).astype(np.uint8)
