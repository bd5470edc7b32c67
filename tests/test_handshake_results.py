"""Rule 4 of docs/plc.md on virtual time: results in level mode and in the ring."""

import math

import pytest

from appliance.acceptance import Sent, Timing, slot_objections
from appliance.codes import (
    Control,
    OfflineReason,
    Reason,
    Status1,
    Status2,
    Word,
)
from appliance.handshake import QUEUE_MAX
from appliance.messages import Verdict
from appliance.registers import RING_SLOTS
from appliance.results import named
from tests import handshake_desk
from tests.handshake_desk import DEADLINE_MS, EPOCH, MS, Desk

ENABLE, TRIGGER, ACK = Control.ENABLE, Control.TRIGGER, Control.RESULT_ACK
CLEAR, BUFFER = Control.CLEAR_ERROR, Control.BUFFER_RESULTS


desk, ring = handshake_desk.desk, handshake_desk.ring


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


def test_a_part_of_a_simulated_picture_says_so_whatever_the_configuration(desk: Desk) -> None:
    """A GenTL producer may have simulated cameras: the picture knows, `config.toml` does not."""
    desk.ready()
    for is_simulated in (True, False):
        desk.part()
        desk.verdict(desk.last_id, is_simulated=is_simulated)
        assert desk.has(Status1.PASS)
        assert (Status2.SIMULATED in desk.bits2) == is_simulated
        desk.acknowledge()


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


@pytest.mark.parametrize("is_ready", [True, False])
def test_a_tag_that_comes_again_finds_no_result_of_the_part_before(is_ready: bool) -> None:
    """Numbers of nests repeat. In the very answer to the trigger the old OK is nobody's any more,
    for a part that is refused, too."""
    ring = Desk("ring").ready()
    ring.part(tag=7)
    ring.verdict(ring.last_id, part_tag=7)
    ring.part(tag=8)
    ring.verdict(ring.last_id, part_tag=8)
    assert objections(ring, 0, tag=7) == objections(ring, 1, tag=8) == ()
    if not is_ready:
        ring.conditions.offline = OfflineReason.CAMERA
    ring.beat(ENABLE | TRIGGER, PartTag=7)
    assert objections(ring, 0, tag=7) == ("tag is not known",)
    assert objections(ring, 1, tag=8) == ()


def test_the_tag_of_another_bus_finds_no_result_of_the_part_before_either() -> None:
    ring = Desk("ring").ready()
    ring.part(tag=7)
    ring.verdict(ring.last_id, part_tag=7)
    assert objections(ring, 0, tag=7) == ()
    assert ring.job(tag=7) == 2
    assert objections(ring, 0, tag=7) == ("tag is not known",)


def test_no_part_is_found_by_no_tag() -> None:
    ring = Desk("ring").ready()
    ring.part(tag=0)
    ring.verdict(ring.last_id, part_tag=0)
    assert objections(ring, 0, tag=0) == ("tag is not known",)


def objections(ring: Desk, index: int, tag: int) -> tuple[str, ...]:
    sent = Sent(part_tag=tag, epoch=EPOCH, acq_id=1, deadline_ms=DEADLINE_MS)
    timing = Timing(since_trigger_ms=1, since_heartbeat_ms=1)
    return slot_objections(ring.slots()[index], EPOCH, sent, timing)


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
        ring.handshake._put_in_ring(verdict, ring.now)
    assert ring.counted.count("overruns") == total + 1 - RING_SLOTS - 1


def test_eight_open_parts_hold_ring_mode_too(ring: Desk) -> None:
    ring.ready()
    ring.conditions.open_parts = QUEUE_MAX - 1
    ring.wait(1)
    assert ring.has(Status1.TRIGGER_READY)
    ring.conditions.open_parts = QUEUE_MAX
    ring.wait(1)
    assert not ring.has(Status1.TRIGGER_READY)
