import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.codes import Control, ExpectedVerdict, GateStatus, SlotFlags, Word
from appliance.registers import (
    COUNTERS,
    FROM_PLC,
    FROM_VISION,
    MAP_WORDS,
    REGISTERS,
    RING_ADDRESS,
    RING_SLOTS,
    SLOT_FIELDS,
    SLOT_WORDS,
    WRITABLE_WORDS,
)
from appliance.words import Bank, bad_value, decode_input

U16 = st.integers(0, 0xFFFF)
U32 = st.integers(0, 0xFFFFFFFF)
ORDERS = st.sampled_from(["high_first", "low_first"])


def test_no_two_registers_share_a_word_and_each_side_keeps_to_its_own() -> None:
    owner: dict[int, str] = {}
    for register in FROM_PLC + FROM_VISION:
        for address in range(register.address, register.address + register.size):
            assert address not in owner, f"{register.name} lies on {owner[address]}"
            owner[address] = register.name
    assert all(r.address + r.size <= WRITABLE_WORDS for r in FROM_PLC)
    assert all(WRITABLE_WORDS <= r.address < MAP_WORDS for r in FROM_VISION)
    ring = range(RING_ADDRESS, RING_ADDRESS + RING_SLOTS * SLOT_WORDS)
    assert not owner.keys() & set(ring)
    assert len(REGISTERS) == len(FROM_PLC) + len(FROM_VISION), "a name is used twice"


@pytest.mark.parametrize(
    ("name", "address", "size"),
    [
        ("Control", 0, 1),
        ("AckSeq", 2, 1),
        ("CmdArg", 4, 2),
        ("PartTag", 6, 2),
        ("TriggerCount", 11, 2),
        ("EpochEcho", 13, 1),
        ("PartId", 16, 16),
        ("Lot", 32, 8),
        ("ConfirmedTag", 40, 2),
        ("TagFifo", 44, 16),
        ("Status1", 100, 1),
        ("VisionHeartbeat", 102, 1),
        ("RecipeHash32", 109, 2),
        ("AcqID", 114, 1),
        ("Verdict", 116, 1),
        ("PartTagEcho", 122, 2),
        ("WorstRegion", 125, 4),
        ("ResultTear", 129, 1),
        ("PartIdEcho", 130, 16),
        ("Epoch", 146, 1),
        ("Margin", 147, 2),
        ("T2", 151, 2),
        ("triggers", 160, 2),
        ("unaccounted", 180, 2),
        ("archive_dropped", 184, 2),
        ("RingLast", 205, 1),
        ("Status1Copy", 209, 1),
        ("MapVersion", 900, 1),
    ],
)
def test_the_map_that_plc_programs_are_written_for_does_not_move(
    name: str, address: int, size: int
) -> None:
    assert (REGISTERS[name].address, REGISTERS[name].size) == (address, size)


def test_one_read_of_125_words_holds_the_whole_ring() -> None:
    assert len(SLOT_FIELDS) == SLOT_WORDS
    assert RING_ADDRESS + RING_SLOTS * SLOT_WORDS - REGISTERS["RingLast"].address == 125


@given(order=ORDERS, value=U32)
def test_32_bits_survive_in_both_word_orders(order: str, value: int) -> None:
    bank = Bank("high_first" if order == "high_first" else "low_first")
    bank.set("PartTagEcho", value)
    words = bank.read(122, 2)
    high, low = words if order == "high_first" else reversed(words)
    assert (high << 16 | low) == value == bank.number("PartTagEcho")


@given(order=ORDERS, value=st.floats(width=32))
def test_a_float32_survives_bit_for_bit(order: str, value: float) -> None:
    bank = Bank("high_first" if order == "high_first" else "low_first")
    bank.set("Margin", value)
    words = bank.read(147, 2)
    assert bank.get("Margin") == value or math.isnan(value)
    expected = list(struct.unpack(">HH", struct.pack(">f", value)))
    assert words == (expected if order == "high_first" else expected[::-1])


