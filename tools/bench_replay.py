"""Replay against the engine's own throughput: reading, gates, features and book must cost no time.

A recording of 1-megapixel pictures with their maps is played; then the engine alone is called with
the same pictures, in the same process. The network is a stack of convolutions with random weights,
about 1.5 thousand million multiplications a picture: a fifth of a WRN-50-2, so that what replay
adds is seen more clearly than with a real one.
"""

import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import tomli_w
from onnx import TensorProto, helper, numpy_helper

from appliance.bundle import Bundle, Golden, InputContract, Manifest, finish_bundle
from appliance.config import Config, load_config
from appliance.head import merged_network
from appliance.recipe import Limits, LoadedRecipe, Recipe, load_recipe, write_recipe
from appliance.replay_command import Options, play_one
from appliance.replay_infer import Engines
from appliance.segments import column_names
from tools.bench_row import NotMeasuredError, Row, figure
from tools.bench_runtimes import RUNTIMES, caller
from tools.recorded_parts import record_parts

_SIDE_PX = 256
_FRAME_PX = 1024
_CHANNELS = 64
_LAYERS = 10
_PICTURES = 8
_FEWEST, _MOST = 8, 400
_ROUNDS = 5
_SEGMENTS = tuple(f"s{number}" for number in range(8))


def replay(seconds: float) -> list[Row]:
    """Parts per second of `inspectd replay` ÷ pictures per second of its engine alone.

    In rounds, the engine alone before and after each: what else the machine does comes and goes.
    """
    root = Path(tempfile.mkdtemp(prefix="insp", dir="/tmp"))
    config, recipe = _installation(root)
    options = Options(config=str(root / "config.toml"))
    each_s = seconds / _ROUNDS
    rounds: list[_Round] = []
    try:
        pictures = [_picture(number) for number in range(_PICTURES)]
        before = _engine_alone(config, recipe, pictures, each_s / 4)
        parts = int(np.clip(each_s / before.wall_s, _FEWEST, _MOST))
        path = record_parts(config, recipe, (pictures[n % _PICTURES] for n in range(parts)), "r")
        engines = Engines(config)
        try:
            engines.setup(recipe)  # proved and warm, as for any recording but the first
            engines.scorer(recipe, "top")
            for _ in range(_ROUNDS):
                begun, cpu = time.perf_counter(), time.process_time()
                report = play_one(path, options, config, engines, is_quiet=True)
                wall_s, cpu_s = time.perf_counter() - begun, time.process_time() - cpu
                if report.equal != parts:
                    raise NotMeasuredError(f"expected {parts} equal parts, got {report.equal}")
                after = _engine_alone(config, recipe, pictures, each_s / 4)
                alone = _Cost((before.wall_s + after.wall_s) / 2, (before.cpu_s + after.cpu_s) / 2)
                rounds.append(_Round(_Cost(wall_s / parts, cpu_s / parts), alone))
                before = after
        finally:
            engines.close()
    finally:
        shutil.rmtree(root, ignore_errors=True)
        shutil.rmtree(config.rings_dir, ignore_errors=True)
    ratios = [one.alone.wall_s / one.replay.wall_s for one in rounds]
    return [
        Row(
            bench="replay",
            what="replay ÷ the engine alone, parts per second, 1 MP",
            value=figure(float(np.median(ratios))),
            unit="ratio",
            must=0.9,
            ambition=1.0,
            is_floor=True,
            spread={
                "rounds": _ROUNDS,
                "parts each": parts,
                "lowest": figure(min(ratios)),
                "highest": figure(max(ratios)),
                "replay 1/s": figure(1 / _median(one.replay.wall_s for one in rounds)),
                "engine alone 1/s": figure(1 / _median(one.alone.wall_s for one in rounds)),
                "CPU ms per part": figure(_median(one.replay.cpu_s for one in rounds) * 1e3),
                "of it the engine's": figure(_median(one.alone.cpu_s for one in rounds) * 1e3),
            },
        )
    ]


def _median(values: Iterable[float]) -> float:
    return float(np.median(list(values)))


class _Cost(NamedTuple):
    """Of one part."""

    wall_s: float
    cpu_s: float


class _Round(NamedTuple):
    """Replay, and the engine alone around it."""

    replay: _Cost
    alone: _Cost


