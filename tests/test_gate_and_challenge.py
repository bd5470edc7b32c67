"""Confirmed rejects and challenge parts, by the PLC's words, on virtual time."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from appliance.codes import (
    CommandCode,
    CommandError,
    Control,
    ExpectedVerdict,
    FaultCode,
    GateStatus,
    OfflineReason,
    SlotFlags,
    Status1,
    Status2,
    Word,
)
from appliance.messages import Command
from tests.line_plans import Plan
from tests.line_world import World

ENABLE, EXECUTE, CHALLENGE = Control.ENABLE, Control.EXECUTE, Control.CHALLENGE_MODE
FITTED, CONFIRMED = GateStatus.CONFIRM_FITTED | GateStatus.AIR_OK, GateStatus.REJECT_CONFIRMED


@pytest.fixture
def world() -> Iterator[World]:
    with World(plan=lambda part_id: Plan(is_bad=part_id % 2 == 0)) as world:
        yield world.until_ready()


def passed(world: World, tag: int, control: Control = ENABLE, **words: Any) -> Word:
    """One part with this tag; the word that the PLC read."""
    world.until_ready(control)
    world.part(control, PartTag=tag, **words)
    return Word(world.read(control=control)[1])


def good(world: World, tag: int, **words: Any) -> None:
    """A good part: the odd ones are."""
    if (max(world.opened, default=0) + 1) % 2 == 0:
        passed(world, 9999)
    assert passed(world, tag, **words) == Word.OK


def bad(world: World, tag: int, **words: Any) -> None:
    if (max(world.opened, default=0) + 1) % 2 == 1:
        passed(world, 8888)
    assert passed(world, tag, **words) == Word.NG


def fault(world: World) -> int:
    return world.bank.number("FaultCode") if world.has(Status1.FAULT) else FaultCode.NONE


def test_a_reject_that_is_not_confirmed_in_time_is_a_fault_that_holds_ready(world: World) -> None:
    world.beat(ENABLE, GateStatus=FITTED)
    bad(world, 7)
    world.idle(1500)
    assert fault(world) == FaultCode.NONE
    world.idle(1000)
    assert fault(world) == FaultCode.REJECT_NOT_CONFIRMED
    assert not world.is_ready
    world.idle(500)
    assert not world.is_ready, "it latches"
    world.beat(ENABLE | Control.CLEAR_ERROR)
    world.beat(ENABLE)
    assert fault(world) == FaultCode.NONE
    world.until_ready()


@pytest.mark.parametrize("is_confirmed", [True, False])
def test_a_confirmation_that_came_while_the_loop_stood_still_is_in_time(
    world: World, is_confirmed: bool
) -> None:
    """Its request is read after the turn that finds the time over; so is one of a PLC that was
    not heard for a moment."""
    world.beat(ENABLE, GateStatus=FITTED)
    bad(world, 7)
    world.idle(1500)
    world.stall(800)
    world.run(100)
    confirmed = {"GateStatus": FITTED | CONFIRMED, "ConfirmedTag": 7} if is_confirmed else {}
    world.beat(ENABLE, **confirmed)
    world.idle(1000)
    assert fault(world) == (FaultCode.NONE if is_confirmed else FaultCode.REJECT_NOT_CONFIRMED)


def test_a_reject_of_before_a_restart_is_no_surprise_when_it_leaves(world: World) -> None:
    """The verdict was given by the last life; a Warning would ask for a person after each crash."""
    world.beat(ENABLE, GateStatus=FITTED)
    bad(world, 7)
    world.kill_decide()
    world.until_ready()
    world.beat(ENABLE, GateStatus=FITTED)
    world.beat(ENABLE, GateStatus=FITTED | CONFIRMED, ConfirmedTag=7)
    world.idle(100)
    assert not world.has(Status1.WARNING)
    world.idle(2000)
    world.beat(ENABLE, GateStatus=FITTED, ConfirmedTag=7)
    world.idle(100)
    assert world.has(Status1.WARNING), "it cannot leave twice"


def test_clear_error_in_the_scan_of_the_fault_itself_acknowledges_nothing(world: World) -> None:
    """The PLC clears an AcqError and cannot know yet that a reject stayed on the line."""
    world.beat(ENABLE, GateStatus=FITTED)
    bad(world, 7)
    world.idle(1500)
    world.run(1000)  # the PLC's last answer was before this
    world.beat(ENABLE | Control.CLEAR_ERROR)
    world.idle(500)
    assert fault(world) == FaultCode.REJECT_NOT_CONFIRMED
    world.beat(ENABLE)
    world.beat(ENABLE | Control.CLEAR_ERROR)
    assert fault(world) == FaultCode.NONE


def test_a_confirmed_reject_is_no_fault_and_the_tag_tells_which(world: World) -> None:
    world.beat(ENABLE, GateStatus=FITTED)
    bad(world, 7)
    world.beat(ENABLE, GateStatus=FITTED | CONFIRMED, ConfirmedTag=7)
    world.idle(3000)
    assert fault(world) == FaultCode.NONE
    assert not world.has(Status1.WARNING)
    good(world, 8)
    bad(world, 9)
    world.beat(ENABLE, GateStatus=FITTED, ConfirmedTag=8)
    world.idle(100)
    assert world.has(Status1.WARNING), "a good part left the line"
    world.idle(2500)
    assert fault(world) == FaultCode.REJECT_NOT_CONFIRMED, "and the bad one did not"


def rejected(world: World, tag: int = 5) -> None:
    """A reject without a wait for Ready."""
    world.plan = lambda _: Plan(is_bad=True)
    world.part(ENABLE, PartTag=tag)
    assert Word(world.read()[1]) == Word.NG


def test_rejects_with_one_tag_are_awaited_one_by_one(world: World) -> None:
    """A PLC that does not number its parts: a later reject gives an older one no more time."""
    world.beat(ENABLE, GateStatus=FITTED)
    for _ in range(10):
        if world.has(Status1.FAULT):
            break
        rejected(world)
        world.idle(300)
    assert fault(world) == FaultCode.REJECT_NOT_CONFIRMED


def test_one_confirmation_is_of_one_reject(world: World) -> None:
    world.beat(ENABLE, GateStatus=FITTED)
    rejected(world)
    rejected(world)
    world.beat(ENABLE, GateStatus=FITTED | CONFIRMED, ConfirmedTag=5)
    world.idle(2500)
    assert fault(world) == FaultCode.REJECT_NOT_CONFIRMED
    assert not world.has(Status1.WARNING)


def test_without_a_fitted_confirmation_nothing_is_awaited(world: World) -> None:
    bad(world, 7)
    world.idle(4000)
    assert fault(world) == FaultCode.NONE


@pytest.mark.parametrize(
    "status",
    [GateStatus.BLOCKED, GateStatus.BIN_FULL, GateStatus.CONFIRM_FITTED],
    ids=["blocked", "full", "no air"],
)
def test_a_gate_that_needs_a_person_is_a_warning(world: World, status: GateStatus) -> None:
    assert not world.has(Status1.WARNING)
    world.beat(ENABLE, GateStatus=status)
    world.idle(100)
    assert world.has(Status1.WARNING)
    world.beat(ENABLE, GateStatus=0)
    world.idle(100)
    assert not world.has(Status1.WARNING)


def commanded(world: World, code: CommandCode) -> int:
    world.beat(ENABLE | EXECUTE, Command=code)
    result = world.bank.number("CmdResult")
    world.beat(ENABLE)
    return result


def test_a_challenge_part_is_a_real_inspection_counted_apart(world: World) -> None:
    before = world.line.counters["ok"]
    good(world, 5, ExpectedVerdict=0)
    bad(world, 6)
    assert passed(world, 7, ENABLE | CHALLENGE, ExpectedVerdict=ExpectedVerdict.OK) == Word.OK
    verdict = world.verdicts[max(world.verdicts)].verdict
    assert verdict.is_challenge and verdict.expected_word == Word.OK
    slot = world.bank.read_slot((len(world.verdicts) - 1) % 12)
    assert slot.flags & SlotFlags.CHALLENGE
    assert world.line.counters["challenges"] == 1
    assert world.line.counters["ok"] == before + 1, "of good parts there was one"
    assert not Status2(world.bank.number("Status2")) & Status2.CHALLENGE_FAILED


def fail(world: World) -> None:
    """A bad part that the PLC said to be good."""
    bad(world, 1)
    good(world, 2)
    word = passed(world, 3, ENABLE | CHALLENGE, ExpectedVerdict=ExpectedVerdict.OK)
    assert word == Word.NG
    world.idle(100)


def test_a_failed_challenge_locks_the_line_over_a_restart_too(world: World) -> None:
    fail(world)
    for _ in range(2):
        assert world.bank.number("OfflineReason") == OfflineReason.CHALLENGE_LOCK
        assert not world.is_ready
        assert Status2(world.bank.number("Status2")) & Status2.CHALLENGE_FAILED
        world.kill_decide()
        world.beat(ENABLE)
        world.idle(3000)


def test_the_verdict_that_locks_takes_ready_away_in_the_same_turn(world: World) -> None:
    bad(world, 1)
    good(world, 2)
    control = ENABLE | CHALLENGE | Control.BUFFER_RESULTS
    world.until_ready(control)
    world.part(control, PartTag=3, ExpectedVerdict=ExpectedVerdict.OK)
    ready: list[bool] = []
    live = world.line._out.live
    world.line._out = replace(
        world.line._out, live=lambda v: (ready.append(world.is_ready), live(v))
    )
    world.run(200)
    assert ready == [False]
    assert world.bank.number("OfflineReason") == OfflineReason.CHALLENGE_LOCK


@pytest.mark.parametrize("trigger", ["hardware", "free"])
def test_a_challenge_without_a_plc_trigger_is_refused_and_lifts_no_lock(trigger: str) -> None:
    with World(trigger=trigger) as world:
        world.line.tally.add("challenges_failed")
        world.beat(ENABLE)
        world.idle(1000)
        assert commanded(world, CommandCode.START_CHALLENGE) == CommandError.WRONG_STATE
        assert commanded(world, CommandCode.END_CHALLENGE) == CommandError.WRONG_STATE
        world.idle(100)
        assert world.bank.number("OfflineReason") == OfflineReason.CHALLENGE_LOCK
        assert not world.is_ready


def test_a_challenge_that_passes_unlocks(world: World) -> None:
    fail(world)
    assert commanded(world, CommandCode.END_CHALLENGE) == CommandError.WRONG_STATE
    assert commanded(world, CommandCode.START_CHALLENGE) == CommandError.DONE
    world.until_ready()
    good(world, 4, ExpectedVerdict=ExpectedVerdict.OK)
    assert commanded(world, CommandCode.END_CHALLENGE) == CommandError.DONE
    world.idle(100)
    world.until_ready()
    good(world, 5, ExpectedVerdict=0)
    assert not world.verdicts[max(world.verdicts)].verdict.is_challenge


def test_a_challenge_without_a_part_or_with_a_wrong_one_unlocks_nothing(world: World) -> None:
    fail(world)
    for expected in (None, ExpectedVerdict.UNCERTAIN):
        assert commanded(world, CommandCode.START_CHALLENGE) == CommandError.DONE
        if expected is not None:
            passed(world, 4, ExpectedVerdict=expected)
        assert commanded(world, CommandCode.END_CHALLENGE) == CommandError.DONE
        world.idle(100)
        assert world.bank.number("OfflineReason") == OfflineReason.CHALLENGE_LOCK


def ask(world: World, name: str, by: str, argument: str) -> CommandError:
    answers: list[CommandError] = []
    command = Command(id="1", name=name, argument=argument, by=by)
    world.line.asked(command, world.now, lambda code, _: answers.append(code))
    world.idle(100)
    return answers[-1]


@pytest.mark.parametrize(("by", "reason"), [("opcua:mes", "x"), ("", "x"), ("anna", "")])
@pytest.mark.parametrize("name", ["unlock_challenge", "pass_challenge"])
def test_only_a_person_with_a_reason_unlocks(world: World, name: str, by: str, reason: str) -> None:
    fail(world)
    assert ask(world, name, by, reason) == CommandError.NOT_IN_CONTROL
    assert world.bank.number("OfflineReason") == OfflineReason.CHALLENGE_LOCK
    assert ask(world, name, "anna", "the part was mixed up") == CommandError.DONE
    world.until_ready()


def test_a_test_that_a_person_saw_fail_locks_over_a_restart(world: World) -> None:
    world.until_ready()
    assert ask(world, "fail_challenge", "opcua:mes", "x") == CommandError.NOT_IN_CONTROL
    assert world.is_ready
    assert ask(world, "fail_challenge", "anna", "bin full, line went on") == CommandError.DONE
    assert world.bank.number("OfflineReason") == OfflineReason.CHALLENGE_LOCK
    assert Status2.CHALLENGE_FAILED in Status2(world.bank.number("Status2"))
    world.kill_decide()
    world.idle(3000)
    assert world.bank.number("OfflineReason") == OfflineReason.CHALLENGE_LOCK


def test_drift_warns_asks_for_a_challenge_and_holds_until_one_passes(world: World) -> None:
    world.until_ready()

    def bits() -> Status2:
        return Status2(world.bank.number("Status2")) & (Status2.DRIFT_WARN | Status2.CHALLENGE_DUE)

    for wrong in ("", "4", "-1", "one"):
        assert ask(world, "drift", "tool:drift", wrong) == CommandError.UNKNOWN_COMMAND
    assert ask(world, "drift", "tool:drift", "1") == CommandError.DONE
    assert bits() == Status2.DRIFT_WARN and world.is_ready
    assert ask(world, "drift", "tool:drift", "2") == CommandError.DONE
    assert bits() == Status2.DRIFT_WARN | Status2.CHALLENGE_DUE and world.is_ready
    assert ask(world, "drift", "tool:drift", "3") == CommandError.DONE
    assert world.bank.number("OfflineReason") == OfflineReason.CHALLENGE_LOCK
    assert commanded(world, CommandCode.START_CHALLENGE) == CommandError.DONE
    good(world, 4, ExpectedVerdict=ExpectedVerdict.OK)
    assert commanded(world, CommandCode.END_CHALLENGE) == CommandError.DONE
    world.idle(100)
    world.until_ready()
    assert bits() == Status2(0)


def test_what_a_person_ends_is_judged_by_that_person_alone(world: World) -> None:
    fail(world)
    assert ask(world, "start_challenge", "anna", "") == CommandError.DONE
    world.until_ready()
    good(world, 4, ExpectedVerdict=ExpectedVerdict.OK)
    assert ask(world, "end_challenge", "anna", "") == CommandError.DONE
    assert world.bank.number("OfflineReason") == OfflineReason.CHALLENGE_LOCK
    assert ask(world, "pass_challenge", "anna", "test 7 passed") == CommandError.DONE
    world.until_ready()


def test_a_hold_by_drift_outlives_the_process(world: World) -> None:
    world.until_ready()
    assert ask(world, "drift", "tool:drift", "3") == CommandError.DONE
    world.kill_decide()
    world.idle(3000)
    assert world.bank.number("OfflineReason") == OfflineReason.CHALLENGE_LOCK
    assert ask(world, "drift", "tool:drift", "0") == CommandError.DONE
    world.kill_decide()
    world.until_ready()
