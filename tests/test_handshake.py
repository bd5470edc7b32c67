"""The timing rules of docs/plc.md on virtual time: trigger, deadline, heartbeats, commands."""

import pytest

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
from appliance.registers import REGISTERS
from appliance.words import decode_input
from tests import handshake_desk
from tests.handshake_desk import DEADLINE_MS, Desk

ENABLE, TRIGGER, ACK, EXECUTE = (
    Control.ENABLE,
    Control.TRIGGER,
    Control.RESULT_ACK,
    Control.EXECUTE,
)
CLEAR, OFFLINE = Control.CLEAR_ERROR, Control.SET_OFFLINE


desk, ring = handshake_desk.desk, handshake_desk.ring


def test_tag_and_trigger_may_come_in_one_request(desk: Desk) -> None:
    desk.ready()
    desk.beat(ENABLE | TRIGGER, PartTag=0xDEADBEEF, PartId="ABC", Lot="L7")
    assert [(p.part_tag, p.part_text, p.lot) for p in desk.accepted] == [(0xDEADBEEF, "ABC", "L7")]


def test_trigger_is_acknowledged_by_the_write_itself_with_its_id(desk: Desk) -> None:
    desk.ready()
    assert desk.bank.number("AcqID") == 0
    desk.write(ENABLE | TRIGGER)
    assert desk.has(Status1.TRIGGER_ACK)
    assert desk.bank.number("AcqID") == 1
    assert not desk.has(Status1.TRIGGER_READY)


def test_acknowledgement_falls_with_the_trigger(desk: Desk) -> None:
    desk.ready()
    desk.write(ENABLE | TRIGGER)
    desk.wait(50)
    assert desk.has(Status1.TRIGGER_ACK)
    desk.write(ENABLE)
    assert not desk.has(Status1.TRIGGER_ACK)
    assert desk.bank.number("AcqID") == 1


def test_a_held_trigger_is_one_part(desk: Desk) -> None:
    desk.ready()
    for _ in range(5):
        desk.beat(ENABLE | TRIGGER)
    assert len(desk.accepted) == 1
    desk.verdict(1)
    desk.beat(ENABLE | TRIGGER | ACK)
    desk.beat(ENABLE | TRIGGER)
    assert desk.has(Status1.TRIGGER_READY)
    assert len(desk.accepted) == 1
    assert desk.counted == []


def test_picture_bits(desk: Desk) -> None:
    desk.ready()
    desk.write(ENABLE | TRIGGER)
    assert desk.has(Status1.ACQUIRING)
    assert desk.has(Status1.BUSY)
    assert not desk.has(Status1.EXPOSURE_COMPLETE)
    desk.handshake.exposure_complete()
    desk.wait(1)
    assert desk.has(Status1.EXPOSURE_COMPLETE)
    assert not desk.has(Status1.ACQUIRING)
    desk.verdict(1)
    assert not desk.has(Status1.BUSY)


def test_a_part_that_ends_while_it_is_accepted_leaves_nothing_behind(desk: Desk) -> None:
    """The camera takes no trigger: id, acknowledgement and ERROR in the same request."""
    desk.on_accept = lambda acq_id: desk.verdict(acq_id, Word.ERROR, Reason.NO_IMAGE, margin=None)
    desk.ready()
    desk.write(ENABLE | TRIGGER)
    assert (desk.bank.number("AcqID"), desk.bank.number("InspectionID")) == (1, 1)
    assert desk.has(Status1.TRIGGER_ACK)
    assert desk.has(Status1.RESULT_VALID)
    assert desk.has(Status1.FAIL)
    assert not desk.has(Status1.ACQUIRING)


def test_trigger_while_not_ready_is_refused_counted_and_latched(desk: Desk) -> None:
    desk.ready()
    desk.part()
    desk.beat(ENABLE | TRIGGER)
    assert not desk.has(Status1.TRIGGER_ACK)
    assert desk.has(Status1.ACQ_ERROR)
    assert desk.bank.number("AcqID") == 1
    assert desk.counted == ["missed_triggers"]
    desk.verdict(1)
    desk.beat(ENABLE | TRIGGER | ACK)
    desk.beat(ENABLE | TRIGGER)
    assert desk.has(Status1.TRIGGER_READY)
    desk.wait(100)
    assert len(desk.accepted) == 1  # a level still held is no new edge
    assert desk.has(Status1.ACQ_ERROR)  # latched
    desk.beat(ENABLE)
    desk.beat(ENABLE | TRIGGER)
    assert len(desk.accepted) == 2


