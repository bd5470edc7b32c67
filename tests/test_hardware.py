"""One camera behind a light barrier, on virtual time.

Whatever camera, counter and network do to the parts, none may become OK by another part's picture,
and a line that lost count says so and stands until Resync.
"""

import random
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.codes import (
    CommandCode,
    Control,
    GateStatus,
    OfflineReason,
    Reason,
    SlotFlags,
    State,
    Status1,
    Word,
)
from tests.hardware_belt import DISAGREEMENTS, FITTED, FOUR, PERIOD_MS, Belt, ready, words_of
from tests.line_plans import MS, Plan
from tests.line_world import World

ENABLE = Control.ENABLE


@pytest.fixture
def belt() -> Iterator[Belt]:
    with World(trigger="hardware") as world:
        made = Belt(world)
        world.run(1000)
        yield made


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


@pytest.mark.parametrize("state", ["accepted", "not ready", "lost"])
def test_a_tag_that_comes_again_finds_no_result_of_the_part_before(belt: Belt, state: str) -> None:
    """Numbers of nests repeat; the part that has the tag now may have no result at all."""
    (number,) = ready(belt).run(1)
    world = belt.world
    world.run(300)
    if state == "not ready":
        belt.control = Control(0)
    elif state == "lost":
        belt.run(1, fault="missed")
    world.run(300)
    assert world.bank.read_slot(0).flags & SlotFlags.TAG_KNOWN
    belt.step(number)
    world.run(2 * belt.scan_ms)
    assert world.is_ready == (state == "accepted")
    assert world.bank.read_slot(0).part_tag == number
    assert not world.bank.read_slot(0).flags & SlotFlags.TAG_KNOWN


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
