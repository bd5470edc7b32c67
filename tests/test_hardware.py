"""A belt with a light barrier in front of the whole line, on virtual time.

Every part has a number, which is its tag, and a picture that shows it. Whatever camera, counter
and network do to them, no part may become OK by another part's picture (World checks every verdict
as it is given), and a line that lost count says so and stands until Resync.
"""

import random
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.codes import (
    CommandCode,
    Control,
    FaultCode,
    GateStatus,
    OfflineReason,
    Reason,
    State,
    Status1,
    Word,
)
from appliance.comparison import compare
from appliance.deck import SCHEMAS
from appliance.deck_writer import about_recording
from appliance.messages import FrameReady, PartOpened, Taped, Verdict
from appliance.recording import TAPE, Entry, Recording, SegmentWriter
from appliance.replay_infer import Answer, Engines, Recipes
from appliance.replay_stage import Pair, Stage, Told
from appliance.replay_tape import read
from tests.line_world import DEADLINE_MS, MS, Plan, World

ENABLE, EXECUTE = Control.ENABLE, Control.EXECUTE
TWO = ("left", "right")
FOUR = (*TWO, "top", "under")
PERIOD_MS = 120
"""Between parts; the window is 40 ms."""


class Belt:
    """Light barrier, cameras and PLC around a `World`."""

    def __init__(self, world: World, scan_ms: float = 10, transfer_ms: float = 8) -> None:
        self.world, self.scan_ms, self.transfer_ms = world, scan_ms, transfer_ms
        self.control = ENABLE
        self.counted = 0
        self.fifo = [0] * 8
        self.command = 0
        self.numbers = count(1)
        self._scan()

    # ---- PLC

    def _scan(self) -> None:
        world = self.world
        control = self.control
        if self.command:
            control |= EXECUTE
            world.bank.set("Command", self.command)
            self.command = 0
        world.beat(
            control,
            TriggerCount=self.counted,
            TagFifo=self.fifo,
            AckSeq=world.bank.number("RingLast"),
            EpochEcho=world.bank.number("Epoch"),
        )
        world.at(self.scan_ms, self._scan)

    def step(self, tag: int, steps: int = 1) -> None:
        """The PLC's input sees a pulse; its next scan tells."""
        for _ in range(steps):
            self.counted += 1
            self.fifo[(self.counted - 1) % 8] = tag

    def resync(self) -> None:
        """Command 12, with nothing at the camera."""
        self.command = CommandCode.RESYNC
        self.world.run(4 * self.scan_ms)

    # ---- camera

    def expose(self, number: int, camera: str, late_ms: float = 0) -> None:
        """A picture of this part, taken now; it arrives after transfer and delay."""
        world = self.world
        message = world.frame(0, number, camera)
        delay_ms = self.transfer_ms + late_ms
        message = msgspec.structs.replace(message, age_ns=int(delay_ms * MS))
        eye = world.eyes[camera]
        world.after(eye, delay_ms, lambda: self._send(message, eye.pid))

    def _send(self, message: FrameReady, pid: int) -> None:
        world, camera = self.world, message.camera
        eye = world.eyes[camera]
        if eye.is_alive and eye.pid == pid:
            real_ns = self.world.now - message.age_ns
            shown = world.shows[camera, message.frame_id]
            world.send_frame(message, world._planned(shown, camera))
            assert real_ns <= world.now

    # ---- parts

    def part(
        self,
        fault: str = "",
        is_bad: bool = False,
        lag_ms: float = 3,
        at: str = "",
        views: dict[str, Plan] | None = None,
        **more: Any,
    ) -> int:
        """One part passes now. Returns its number. at: the camera that has the fault, the first
        one unless it is named. views: what another camera sees otherwise."""
        world, number = self.world, next(self.numbers)
        world.plans[number] = Plan(is_bad=is_bad, **more)
        for camera, plan in (views or {}).items():
            world.views[number, camera] = plan
        for camera in world.cameras:
            is_at = camera == (at or world.cameras[0])
            self._pass(fault if is_at else "", number, camera)
        steps = {"not counted": 0, "counted twice": 2}.get(fault, 1)
        if steps:
            world.at(lag_ms, lambda: self.step(number, steps))
        return number

    def _pass(self, fault: str, number: int, camera: str) -> None:
        world = self.world
        match fault:
            case "dropped":
                world.frame_ids[camera] += 1
            case "missed":
                pass
            case "double":
                self.expose(number, camera)
                world.at(6, lambda: self.expose(number, camera))
            case "incomplete":
                world.frame_ids[camera] += 1
                world.after(
                    world.eyes[camera],
                    self.transfer_ms,
                    lambda: world.no_frame(0, Reason.INCOMPLETE_IMAGE, camera),
                )
            case "late":
                self.expose(number, camera, late_ms=400)
            case _:
                self.expose(number, camera)

    def run(self, parts: int, **more) -> list[int]:
        """Parts one behind the other; returns their numbers."""
        numbers: list[int] = []
        for index in range(parts):
            numbers.append(self.part(is_bad=index % 3 == 2, **more))
            self.world.run(PERIOD_MS)
        return numbers

    def verdict_of(self, number: int) -> Verdict | None:
        """By the tag."""
        found = [s.verdict for s in self.world.verdicts.values() if s.verdict.part_tag == number]
        assert len(found) <= 1, "two verdicts with one tag"
        return found[0] if found else None


