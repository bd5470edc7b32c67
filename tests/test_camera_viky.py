"""The camera process with a real GenTL producer."""

import signal
import time
from itertools import pairwise

import pytest

from appliance.camera_settings import Found, read_found
from appliance.codes import OfflineReason
from appliance.messages import FrameReady, NoFrame, Refused
from appliance.recipe import View
from tests import rig_camera
from tests.rig_camera import frames_of
from tests.waiting import until

desk, root = rig_camera.desk, rig_camera.root
VIKY = {
    "kind": "genicam",
    "producer": "viky",
    "device": {"serial_number": "2"},
    "nodes": {"AcquisitionFrameRate": 200, "Width": 160, "Height": 120},
    "frame_timeout_ms": 2000,  # a busy machine is no lost camera
}


def test_viky_through_the_real_process(desk):
    pytest.importorskip("harvesters")
    views = [View(pixel_format="Mono8"), View(pixel_format="RGBa8"), View(exposure_us=500.0)]
    line = desk(VIKY, views=views).listen_as_infer()
    line.serving()
    line.put_in_force(1)
    last = 0
    for part_id in range(1, 41):
        frame = line.shoot(part_id)
        assert isinstance(frame, FrameReady), frame
        pixels = line.rings.copy(frame.pixels)
        assert pixels.shape == (120, 160) and pixels.max() > pixels.min()
        assert frame.frame_id > last and frame.is_simulated and frame.source == ""
        # The third frame to arrive: two periods of 5 ms at least.
        assert frame.trigger_to_frame_ns > 9_000_000
        last = frame.frame_id
    counters = line.counters()
    assert counters["frames_ok"] == 40 and counters["orphans"] >= 80
    line.put_in_force(2)
    frame = line.shoot(50)
    assert line.rings.copy(frame.pixels).shape == (120, 160, 3)
    refused = line.ask(3)
    assert isinstance(refused, Refused)
    assert (refused.where, refused.expected, refused.got) == (
        "camera top: ExposureTime",
        "a node of the device",
        "no such node",
    )
    assert line.rings.copy(line.shoot(51).pixels).shape == (120, 160, 3)
    assert line.stop(signal.SIGINT) == 0


def test_limits_that_were_approved_for_other_settings_are_refused_by_name(desk):
    pytest.importorskip("harvesters")
    mono8 = {
        "AcquisitionFrameRate": "200", "Device": "Machine Vision Games Ltd. Viky 2",
        "Height": "120", "PixelFormat": "Mono8", "Width": "160",
    }  # fmt: skip
    views = [View(pixel_format="Mono8")] * 3
    line = desk(VIKY, views=views, approved=[mono8, mono8 | {"Width": "200"}]).listen_as_infer()
    line.serving()
    line.put_in_force(1)
    refused = line.ask(2)
    assert isinstance(refused, Refused)
    assert refused.offline is OfflineReason.PASSPORT
    assert refused.where == "recipe cell/2: limits.settings.top"
    assert "Width 200" in refused.expected and "Width 160" in refused.got
    # The set-up that is in force goes on, and nobody is told to approve anything.
    assert isinstance(line.shoot(1), FrameReady)
    assert line.counters() and line.heard[-1].note == ""
    assert read_found(line.config, "top") == Found(recipe="cell/2", settings=mono8)
    line.put_in_force(3)
    line.health("a remark", lambda health: "cell/3 were never approved" in health.note)


def test_viky_in_free_run(desk):
    pytest.importorskip("harvesters")
    line = desk(VIKY, trigger="free").listen_as_infer()
    line.serving()
    line.put_in_force()
    frames = frames_of(line, 30)
    told = {answer.frame_id for answer in line.answers if isinstance(answer, NoFrame)}
    for before, after in pairwise(frames):
        if told.isdisjoint(range(before.frame_id, after.frame_id)):  # a full queue is told
            assert after.frame_id - before.frame_id == 1 + after.lost_before
    assert {frame.part_id for frame in frames} == {0}


def test_a_device_that_is_not_there_is_a_state(desk):
    pytest.importorskip("harvesters")
    camera = VIKY | {"device": {"serial_number": "77"}, "backoff_max_s": 0.2}
    line = desk(camera)
    health = line.health("a reason", lambda h: "serial_number 77" in h.note)
    assert not health.is_serving
    # Opened again and again in one process, without a crash.
    until("attempts", lambda: len(list(line.config.runtime_dir.glob("*.backoff"))) == 1)
    time.sleep(0.8)
    assert line.process.poll() is None
    assert line.stop() == 0
