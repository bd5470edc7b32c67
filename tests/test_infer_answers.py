"""Frames to answers, without sockets: what counts as a failure of the engine, and what does not."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from appliance.batches import Waiting
from appliance.codes import Reason
from appliance.config import Config, EngineFaults
from appliance.config_camera import Camera
from appliance.engine import Map, Spec
from appliance.engine_null import NullEngine
from appliance.frames import RingWriter, inline_ref
from appliance.image_gates import Gates
from appliance.infer_answers import Answers
from appliance.infer_setup import CameraSetup, Setup
from appliance.messages import FrameReady, InferFailed, Scored

CAMERAS = ("left", "right", "top")
SPEC = Spec(height_px=4, width_px=4, channels=1, map_shape=(1, 64, 64))
MS = 1_000_000
MINUTE_NS = 60_000 * MS


class Line:
    """Three cameras, one engine that takes their frames in one call, and what was sent."""

    def __init__(self, root: Path, faults: EngineFaults) -> None:
        cameras = tuple(Camera(name=name, kind="files", folder="x") for name in CAMERAS)
        self.now_ns = 0
        self.sent: list[tuple[Scored | InferFailed, Map | None]] = []
        self.config = Config(root=str(root), deadline_ms=200, camera=cameras)
        self.answers = Answers(
            self.config,
            "0",
            nullcontext,
            lambda message, amap: self.sent.append((message, amap)),
            has_ring=False,
            clock=lambda: self.now_ns,
        )
        self.faults = faults
        self.setup = self.another_setup()

    def another_setup(self) -> Setup:
        engine = NullEngine(SPEC, delay_ms=0.01, faults=self.faults)
        engine.warm_up()
        engine.batch_ns = {1: 1, 3: 1}
        cameras = {name: CameraSetup(engine, Gates(), None) for name in CAMERAS}
        made = Setup("s", cameras, (), 500_000_000, True)
        self.answers.make_room(made)
        self.answers.use(made)
        return made

    def show(self, *cameras: str, left_ns: int = 1) -> list[Scored | InferFailed]:
        """A frame of each, in one call where they are three; what was said to them."""
        self.sent.clear()
        waiting: list[Waiting] = []
        for number, camera in enumerate(cameras):
            pixels = np.full((4, 4), 7 + number, np.uint8)
            frame = FrameReady(
                camera=camera, part_id=number, frame_id=number, setup_hash="s",
                pixels=inline_ref(pixels, 1), age_ns=0, is_simulated=True,
            )  # fmt: skip
            waiting.append(Waiting(frame, pixels.tobytes(), self.now_ns + left_ns))
        self.answers.answer(waiting, 0)
        assert sorted(said.part_id for said, _ in self.sent) == list(range(len(cameras)))
        return [said for said, _ in self.sent]


@pytest.fixture
def line(tmp_path: Path, request: pytest.FixtureRequest) -> Line:
    return Line(tmp_path, EngineFaults(**request.param))


@pytest.mark.parametrize("line", [{}], indirect=True)
def test_each_of_one_call_gets_its_own_score_and_map(line: Line) -> None:
    said = line.show(*CAMERAS)
    assert [isinstance(one, Scored) and one.classification for one in said] == [7, 8, 9]
    assert [amap is not None and float(amap.max()) for _, amap in line.sent] == [7, 8, 9]
    assert line.answers.counters == {"scored": 3, "failed": 0, "batched": 3}
    assert not line.answers.is_engine_failing


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"nan_every": 1}, Reason.INVALID_NUMBER),
        ({"fail_every": 1}, Reason.INFERENCE_ERROR),
    ],
    indirect=["line"],
)
def test_a_call_that_fails_is_one_failure_whatever_it_held(line: Line, reason: Reason) -> None:
    for calls in (1, 2, 3):
        said = line.show(*CAMERAS)
        assert [isinstance(one, InferFailed) and one.reason for one in said] == [reason] * 3
        assert line.setup.figures()["engine_failures"] == calls
        assert line.answers.is_engine_failing is (calls == 3)
        assert line.answers.counters[f"failed_{reason.name.lower()}"] == 3 * calls


@pytest.mark.parametrize("line", [{"nan_every": 1}], indirect=True)
def test_failures_that_lie_a_minute_apart_or_of_an_engine_that_is_gone_are_none(line: Line) -> None:
    for _ in range(2):
        line.show("left")
    line.now_ns += MINUTE_NS + 1
    line.show("left")
    assert not line.answers.is_engine_failing
    line.show("left")
    line.another_setup()
    line.show("left")
    assert not line.answers.is_engine_failing


@pytest.mark.parametrize("line", [{}], indirect=True)
def test_a_frame_whose_part_is_over_costs_the_next_one_no_time(line: Line) -> None:
    """After a stop many wait: each of them in full, and the line would be late for long."""
    said = line.show("left", "top", left_ns=-1)
    assert [isinstance(one, InferFailed) and one.reason for one in said] == [Reason.LATE] * 2
    assert line.answers.counters["scored"] == 0
    (scored,) = line.show("top", left_ns=0)
    assert isinstance(scored, Scored)


@pytest.mark.parametrize("line", [{}], indirect=True)
def test_a_frame_that_waited_and_cannot_be_in_time_costs_the_next_one_no_time(
    line: Line,
) -> None:
    """Where more come than the network can take, the excess is late and not everything."""
    engine = line.setup.cameras["top"].engine
    engine.shortest_ns = 30 * MS
    ring = RingWriter(line.config.rings_dir, "camera-top", 4, 4096)

    def shown(waited_ms: int, left_ms: int) -> Scored | InferFailed:
        line.sent.clear()
        line.now_ns = 1000 * MS
        frame = FrameReady(
            camera="top", part_id=1, frame_id=1, setup_hash="s", age_ns=0,
            pixels=ring.put(np.full((4, 4), left_ms, np.uint8)),
            copied_at_ns=line.now_ns - waited_ms * MS,
        )  # fmt: skip
        line.answers.answer([Waiting(frame, None, line.now_ns + left_ms * MS)], 0)
        ((said, _),) = line.sent
        return said

    late = shown(waited_ms=31, left_ms=29)
    assert isinstance(late, InferFailed) and late.reason == Reason.LATE
    assert late.detail == "29.0 ms were left when its turn came, the network takes 30.0 ms"
    assert isinstance(shown(waited_ms=31, left_ms=30), Scored), "it may be in time"
    assert isinstance(shown(waited_ms=30, left_ms=1), Scored), "late, but nothing waited for it"
    ring.close()


@pytest.mark.parametrize("line", [{}], indirect=True)
def test_without_a_set_up_in_force_nothing_is_scored(line: Line) -> None:
    line.answers.use(None)
    (failed,) = line.show("top")
    assert isinstance(failed, InferFailed) and failed.reason is Reason.WRONG_RECIPE
    assert line.answers.engine_of("top") is None