def test_a_margin_beyond_float32_is_infinite_not_a_crash() -> None:
    bank = Bank()
    bank.set("Margin", -1e300)
    assert bank.get("Margin") == -math.inf


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Verdict", -1),
        ("Verdict", 0x10000),
        ("PartTagEcho", 1 << 32),
        ("Verdict", 1.5),
        ("Verdict", "OK"),
        ("PartIdEcho", 7),
        ("WorstRegion", (1, 2, 3)),
        ("Margin", (1.0,)),
    ],
)
def test_a_value_that_does_not_fit_is_refused_and_nothing_written(
    name: str, value: float | str | tuple[int, ...]
) -> None:
    bank = Bank()
    before = bank.read(0, MAP_WORDS)
    with pytest.raises(ValueError, match=name):
        bank.set(name, value)
    assert bank.read(0, MAP_WORDS) == before


def test_an_array_comes_back_as_it_was_put() -> None:
    bank = Bank()
    bank.set("WorstRegion", (1, 2, 3, 0xFFFF))
    assert bank.get("WorstRegion") == (1, 2, 3, 0xFFFF) == tuple(bank.read(125, 4))


def test_counters_wrap_like_a_plc() -> None:
    bank = Bank()
    bank.set_counter("triggers", (1 << 32) + 5)
    bank.set_counter("VisionHeartbeat", 65_536)
    assert (bank.number("triggers"), bank.number("VisionHeartbeat")) == (5, 0)
    bank.set_counter("triggers", (1 << 32) - 1)
    bank.set_counter("VisionHeartbeat", 65_535)
    assert (bank.number("triggers"), bank.number("VisionHeartbeat")) == ((1 << 32) - 1, 65_535)
    assert [name for name, _ in COUNTERS][10] == "unaccounted"


def test_text_is_asked_as_text() -> None:
    with pytest.raises(TypeError, match="PartId is ascii"):
        Bank().number("PartId")


@given(data=st.binary(min_size=32, max_size=32))
def test_whatever_bytes_a_plc_sends_as_text_come_out_printable(data: bytes) -> None:
    bank = Bank()
    bank.write(16, struct.unpack(">16H", data))
    text = decode_input(bank).part_text
    assert all(0x20 <= ord(sign) <= 0x7E for sign in text)
    visible = data.partition(b"\0")[0]
    if all(0x21 <= byte <= 0x7E for byte in visible):
        assert text == visible.decode()


def test_text_from_our_side_is_cut_and_printable() -> None:
    bank = Bank(software="1.2.3", serial="Prüfstand\n" + "x" * 40)
    assert bank.get("SoftwareVersion") == "1.2.3"
    assert bank.get("Serial") == "Pr?fstand?" + "x" * 22
    assert Bank(serial="\x1f !~\x7f").get("Serial") == "? !~?"


def test_the_identity_block_is_there_from_the_start() -> None:
    bank = Bank()
    assert bank.read(900, 2) == [256, 1]
    assert bank.read(200, 3) == [12, 10, 0]


def test_plc_input_by_name() -> None:
    bank = Bank()
    bank.write(
        0,
        [0b1000_0011, 7, 65_535, 1, 0, 42, 0x0001, 0x0002, 2, 150, 3, 0, 9, 5, 0b10001]
        + [0]
        + [0x4142, 0x4300] + [0] * 14
        + [0x4C31] + [0] * 7
        + [0, 77, 0, 0]
        + [word for tag in range(8) for word in (0, tag)],
    )  # fmt: skip
    plc = decode_input(bank)
    assert plc.control == Control.ENABLE | Control.TRIGGER | Control.CHALLENGE_MODE
    assert (plc.heartbeat, plc.ack_seq, plc.command, plc.argument) == (7, 65_535, 1, 42)
    assert plc.part_tag == 0x0001_0002
    assert plc.expected_verdict is ExpectedVerdict.NG
    assert (plc.deadline_ms, plc.lane, plc.trigger_count, plc.epoch_echo) == (150, 3, 9, 5)
    assert plc.gate_status == GateStatus.REJECT_CONFIRMED | GateStatus.CONFIRM_FITTED
    assert (plc.part_text, plc.lot, plc.confirmed_tag) == ("ABC", "L1", 77)
    assert plc.tag_fifo == tuple(range(8))


@given(block=st.lists(U16, min_size=64, max_size=64))
def test_every_block_that_is_allowed_decodes(block: list[int]) -> None:
    bank = Bank()
    if not bad_value(0, block):
        bank.write(0, block)
        assert decode_input(bank).argument == block[4] << 16 | block[5]
    else:
        assert block[0] > 0xFF or block[8] > 3


