"""What every engine does, on small graphs that are built here."""

import resource
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from appliance import config
from appliance.bundle import Bundle
from appliance.codes import Reason
from appliance.engine import Engine, Spec, open_engine, passport_of
from appliance.engine_null import NullEngine, write_null_bundle
from appliance.engine_onnx import OnnxCudaEngine, OnnxEngine
from appliance.engine_tensorrt import TensorRtEngine
from appliance.errors import ArtefactError, DeviceError, PartError
from appliance.passport import Passport
from tests.fake_tensorrt import FakeGpu, FakeSdk
from tests.networks import NET, as_network, write_network_bundle

HAS_OPENVINO = find_spec("openvino") is not None
needs_openvino = pytest.mark.skipif(not HAS_OPENVINO, reason="OpenVINO is not installed")

HEIGHT, WIDTH, CHANNELS = 32, 48, 3
SPEC = Spec(height_px=HEIGHT, width_px=WIDTH, channels=CHANNELS, map_shape=(1, HEIGHT, WIDTH))


def graph(poison=0.0, is_always=False, outputs=("map", "score"), height=HEIGHT) -> bytes:
    """map = mean over the channels, score = mean over everything.

    poison: added to the map where a frame's first pixel is 255, or always.
    """
    nodes = [
        helper.make_node("Cast", ["frame"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("ReduceMean", ["planes", "channel"], ["grey"], keepdims=1),
        helper.make_node("ReduceMean", ["planes", "all"], [outputs[1]], keepdims=0),
        helper.make_node("Slice", ["grey", "zero", "one", "rows"], ["corner"]),
        helper.make_node("Equal", ["corner", "white"], ["is_white"]),
        helper.make_node("Where", ["is_white", "poison", "nought"], ["added"]),
        helper.make_node("Add", ["grey", "poison" if is_always else "added"], [outputs[0]]),
    ]
    constants = [
        helper.make_tensor("channel", TensorProto.INT64, [1], [1]),
        helper.make_tensor("all", TensorProto.INT64, [3], [1, 2, 3]),
        helper.make_tensor("zero", TensorProto.INT64, [2], [0, 0]),
        helper.make_tensor("one", TensorProto.INT64, [2], [1, 1]),
        helper.make_tensor("rows", TensorProto.INT64, [2], [2, 3]),
        helper.make_tensor("white", TensorProto.FLOAT, [], [255.0]),
        helper.make_tensor("poison", TensorProto.FLOAT, [], [poison]),
        helper.make_tensor("nought", TensorProto.FLOAT, [], [0.0]),
    ]
    size = [height, WIDTH]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "mean",
            [helper.make_tensor_value_info("frame", TensorProto.UINT8, ["N", *size, CHANNELS])],
            [
                helper.make_tensor_value_info(outputs[0], TensorProto.FLOAT, ["N", 1, *size]),
                helper.make_tensor_value_info(outputs[1], TensorProto.FLOAT, ["N"]),
            ],
            constants,
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    onnx.checker.check_model(model)
    return model.SerializeToString()


def openvino(precision="fp32", model: bytes | None = None, **how) -> Engine:
    from appliance.engine_openvino import OpenVinoEngine

    return OpenVinoEngine(SPEC, graph(**how) if model is None else model, precision, 1)


def tensorrt(**how) -> TensorRtEngine:
    """The real engine on a TensorRT that is none: everything but the SDK's own twenty calls."""
    gpu = FakeGpu()
    return TensorRtEngine(SPEC, graph(**how), "fp32", FakeSdk(gpu), gpu)


HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
"""onnxruntime-gpu is installed: its engine joins the suite."""

KINDS = {
    "onnx": lambda **kw: OnnxEngine(SPEC, graph(**kw), "fp32", 1),
    "tensorrt": tensorrt,
    "null": lambda **_: NullEngine(SPEC),
}
if HAS_OPENVINO:
    KINDS["openvino"] = openvino
if HAS_CUDA:
    KINDS["onnx-cuda"] = lambda **kw: OnnxCudaEngine(SPEC, graph(**kw), "fp32", 1)
NETWORKS: tuple[Literal["onnx", "openvino"], ...] = (
    ("onnx", "openvino") if HAS_OPENVINO else ("onnx",)
)


@pytest.fixture(params=list(KINDS))
def engine(request):
    opened = KINDS[request.param]()
    yield opened
    opened.close()


@pytest.fixture(params=[kind for kind in KINDS if kind != "null"])
def network(request):
    return KINDS[request.param]


def frame(seed=0):
    return np.random.default_rng(seed).integers(0, 255, SPEC.frame_shape, np.uint8)


def room():
    return np.empty(SPEC.map_shape, np.float32)


def expected_map(engine: Engine, pixels):
    if engine.kind == "null":
        return np.full(SPEC.map_shape, pixels.mean(), np.float32)
    return pixels.astype(np.float32).mean(axis=2)[None]


def test_answers_into_the_room_that_it_was_given(engine):
    for seed in range(3):
        out = room()
        score = engine.infer(frame(seed), out)
        assert isinstance(score, float)
        assert score == pytest.approx(frame(seed).mean(), rel=1e-5)
        np.testing.assert_allclose(out, expected_map(engine, frame(seed)), rtol=1e-5)


def test_the_same_frame_gives_the_same_bits(engine):
    first, second = room(), room()
    scores = engine.infer(frame(), first), engine.infer(frame(), second)
    assert scores[0] == scores[1]
    np.testing.assert_array_equal(first, second)


def test_takes_read_only_pixels_and_cuts_of_larger_frames(engine):
    pixels = frame()
    pixels.flags.writeable = False
    wide = np.zeros((HEIGHT + 5, WIDTH + 7, CHANNELS), np.uint8)
    wide[2 : 2 + HEIGHT, 3 : 3 + WIDTH] = pixels
    whole, cut = room(), room()
    score = engine.infer(pixels, whole)
    assert engine.infer(wide[2 : 2 + HEIGHT, 3 : 3 + WIDTH], cut) == score
    np.testing.assert_array_equal(whole, cut)
    np.testing.assert_array_equal(wide[2 : 2 + HEIGHT, 3 : 3 + WIDTH], pixels)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((HEIGHT, WIDTH + 1, CHANNELS), np.uint8),
        np.zeros((WIDTH, HEIGHT, CHANNELS), np.uint8),
        np.zeros((HEIGHT, WIDTH), np.uint8),
        np.zeros((HEIGHT, WIDTH, 1), np.uint8),
        np.zeros((1, HEIGHT, WIDTH, CHANNELS), np.uint8),
        np.zeros((HEIGHT, WIDTH, CHANNELS), np.uint16),
        np.zeros((HEIGHT, WIDTH, CHANNELS), np.float32),
    ],
    ids=lambda pixels: f"{pixels.dtype}{pixels.shape}",
)
def test_another_frame_is_an_error_that_says_what_came(engine, pixels):
    with pytest.raises(PartError, match=r"expected a uint8 frame \(32, 48, 3\), got") as caught:
        engine.infer(pixels, room())
    assert caught.value.reason is Reason.INFERENCE_ERROR
    assert engine.infer(frame(), room()) == pytest.approx(frame().mean(), rel=1e-5)


