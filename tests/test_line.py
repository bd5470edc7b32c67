"""The line on virtual time: one part, commands, stop and start."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from appliance.acceptance import Sent, Timing, level_objections, slot_objections
from appliance.codes import (
    CommandCode,
    CommandError,
    Control,
    FaultCode,
    OfflineReason,
    Reason,
    SlotFlags,
    Status1,
    Status2,
    Word,
)
from appliance.journal import acq_id
from appliance.messages import Stored
from appliance.part import Judgement
from appliance.registers import RING_SLOTS
from tests.line_plans import Plan
from tests.line_steps import ends
from tests.line_world import DEADLINE_MS, World

ENABLE = Control.ENABLE
CLEAR, EXECUTE = Control.CLEAR_ERROR, Control.EXECUTE


@pytest.fixture
def world() -> Iterator[World]:
    with World() as made:
        yield made


def test_a_late_picture_of_an_older_part_lets_no_newer_one_move(world: World) -> None:
    world.plan = lambda part_id: Plan(camera_ms=260 if part_id == 1 else 90)
    world.until_ready().part()
    assert world.read()[1] == Word.ERROR, "no picture before the deadline"
    world.part()
    world.run(70)
    world.beat()
    assert world.line.tally.shift["frames_ok"] == 1, "the first one's is there now"
    assert not world.has(Status1.EXPOSURE_COMPLETE)
    world.run(300)
    world.beat()
    assert world.line.tally.shift["frames_ok"] == 2
    assert world.has(Status1.EXPOSURE_COMPLETE)


def test_the_verdict_of_an_older_part_ends_no_exposure_of_a_newer_one() -> None:
    with World(results="ring") as world:
        world.plan = lambda part_id: Plan(infer_ms=60) if part_id == 1 else Plan(camera_ms=120)
        world.until_ready().part(PartTag=1)
        world.run(30)
        world.part(PartTag=2)
        assert world.has(Status1.ACQUIRING)
        world.run(90)
        assert world.bank.number("ok") == 1, "the older one has its verdict"
        assert world.has(Status1.ACQUIRING) and not world.has(Status1.EXPOSURE_COMPLETE)
        world.run(60)
        assert world.has(Status1.EXPOSURE_COMPLETE) and not world.has(Status1.ACQUIRING)


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


def test_no_word_is_believed_of_a_camera_that_says_it_is_simulated() -> None:
    """`config.toml` names a producer; only the camera's process knows that its cameras are none."""
    with World(is_real=True) as world:
        world.until_ready()
        world.kill_decide()  # the camera goes on, and nobody asks it for its set-up again
        world.until_ready()
        assert Status2.SIMULATED in Status2(world.bank.number("Status2"))
        part_id = world.part(PartTag=7)
        world.run(100)
        sent = Sent(
            part_tag=7, epoch=world.journal.epoch, acq_id=acq_id(part_id), deadline_ms=DEADLINE_MS
        )
        timing = Timing(since_trigger_ms=100, since_heartbeat_ms=50)
        assert world.bank.number("Verdict") == Word.OK
        assert level_objections(world.bank, sent, timing) == ("Simulated is 1",)


def test_of_two_open_parts_with_one_tag_no_result_can_be_found() -> None:
    with World(results="ring") as world:
        world.until_ready()
        world.part(PartTag=7)
        world.part(PartTag=7)
        world.run(DEADLINE_MS)
        world.part(PartTag=7)
        world.run(DEADLINE_MS)
        known = [world.bank.read_slot(i).flags & SlotFlags.TAG_KNOWN for i in range(3)]
        assert known == [0, 0, SlotFlags.TAG_KNOWN]


@dataclass
class Awaited:
    """A part that the PLC still has to decide about."""

    part_id: int
    sent: Sent
    at_ns: int


