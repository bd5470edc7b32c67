"""What a folder camera plays on purpose: each fault costs its own part alone."""

from appliance.codes import Reason
from appliance.messages import (
    FrameReady,
    NoFrame,
)
from tests import rig_camera
from tests.rig_camera import run_parts

desk, root = rig_camera.desk, rig_camera.root


def test_a_dropped_frame_costs_its_own_part_alone(desk):
    line = desk({"faults": {"drop_every": 3}}).listen_as_infer()
    reasons, counters = run_parts(line, 7)
    assert reasons == {3: Reason.NO_IMAGE, 6: Reason.NO_IMAGE}
    assert (counters["no_image"], counters["frames_lost"], counters["frames_ok"]) == (2, 2, 5)


def test_a_frame_that_comes_too_late_is_nobodys(desk):
    faults = {"delay_every": 3, "delay_ms": 450}
    line = desk({"faults": faults}).listen_as_infer()
    reasons, counters = run_parts(line, 7)
    assert reasons == {3: Reason.NO_IMAGE, 6: Reason.NO_IMAGE}
    assert counters["frames_ok"] == 5


def test_a_frame_that_comes_late_but_in_time_is_its_parts_own(desk):
    faults = {"delay_every": 2, "delay_ms": 100}
    line = desk({"faults": faults}).listen_as_infer()
    assert run_parts(line, 5)[0] == {}


def test_a_doubled_frame_is_an_orphan(desk):
    line = desk({"faults": {"double_every": 2}}).listen_as_infer()
    reasons, counters = run_parts(line, 8)
    assert reasons == {}
    assert (counters["orphans"], counters["frames_ok"]) == (4, 8)


def test_an_incomplete_frame_is_named(desk):
    line = desk({"faults": {"incomplete_every": 3}}).listen_as_infer()
    reasons, counters = run_parts(line, 7)
    assert reasons == {3: Reason.INCOMPLETE_IMAGE, 6: Reason.INCOMPLETE_IMAGE}
    assert (counters["frames_incomplete"], counters["frames_lost"]) == (2, 0)


def test_all_faults_at_once_never_swap_two_parts(desk):
    faults = {
        "drop_every": 8,
        "double_every": 5,
        "delay_every": 4,
        "delay_ms": 450,
        "incomplete_every": 3,
    }
    line = desk({"faults": faults}).listen_as_infer()
    reasons, counters = run_parts(line, 30)
    assert set(reasons.values()) == {Reason.NO_IMAGE, Reason.INCOMPLETE_IMAGE}
    assert counters["frames_ok"] + len(reasons) == counters["triggers"] == 30


def test_a_trigger_behind_a_slow_picture_is_refused_not_fired_late(desk):
    camera = {"faults": {"delay_every": 1, "delay_ms": 300}, "rate_hz": 20.0}
    line = desk(camera).listen_as_infer()
    line.serving()
    line.put_in_force()
    line.fire(1, tag=1)
    line.fire(2, tag=2)
    first, second = line.of(1), line.of(2)
    assert isinstance(first, FrameReady) and line.number(first) == 0
    assert isinstance(second, NoFrame) and second.reason == Reason.NO_IMAGE
    assert "waited too long behind another picture" in second.detail
    assert isinstance(line.shoot(3, tag=3), FrameReady)
