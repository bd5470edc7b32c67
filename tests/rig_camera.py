"""The real camera process between a decide and an infer that are played by the test."""

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tomli_w

from appliance.config import load_config
from appliance.frames import RingReader
from appliance.messages import (
    FrameReady,
    NoFrame,
    Prepare,
    Prepared,
    Swap,
    Trigger,
)
from appliance.recipe import Limits, Recipe, View, load_recipe, write_recipe
from appliance.wire import Wiring
from tests.waiting import PATIENCE_S, until


@contextmanager
def short_root():
    """A directory whose path leaves room for the names of sockets."""
    path = Path(tempfile.mkdtemp(prefix="insp", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def root():
    with short_root() as path:
        yield path


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

    def start(self, name="top", log=None):
        command = [sys.executable, "-m", "appliance", "process", "camera", "--name", name]
        with log or self.log.open("ab") as stderr:
            self.process = subprocess.Popen([*command, "--config", str(self.path)], stderr=stderr)
        return self

    def listen_as_infer(self, wiring=None):
        self.frames = (wiring or self.wiring).receiver("frames", "top")
        return self

    def health(self, what, check):
        """The first health that fits; all of them are kept in `heard`."""

        def hear():
            heard = self.drain_health()
            # Only what this process said; an earlier one may have left something behind.
            newest = heard[-1] if heard else None
            ours = newest is not None and newest.pid == self.process.pid
            return newest if ours and check(newest) else None

        return until(f"health with {what}", hear)

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

    def answer(self, what, fits):
        def look():
            self.infer()
            while (message := self.seen.receive()) is not None:
                self.answers.append(message)
            for index, message in enumerate(self.answers):
                if fits(message):
                    return self.answers.pop(index)
            return None

        return until(what, look)

    def fire(self, part_id, tag=0):
        trigger = Trigger(part_id=part_id, part_tag=tag, asked_ns=time.monotonic_ns())
        until("trigger", lambda: self.trigger.send(trigger))

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
        return self.process.wait(PATIENCE_S)

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


def frames_of(line, count):
    return [line.answer("frame", lambda m: isinstance(m, FrameReady)) for _ in range(count)]
