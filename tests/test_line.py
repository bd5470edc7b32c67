"""The line on virtual time: what the PLC, the camera, infer and the recorder may do to it."""

import os
import random
from collections.abc import Callable, Iterator

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.codes import (
    CommandCode,
    CommandError,
    Control,
    FaultCode,
    OfflineReason,
    Reason,
    State,
    Status1,
    Status2,
    Word,
)
from appliance.config import Record
from appliance.journal import acq_id
from appliance.messages import Health, NoFrame, Stored
from appliance.part import Judgement
from tests.line_world import MS, Plan, World, loaded

ENABLE, TRIGGER, BUFFER = Control.ENABLE, Control.TRIGGER, Control.BUFFER_RESULTS
CLEAR, EXECUTE = Control.CLEAR_ERROR, Control.EXECUTE
EXAMPLES = int(os.environ.get("INSPECTD_EXAMPLES", "8"))
CYCLES = int(os.environ.get("INSPECTD_CYCLES", "200"))
"""Of each random line; nightly runs ask for many more."""


@pytest.fixture
def world() -> Iterator[World]:
    with World() as made:
        yield made


def ends(world: World, plan: Plan) -> tuple[Word, Reason]:
    """One part with this plan, to its verdict."""
    world.plan = lambda part_id: plan
    part_id = world.until_ready().part()
    world.idle(400)
    verdict = world.verdicts[part_id].verdict
    return verdict.word, verdict.reason


# ---- one part


@pytest.mark.parametrize("is_infer_first", [False, True])
@pytest.mark.parametrize(("is_bad", "word"), [(False, Word.OK), (True, Word.NG)])
def test_a_good_part_is_ok_and_a_bad_one_is_not(
    world: World, is_bad: bool, is_infer_first: bool, word: Word
) -> None:
    assert ends(world, Plan(is_bad=is_bad, is_infer_first=is_infer_first))[0] == word
    assert world.read() == (1, word)
    world.idle(12_000)
    assert world.unaccounted == 0
    assert set(world.rows) == {1}


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        (Plan(camera="none"), Reason.NO_IMAGE),
        (Plan(camera="incomplete"), Reason.INCOMPLETE_IMAGE),
        (Plan(camera="queue_full"), Reason.QUEUE_FULL),
        (Plan(camera_ms=300), Reason.NO_IMAGE),
        (Plan(infer="failed"), Reason.IMAGE_HEALTH),
        (Plan(infer="failed", is_infer_first=True), Reason.IMAGE_HEALTH),
        (Plan(infer="nan"), Reason.INVALID_NUMBER),
        (Plan(infer="other_setup"), Reason.WRONG_RECIPE),
        (Plan(infer="map_lost"), Reason.FRAME_OVERWRITTEN),
        (Plan(infer_ms=300), Reason.LATE),
        (Plan(camera_ms=150, infer_ms=60), Reason.LATE),
    ],
    ids=str,
)
def test_what_goes_wrong_lawfully_is_an_error_and_no_breach(
    world: World, plan: Plan, reason: Reason
) -> None:
    assert ends(world, plan) == (Word.ERROR, reason)
    world.idle(12_000)
    assert world.unaccounted == 0
    assert world.line.ledger.pending == 0


def test_what_a_late_part_would_have_been_goes_to_the_archive_alone(world: World) -> None:
    assert ends(world, Plan(infer_ms=250, is_bad=True)) == (Word.ERROR, Reason.LATE)
    assert [(late.part_id, late.word) for late in world.late] == [(1, Word.NG)]


@pytest.mark.parametrize(("offset_ns", "word"), [(0, Word.OK), (1, Word.ERROR)])
def test_a_score_at_the_deadline_itself_is_in_time_and_after_it_is_late(
    world: World, offset_ns: int, word: Word
) -> None:
    """Where the loop was held up so long that the deadline was not called."""
    world.plan = lambda part_id: Plan(camera="good", infer_ms=10_000)
    part_id = world.until_ready().part()
    world.run(50)
    part = world.line.book._open[part_id].only
    assert part.frame is not None
    assert world.line.book.scored(world.score_of(part.frame), world.now) is part
    result = Judgement(margin=0.0, map_max=0.0)
    world.opened[part_id] += offset_ns
    late = world.line.book.judged(part, result, part.part.deadline_ns + offset_ns)
    assert world.verdicts[part_id].verdict.word == word
    assert (late is None) == (word == Word.OK)


