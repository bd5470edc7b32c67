"""The programs of the desk PLC on virtual time, scan by scan."""

from collections.abc import Callable
from typing import Any

import pytest

from appliance.codes import (
    CommandError,
    Control,
    Status1,
    Status2,
    Word,
)
from appliance.words import Bank
from tools.plc_command import GUARD_NS, CommandProgram
from tools.plc_level import LevelProgram
from tools.plc_program import Break, Part, PlcOptions, Ring
from tools.plc_ring import RingProgram

OK, NG, NONE = Word.OK, Word.NG, Word.NONE
MS = 1_000_000
READY = Status1.ONLINE | Status1.TRIGGER_READY


class Desk:
    """A program, the image that it reads, and its clock: 10 ms a scan."""

    def __init__(self, ring: Ring = Ring.NONE, **options: Any) -> None:
        self.options = PlcOptions(**{"parts": 3, "deadline_ms": 200, "ring": ring, **options})
        self.parts: list[Part] = []
        kind = LevelProgram if ring == Ring.NONE else RingProgram
        self.program = kind(self.options, self.parts.append)
        self.image = Bank()
        self.image.set("Epoch", 7)
        self.now_ns = 1_000 * MS
        self.beats = 0
        self.is_beating = True

    @property
    def control(self) -> Control:
        return Control(self.program.out.number("Control"))

    def scan(self, status: Status1 | None = None, scans: int = 1) -> Control:
        if status is not None:
            self.image.set("Status1", status)
            self.image.set("Status1Copy", status)
        for _ in range(scans):
            self.now_ns += 10 * MS
            self.beats += self.is_beating
            self.image.set_counter("VisionHeartbeat", self.beats)
            self.image.set_counter("VisionHeartbeatCopy", self.beats)
            self.program.scan(self.image, self.now_ns)
        return self.control

    def trigger(self) -> int:
        """Up to the next Trigger; returns its tag."""
        for _ in range(5):
            if Control.TRIGGER in self.scan(READY):
                return self.program.out.number("PartTag")
        raise AssertionError("no trigger")

    def take(self, acq_id: int) -> None:
        """TriggerAck, and Trigger falls."""
        self.image.set("AcqID", acq_id)
        assert Control.TRIGGER not in self.scan(Status1.ONLINE | Status1.TRIGGER_ACK)
        self.scan(Status1.ONLINE | Status1.BUSY)

    def result(self, acq_id: int, tag: int, word: Word = OK) -> None:
        """Result words as the appliance writes them."""
        self.image.set("InspectionID", acq_id)
        self.image.set("ResultTear", acq_id)
        self.image.set("PartTagEcho", tag)
        self.image.set("Verdict", word)
        self.image.set("Margin", -2.5)
        verdict = Status1.PASS if word == OK else Status1.FAIL
        self.scan(Status1.ONLINE | Status1.RESULT_VALID | verdict)

    def slot(self, index: int, seq: int, tag: int, word: Word = OK, flags: int = 0x0704) -> None:
        """A slot as the appliance writes it; flags: tag known, Epoch 7."""
        self.image.put_slot(
            index, seq=seq, verdict=word, reason=0, flags=flags, score=1, latency_ms=20,
            part_tag=tag, inspection_id=seq,
        )  # fmt: skip


def test_the_level_handshake_step_by_step() -> None:
    desk = Desk(parts=1)
    assert desk.scan(Status1.ONLINE) == Control.ENABLE, "nothing is triggered before TriggerReady"
    assert desk.trigger() == 1
    assert desk.program.out.get("PartId") == "SIM-0000000001"
    assert desk.program.out.number("EpochEcho") == 7
    assert desk.scan() == Control.ENABLE | Control.TRIGGER, "held until TriggerAck"
    desk.take(41)
    assert desk.parts == []
    desk.result(41, 1)
    (part,) = desk.parts
    assert (part.is_accepted, part.why, part.word, part.acq_id) == (True, (), OK, 41)
    assert (part.epoch, part.margin, part.latency_ms) == (7, -2.5, 40.0)
    assert desk.control == Control.ENABLE | Control.RESULT_ACK
    assert not desk.program.is_done, "the acknowledgement is still to be taken"
    assert desk.scan(READY) == Control.ENABLE
    assert desk.program.is_done


