"""The camera process: parts and pictures, set-ups, devices that go, and another box."""

import shutil
import signal
import time
from contextlib import contextmanager

import cv2
import msgspec
import numpy as np
import pytest

from appliance.codes import OfflineReason, Reason
from appliance.frames import FrameOverwritten, inline_view
from appliance.messages import (
    FrameReady,
    NoFrame,
    Prepared,
    Refused,
    Swap,
)
from appliance.recipe import View
from appliance.wire import Wiring
from appliance.wire_keys import curve_keys
from tests import rig_camera
from tests.ports import free_port
from tests.processes import full_pipe
from tests.rig_camera import (
    number_of,
    picture,
)
from tests.waiting import PATIENCE_S, until

desk, root = rig_camera.desk, rig_camera.root


def test_every_trigger_gets_its_own_picture_once(desk):
    line = desk().listen_as_infer()
    line.serving()
    line.put_in_force()
    numbers = [7, 7, 0, 39, 3, *range(20), 5]
    last_frame = 0
    for part_id, number in enumerate(numbers, start=1 << 40):
        frame = line.shoot(part_id, tag=number + 1)
        assert isinstance(frame, FrameReady), frame
        assert line.number(frame) == number
        assert frame.source == f"{number:03d}.png"
        assert frame.setup_hash == line.recipes[1].setup_hash
        assert (frame.camera, frame.bits, frame.is_simulated) == ("top", 8, True)
        assert frame.frame_id > last_frame
        assert 0 <= frame.age_ns < 10**9 and 0 < frame.copy_ns < 10**9
        assert 0 <= frame.trigger_to_frame_ns < 10**9
        last_frame = frame.frame_id
        # infer hears the same, word for word.
        assert until("frame at infer", line.infer).pop() == (frame, None)
    assert line.left_over() == []
    counters = line.counters()
    assert counters["triggers"] == counters["frames_ok"] == len(numbers)
    assert counters["orphans"] == counters["frames_lost"] == counters["queue_full"] == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_repeat_is_said_where_no_infer_process_sees_every_picture(desk, workers):
    line = desk(engine={"workers": workers}).listen_as_infer()
    line.serving()
    line.put_in_force()
    frames = [line.shoot(part_id, tag) for part_id, tag in enumerate((5, 6, 6, 7), start=1)]
    assert [frame.is_repeat for frame in frames] == [False, False, workers > 1, False]


