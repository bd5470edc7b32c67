"""`inspectd quantise` on a whole bundle: what it reads when, what it writes, what it refuses."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import onnx
import pytest
from onnx import helper

from appliance.bundle import Bundle, Suggested, hash_file, load_bundle
from appliance.errors import ArtefactError, ConfigError
from appliance.tiles import Tiles
from models import evaluate
from models.dataset import Dataset, Sample
from models.quantise_command import quantise_bundle
from tests.networks import NET, as_network, write_network_bundle

SIZE = (64, 96)


def network() -> onnx.ModelProto:
    """Four convolutions, one of them depthwise, and a residual sum: the darker the higher."""
    rng = np.random.default_rng(0)
    arrays = {
        "w0": rng.uniform(0.002, 0.01, (8, 3, 1, 1)),
        "b0": rng.uniform(0, 0.2, 8),
        "w1": rng.uniform(0.05, 0.15, (8, 1, 3, 3)),
        "b1": rng.uniform(-0.1, 0.1, 8),
        "w2": rng.uniform(-0.2, 0.4, (8, 8, 1, 1)),
        "w3": rng.uniform(-0.5, -0.1, (2, 8, 1, 1)),
        "nought": np.array(0),
        "six": np.array(6),
    }
    constants = [
        onnx.numpy_helper.from_array(np.asarray(array, np.float32), name)
        for name, array in arrays.items()
    ]
    constants += [
        onnx.numpy_helper.from_array(np.array(axes, np.int64), name)
        for name, axes in (("channel", [1]), ("all", [1, 2, 3]))
    ]
    nodes = [
        helper.make_node("Conv", ["image", "w0", "b0"], ["a"], "one"),
        helper.make_node("Clip", ["a", "nought", "six"], ["b"]),
        helper.make_node("Conv", ["b", "w1", "b1"], ["c"], "two", group=8, pads=[1] * 4),
        helper.make_node("Clip", ["c", "nought", "six"], ["d"]),
        helper.make_node("Conv", ["d", "w2"], ["e"], "three"),
        helper.make_node("Add", ["e", "b"], ["f"]),
        helper.make_node("Conv", ["f", "w3"], ["g"], "four"),
        helper.make_node("ReduceMean", ["g", "channel"], ["map"], keepdims=1),
        helper.make_node("ReduceMax", ["map", "all"], ["score"], keepdims=0),
    ]
    return as_network(nodes, constants, NET)


def write_image(path: Path, seed: int, *, is_bad: bool) -> Sample:
    """Grey plates, some brighter than others; bad ones have a dark spot."""
    rng = np.random.default_rng(seed)
    image = rng.normal(rng.uniform(70, 130), 4, SIZE)
    if is_bad:
        row, column = rng.integers(8, 40, 2)
        image[row : row + 16, column : column + 16] = 10
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image.clip(0, 255).astype(np.uint8))
    return Sample(path, int(is_bad), "spot" if is_bad else "good", hash_file(path))


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    def some(name: str, good: int, bad: int, start: int) -> tuple[Sample, ...]:
        return tuple(
            write_image(tmp_path / name / f"{index}.png", start + index, is_bad=index >= good)
            for index in range(good + bad)
        )

    limits = some("limits", 24, 8, 100)
    return Dataset(
        name="plates",
        network_good=some("network", 16, 0, 0),
        limits_good=limits[:24],
        limits_bad=limits[24:],
        held_out=some("held_out", 20, 8, 200),
        source=(*SIZE, 1),
    )


def bundle_of(data: Dataset, folder: Path, decides: str, tiles: Tiles | None = None) -> Bundle:
    """With limits in the middle between good and bad of the images for the limits."""
    plain = write_network_bundle(folder / "plain", network=network(), tiles=tiles)
    seen = (*data.limits_good, *data.limits_bad)
    answers = evaluate.scorer_of(plain).score(data.pixels([sample])[0] for sample in seen)
    margins = evaluate.margins_of(plain, answers)[decides]
    labels = np.array([sample.label for sample in seen])
    limit = float(margins[labels == 0].max() + margins[labels == 1].min()) / 2
    suggested: dict[str, Any] = {"suggested": Suggested(decides=decides, t1=limit, t2=limit)}  # type: ignore[arg-type]
    return write_network_bundle(folder / "b", network=network(), tiles=tiles, change=suggested)


CUT = Tiles(height_px=32, width_px=48, overlap_px=8)


@pytest.mark.parametrize(
    ("decides", "tiles"), [("map_max", None), ("classification", None), ("map_max", CUT)]
)
def test_the_proof_is_made_on_images_that_nothing_was_chosen_by(
    decides: str, tiles: Tiles | None, data: Dataset, tmp_path: Path
) -> None:
    """Held-out images are not even on the disk before the report begins."""
    bundle = bundle_of(data, tmp_path, decides, tiles)
    held_out = {sample.path: sample.path.read_bytes() for sample in data.held_out}
    for path in held_out:
        path.unlink()
    told: list[float] = []

    def report(stage: str, done: float) -> None:
        told.append(done)
        if stage == "report":
            for path, content in held_out.items():
                path.write_bytes(content)

    accuracy = quantise_bundle(bundle, data, tmp_path / "small", report)
    assert told == sorted(told)
    assert accuracy.images == 28
    assert accuracy.decides == decides
    assert accuracy.layers == 4
    assert len(accuracy.left_out) < 4
    assert accuracy.objections() == []
    small = load_bundle(tmp_path / "small")
    stored = json.loads(small.path("int8.json").read_bytes())
    assert stored == json.loads(msgspec.json.encode(accuracy))
    made = onnx.load(small.path("network.int8.onnx"))
    kinds = [node.op_type for node in made.graph.node]
    assert kinds.count("DequantizeLinear") == 2 * (4 - len(accuracy.left_out))
    # All else is as it was, and the tolerance is what the golden frames showed.
    assert small.manifest.provenance["int8_from_bundle"] == bundle.id
    assert small.manifest.tolerances["int8"] == max(1e-3, 2 * accuracy.golden_deviation)
    for name, digest in bundle.manifest.files.items():
        assert small.manifest.files[name] == digest


def test_a_bundle_that_learnt_from_the_proof_is_refused(data: Dataset, tmp_path: Path) -> None:
    """As with the seed of another training."""
    bundle = bundle_of(data, tmp_path, "map_max")
    sets = {"network_good": [data.held_out[3].sha256], "held_out": []}
    (bundle.folder / "split.json").write_bytes(msgspec.json.encode(sets))
    with pytest.raises(ConfigError, match=r"3\.png: expected held-out images .* got 1 that it has"):
        quantise_bundle(bundle, data, tmp_path / "small")
    assert not (tmp_path / "small").exists()


def test_images_of_another_product_are_refused(data: Dataset, tmp_path: Path) -> None:
    bundle = bundle_of(data, tmp_path, "map_max")
    other = replace(data, source=(32, 48, 3))
    with pytest.raises(ConfigError, match=r"images of \(64, 96, 1\) as .* got \(32, 48, 3\)"):
        quantise_bundle(bundle, other, tmp_path / "small")


def test_what_breaks_a_limit_is_not_written(data: Dataset, tmp_path: Path) -> None:
    """Good images that are all the same have no spread to measure a change by."""
    bundle = bundle_of(data, tmp_path, "map_max")
    alike = replace(data, held_out=(*data.held_out[:1] * 3, *data.held_out[20:]))
    with pytest.raises(ArtefactError, match=r"int8 within its limits, got p99 .* got inf"):
        quantise_bundle(bundle, alike, tmp_path / "small")
    assert not (tmp_path / "small").exists()
    assert not list(tmp_path.glob(".small*"))
