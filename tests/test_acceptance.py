from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.acceptance import Sent, Timing, level_objections, slot_objections
from appliance.codes import SlotFlags, Status1, Status2, Word
from appliance.words import Bank, Slot

SENT = Sent(part_tag=70_000, epoch=0x1203, acq_id=17, deadline_ms=200)
IN_TIME = Timing(since_trigger_ms=200, since_heartbeat_ms=500)
GOOD_SLOT = Slot(
    seq=4,
    verdict=Word.OK,
    reason=0,
    flags=SlotFlags.TAG_KNOWN | 0x0300,
    score=10,
    latency_ms=30,
    part_tag=70_000,
    inspection_id=17,
    seq_again=4,
)


def good_image() -> Bank:
    image = Bank()
    image.set("Status1", Status1.ONLINE | Status1.RESULT_VALID | Status1.PASS)
    image.set("InspectionID", 17)
    image.set("Verdict", Word.OK)
    image.set("PartTagEcho", 70_000)
    image.set("Epoch", 0x1203)
    return image


def test_a_good_part_is_accepted() -> None:
    assert level_objections(good_image(), SENT, IN_TIME) == ()
    assert slot_objections(GOOD_SLOT, 0x1203, SENT, IN_TIME) == ()


@pytest.mark.parametrize(
    ("name", "value", "objection"),
    [
        ("Status1", Status1.PASS, "ResultValid"),
        ("Status1", Status1.RESULT_VALID, "Pass"),
        ("Status1", Status1.RESULT_VALID | Status1.PASS | Status1.FAIL, "Fail"),
        ("InspectionID", 16, "InspectionID"),
        ("PartTagEcho", 70_001, "PartTagEcho"),
        ("Epoch", 0x1303, "Epoch"),
        ("Verdict", 0, "Verdict is 0000"),
        ("Verdict", 0xFFFF, "Verdict is FFFF"),
        ("Verdict", Word.UNCERTAIN, "Verdict is 6996"),
        ("Status2", Status2.SIMULATED, "Simulated"),
    ],
)
def test_each_condition_of_the_level_rule_rejects_alone(
    name: str, value: int, objection: str
) -> None:
    image = good_image()
    image.set(name, value)
    why = level_objections(image, SENT, IN_TIME)
    assert len(why) == 1
    assert objection in why[0]


@pytest.mark.parametrize(
    ("change", "objection"),
    [
        ({"seq": 3}, "sequence"),
        ({"seq": 0, "seq_again": 0}, "sequence"),
        ({"flags": 0x0300}, "tag is not known"),
        ({"part_tag": 70_001}, "tag is not PartTag"),
        ({"verdict": Word.NG}, "Verdict is 5A3C"),
        ({"flags": SlotFlags.TAG_KNOWN | SlotFlags.SIMULATED | 0x0300}, "Simulated"),
        ({"flags": SlotFlags.TAG_KNOWN | 0x0400}, "Epoch"),
    ],
)
def test_each_condition_of_the_ring_rule_rejects_alone(
    change: dict[str, int], objection: str
) -> None:
    why = slot_objections(replace(GOOD_SLOT, **change), 0x1203, SENT, IN_TIME)
    assert len(why) == 1
    assert objection in why[0]


@pytest.mark.parametrize(
    ("timing", "objection"),
    [
        (replace(IN_TIME, since_trigger_ms=200.01), "deadline"),
        (replace(IN_TIME, since_heartbeat_ms=500.01), "VisionHeartbeat"),
        (replace(IN_TIME, since_heartbeat_ms=float("inf")), "VisionHeartbeat"),
    ],
)
def test_a_true_word_that_is_too_old_rejects(timing: Timing, objection: str) -> None:
    for why in (
        level_objections(good_image(), SENT, timing),
        slot_objections(GOOD_SLOT, 0x1203, SENT, timing),
    ):
        assert len(why) == 1
        assert objection in why[0]


def test_no_acq_id_matches_no_result() -> None:
    image = good_image()
    image.set("InspectionID", 0)
    assert level_objections(image, replace(SENT, acq_id=0), IN_TIME) == (
        "InspectionID is not AcqID",
    )


def test_only_a_rehearsal_accepts_simulated_parts() -> None:
    image = good_image()
    image.set("Status2", Status2.SIMULATED)
    assert level_objections(image, SENT, IN_TIME, accept_simulated=True) == ()
    flags = SlotFlags.TAG_KNOWN | SlotFlags.SIMULATED | 0x0300
    slot = replace(GOOD_SLOT, flags=flags)
    assert slot_objections(slot, 0x1203, SENT, IN_TIME, accept_simulated=True) == ()


@given(words=st.lists(st.integers(0, 0xFFFF), min_size=53, max_size=53))
def test_noise_never_passes(words: list[int]) -> None:
    image = Bank()
    image.write(100, words)
    is_exactly_it = words[16] == Word.OK and words[15] == 17 and words[46] == 0x1203
    assert level_objections(image, SENT, IN_TIME) or is_exactly_it


@pytest.mark.parametrize("word", [0x0000, 0xFFFF])
def test_cleared_memory_and_a_stuck_bus_never_pass(word: int) -> None:
    image = Bank()
    image.write(100, [word] * 125)
    image.write(225, [word] * 105)
    sent = Sent(part_tag=word << 16 | word, epoch=word, acq_id=word, deadline_ms=200)
    assert level_objections(image, sent, IN_TIME, accept_simulated=True)
    assert slot_objections(image.read_slot(0), word, sent, IN_TIME, accept_simulated=True)
