"""TensorRT's runtime without a GPU: the order of its calls, and every way in which they fail."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from appliance.codes import Reason
from appliance.engine_tensorrt import TensorRtEngine
from appliance.engine_tensorrt_build import count_precisions, require_precision
from appliance.errors import ArtefactError, PartError
from appliance.frames import RingReader, RingWriter
from tests.fake_tensorrt import FakeGpu, FakeSdk
from tests.test_contract_engine import SPEC, frame, graph, room


def opened(
    fail_gpu: set[str] | None = None, fail_sdk: set[str] | None = None, has_graphs: bool = True
) -> tuple[TensorRtEngine, FakeGpu, FakeSdk]:
    """Everything works while it is opened and warmed up; then what is told fails."""
    gpu = FakeGpu(has_graphs=has_graphs)
    sdk = FakeSdk(gpu)
    engine = TensorRtEngine(SPEC, graph(), "fp32", sdk, gpu)
    gpu.fail, sdk.fail = fail_gpu or set(), fail_sdk or set()
    return engine, gpu, sdk


def test_before_the_graph_every_frame_is_uploaded_run_downloaded_and_waited_for() -> None:
    engine, gpu, _ = opened()
    gpu.calls.clear()
    engine.infer(frame(), room())
    assert gpu.calls == ["upload", "enqueue", "download", "download", "synchronize"]


def test_after_the_warm_up_a_frame_is_its_upload_and_one_launch() -> None:
    engine, gpu, _ = opened()
    engine.warm_up()
    capture = gpu.calls[gpu.calls.index("begin_capture") :]
    assert capture[:5] == ["begin_capture", "enqueue", "download", "download", "end_capture"]
    gpu.calls.clear()
    out = room()
    assert engine.infer(frame(3), out) == pytest.approx(frame(3).mean(), rel=1e-5)
    assert gpu.calls == ["upload", "launch", "synchronize"]
    assert engine.health()["engine_cuda_graph"] == 1


@pytest.fixture
def ring(tmp_path: Path):
    """A frame ring, its reader, and what makes another epoch of it."""
    made: list[RingWriter] = []

    def again() -> RingWriter:
        while made:
            made.pop().close()
        made.append(RingWriter(tmp_path, "top", 4, 3 * frame().nbytes))
        return made[-1]

    yield again, RingReader(tmp_path)
    made.pop().close()


def test_a_whole_frame_is_fetched_from_the_ring_where_it_lies(ring) -> None:
    again, reader = ring
    engine, gpu, _ = opened()
    engine.warm_up()
    for _epoch in range(2):  # the camera starts again: the old ring is let go
        writer = again()
        gpu.calls.clear()
        for seed in range(10):  # the ring has 4 slots
            ref = writer.put(frame(seed))
            engine.reads_from(ref.ring, reader.slot(ref))
            pixels = reader.view(ref)
            assert engine.infer(pixels, room()) == pytest.approx(frame(seed).mean(), rel=1e-5)
            assert np.shares_memory(gpu.uploaded[-1], pixels)
        assert gpu.calls.count("register") == len(gpu.registered) == 4
        assert engine.health()["engine_pinned_rings"] == 1
    engine.close()
    assert gpu.registered == []


def test_no_frame_pays_for_more_than_its_own_slot(ring) -> None:
    """To pin or to let go gigabytes at once would take longer than a call into an engine may."""
    again, reader = ring
    engine, gpu, _ = opened()

    def show(writer: RingWriter) -> list[str]:
        ref = writer.put(frame())
        gpu.calls.clear()
        engine.reads_from(ref.ring, reader.slot(ref))
        assert all(slot.nbytes < 4 * frame().nbytes for slot in gpu.registered)
        return gpu.calls.copy()

    first = again()
    assert [show(first) for _ in range(5)] == [["register"]] * 4 + [[]]
    # A camera that comes and goes: its last ring is let go before older ones.
    told = [(show(again()), len(gpu.registered)) for _ in range(4)]
    two, one = ["unregister", "unregister", "register"], ["unregister", "register"]
    assert told == [(two, 3), (two, 2), (two, 1), (one, 1)]
    engine.close()
    assert gpu.registered == []


def test_a_driver_that_pins_no_ring_is_asked_once(ring) -> None:
    again, reader = ring
    engine, gpu, _ = opened()
    gpu.refuses_rings = True
    for _epoch in range(2):
        writer = again()
        gpu.calls.clear()
        for _ in range(6):
            ref = writer.put(frame())
            engine.reads_from(ref.ring, reader.slot(ref))
        assert gpu.calls == ["register"]
    engine.close()


def test_a_cut_frame_or_a_ring_that_cannot_be_pinned_is_copied(ring) -> None:
    again, reader = ring
    writer = again()
    for refuses in (False, True):
        engine, gpu, _ = opened()
        gpu.refuses_rings = refuses
        wide = np.zeros((SPEC.height_px + 2, SPEC.width_px + 2, SPEC.channels), np.uint8)
        wide[1:-1, 2:] = frame(4)
        for picture, cut in ((frame(4), slice(None)), (wide, (slice(1, -1), slice(2, None)))):
            ref = writer.put(picture)
            engine.reads_from(ref.ring, reader.slot(ref))
            pixels = reader.view(ref)[cut]
            assert engine.infer(pixels, room()) == pytest.approx(frame(4).mean(), rel=1e-5)
            is_direct = not refuses and picture is not wide
            assert np.shares_memory(gpu.uploaded[-1], pixels) is is_direct
        assert engine.health()["engine_pinned_rings"] == (0 if refuses else 1)
        engine.close()


def test_a_binding_without_graphs_runs_call_by_call() -> None:
    engine, gpu, _ = opened(has_graphs=False)
    engine.warm_up()
    assert "begin_capture" not in gpu.calls
    assert engine.infer(frame(), room()) == pytest.approx(frame().mean(), rel=1e-5)
    assert engine.health()["engine_cuda_graph"] == 0


def test_closing_waits_for_what_is_in_flight_and_gives_everything_back_once() -> None:
    engine, gpu, _ = opened()
    engine.warm_up()
    gpu.calls.clear()
    engine.close()
    engine.close()
    assert gpu.calls == ["synchronize", "close"]
    assert gpu.memory == {}


@pytest.fixture
def worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.engine.is_worth_it", lambda count, cost, best: True)


def together(has_graphs: bool = True, most: int = 4, count: int = 4):
    gpu = FakeGpu(has_graphs=has_graphs)
    engine = TensorRtEngine(SPEC, graph(), "fp32", FakeSdk(gpu, most=most), gpu)
    engine.warm_up(together=count)
    gpu.calls.clear()
    return engine, gpu


@pytest.mark.usefixtures("worth_it")
@pytest.mark.parametrize("has_graphs", [True, False])
def test_frames_of_one_call_are_uploaded_each_and_launched_once(has_graphs: bool) -> None:
    engine, gpu = together(has_graphs)
    frames, outs = [frame(seed) for seed in range(6)], [room() for _ in range(6)]
    answers = engine.infer_many(frames, outs)
    assert answers == pytest.approx([pixels.mean() for pixels in frames], rel=1e-5)
    network = ["launch"] if has_graphs else ["enqueue", "download", "download"]
    four, two = (["upload"] * count + network + ["synchronize"] for count in (4, 2))
    assert gpu.calls == four + two
    for pixels, out in zip(frames, outs, strict=True):
        np.testing.assert_allclose(out[0], pixels.mean(axis=2), rtol=1e-5)
    engine.close()
    assert gpu.memory == {}


@pytest.mark.usefixtures("worth_it")
def test_each_of_several_is_fetched_from_its_own_ring(tmp_path: Path) -> None:
    engine, gpu = together(count=2)
    writers = [RingWriter(tmp_path, name, 4, frame().nbytes) for name in ("left", "right")]
    reader = RingReader(tmp_path)
    refs = [writer.put(frame(seed)) for seed, writer in enumerate(writers)]
    for ref in refs:
        engine.reads_from(ref.ring, reader.slot(ref))
    frames = [reader.view(ref) for ref in refs]
    answers = engine.infer_many(frames, [room(), room()])
    assert answers == pytest.approx([frame(0).mean(), frame(1).mean()], rel=1e-5)
    for uploaded, pixels in zip(gpu.uploaded[-2:], frames, strict=True):
        assert np.shares_memory(uploaded, pixels)
    engine.close()
    for writer in writers:
        writer.close()


@pytest.mark.usefixtures("worth_it")
def test_a_plan_takes_as_many_as_it_was_built_for() -> None:
    assert list(together(most=1)[0].batch_ns) == [1]
    assert list(together(most=2)[0].batch_ns) == [1, 2]
    assert list(together(most=3)[0].batch_ns) == [1, 2, 3], "of four cameras three together"


@pytest.mark.usefixtures("worth_it")
@pytest.mark.parametrize("call", ["context", "set_shape", "set_address", "enqueue"])
def test_where_there_is_no_room_for_several_one_at_a_time_is_answered(call: str) -> None:
    engine, gpu, sdk = opened()
    room_for_one = engine._lane

    def lane(count: int):
        sdk.fail = {call} if count > 1 else set()
        return room_for_one(count)

    engine._lane = lane  # type: ignore[method-assign]
    engine.warm_up(together=2)
    sdk.fail = set()
    assert list(engine.batch_ns) == [1]
    assert engine.infer(frame(5), room()) == pytest.approx(frame(5).mean(), rel=1e-5)
    engine.close()
    assert gpu.memory == {}


@pytest.mark.usefixtures("worth_it")
@pytest.mark.parametrize("call", ["allocate", "pinned", "begin_capture", "end_capture"])
def test_what_a_failed_trial_of_several_leaves_in_the_log_is_of_no_part(call: str) -> None:
    engine, gpu, sdk = opened()
    room_for_one = engine._lane

    def lane(count: int):
        if count > 1:
            gpu.fail = {call}
            sdk.said.append("Error Code 2: OutOfMemory")
        return room_for_one(count)

    engine._lane = lane  # type: ignore[method-assign]
    engine.warm_up(together=2)
    gpu.fail = set()
    assert list(engine.batch_ns) == [1]
    assert engine.infer(frame(5), room()) == pytest.approx(frame(5).mean(), rel=1e-5)


@pytest.mark.parametrize("call", ["deserialize", "context", "set_shape", "set_address"])
def test_a_none_or_false_while_loading_is_refused_with_tensorrts_words(call: str) -> None:
    gpu = FakeGpu()
    with pytest.raises(ArtefactError, match=f"{call}: Error Code 4"):
        TensorRtEngine(SPEC, graph(), "fp32", FakeSdk(gpu, {call}), gpu)
    assert gpu.closed == 1


@pytest.mark.parametrize("call", ["stream", "allocate", "pinned"])
def test_a_cuda_error_while_loading_is_refused_and_nothing_is_kept(call: str) -> None:
    gpu = FakeGpu({call})
    with pytest.raises(ArtefactError, match=f"{call}: an illegal memory access"):
        TensorRtEngine(SPEC, graph(), "fp32", FakeSdk(gpu), gpu)
    assert gpu.closed == 1
    assert gpu.memory == {}


@pytest.mark.parametrize(
    "model",
    [b"", b"no plan", graph()[:200], graph(outputs=("heat", "score")), graph(height=33)],
    ids=["empty", "text", "cut", "other names", "other size"],
)
def test_a_plan_that_cannot_be_used_is_refused_in_one_line(model: bytes) -> None:
    gpu = FakeGpu()
    with pytest.raises(ArtefactError, match="engine: expected") as caught:
        TensorRtEngine(SPEC, model, "fp32", FakeSdk(gpu), gpu)
    assert "\n" not in str(caught.value)
    assert gpu.closed == 1


@pytest.mark.parametrize(
    ("fail_gpu", "fail_sdk", "text"),
    [
        ({"upload"}, None, "CUDA: upload: an illegal"),
        ({"download"}, None, "CUDA: download: an illegal"),
        ({"synchronize"}, None, "CUDA: synchronize: an illegal"),
        ({"synchronize"}, {"late"}, "CUDA: synchronize: an illegal"),  # told twice
        (None, {"enqueue"}, "TensorRT: enqueue: Error Code 4"),
        (None, {"late"}, "TensorRT: late: Error Code 1"),
    ],
)
def test_a_failure_is_an_error_of_this_part_and_never_a_map(
    fail_gpu: set[str] | None, fail_sdk: set[str] | None, text: str
) -> None:
    engine, gpu, sdk = opened(fail_gpu, fail_sdk)
    with pytest.raises(PartError, match=text) as caught:
        engine.infer(frame(), room())
    assert caught.value.reason is Reason.INFERENCE_ERROR
    gpu.fail, sdk.fail = set(), set()
    gpu.queue.clear()
    assert engine.infer(frame(1), room()) == pytest.approx(frame(1).mean(), rel=1e-5)


def test_a_run_that_writes_nothing_does_not_leave_the_part_before() -> None:
    engine, gpu, sdk = opened()
    engine.infer(frame(), room())
    for buffer in gpu.memory.values():
        buffer[:] = 0xFF  # a device that lost its memory: NaN as float32
    sdk.fail = {"silent"}
    with pytest.raises(PartError, match="not finite") as caught:
        engine.infer(frame(1), room())
    assert caught.value.reason is Reason.INVALID_NUMBER


@pytest.mark.parametrize("call", ["begin_capture", "end_capture", "launch"])
def test_a_graph_that_cannot_be_made_or_launched_is_no_engine(call: str) -> None:
    engine, _, _ = opened({call})
    with pytest.raises(PartError, match=f"{call}: an illegal"):
        engine.warm_up()


def test_a_graph_that_answers_otherwise_is_no_engine() -> None:
    engine, gpu, _ = opened()
    end = gpu.end_capture

    def forgetful(stream: int) -> int:
        made = end(stream)
        gpu.graphs[made].pop(0)  # the network
        for buffer in gpu.memory.values():
            buffer[:] = 7  # and what lies there is of another frame
        return made

    gpu.end_capture = forgetful  # type: ignore[method-assign]
    with pytest.raises(PartError, match="the CUDA graph answers otherwise"):
        engine.warm_up()


def told(*types: str) -> str:
    layers = [{"Name": "l", "Outputs": [{"Name": "t", "Format/Datatype": word}]} for word in types]
    return msgspec.json.encode({"Layers": layers, "Bindings": []}).decode()


def test_the_inspectors_words_are_counted() -> None:
    answer = count_precisions(
        told(
            "Row major linear FP32",
            "Channel major FP16 format where channel % 8 == 0",
            "Half",
            "Thirty-two wide channel vectorized row major Int8 format",
            "Int32",
        )
    )
    assert answer == {"fp32": 1, "fp16": 2, "int8": 1}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"Layers": []}', '{"Layers": ["a", "b"]}'])
def test_an_inspector_that_says_nothing_proves_nothing(text: str) -> None:
    with pytest.raises(ArtefactError, match="engine: expected"):
        count_precisions(text)


@pytest.mark.parametrize(
    ("precision", "layers", "is_fit"),
    [
        ("fp16", {"fp16": 90, "fp32": 8}, True),
        ("fp16", {"fp32": 98}, False),
        ("fp16", {"fp16": 3, "fp32": 98}, False),
        ("int8", {"int8": 40, "fp32": 60}, True),
        ("int8", {"fp16": 90, "fp32": 60}, False),
        ("fp32", {"fp32": 98}, True),
        ("fp32", {"fp16": 98}, False),
    ],
)
def test_a_builder_that_fell_back_fails(
    precision: str, layers: dict[str, int], is_fit: bool
) -> None:
    if is_fit:
        require_precision(precision, layers)
    else:
        with pytest.raises(ArtefactError, match=f"a plan whose layers are {precision}"):
            require_precision(precision, layers)
