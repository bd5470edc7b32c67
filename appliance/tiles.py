"""Large frames cut into tiles for the network, and its maps put together again. Pure geometry.

A frame of 12 megapixels that is brought to the network's size loses a small defect. With tiles each
part of the frame meets the network at (nearly) its own resolution.

The rule of the seams: where tiles overlap, the map is cut in the middle of the overlap. Every pixel
of the map comes from exactly one tile, the one in which it lies deeper, so that the edge of a tile,
where the network sees less around it, answers for nothing but the edge of the frame. A defect of at
most half the overlap lies whole in the tile that answers for its middle. The score of the frame is
the largest of its tiles'.

Tiles go through the network in one order, as many at once as its engine takes: on a GPU some, on a
processor mostly one, since 2, 4 or 8 at a time cost as much each (efficientnet_lite0 in ONNX
Runtime, one thread: within 3 %).
"""

from collections.abc import Callable, Sequence
from itertools import pairwise, product
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from appliance.errors import ArtefactError
from appliance.toml_file import Section

Frame = npt.NDArray[np.uint8]
Map = npt.NDArray[np.float32]
Answer = Callable[[Sequence[Frame], Sequence[Map]], Sequence[float]]
"""Tiles (h, w, C) uint8 and room for their maps (K, h', w') → their scores."""


class Tiles(Section, frozen=True, kw_only=True):
    """How a frame is cut, in pixels of the frame."""

    height_px: int
    width_px: int
    """Of a tile: a whole multiple of the network's input."""
    overlap_px: int
    """Of two neighbours, at least."""


class Strip(NamedTuple):
    """One row or column of tiles along one axis."""

    start_px: int
    """Of the tile in the frame, whose last pixels are repeated where the tile reaches beyond."""
    begin: int
    end: int
    """Of its share of the whole map."""
    skip: int
    """Where in the tile's own map that share begins."""


class Grid(NamedTuple):
    """All tiles of frames of one size."""

    rows: tuple[Strip, ...]
    columns: tuple[Strip, ...]
    tile: tuple[int, int]
    """(H, W) in pixels of the frame."""
    network: tuple[int, int]
    """(H, W) of its map."""

    @property
    def map_size(self) -> tuple[int, int]:
        """(H, W) of the whole map."""
        return self.rows[-1].end, self.columns[-1].end

    @property
    def size(self) -> int:
        """Tiles of a frame."""
        return len(self.rows) * len(self.columns)

    def run(self, frame: Frame, out: Map, answer: Answer, at_once: int = 1) -> float:
        """The whole map of a frame (H, W, C) into `out` (K, H', W'); the largest score.

        at_once: so many tiles are given to `answer` together, at the end maybe fewer.
        """
        tiles = list(np.empty((at_once, *self.tile, frame.shape[2]), np.uint8))
        maps = list(np.empty((at_once, out.shape[0], *self.network), np.float32))
        places = list(product(self.rows, self.columns))
        scores: list[float] = []
        for start in range(0, len(places), at_once):
            part = places[start : start + at_once]
            for tile, (row, column) in zip(tiles, part, strict=False):
                cut(frame, row.start_px, column.start_px, tile)
            scores += answer(tiles[: len(part)], maps[: len(part)])
            for amap, (row, column) in zip(maps, part, strict=False):
                share = amap[:, row.skip :, column.skip :]
                height, width = row.end - row.begin, column.end - column.begin
                out[:, row.begin : row.end, column.begin : column.end] = share[:, :height, :width]
        return max(scores)


def grid_of(tiles: Tiles, network: tuple[int, int], size: tuple[int, int]) -> Grid:
    """The tiles of frames of `size` (H, W) for a network input of (H, W).

    As few as the overlap allows, spread evenly on whole pixels of the map. Raises ArtefactError
    where tile, overlap, network and frame do not fit.
    """
    sides = (tiles.height_px, tiles.width_px)
    strips = [
        _strips(whole, side, tiles.overlap_px, net)
        for whole, side, net in zip(size, sides, network, strict=True)
    ]
    return Grid(strips[0], strips[1], sides, network)


def _strips(size: int, tile: int, overlap: int, net: int) -> tuple[Strip, ...]:
    if net < 1 or tile < net or tile % net:
        raise ArtefactError("tiles", f"a whole multiple of the network's {net} pixels", f"{tile}")
    if not 0 <= overlap <= tile // 2:
        raise ArtefactError("tiles.overlap_px", f"0 to {tile // 2}, half a tile", f"{overlap}")
    if size < tile:
        raise ArtefactError("frame", f"at least one tile of {tile} pixels", f"{size}")
    cell = tile // net
    whole, common = -(-size // cell), -(-overlap // cell)
    count = 1 + -(-(whole - net) // (net - common))
    starts = [index * (whole - net) // max(1, count - 1) for index in range(count)]
    seams = [(right + left + net) // 2 for left, right in pairwise(starts)]
    edges = [0, *seams, whole]
    return tuple(
        Strip(start * cell, edges[index], edges[index + 1], edges[index] - start)
        for index, start in enumerate(starts)
    )


def cut(frame: Frame, top: int, left: int, out: Frame) -> None:
    """One tile (h, w, C) into `out`; the frame's last row and column are repeated beyond it."""
    height, width = out.shape[:2]
    part = frame[top : top + height, left : left + width]
    below, right = height - part.shape[0], width - part.shape[1]
    if below or right:
        edge = cv2.copyMakeBorder(part, 0, below, 0, right, cv2.BORDER_REPLICATE)
        part = np.asarray(edge, np.uint8).reshape(out.shape)
    out[:] = part