@pytest.fixture
def belt() -> Iterator[Belt]:
    with World(trigger="hardware") as world:
        made = Belt(world)
        world.run(1000)
        yield made


def ready(belt: Belt) -> Belt:
    belt.resync()
    assert belt.world.is_ready
    return belt


def words_of(belt: Belt, numbers: list[int]) -> list[Word]:
    verdicts = [belt.verdict_of(number) for number in numbers]
    return [verdict.word if verdict else Word.NONE for verdict in verdicts]


def test_after_a_start_the_line_waits_for_resync(belt: Belt) -> None:
    world = belt.world
    assert not world.is_ready
    assert world.bank.number("OfflineReason") == OfflineReason.ASSOCIATION_LOST
    belt.run(3)
    assert not world.opened
    belt.resync()
    assert world.is_ready
    assert world.bank.number("State") == State.CONTINUOUS_EXECUTION
    assert world.bank.number("OfflineReason") == OfflineReason.NONE


@pytest.mark.parametrize("lag_ms", [-1, 0, 3, 25])
def test_every_part_gets_the_verdict_of_its_own_picture(belt: Belt, lag_ms: float) -> None:
    """lag -1: the PLC counts before the picture is there, and its step opens the part."""
    if lag_ms < 0:
        belt.transfer_ms = 30
    numbers = ready(belt).run(30, lag_ms=max(0, lag_ms))
    belt.world.run(500)
    assert words_of(belt, numbers) == [Word.OK, Word.OK, Word.NG] * 10
    world = belt.world
    assert len(world.opened) == len(world.verdicts) == len(world.rows) == 30
    assert world.unaccounted == 0
    assert world.is_ready


def test_a_score_waits_for_the_step(belt: Belt) -> None:
    number = ready(belt).part(lag_ms=36, infer_ms=1)
    belt.world.run(30)
    assert belt.verdict_of(number) is None
    assert len(belt.world.opened) == 1
    belt.world.run(30)
    verdict = belt.verdict_of(number)
    assert verdict is not None and verdict.word == Word.OK
    # The clock runs from the end of exposure, and the wait is in the latency.
    assert 36 * MS <= verdict.latency_ns <= 60 * MS