# ---- the six seeded bugs, and their kin


def breach(world: World) -> int:
    """Let everything that is owed come due; the fault must be latched."""
    world.idle(15_000)
    shown = world.unaccounted
    if shown:
        assert world.bank.number("FaultCode") == FaultCode.LEDGER
        assert not world.is_ready
        world.beat(ENABLE | CLEAR)
        world.until_ready()
    return shown


@pytest.mark.parametrize(
    ("plan", "word"),
    [
        (Plan(infer="silent"), Word.ERROR),  # drop a Scored
        (Plan(camera="silent"), Word.ERROR),  # lose a frame
        (Plan(camera="double"), None),  # double a frame
        (Plan(infer="double"), None),  # double a score
        (Plan(camera="then_none"), Word.ERROR),  # a frame and none
        (Plan(camera="after_none"), Word.ERROR),  # none and a frame
        (Plan(camera="foreign"), Word.ERROR),  # the frame of a part that nobody opened
        (Plan(infer="other_frame"), Word.ERROR),  # the score of another frame
    ],
    ids=str,
)
def test_a_broken_law_shows_and_holds_the_line(world: World, plan: Plan, word: Word | None) -> None:
    got, _ = ends(world, plan)
    assert word is None or got == word
    assert breach(world) > 0


def test_nothing_shows_without_a_broken_law(world: World) -> None:
    for _ in range(20):
        world.until_ready().part()
        world.read()
    assert breach(world) == 0


def two_open(world: World) -> tuple[int, int]:
    """Two parts with frames and without scores, the first good and the second bad."""
    world.plan = lambda part_id: Plan(infer="silent", is_bad=part_id % 2 == 0)
    world.until_ready(ENABLE | BUFFER)
    first = world.part(ENABLE | BUFFER)
    world.run(5)
    second = world.part(ENABLE | BUFFER)
    world.run(20)
    return first, second


def test_two_ids_swapped_between_scores(world: World) -> None:
    first, second = two_open(world)
    frames = [world.line.book._open[part].only.frame for part in (first, second)]
    scores = [world.score_of(frame) for frame in frames if frame]
    for score, part_id in zip(scores, (second, first), strict=True):
        world.scored(msgspec.structs.replace(score, part_id=part_id))
    world.run(10)
    assert {world.verdicts[p].verdict.word for p in (first, second)} == {Word.ERROR}
    assert breach(world) >= 2


def test_two_ids_swapped_between_frames(world: World) -> None:
    """infer and decide hear the same wrong ids: only the order of the frames tells."""
    world.plan = lambda part_id: Plan(camera="silent", is_bad=part_id == 1)
    world.until_ready(ENABLE | BUFFER)
    parts = [world.part(ENABLE | BUFFER), world.part(ENABLE | BUFFER)]
    frames = [world.frame(part_id, part_id) for part_id in parts]
    for frame, part_id in zip(frames, reversed(parts), strict=True):
        wrong = msgspec.structs.replace(frame, part_id=part_id)
        world.seen(wrong)
        world.scored(world.score_of(wrong))
        world.run(5)
    assert {world.verdicts[p].verdict.word for p in parts} == {Word.ERROR}
    assert breach(world) > 0


def test_a_frame_before_its_elder_was_answered_is_not_believed(world: World) -> None:
    """One of two pictures was lost, and the other may be anybody's."""
    world.plan = lambda part_id: Plan(camera="silent" if part_id == 1 else "good")
    world.until_ready(ENABLE | BUFFER)
    world.part(ENABLE | BUFFER)
    second = world.part(ENABLE | BUFFER)
    world.plans[second].is_doubtful = True
    world.idle(400)
    verdict = world.verdicts[second].verdict
    assert (verdict.word, verdict.reason) == (Word.ERROR, Reason.ASSOCIATION_LOST)


def test_a_trigger_doubled_on_its_way(world: World) -> None:
    part_id = world.until_ready().part()
    world._triggered("top", world.triggers[-1])
    world.idle(400)
    assert part_id in world.verdicts
    assert breach(world) > 0


