"""The real camera process between a decide and an infer that are played by the test."""

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
import tomli_w

from appliance.camera_settings import Found, read_found
from appliance.codes import OfflineReason, Reason
from appliance.config import load_config
from appliance.frames import FrameOverwritten, RingReader, inline_view
from appliance.messages import (
    FrameReady,
    NoFrame,
    Prepare,
    Prepared,
    Refused,
    Swap,
    Trigger,
)
from appliance.recipe import Limits, Recipe, View, load_recipe, write_recipe
from appliance.wire import Wiring, curve_keys
from tests.ports import free_port
from tests.waiting import until

PICTURES = 40


class Desk:
    """One camera process and its peers. Answers are kept until a test asks for them."""

    def __init__(
        self, root, camera, trigger="plc", views=None, remote=None, approved=(), **settings
    ):
        self.root = root
        self.log = root / "log"
        defaults = {
            "name": "top",
            "kind": "files",
            "folder": "pictures",
            "order": "tag",
            "rate_hz": 2.0,
            "frame_timeout_ms": 400,
        }
        self.path = root / "config.toml"
        tree = {
            "root": ".",
            "rings": f"/dev/shm/{root.name}",
            "deadline_ms": 2000,
            "trigger": trigger,
            "camera": [defaults | camera],
            **settings,
        }
        if remote:
            tree["wire"] = {"remote": remote}
        self.path.write_text(tomli_w.dumps(tree))
        self.config = load_config(self.path)
        folder = root / "pictures"
        if not folder.exists():
            folder.mkdir()
            for number in range(PICTURES):
                assert cv2.imwrite(str(folder / f"{number:03d}.png"), picture(number))
        self.recipes = {}
        for version, view in enumerate(views or [View()], start=1):
            limits = Limits(
                t1=0.0, t2=1.0, set_by=str(version),
                settings={"top": approved[version - 1]} if version <= len(approved) else {},
            )  # fmt: skip
            recipe = Recipe(
                id="cell",
                version=version,
                bundle=f"{version}" * 64,
                bundle_dir="none",
                decides="map_max",
                limits=limits,
                camera={"top": view},
            )
            write_recipe(self.config, recipe)
            self.recipes[version] = load_recipe(self.config, f"cell/{version}")
        self.wiring = Wiring(self.config.runtime_dir)
        self.seen = self.wiring.receiver("seen")
        self.trigger = self.wiring.sender("trigger", "top")
        self.prepare = self.wiring.sender("prepare", "camera:top")
        self._health = self.wiring.receiver("health", "camera:top")
        self.frames = None
        self.rings = RingReader(self.config.rings_dir)
        self.answers = []
        self.heard = []
        self.inferred = []
        self.process: Any = None

    def start(self, name="top"):
        command = [sys.executable, "-m", "appliance", "process", "camera", "--name", name]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([*command, "--config", str(self.path)], stderr=log)
        return self

    def listen_as_infer(self, wiring=None):
        self.frames = (wiring or self.wiring).receiver("frames", "top")
        return self

    def health(self, what, check, seconds=10.0):
        """The first health that fits; all of them are kept in `heard`."""

        def hear():
            heard = self.drain_health()
            # Only what this process said; an earlier one may have left something behind.
            newest = heard[-1] if heard else None
            ours = newest is not None and newest.pid == self.process.pid
            return newest if ours and check(newest) else None

        return until(f"health with {what}", hear, seconds)

    def infer(self):
        """Read as infer does. Who leaves a socket unread does not notice that its peer died."""
        while self.frames is not None and (message := self.frames.receive()) is not None:
            self.inferred.append((message, self.frames.inline))
        return self.inferred

    def drain_health(self):
        """All that was said so far, last words included."""
        self.infer()
        while (message := self._health.receive()) is not None:
            self.heard.append(message)
        return self.heard

    def serving(self):
        return self.health("a device", lambda health: health.is_serving)

    def counters(self):
        """Figures that are newer than this call."""
        count = len(self.drain_health())
        self.health("fresh figures", lambda _: len(self.heard) > count + 1)
        return self.heard[-1].counters

    def put_in_force(self, version=1):
        recipe = self.recipes[version]
        answer = self.ask(version)
        assert isinstance(answer, Prepared), answer
        until("prepare", lambda: self.prepare.send(Swap(setup_hash=recipe.setup_hash)))
        self.health("set-up", lambda health: health.setup_hash == recipe.setup_hash)
        return self

    def ask(self, version=1, setup_hash=None, recipe=None):
        """Prepare, and the answer to it."""
        setup_hash = setup_hash or self.recipes[version].setup_hash
        message = Prepare(recipe=recipe or f"cell/{version}", setup_hash=setup_hash)
        until("prepare", lambda: self.prepare.send(message))
        return self.answer("answer to prepare", lambda m: getattr(m, "process", "") == "camera:top")

    def answer(self, what, fits, seconds=10.0):
        def look():
            self.infer()
            while (message := self.seen.receive()) is not None:
                self.answers.append(message)
            for index, message in enumerate(self.answers):
                if fits(message):
                    return self.answers.pop(index)
            return None

        return until(what, look, seconds)

    def fire(self, part_id, tag=0):
        until("trigger", lambda: self.trigger.send(Trigger(part_id=part_id, part_tag=tag)))

    def of(self, part_id):
        """The answer for this part."""
        return self.answer(f"answer for part {part_id}", lambda m: part_of(m) == part_id)

    def shoot(self, part_id, tag=0):
        """The answer; asked again while a busy machine leaves the trigger too old to be fired."""

        def look():
            self.fire(part_id, tag)
            answer = self.of(part_id)
            is_refused = isinstance(answer, NoFrame) and "may be too old" in answer.detail
            return None if is_refused else answer

        return until(f"part {part_id} fired", look)

    def number(self, frame):
        """Which picture lies in the ring for this frame."""
        return number_of(self.rings.copy(frame.pixels))

    def left_over(self, seconds=0.2):
        """Answers that nobody asked for."""
        time.sleep(seconds)
        while (message := self.seen.receive()) is not None:
            self.answers.append(message)
        return self.answers

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(10)

    def close(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.wiring.close()
        shutil.rmtree(self.config.rings_dir, ignore_errors=True)
        if self.log.exists():
            sys.stderr.write(self.log.read_text())


def part_of(message):
    return message.part_id if isinstance(message, FrameReady | NoFrame) else None


def picture(number):
    """(24, 32) uint8 that says its number in every pixel but one."""
    pixels = np.full((24, 32), number + 1, np.uint8)
    pixels[0, 0] = 255
    return pixels


def number_of(pixels):
    assert pixels.shape == (24, 32) and pixels[0, 0] == 255
    assert (pixels.ravel()[1:] == pixels[1, 1]).all()
    return int(pixels[1, 1]) - 1


@pytest.fixture
def root():
    path = Path(tempfile.mkdtemp(prefix="insp", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def desk(root):
    """Makes one desk per call, with a started process."""
    made = []

    def make(camera=None, is_started=True, **more):
        made.append(Desk(root, camera or {}, **more))
        return made[-1].start() if is_started else made[-1]

    yield make
    for each in made:
        each.close()


# ---- parts and pictures ---------------------------------------------------------------------


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


# ---- faults ---------------------------------------------------------------------------------


def run_parts(line, count):
    """Shoot parts 1 … count with their own tag. Every picture must be the part's own."""
    line.serving()
    line.put_in_force()
    reasons = {}
    for part_id in range(1, count + 1):
        answer = line.shoot(part_id, tag=part_id)
        if isinstance(answer, FrameReady):
            assert line.number(answer) == part_id - 1, f"part {part_id} got another's picture"
        else:
            reasons[part_id] = answer.reason
    assert [part_of(m) for m in line.left_over()] == []
    return reasons, line.counters()


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


# ---- a process that was away ----------------------------------------------------------------


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
    assert line.process.wait(10) == 1
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


def test_a_set_up_asked_for_during_the_back_off_is_answered_when_the_device_is_there(desk):
    line = desk({"faults": {"lost_after": 1}, "backoff_max_s": 0.5}).listen_as_infer()
    line.serving()
    line.put_in_force()
    line.shoot(1)
    line.shoot(2)
    assert line.process.wait(10) == 1
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
    assert line.process.wait(10) == 1
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
    begun = time.monotonic()
    assert line.stop(number) == 0
    assert time.monotonic() - begun < 3
    assert list(line.config.rings_dir.iterdir()) == []
    assert not list(line.config.runtime_dir.glob("*.backoff"))


# ---- free run -------------------------------------------------------------------------------


def frames_of(line, count):
    return [line.answer("frame", lambda m: isinstance(m, FrameReady)) for _ in range(count)]


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
    assert line.process.wait(10) == 1
    assert "no picture within 400 ms" in line.log.read_text()


# ---- set-ups --------------------------------------------------------------------------------


def test_a_prepared_set_up_is_in_force_after_the_swap_alone(desk):
    line = desk(views=[View(), View(exposure_us=500.0)]).listen_as_infer()
    line.serving()
    line.put_in_force(1)
    answer = line.ask(2)
    assert isinstance(answer, Prepared)
    assert (answer.setup_hash, answer.is_simulated) == (line.recipes[2].setup_hash, True)
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
    assert answer.expected == "set-up ffffffffffff"


# ---- devices that are not there -------------------------------------------------------------


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
    count = len(line.heard)
    time.sleep(1.0)
    line.serving()
    assert 5 <= len(line.heard) - count <= 12


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
    assert line.process.wait(20) == 78
    log = line.log.read_text()
    assert line_end in log and "Traceback" not in log


# ---- a real GenTL producer ------------------------------------------------------------------

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
    for before, after in pairwise(frames):
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


# ---- another box ----------------------------------------------------------------------------


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