@pytest.mark.parametrize(
    ("address", "words", "names"),
    [
        (0, [0x0100], "Control"),
        (0, [0x00FF], ""),
        (8, [4], "ExpectedVerdict"),
        (7, [9, 3], ""),
        (7, [9, 4], "ExpectedVerdict"),
        (3, [999], ""),
    ],
)
def test_bad_values_are_those_that_the_map_forbids(
    address: int, words: list[int], names: str
) -> None:
    assert bad_value(address, words).partition(":")[0] == names


@given(order=ORDERS, index=st.integers(0, 11), seq=U16, verdict=U16, tag=U32, flags=U16, score=U16)
def test_a_slot_comes_back_as_it_was_put(
    order: str, index: int, seq: int, verdict: int, tag: int, flags: int, score: int
) -> None:
    bank = Bank("high_first" if order == "high_first" else "low_first")
    bank.put_slot(
        index,
        seq=seq,
        verdict=verdict,
        reason=24,
        flags=flags,
        score=score,
        latency_ms=17,
        part_tag=tag,
        inspection_id=9,
    )
    slot = bank.read_slot(index)
    assert (slot.seq, slot.seq_again, slot.verdict) == (seq, seq, verdict)
    assert (slot.part_tag, slot.flags, slot.score) == (tag, flags, score)
    assert (slot.reason, slot.latency_ms, slot.inspection_id) == (24, 17, 9)
    others = [bank.read_slot(i) for i in range(RING_SLOTS) if i != index]
    assert all(slot.seq == slot.verdict == slot.part_tag == 0 for slot in others)


def test_the_slot_layout_is_the_documented_one() -> None:
    bank = Bank()
    flags = SlotFlags.TAG_KNOWN | 0x1200
    bank.put_slot(
        1,
        seq=5,
        verdict=Word.NG,
        reason=1,
        flags=flags,
        score=9000,
        latency_ms=33,
        part_tag=0xABCD_0123,
        inspection_id=8,
    )
    assert bank.read(220, 10) == [5, 0x5A3C, 1, 0x1204, 9000, 33, 0xABCD, 0x0123, 8, 5]
    bank.write(229, [6])
    torn = bank.read_slot(1)
    assert (torn.seq, torn.seq_again) == (5, 6)


@pytest.mark.parametrize("index", [-1, 12])
def test_a_slot_that_does_not_exist(index: int) -> None:
    with pytest.raises(ValueError, match="ring slot: expected 0 to 11"):
        Bank().read_slot(index)


def test_a_verdict_that_does_not_fit_into_its_slot_leaves_it_as_it_was() -> None:
    bank = Bank()
    before = bank.read(0, MAP_WORDS)
    fits = dict.fromkeys(
        ("seq", "verdict", "reason", "flags", "score", "latency_ms", "inspection_id"), 0xFFFF
    )
    for name in fits:
        told = f"slot 3: {name.replace('_', ' ')}: expected 0 to 65535, got 65536"
        with pytest.raises(ValueError, match=told):
            bank.put_slot(3, part_tag=1, **{**fits, name: 0x10000})
    assert bank.read(0, MAP_WORDS) == before
    bank.put_slot(3, part_tag=0xFFFFFFFF, **fits)
    assert bank.read(RING_ADDRESS + 3 * SLOT_WORDS, SLOT_WORDS) == [0xFFFF] * SLOT_WORDS


def test_words_outside_the_map() -> None:
    bank = Bank()
    with pytest.raises(ValueError, match="HR 1020: expected 0 to 1019"):
        bank.write(1020, [0] * 5)
    with pytest.raises(ValueError, match="HR -1"):
        bank.write(-1, [0])
    for number in (6, 7):  # what is written takes the place of what was there
        bank.write(1019, [number] * 5)
    assert bank.read(1019, 9) == [7] * 5


def test_the_snapshot_is_complete() -> None:
    bank = Bank()
    bank.set("Verdict", Word.OK)
    snapshot = bank.snapshot()
    assert snapshot[116] == 0xA5C3
    assert set(snapshot) == {*range(100, 153), *range(160, 186), *range(200, 210)}