def test_a_row_that_is_skipped(world: World) -> None:
    world.is_storing = False
    world.until_ready().part()
    world.read()
    world.idle(4000)
    assert world.line.ledger.rows_pending == 1
    assert breach(world) == 1
    world.is_storing = True
    world.idle(4000)
    assert world.unaccounted == 0  # it was sent again, and now it is there
    assert set(world.rows) == {1}


def test_a_verdict_that_is_doubled_on_its_way(world: World) -> None:
    world.until_ready().part()
    world.read()
    health = Health(process="record", pid=300, is_serving=True)
    world.line.heard(health, world.now)
    assert breach(world) == 0
    doubled = Health(process="record", pid=300, is_serving=True, counters={"doubled": 1})
    world.line.heard(doubled, world.now)
    assert breach(world) == 1


def test_rows_sent_again_by_us_are_no_doubles(world: World) -> None:
    world.is_storing = False
    world.until_ready().part()
    world.read()
    world.idle(3500)
    sent_again = world.rows_seen - 1
    assert sent_again >= 1
    health = Health(process="record", pid=300, is_serving=True, counters={"doubled": sent_again})
    world.line.heard(health, world.now)
    assert world.line.ledger.rows_doubled == 0


def test_a_breach_in_the_scan_of_a_clear_error_is_not_acknowledged_by_it(world: World) -> None:
    world.until_ready()
    world.line.ledger.duplicates += 1
    world.beat(ENABLE | CLEAR)
    world.idle(200)
    assert world.bank.number("FaultCode") == FaultCode.LEDGER
    assert not world.is_ready
    world.beat(ENABLE)
    world.beat(ENABLE | CLEAR)
    world.until_ready()


def test_a_cleared_breach_does_not_hide_the_next(world: World) -> None:
    world.is_storing = False
    world.until_ready().part()
    world.read()
    assert breach(world) == 1  # cleared, and still missing
    world.is_storing = True
    world.idle(4000)
    assert world.unaccounted == 0
    assert ends(world, Plan(infer="double"))[0] == Word.OK
    assert breach(world) == 1


def test_rows_without_a_recorder_are_pending_and_no_fault(world: World) -> None:
    world.kill(world.record, back_ms=20_000)
    world.until_ready().part()
    world.read()
    world.idle(15_000)
    assert world.unaccounted == 0
    assert world.has(Status1.WARNING)
    assert Status2.ARCHIVE_LOSSY in Status2(world.bank.number("Status2"))
    assert world.is_ready
    world.idle(10_000)
    assert set(world.rows) == {1}
    assert world.unaccounted == 0
    assert not world.has(Status1.WARNING)


def test_a_site_that_must_keep_everything_makes_no_part_while_it_cannot() -> None:
    with World(record_policy=Record(stop_when_lossy=True)) as world:
        world.until_ready().part()
        world.read()
        world.kill(world.record, back_ms=5000)
        world.idle(2000)
        assert not world.is_ready
        assert world.bank.number("OfflineReason") == OfflineReason.STORAGE_POLICY
        assert world.bank.number("FaultCode") == FaultCode.NONE
        world.idle(6000)
        assert world.is_ready
        assert set(world.rows) == {1}
        assert world.unaccounted == 0
        world.journal.lost += 1  # rows are kept all the same
        world.run(60)
        assert world.is_ready and world.has(Status1.WARNING)


def test_verdicts_beyond_what_can_be_kept_are_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.journal._UNSTORED_MAX", 3)
    world.kill(world.record, back_ms=20_000)
    for _ in range(5):
        world.until_ready().part()
        world.read()
    world.idle(3000)
    ledger = world.line.ledger
    assert (ledger.rows_dropped, ledger.rows_pending, ledger.unaccounted) == (2, 3, 0)
    world.idle(40_000)
    assert ledger.unaccounted == 2


# ---- answers from other lives, other orders


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


# ---- recipes


def load(world: World, number: int) -> None:
    world.beat(ENABLE | EXECUTE, Command=CommandCode.LOAD_RECIPE, CmdArg=number)


