"""Packed 10 and 12 bit pixels → uint16, at the speed of memory.

Two layouts. "p" (Pixel Format Naming Convention): pixels follow one another bit by bit, lowest bit
first. "Packed" (GigE Vision 1): two pixels in three bytes, the high eight bits of each in the outer
bytes, the low bits of both in the middle one.

Four pixels are read as one 64-bit word and spread to its four lanes by masks and shifts, for a
block of words at a time: no pixel is touched alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

PIXELS = 4
"""Pixels of one word, and so of one group of bytes."""
_BLOCK_WORDS = 1 << 15
"""Words at a time: the arrays of a block stay in the cache."""

Words = npt.NDArray[np.uint64]
Steps = Sequence[tuple[int, int]]
"""Masks and how far left each part moves (negative: right); the parts together are the word."""


def _both(low: int) -> int:
    """The same mask in both halves of the word."""
    return low << 32 | low


class Packing(NamedTuple):
    """How four pixels lie in a group of bytes."""

    group_bytes: int
    lanes: Steps
    """From two pixels in each half of the word to one in each lane."""

    @property
    def halves(self) -> Steps:
        """From the group as it is read to two pixels in each half of the word."""
        bits = 4 * self.group_bytes
        half = (1 << bits) - 1
        return (half, 0), (half << bits, 32 - bits)

    def row_bytes(self, width: int) -> int:
        """Of a row that begins on a byte."""
        return -(-width * self.group_bytes // PIXELS)

    def buffer_bytes(self, width: int, height: int, row_padding: int) -> int:
        """Least bytes of a picture: without padding the bits run on over the ends of rows."""
        if row_padding == 0:
            return self.row_bytes(width * height)
        return (self.row_bytes(width) + row_padding) * height - row_padding


PACKINGS: Mapping[str, Packing] = {
    "10p": Packing(5, ((_both(0x3FF), 0), (_both(0x3FF << 10), 6))),
    "12p": Packing(6, ((_both(0xFFF), 0), (_both(0xFFF << 12), 4))),
    # The outer bytes, the low bits of the first pixel, the low bits of the second.
    "10Packed": Packing(6, ((_both(0xFF00FF), 2), (_both(0x300), -8), (_both(0x3000), 4))),
    "12Packed": Packing(6, ((_both(0xFFF0FF), 4), (_both(0xF00), -8))),
}
"""By the ending of the format's name."""


def unpack_bits(
    data: Any, width: int, height: int, packing: Packing, row_padding: int
) -> npt.NDArray[np.uint16]:
    """(height, width) uint16 from a buffer that holds at least `buffer_bytes`."""
    raw = np.frombuffer(data, np.uint8, packing.buffer_bytes(width, height, row_padding))
    if row_padding == 0:
        return _expand(raw, width * height, packing).reshape(height, width)
    row_bytes = packing.row_bytes(width)
    lines = np.ndarray((height, row_bytes), np.uint8, raw, 0, (row_bytes + row_padding, 1))
    # Rows as whole groups of their own; what the last group has too much is cut off again.
    groups = -(-width // PIXELS)
    whole = np.zeros((height, groups * packing.group_bytes), np.uint8)
    whole[:, :row_bytes] = lines
    pixels = _expand(whole.reshape(-1), height * groups * PIXELS, packing)
    return pixels.reshape(height, groups * PIXELS)[:, :width]


def _expand(raw: npt.NDArray[np.uint8], count: int, packing: Packing) -> npt.NDArray[np.uint16]:
    """The first `count` pixels of a stream of bytes."""
    words = -(-count // PIXELS)
    out = np.empty(words * PIXELS, np.uint16)
    # A word is read eight bytes at a time, which would go beyond the buffer in the last groups.
    inside = max(0, (len(raw) - 8) // packing.group_bytes + 1)
    _spread(raw, out[: inside * PIXELS], packing)
    last = np.zeros((words - inside) * packing.group_bytes + 8, np.uint8)
    rest = raw[inside * packing.group_bytes :]
    last[: len(rest)] = rest
    _spread(last, out[inside * PIXELS :], packing)
    return out[:count]


def _spread(raw: npt.NDArray[np.uint8], pixels: npt.NDArray[np.uint16], packing: Packing) -> None:
    """Fill `pixels`, whole groups; each group's eight bytes lie within `raw`."""
    words = pixels.view(np.uint64)
    groups = np.ndarray(words.shape, np.uint64, raw, 0, (packing.group_bytes,))
    halves, part = np.empty((2, _BLOCK_WORDS), np.uint64)
    for first in range(0, len(words), _BLOCK_WORDS):
        block = words[first : first + _BLOCK_WORDS]
        size = len(block)
        block[:] = groups[first : first + size]
        _move(block, packing.halves, halves[:size], part[:size])
        _move(halves[:size], packing.lanes, block, part[:size])


def _move(word: Words, steps: Steps, out: Words, part: Words) -> None:
    """`out` = all parts of `word`, each where its step puts it; `part` is for the work between."""
    target = out
    for mask, left in steps:
        np.bitwise_and(word, np.uint64(mask), out=target)
        if left > 0:
            np.left_shift(target, np.uint64(left), out=target)
        elif left < 0:
            np.right_shift(target, np.uint64(-left), out=target)
        if target is part:
            np.bitwise_or(out, part, out=out)
        target = part
