"""The line on virtual time: answers of other lives, dead and slow processes."""

from collections.abc import Iterator

import pytest

from appliance.codes import (
    Control,
    FaultCode,
    OfflineReason,
    Reason,
    State,
    Status1,
    Status2,
    Word,
)
from appliance.journal import acq_id
from appliance.messages import Health, Stored
from tests.line_plans import MS, Plan
from tests.line_steps import breach
from tests.line_world import World

ENABLE, TRIGGER = Control.ENABLE, Control.TRIGGER


@pytest.fixture
def world() -> Iterator[World]:
    with World() as made:
        yield made


def test_answers_for_parts_of_an_earlier_life_are_no_breach(world: World) -> None:
    world.plan = lambda part_id: Plan(camera="silent")
    part_id = world.until_ready().part()
    world.run(5)
    frame = world.frame(part_id, part_id)
    score = world.score_of(frame)
    world.kill_decide()
    world.until_ready()
    world.seen(frame)
    world.scored(score)
    world.no_frame(part_id, Reason.NO_IMAGE)
    assert world.line.book.orphans == 3
    assert breach(world) == 0
    assert world.rows[part_id].reason == Reason.RESTART
    assert part_id not in world.verdicts  # the PLC saw none


def test_decide_killed_with_a_part_open(world: World) -> None:
    world.plan = lambda part_id: Plan(camera="silent")
    part_id = world.until_ready().part(PartTag=77, Lot="L9")
    old_epoch, old_triggers = world.bank.number("Epoch"), world.line.tally.shift["triggers"]
    world.kill_decide()
    assert world.bank.number("Epoch") == old_epoch + 1
    assert world.bank.number("InspectionID") == 0
    assert world.line.tally.shift["triggers"] == old_triggers
    assert world.line.tally.shift["error_reject"] == 1
    world.plan = lambda part_id: Plan()
    next_id = world.until_ready().part()
    assert next_id > part_id
    assert world.read() == (acq_id(next_id), Word.OK)
    world.idle(15_000)
    row = world.rows[part_id]
    assert (row.word, row.reason, row.part_tag, row.lot) == (Word.ERROR, Reason.RESTART, 77, "L9")
    assert world.unaccounted == 0


def test_decide_restarted_while_the_plc_holds_trigger(world: World) -> None:
    world.until_ready()
    world.beat(ENABLE | TRIGGER)
    world.kill_decide()
    for _ in range(200):
        world.run(20)
        world.beat(ENABLE | TRIGGER)
    assert len(world.opened) == 1
    assert world.is_ready
    assert not world.has(Status1.TRIGGER_ACK)
    assert world.bank.number("AcqID") == 0
    world.beat(ENABLE)
    world.part()


@pytest.mark.parametrize("back_ms", [400, 12_000])
def test_a_frame_that_died_with_its_camera_is_no_debt_of_infer(
    world: World, back_ms: float
) -> None:
    """decide heard of it, infer did not: what the camera's last breath was is not known."""
    world.plan = lambda part_id: Plan(infer="silent") if part_id == 1 else Plan()
    part_id = world.until_ready().part()
    world.run(30)
    world.kill(world.camera, back_ms)
    world.idle(int(back_ms) + 8000)
    verdict = world.verdicts[part_id].verdict
    assert (verdict.word, verdict.reason) == (Word.ERROR, Reason.LATE)
    assert world.unaccounted == 0
    world.until_ready()


def test_camera_restarted_with_a_part_open(world: World) -> None:
    world.plan = lambda part_id: Plan(camera_ms=100)
    part_id = world.until_ready().part()
    world.run(50)
    world.kill(world.camera)
    world.idle(400)
    verdict = world.verdicts[part_id].verdict
    assert (verdict.word, verdict.reason) == (Word.ERROR, Reason.NO_IMAGE)
    world.read()
    world.plan = lambda part_id: Plan()
    world.until_ready().part()
    assert world.read() == (2, Word.OK)
    assert breach(world) == 0


def test_infer_restarted_with_a_part_open(world: World) -> None:
    world.plan = lambda part_id: Plan(infer_ms=150)
    part_id = world.until_ready().part()
    world.run(50)
    world.kill(world.infer)
    world.idle(400)
    assert world.verdicts[part_id].verdict.reason == Reason.LATE
    world.read()
    assert world.bank.number("FaultCode") in (0, FaultCode.ENGINE_FAILED)
    world.until_ready()
    assert breach(world) == 0