def test_recipe_change_waits_for_open_parts_and_holds_ready(world: World) -> None:
    world.plan = lambda part_id: Plan(infer_ms=150)
    first = world.until_ready().part()
    load(world, 2)
    world.run(30)
    world.beat()
    assert world.has(Status1.CMD_EXECUTING)
    assert world.bank.number("OfflineReason") == OfflineReason.RECIPE_CHANGING
    world.beat(ENABLE | EXECUTE | TRIGGER)
    assert len(world.opened) == 1
    assert world.has(Status1.ACQ_ERROR)
    assert world.read(control=ENABLE | EXECUTE) == (first, Word.OK)
    world.idle(1000)
    assert world.has(Status1.CMD_DONE)
    assert world.bank.number("CmdResult") == 0
    assert world.bank.number("RecipeId") == 2
    assert world.camera.setup == world.infer.setup == world.recipes[2].setup_hash
    world.beat(ENABLE)
    world.until_ready().part()
    assert world.read()[1] == Word.OK
    assert world.verdicts[2].verdict.recipe == "other/1"
    assert breach(world) == 0


@pytest.mark.parametrize("by_hash", [False, True])
def test_ready_falls_in_the_turn_of_the_order_while_files_are_still_read(
    world: World, by_hash: bool
) -> None:
    """A PLC may wait for TriggerReady alone: the next part is the next product's."""
    world.read_ms = 700
    world.until_ready()
    if by_hash:
        argument = world.recipes[2].hash32
        world.beat(ENABLE | EXECUTE, Command=CommandCode.LOAD_RECIPE_BY_HASH, CmdArg=argument)
    else:
        load(world, 2)
    for _ in range(6):
        assert not world.is_ready
        assert world.bank.number("OfflineReason") == OfflineReason.RECIPE_CHANGING
        assert world.bank.number("RecipeId") == 1
        world.idle(100)
    world.beat(ENABLE | EXECUTE | TRIGGER)
    assert world.opened == {}
    world.until_ready().part()
    assert world.read()[1] == Word.OK
    assert world.verdicts[1].verdict.recipe == "other/1"


def test_ready_is_back_at_once_after_an_order_that_nobody_can_follow(world: World) -> None:
    world.until_ready()
    load(world, 9)
    assert world.bank.number("CmdResult") == CommandError.UNKNOWN_PRODUCT
    assert world.is_ready


@pytest.mark.parametrize("victim", ["camera", "infer"])
def test_a_refused_recipe_leaves_the_old_one(world: World, victim: str) -> None:
    world.until_ready()
    getattr(world, victim).refuses = True
    load(world, 2)
    world.idle(1000)
    assert world.has(Status1.CMD_DONE)
    assert Status2.CMD_FAILED in Status2(world.bank.number("Status2"))
    assert world.bank.number("CmdResult") == CommandError.REFUSED_ARTEFACT
    assert world.bank.number("RecipeId") == 1
    world.beat(ENABLE)
    world.until_ready().part()
    assert world.read()[1] == Word.OK


def test_a_silent_process_times_the_change_out(world: World) -> None:
    world.until_ready()
    world.infer.is_alive = False
    load(world, 2)
    world.idle(61_000)
    assert world.bank.number("CmdResult") == CommandError.TIMED_OUT
    assert world.bank.number("RecipeId") == 1


def test_infer_restarted_during_the_change(world: World) -> None:
    world.until_ready()
    load(world, 2)
    world.run(30)
    world.kill(world.infer)
    world.idle(3000)
    assert world.bank.number("CmdResult") == 0
    assert world.infer.setup == world.recipes[2].setup_hash
    assert world.is_ready


def test_a_second_change_during_the_first_is_busy(world: World) -> None:
    world.recipes[3] = loaded("third")
    world.until_ready()
    load(world, 2)
    world.run(25)
    answers: list[CommandError] = []
    world.line.change_recipe(
        world.recipes[3], 3, "cd" * 32, world.now, lambda code, _: answers.append(code)
    )
    assert answers == [CommandError.BUSY]
    world.idle(1000)
    assert world.bank.number("RecipeId") == 2


def test_an_unknown_product_fails_at_once_and_stops_nothing(world: World) -> None:
    world.until_ready()
    load(world, 9)
    assert world.bank.number("CmdResult") == CommandError.UNKNOWN_PRODUCT
    assert world.is_ready