@pytest.mark.parametrize("shape", [(1, HEIGHT, WIDTH + 1), (HEIGHT, WIDTH), (2, HEIGHT, WIDTH)])
def test_room_of_another_shape_is_a_bug(engine, shape):
    with pytest.raises(ValueError, match="expected room for"):
        engine.infer(frame(), np.empty(shape, np.float32))


def test_grey_frames_need_no_third_axis():
    spec = Spec(height_px=4, width_px=6, channels=1, map_shape=(1, 64, 64))
    engine = NullEngine(spec)
    out = np.empty(spec.map_shape, np.float32)
    assert engine.infer(np.full((4, 6), 9, np.uint8), out) == 9
    assert engine.infer(np.full((4, 6, 1), 9, np.uint8), out) == 9


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_no_number_is_an_error_and_the_next_frame_is_well(network, poison):
    engine = network(poison=poison)
    white = frame()
    white[0, 0] = 255
    with pytest.raises(PartError, match="not finite") as caught:
        engine.infer(white, room())
    assert caught.value.reason is Reason.INVALID_NUMBER
    assert np.isfinite(engine.infer(frame(), room()))
    assert (engine.calls, engine.failures) == (2, 1)


def test_warm_up_gives_a_time(engine):
    assert 0 < engine.warm_up() < 60e9
    assert engine.calls >= 5


def test_warm_up_finds_a_network_that_gives_no_numbers(network):
    with pytest.raises(PartError, match="not finite"):
        network(poison=np.nan, is_always=True).warm_up()


def test_closing_twice_is_fine_and_use_after_it_is_an_error(engine):
    engine.infer(frame(), room())
    engine.close()
    engine.close()
    with pytest.raises(DeviceError, match="closed"):
        engine.infer(frame(), room())


def test_after_a_failure_the_next_frame_is_answered_as_ever(network):
    """Re-entry: an error in one call leaves nothing behind for the next."""
    engine = network(poison=np.nan)
    engine.warm_up()
    white, out, again = frame(), room(), room()
    score = engine.infer(frame(), out)
    white[0, 0] = 255
    for _ in range(3):
        with pytest.raises(PartError):
            engine.infer(white, room())
    assert engine.infer(frame(), again) == score
    np.testing.assert_array_equal(out, again)