def test_the_clock_starts_at_the_end_of_exposure_where_the_step_came_first(belt: Belt) -> None:
    belt.transfer_ms = 35
    number = ready(belt).part(lag_ms=0, infer_ms=10)
    belt.world.run(200)
    verdict = belt.verdict_of(number)
    assert verdict is not None and verdict.word == Word.OK
    assert 45 * MS <= verdict.latency_ns <= 50 * MS
    assert verdict.deadline_ns == 200 * MS


FITTED = GateStatus.CONFIRM_FITTED | GateStatus.AIR_OK


@pytest.mark.parametrize("how", ["infer", "incomplete", "map_lost"])
def test_a_failure_waits_for_the_step_and_is_confirmed_by_its_tag(belt: Belt, how: str) -> None:
    world = ready(belt).world
    world.bank.set("GateStatus", FITTED)
    belt.run(1)
    plan = {"infer": "failed" if how == "infer" else "good", "infer_ms": 1}
    number = belt.part("incomplete" if how == "incomplete" else "", lag_ms=36, **plan)
    if how == "map_lost":
        world.run(8.5)
        part = max(world.line.book._open.values(), key=lambda part: part.part_id)
        world.line.part_failed(part.only, Reason.FRAME_OVERWRITTEN, "", world.now)
    world.run(30 if how != "map_lost" else 21.5)
    assert belt.verdict_of(0) is belt.verdict_of(number) is None
    world.run(30)
    verdict = belt.verdict_of(number)
    assert verdict is not None and verdict.word == Word.ERROR
    assert (
        verdict.reason
        == {
            "infer": Reason.IMAGE_HEALTH,
            "incomplete": Reason.INCOMPLETE_IMAGE,
            "map_lost": Reason.FRAME_OVERWRITTEN,
        }[how]
    )
    world.bank.set("ConfirmedTag", number)
    world.bank.set("GateStatus", FITTED | GateStatus.REJECT_CONFIRMED)
    world.run(3000)
    assert not world.has(Status1.FAULT)
    assert not world.has(Status1.WARNING)
    assert world.is_ready


def test_a_failure_whose_step_never_comes_ends_in_time_and_no_tag_is_awaited(belt: Belt) -> None:
    world = ready(belt).world
    world.bank.set("GateStatus", FITTED)
    belt.run(1)
    belt.part("not counted", infer="failed", infer_ms=1)
    world.run(3000)
    verdict = belt.verdict_of(0)
    assert verdict is not None and verdict.reason == Reason.IMAGE_HEALTH
    assert verdict.latency_ns <= verdict.deadline_ns
    assert world.bank.number("OfflineReason") == OfflineReason.ASSOCIATION_LOST
    assert not world.has(Status1.FAULT)
    assert world.has(Status1.WARNING)
    assert world.line.counters["rejects_untagged"] == 1
    assert world.unaccounted == 0


DISAGREEMENTS = [
    "dropped", "missed", "double", "late", "not counted", "counted twice",
]  # fmt: skip


@pytest.mark.parametrize("lag_ms", [0, 25])
@pytest.mark.parametrize("fault", DISAGREEMENTS)
def test_a_gap_a_surplus_or_a_disagreement_stops_the_line_until_resync(
    belt: Belt, fault: str, lag_ms: float
) -> None:
    world = ready(belt).world
    good = belt.run(4, lag_ms=lag_ms)
    broken = belt.part(fault, lag_ms=lag_ms)
    world.run(PERIOD_MS)
    after = belt.run(5, lag_ms=lag_ms)
    world.run(500)
    assert words_of(belt, good) == [Word.OK, Word.OK, Word.NG, Word.OK]
    assert not world.is_ready
    assert world.bank.number("OfflineReason") == OfflineReason.ASSOCIATION_LOST
    assert world.line.counters["associations_lost"] == 1
    # With a dropped frame, only the next frame shows that one is missing.
    wrong = [v.verdict for v in world.verdicts.values() if v.verdict.word == Word.ERROR]
    assert wrong and {v.reason for v in wrong} == {Reason.ASSOCIATION_LOST}
    assert Word.OK not in words_of(belt, [broken, *after])
    assert len(world.opened) == len(world.verdicts)
    # Nothing is accepted until Resync, and everything is well after it.
    opened = len(world.opened)
    belt.run(3)
    assert len(world.opened) == opened
    again = ready(belt).run(6)
    world.run(2000)
    assert words_of(belt, again) == [Word.OK, Word.OK, Word.NG] * 2
    assert world.unaccounted == 0


