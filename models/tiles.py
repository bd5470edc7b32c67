"""A data set of large images as the network sees it: tile by tile, cut as the line cuts frames.

Only the network's training reads tiles. Forest, limits and evaluation see whole images through the
deployed path, whose maps are put together from the same tiles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from appliance.bundle import InputContract
from appliance.errors import ConfigError
from appliance.tiles import Grid, cut
from models.dataset import Dataset, Sample
from models.pictures import Shape, like, read_image


@dataclass(frozen=True)
class TileSample(Sample):
    """One tile of an image file."""

    top: int = 0
    left: int = 0


@dataclass(frozen=True)
class TiledDataset(Dataset):
    """`source` is a tile; `whole` the shape of the files."""

    whole: Shape = (0, 0, 0)

    def pixels(self, samples: Sequence[Sample]) -> npt.NDArray[np.uint8]:
        """(N, h, w, C) uint8."""
        tiles = np.empty((len(samples), *self.source), np.uint8)
        for tile, sample in zip(tiles, samples, strict=True):
            cut(_whole(sample.path, self.whole), *_place(sample), tile)
        return tiles

    def mask(self, sample: Sample) -> npt.NDArray[np.uint8] | None:
        """(h, w) uint8 of 0 and 1."""
        whole = replace(_plain(self), source=self.whole).mask(sample)
        if whole is None:
            return None
        tile = np.empty((*self.source[:2], 1), np.uint8)
        cut(whole[..., None], *_place(sample), tile)
        return tile[..., 0]


def tiled(data: Dataset, contract: InputContract) -> tuple[Dataset, InputContract]:
    """What the network learns from, and how a tile becomes its input.

    All tiles of good images, and the tiles of bad ones that show a defect. Raises ConfigError where
    a bad image has no mask: nobody knows which of its tiles are bad.
    """
    grid = contract.grid(contract.source_height_px, contract.source_width_px)
    if grid is None:
        return data, contract
    if data.stretch:
        raise ConfigError("--stretch", "images of one size, where they are cut", "--stretch")
    of_tiles = TiledDataset(
        **{field.name: getattr(data, field.name) for field in fields(data)}, whole=data.source
    )
    of_tiles = replace(of_tiles, source=(*grid.tile, data.source[2]))
    good = tuple(tile for sample in data.network_good for tile in _tiles_of(sample, grid))
    bad: list[Sample] = []
    for sample in data.network_bad:
        if sample.mask is None:
            expected = "a mask for every bad image that teaches the network, where they are cut"
            raise ConfigError(sample.path, expected, "none (--regime unsupervised needs none)")
        for tile in _tiles_of(sample, grid):
            mask = of_tiles.mask(tile)
            if mask is not None and mask.any():
                bad.append(tile)
    learnt = replace(of_tiles, network_good=good, network_bad=tuple(bad))
    height, width = grid.tile
    return learnt, msgspec.structs.replace(
        contract, source_height_px=height, source_width_px=width, tiles=None
    )


def _tiles_of(sample: Sample, grid: Grid) -> Iterator[TileSample]:
    facts = {field.name: getattr(sample, field.name) for field in fields(Sample)}
    for row in grid.rows:
        for column in grid.columns:
            top, left = row.start_px, column.start_px
            facts["sha256"] = f"{sample.sha256}:{top}:{left}"
            yield TileSample(**facts, top=top, left=left)


def _place(sample: Sample) -> tuple[int, int]:
    return (sample.top, sample.left) if isinstance(sample, TileSample) else (0, 0)


def _plain(data: Dataset) -> Dataset:
    return Dataset(**{field.name: getattr(data, field.name) for field in fields(Dataset)})


@lru_cache(maxsize=2)
def _whole(path: Path, shape: Shape) -> npt.NDArray[np.uint8]:
    """The file of the last tile is mostly that of the next one, too."""
    return like(read_image(path), shape, path)
