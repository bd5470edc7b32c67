"""Large frames in tiles: no pixel twice or never, the seams where they are said to be."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.bundle import golden_outputs, load_bundle
from appliance.config import Config, Engine
from appliance.config_camera import Camera
from appliance.engine_opening import open_engine
from appliance.errors import ArtefactError, PartError
from appliance.infer_setup import prove
from appliance.recipe import Limits, Recipe, View, load_recipe, write_recipe
from appliance.tiles import Grid, Tiles, grid_of
from tests.networks import picture, write_network_bundle

NET = (16, 24)
TILES = Tiles(height_px=32, width_px=48, overlap_px=10)
SIZE = (101, 203)


def whole_cells(frame: np.ndarray, cell: int) -> np.ndarray:
    """Means of cells; the frame's last row and column go on beyond it."""
    height, width = frame.shape[:2]
    padded = np.pad(frame[..., 0], ((0, -height % cell), (0, -width % cell)), "edge")
    return (
        padded.reshape(padded.shape[0] // cell, cell, padded.shape[1] // cell, cell)
        .mean((1, 3), dtype=np.float64)
        .astype(np.float32)
    )


@settings(max_examples=60, deadline=None)
@given(
    cell=st.integers(1, 3),
    beyond=st.tuples(st.integers(0, 70), st.integers(0, 70)),
    overlap=st.integers(0, 24),
    seed=st.integers(0, 99),
    at_once=st.integers(1, 5),
)
def test_what_tiles_see_is_what_the_whole_frame_shows(
    cell: int, beyond: tuple[int, int], overlap: int, seed: int, at_once: int
) -> None:
    """A network that looks at one cell at a time: the map of the tiles is that of the frame."""
    net = (8, 12)
    tiles = Tiles(height_px=8 * cell, width_px=12 * cell, overlap_px=min(overlap, 4 * cell))
    size = (8 * cell + beyond[0], 12 * cell + beyond[1])
    frame = np.random.default_rng(seed).integers(0, 256, (*size, 1), np.uint8)
    grid = grid_of(tiles, net, size)
    out = np.full((1, *grid.map_size), np.nan, np.float32)

    def answer(parts: Sequence[np.ndarray], maps: Sequence[np.ndarray]) -> list[float]:
        assert len(parts) == len(maps) <= at_once
        for part, amap in zip(parts, maps, strict=True):
            amap[0] = whole_cells(part, cell)
        return [float(amap.max()) for amap in maps]

    score = grid.run(frame, out, answer, at_once)
    expected = whole_cells(frame, cell)
    np.testing.assert_array_equal(out[0], expected)
    assert score == expected.max()


def owners(grid: Grid) -> np.ndarray:
    """Which tile, by its number, each pixel of the map comes from."""
    number = -1

    def answer(parts: Sequence[np.ndarray], maps: Sequence[np.ndarray]) -> list[float]:
        del parts
        nonlocal number
        number += 1
        maps[0][:] = number
        return [0.0]

    out = np.full((1, *grid.map_size), np.nan, np.float32)
    grid.run(np.zeros((*SIZE, 1), np.uint8), out, answer)
    assert number + 1 == len(grid.rows) * len(grid.columns)
    return out[0].astype(int)


def test_the_seam_is_the_middle_of_the_overlap() -> None:
    """Every pixel is of the tile in which it lies deeper; neighbours overlap as much as asked."""
    grid = grid_of(TILES, NET, SIZE)
    assert grid.map_size == (51, 102)
    chosen = owners(grid)
    for strips, net, line in (
        (grid.rows, NET[0], chosen[:, 0] // len(grid.columns)),
        (grid.columns, NET[1], chosen[0] % len(grid.columns)),
    ):
        starts = [strip.start_px // 2 for strip in strips]
        for left, right in pairwise(starts):
            assert left + net - right >= TILES.overlap_px / 2
        for place, index in enumerate(line):
            depths = [min(place - start, start + net - 1 - place) for start in starts]
            # The edge of the frame is no seam.
            depths[0] = net - 1 - place
            depths[-1] = place - starts[-1]
            assert depths[index] >= max(depths) - 1


@pytest.mark.parametrize(
    ("tiles", "size", "named"),
    [
        (Tiles(height_px=33, width_px=48, overlap_px=8), SIZE, "multiple of the network's 16"),
        (Tiles(height_px=8, width_px=48, overlap_px=2), SIZE, "multiple of the network's 16"),
        (Tiles(height_px=32, width_px=48, overlap_px=17), SIZE, "0 to 16, half a tile"),
        (Tiles(height_px=32, width_px=48, overlap_px=-1), SIZE, "0 to 16, half a tile"),
        (TILES, (31, 203), "at least one tile of 32 pixels, got 31"),
    ],
)
def test_what_does_not_fit_is_refused(tiles: Tiles, size: tuple[int, int], named: str) -> None:
    with pytest.raises(ArtefactError, match=named):
        grid_of(tiles, NET, size)


@pytest.fixture
def box(tmp_path: Path) -> Config:
    return Config(
        root=str(tmp_path), deadline_ms=200, camera=(Camera(name="top", kind="files", folder="x"),)
    )


def recipe(config: Config, view: View) -> str:
    bundle = write_network_bundle(config.bundles_dir / "large", size=SIZE, tiles=TILES, net=NET)
    write_recipe(
        config,
        Recipe(
            id="large", version=1, bundle=bundle.id, bundle_dir="large", decides="map_max",
            limits=Limits(t1=1.0, t2=2.0), camera={"top": view},
        ),
    )  # fmt: skip
    return "large/1"


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_a_tiled_bundle_reproduces_its_golden_frames(
    box: Config, kind: Literal["onnx", "openvino"]
) -> None:
    if kind == "openvino":
        pytest.importorskip("openvino")
    config = Config(
        root=box.root, deadline_ms=200, camera=box.camera, engine=Engine(kind=kind, threads=1)
    )
    loaded = load_recipe(config, recipe(config, View()))
    setup = prove(config, loaded, lambda: None)
    try:
        top = setup.cameras["top"]
        assert top.map_shape == (1, 51, 102) and len(setup.goldens) == 1
        engine = top.engine
        frame = picture(0, *SIZE)
        first, again = (np.empty(top.map_shape, np.float32) for _ in range(2))
        scores = engine.infer(frame, first), engine.infer(frame, again)
        assert scores[0] == scores[1] == first.max()
        np.testing.assert_array_equal(first, again)
        stored = golden_outputs(config.bundles_dir / "large/golden/0.npz")
        np.testing.assert_allclose(first, stored["map"], atol=1e-3)
    finally:
        setup.close()


def test_as_many_tiles_as_the_engine_takes_go_through_it_together(
    box: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any number of them, with the same bits."""
    bundle = load_bundle(write_network_bundle(
        box.bundles_dir / "large", size=SIZE, tiles=TILES, net=NET
    ).folder)  # fmt: skip
    frame, outs = picture(0, *SIZE), np.empty((2, 1, 51, 102), np.float32)
    scores: list[float] = []
    for most, out in zip((1, 8), outs, strict=True):
        monkeypatch.setattr("appliance.engine.is_worth_it", lambda count, *_, m=most: count <= m)
        engine = open_engine(box.engine, bundle, *SIZE, 1, box.engines_dir)
        engine.warm_up()
        assert engine.health()["engine_batch"] == most
        scores.append(engine.infer(frame, out))
        assert list(engine.batch_ns) == [1], "whole frames come one at a time"
        engine.close()
    assert scores[0] == scores[1]
    np.testing.assert_array_equal(outs[0], outs[1])


def test_a_golden_frame_that_comes_out_otherwise_is_refused(box: Config) -> None:
    """One pixel of one tile."""
    name = recipe(box, View())
    path = box.bundles_dir / "large" / "golden" / "0.png"
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None
    image[90, 190] ^= 0x40
    cv2.imwrite(str(path), image)
    with pytest.raises(ArtefactError, match=r"golden/0\.png: expected SHA-256"):
        prove(box, load_recipe(box, name), lambda: None)


def test_a_region_of_another_size_is_refused(box: Config) -> None:
    loaded = load_recipe(box, recipe(box, View(roi=(0, 0, 120, 96))))
    with pytest.raises(ArtefactError, match="size of the training images, with a map of"):
        prove(box, loaded, lambda: None)


def test_a_black_tile_is_a_number_that_is_none(box: Config) -> None:
    """The network of the tests answers NaN to it: no part of the map may hide that."""
    bundle = load_bundle(write_network_bundle(
        box.bundles_dir / "large", size=SIZE, tiles=TILES, net=NET
    ).folder)  # fmt: skip
    engine = open_engine(box.engine, bundle, *SIZE, 1, box.engines_dir)
    frame = picture(0, *SIZE)
    frame[40:, 150:] = 0
    with pytest.raises(PartError, match="not finite"):
        engine.infer(frame, np.empty((1, 51, 102), np.float32))
    assert engine.failures == 1
    engine.close()