def test_an_incomplete_picture_is_the_error_of_its_own_part_alone(belt: Belt) -> None:
    ready(belt).run(2)
    cut = belt.part("incomplete")
    belt.world.run(PERIOD_MS)
    after = belt.run(6)
    belt.world.run(500)
    errors = [v.verdict for v in belt.world.verdicts.values() if v.verdict.word == Word.ERROR]
    assert [error.reason for error in errors] == [Reason.INCOMPLETE_IMAGE]
    assert belt.verdict_of(cut) in (None, errors[0])
    assert words_of(belt, after) == [Word.OK, Word.OK, Word.NG] * 2
    assert belt.world.is_ready


def test_a_queue_that_is_full_is_the_error_of_its_own_part_alone(belt: Belt) -> None:
    ready(belt).run(2)
    world = belt.world
    world.infer.is_alive = False
    world.plans[0] = Plan()
    number = next(belt.numbers)
    world.plans[number] = Plan()
    belt.step(number)
    message = world.frame(0, number)
    world.line.no_frame(
        msgspec.convert(
            {"type": "NoFrame", "camera": "top", "part_id": 0, "reason": Reason.QUEUE_FULL,
             "detail": "full", "frame_id": message.frame_id},
            type(_no_frame()),
        ),
        world.now,
    )  # fmt: skip
    world.infer.is_alive = True
    world.run(PERIOD_MS)
    after = belt.run(3)
    world.run(500)
    assert Word.ERROR in [shown.verdict.word for shown in world.verdicts.values()]
    assert words_of(belt, after) == [Word.OK, Word.OK, Word.NG]


def _no_frame():
    from appliance.messages import NoFrame

    return NoFrame(camera="top", part_id=0, reason=Reason.QUEUE_FULL, detail="")


def test_parts_that_pass_a_line_that_is_not_ready_are_none_and_keep_the_count(belt: Belt) -> None:
    ready(belt).run(3)
    belt.control = Control(0)
    belt.world.run(50)
    assert not belt.world.is_ready
    passed = belt.run(4)
    belt.control = ENABLE
    belt.world.run(50)
    assert belt.world.is_ready
    after = belt.run(3)
    belt.world.run(500)
    assert len(belt.world.opened) == 6
    assert words_of(belt, passed) == [Word.NONE] * 4
    assert words_of(belt, after) == [Word.OK, Word.OK, Word.NG]
    assert belt.world.line.counters["missed_triggers"] == 4


@pytest.mark.parametrize("who", ["camera", "decide"])
def test_a_process_that_starts_anew_needs_resync(belt: Belt, who: str) -> None:
    world = ready(belt).world
    belt.run(2)
    belt.part()
    world.run(5)
    if who == "camera":
        world.kill(world.camera)
    else:
        world.kill_decide()
    world.run(3000)
    assert not world.is_ready
    assert world.bank.number("OfflineReason") == OfflineReason.ASSOCIATION_LOST
    after = ready(belt).run(3)
    world.run(3000)
    assert words_of(belt, after) == [Word.OK, Word.OK, Word.NG]
    assert world.unaccounted == 0
    assert set(world.rows) == set(world.opened)


def test_a_plc_that_starts_anew_is_a_disagreement(belt: Belt) -> None:
    ready(belt).run(3)
    belt.counted = 0
    belt.world.run(50)
    assert belt.world.bank.number("OfflineReason") == OfflineReason.ASSOCIATION_LOST


