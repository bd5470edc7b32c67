"""What every engine does, on small graphs that are built here."""

import os
import resource
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from appliance import config
from appliance.bundle import Bundle
from appliance.codes import Reason
from appliance.engine import Engine, Spec, is_worth_it
from appliance.engine_null import NullEngine, write_null_bundle
from appliance.engine_onnx import OnnxCudaEngine, OnnxEngine, _cudnn
from appliance.engine_opening import open_engine, passport_of
from appliance.engine_tensorrt import TensorRtEngine
from appliance.errors import ArtefactError, DeviceError, PartError
from appliance.passport import Passport
from tests.fake_tensorrt import FakeGpu, FakeSdk
from tests.networks import NET, as_network, write_network_bundle

HAS_OPENVINO = find_spec("openvino") is not None
needs_openvino = pytest.mark.skipif(not HAS_OPENVINO, reason="OpenVINO is not installed")

HEIGHT, WIDTH, CHANNELS = 32, 48, 3
SPEC = Spec(height_px=HEIGHT, width_px=WIDTH, channels=CHANNELS, map_shape=(1, HEIGHT, WIDTH))


def graph(
    poison=0.0,
    is_always=False,
    outputs=("map", "score"),
    height=HEIGHT,
    batch: str | int = "N",
    is_mixed=False,
) -> bytes:
    """map = mean over the channels, score = mean over everything.

    poison: added to the map where a frame's first pixel is 255, or always. is_mixed: the score
    takes in what else is in the batch.
    """
    nodes = [
        helper.make_node("Cast", ["frame"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("ReduceMean", ["planes", "channel"], ["grey"], keepdims=1),
        helper.make_node("ReduceMean", ["planes", "all"], ["own"], keepdims=0),
        helper.make_node("ReduceMean", ["own", "first"], ["others"], keepdims=1),
        helper.make_node("Max", ["own", "others" if is_mixed else "own"], [outputs[1]]),
        helper.make_node("Slice", ["grey", "zero", "one", "rows"], ["corner"]),
        helper.make_node("Equal", ["corner", "white"], ["is_white"]),
        helper.make_node("Where", ["is_white", "poison", "nought"], ["added"]),
        helper.make_node("Add", ["grey", "poison" if is_always else "added"], [outputs[0]]),
    ]
    constants = [
        helper.make_tensor("channel", TensorProto.INT64, [1], [1]),
        helper.make_tensor("all", TensorProto.INT64, [3], [1, 2, 3]),
        helper.make_tensor("first", TensorProto.INT64, [1], [0]),
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
            [helper.make_tensor_value_info("frame", TensorProto.UINT8, [batch, *size, CHANNELS])],
            [
                helper.make_tensor_value_info(outputs[0], TensorProto.FLOAT, [batch, 1, *size]),
                helper.make_tensor_value_info(outputs[1], TensorProto.FLOAT, [batch]),
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
    "null": lambda **_: NullEngine(SPEC, delay_ms=0.01),
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


@pytest.fixture
def worth_it(monkeypatch):
    """Whatever it gains: what is tested here does not hang on the time that it takes."""
    monkeypatch.setattr("appliance.engine.is_worth_it", lambda count, cost, best: True)


@pytest.fixture
def many(engine, worth_it):
    engine.warm_up(together=4)
    assert list(engine.batch_ns) == [1, 2, 4]
    assert engine.health()["engine_batch"] == 4
    return engine


def rooms(count):
    return list(np.empty((count, *SPEC.map_shape), np.float32))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7, 9])
def test_several_frames_are_answered_in_their_order_as_one_by_one(many, count):
    pixels = [frame(seed) for seed in range(count)]
    singles, together = rooms(count), rooms(count)
    scores = [many.infer(one, out) for one, out in zip(pixels, singles, strict=True)]
    calls = many.calls
    assert many.infer_many(pixels, together) == scores
    assert many.calls == calls + count
    np.testing.assert_array_equal(singles, together)


def test_several_frames_may_lie_anywhere(many):
    wide = np.zeros((HEIGHT + 5, WIDTH + 7, CHANNELS), np.uint8)
    wide[2 : 2 + HEIGHT, 3 : 3 + WIDTH] = frame(1)
    read_only = frame(2)
    read_only.flags.writeable = False
    outs = rooms(2)
    answers = many.infer_many([wide[2 : 2 + HEIGHT, 3 : 3 + WIDTH], read_only], outs)
    assert answers == pytest.approx([frame(1).mean(), frame(2).mean()], rel=1e-5)
    np.testing.assert_allclose(outs[1], expected_map(many, read_only), rtol=1e-5)


def test_a_frame_of_another_size_fails_by_itself(many):
    misfit = np.zeros((HEIGHT, WIDTH + 1, CHANNELS), np.uint8)
    outs = rooms(4)
    calls = many.calls
    first, wrong, *others = many.infer_many([frame(0), misfit, frame(1), frame(2)], outs)
    assert isinstance(wrong, PartError) and wrong.reason is Reason.INFERENCE_ERROR
    means = [frame(seed).mean() for seed in range(3)]
    assert [first, *others] == pytest.approx(means, rel=1e-5)
    assert (many.calls, many.failures) == (calls + 3, 0)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_no_number_in_one_of_several_answers_fails_that_part_alone(network, worth_it, poison):
    engine = network(poison=poison)
    engine.warm_up(together=4)
    assert 4 in engine.batch_ns
    pixels, outs = [frame(seed) for seed in range(4)], rooms(4)
    pixels[2][0, 0] = 255
    answers = engine.infer_many(pixels, outs)
    bad = answers.pop(2)
    assert isinstance(bad, PartError) and bad.reason is Reason.INVALID_NUMBER
    assert answers == pytest.approx([pixels[seed].mean() for seed in (0, 1, 3)], rel=1e-5)
    assert np.isfinite([outs[0], outs[1], outs[3]]).all()
    assert engine.failures == 1
    for broken in pixels:
        broken[0, 0] = 255
    answers = engine.infer_many(pixels, outs)
    assert {type(answer) for answer in answers} == {PartError}
    assert engine.failures == 2, "one call more failed, not four"
    engine.close()


class Broken:
    """A runtime's own object, every call of which fails."""

    def __getattr__(self, name):
        raise RuntimeError(f"{name}: the device is gone")


def broken(engine):
    """Its runtime fails from now on."""
    if engine.kind == "tensorrt":
        engine._sdk.fail = {"enqueue"}
        for lane in engine._lanes.values():
            lane.graph = 0
    elif engine.kind == "openvino":
        engine._compiled[4] = engine._compiled[4]._replace(request=Broken())
    elif engine.kind == "null":
        engine._faults = config.EngineFaults(fail_every=3)
    else:
        engine._session = Broken()


def test_an_error_of_the_runtime_is_that_of_every_frame_of_the_call(many):
    broken(many)
    answers = many.infer_many([frame(seed) for seed in range(4)], rooms(4))
    assert [type(answer) for answer in answers] == [PartError] * 4
    assert {answer.reason for answer in answers} == {Reason.INFERENCE_ERROR}
    assert many.failures == 1, "one call failed"


def test_room_of_another_shape_is_a_bug_among_several_too(many):
    with pytest.raises(ValueError, match="expected room for"):
        many.infer_many([frame(0), frame(1)], [room(), np.empty((2, 2), np.float32)])
    with pytest.raises(ValueError, match="shorter"):
        many.infer_many([frame(0), frame(1)], [room()])


def test_after_closing_several_are_an_error_too(many):
    many.close()
    with pytest.raises(DeviceError, match="closed"):
        many.infer_many([frame(0), frame(1)], rooms(2))


def test_a_thousand_calls_of_four_leave_the_memory_as_it_is(many):
    pixels, outs = [frame(seed) for seed in range(4)], rooms(4)
    for _ in range(300):
        many.infer_many(pixels, outs)
    before = resident_kib()
    for _ in range(1000):
        many.infer_many(pixels, outs)
    assert resident_kib() - before < 2000


def test_without_others_beside_it_nothing_but_one_frame_is_tried(engine, worth_it):
    engine.warm_up()
    assert list(engine.batch_ns) == [1]
    assert engine.health()["engine_batch_cost"] == 1


def test_as_many_as_come_together_is_the_most_even_where_it_is_no_power_of_two(engine, worth_it):
    engine.warm_up(together=3)
    assert list(engine.batch_ns) == [1, 2, 3]


def test_what_gains_nothing_stays_at_one(engine, monkeypatch):
    tried = []
    monkeypatch.setattr(
        "appliance.engine.is_worth_it", lambda count, cost, best: tried.append((count, cost, best))
    )
    engine.warm_up(together=4)
    assert list(engine.batch_ns) == [1]
    assert tried == [(2, engine.health()["engine_batch_cost"], 1)]
    outs = rooms(3)
    answers = engine.infer_many([frame(seed) for seed in range(3)], outs)
    assert answers == pytest.approx([frame(seed).mean() for seed in range(3)], rel=1e-5)


def test_what_changes_a_bit_stays_at_one(network, worth_it):
    """Else what a part is given would depend on which frames wait beside it."""
    engine = network(is_mixed=True)
    engine.warm_up(together=4)
    assert list(engine.batch_ns) == [1]


def test_a_network_of_one_frame_at_a_time_stays_at_that(worth_it):
    engine = OnnxEngine(SPEC, graph(batch=1), "fp32", 1)
    engine.warm_up(together=4)
    assert list(engine.batch_ns) == [1]


@pytest.mark.parametrize(
    ("count", "cost", "best", "worth"),
    [
        (2, 0.74, 1, True),  # both after 1.48, in the mean of 1 and 2 after 1.5
        (2, 0.76, 1, False),
        (4, 0.62, 0.7, True),
        (4, 0.63, 0.7, False),
        (4, 0.6, 0.6, False),  # two at a time are as good, and answered sooner
    ],
)
def test_a_call_of_several_is_worth_it_where_the_mean_answer_comes_sooner(count, cost, best, worth):
    assert is_worth_it(count, cost, best) is worth


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
        lambda: passport_of(settings, bundle, tmp_path),
        lambda: OnnxCudaEngine(SPEC, graph(), "fp32", 1),
    ):
        with pytest.raises(ArtefactError, match=r"engine\.kind: expected .*, got .*CPUExecution"):
            attempt()


def test_on_cuda_nothing_is_chosen_by_measuring_and_float32_is_float32(monkeypatch):
    """Two starts must compute the same; the device's own runtime is asked, so none is needed."""
    asked: list[dict[str, dict[str, str]]] = []

    def session(model, options, providers):
        asked.append(dict(providers))
        raise RuntimeError("no device")

    monkeypatch.setattr(OnnxCudaEngine, "_require_provider", classmethod(lambda cls: None))
    monkeypatch.setattr("appliance.engine_onnx.ort.InferenceSession", session)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    with pytest.raises(ArtefactError, match="got no device"):
        OnnxCudaEngine(SPEC, graph(), "fp32", 1)
    (providers,) = asked
    told = providers["CUDAExecutionProvider"]
    assert (told["cudnn_conv_algo_search"], told["use_tf32"]) == ("HEURISTIC", "0")
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"


@pytest.mark.parametrize(
    ("there", "told"),
    [("libcudnn.so.9", ", cuDNN 91900"), ("libcudnn.so.8", ", cuDNN 91900"), ("", "")],
)
def test_a_passport_on_cuda_names_cudnn(monkeypatch, there, told):
    """It is updated by itself, and its convolutions with it."""

    def load(name: str) -> SimpleNamespace:
        if name != there:
            raise OSError(name)

        def version() -> int:
            return 91900

        return SimpleNamespace(cudnnGetVersion=version)

    monkeypatch.setattr("appliance.engine_onnx.ctypes.CDLL", load)
    assert _cudnn() == told


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


@needs_openvino
def test_a_run_of_openvino_that_writes_nothing_does_not_leave_the_part_before():
    from appliance.engine_openvino import OpenVinoEngine

    engine = OpenVinoEngine(SPEC, graph(), "fp32", 1)
    engine.infer(frame(), room())

    class Idle:
        """OpenVINO's request, which comes back without having computed."""

        get_tensor = engine._compiled[1].request.get_tensor

        def infer(self) -> None: ...

    engine._compiled[1] = engine._compiled[1]._replace(request=Idle())
    out = room()
    with pytest.raises(PartError, match="not finite"):
        engine.infer(frame(1), out)
    assert np.isnan(out).all()


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
    noted = kept.with_suffix(".sha256")
    for damaged, damage in (
        (kept, whole[:-5]),
        (kept, b""),
        (kept, whole.replace(b"grey", b"gray")),
        (noted, b"\xff\xfe no text"),
    ):
        good = damaged.read_bytes()
        damaged.write_bytes(damage)
        assert answer() == 5
        assert kept.read_bytes() == whole
        assert damaged.read_bytes() == good


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
    passport = passport_of(config.Engine(kind="onnx", threads=2), bundle, tmp_path)
    assert passport.bundle == bundle.id
    assert passport.runtime.startswith("onnxruntime ")
    assert passport.device
    assert passport.network == bundle.manifest.files["network.onnx"]
    others = [
        passport_of(config.Engine(kind="openvino", threads=2), bundle, tmp_path),
        passport_of(config.Engine(kind="onnx", threads=1), bundle, tmp_path),
        passport_of(config.Engine(kind="onnx", threads=2, precision="int8"), bundle, tmp_path),
    ]
    assert len({p.id for p in [passport, *others]}) == 4
    assert passport_of(config.Engine(kind="onnx", threads=2), bundle, tmp_path).id == passport.id
    assert isinstance(passport, Passport)
    assert passport.folder(tmp_path) == tmp_path / bundle.id / passport.id
