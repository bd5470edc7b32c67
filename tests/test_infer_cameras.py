"""Frames of several cameras in one infer process: together, in order, each answered once."""

from collections import Counter

import numpy as np
import pytest

from appliance.codes import Reason
from appliance.engine_null import write_null_bundle
from appliance.messages import FrameReady, Scored
from tests.networks import write_network_bundle
from tests.rig_infer import Rig, expect_failure

CAMERAS = ("left", "right", "top")
BUSY_MS = 60


@pytest.fixture
def line():
    """A null engine that takes as long for several frames as for one."""
    made = Rig(CAMERAS, kind="null", null_delay_ms=BUSY_MS)
    recipe = made.recipe(write_null_bundle(made.config.bundles_dir / "n", "n", 64, 96))
    made.start()
    made.use(recipe)
    made.setup_hash = recipe[1]
    yield made
    made.close()


def grey(level: int) -> np.ndarray:
    return np.full((64, 96), level, np.uint8)


def test_frames_that_wait_go_together_and_each_gets_its_own_answer(line: Rig) -> None:
    assert line.health is not None and line.health.gauges["engine_batch"] == 3
    assert line.health.gauges["engine_batch_cost"] < 0.67
    shown: dict[int, tuple[str, int]] = {}

    def is_batched() -> bool:
        """Two frames of each camera, until some of them met in one call."""
        for _ in range(2):
            for camera in CAMERAS:
                level = len(shown) % 200
                part = line.show(grey(level), line.setup_hash, camera)
                shown[part] = camera, level
        line.until("answers", lambda: len(line.came) == len(shown))
        beat = line.health
        line.until("health", lambda: line.health is not beat)
        return bool(line.health and line.health.counters["batched"])

    line.until("frames in one call", is_batched)
    assert [answer.part_id for answer in line.came if answer.camera == "left"] == [
        part for part, (camera, _) in shown.items() if camera == "left"
    ]
    for answer in line.came:
        camera, level = shown.pop(answer.part_id)
        assert isinstance(answer, Scored)
        assert (answer.camera, answer.classification) == (camera, level)
        assert (line.reader.copy(answer.map) == level).all()
        assert all(ns >= 0 for ns in answer.stages_ns.values())
    assert shown == {}, "each was answered once"
    assert line.health.counters["scored"] == len(line.came)


def test_a_camera_that_never_pauses_does_not_keep_the_others_waiting(line: Rig) -> None:
    def keep_showing() -> None:
        """Fills the queue of one camera to the brim."""
        while True:
            line.sent += 1
            ready = FrameReady(
                camera="left", part_id=line.sent, frame_id=line.sent, age_ns=0, is_simulated=True,
                setup_hash=line.setup_hash, pixels=line.rings["left"].put(grey(9)),
            )  # fmt: skip
            if not line.frames["left"].send(ready):
                line.sent -= 1
                return

    line.until("frames on their way", lambda: keep_showing() or len(line.came) > 5)
    for camera in ("right", "top"):
        line.show(grey(50), line.setup_hash, camera)

    def cameras() -> set[str]:
        keep_showing()
        return {answer.camera for answer in line.came}

    line.until("the others", lambda: {"right", "top"} <= cameras())


def test_what_is_wrong_with_one_frame_is_said_of_that_one(line: Rig) -> None:
    for _ in range(3):
        parts = [
            line.show(grey(7), line.setup_hash, "left"),
            line.show(grey(8)[:, :90], line.setup_hash, "right"),
            line.show(grey(9), "f" * 64, "top"),
        ]
        line.until("answers", lambda: len(line.came) == 3)
        answers = {answer.part_id: answer for answer in line.came}
        line.came.clear()
        assert answers[parts[0]].classification == 7
        expect_failure(answers[parts[1]], parts[1], Reason.INFERENCE_ERROR, "(64, 96, 1), got")
        expect_failure(answers[parts[2]], parts[2], Reason.WRONG_RECIPE, line.setup_hash[:12])


def test_what_is_left_of_a_call_is_asked_and_answered_call_by_call() -> None:
    """One of four falls out: of three a call takes two, and they do not wait for the third."""
    line = Rig(("left", "right", "top", "under"), kind="null", null_delay_ms=BUSY_MS)
    try:
        recipe = line.recipe(write_null_bundle(line.config.bundles_dir / "n", "n", 64, 96))
        line.start()
        line.use(recipe)
        assert line.health is not None and line.health.gauges["engine_batch"] == 4

        def is_looked_at_together() -> bool:
            """A frame that keeps the engine busy, then four: the last is of another set-up."""
            line.came.clear()
            hashes = [recipe[1]] * 4 + ["f" * 64]
            for camera, setup_hash in zip(("left", *line.frames), hashes, strict=True):
                line.show(grey(7), setup_hash, camera)
            line.until("answers", lambda: len(line.came) == len(hashes))
            scored = [one for one in line.came if isinstance(one, Scored)]
            calls = Counter(one.stages_ns["engine"] for one in scored)
            assert max(calls.values()) <= 2
            return line.came[1].camera == "under" and max(calls.values()) == 2

        line.until("four that met", is_looked_at_together)
    finally:
        line.close()


def test_a_network_measures_what_it_gains_and_answers_either_way() -> None:
    line = Rig(("left", "right"))
    try:
        bundle = write_network_bundle(line.config.bundles_dir / "b")
        recipe = line.recipe(bundle)
        line.start()
        line.use(recipe)
        assert line.health is not None
        gauges = line.health.gauges
        assert gauges["engine_batch_cost"] != 1, "it was measured"
        assert gauges["engine_batch"] in (1, 2)
        for camera in ("left", "right"):
            line.show(np.full((64, 96), 77, np.uint8), recipe[1], camera)
            assert line.answer().classification == pytest.approx(77)
    finally:
        line.close()