def test_clear_error_ends_acq_error(desk: Desk) -> None:
    desk.ready()
    desk.part()
    desk.beat(ENABLE | TRIGGER)
    desk.beat(ENABLE | CLEAR)
    assert not desk.has(Status1.ACQ_ERROR)
    assert desk.cleared == [FaultCode.NONE]


def test_levels_held_over_our_restart_are_no_edges(desk: Desk) -> None:
    """A part of the life before is closed by the journal; a command must not run twice."""
    held = ENABLE | TRIGGER | EXECUTE
    for _ in range(3):
        desk.beat(held, Command=1)
        desk.wait(100)
    assert (desk.accepted, desk.asked, desk.counted) == ([], [], [])
    assert not desk.bits & (Status1.TRIGGER_ACK | Status1.ACQ_ERROR | Status1.CMD_EXECUTING)
    assert desk.bank.number("AcqID") == 0
    desk.beat(ENABLE)
    desk.beat(ENABLE | TRIGGER)
    assert len(desk.accepted) == 1


@pytest.mark.parametrize("control", [Control(0), ENABLE | OFFLINE])
def test_no_part_without_enable_or_when_set_offline(desk: Desk, control: Control) -> None:
    desk.ready()
    desk.beat(control)
    assert not desk.has(Status1.TRIGGER_READY)
    desk.beat(control | TRIGGER)
    assert desk.accepted == []
    expected = OfflineReason.STOPPED_BY_PERSON if OFFLINE in control else OfflineReason.NONE
    assert desk.bank.number("OfflineReason") == expected


@pytest.mark.parametrize("state", [s for s in State if s not in (6, 8)])
def test_only_states_6_and_8_are_ready(desk: Desk, state: State) -> None:
    desk.ready()
    desk.conditions.state = state
    desk.wait(1)
    assert not desk.has(Status1.TRIGGER_READY)
    assert desk.bank.number("State") == state


def test_offline_holds_ready_and_says_why(desk: Desk) -> None:
    desk.ready()
    desk.conditions.offline = OfflineReason.CAMERA
    desk.wait(1)
    assert not desk.has(Status1.TRIGGER_READY)
    assert not desk.has(Status1.ONLINE)
    assert Status2.SAFE_STATE in desk.bits2
    assert desk.bank.number("OfflineReason") == OfflineReason.CAMERA


def test_a_plc_cannot_trigger_a_line_that_it_does_not_trigger(ring: Desk) -> None:
    ring.ready()
    ring.beat(ENABLE | TRIGGER)
    assert ring.accepted == []
    assert ring.counted == ["missed_triggers"]


@pytest.mark.parametrize(
    ("wanted_ms", "is_warned"), [(0, False), (50, False), (DEADLINE_MS, False), (201, True)]
)
def test_hr_9_longer_than_the_configuration_warns(
    desk: Desk, wanted_ms: int, is_warned: bool
) -> None:
    desk.ready()
    desk.beat(ENABLE | TRIGGER, DeadlineMs=wanted_ms)
    assert desk.accepted[0].deadline_ms == wanted_ms
    assert desk.has(Status1.WARNING) == is_warned


def test_the_first_write_proves_no_heartbeat(desk: Desk) -> None:
    desk.write(ENABLE, PlcHeartbeat=77)
    assert not desk.has(Status1.TRIGGER_READY)
    assert Status2.PLC_COMM_OK not in desk.bits2
    desk.write(PlcHeartbeat=78)
    assert desk.has(Status1.TRIGGER_READY)
    assert desk.bank.number("PlcHeartbeatEcho") == 78