def test_health_counts(engine):
    engine.infer(frame(), room())
    figures = engine.health()
    assert (figures["engine_calls"], figures["engine_failures"]) == (1, 0)
    assert figures["engine_ms"] > 0


def test_only_the_null_engine_is_simulated(engine):
    assert engine.is_simulated == (engine.kind == "null")


def test_a_thousand_frames_leave_the_memory_as_it_is(engine):
    pixels, out = frame(), room()
    for _ in range(300):
        engine.infer(pixels, out)
    before = resident_kib()
    for _ in range(1000):
        engine.infer(pixels, out)
    # One leaked frame or map per call would be 4500 or 6000 KiB.
    assert resident_kib() - before < 2000


def resident_kib():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 1024


# ---- what cannot be loaded -----------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [b"", b"no network", graph()[:200], graph(outputs=("heat", "score")), graph(height=HEIGHT + 1)],
    ids=["empty", "text", "cut", "other names", "other size"],
)
@pytest.mark.parametrize(
    "opened",
    [
        lambda model: OnnxEngine(SPEC, model, "fp32", 1),
        pytest.param(lambda model: openvino(model=model), marks=needs_openvino),
    ],
    ids=["onnx", "openvino"],
)
def test_a_network_that_cannot_be_used_is_refused_in_one_line(opened, model):
    with pytest.raises(ArtefactError, match="network: expected") as caught:
        opened(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("engine_class", "precision"), [(OnnxEngine, "bf16"), (OnnxEngine, "fp16")]
)
def test_a_precision_that_the_engine_has_not_is_refused(engine_class, precision):
    with pytest.raises(ArtefactError, match=f"engine.precision: expected .* got {precision}"):
        engine_class(SPEC, graph(), precision, 1)


@needs_openvino
def test_a_precision_is_run_or_refused_by_openvino():
    """Whether the processor has bfloat16 or not: never another precision than the one asked for."""
    try:
        engine = openvino("bf16")
    except ArtefactError as err:
        assert "a processor that runs bf16" in str(err)
        return
    assert engine.infer(frame(), room()) == pytest.approx(frame().mean(), rel=0.01)


@pytest.mark.skipif(HAS_CUDA, reason="onnxruntime-gpu is installed")
def test_without_cuda_its_engine_is_refused_and_never_runs_on_the_cpu(bundle, tmp_path):
    settings = config.Engine(kind="onnx-cuda")
    for attempt in (
        lambda: passport_of(settings, bundle),
        lambda: OnnxCudaEngine(SPEC, graph(), "fp32", 1),
    ):
        with pytest.raises(ArtefactError, match=r"engine\.kind: expected .*, got .*CPUExecution"):
            attempt()