def test_a_result_with_another_id_is_acknowledged_and_never_used() -> None:
    desk = Desk()
    tag = desk.trigger()
    desk.take(41)
    desk.result(40, tag)
    assert Control.RESULT_ACK in desk.control
    desk.scan(Status1.ONLINE)
    assert desk.parts == []
    assert desk.program.seen.stale_results == 1
    desk.result(41, tag, NG)
    assert (desk.parts[0].word, desk.parts[0].is_accepted) == (NG, False)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"PartTagEcho": 9}, "PartTagEcho is not PartTag"),
        ({"Verdict": 0xFFFF}, "Verdict is FFFF"),
        ({"Status2": Status2.SIMULATED}, "Simulated is 1"),
    ],
)
def test_the_acceptance_rule_is_applied(change: dict[str, int], why: str) -> None:
    desk = Desk()
    tag = desk.trigger()
    desk.take(41)
    desk.image.set("InspectionID", 41)
    desk.image.set("PartTagEcho", tag)
    desk.image.set("Verdict", OK)
    for name, value in change.items():
        desk.image.set(name, value)
    desk.scan(Status1.ONLINE | Status1.RESULT_VALID | Status1.PASS)
    assert desk.parts[0].why == (why,)
    assert desk.program.seen.torn_results == 1, "ResultTear was never written here"


def test_a_new_epoch_rejects_the_open_part_at_once() -> None:
    desk = Desk()
    tag = desk.trigger()
    desk.take(41)
    desk.image.set("Epoch", 8)
    desk.result(41, tag)
    assert desk.parts[0].why == ("Epoch changed",)
    assert desk.program.seen.epochs == [7, 8]


def test_no_result_is_a_reject_by_the_plcs_own_clock() -> None:
    desk = Desk()
    desk.trigger()
    desk.take(41)
    desk.scan(scans=17)
    assert desk.parts == []
    desk.scan(scans=2)
    assert desk.parts[0].why == ("no result by the deadline",)
    assert desk.parts[0].word == NONE
    desk.result(41, 1)
    assert Control.RESULT_ACK in desk.control, "what comes too late is cleared away"
    assert len(desk.parts) == 1


def test_a_true_result_of_a_dead_heart_is_a_reject() -> None:
    desk = Desk(deadline_ms=2000)
    tag = desk.trigger()
    desk.take(41)
    desk.is_beating = False
    desk.scan(scans=55)
    desk.result(41, tag)
    assert desk.parts[0].why == ("VisionHeartbeat stands still",)
    assert Control.TRIGGER not in desk.scan(READY, scans=5), "it stops feeding"


def test_a_refused_trigger_is_a_reject_and_the_error_is_cleared() -> None:
    desk = Desk()
    desk.trigger()
    control = desk.scan(Status1.ONLINE | Status1.ACQ_ERROR)
    assert control == Control.ENABLE | Control.CLEAR_ERROR
    assert desk.parts[0].why == ("trigger refused",)
    assert Control.TRIGGER not in desk.scan(READY | Status1.ACQ_ERROR)
    assert desk.scan(READY) == Control.ENABLE | Control.TRIGGER


def test_a_trigger_that_nobody_takes_is_given_up() -> None:
    desk = Desk()
    desk.trigger()
    desk.scan(READY, scans=11)
    assert desk.parts[0].why == ("no TriggerAck",)


def test_parts_that_come_while_not_ready_are_rejected_in_time() -> None:
    desk = Desk(parts=5, rate_hz=10, wait_ready_ms=300)
    desk.trigger()
    desk.take(41)
    desk.result(41, 1)
    desk.scan(Status1.ONLINE, scans=100)
    assert [part.tag for part in desk.parts] == [1, 2, 3, 4, 5]
    assert {part.why for part in desk.parts[1:]} == {("not ready",)}
    waits = [(part.decided_ns - part.due_ns) / MS for part in desk.parts[1:]]
    assert all(300 < wait <= 320 for wait in waits)
    assert all(part.triggered_ns == 0 for part in desk.parts[1:])