def test_a_heartbeat_unchanged_for_500_ms_ends_ready_and_makes_outputs_safe(desk: Desk) -> None:
    desk.ready()
    for _ in range(4):
        desk.wait(100)
        desk.write()  # the same number again is no heartbeat
    desk.wait(99)
    assert desk.has(Status1.TRIGGER_READY)
    desk.wait(1)
    assert not desk.has(Status1.TRIGGER_READY)
    assert Status2.PLC_COMM_OK not in desk.bits2
    assert Status2.SAFE_STATE in desk.bits2
    assert desk.bank.number("OfflineReason") == OfflineReason.PLC_COMMUNICATION
    desk.beat()
    assert desk.has(Status1.TRIGGER_READY)
    assert Status2.SAFE_STATE not in desk.bits2


def test_trigger_and_heartbeat_after_silence_in_one_write_are_accepted(desk: Desk) -> None:
    desk.ready()
    desk.wait(5000)
    desk.beat(ENABLE | TRIGGER)
    assert len(desk.accepted) == 1


def test_trigger_after_silence_without_a_heartbeat_is_refused(desk: Desk) -> None:
    desk.ready()
    desk.wait(500)
    desk.write(ENABLE | TRIGGER)
    assert desk.accepted == []
    assert desk.has(Status1.ACQ_ERROR)


def test_vision_heartbeat_is_given_from_outside_and_wraps(desk: Desk) -> None:
    desk.ready()
    assert desk.bank.number("VisionHeartbeat") == 0
    desk.handshake.beat(65_536 + 3)
    assert desk.bank.number("VisionHeartbeat") == desk.bank.number("VisionHeartbeatCopy") == 3


def test_command_executing_done_cleared(desk: Desk) -> None:
    desk.ready()
    desk.beat(ENABLE | EXECUTE, Command=CommandCode.LOAD_RECIPE, CmdArg=70_000)
    assert desk.has(Status1.CMD_EXECUTING)
    assert not desk.has(Status1.CMD_DONE)
    ((command, argument, done),) = desk.asked
    assert (command, argument) == (CommandCode.LOAD_RECIPE, 70_000)
    assert desk.bank.number("CmdEcho") == CommandCode.LOAD_RECIPE
    done(CommandError.DONE)
    desk.wait(1)
    assert desk.has(Status1.CMD_DONE)
    assert not desk.has(Status1.CMD_EXECUTING)
    assert desk.bank.number("CmdResult") == 0
    desk.beat(ENABLE)
    assert not desk.bits & (Status1.CMD_DONE | Status1.CMD_EXECUTING)


def test_command_failed_says_why_until_execute_drops(desk: Desk) -> None:
    desk.ready()
    desk.beat(ENABLE | EXECUTE, Command=99)
    desk.asked[0][2](CommandError.UNKNOWN_COMMAND)
    desk.wait(1)
    assert desk.has(Status1.CMD_DONE)
    assert Status2.CMD_FAILED in desk.bits2
    assert desk.bank.number("CmdResult") == CommandError.UNKNOWN_COMMAND
    desk.beat(ENABLE)
    assert Status2.CMD_FAILED not in desk.bits2


def test_execute_held_asks_once(desk: Desk) -> None:
    desk.ready()
    for _ in range(3):
        desk.beat(ENABLE | EXECUTE, Command=1)
    assert len(desk.asked) == 1


def test_a_second_command_while_one_runs_is_busy_and_gets_no_foreign_answer(desk: Desk) -> None:
    desk.ready()
    desk.beat(ENABLE | EXECUTE, Command=1, CmdArg=5)
    desk.beat(ENABLE)
    assert not desk.bits & (Status1.CMD_DONE | Status1.CMD_EXECUTING)
    desk.beat(ENABLE | EXECUTE, Command=10)
    assert len(desk.asked) == 1
    assert desk.has(Status1.CMD_DONE)
    assert desk.bank.number("CmdEcho") == 10
    assert desk.bank.number("CmdResult") == CommandError.BUSY
    desk.asked[0][2](CommandError.DONE)
    desk.wait(1)
    assert desk.bank.number("CmdResult") == CommandError.BUSY
    assert Status2.CMD_FAILED in desk.bits2
    desk.beat(ENABLE)
    desk.beat(ENABLE | EXECUTE, Command=10)
    assert len(desk.asked) == 2
    assert desk.has(Status1.CMD_EXECUTING)