@needs_openvino
def test_openvino_reports_to_nobody(tmp_path):
    """Its package writes a client id into the home directory before it sends its use of today."""
    code = """
        import socket
        def refuse(*_, **__): raise AssertionError("looked something up")
        socket.getaddrinfo = socket.socket.connect = refuse
        from appliance.engine_openvino import OpenVinoEngine
        import openvino.tools.ovc as ovc
        print(ovc.telemetry.__class__.__module__)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={"HOME": str(tmp_path), "PATH": "/usr/bin", "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "openvino.tools.ovc.telemetry_stub"
    assert list(tmp_path.iterdir()) == []


# ---- from a bundle -------------------------------------------------------------------------


def network_model(poison=0.0) -> onnx.ModelProto:
    """As in a bundle: float32 (N, 3, h, w) in; map = mean of the channels, score = its maximum."""
    nodes = [
        helper.make_node("ReduceMean", ["image", "channel"], ["grey"], keepdims=1),
        helper.make_node("Add", ["grey", "poison"], ["map"]),
        helper.make_node("ReduceMax", ["map", "all"], ["score"], keepdims=0),
    ]
    constants = [
        helper.make_tensor("channel", TensorProto.INT64, [1], [1]),
        helper.make_tensor("all", TensorProto.INT64, [3], [1, 2, 3]),
        helper.make_tensor("poison", TensorProto.FLOAT, [], [poison]),
    ]
    return as_network(nodes, constants, NET)


@pytest.fixture
def bundle(tmp_path) -> Bundle:
    return write_network_bundle(tmp_path / "bundle", golden=0, network=network_model())


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_bundle_opens_for_any_frame_size(bundle, tmp_path, kind):
    settings = config.Engine(kind=kind)
    for height, width in ((64, 96), (16, 24), (33, 200), (8, 8)):
        engine = open_engine(settings, bundle, height, width, 1, tmp_path / "engines")
        pixels = np.full((height, width), 77, np.uint8)
        out = np.empty(engine.spec.map_shape, np.float32)
        assert engine.infer(pixels, out) == pytest.approx(77)
        np.testing.assert_allclose(out, 77, rtol=1e-6)
        engine.close()


def test_the_engines_agree(bundle, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96), np.uint8)
    maps = []
    for kind in NETWORKS:
        engine = open_engine(config.Engine(kind=kind), bundle, 64, 96, 1, tmp_path / "engines")
        maps.append(np.empty(engine.spec.map_shape, np.float32))
        engine.infer(pixels, maps[-1])
    np.testing.assert_allclose(maps[0], maps[1], atol=1e-3)


def test_the_merged_graph_is_kept_and_a_damaged_one_is_built_again(bundle, tmp_path):
    cache = tmp_path / "engines"

    def answer():
        engine = open_engine(config.Engine(), bundle, 64, 96, 1, cache)
        return engine.infer(np.full((64, 96), 5, np.uint8), np.empty((1, 16, 24), np.float32))

    assert answer() == 5
    (kept,) = cache.rglob("*.onnx")
    assert kept.parent.name == bundle.id
    whole = kept.read_bytes()
    stamp = kept.stat().st_mtime_ns
    assert answer() == 5
    assert kept.stat().st_mtime_ns == stamp
    for damage in (whole[:-5], b"", whole.replace(b"grey", b"gray")):
        kept.write_bytes(damage)
        assert answer() == 5
        assert kept.read_bytes() == whole


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(bundle, tmp_path):
    (tmp_path / "engines").write_text("a file, no folder")
    engine = open_engine(config.Engine(), bundle, 64, 96, 1, tmp_path / "engines")
    assert engine.infer(np.full((64, 96), 5, np.uint8), np.empty((1, 16, 24), np.float32)) == 5


@pytest.mark.parametrize(
    ("settings", "channels", "message"),
    [
        (config.Engine(kind="null"), 1, "a bundle for the engine kind null, got kind"),
        (config.Engine(precision="int8"), 1, r"network\.int8\.onnx in the bundle, got none"),
        (config.Engine(precision="bf16"), 1, "engine.precision: expected fp32, int8 with onnx"),
        (config.Engine(), 3, r"1 channel\(s\) as in training, got 3"),
    ],
    ids=["null on a network", "no int8", "no bf16", "colour"],
)
def test_what_does_not_fit_the_bundle_is_refused(bundle, tmp_path, settings, channels, message):
    with pytest.raises(ArtefactError, match=message):
        open_engine(settings, bundle, 64, 96, channels, tmp_path / "engines")


def test_a_null_bundle_takes_the_null_engine_alone(tmp_path):
    bundle = write_null_bundle(tmp_path / "null", height_px=20, width_px=30, channels=3)
    assert bundle.manifest.columns[-1] == "*/null/max"
    cache = tmp_path / "engines"
    with pytest.raises(ArtefactError, match="a bundle for the engine kind onnx, got kind null"):
        open_engine(config.Engine(), bundle, 20, 30, 3, cache)
    engine = open_engine(config.Engine(kind="null"), bundle, 20, 30, 3, cache)
    out = np.empty((1, 64, 64), np.float32)
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[..., 0], pixels[..., 1], pixels[..., 2] = 10, 20, 60
    assert engine.infer(pixels, out) == 30
    assert (out == 30).all()
    pixels[-1, -1] = 255
    assert engine.infer(pixels, out) > 30  # every pixel counts
    assert [path.name for path in tmp_path.iterdir()] == ["null"]
    with pytest.raises(ArtefactError, match="not there yet"):
        write_null_bundle(tmp_path / "null")
    assert [path.name for path in tmp_path.iterdir()] == ["null"]


def test_the_null_engine_can_pretend_to_work(tmp_path):
    bundle = write_null_bundle(tmp_path / "null", height_px=4, width_px=4)
    settings = config.Engine(kind="null", null_delay_ms=30)
    engine = open_engine(settings, bundle, 4, 4, 1, tmp_path)
    engine.infer(np.zeros((4, 4), np.uint8), np.empty((1, 64, 64), np.float32))
    assert engine.last_ns >= 30e6


@needs_openvino
def test_a_passport_names_all_that_makes_a_map(bundle, tmp_path):
    passport = passport_of(config.Engine(kind="onnx", threads=2), bundle)
    assert passport.bundle == bundle.id
    assert passport.runtime.startswith("onnxruntime ")
    assert passport.device
    assert passport.network == bundle.manifest.files["network.onnx"]
    others = [
        passport_of(config.Engine(kind="openvino", threads=2), bundle),
        passport_of(config.Engine(kind="onnx", threads=1), bundle),
        passport_of(config.Engine(kind="onnx", threads=2, precision="int8"), bundle),
    ]
    assert len({p.id for p in [passport, *others]}) == 4
    assert passport_of(config.Engine(kind="onnx", threads=2), bundle).id == passport.id
    assert isinstance(passport, Passport)
    assert passport.folder(tmp_path) == tmp_path / bundle.id / passport.id
