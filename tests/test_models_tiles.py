"""Training on tiles: the network learns from crops, all else from whole images."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from appliance.bundle import load_bundle
from appliance.errors import ArtefactError, ConfigError
from appliance.tiles import Tiles
from models import evaluate, train
from models.dataset import Dataset, open_dataset
from models.tiles import tiled

TILES = Tiles(height_px=64, width_px=64, overlap_px=16)
SIZE = (96, 120)
DOT = (slice(50, 56), slice(70, 76))


def write(folder: Path, count: int, seed: int, is_bad: bool = False) -> None:
    """Rough plates; a bad one has a dot, and a mask that shows it."""
    rng = np.random.default_rng(seed)
    masks = folder.parent.parent / "ground_truth" / folder.name
    for path in (folder, *([masks] if is_bad else [])):
        path.mkdir(parents=True)
    for index in range(count):
        image, mask = rng.normal(100, 8, SIZE), np.zeros(SIZE, np.uint8)
        if is_bad:
            image[DOT] += 110
            mask[DOT] = 255
            cv2.imwrite(str(masks / f"{index}_mask.png"), mask)
        cv2.imwrite(str(folder / f"{index}.png"), image.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("data") / "large"
    write(folder / "train" / "good", 8, 0)
    write(folder / "test" / "good", 2, 1)
    write(folder / "test" / "dot", 8, 2, is_bad=True)
    return open_dataset(folder, learn_bad=True)


def test_the_network_learns_from_the_tiles_of_the_line(data: Dataset) -> None:
    contract = train.contract_of(data, (32, 32), "area", TILES)
    tiles, one = tiled(data, contract)
    assert (one.source_height_px, one.source_width_px, one.tiles) == (64, 64, None)
    assert contract.smallest_defect_px == 6
    grid = contract.grid(*SIZE)
    assert grid is not None
    assert len(tiles.network_good) == len(data.network_good) * len(grid.rows) * len(grid.columns)
    first = data.pixels([data.network_good[0]])[0]
    for sample, (row, column) in zip(
        tiles.network_good, ((r, c) for r in grid.rows for c in grid.columns), strict=False
    ):
        (tile,) = tiles.pixels([sample])
        crop = first[row.start_px : row.start_px + 64, column.start_px : column.start_px + 64]
        np.testing.assert_array_equal(tile, crop)
    # Only tiles that show the dot are bad, with the mask of just that part.
    assert len(data.network_bad) <= len(tiles.network_bad) <= 4 * len(data.network_bad)
    for sample in tiles.network_bad:
        mask = tiles.mask(sample)
        assert mask is not None and mask.shape == (64, 64) and 0 < mask.sum() <= 36
        assert tiles.pixels([sample])[0][mask > 0].mean() > 180


def test_a_bad_image_without_a_mask_teaches_nothing(data: Dataset, tmp_path: Path) -> None:
    write(tmp_path / "good", 8, 5)
    write(tmp_path / "bad", 4, 6, is_bad=True)
    plain = open_dataset(tmp_path, learn_bad=True)
    with pytest.raises(ConfigError, match="expected a mask for every bad image"):
        tiled(plain, train.contract_of(plain, (32, 32), "area", TILES))


def test_tiles_that_do_not_fit_are_refused_before_the_training(data: Dataset) -> None:
    with pytest.raises(ArtefactError, match="multiple of the network's 48"):
        train.contract_of(data, (48, 48), "area", TILES)


def test_a_bundle_of_tiles_is_whole(data: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "large-1"
    train.train_bundle(data, out, size=(32, 32), epochs=2, tiles=TILES)
    bundle = load_bundle(out)
    assert bundle.manifest.input.tiles == TILES
    assert bundle.segment_map().shape == bundle.manifest.input.map_size == (48, 60)
    answers, maps = evaluate.score_here(bundle, data, lambda count: None)
    assert len(maps) == len(data.held_out) and maps[0].shape == (48, 60)
    for sample, amap, largest in zip(data.held_out, maps, answers.map_max, strict=True):
        assert amap.max() == largest
        if sample.label:
            rows, columns = np.unravel_index(int(amap.argmax()), amap.shape)
            assert abs(rows - 26) < 8 and abs(columns - 36) < 8