def test_the_same_frame_twice_is_one_part_and_shows_in_the_ledger(belt: Belt) -> None:
    world = ready(belt).world
    number = belt.part()
    world.run(50)
    message = next(part.only.frame for part in world.line.book._closed.values())
    assert message is not None
    world.seen(message)
    world.run(500)
    assert words_of(belt, [number]) == [Word.OK]
    assert len(world.opened) == 1
    assert world.line.ledger.duplicates == 1


def test_stop_and_start_of_a_line_with_a_light_barrier(belt: Belt) -> None:
    world = ready(belt).world
    belt.command = CommandCode.STOP
    world.run(100)
    assert world.bank.number("OfflineReason") == OfflineReason.STOPPED_BY_PERSON
    belt.run(2)
    assert not world.opened
    belt.command = CommandCode.START_CONTINUOUS
    world.run(100)
    numbers = belt.run(3)
    world.run(500)
    assert words_of(belt, numbers) == [Word.OK, Word.OK, Word.NG]


# ---- several cameras behind one light barrier


@pytest.fixture
def wide() -> Iterator[Belt]:
    with World(trigger="hardware", cameras=TWO) as world:
        made = Belt(world)
        world.run(1000)
        yield ready(made)


def test_one_pulse_groups_the_pictures_of_all_cameras_and_the_worst_decides(wide: Belt) -> None:
    world = wide.world
    numbers: list[int] = []
    for index in range(12):
        beside = Plan(is_bad=index % 4 == 1)
        numbers.append(wide.part(is_bad=index % 3 == 2, views={"right": beside}))
        world.run(PERIOD_MS)
    world.run(500)
    for index, number in enumerate(numbers):
        verdict = wide.verdict_of(number)
        assert verdict is not None
        words = [Word.NG if index % n == rest else Word.OK for n, rest in ((3, 2), (4, 1))]
        assert [view.word for view in verdict.views] == words
        assert [world.shows[v.camera, v.frame_id] for v in verdict.views] == [number, number]
        assert verdict.word == (Word.NG if Word.NG in words else Word.OK)
    assert len(world.opened) == 12
    assert world.unaccounted == 0
    assert world.is_ready


@pytest.mark.parametrize("slow", TWO)
def test_no_view_is_judged_before_the_step_and_the_pictures_of_all_are_there(
    wide: Belt, slow: str
) -> None:
    world = wide.world
    number = next(wide.numbers)
    fast = next(camera for camera in TWO if camera != slow)
    world.plans[number] = Plan(infer_ms=1)
    wide.expose(number, fast)
    wide.step(number)
    wide.expose(number, slow, late_ms=60)
    world.run(50)
    (part,) = world.line.book._open.values()
    assert not part.is_paired
    assert not world.has(Status1.EXPOSURE_COMPLETE)
    world.run(50)
    assert world.has(Status1.EXPOSURE_COMPLETE)
    assert words_of(wide, [number]) == [Word.OK]


def test_the_clock_starts_at_the_first_exposure_that_ended(wide: Belt) -> None:
    """Whatever is seen first: the step, or the picture that was exposed later."""
    world = wide.world
    number = next(wide.numbers)
    world.plans[number] = Plan(infer_ms=1)
    wide.step(number)
    world.run(12)
    wide.expose(number, "left", late_ms=30)
    begun_ns = world.now
    world.run(8)
    wide.expose(number, "right")
    world.run(100)
    verdict = wide.verdict_of(number)
    assert verdict is not None and verdict.word == Word.OK
    (shown,) = world.verdicts.values()
    assert shown.at_ns - verdict.latency_ns == begun_ns
    assert world.opened[verdict.part_id] <= begun_ns + DEADLINE_MS * MS