@pytest.mark.parametrize("prepare_ms", [7_000, 40_000])
def test_a_frame_that_waits_while_a_new_infer_prepares_is_late_and_not_lost(
    world: World, prepare_ms: int
) -> None:
    """Up so soon that nobody missed it, so the part was triggered; the engine is slow to load."""
    world.plan = lambda part_id: Plan(camera_ms=60, infer_ms=prepare_ms)
    world.until_ready()
    world.run(120 - world.now // MS % 100)  # signs of life come every 100 ms
    world.kill(world.infer, back_ms=30)
    world.run(60)
    world.prepare_ms = prepare_ms
    part_id = world.part()
    world.idle(prepare_ms + 1000)
    assert world.verdicts[part_id].verdict.reason == Reason.LATE
    world.until_ready()
    assert breach(world) == 0


@pytest.mark.parametrize("victim", ["camera", "infer"])
def test_a_dead_process_ends_ready_and_is_a_fault_until_it_is_back(
    world: World, victim: str
) -> None:
    world.until_ready()
    world.kill(getattr(world, victim), back_ms=2000)
    world.idle(700)
    assert not world.is_ready
    assert world.has(Status1.FAULT)
    assert Status2.SAFE_STATE in Status2(world.bank.number("Status2"))
    expected = {
        "camera": (FaultCode.CAMERA_LOST, OfflineReason.CAMERA),
        "infer": (FaultCode.ENGINE_FAILED, OfflineReason.ENGINE),
    }
    shown = world.bank.number("FaultCode"), world.bank.number("OfflineReason")
    assert shown == expected[victim]
    assert world.bank.number("State") == State.ERROR
    world.idle(2500)
    assert world.is_ready
    assert not world.has(Status1.FAULT)


def test_a_slow_engine_is_not_dead_before_its_own_limit(world: World) -> None:
    world.until_ready()
    slow = Health(
        process="infer:0", pid=200, is_serving=True, setup_hash=world.infer.setup,
        gauges={"hang_limit_ms": 2000.0},
    )  # fmt: skip
    world.line.heard(slow, world.now)
    world.infer.is_alive = False
    world.idle(1900)
    assert world.is_ready
    world.idle(300)
    assert not world.is_ready


def test_a_loop_that_stood_still_is_a_fault_until_turns_come_in_time_again(world: World) -> None:
    world.until_ready()
    world.stall(150)
    world.idle(100)
    assert world.bank.number("FaultCode") == FaultCode.NONE
    world.stall(400)
    world.idle(200)
    assert world.has(Status1.FAULT)
    assert world.bank.number("FaultCode") == FaultCode.DECISION_LATE
    assert world.bank.number("State") == State.ERROR
    assert not world.is_ready
    world.idle(600)
    assert not world.has(Status1.FAULT)
    assert world.bank.number("FaultCode") == FaultCode.DECISION_LATE, "readable until ClearError"
    assert world.is_ready


def test_what_was_on_its_way_when_the_whole_box_stood_still_has_its_time_again(
    world: World,
) -> None:
    """The others say that they live before what they answered is read."""
    world.is_storing = False
    world.plan = lambda part_id: Plan(infer_ms=300)
    part_id = world.until_ready().part()
    world.run(250)
    world.stall(10_000)
    world._beats()
    world.line.tick(world.now)
    world.line.check_ledger(world.now)
    assert world.line.ledger.figures()["unaccounted"] == 0
    world.run(300)
    world.line.stored(Stored(part_ids=(part_id,)))
    world.is_storing = True
    assert breach(world) == 0


def test_a_slow_start_of_the_loop_is_no_fault(world: World) -> None:
    world.stall(3000)
    world.until_ready()
    assert world.bank.number("FaultCode") == FaultCode.NONE


def test_a_part_that_a_standing_loop_let_lapse_is_an_error(world: World) -> None:
    part_id = world.until_ready().part()
    world.opened[part_id] += 1000 * MS  # the verdict comes after the deadline, and as an ERROR
    world.stall(600)
    world.idle(100)
    verdict = world.verdicts[part_id].verdict
    assert (verdict.word, verdict.reason) == (Word.ERROR, Reason.LATE)


def test_the_camera_takes_no_trigger(world: World) -> None:
    world.until_ready()
    world.camera.is_alive = False
    part_id = world.part()
    verdict = world.verdicts[part_id].verdict
    assert (verdict.word, verdict.reason) == (Word.ERROR, Reason.NO_IMAGE)
    assert world.read() == (1, Word.ERROR)


def test_two_parts_in_a_row_without_a_picture_end_ready_and_it_comes_back(world: World) -> None:
    world.plan = lambda part_id: Plan(camera="none", camera_ms=300)
    for _ in range(2):
        assert Status2.CAMERA_OK in Status2(world.bank.number("Status2")) or not world.opened
        world.until_ready().part()
        world.read()
        world.idle(300)
    assert not world.is_ready
    assert Status2.CAMERA_OK not in Status2(world.bank.number("Status2"))
    world.plan = lambda part_id: Plan()
    world.until_ready().part()
    assert world.read()[1] == Word.OK


def test_a_camera_that_gives_no_picture_twice_has_its_second_each_time(world: World) -> None:
    """A new camera process ended the first wait, not the next one."""
    for is_killed in (True, False):
        world.plan = lambda part_id: Plan(camera="none", camera_ms=10)
        for _ in range(2):
            world.until_ready().part()
            world.read()
        world.run(100)
        assert not world.is_ready
        if is_killed:
            world.kill(world.camera)
        else:
            world.idle(800)
            assert not world.is_ready
        world.plan = lambda part_id: Plan()
        world.until_ready().part()
        assert world.read()[1] == Word.OK
        world.idle(2000)


def test_one_late_answer_is_one_part_without_a_picture(world: World) -> None:
    world.plan = lambda part_id: Plan(camera="none", camera_ms=300)
    world.until_ready().part()
    world.read()
    world.idle(500)
    assert world.line.book.no_image_in_a_row == 1
    assert world.is_ready


def test_a_part_is_judged_by_the_deadline_that_the_plc_shortens(world: World) -> None:
    world.plan = lambda part_id: Plan(infer_ms=60)
    for deadline_ms, word in ((0, Word.OK), (300, Word.OK), (50, Word.ERROR), (1, Word.ERROR)):
        world.until_ready().part(DeadlineMs=deadline_ms)
        assert world.read()[1] == word
    assert world.bank.number("late") == 1
    assert world.bank.number("DeadlineUsedMs") == 1
