"""The rest of the line around one `Line`, on virtual time: camera, infer, recorder and a PLC.

What each message carries is decided by a plan per part, so that a test can lose, double, delay or
swap any of them. The truth is kept beside the messages: which part a frame really shows, and
whether that part is bad. Every verdict is checked as it is given.
"""

import heapq
import math
import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from appliance.codes import CommandError, Control, Reason, Status1, Word
from appliance.config import Config, Engine, Plc, Wire
from appliance.config_camera import Camera
from appliance.config_challenge import ChallengePlan
from appliance.config_record import Record
from appliance.journal import Journal
from appliance.line import Line, Outlets
from appliance.messages import (
    FrameReady,
    Health,
    InferFailed,
    LateResult,
    NoFrame,
    Prepare,
    Prepared,
    Refused,
    Scored,
    Stored,
    Swap,
    Taped,
    Trigger,
    Verdict,
    camera_label,
)
from appliance.part import Judgement, Part, Sight
from appliance.tape import Tape
from appliance.words import Bank, decode_input
from tests.line_plans import MS, Plan, Process, Shown, loaded, pixels

DEADLINE_MS = 200
SIZE = 1 << 18
UTC_S = 1_790_000_000
"""2026-09-21, 13:33:20 UTC."""


@dataclass
class World:
    """A line on virtual time."""

    trigger: Any = "plc"
    results: Any = ""
    seed: int = 0
    first_id: int = 1
    deadline_ms: int = DEADLINE_MS
    challenge: ChallengePlan = field(default=ChallengePlan())
    plan: Callable[[int], Plan] = field(default=lambda part_id: Plan())
    cameras: tuple[str, ...] = ("top",)
    record_policy: Record = field(default=Record())
    remote: dict[str, str] = field(default_factory=dict)
    """`[wire] remote`."""
    is_real: bool = False
    """By config.toml, which names a GenTL producer and a network; the pictures say otherwise."""
    workers: int = 1
    """infer processes; frames are dealt out in turn to those that live."""
    tape: Callable[[Taped], bool] | None = None
    """Takes what the parts are told, for a recording."""
    view: Callable[[int, str], Plan] | None = None
    """On a line with several cameras, instead of `plan`."""
    now: int = 1_000_000 * MS

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.root = Path(tempfile.mkdtemp(prefix="insp", dir="/dev/shm"))
        self.config = Config(
            root=str(self.root),
            deadline_ms=self.deadline_ms,
            trigger=self.trigger,
            camera=tuple(self._eye(name) for name in self.cameras),
            engine=Engine(kind="onnx" if self.is_real else "null", workers=self.workers),
            plc=Plc(results=self.results),
            challenge=self.challenge,
            record=self.record_policy,
            wire=Wire(remote=self.remote),
        )
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self.eyes = {name: Process(100 + 10_000 * i) for i, name in enumerate(self.cameras)}
        self.infers = [Process(200 + 10_000 * i) for i in range(self.workers)]
        self.camera, self.infer, self.record = (
            self.eyes[self.cameras[0]],
            self.infers[0],
            Process(300),
        )
        self.frame_ids = dict.fromkeys(self.cameras, 0)
        self.shows: dict[tuple[str, int], int] = {}
        """Which part a camera's frame shows; frame ids of two cameras are alike."""
        self.plans: dict[int, Plan] = {}
        """Of the first camera."""
        self.views: dict[tuple[int, str], Plan] = {}
        self.triggers: list[Trigger] = []
        self.verdicts: dict[int, Shown] = {}
        self.newest: dict[int, Verdict] = {}
        """By AcqID, which repeats after 65535 parts."""
        self.late: list[LateResult] = []
        self.rows: dict[int, Verdict] = {}
        self.rows_seen = 0
        self.loads: list[tuple[int, CommandError]] = []
        self.recipes = {1: loaded("cell"), 2: loaded("other")}
        self.store_delay_ms = 30.0
        self.is_disk_slow = False
        self.read_ms = 20.0
        """Reading a recipe and hashing its bundle."""
        self.prepare_ms = 40.0
        self.is_storing = True
        self.opened: dict[int, int] = {}
        """Part id → deadline, of every part that was ever accepted."""
        self.journal = Journal(self.root / "state", SIZE)
        self.journal._next_id = self.journal.first_id = self.first_id
        self.journal._reserved_to = max(self.journal._reserved_to, self.first_id)
        self._begin(adopts=True)
        self._every(50, lambda: self.line.tick(self.now))
        self._every(100, self._beats)
        self._every(1000, lambda: self.line.check_ledger(self.now))

    def _eye(self, name: str) -> Camera:
        if self.is_real:
            return Camera(name=name, kind="genicam", producer="x.cti")
        return Camera(name=name, kind="files", folder="x")

    def close(self) -> None:
        """Let go of the files."""
        self.journal.close()
        shutil.rmtree(self.root)

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self, adopts: bool) -> None:
        outlets = Outlets(
            trigger=self._triggered,
            verdict=self._row,
            live=self._verdict,
            load_recipe=self._load,
            load_recipe_by_hash=self._load_by_hash,
            reload_products=lambda done: done(CommandError.DONE, ""),
            setup=self._setup,
        )
        self.bank = Bank()
        tape = None if self.tape is None else Tape(self.tape)
        self.line = Line(
            self.config, self.journal, self.bank, outlets, "test", self.now, tape, self.utc_s
        )
        if adopts:
            self.line.product.adopt(self.recipes[1], 1)
        opening = self.line.book.open

        def opened(*arguments: Any, **more: Any) -> Part:
            part = opening(*arguments, **more)
            assert part.part_id not in self.opened, "an id was given twice"
            self.opened[part.part_id] = part.deadline_ns
            return part

        self.line.book.open = opened

    def utc_s(self) -> int:
        """The wall clock."""
        return UTC_S + self.now // 1_000_000_000

    def kill_decide(self, adopts: bool = True) -> None:
        """-9, and a new one from the journal. adopts: with the first recipe in force."""
        self.journal.close()
        self.journal = Journal(self.root / "state", SIZE)
        self._begin(adopts)

    def at(self, ms: float, call: Callable[[], None]) -> None:
        """Later."""
        self._count += 1
        heapq.heappush(self._queue, (self.now + int(ms * MS), self._count, call))

    def after(self, process: Process, ms: float, call: Callable[[], None]) -> None:
        """Later, and not before what this process said earlier."""
        process.free_ns = max(process.free_ns, self.now + int(ms * MS))
        self.at((process.free_ns - self.now) / MS, call)

    def _every(self, ms: int, call: Callable[[], object]) -> None:
        def again() -> None:
            call()
            self.at(ms, again)

        self.at(ms, again)

    def run(self, ms: float) -> None:
        """Let time pass; deadlines are called when they are due, as the loop's timer does."""
        until = self.now + int(ms * MS)
        while True:
            due = self.line.next_deadline_ns()
            first = self._queue[0][0] if self._queue else until
            if due is not None and due <= min(first, until):
                self.now = max(self.now, due)
                self.line.expire(self.now)
                continue
            if first > until:
                break
            due, _, call = heapq.heappop(self._queue)
            self.now = max(self.now, due)
            call()
        self.now = until

    def stall(self, ms: float) -> None:
        """decide gets no turn for so long; what came meanwhile comes at once after it."""
        self.now += int(ms * MS)

    def _triggered(self, camera: str, message: Trigger) -> bool:
        eye, part_id = self.eyes[camera], message.part_id
        if not eye.is_alive:
            return False
        self.triggers.append(message)
        pid = eye.pid
        plan = self.view(part_id, camera) if self.view else self.plan(part_id)
        self.views[part_id, camera] = plan
        if eye is self.camera:
            self.plans[part_id] = plan
        self.after(eye, plan.camera_ms, lambda: self._exposed(camera, part_id, plan, pid))
        return True

    def frame(self, part_id: int, shows: int, camera: str = "") -> FrameReady:
        """A new picture, of the first camera unless another is named."""
        camera = camera or self.cameras[0]
        self.frame_ids[camera] += 1
        frame_id = self.frame_ids[camera]
        self.shows[camera, frame_id] = shows
        return FrameReady(
            camera=camera,
            part_id=part_id,
            frame_id=frame_id,
            setup_hash=self.eyes[camera].setup,
            pixels=pixels(frame_id),
            age_ns=5 * MS,
            is_simulated=True,
        )

    def no_frame(self, part_id: int, reason: Reason, camera: str = "") -> None:
        """The camera's other answer."""
        camera = camera or self.cameras[0]
        message = NoFrame(camera=camera, part_id=part_id, reason=reason, detail="planned")
        self.line.no_frame(message, self.now)

    def _exposed(self, camera: str, part_id: int, plan: Plan, pid: int) -> None:
        eye = self.eyes[camera]
        if not eye.is_alive or eye.pid != pid:
            return
        match plan.camera:
            case "silent":
                return
            case "none":
                self.no_frame(part_id, Reason.NO_IMAGE, camera)
            case "incomplete":
                self.no_frame(part_id, Reason.INCOMPLETE_IMAGE, camera)
            case "queue_full":
                self.no_frame(part_id, Reason.QUEUE_FULL, camera)
            case _:
                if plan.camera == "after_none":
                    self.no_frame(part_id, Reason.NO_IMAGE, camera)
                shows = part_id - 1 if plan.camera == "foreign" else part_id
                message = self.frame(part_id, shows, camera)
                if plan.camera == "foreign":
                    message = msgspec.structs.replace(message, part_id=part_id + 1000)
                self.send_frame(message, plan)
                if plan.camera == "double":
                    self.seen(message)
                if plan.camera == "then_none":
                    self.no_frame(part_id, Reason.NO_IMAGE, camera)

    def send_frame(self, message: FrameReady, plan: Plan) -> None:
        """To infer and to decide, in either order."""
        living = [infer for infer in self.infers if infer.is_alive]
        if not living:
            self.no_frame(message.part_id, Reason.QUEUE_FULL, message.camera)
            return
        infer = living[message.frame_id % len(living)]
        pid = infer.pid
        if plan.is_infer_first:
            self._answer(message, plan, infer, pid)
            # decide reads two sockets: what came last may be read first, but not much later.
            eye = self.eyes[message.camera]
            self.after(eye, min(plan.infer_ms, 30), lambda: self.seen(message))
        else:
            self.seen(message)
            self.after(infer, plan.infer_ms, lambda: self._answer(message, plan, infer, pid))

    def seen(self, message: FrameReady) -> None:
        """decide hears of a frame."""
        sight = self.line.frame(message, self.now)
        if sight is not None:
            self._score(sight)

    def _answer(self, message: FrameReady, plan: Plan, infer: Process, pid: int) -> None:
        if not infer.is_alive or infer.pid != pid or plan.infer == "silent":
            return
        if plan.infer == "failed":
            failed = InferFailed(
                camera=message.camera,
                part_id=message.part_id,
                frame_id=message.frame_id,
                setup_hash=self.infer.setup,
                reason=Reason.IMAGE_HEALTH,
                detail="planned",
            )
            self.line.book.failed(failed, self.now)
            return
        scored = self.score_of(message)
        if plan.infer == "other_frame":
            scored = msgspec.structs.replace(scored, frame_id=message.frame_id + 7)
        if plan.infer == "other_setup":
            scored = msgspec.structs.replace(scored, setup_hash="another")
        self.scored(scored)
        if plan.infer == "double":
            self.scored(scored)

    def score_of(self, message: FrameReady) -> Scored:
        """What infer answers to this frame."""
        return Scored(
            camera=message.camera,
            part_id=message.part_id,
            frame_id=message.frame_id,
            setup_hash=self.infer.setup,
            map=pixels(message.frame_id),
            classification=0.0,
        )

    def scored(self, message: Scored) -> None:
        """decide hears of a score."""
        sight = self.line.book.scored(message, self.now)
        if sight is not None:
            self._score(sight)

    def _planned(self, part_id: int, camera: str) -> Plan:
        """A hardware trigger's parts are planned by their number, without a trigger to a camera."""
        return self.views.get((part_id, camera)) or self.plans.get(part_id, Plan())

    def _score(self, sight: Sight) -> None:
        """decide's scoring thread: the margin of what the frame really shows."""
        scored = sight.scored
        assert scored is not None
        plan = self._planned(sight.part.part_id, sight.camera)
        line = self.line
        if plan.infer == "map_lost":
            self.at(1, lambda: line.part_failed(sight, Reason.FRAME_OVERWRITTEN, "", self.now))
            return
        shown = self.shows.get((sight.camera, scored.frame_id), -1)
        margin = 5.0 if self._planned(shown, sight.camera).is_bad else 0.0
        if plan.infer == "nan":
            margin = math.nan
        made = Judgement(margin=margin, map_max=margin)
        self.at(1, lambda: line.judged(sight, made, self.now))

    def _row(self, message: Verdict | LateResult) -> bool:
        if not self.record.is_alive:
            return False
        if isinstance(message, LateResult):
            self.late.append(message)
            return True
        self.rows_seen += 1
        if self.is_storing:
            pid = self.record.pid
            self.at(self.store_delay_ms, lambda: self._store(message, pid))
        return True

    def _store(self, message: Verdict, pid: int) -> None:
        if self.record.is_alive and self.record.pid == pid:
            known = self.rows.setdefault(message.part_id, message)
            assert known == message, "two rows for one part"
            self.line.stored(Stored(part_ids=(message.part_id,), is_slow=self.is_disk_slow))

    def _setup(self, label: str, message: Prepare | Swap) -> bool:
        kind, _, name = label.partition(":")
        process = self.eyes[name] if kind == "camera" else self.infers[int(name)]
        if not process.is_alive:
            return False
        pid = process.pid
        if isinstance(message, Prepare):
            self.at(self.prepare_ms, lambda: self._prepared(label, process, pid, message))
        else:
            self.at(1, lambda: self._swap(process, pid, message))
        return True

    def _prepared(self, label: str, process: Process, pid: int, message: Prepare) -> None:
        if not process.is_alive or process.pid != pid:
            return
        if process.refuses:
            self.line.setups.refused(
                Refused(
                    process=label,
                    setup_hash=message.setup_hash,
                    where="file",
                    expected="this",
                    got="that",
                )
            )
        else:
            process.prepared = message.setup_hash
            self.line.setups.prepared(Prepared(process=label, setup_hash=message.setup_hash))
        self.line.tick(self.now)

    def _swap(self, process: Process, pid: int, message: Swap) -> None:
        if process.pid == pid and process.prepared == message.setup_hash:
            process.setup = message.setup_hash

    def _beats(self) -> None:
        self.line.beat(self.now)
        for name, process in (
            *((camera_label(name), eye) for name, eye in self.eyes.items()),
            *((f"infer:{number}", infer) for number, infer in enumerate(self.infers)),
            ("record", self.record),
        ):
            if process.is_alive:
                health = Health(
                    process=name,
                    pid=process.pid,
                    is_serving=True,
                    setup_hash=process.setup,
                    is_simulated=name.startswith("camera"),
                )
                self.line.heard(health, self.now)

    def kill(self, process: Process, back_ms: float = 400) -> None:
        """-9; a new one `back_ms` later, with nothing loaded."""
        if not process.is_alive:
            return
        process.is_alive = False

        def back() -> None:
            process.pid += 1
            process.setup = process.prepared = ""
            process.is_alive = True

        self.at(back_ms, back)

    def _load(self, number: int, done: Callable[[CommandError, str], None]) -> None:
        def answered(code: CommandError, detail: str) -> None:
            self.loads.append((number, code))
            done(code, detail)

        if number not in self.recipes:
            answered(CommandError.UNKNOWN_PRODUCT, "unknown")
            return
        target, asked_ns = self.recipes[number], self.now
        self.at(
            self.read_ms,
            lambda: self.line.product.change(target, number, asked_ns, self.now, answered),
        )

    def _load_by_hash(self, wanted: int, done: Callable[[CommandError, str], None]) -> None:
        numbers = [number for number, recipe in self.recipes.items() if recipe.hash32 == wanted]
        self._load(numbers[0] if numbers else 0, done)

    def _verdict(self, verdict: Verdict) -> None:
        part_id = verdict.part_id
        assert part_id not in self.verdicts, "two verdicts for one part"
        assert part_id in self.opened, "a verdict for a part that nobody opened"
        assert self.now <= self.opened[part_id], "a verdict after its deadline"
        self.verdicts[part_id] = Shown(verdict, self.now)
        self.newest[verdict.acq_id] = verdict
        if verdict.word == Word.OK:
            for view in verdict.by_view():
                assert view.frame_id, "OK without a frame"
                assert view.margin is not None
                if self.trigger == "plc":
                    shown = self.shows[view.camera, view.frame_id]
                    assert shown == part_id, "OK by another part's picture"
                    plan = self.views[part_id, view.camera]
                    assert not plan.is_bad, "a bad part is OK"
                    assert not plan.is_faulty, f"OK in spite of {plan}"
                if self.trigger == "hardware":
                    assert verdict.is_tag_known, "OK for a part that the PLC did not count"
                    shown = self.shows[view.camera, view.frame_id]
                    assert shown == verdict.part_tag, "OK by another part's picture"
                    assert not self._planned(shown, view.camera).is_bad, "a bad part is OK"

    def write(self, control: Control | None = None, **words: Any) -> None:
        """One request of the PLC."""
        if control is not None:
            self.bank.set("Control", control)
        for name, value in words.items():
            self.bank.set(name, value)
        self.line.plc_wrote(decode_input(self.bank), self.now)
        self.line.handshake.shown()

    def beat(self, control: Control | None = None, **words: Any) -> None:
        """One request with a new heartbeat."""
        self.write(control, PlcHeartbeat=self.bank.number("PlcHeartbeat") + 1 & 0xFFFF, **words)

    def has(self, bit: Status1) -> bool:
        """In HR 100."""
        return bit in Status1(self.bank.number("Status1"))

    @property
    def is_ready(self) -> bool:
        """TriggerReady."""
        return self.has(Status1.TRIGGER_READY)

    def until_ready(self, control: Control = Control.ENABLE, ms: int = 5000) -> "World":
        """Heartbeats until TriggerReady."""
        for _ in range(ms // 20):
            self.beat(control)
            if self.is_ready:
                return self
            self.run(20)
        raise AssertionError(
            f"not ready after {ms} ms: {self.line.conditions}, {self.line.ledger.figures()}"
        )

    def part(self, control: Control = Control.ENABLE, **words: Any) -> int:
        """One trigger and its acknowledgement; returns the part id."""
        before = len(self.opened)
        self.beat(control | Control.TRIGGER, **words)
        assert len(self.opened) == before + 1, "the trigger was not accepted"
        assert self.has(Status1.TRIGGER_ACK)
        self.beat(control)
        return max(self.opened)

    def read(self, ms: int = 1000, control: Control = Control.ENABLE) -> tuple[int, int]:
        """Wait for the result, read AcqID and word of it, acknowledge."""
        for _ in range(ms // 5):
            if self.has(Status1.RESULT_VALID):
                break
            self.run(5)
            self.beat()
        assert self.has(Status1.RESULT_VALID), "no result"
        read = self.bank.number("InspectionID"), self.bank.number("Verdict")
        self.beat(control | Control.RESULT_ACK)
        self.beat(control)
        return read

    def idle(self, ms: int) -> None:
        """Let time pass with a PLC that only beats."""
        for _ in range(ms // 100):
            self.run(100)
            self.beat()

    @property
    def unaccounted(self) -> int:
        """As the PLC reads it."""
        return self.bank.number("unaccounted")