def test_16_bits_and_colour_reach_the_ring(desk, root):
    (root / "pictures").mkdir()
    deep = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32) * 80
    rgb = np.zeros((24, 32, 3), np.uint8)
    rgb[:] = (200, 100, 50)
    assert cv2.imwrite(str(root / "pictures" / "0.png"), deep)
    assert cv2.imwrite(str(root / "pictures" / "1.png"), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    line = desk().listen_as_infer()
    line.serving()
    line.put_in_force()
    frame = line.shoot(1, tag=1)
    assert frame.bits == 16
    np.testing.assert_array_equal(line.rings.copy(frame.pixels), deep)
    frame = line.shoot(2, tag=2)
    assert frame.bits == 8
    np.testing.assert_array_equal(line.rings.copy(frame.pixels), rgb)


def test_without_infer_a_frame_is_queue_full(desk):
    line = desk()
    line.put_in_force()
    health = line.health("a reason", lambda health: health.note == "infer is not connected")
    assert not health.is_serving
    answer = line.shoot(1, tag=1)
    assert isinstance(answer, NoFrame) and answer.reason == Reason.QUEUE_FULL
    assert line.left_over() == []
    counters = line.counters()
    assert (counters["queue_full"], counters["frames_ok"]) == (1, 0)


def test_without_a_set_up_no_picture_is_taken(desk):
    line = desk().listen_as_infer()
    line.serving()
    answer = line.shoot(1, tag=1)
    assert isinstance(answer, NoFrame) and answer.reason == Reason.NO_IMAGE
    assert "no set-up" in answer.detail
    assert line.infer() == []
    assert line.counters()["refused_triggers"] == 1


def test_old_frames_are_overwritten_not_kept(desk):
    line = desk().listen_as_infer()
    line.serving()
    line.put_in_force()
    first = line.shoot(1, tag=1)
    slots = int(line.health("ring", lambda h: "ring_slots" in h.gauges).gauges["ring_slots"])
    assert slots == 12
    assert line.number(first) == 0
    for part_id in range(2, slots + 2):
        line.shoot(part_id, tag=part_id)
    with pytest.raises(FrameOverwritten):
        line.rings.view(first.pixels)


def test_a_trigger_that_waited_for_a_stopped_process_is_not_answered_with_a_picture(desk):
    line = desk({"rate_hz": 10.0}).listen_as_infer()
    line.serving()
    line.put_in_force()
    assert isinstance(line.shoot(1, tag=1), FrameReady)
    line.process.send_signal(signal.SIGSTOP)
    time.sleep(0.1)
    line.fire(2, tag=2)
    time.sleep(0.3)
    line.process.send_signal(signal.SIGCONT)
    stale = line.of(2)
    assert isinstance(stale, NoFrame) and "too old" in stale.detail
    until("a picture again", lambda: isinstance(line.shoot(3, tag=3), FrameReady))
    assert line.left_over() == []


def test_a_lost_device_ends_the_process_and_the_next_one_waits_as_a_state(desk):
    camera = {"faults": {"lost_after": 3}, "backoff_max_s": 0.6}
    line = desk(camera).listen_as_infer()
    line.serving()
    line.put_in_force()
    for part_id in (1, 2, 3):
        assert isinstance(line.shoot(part_id, tag=part_id), FrameReady)
    lost = line.shoot(4, tag=4)
    assert isinstance(lost, NoFrame) and lost.reason == Reason.NO_IMAGE
    assert "camera top: lost" in lost.detail
    assert line.process.wait(PATIENCE_S) == 1
    assert "Traceback" not in line.log.read_text()

    begun = time.monotonic()
    line.start()
    waiting = line.health("waiting", lambda health: not health.is_serving)
    assert waiting.setup_hash == ""
    refused = line.shoot(5, tag=5)
    assert isinstance(refused, NoFrame) and refused.reason == Reason.NO_IMAGE
    line.serving()
    assert time.monotonic() - begun >= 0.6
    # Nothing that was asked before the device was there is answered with a picture now.
    assert line.left_over() == []
    line.put_in_force()
    assert isinstance(line.shoot(6, tag=6), FrameReady)


def test_a_log_that_nobody_reads_holds_up_no_picture_and_no_end(desk):
    line = desk({"faults": {"lost_after": 1}}, is_started=False).listen_as_infer()
    with full_pipe() as log:
        line.start(log=log)
        line.serving()  # says so in the log
        line.put_in_force()
        assert isinstance(line.shoot(1), FrameReady)
        assert isinstance(line.shoot(2), NoFrame)
        assert line.process.wait(PATIENCE_S) == 1


def test_a_set_up_asked_for_during_the_back_off_is_answered_when_the_device_is_there(desk):
    line = desk({"faults": {"lost_after": 1}, "backoff_max_s": 0.5}).listen_as_infer()
    line.serving()
    line.put_in_force()
    line.shoot(1)
    line.shoot(2)
    assert line.process.wait(PATIENCE_S) == 1
    line.start()
    line.health("waiting", lambda health: not health.is_serving)
    line.put_in_force()
    assert isinstance(line.shoot(3, tag=3), FrameReady)


def test_two_triggers_in_a_row_without_a_picture_are_a_lost_camera(desk):
    camera = {"faults": {"delay_every": 1, "delay_ms": 5000}, "backoff_max_s": 0.1}
    line = desk(camera).listen_as_infer()
    line.serving()
    line.put_in_force()
    for part_id in (1, 2):
        answer = line.shoot(part_id, tag=part_id)
        assert isinstance(answer, NoFrame)
        assert answer.detail == "no picture within 400 ms of the trigger"
    assert line.process.wait(PATIENCE_S) == 1
    until("last words", lambda: any("2 times in a row" in h.note for h in line.drain_health()))


def test_a_killed_process_comes_back_at_once_with_a_new_ring(desk):
    line = desk().listen_as_infer()
    line.serving()
    line.put_in_force()
    before = line.shoot(1, tag=1)
    line.process.kill()
    line.process.wait()
    assert line.number(before) == 0
    line.start()
    line.serving()
    line.put_in_force()
    after = line.shoot(2, tag=2)
    assert isinstance(after, FrameReady)
    assert after.pixels.epoch != before.pixels.epoch
    assert after.frame_id > before.frame_id
    assert [file.name for file in line.config.rings_dir.iterdir()] == [after.pixels.ring]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_orderly_end_leaves_no_ring_and_no_backoff(desk, number):
    line = desk().listen_as_infer()
    line.serving()
    line.put_in_force()
    line.shoot(1, tag=1)
    assert line.stop(number) == 0
    assert list(line.config.rings_dir.iterdir()) == []
    assert not list(line.config.runtime_dir.glob("*.backoff"))


def test_a_prepared_set_up_is_in_force_after_the_swap_alone(desk):
    line = desk(views=[View(), View(exposure_us=500.0)]).listen_as_infer()
    line.serving()
    line.put_in_force(1)
    assert line.health("word", lambda health: health.setup_hash != "").is_simulated
    answer = line.ask(2)
    assert isinstance(answer, Prepared)
    assert answer.setup_hash == line.recipes[2].setup_hash
    assert line.shoot(1, tag=1).setup_hash == line.recipes[1].setup_hash
    line.prepare.send(Swap(setup_hash="0" * 64))
    assert line.shoot(2, tag=2).setup_hash == line.recipes[1].setup_hash
    # Somebody else refused: back to the old one, and the prepared one is forgotten.
    line.prepare.send(Swap(setup_hash=line.recipes[1].setup_hash))
    line.prepare.send(Swap(setup_hash=line.recipes[2].setup_hash))
    assert line.shoot(3, tag=3).setup_hash == line.recipes[1].setup_hash
    line.put_in_force(2)
    frame = line.shoot(4, tag=4)
    assert frame.setup_hash == line.recipes[2].setup_hash
    assert line.number(frame) == 3


REFUSALS = [
    ("cell/9", "recipes/cell/9.toml", "a TOML file", "no such file"),
    ("broken/1", "recipes/broken/1.toml: decides", "`str`", "`int`"),
    ("../cell/1", "recipes", 'a recipe name like "cell/3"', "'../cell/1'"),
]


def test_a_recipe_that_cannot_be_used_is_refused_and_nothing_else_happens(desk, root):
    (root / "recipes" / "broken").mkdir(parents=True)
    (root / "recipes" / "broken" / "1.toml").write_text(
        'id = "broken"\nversion = 1\nbundle = ""\nbundle_dir = ""\ndecides = 5\n'
        "[limits]\nt1 = 0.0\nt2 = 1.0\n"
    )
    line = desk().listen_as_infer()
    line.serving()
    line.put_in_force()
    for recipe, where, expected, got in REFUSALS:
        answer = line.ask(recipe=recipe, setup_hash="f" * 64)
        assert isinstance(answer, Refused)
        assert answer.setup_hash == "f" * 64
        assert answer.where.endswith(where) and expected in answer.expected and got in answer.got
        assert answer.offline == OfflineReason.NO_RECIPE
    assert isinstance(line.shoot(1, tag=1), FrameReady)


def test_a_recipe_with_another_hash_is_refused(desk):
    line = desk()
    answer = line.ask(setup_hash="f" * 64)
    assert isinstance(answer, Refused)
    assert answer.where.endswith("recipes/cell/1.toml")
    assert answer.expected == "the set-up ffffffffffff…"


def test_a_folder_with_something_else_in_it_is_a_state_until_it_is_mended(desk, root):
    (root / "pictures").mkdir()
    bad = root / "pictures" / "000.png"
    bad.write_bytes(b"no image")
    line = desk({"backoff_max_s": 0.2}).listen_as_infer()
    health = line.health("a reason", lambda health: "000.png" in health.note)
    assert not health.is_serving
    answer = line.shoot(1)
    assert isinstance(answer, NoFrame) and "000.png: expected an image" in answer.detail
    assert cv2.imwrite(str(bad), picture(0))
    line.serving()
    line.put_in_force()
    assert isinstance(line.shoot(2, tag=1), FrameReady)
    assert line.log.read_text().count("no camera") == 1


def test_health_comes_ten_times_a_second(desk):
    line = desk().listen_as_infer()
    line.serving()
    count, begun = len(line.heard), time.monotonic()
    time.sleep(1.0)
    line.serving()
    assert 5 <= len(line.heard) - count <= 10 * (time.monotonic() - begun) + 2


@pytest.mark.parametrize(
    ("camera", "name", "line_end"),
    [
        ({}, "side", "--name: expected one of top, got 'side'"),
        (
            {"kind": "genicam", "producer": "/nowhere/x.cti"},
            "top",
            "camera.top.producer: expected a GenTL producer (.cti), got no file /nowhere/x.cti",
        ),
        (
            {
                "kind": "genicam",
                "producer": "viky",
                "device": {"serial_number": "1"},
                "nodes": {"Widht": 3},
            },
            "top",
            "camera.top.nodes.Widht: expected a node of the device, got no such node",
        ),
    ],
)
def test_a_configuration_that_cannot_be_ends_with_78_and_one_line(desk, camera, name, line_end):
    if camera:
        pytest.importorskip("harvesters")
    line = desk(camera, is_started=False).start(name)
    assert line.process.wait(PATIENCE_S) == 78
    log = line.log.read_text()
    assert line_end in log and "Traceback" not in log


@contextmanager
def infer_elsewhere(root, address):
    """A second box that may receive the camera's frames."""
    here, there = root / "keys", root / "there"
    curve_keys(here, "box")
    curve_keys(there, "box")
    (here / "allowed").mkdir(mode=0o700)
    shutil.copy(there / "box.key", here / "allowed" / "there.key")
    shutil.copy(here / "box.key", there / "server.key")
    with Wiring(root / "elsewhere", {"frames": address}, there) as wiring:
        yield wiring


def test_between_boxes_pixels_travel_inline(desk, root):
    address = f"tcp://127.0.0.1:{free_port()}"
    with infer_elsewhere(root, address) as wiring:
        line = desk(remote={"frames": address}).listen_as_infer(wiring)
        line.serving()
        line.put_in_force()
        seen = line.shoot(1, tag=6)
        assert line.number(seen) == 5, "recorder and pages of this box read it in the ring"
        message, payload = until("frame", line.infer).pop()
        assert message.pixels.ring == ""
        assert number_of(inline_view(message.pixels, payload)) == 5
        assert msgspec.structs.replace(message, pixels=seen.pixels) == seen