@pytest.mark.parametrize("at", TWO)
@pytest.mark.parametrize("fault", ["dropped", "missed", "double", "late"])
def test_one_camera_that_goes_astray_stops_the_line_until_resync(
    wide: Belt, fault: str, at: str
) -> None:
    world = wide.world
    good = wide.run(4)
    broken = wide.part(fault, at=at)
    world.run(PERIOD_MS)
    after = wide.run(4)
    world.run(500)
    assert words_of(wide, good) == [Word.OK, Word.OK, Word.NG, Word.OK]
    assert world.bank.number("OfflineReason") == OfflineReason.ASSOCIATION_LOST
    assert world.line.counters["associations_lost"] == 1
    assert world.line.hardware is not None
    assert f"of camera {at}" in world.line.hardware.association.why_lost
    assert Word.OK not in words_of(wide, [broken, *after])
    assert len(world.opened) == len(world.verdicts)
    again = ready(wide).run(3)
    world.run(2000)
    assert words_of(wide, again) == [Word.OK, Word.OK, Word.NG]
    assert world.unaccounted == 0


def test_a_part_whose_step_came_is_awaited_at_the_gate_though_a_view_never_came(wide: Belt) -> None:
    world = wide.world
    world.bank.set("GateStatus", FITTED)
    wide.run(1)
    wide.part("dropped", at=TWO[1])
    world.run(500)
    assert world.line.counters["rejects_untagged"] == 0
    world.run(3000)
    assert world.bank.number("FaultCode") == FaultCode.REJECT_NOT_CONFIRMED


@pytest.mark.parametrize("at", TWO)
def test_an_incomplete_view_is_the_error_of_its_own_part_alone(wide: Belt, at: str) -> None:
    wide.run(2)
    cut = wide.part("incomplete", at=at)
    wide.world.run(PERIOD_MS)
    after = wide.run(3)
    wide.world.run(500)
    verdict = wide.verdict_of(cut)
    assert verdict is not None
    assert (verdict.word, verdict.reason) == (Word.ERROR, Reason.INCOMPLETE_IMAGE)
    assert {view.camera: view.word for view in verdict.views} == {
        at: Word.ERROR, next(camera for camera in TWO if camera != at): Word.OK,
    }  # fmt: skip
    assert words_of(wide, after) == [Word.OK, Word.OK, Word.NG]
    assert wide.world.is_ready


def test_a_late_view_is_an_error_though_the_other_one_is_good(wide: Belt) -> None:
    number = wide.part(views={"right": Plan(infer_ms=400)})
    wide.world.run(1000)
    verdict = wide.verdict_of(number)
    assert verdict is not None
    assert (verdict.word, verdict.reason) == (Word.ERROR, Reason.VIEW_MISSING)
    assert [view.reason for view in verdict.views] == [Reason.NONE, Reason.LATE]
    assert verdict.latency_ns <= verdict.deadline_ns
    assert wide.world.is_ready


def test_any_camera_that_starts_anew_needs_resync(wide: Belt) -> None:
    world = wide.world
    wide.run(2)
    world.kill(world.eyes["right"])
    world.run(3000)
    assert world.bank.number("OfflineReason") == OfflineReason.ASSOCIATION_LOST
    assert words_of(wide, ready(wide).run(2)) == [Word.OK, Word.OK]


# ---- and the same once more, from the tape


def replayed(world: World, taped: list[Taped], folder: Path) -> list[Pair | Told]:
    """What the tape of this line comes to, through a recording."""
    segment = SegmentWriter(folder / "000001.ok.mcap", about_recording(world.config), SCHEMAS)
    for told in taped:
        topic = TAPE + told.topic
        segment.add(Entry(topic, told.sequence, told.at_ns, told.sequence, told.data))
    segment.finish()
    recording, engines = Recording(folder), Engines(world.config)
    stage = Stage(recording, world.cameras, engines, is_what_if=False)
    recipes = Recipes(world.recipes[1], world.recipes[1])
    heard = read(recording)
    answers = [
        Answer(one, recipes if isinstance(one.message, PartOpened) else None) for one in heard
    ]
    engines.close()
    return [made for answer in answers if (made := stage.take(answer)) is not None]