@pytest.mark.parametrize("acknowledges", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_whatever_tags_a_plc_repeats_it_accepts_no_part_by_anothers_result(
    seed: int, acknowledges: bool
) -> None:
    """Two or three numbers of nests, parts that overlap or not, scans of any length: by the rule of
    the manual, all slots looked through, in answers that came after each part's trigger."""
    dice = random.Random(seed)
    plan = {n: Plan(camera_ms=dice.choice((5, 15, 60)), infer_ms=dice.choice((5, 20, 90)),
                    is_bad=dice.random() < 0.5) for n in range(1, 400)}  # fmt: skip
    with World(results="ring", plan=lambda part_id: plan[part_id]) as world:
        world.until_ready()
        waiting: list[Awaited] = []
        accepted: list[int] = []
        ack = 0
        for _ in range(600):
            world.run(dice.choice((2, 10, 40)))
            tag = dice.choice((1, 2, 3))
            words = {"PartTag": tag, "AckSeq": ack, "EpochEcho": world.journal.epoch}
            if world.is_ready and not world.has(Status1.TRIGGER_ACK) and dice.random() < 0.5:
                world.beat(ENABLE | Control.TRIGGER, **words)
                sent = Sent(part_tag=tag, epoch=world.journal.epoch, acq_id=0,
                            deadline_ms=DEADLINE_MS)  # fmt: skip
                waiting.append(Awaited(max(world.opened), sent, world.now))
            else:
                world.beat(ENABLE, **words)
            slots = [world.bank.read_slot(index) for index in range(RING_SLOTS)]
            ack = world.bank.number("RingLast") if acknowledges else 0
            for part in list(waiting):
                since_ms = (world.now - part.at_ns) / 1e6
                timing = Timing(since_trigger_ms=since_ms, since_heartbeat_ms=0)
                found = [slot for slot in slots if slot.seq and slot.part_tag == part.sent.part_tag
                         and slot.flags & SlotFlags.TAG_KNOWN]  # fmt: skip
                if any(not slot_objections(slot, world.journal.epoch, part.sent, timing, True)
                       for slot in found):  # fmt: skip
                    assert not plan[part.part_id].is_bad, f"{part} by another part's result"
                    accepted.append(part.part_id)
                if found or since_ms > DEADLINE_MS:
                    waiting.remove(part)
        assert accepted


@pytest.mark.parametrize(("camera_ms", "word"), [(60, Word.OK), (300, Word.ERROR)])
def test_a_trigger_that_was_stuck_on_the_network_photographs_nobody(
    camera_ms: float, word: Word
) -> None:
    """One lost packet and TCP waits 200 ms: the camera on another box cannot tell how long, decide
    can. At ten parts a second the next one is in the picture."""
    with World(
        deadline_ms=800,
        remote={"prepare-camera-top": "tcp://b:1"},
        plan=lambda part_id: Plan(camera_ms=camera_ms),
    ) as world:
        world.until_ready()
        part_id = world.part()
        world.run(500)
        verdict = world.verdicts[part_id].verdict
        assert verdict.word == word
        if word == Word.ERROR:
            assert verdict.reason == Reason.ASSOCIATION_LOST
            assert "fired 295 ms late, expected at most 100 ms" in verdict.detail
        assert world.unaccounted == 0


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
    world.line.box.is_journal_bad = True
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
    world.line.box.spent_budgets = ("record",)
    world.run(60)
    assert world.bank.number("FaultCode") == FaultCode.RESTART_BUDGET_SPENT
    assert not world.is_ready
    world.line.box.spent_budgets = ()
    world.run(60)
    assert world.is_ready


@pytest.mark.parametrize("process", ["hmi", "tool", "metrics", "bus"])
def test_what_judges_no_parts_stops_none(world: World, process: str) -> None:
    """A page whose certificate cannot be read is tried for ever; the line goes on."""
    world.until_ready()
    world.line.box.spent_budgets = (process,)
    world.run(60)
    assert world.is_ready
    assert world.bank.number("FaultCode") == FaultCode.NONE
    assert world.has(Status1.WARNING)
    assert world.line.box.notes == (f"{process}: restarted too often",)


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
