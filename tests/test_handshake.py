"""Every timing rule of docs/plc.md on virtual time: a PLC writes registers, the bank answers."""

import itertools
import math
from collections.abc import Callable
from typing import Any

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
from appliance.handshake import QUEUE_MAX, Conditions, Handshake
from appliance.messages import PlcTold, Verdict
from appliance.registers import REGISTERS, RING_SLOTS
from appliance.results import named
from appliance.words import Bank, PlcInput, Slot, decode_input

MS = 1_000_000
DEADLINE_MS = 200
EPOCH = 0x1234
ENABLE, TRIGGER, ACK, EXECUTE = (
    Control.ENABLE,
    Control.TRIGGER,
    Control.RESULT_ACK,
    Control.EXECUTE,
)
CLEAR, OFFLINE, BUFFER = Control.CLEAR_ERROR, Control.SET_OFFLINE, Control.BUFFER_RESULTS


class Desk:
    """A handshake, its bank, and a PLC that writes into it."""

    def __init__(self, mode: Any = "level", is_triggered_by_plc: bool = True) -> None:
        self.now = 1_000 * MS
        self.bank = Bank()
        self.conditions = Conditions(state=State.READY, offline=OfflineReason.NONE)
        self.counted: list[str] = []
        self.accepted: list[PlcInput] = []
        self.asked: list[tuple[int, int, Callable[[CommandError], None]]] = []
        self.last_id = 0
        self.cleared: list[FaultCode] = []
        self.on_accept: Callable[[int], None] = lambda acq_id: None
        self.told: list[PlcTold] = []
        self.handshake = Handshake(
            self.bank,
            self.conditions,
            self._accept,
            lambda command, argument, now, done: self.asked.append((command, argument, done)),
            self._clear,
            self.counted.append,
            mode=mode,
            is_triggered_by_plc=is_triggered_by_plc,
            epoch=EPOCH,
            heartbeat_timeout_ms=500,
            acknowledge_timeout_ms=2000,
            deadline_ms=DEADLINE_MS,
            told=lambda told, now_ns: self.told.append(told),
        )

    def _accept(self, plc: PlcInput, now_ns: int) -> int:
        assert now_ns == self.now
        self.accepted.append(plc)
        self.last_id = self.last_id % 65_535 + 1
        self.conditions.open_parts += 1
        self.on_accept(self.last_id)
        return self.last_id

    def _clear(self, known: FaultCode) -> None:
        self.cleared.append(known)

    # ---- the PLC

    def write(self, control: Control | None = None, **words: Any) -> None:
        if control is not None:
            self.bank.set("Control", control)
        for name, value in words.items():
            self.bank.set(name, value)
        self.handshake.on_write(decode_input(self.bank), self.now)
        self.handshake.shown()

    def beat(self, control: Control | None = None, **words: Any) -> None:
        """A write with a new heartbeat."""
        count = (self.bank.number("PlcHeartbeat") + 1) & 0xFFFF
        self.write(control, PlcHeartbeat=count, **words)

    def ready(self, control: Control = ENABLE) -> "Desk":
        self.beat(control)
        self.beat()
        assert self.has(Status1.TRIGGER_READY)
        return self

    def wait(self, ms: float) -> None:
        self.now += int(ms * MS)
        self.handshake.refresh(self.now)

    def wait_beating(self, ms: int) -> None:
        for _ in range(ms // 100):
            self.wait(100)
            self.beat()

    # ---- the box

    def verdict(
        self, acq_id: int, word: Word = Word.OK, reason: Reason = Reason.NONE, **more: Any
    ) -> None:
        self.conditions.open_parts = max(0, self.conditions.open_parts - 1)
        values: dict[str, Any] = {
            "part_tag": acq_id + 100,
            "margin": 0.5,
            "t1": 1.0,
            "t2": 2.0,
            "latency_ns": 21 * MS,
            "deadline_ns": DEADLINE_MS * MS,
            **more,
        }
        made = Verdict(
            part_id=acq_id, acq_id=acq_id, epoch=EPOCH, word=word, reason=reason, **values
        )
        self.handshake.deliver(made, self.now)

    def part(self, tag: int = 7, control: Control = ENABLE) -> int:
        """One trigger, held until it is acknowledged."""
        before = self.last_id
        self.beat(control | TRIGGER, PartTag=tag)
        assert self.last_id != before
        self.beat(control)
        return self.last_id

    def acknowledge(self, control: Control = ENABLE) -> None:
        self.beat(control | ACK)
        self.beat(control)

    # ---- what the PLC reads

    @property
    def bits(self) -> Status1:
        return Status1(self.bank.number("Status1"))

    @property
    def bits2(self) -> Status2:
        return Status2(self.bank.number("Status2"))

    def has(self, bit: Status1) -> bool:
        assert self.bank.number("Status1") == self.bank.number("Status1Copy")
        return bit in self.bits

    def result(self) -> list[int]:
        """All result words, HR 115–145 and 147–152."""
        return self.bank.read(115, 31) + self.bank.read(147, 6)

    def slots(self) -> list[Slot]:
        return [self.bank.read_slot(index) for index in range(RING_SLOTS)]


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def ring() -> Desk:
    return Desk("ring", is_triggered_by_plc=False)


# ---- rules 1 and 2: trigger and acknowledgement


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


# ---- rule 3: no silent queueing


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


# ---- rule 4: results in level mode


def test_result_words_are_complete_before_valid_and_antivalent(desk: Desk) -> None:
    desk.ready()
    desk.part(tag=0x01020304)
    toggle = Status1.INSPECTION_TOGGLE in desk.bits
    desk.verdict(
        1, Word.NG, Reason.ANOMALY_SCORE, part_tag=0x01020304, part_text="P1", margin=3.0,
        region_px=(1, 2, 3, 4), defects=2,
    )  # fmt: skip
    assert desk.has(Status1.RESULT_VALID)
    assert (desk.has(Status1.PASS), desk.has(Status1.FAIL)) == (False, True)
    assert (Status1.INSPECTION_TOGGLE in desk.bits) != toggle
    get = desk.bank.get
    assert get("InspectionID") == get("ResultTear") == 1
    assert (get("Verdict"), get("Reason")) == (Word.NG, Reason.ANOMALY_SCORE)
    assert (get("PartTagEcho"), get("PartIdEcho")) == (0x01020304, "P1")
    assert (get("LatencyMs"), get("DeadlineUsedMs")) == (21, DEADLINE_MS)
    assert (get("DefectCount"), get("WorstRegion")) == (2, (1, 2, 3, 4))
    assert (get("Margin"), get("T1"), get("T2")) == (3.0, 1.0, 2.0)
    assert get("Epoch") == EPOCH


@pytest.mark.parametrize("word", [Word.OK, Word.NG, Word.UNCERTAIN, Word.ERROR])
def test_pass_is_ok_alone(desk: Desk, word: Word) -> None:
    desk.ready()
    assert not desk.bits & (Status1.PASS | Status1.FAIL)
    desk.part()
    desk.verdict(1, word)
    assert desk.has(Status1.PASS) == (word == Word.OK)
    assert desk.has(Status1.FAIL) == (word != Word.OK)
    desk.acknowledge()
    assert not desk.bits & (Status1.PASS | Status1.FAIL)  # no result


def test_a_part_without_margin_shows_no_number(desk: Desk) -> None:
    desk.ready()
    desk.part()
    desk.verdict(1, Word.ERROR, Reason.LATE, margin=None)
    margin = desk.bank.get("Margin")
    assert isinstance(margin, float)
    assert math.isnan(margin)
    assert desk.bank.number("Score") == 0
    assert desk.bank.get("WorstRegion") == (0, 0, 0, 0)


def test_result_is_held_until_acknowledged(desk: Desk) -> None:
    desk.ready()
    desk.part()
    desk.verdict(1)
    held = desk.result()
    desk.wait_beating(1900)
    assert desk.has(Status1.RESULT_VALID)
    assert desk.result() == held
    desk.beat(ENABLE | ACK)
    assert not desk.has(Status1.RESULT_VALID)
    assert desk.result() == held


def test_one_part_at_a_time_until_the_result_is_acknowledged(desk: Desk) -> None:
    desk.ready()
    desk.part()
    assert not desk.has(Status1.TRIGGER_READY)
    desk.verdict(1)
    desk.wait(1)
    assert not desk.has(Status1.TRIGGER_READY)
    desk.beat(ENABLE | ACK)
    assert desk.has(Status1.TRIGGER_READY)


def test_next_result_waits_until_result_ack_drops(desk: Desk) -> None:
    buffered = ENABLE | BUFFER
    desk.ready(buffered)
    for _ in range(3):
        desk.part(control=buffered)
    desk.verdict(1)
    desk.verdict(2)
    desk.verdict(3, Word.NG)
    desk.beat(buffered | ACK)
    desk.wait(20)
    assert not desk.has(Status1.RESULT_VALID)
    assert desk.bank.number("InspectionID") == 1
    desk.beat(buffered)
    assert desk.has(Status1.RESULT_VALID)
    assert desk.bank.number("InspectionID") == 2
    desk.acknowledge(buffered)
    assert (desk.bank.number("InspectionID"), desk.bank.number("Verdict")) == (3, Word.NG)


def test_result_ack_without_a_result_does_nothing(desk: Desk) -> None:
    desk.ready()
    desk.beat(ENABLE | ACK)
    desk.part(control=ENABLE | ACK)
    desk.verdict(1)
    assert not desk.has(Status1.RESULT_VALID)  # the old acknowledgement still stands
    desk.beat(ENABLE)
    assert desk.has(Status1.RESULT_VALID)


def test_unread_result_drops_after_two_seconds_and_is_counted(desk: Desk) -> None:
    desk.ready()
    desk.part()
    desk.verdict(1)
    desk.wait_beating(1900)
    desk.wait(99)
    assert desk.has(Status1.RESULT_VALID)
    assert not desk.has(Status1.WARNING)
    desk.wait(1)
    assert not desk.has(Status1.RESULT_VALID)
    assert desk.counted == ["unread"]
    assert desk.has(Status1.WARNING)
    assert desk.has(Status1.TRIGGER_READY)
    desk.beat(ENABLE | CLEAR)
    assert not desk.has(Status1.WARNING)


def test_buffered_results_are_at_most_eight(desk: Desk) -> None:
    buffered = ENABLE | BUFFER
    desk.ready(buffered)
    for number in range(1, QUEUE_MAX + 1):
        assert desk.has(Status1.TRIGGER_READY)
        desk.part(control=buffered)
        if number % 2:
            desk.verdict(number)
    assert not desk.has(Status1.TRIGGER_READY)
    desk.beat(buffered | TRIGGER)
    assert len(desk.accepted) == QUEUE_MAX
    desk.acknowledge(buffered)
    assert desk.has(Status1.TRIGGER_READY)


def test_every_result_is_in_the_ring_also_in_level_mode(desk: Desk) -> None:
    buffered = ENABLE | BUFFER
    desk.ready(buffered)
    for number in range(1, 4):
        desk.part(control=buffered)
        desk.verdict(number, latency_ns=number * MS)
    slots = desk.slots()[:3]
    assert [slot.seq for slot in slots] == [slot.seq_again for slot in slots] == [1, 2, 3]
    assert [slot.inspection_id for slot in slots] == [1, 2, 3]
    assert [slot.part_tag for slot in slots] == [101, 102, 103]
    assert {slot.flags for slot in slots} == {(EPOCH & 0xFF) << 8 | 4}  # tag known
    assert desk.bank.number("InspectionID") == 1


def test_level_mode_never_overruns(desk: Desk) -> None:
    desk.ready()
    for number in range(1, 30):
        desk.part()
        desk.verdict(number)
        desk.acknowledge()
    assert not desk.has(Status1.OVERRUN)
    assert desk.bank.number("RingUnread") == 0


# ---- rule 4: the ring


def test_the_words_of_a_result_are_told_when_the_plc_can_read_them(desk: Desk, ring: Desk) -> None:
    desk.ready(ENABLE | BUFFER)
    for _ in range(2):
        desk.part(control=ENABLE | BUFFER)
    desk.verdict(1)
    desk.verdict(2, Word.NG, Reason.ANOMALY_SCORE, margin=3.0)
    assert [told.part_id for told in desk.told] == [1], "the second one waits for ResultAck"
    desk.acknowledge(ENABLE | BUFFER)
    assert [told.part_id for told in desk.told] == [1, 2]
    words = named(desk.told[1], "high_first")
    assert (words["InspectionID"], words["Verdict"], words["Margin"]) == (2, Word.NG, 3.0)
    ring.ready()
    for number in (1, 2):
        ring.verdict(number)
        assert named(ring.told[-1], "high_first")["slot seq"] == number
    assert len(ring.told) == 2


def test_ring_mode_shows_no_level_result_and_ignores_result_ack(ring: Desk) -> None:
    ring.ready()
    ring.verdict(1)
    assert not ring.has(Status1.RESULT_VALID)
    assert ring.bank.number("InspectionID") == 0
    ring.acknowledge()
    assert ring.has(Status1.TRIGGER_READY)
    assert ring.bank.number("RingLast") == ring.bank.number("RingOldest") == 1


def test_ring_flags(ring: Desk) -> None:
    ring.ready()
    ring.verdict(1, is_challenge=True, is_simulated=True)
    assert ring.slots()[0].flags == (EPOCH & 0xFF) << 8 | 1 | 2


def test_ring_waits_for_nobody_and_counts_what_was_not_consumed(ring: Desk) -> None:
    ring.ready()
    for number in range(1, RING_SLOTS + 1):
        ring.verdict(number)
    assert (ring.bank.number("RingUnread"), ring.has(Status1.OVERRUN)) == (0, False)
    for number in range(RING_SLOTS + 1, RING_SLOTS + 4):
        ring.verdict(number)
    assert ring.has(Status1.TRIGGER_READY)
    assert ring.bank.number("RingUnread") == 3
    assert ring.has(Status1.OVERRUN)
    assert ring.counted == ["overruns"] * 3
    assert (ring.bank.number("RingOldest"), ring.bank.number("RingLast")) == (4, 15)
    ring.handshake.clear_overrun()
    ring.wait(1)
    assert not ring.has(Status1.OVERRUN)
    assert ring.bank.number("RingUnread") == 3


def test_acknowledged_slots_are_overwritten_silently(ring: Desk) -> None:
    ring.ready()
    for number in range(1, 200):
        ring.verdict(number)
        if number % 10 == 0:
            ring.beat(AckSeq=number, EpochEcho=EPOCH)
    assert ring.bank.number("RingUnread") == 0
    assert not ring.has(Status1.OVERRUN)


def test_ack_seq_counts_only_while_the_epoch_matches(ring: Desk) -> None:
    ring.ready()
    for number in range(1, RING_SLOTS + 1):
        ring.verdict(number)
    ring.beat(AckSeq=5, EpochEcho=EPOCH - 1)
    ring.verdict(13)
    assert ring.bank.number("RingUnread") == 1
    ring.beat(EpochEcho=EPOCH)
    for number in range(14, 18):
        ring.verdict(number)
    assert ring.bank.number("RingUnread") == 1
    ring.verdict(18)
    assert ring.bank.number("RingUnread") == 2


@pytest.mark.parametrize("ack", [0, 4, 13, 65_535])
def test_an_ack_of_what_is_not_in_the_ring_consumes_nothing(ring: Desk, ack: int) -> None:
    ring.ready()
    for number in range(1, 4):
        ring.verdict(number)
    ring.beat(AckSeq=ack, EpochEcho=EPOCH)
    for number in range(4, RING_SLOTS + 2):
        ring.verdict(number)
    assert ring.bank.number("RingUnread") == 1


def test_an_older_ack_takes_nothing_back(ring: Desk) -> None:
    ring.ready()
    for number in range(1, 6):
        ring.verdict(number)
    ring.beat(AckSeq=5, EpochEcho=EPOCH)
    ring.beat(AckSeq=2)
    for number in range(6, 6 + RING_SLOTS - 1):
        ring.verdict(number)
    assert ring.bank.number("RingUnread") == 0


def test_sequence_wraps_past_zero(ring: Desk) -> None:
    ring.ready()
    slots = ring.handshake._ring
    slots._seq = slots._count = slots._acked_count = 65_529
    for number in range(65_530, 65_540):
        ring.verdict((number - 1) % 65_535 + 1)
        ring.beat(AckSeq=(number - 1) % 65_535 + 1, EpochEcho=EPOCH)
    seqs = sorted(slot.seq for slot in ring.slots() if slot.seq)
    assert seqs == [1, 2, 3, 4, 65_530, 65_531, 65_532, 65_533, 65_534, 65_535]
    assert ring.bank.number("RingLast") == 4
    assert ring.bank.number("RingUnread") == 0
    assert 0 not in {ring.bank.number("RingLast"), ring.bank.number("RingOldest")}


def test_no_overrun_is_missed_however_long_nobody_acknowledges(ring: Desk) -> None:
    """Half a turn of the sequence later an old acknowledgement must not look new again."""
    ring.ready()
    ring.verdict(1)
    ring.beat(AckSeq=1, EpochEcho=EPOCH)
    total = 40_000
    verdict = Verdict(part_id=2, acq_id=2, epoch=EPOCH, word=Word.OK, reason=Reason.NONE)
    for _ in range(total):
        ring.handshake._put_in_ring(verdict)
    assert ring.counted.count("overruns") == total + 1 - RING_SLOTS - 1


def test_eight_open_parts_hold_ring_mode_too(ring: Desk) -> None:
    ring.ready()
    ring.conditions.open_parts = QUEUE_MAX - 1
    ring.wait(1)
    assert ring.has(Status1.TRIGGER_READY)
    ring.conditions.open_parts = QUEUE_MAX
    ring.wait(1)
    assert not ring.has(Status1.TRIGGER_READY)


# ---- rule 5: the deadline that the PLC may shorten


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


# ---- rule 6: heartbeats


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
    assert not desk.handshake.is_plc_alive
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


# ---- rule 7: commands


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


# ---- faults


@pytest.mark.parametrize("fault", [f for f in FaultCode if f in (5, 7, 8, 9)])
def test_latching_faults_hold_ready_until_clear_error(desk: Desk, fault: FaultCode) -> None:
    desk.ready()
    desk.conditions.fault = fault
    desk.wait(1)
    desk.conditions.fault = FaultCode.NONE
    desk.wait_beating(3000)
    assert desk.has(Status1.FAULT)
    assert not desk.has(Status1.TRIGGER_READY)
    assert desk.bank.number("FaultCode") == fault
    desk.beat(ENABLE | CLEAR)
    assert not desk.has(Status1.FAULT)
    assert desk.has(Status1.TRIGGER_READY)
    assert desk.bank.number("FaultCode") == 0


@pytest.mark.parametrize("fault", [f for f in FaultCode if f in (1, 2, 3, 4, 6)])
def test_other_faults_end_by_themselves_but_their_code_stays(desk: Desk, fault: FaultCode) -> None:
    desk.ready()
    desk.conditions.fault = fault
    desk.wait(1)
    assert desk.has(Status1.FAULT)
    desk.conditions.fault = FaultCode.NONE
    desk.wait(1)
    assert not desk.has(Status1.FAULT)
    assert desk.has(Status1.TRIGGER_READY)
    assert desk.bank.number("FaultCode") == fault
    desk.beat(ENABLE | CLEAR)
    assert desk.bank.number("FaultCode") == 0


def test_a_latched_fault_that_goes_on_cannot_be_cleared(desk: Desk) -> None:
    desk.ready()
    desk.conditions.fault = FaultCode.STORAGE
    desk.wait(1)
    desk.beat(ENABLE)
    desk.beat(ENABLE | CLEAR)
    assert desk.has(Status1.FAULT)
    assert not desk.has(Status1.TRIGGER_READY)
    assert desk.bank.number("FaultCode") == FaultCode.STORAGE


@pytest.mark.parametrize("is_held", [True, False])
def test_clear_error_acknowledges_no_fault_that_no_answer_could_show(
    desk: Desk, is_held: bool
) -> None:
    """It was on its way, or held, for something else when the fault came."""
    desk.ready()
    if is_held:
        desk.beat(ENABLE | CLEAR)
    desk.conditions.fault = FaultCode.LEDGER
    desk.wait(1)
    desk.conditions.fault = FaultCode.NONE
    desk.beat(ENABLE | CLEAR)
    assert desk.cleared == [FaultCode.NONE]
    for _ in range(10):
        desk.wait(100)
        desk.beat(ENABLE | CLEAR)
    assert desk.bank.number("FaultCode") == FaultCode.LEDGER
    assert not desk.has(Status1.TRIGGER_READY)
    desk.beat(ENABLE)
    desk.beat(ENABLE | CLEAR)
    assert desk.cleared == [FaultCode.NONE, FaultCode.LEDGER]
    assert desk.has(Status1.TRIGGER_READY)


def test_a_plc_that_reads_and_writes_apart_clears_what_it_has_read(desk: Desk) -> None:
    desk.ready()
    desk.conditions.fault = FaultCode.LEDGER
    desk.handshake.refresh(desk.now)

    def wrote(control: Control) -> None:
        desk.bank.set("Control", control)
        desk.handshake.on_write(decode_input(desk.bank), desk.now)

    wrote(ENABLE)  # its answer shows no register
    wrote(ENABLE | Control.CLEAR_ERROR)
    assert desk.handshake.fault == FaultCode.LEDGER
    wrote(ENABLE)
    desk.handshake.shown()
    wrote(ENABLE | Control.CLEAR_ERROR)
    assert desk.cleared == [FaultCode.NONE, FaultCode.LEDGER]


def test_a_person_clears_what_holds_now(desk: Desk) -> None:
    desk.ready()
    desk.conditions.fault = FaultCode.LEDGER
    desk.wait(1)
    desk.conditions.fault = FaultCode.NONE
    desk.handshake.clear_error(desk.now)
    assert desk.cleared == [FaultCode.LEDGER]
    assert not desk.has(Status1.FAULT)


def test_the_first_cause_is_shown_while_it_is_latched(desk: Desk) -> None:
    desk.ready()
    desk.conditions.fault = FaultCode.LEDGER
    desk.wait(1)
    desk.conditions.fault = FaultCode.CAMERA_LOST
    desk.wait(1)
    desk.beat(ENABLE)
    assert desk.bank.number("FaultCode") == FaultCode.LEDGER
    desk.beat(ENABLE | CLEAR)
    assert desk.bank.number("FaultCode") == FaultCode.CAMERA_LOST


def test_the_next_fault_replaces_the_code_of_one_that_ended(desk: Desk) -> None:
    desk.ready()
    for fault in (FaultCode.CAMERA_LOST, FaultCode.NONE, FaultCode.ENGINE_FAILED):
        desk.conditions.fault = fault
        desk.wait(1)
    assert desk.bank.number("FaultCode") == FaultCode.ENGINE_FAILED


# ---- odds and ends


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


def test_warning_follows_the_conditions(desk: Desk) -> None:
    desk.ready()
    desk.conditions.is_warning = True
    desk.wait(1)
    assert desk.has(Status1.WARNING)
    assert desk.has(Status1.TRIGGER_READY)


# ---- TriggerReady, over everything that it hangs on


def shown(
    state: State,
    offline: OfflineReason = OfflineReason.NONE,
    fault: FaultCode = FaultCode.NONE,
    *,
    is_enabled: bool = True,
    is_alive: bool = True,
    is_maintenance: bool = False,
    is_ordered: bool = False,
    has_room: bool = True,
) -> Desk:
    """A box in this condition, after its PLC has spoken, and asked for a part while it could."""
    desk = Desk()
    control = ENABLE if is_enabled else Control(0)
    desk.beat(control)
    desk.beat()
    conditions = desk.conditions
    conditions.state, conditions.offline, conditions.fault = state, offline, fault
    conditions.is_maintenance, conditions.recipe_orders = is_maintenance, int(is_ordered)
    conditions.open_parts = 0 if has_room else 1
    desk.wait(1 if is_alive else 600)
    desk.write(control | TRIGGER)
    return desk


def takes_a_part(desk: Desk) -> bool:
    """And all the bits say the same of it."""
    is_taken = len(desk.accepted) == 1
    assert desk.has(Status1.TRIGGER_ACK) == is_taken
    assert desk.has(Status1.ACQ_ERROR) == (not is_taken)
    assert desk.counted == ([] if is_taken else ["missed_triggers"])
    return is_taken


def test_every_state_with_every_offline_reason_and_fault() -> None:
    for state, offline, fault in itertools.product(State, OfflineReason, FaultCode):
        expected = (
            state in (State.READY, State.CONTINUOUS_EXECUTION)
            and offline == OfflineReason.NONE
            and fault not in (5, 7, 8, 9)
        )
        assert takes_a_part(shown(state, offline, fault)) == expected, (state, offline, fault)


def test_every_state_with_every_other_condition() -> None:
    for state in State:
        for bits in itertools.product((False, True), repeat=5):
            is_enabled, is_alive, is_maintenance, is_ordered, has_room = bits
            desk = shown(
                state,
                is_enabled=is_enabled,
                is_alive=is_alive,
                is_maintenance=is_maintenance,
                is_ordered=is_ordered,
                has_room=has_room,
            )
            expected = (
                state in (State.READY, State.CONTINUOUS_EXECUTION)
                and is_enabled
                and is_alive
                and not is_maintenance
                and not is_ordered
                and has_room
            )
            assert takes_a_part(desk) == expected, (state, bits)