@pytest.mark.parametrize(
    ("reason", "words"),
    [(6, "the camera is not available (OfflineReason 6)"), (99, "unknown (OfflineReason 99)")],
)
def test_a_part_that_finds_the_line_not_ready_says_why(reason: int, words: str) -> None:
    desk = Desk(parts=1, patience_s=0.1)
    desk.image.set("OfflineReason", reason)
    desk.scan(Status1(0), scans=15)
    assert [part.why for part in desk.parts] == [(f"not ready: {words}",)]


def test_a_line_that_never_gets_ready_does_not_hold_the_plc_for_ever() -> None:
    desk = Desk(parts=3, patience_s=1.0)
    desk.scan(Status1.ONLINE, scans=99)
    assert desk.parts == []
    desk.scan(Status1.ONLINE, scans=5)
    assert [part.why for part in desk.parts] == [("not ready",)] * 3
    assert desk.program.is_done


def test_lost_communication_rejects_open_and_due_parts() -> None:
    desk = Desk(parts=3, rate_hz=10, wait_ready_ms=100)
    desk.trigger()
    desk.take(41)
    for _ in range(40):
        desk.now_ns += 10 * MS
        desk.program.lost(desk.now_ns, "no communication")
    assert [part.why for part in desk.parts] == [("no communication",)] * 3
    assert desk.control == Control.ENABLE
    assert desk.program.is_done


@pytest.mark.parametrize(
    ("rule", "claim"),
    [
        (Break.DROPPED_ACK, lambda desk: Control.RESULT_ACK not in desk.control),
        (Break.STUCK_TRIGGER, lambda desk: Control.TRIGGER in desk.control),
        (Break.SILENT_HEARTBEAT, lambda desk: desk.program.out.number("PlcHeartbeat") == 20),
        (Break.WRONG_TAG, lambda desk: desk.program.out.number("PartTag") == 0x8000_0001),
    ],
)
def test_a_rule_is_broken_on_purpose(rule: Break, claim: Callable[[Desk], bool]) -> None:
    desk = Desk(breaks=rule)
    for _ in range(5):
        desk.scan(READY)
        if desk.program.out.number("PartTag"):
            break
    desk.image.set("AcqID", 41)
    desk.scan(Status1.ONLINE | Status1.TRIGGER_ACK)
    desk.result(41, 1)
    desk.scan(scans=20)
    assert claim(desk)


def test_ring_results_are_matched_by_tag_and_acknowledged_in_sequence() -> None:
    desk = Desk(Ring.HARDWARE, rate_hz=50, parts=3)
    desk.image.set("RingLast", 3)
    desk.slot(2, 3, tag=1)
    desk.scan(READY, scans=8)
    assert desk.program.out.number("TriggerCount") == 3
    assert desk.program.out.get("TagFifo") == (1, 2, 3, 0, 0, 0, 0, 0)
    assert desk.parts == [], "what lay in the ring before is not for these parts"
    desk.slot(4, 5, tag=1)
    desk.slot(3, 4, tag=3)
    desk.scan()
    assert [(part.tag, part.acq_id) for part in desk.parts] == [(3, 4), (1, 5)]
    assert desk.program.out.number("AckSeq") == 5
    desk.slot(5, 6, tag=2, word=NG)
    desk.scan()
    assert [part.is_accepted for part in desk.parts] == [True, True, False]
    assert desk.program.is_done is False
    desk.scan()
    assert desk.program.is_done, "one request more carries the last AckSeq"


def test_ring_sequence_wraps_past_zero() -> None:
    desk = Desk(Ring.HARDWARE, rate_hz=50, parts=4)
    desk.image.set("RingLast", 65_533)
    desk.scan(READY, scans=9)
    desk.slot(0, 65_534, tag=1)
    desk.slot(1, 65_535, tag=2)
    desk.slot(2, 1, tag=3)
    desk.slot(3, 2, tag=4)
    desk.scan()
    assert [part.tag for part in desk.parts] == [1, 2, 3, 4]
    assert desk.program.out.number("AckSeq") == 2
    assert desk.program.seen.missing_slots == 0