def test_limits_alone_change_at_once_for_parts_opened_afterwards(world: World) -> None:
    world.recipes[2] = loaded("cell", t1=-2.0, t2=-1.0, version=2)
    assert world.recipes[2].setup_hash == world.recipes[1].setup_hash
    control = ENABLE | BUFFER
    world.until_ready(control)
    first = world.part(control)
    world.run(1)
    world.line.change_recipe(world.recipes[2], 2, "ab" * 32, world.now, lambda *_: None)
    assert world.is_ready
    second = world.part(control)
    world.idle(300)
    shown = [world.verdicts[part].verdict for part in (first, second)]
    assert [(v.word, v.t2, v.recipe) for v in shown] == [
        (Word.OK, 2.0, "cell/1"),
        (Word.NG, -1.0, "cell/2"),
    ]
    assert world.bank.number("RecipeHash32") == world.recipes[2].hash32


def test_a_stale_score_after_a_recipe_change_is_no_verdict(world: World) -> None:
    world.plan = lambda part_id: Plan(infer="silent")
    world.until_ready().part()
    frame = world.line.book._open[1].only.frame
    world.run(20)
    frame = world.line.book._open[1].only.frame
    assert frame is not None
    score = world.score_of(frame)
    world.read()
    load(world, 2)
    world.idle(1000)
    world.beat(ENABLE)
    world.until_ready().part()
    world.run(20)
    world.scored(msgspec.structs.replace(score, part_id=2))
    world.run(5)
    verdict = world.verdicts[2].verdict
    assert (verdict.word, verdict.reason) == (Word.ERROR, Reason.ASSOCIATION_LOST)


def test_a_frame_of_another_set_up_is_no_picture(world: World) -> None:
    world.until_ready()
    world.camera.setup = "another"
    part_id = world.part()
    world.run(20)
    assert world.verdicts[part_id].verdict.reason == Reason.WRONG_RECIPE


# ---- free run


def free(world: World) -> World:
    """Ready in state 8."""
    world.until_ready()
    assert world.bank.number("State") == State.CONTINUOUS_EXECUTION
    return world


@pytest.fixture
def running() -> Iterator[World]:
    with World(trigger="free") as made:
        yield free(made)


def test_a_frame_is_a_part_and_its_clock_began_with_its_exposure(running: World) -> None:
    running.send_frame(running.frame(0, 1), Plan())
    assert running.bank.number("AcqID") == 1
    assert running.opened[1] == running.now - 5 * MS + 200 * MS
    running.run(50)
    assert running.verdicts[1].verdict.word == Word.OK
    assert running.bank.number("RingLast") == 1
    assert not running.has(Status1.RESULT_VALID)


def test_a_score_before_its_frame_in_free_run(running: World) -> None:
    running.send_frame(running.frame(0, 1), Plan(is_infer_first=True))
    running.run(50)
    assert running.verdicts[1].verdict.word == Word.OK


def test_a_failure_before_its_frame_in_free_run(running: World) -> None:
    running.send_frame(running.frame(0, 1), Plan(is_infer_first=True, infer="failed"))
    running.run(50)
    assert running.verdicts[1].verdict.reason == Reason.IMAGE_HEALTH
    assert breach(running) == 0


def test_a_frame_of_another_set_up_in_free_run(running: World) -> None:
    running.camera.setup = "another"
    running.send_frame(running.frame(0, 1), Plan())
    running.run(50)
    assert running.verdicts[1].verdict.reason == Reason.WRONG_RECIPE


def test_a_doubled_frame_opens_no_second_part(running: World) -> None:
    frame = running.frame(0, 1)
    running.send_frame(frame, Plan())
    running.seen(frame)
    running.run(50)
    assert len(running.opened) == 1
    assert breach(running) == 1


@pytest.mark.parametrize("is_infer_first", [False, True])
def test_frames_while_not_ready_are_counted_and_no_parts(
    running: World, is_infer_first: bool
) -> None:
    running.beat(Control(0))
    running.send_frame(running.frame(0, 1), Plan(is_infer_first=is_infer_first))
    running.idle(300)
    assert running.opened == {}
    assert running.bank.number("missed_triggers") == 1
    assert running.line.book.orphans == 1
    assert breach(running) == 0


@pytest.mark.parametrize("reason", [Reason.QUEUE_FULL, Reason.INCOMPLETE_IMAGE])
def test_a_lost_picture_in_free_run_is_a_part_too(running: World, reason: Reason) -> None:
    message = NoFrame(camera="top", part_id=0, reason=reason, detail="planned")
    running.line.no_frame(message, running.now)
    verdict = running.verdicts[1].verdict
    assert (verdict.word, verdict.reason) == (Word.ERROR, reason)
    assert running.bank.read_slot(0).verdict == Word.ERROR
    running.beat(Control(0))
    running.line.no_frame(message, running.now)
    assert len(running.opened) == 1
    assert running.line.tally.shift["missed_triggers"] == 1


