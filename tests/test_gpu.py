"""On an NVIDIA device with TensorRT: run `pytest -m gpu` there. Skipped everywhere else."""

import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from appliance import config
from appliance.bundle import Bundle
from appliance.engine import Engine
from appliance.engine_command import build_plan, tensorrt_tools
from appliance.engine_opening import open_engine, passports_of, spec_for
from appliance.errors import ArtefactError
from tests.networks import trained_like_bundle

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(find_spec("tensorrt") is None, reason="TensorRT is not installed"),
]

SETTINGS = {
    precision: config.Engine(kind="tensorrt", precision=precision) for precision in ("fp32", "fp16")
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return trained_like_bundle(tmp_path_factory.mktemp("gpu") / "b")


@pytest.fixture(scope="module", params=list(SETTINGS))
def engine(
    request: pytest.FixtureRequest, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
):
    """Built, proved with the golden frames of the CPU, and opened as the line opens it."""
    settings = SETTINGS[request.param]
    try:
        passport = passports_of(settings, bundle)[0]
    except ArtefactError as err:
        pytest.skip(str(err))
    cache = tmp_path_factory.mktemp("engines")
    contract = bundle.manifest.input
    size = contract.source_height_px, contract.source_width_px
    tools = tensorrt_tools(cache, lambda line: None)
    measured = build_plan(bundle, spec_for(bundle, *size, 1), passport, 1, cache, tools)
    assert measured["golden_deviation"] <= bundle.manifest.tolerances[request.param]
    opened = open_engine(settings, bundle, *size, 1, cache)
    yield opened
    opened.close()


def frames(engine: Engine, count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *engine.spec.frame_shape), np.uint8)


def test_parity_with_onnx_runtime(engine: Engine, bundle: Bundle, tmp_path: Path) -> None:
    height, width, channels = engine.spec.frame_shape
    truth = open_engine(config.Engine(), bundle, height, width, channels, tmp_path)
    ours, theirs = (np.empty(engine.spec.map_shape, np.float32) for _ in range(2))
    for frame in frames(engine, 8):
        scores = engine.infer(frame, ours), truth.infer(frame, theirs)
        limit = bundle.manifest.tolerances[engine.precision]
        assert np.abs(ours - theirs).max() <= limit
        assert abs(scores[0] - scores[1]) <= limit
    truth.close()


def test_the_cuda_graph_gives_the_same_bits_again_and_again(engine: Engine) -> None:
    engine.warm_up()
    assert engine.health()["engine_cuda_graph"] == 1
    first, again = (np.empty(engine.spec.map_shape, np.float32) for _ in range(2))
    for frame in frames(engine, 4):
        score = engine.infer(frame, first)
        for _ in range(25):
            assert engine.infer(frame, again) == score
            np.testing.assert_array_equal(first, again)


def test_several_frames_in_one_call(bundle: Bundle, tmp_path: Path, record_property) -> None:
    """The same as by itself, to the bit where the warm-up takes it; what it gains is a figure."""
    settings = SETTINGS["fp16"]
    try:
        passport = passports_of(settings, bundle)[0]
    except ArtefactError as err:
        pytest.skip(str(err))
    contract = bundle.manifest.input
    size = contract.source_height_px, contract.source_width_px
    tools = tensorrt_tools(tmp_path, lambda line: None)
    build_plan(bundle, spec_for(bundle, *size, 1), passport, 8, tmp_path, tools)
    engine = open_engine(settings, bundle, *size, 1, tmp_path)
    engine.warm_up(together=8)
    record_property("batch_ns", engine.batch_ns)
    record_property("traits", engine.traits())
    pixels = list(frames(engine, 8))
    alone, together = np.empty((2, 8, *engine.spec.map_shape), np.float32)
    scores = [engine.infer(frame, out) for frame, out in zip(pixels, alone, strict=True)]
    assert engine.infer_many(pixels, list(together)) == scores
    np.testing.assert_array_equal(alone, together)
    engine.close()


def test_latency_is_reported(engine: Engine, record_property) -> None:
    """No budget here: a figure for docs/gpu.md."""
    engine.warm_up()
    out = np.empty(engine.spec.map_shape, np.float32)
    frame = frames(engine, 1)[0]
    times: list[float] = []
    for _ in range(300):
        begun = time.perf_counter()
        engine.infer(frame, out)
        times.append((time.perf_counter() - begun) * 1e6)
    record_property("engine_us", {q: float(np.percentile(times, q)) for q in (50, 99)})
    assert np.isfinite(times).all()