def test_a_missing_slot_is_counted_and_its_part_rejected() -> None:
    desk = Desk(Ring.HARDWARE, rate_hz=50, parts=2)
    desk.scan(READY, scans=6)
    desk.slot(1, 2, tag=2)
    desk.scan()
    assert desk.program.seen.missing_slots == 1
    desk.scan(scans=25)
    assert desk.parts[0].is_accepted
    assert desk.parts[1].why == ("no result by the deadline",)


@pytest.mark.parametrize(
    ("flags", "word", "why"),
    [
        (0x0706, OK, ("Simulated is 1",)),
        (0x0804, OK, ("Epoch changed",)),
        (0x0704, NONE, ("Verdict is 0000",)),
    ],
)
def test_the_ring_rule_is_applied(flags: int, word: Word, why: tuple[str, ...]) -> None:
    desk = Desk(Ring.HARDWARE, rate_hz=50, parts=1)
    desk.scan(READY, scans=3)
    desk.slot(0, 1, tag=1, word=word, flags=flags)
    desk.scan()
    assert desk.parts[0].why == why


def test_a_torn_slot_and_an_unknown_tag_are_not_results() -> None:
    desk = Desk(Ring.HARDWARE, rate_hz=50, parts=1)
    desk.scan(READY, scans=3)
    desk.slot(0, 1, tag=1)
    desk.image.write(219, [9])
    desk.slot(1, 2, tag=1, flags=0x0700)
    desk.slot(2, 3, tag=77)
    desk.scan(scans=25)
    assert [part.why for part in desk.parts] == [("no result by the deadline",)]
    assert desk.program.seen.unmatched_slots == 2


def test_free_run_collects_every_slot_and_trusts_none_without_a_tag() -> None:
    desk = Desk(Ring.FREE, parts=2)
    desk.scan(READY, scans=3)
    desk.slot(0, 1, tag=0, flags=0x0700)
    desk.slot(1, 2, tag=0, word=NG, flags=0x0700)
    desk.slot(2, 3, tag=0, flags=0x0700)
    desk.scan()
    assert desk.program.out.number("AckSeq") == 3
    assert [(part.word, part.is_accepted) for part in desk.parts] == [(OK, False), (NG, False)]
    assert desk.parts[0].why == ("tag is not known",)


def test_free_run_without_a_single_frame_ends_too() -> None:
    desk = Desk(Ring.FREE, parts=2, patience_s=1.0)
    desk.scan(READY, scans=110)
    assert [part.why for part in desk.parts] == [("not ready",)] * 2


@pytest.mark.parametrize(
    ("status2", "result", "expected"),
    [
        (Status2(0), 0, CommandError.DONE),
        (Status2.CMD_FAILED, CommandError.UNKNOWN_PRODUCT, CommandError.UNKNOWN_PRODUCT),
    ],
)
def test_the_command_handshake(status2: Status2, result: int, expected: CommandError) -> None:
    program, image = CommandProgram(1, 42, 0, "high_first"), Bank()
    image.set("Status1", Status1.CMD_DONE)
    program.scan(image, MS)
    assert program.out.number("Control") == 0, "the last command must have ended"
    image.set("Status1", Status1.ONLINE)
    program.scan(image, 2 * MS)
    assert program.out.number("Control") == Control.EXECUTE
    assert (program.out.number("Command"), program.out.number("CmdArg")) == (1, 42)
    image.set("Status1", Status1.CMD_EXECUTING)
    program.scan(image, 3 * MS)
    image.set("Status1", Status1.CMD_DONE)
    image.set("Status2", status2)
    image.set("CmdEcho", 1)
    image.set("CmdResult", result)
    program.scan(image, 4 * MS)
    assert (program.result, program.is_done) == (expected, False)
    assert program.out.number("Control") == 0
    image.set("Status1", Status1.ONLINE)
    program.scan(image, 5 * MS)
    assert program.is_done


def test_a_command_that_never_ends_times_out() -> None:
    program, image = CommandProgram(1, 42, 0, "high_first"), Bank()
    program.scan(image, MS)
    program.lost(2 * MS, "no communication")
    assert program.out.number("Control") == 0
    program.scan(image, GUARD_NS)
    assert not program.is_done
    program.scan(image, GUARD_NS + 1)
    assert (program.result, program.is_done) == (CommandError.TIMED_OUT, True)