def test_a_score_for_a_frame_that_nobody_saw_shows(running: World) -> None:
    frame = running.frame(0, 1)
    running.scored(running.score_of(frame))
    assert breach(running) == 1


def test_stop_and_start_of_free_run(running: World) -> None:
    running.beat(ENABLE | EXECUTE, Command=CommandCode.STOP)
    assert running.has(Status1.CMD_DONE)
    running.run(60)
    assert not running.is_ready
    assert running.bank.number("OfflineReason") == OfflineReason.STOPPED_BY_PERSON
    assert running.bank.number("State") == State.READY
    running.beat(ENABLE)
    running.beat(ENABLE | EXECUTE, Command=CommandCode.START_CONTINUOUS)
    running.run(60)
    running.beat(ENABLE)
    assert running.is_ready


def test_free_run_comes_back_by_itself_after_a_recipe_change(running: World) -> None:
    load(running, 2)
    running.idle(1000)
    running.beat(ENABLE)
    free(running)
    assert running.bank.number("RecipeId") == 2


# ---- commands, stop, start


@pytest.mark.parametrize(
    ("command", "result"),
    [
        (CommandCode.RESYNC, CommandError.DONE),
        (CommandCode.CLEAR_OVERRUN, CommandError.DONE),
        (CommandCode.STOP, CommandError.WRONG_STATE),
        (CommandCode.START_CONTINUOUS, CommandError.WRONG_STATE),
        (CommandCode.START_CHALLENGE, CommandError.DONE),
        (CommandCode.END_CHALLENGE, CommandError.WRONG_STATE),
        (CommandCode.SAVE_NEXT_N, CommandError.DONE),
        (CommandCode.LOAD_RECIPE_BY_HASH, CommandError.UNKNOWN_PRODUCT),
        (0, CommandError.UNKNOWN_COMMAND),
        (999, CommandError.UNKNOWN_COMMAND),
    ],
)
def test_commands(world: World, command: int, result: CommandError) -> None:
    world.until_ready()
    world.beat(ENABLE | EXECUTE, Command=command)
    assert world.bank.number("CmdResult") == result
    assert (Status2.CMD_FAILED in Status2(world.bank.number("Status2"))) == (result != 0)


def test_save_next_n_keeps_the_pictures_of_the_next_n_parts(world: World) -> None:
    kept: list[bool] = []
    for count, parts in ((0, 1), (2, 3), (5, 1), (0, 1)):
        world.until_ready()
        world.beat(ENABLE | EXECUTE, Command=CommandCode.SAVE_NEXT_N, CmdArg=count)
        assert world.bank.number("CmdResult") == CommandError.DONE
        for _ in range(parts):
            part_id = world.until_ready().part()
            world.read()
            kept.append(world.verdicts[part_id].verdict.is_kept)
    assert kept == [False, True, True, False, True, False]


def test_reset_counters_starts_the_shift_at_zero(world: World) -> None:
    world.until_ready().part()
    world.read()
    assert world.bank.number("ok") == 1
    world.beat(ENABLE | EXECUTE, Command=CommandCode.RESET_COUNTERS)
    world.run(200)
    assert world.bank.number("ok") == 0
    assert world.line.tally.persistent["ok"] == 1


def test_an_orderly_stop_ends_every_part_and_takes_no_more(world: World) -> None:
    world.plan = lambda part_id: Plan(camera="silent")
    part_id = world.until_ready().part()
    world.line.stop(world.now)
    assert world.verdicts[part_id].verdict.reason == Reason.RESTART
    world.idle(1000)
    assert not world.is_ready
    assert world.bank.number("OfflineReason") == OfflineReason.STOPPED_BY_PERSON
    assert set(world.rows) == {part_id}


def test_an_unwritable_journal_at_the_start_keeps_the_line_not_ready(world: World) -> None:
    world.line._is_journal_bad_at_start = True
    for _ in range(100):
        world.run(50)
        world.beat(ENABLE)
    assert not world.is_ready
    assert world.bank.number("FaultCode") == FaultCode.STORAGE
    world.beat(ENABLE | CLEAR)
    world.idle(200)
    assert not world.is_ready


