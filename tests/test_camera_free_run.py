"""The camera process in free run: frames without parts, and silence."""

from appliance.codes import Reason
from appliance.messages import (
    NoFrame,
    Prepared,
)
from tests import rig_camera
from tests.rig_camera import PICTURES, frames_of
from tests.waiting import PATIENCE_S

desk, root = rig_camera.desk, rig_camera.root


def test_free_run_sends_every_frame_without_a_part(desk):
    line = desk({"rate_hz": 50.0, "order": "sequence"}, trigger="free").listen_as_infer()
    line.serving()
    line.put_in_force()
    frames = frames_of(line, 20)
    assert {frame.part_id for frame in frames} == {0}
    numbers = [int(frame.source.removesuffix(".png")) for frame in frames]
    steps = [frame.frame_id - frames[0].frame_id for frame in frames]
    # Pictures and ids move together, so whatever was lost on a busy machine is known.
    assert [(number - numbers[0]) % PICTURES for number in numbers] == [s % PICTURES for s in steps]


def test_free_run_counts_what_was_dropped_and_names_what_was_incomplete(desk):
    camera = {
        "rate_hz": 50.0,
        "order": "sequence",
        "faults": {"drop_every": 5, "incomplete_every": 7},
    }
    line = desk(camera, trigger="free").listen_as_infer()
    line.serving()
    line.put_in_force()
    frames = frames_of(line, 20)
    assert sum(frame.lost_before for frame in frames[1:]) >= 3
    incomplete = line.answer("incomplete", lambda m: isinstance(m, NoFrame))
    assert (incomplete.part_id, incomplete.reason) == (0, Reason.INCOMPLETE_IMAGE)


def test_free_run_sends_nothing_before_a_set_up_is_in_force(desk):
    line = desk({"rate_hz": 50.0}, trigger="free").listen_as_infer()
    line.serving()
    assert isinstance(line.ask(), Prepared)
    line.health("orphans", lambda health: health.counters["orphans"] > 3)
    assert line.left_over() == []
    line.put_in_force()
    assert frames_of(line, 1)[0].setup_hash == line.recipes[1].setup_hash


def test_silence_in_free_run_is_a_lost_camera(desk):
    camera = {"rate_hz": 50.0, "faults": {"delay_every": 10, "delay_ms": 3000}}
    line = desk(camera, trigger="free").listen_as_infer()
    line.serving()
    line.put_in_force()
    assert line.process.wait(PATIENCE_S) == 1
    assert "no picture within 400 ms" in line.log.read_text()