def _engine_alone(
    config: Config, recipe: LoadedRecipe, pictures: list[npt.NDArray[np.uint8]], seconds: float
) -> _Cost:
    """Medians of one call, in a set-up of its own."""
    engines = Engines(config)
    try:
        setup = engines.setup(recipe)
        camera = setup.cameras["top"]
        engine, amap = camera.engine, np.empty(camera.map_shape, np.float32)
        times: list[tuple[float, float]] = []
        end = time.perf_counter() + seconds
        while len(times) < _PICTURES or time.perf_counter() < end:
            picture = pictures[len(times) % _PICTURES]
            begun, cpu = time.perf_counter(), time.process_time()
            engine.infer(picture, amap)
            times.append((time.perf_counter() - begun, time.process_time() - cpu))
        return _Cost(*(float(np.median(column)) for column in zip(*times, strict=True)))
    finally:
        engines.close()


def _installation(root: Path) -> tuple[Config, LoadedRecipe]:
    camera = {"name": "top", "kind": "files", "folder": "x", "record": "all"}
    settings = {"root": ".", "deadline_ms": 200, "camera": [camera], "engine": {"kind": "onnx"}}
    (root / "config.toml").write_text(tomli_w.dumps(settings))
    config = load_config(root / "config.toml")
    bundle = _bundle(config.bundles_dir / "net")
    recipe = Recipe(
        id="bench",
        version=1,
        bundle=bundle.id,
        bundle_dir="net",
        decides="map_max",
        limits=Limits(t1=1e6, t2=2e6),
    )
    write_recipe(config, recipe)
    return config, load_recipe(config, "bench/1")


def _picture(number: int) -> npt.NDArray[np.uint8]:
    noise = np.random.default_rng(number).integers(20, 230, (_FRAME_PX, _FRAME_PX))
    return noise.astype(np.uint8)


def _bundle(folder: Path) -> Bundle:
    draft = folder.with_name("draft")
    (draft / "golden").mkdir(parents=True)
    contract = InputContract(
        height_px=_SIDE_PX,
        width_px=_SIDE_PX,
        source_height_px=_FRAME_PX,
        source_width_px=_FRAME_PX,
        channels=1,
        smallest_defect_px=12,
    )
    network = _network()
    onnx.save(network, str(draft / "network.onnx"))
    labels = np.repeat(np.arange(8, dtype=np.uint8), _SIDE_PX // 8)
    cv2.imwrite(str(draft / "segments.png"), np.tile(labels, (_SIDE_PX, 1)))
    frame = _picture(0)
    merged = merged_network(network, contract, _FRAME_PX, _FRAME_PX, 1)
    golden = caller(merged, RUNTIMES[0], threads=1)(frame[None, :, :, None])
    cv2.imwrite(str(draft / "golden/0.png"), frame)
    np.savez(draft / "golden/0.npz", map=golden["map"][0], score=golden["score"][0])
    manifest = Manifest(
        kind="supersimplenet",
        product="bench",
        created_utc="",
        files={},
        input=contract,
        segments=_SEGMENTS,
        columns=column_names(_SEGMENTS, ("supersimplenet",)),
        golden=(Golden(image="golden/0.png", outputs="golden/0.npz"),),
    )
    return finish_bundle(draft, folder, manifest)


def _network() -> onnx.ModelProto:
    """(N, 3, 256, 256) → map (N, 1, 256, 256) and score (N)."""
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    last, channels = "image", 3
    for layer in range(_LAYERS + 2):
        step = 2 if layer < 2 else 1
        shape = (_CHANNELS, channels, 3, 3)
        scale = np.sqrt(2 / (9 * channels)) / (255.0 if layer == 0 else 1.0)
        values = rng.normal(0, scale, shape).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"w{layer}"))
        pads = [1, 1, 1, 1]
        nodes += [
            helper.make_node(
                "Conv", [last, f"w{layer}"], [f"c{layer}"], strides=[step, step], pads=pads
            ),
            helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]),
        ]
        last, channels = f"r{layer}", _CHANNELS
    weights += [
        numpy_helper.from_array(np.array([1], np.int64), "channel"),
        numpy_helper.from_array(np.array([1, 2, 3], np.int64), "all"),
        numpy_helper.from_array(np.array([1, 1, 4, 4], np.float32), "scales"),
    ]
    nodes += [
        helper.make_node("ReduceMean", [last, "channel"], ["small"], keepdims=1),
        helper.make_node("Resize", ["small", "", "scales"], ["map"], mode="linear"),
        helper.make_node("ReduceMax", ["map", "all"], ["score"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, _SIDE_PX, _SIDE_PX])],
        [
            helper.make_tensor_value_info("map", TensorProto.FLOAT, ["N", 1, _SIDE_PX, _SIDE_PX]),
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N"]),
        ],
        weights,
    )
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10)