def test_a_journal_that_fails_later_is_a_warning(world: World) -> None:
    world.until_ready()
    world.journal.lost += 1
    world.run(60)
    assert world.is_ready
    assert world.has(Status1.WARNING)
    assert world.line.counters["journal_lost"] == 1


def test_a_spent_restart_budget_is_a_fault_that_ends_with_it(world: World) -> None:
    world.until_ready()
    world.line.spent_budgets = ("record",)
    world.run(60)
    assert world.bank.number("FaultCode") == FaultCode.RESTART_BUDGET_SPENT
    assert not world.is_ready
    world.line.spent_budgets = ()
    world.run(60)
    assert world.is_ready


@pytest.mark.parametrize("process", ["hmi", "tool", "metrics", "bus"])
def test_what_judges_no_parts_stops_none(world: World, process: str) -> None:
    """A page whose certificate cannot be read is tried for ever; the line goes on."""
    world.until_ready()
    world.line.spent_budgets = (process,)
    world.run(60)
    assert world.is_ready
    assert world.bank.number("FaultCode") == FaultCode.NONE
    assert world.has(Status1.WARNING)
    assert world.line.notes == (f"{process}: restarted too often",)


def test_starting_is_the_reason_before_the_first_ready(world: World) -> None:
    world.camera.is_alive = False
    world.idle(1000)
    assert world.bank.number("OfflineReason") == OfflineReason.STARTING
    world.idle(10_000)
    assert world.bank.number("OfflineReason") == OfflineReason.CAMERA
    assert world.bank.number("FaultCode") == 0


def test_disk_bits_come_from_the_recorder(world: World) -> None:
    world.until_ready()
    world.line.stored(Stored(part_ids=(), is_disk_low=True, is_lossy=True))
    world.run(60)
    bits = Status2(world.bank.number("Status2"))
    assert Status2.DISK_LOW in bits
    assert Status2.ARCHIVE_LOSSY in bits


# ---- anything at all


def lawful(chance: random.Random) -> Plan:
    """Whatever a camera or an engine may do without breaking a law."""
    return Plan(
        camera=chance.choices(["good", "none", "incomplete", "queue_full"], [20, 1, 1, 1])[0],
        infer=chance.choices(
            ["good", "failed", "nan", "other_setup", "map_lost"], [20, 1, 1, 1, 1]
        )[0],
        camera_ms=chance.choice([1, 10, 30, 100, 180]),
        infer_ms=chance.choice([0, 1, 10, 50, 150, 250]),
        is_infer_first=chance.random() < 0.3,
        is_bad=chance.random() < 0.3,
    )


def lawless(chance: random.Random) -> Plan:
    """And whatever a bug or a lost message may do."""
    plan = lawful(chance)
    if chance.random() < 0.3:
        plan.camera = chance.choice(
            ["silent", "double", "then_none", "after_none", "foreign", "good"]
        )
        plan.infer = chance.choice(["silent", "double", "other_frame", "good"])
    return plan


class RandomPlc:
    """Follows the handshake most of the time, and does anything at all for the rest of it."""

    def __init__(self, world: World, chance: random.Random, mode: Control) -> None:
        self.world, self.chance, self.mode = world, chance, mode
        self.control = ENABLE | mode
        self.silent_until = 0

    def scan(self) -> None:
        world, chance = self.world, self.chance
        world.at(chance.choice([5, 10, 20, 40]), self.scan)
        if world.now < self.silent_until:
            return
        if chance.random() < 0.002:
            self.silent_until = world.now + 800 * MS
            return
        bits = Status1(world.bank.number("Status1"))
        control = self.control & ~(CLEAR | EXECUTE)
        if Status1.TRIGGER_ACK in bits:
            control &= ~TRIGGER
        elif Status1.TRIGGER_READY in bits and chance.random() < 0.7:
            control |= TRIGGER
        elif chance.random() < 0.02:
            control ^= TRIGGER  # too early, or never acknowledged
        if Status1.RESULT_VALID in bits and chance.random() < 0.8:
            control |= Control.RESULT_ACK
        elif chance.random() < 0.9:
            control &= ~Control.RESULT_ACK
        if CLEAR not in self.control and bits & (Status1.FAULT | Status1.ACQ_ERROR):
            control |= CLEAR
        words: dict[str, int] = {
            "PartTag": chance.choice([0, 1, 0xFFFF_FFFF, chance.getrandbits(32)]),
            "DeadlineMs": chance.choice([0, 0, 0, 5, 80, 10_000]),
            "AckSeq": world.bank.number("RingLast"),
            "EpochEcho": world.bank.number("Epoch"),
        }
        if chance.random() < 0.01:
            control |= EXECUTE
            words |= {
                "Command": chance.choice([1, 10, 11, 12, 77]),
                "CmdArg": chance.choice([1, 2, 9]),
            }
        self.control = control
        self.look(bits)
        if chance.random() < 0.05:
            world.write(control)  # one register alone, and no heartbeat
        else:
            world.beat(control, **words)

    def look(self, bits: Status1) -> None:
        """What the PLC could accept is what was decided."""
        bank = self.world.bank
        if Status1.RESULT_VALID in bits and Status1.PASS in bits:
            assert Status1.FAIL not in bits
            assert bank.number("Verdict") == Word.OK
            assert bank.number("InspectionID") == bank.number("ResultTear")
            assert self.world.newest[bank.number("InspectionID")].word == Word.OK


