"""The Structured Text of docs/plc.md against the handshake that it is written for."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.acceptance import Sent, Timing, level_objections, slot_objections
from appliance.codes import Control, FaultCode, Status1, Word
from appliance.words import Bank
from tests.handshake_desk import EPOCH, MS, Desk
from tests.structured_text import Block, Words

SCAN_MS = 10
DEADLINE_MS = 150
TAG = 0x12345
GOOD = {
    "Status1": int(Status1.RESULT_VALID | Status1.PASS), "Status2": 0, "InspectionID": 3,
    "Verdict": int(Word.OK), "PartTagEcho": TAG, "Epoch": 7,
}  # fmt: skip
GOOD_SLOT = {
    "seq": 5, "verdict": int(Word.OK), "reason": 0, "flags": 0x0704, "score": 0, "latency_ms": 9,
    "part_tag": TAG, "inspection_id": 1,
}  # fmt: skip


def level(bank: Bank) -> Words:
    return Words(100, bank.read(100, 53))


def ring(bank: Bank) -> Words:
    return Words(205, bank.read(205, 125))


class Plc:
    """The program of the manual: what the last answer held, then the next request."""

    def __init__(self) -> None:
        self.desk = Desk()
        self.program = Block("PRG_Inspectd", lambda: self.desk.now / MS)
        self.is_enabled = self.is_box_alive = True
        self.done: list[bool] = []
        """Of each part that was decided: accepted or not."""
        self._beats = 0
        self._hr = level(self.desk.bank)
        for _ in range(20):
            self.scan()

    def scan(self, barrier: bool = False) -> None:
        self.desk.wait(SCAN_MS)
        self._beats += self.is_box_alive
        self.desk.handshake.beat(self._beats // 10)
        program = self.program
        program(Hr=self._hr, Barrier=barrier)
        if program.Pass or program.Eject:
            assert program.Pass != program.Eject
            self.done.append(program.Pass)
        if not self.is_enabled:
            program.Out[0] &= ~int(Control.ENABLE)
        self.desk.bank.write(0, [program.Out[address] for address in range(16)])
        self.desk.write()
        self._hr = level(self.desk.bank)

    def part(self, after: int = 3, **verdict: Any) -> bool:
        """One part whose verdict comes after so many scans; whether it was accepted."""
        before, last_id = len(self.done), self.desk.last_id
        for number in range(60):
            self.scan(barrier=number < 2)
            if number == after and self.desk.last_id != last_id:
                tag = self.desk.accepted[-1].part_tag
                self.desk.verdict(self.desk.last_id, **{"part_tag": tag, **verdict})
        assert len(self.done) == before + 1, "every part is decided once"
        return self.done[-1]


def test_parts_are_triggered_accepted_and_acknowledged() -> None:
    plc = Plc()
    plc.program(Count=0x1FFFE)
    assert [plc.part() for _ in range(3)] == [True] * 3
    tags = [accepted.part_tag for accepted in plc.desk.accepted]
    assert tags == [0x1FFFF, 0x20000, 0x20001]
    assert plc.desk.counted == [], "no trigger was refused, no result expired"
    assert plc.desk.has(Status1.TRIGGER_READY)


@pytest.mark.parametrize(
    "verdict",
    [
        {"word": Word.NG}, {"word": Word.UNCERTAIN}, {"word": Word.ERROR},
        {"part_tag": 9}, {"is_simulated": True},
    ],
    ids=str,
)  # fmt: skip
def test_whatever_is_not_the_ok_of_this_part_rejects_it(verdict: dict[str, Any]) -> None:
    plc = Plc()
    assert not plc.part(**verdict)
    assert plc.part(), "the part after it is judged by its own result"


def test_a_result_that_comes_too_late_is_taken_for_no_part() -> None:
    plc = Plc()
    assert not plc.part(after=30)
    assert plc.part()


def test_a_part_that_comes_while_the_line_is_not_ready_is_a_reject_at_once() -> None:
    plc = Plc()
    plc.is_enabled = False
    plc.scan()
    assert not plc.part()
    assert plc.desk.last_id == 0, "it was never triggered"
    plc.is_enabled = True
    plc.scan()
    plc.scan()
    assert plc.part()


def test_a_trigger_that_was_refused_is_cleared_and_the_line_goes_on() -> None:
    plc = Plc()
    plc.is_enabled = False
    plc.scan()
    plc.desk.write(Control.TRIGGER)
    plc.is_enabled = True
    plc.scan()
    assert plc.desk.has(Status1.ACQ_ERROR)
    plc.scan()
    plc.scan()
    assert not plc.desk.has(Status1.ACQ_ERROR)
    assert plc.part()


def test_a_box_whose_heart_stands_still_has_nothing_accepted() -> None:
    plc = Plc()
    plc.is_box_alive = False
    for _ in range(60):
        plc.scan()
    assert not plc.part()


def test_a_new_life_of_the_box_rejects_the_part_of_the_old_one() -> None:
    plc = Plc()
    plc.scan(barrier=True)
    plc.scan()
    plc.desk.bank.set("Epoch", EPOCH + 1)
    plc.desk.verdict(plc.desk.last_id, part_tag=1)
    for _ in range(30):
        plc.scan()
    assert plc.done == [False]


@pytest.mark.parametrize("name", ["FB_InspectdAccept", "FB_InspectdSlot"])
def test_a_good_result_is_believed_in_time_and_while_the_heart_beats(name: str) -> None:
    bank, now_ms = Bank(), 0.0
    for word, number in GOOD.items():
        bank.set(word, number)
    bank.put_slot(4, **GOOD_SLOT)
    block, is_level = Block(name, lambda: now_ms), name == "FB_InspectdAccept"

    def accepts(beat: int, deadline_ms: float = 9_000) -> bool:
        bank.set("VisionHeartbeat" if is_level else "VisionHeartbeatCopy", beat)
        more = {"AcqId": 3, "Hr": level(bank)} if is_level else {"Hr": ring(bank)}
        block(Waiting=True, SentTag=TAG, Epoch=7, Deadline=deadline_ms, **more)
        return bool(block.Accept)

    assert not accepts(1), "no heartbeat was seen yet"
    assert accepts(2)
    now_ms = 499
    assert accepts(2)
    now_ms = 500
    assert not accepts(2), "it stands still"
    assert accepts(3)
    assert not accepts(3, deadline_ms=500), "later than the deadline"


@given(
    st.sampled_from(["", "Status1", "Status2", "InspectionID", "Verdict", "PartTagEcho", "Epoch"]),
    st.integers(0, 0xFFFF),
)
def test_the_rule_of_the_manual_is_the_rule_of_the_code(name: str, value: int) -> None:
    bank, sent = Bank(), Sent(part_tag=TAG, epoch=7, acq_id=3, deadline_ms=DEADLINE_MS)
    for word, number in (GOOD | ({name: value} if name else {})).items():
        bank.set(word, number)
    block = Block("FB_InspectdAccept", lambda: 0.0)
    for beat in (1, 2):
        bank.set("VisionHeartbeat", beat)
        block(Hr=level(bank), Waiting=True, SentTag=TAG, AcqId=3, Epoch=7, Deadline=DEADLINE_MS)
    timing = Timing(since_trigger_ms=0, since_heartbeat_ms=0)
    assert block.Accept == (not level_objections(bank, sent, timing))


@given(st.sampled_from(["seq", "verdict", "flags", "part_tag"]), st.integers(0, 0xFFFF))
def test_the_rule_of_the_ring_is_the_rule_of_the_code(name: str, value: int) -> None:
    bank, sent = Bank(), Sent(part_tag=TAG, epoch=7, acq_id=0, deadline_ms=DEADLINE_MS)
    bank.put_slot(4, **(GOOD_SLOT | {name: value}))
    block = Block("FB_InspectdSlot", lambda: 0.0)
    for beat in (1, 2):
        bank.set("VisionHeartbeatCopy", beat)
        block(Hr=ring(bank), Waiting=True, SentTag=TAG, Epoch=7, Deadline=DEADLINE_MS)
    timing = Timing(since_trigger_ms=0, since_heartbeat_ms=0)
    assert block.Accept == (not slot_objections(bank.read_slot(4), 7, sent, timing))


def clears(bank: Bank) -> Callable[..., bool]:
    block = Block("FB_InspectdClear", lambda: 0.0)

    def once(button: bool = False) -> bool:
        block(Hr=level(bank), ResetButton=button)
        return bool(block.ClearError)

    return once


def test_a_refused_trigger_is_cleared_by_the_program_a_latching_fault_by_a_person() -> None:
    bank = Bank()
    bank.set("Status1", Status1.ACQ_ERROR)
    once = clears(bank)
    assert [once(), once(), once()] == [True, False, True], "an edge for each answer"
    bank.set("FaultCode", FaultCode.LEDGER)
    once = clears(bank)
    assert [once(), once()] == [False, False]
    assert [once(True), once(True), once(True)] == [True, False, False], "one press, one edge"