UNPAIRED = {
    "a step after a picture": [("left", 0), ("step", 0)],
    "a picture after the step": [("step", 0), ("left", 25)],
    "an older picture after a picture": [("left", 0), ("right", 30)],
    "no picture after the step": [("step", 0), ("none", 0)],
    "all": [("right", 20), ("step", 0), ("left", 0)],
}
"""What comes of a part, one after the other, and how old a picture is then, in ms."""


@pytest.mark.parametrize("case", UNPAIRED)
def test_a_part_of_which_not_all_came_is_replayed_with_its_tag_and_its_clock(
    case: str, tmp_path: Path
) -> None:
    taped: list[Taped] = []

    def take(told: Taped) -> bool:
        taped.append(told)
        return True

    with World(trigger="hardware", cameras=TWO, tape=take) as world:
        belt = Belt(world)
        world.run(1000)
        ready(belt)
        number = next(belt.numbers)
        world.plans[number] = Plan(infer="silent")
        for what, old_ms in UNPAIRED[case]:
            if what == "step":
                belt.step(number)
            elif what == "none":
                world.frame_ids["left"] += 1
                world.no_frame(0, Reason.INCOMPLETE_IMAGE, "left")
            else:
                message = world.frame(0, number, what)
                message = msgspec.structs.replace(message, age_ns=old_ms * MS)
                world.send_frame(message, world.plans[number])
            world.run(12)
        world.run(1000)
        (shown,) = world.verdicts.values()
        has_step = any(what == "step" for what, _ in UNPAIRED[case])
        assert (shown.verdict.part_tag, shown.verdict.is_tag_known) == (number * has_step, has_step)
        made = replayed(world, taped, tmp_path)
    pairs = [pair for pair in made if isinstance(pair, Pair)]
    (pair,) = pairs
    assert pair.replayed is not None
    assert compare(pair.recorded, pair.replayed, 0.0).differences == ()
    told = [words for words in made if isinstance(words, Told)]
    assert told
    for words in told:
        assert words.then == words.now


FAULTS = ["", *DISAGREEMENTS, "incomplete"]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32))
def test_whatever_happens_to_frames_and_counts_no_part_gets_anothers_verdict(seed: int) -> None:
    chance = random.Random(seed)
    cameras = FOUR[: chance.choice([1, 2, 4])]
    with World(trigger="hardware", seed=seed, cameras=cameras) as world:
        belt = Belt(world, scan_ms=chance.choice([5, 10, 20]), transfer_ms=chance.choice([2, 30]))
        world.run(1000)
        share = chance.choice([0.02, 0.1, 0.3])
        for _ in range(12):
            world.run(600)  # the line is clear
            belt.resync()
            for _ in range(chance.randint(3, 15)):
                fault = chance.choice(FAULTS) if chance.random() < share else ""
                belt.part(
                    fault,
                    is_bad=chance.random() < 0.5,
                    lag_ms=chance.uniform(0, 15),
                    infer_ms=chance.choice([1, 10, 30, 100]),
                    infer=chance.choices(["good", "failed", "silent"], [20, 1, 0])[0],
                    at=chance.choice(cameras),
                    views={chance.choice(cameras): Plan(is_bad=chance.random() < 0.5, infer_ms=5)},
                )
                if chance.random() < 0.02:
                    eye = world.eyes[chance.choice(cameras)]
                    world.kill(chance.choice([eye, world.infer, world.record]))
                world.run(chance.uniform(90, 400))
        world.run(5000)
        words = [shown.verdict.word for shown in world.verdicts.values()]
        assert words.count(Word.OK) + words.count(Word.NG) > 0
        assert set(world.rows) == set(world.opened) == set(world.verdicts)
        assert world.line.ledger.unaccounted == 0, world.line.ledger.figures()