def drive(
    seed: int, plan: Callable[[random.Random], Plan], mode: Control, cycles: int, deaths: bool
) -> World:
    """A line of random parts until so many were accepted and all is quiet again."""
    chance = random.Random(seed)
    world = World(seed=seed, first_id=65_535 * 3 - cycles // 2)
    world.plan = lambda part_id: plan(chance)
    plc = RandomPlc(world, chance, mode)
    world.at(1, plc.scan)
    for _ in range(cycles * 40):
        world.run(100)
        if deaths and chance.random() < 0.01:
            world.kill(chance.choice([world.camera, world.infer, world.record]))
        if deaths and chance.random() < 0.005:
            world.kill_decide()
        if len(world.opened) >= cycles:
            break
    plc.silent_until = world.now + 10**15
    for _ in range(150):
        world.run(100)
    return world


def settled(world: World, cycles: int) -> None:
    """Every part has one verdict and one row, and the books close."""
    assert len(world.opened) >= cycles
    assert len(world.line.book) == 0
    assert set(world.rows) == set(world.opened)
    for part_id, row in world.rows.items():
        shown = world.verdicts.get(part_id)
        if shown is None:
            assert (row.word, row.reason) == (Word.ERROR, Reason.RESTART)
        else:
            assert row == shown.verdict
    words = [shown.verdict.word for shown in world.verdicts.values()]
    assert words.count(Word.OK) > 0
    assert words.count(Word.ERROR) > 0


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32), st.sampled_from([Control(0), BUFFER]))
def test_random_plc_camera_and_infer(seed: int, mode: Control) -> None:
    """Exactly one verdict per part, in time, and the ledger closes; ids go on over the wrap."""
    cycles = CYCLES
    with drive(seed, lawful, mode, cycles, deaths=False) as world:
        settled(world, cycles)
        ids = sorted(world.opened)
        assert ids == list(range(ids[0], ids[0] + len(ids)))
        shown = [acq_id(part_id) for part_id in ids]
        assert 65_535 in shown
        assert 1 in shown
        assert 0 not in shown
        figures = world.line.ledger.figures()
        assert figures["unaccounted"] == 0, figures
        assert figures["accepted"] == figures["verdicts"] == len(ids)
        assert world.line.tally.persistent["triggers"] == len(ids)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32), st.sampled_from([Control(0), BUFFER]))
def test_random_deaths_of_every_process(seed: int, mode: Control) -> None:
    cycles = CYCLES
    with drive(seed, lawful, mode, cycles, deaths=True) as world:
        settled(world, cycles)
        assert world.line.ledger.unaccounted == 0, world.line.ledger.figures()
        persistent = world.line.tally.persistent
        assert persistent["triggers"] == len(world.opened)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32), st.sampled_from([Control(0), BUFFER]))
def test_random_bugs_never_make_a_part_ok(seed: int, mode: Control) -> None:
    """Lost, doubled and foreign messages: shown in the ledger, and never an OK (World checks)."""
    cycles = CYCLES
    with drive(seed, lawless, mode, cycles, deaths=False) as world:
        settled(world, cycles)
        assert world.line.ledger.unaccounted > 0