def test_the_answer_of_an_abandoned_command_is_not_shown(desk: Desk) -> None:
    desk.ready()
    desk.beat(ENABLE | EXECUTE, Command=1)
    desk.beat(ENABLE)
    desk.asked[0][2](CommandError.DONE)
    desk.wait(1)
    assert not desk.has(Status1.CMD_DONE)


def test_a_command_that_never_answers_times_out_and_its_answer_is_nobodys(desk: Desk) -> None:
    desk.ready()
    desk.beat(ENABLE | EXECUTE, Command=1)
    desk.wait(61_999)
    assert desk.has(Status1.CMD_EXECUTING)
    desk.wait(1)
    assert desk.has(Status1.CMD_DONE)
    assert desk.bank.number("CmdResult") == CommandError.TIMED_OUT
    desk.beat(ENABLE)
    desk.beat(ENABLE | EXECUTE, Command=10)
    desk.asked[0][2](CommandError.DONE)
    desk.wait(1)
    assert desk.has(Status1.CMD_EXECUTING)
    assert not desk.has(Status1.CMD_DONE)


def test_a_job_of_another_bus_is_a_part_like_any(desk: Desk) -> None:
    desk.ready()
    assert desk.job(tag=77) == desk.bank.number("AcqID") == 1
    assert [plc.part_tag for plc in desk.accepted] == [77]
    assert desk.has(Status1.ACQUIRING) and not desk.has(Status1.TRIGGER_READY)
    assert not desk.has(Status1.TRIGGER_ACK), "the PLC asked for nothing"


def test_a_job_that_is_refused_is_told_to_the_bus_that_asked_and_not_to_the_plc(
    desk: Desk,
) -> None:
    desk.ready()
    desk.job()
    assert desk.job() == 0
    assert len(desk.accepted) == 1 and desk.counted == []
    assert not desk.has(Status1.ACQ_ERROR)


def test_a_job_is_judged_by_what_holds_now_and_not_by_the_last_turn(desk: Desk) -> None:
    desk.ready()
    desk.conditions.offline = OfflineReason.CAMERA
    assert desk.job() == 0 and desk.accepted == []


def test_a_job_waits_until_the_plc_has_read_the_id_of_its_own_part(desk: Desk) -> None:
    held = ENABLE | Control.BUFFER_RESULTS
    desk.ready(held)
    desk.beat(held | TRIGGER)
    assert desk.has(Status1.TRIGGER_READY) and desk.job() == 0
    desk.beat(held)
    assert desk.job() == 2


def test_no_job_where_light_barriers_trigger(ring: Desk) -> None:
    ring.ready()
    assert ring.job() == 0


def test_a_write_of_one_register_alone_keeps_the_rest(desk: Desk) -> None:
    desk.ready()
    desk.beat(PartTag=42)
    desk.bank.write(0, [int(ENABLE | TRIGGER)])
    desk.handshake.on_write(decode_input(desk.bank), desk.now)
    assert desk.accepted[0].part_tag == 42


@pytest.mark.parametrize("tag", [0, 1, 0xFFFF_FFFF])
def test_any_tag_is_echoed(desk: Desk, tag: int) -> None:
    desk.ready()
    desk.part(tag)
    assert desk.accepted[0].part_tag == tag
    desk.verdict(1, part_tag=tag)
    assert desk.bank.number("PartTagEcho") == desk.slots()[0].part_tag == tag


def test_counters_wrap_at_32_bits(desk: Desk) -> None:
    from appliance.registers import COUNTERS

    values = {name: 5 for name, _ in COUNTERS}
    desk.handshake.show_counters(values | {"ok": 2**32 + 3})
    assert (desk.bank.number("ok"), desk.bank.number("ng")) == (3, 5)
    assert REGISTERS["unaccounted"].address == 180


def test_huge_figures_saturate(desk: Desk) -> None:
    desk.ready()
    desk.part()
    desk.verdict(1, latency_ns=10**15, deadline_ns=10**15, defects=10**9, margin=1e300)
    assert desk.bank.number("LatencyMs") == desk.bank.number("DeadlineUsedMs") == 0xFFFF
    assert desk.bank.number("DefectCount") == 0xFFFF
