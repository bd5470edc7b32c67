import re
from pathlib import Path

from appliance.codes import (
    LATCHING_FAULTS,
    Control,
    GateStatus,
    Reason,
    SlotFlags,
    State,
    Status1,
    Status2,
    Word,
)
from appliance.registers import REGISTERS, RING_ADDRESS, RING_SLOTS, SLOT_WORDS
from tools.plc_doc import DOCUMENT, document, meanings


def test_the_register_document_is_what_the_code_says() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "run: python -m tools.plc_doc"


def test_every_register_is_in_it() -> None:
    text = document()
    assert all(f"| {name} |" in text for name in REGISTERS)
    assert "| 16#A5C3 | OK |" in text
    assert "| b7 | ResultValid | level mode: HR 115–152 hold a result" in text


def test_every_bit_and_reason_says_what_it_means() -> None:
    for kind in (Control, GateStatus, Status1, Status2, SlotFlags, Reason, State, Word):
        assert meanings(kind).keys() == {code.name for code in kind}, kind.__name__


SAMPLES = "".join(
    re.findall(
        r"```iecst\n(.*?)```",
        (Path(__file__).parent.parent / "docs" / "plc.md").read_text(encoding="utf-8"),
        re.DOTALL,
    )
)
WORDS = {
    "Status1": 100, "Status2": 101, "VisionHeartbeat": 102, "FaultCode": 106,
    "AcqID": 114, "InspectionID": 115, "Verdict": 116, "PartTagEcho": 122, "Epoch": 146,
    "VisionHeartbeatCopy": 208,
}  # fmt: skip
BITS = {
    (100, Status1.RESULT_VALID), (100, Status1.PASS), (100, Status1.FAIL),
    (100, Status1.ACQ_ERROR), (100, Status1.TRIGGER_READY), (100, Status1.TRIGGER_ACK),
    (101, Status2.SIMULATED),
}  # fmt: skip


def test_the_structured_text_reads_the_words_and_bits_that_the_map_has() -> None:
    for name, address in WORDS.items():
        assert REGISTERS[name].address == address, name
    read = {int(number) for number in re.findall(r"Hr\[(\d+)\]", SAMPLES)}
    assert read == set(WORDS.values()) | {123}, "123 is the second word of PartTagEcho"
    bits = {(int(n), 1 << int(b)) for n, b in re.findall(r"Hr\[(\d+)\]\.(\d+)", SAMPLES)}
    assert bits == {(address, int(bit)) for address, bit in BITS}
    assert f"{RING_ADDRESS} + {SLOT_WORDS} * I" in SAMPLES
    assert f"FOR I := 0 TO {RING_SLOTS - 1} DO" in SAMPLES
    for offset, bit in ((3, SlotFlags.TAG_KNOWN), (3, SlotFlags.SIMULATED)):
        assert f"Hr[S + {offset}].{int(bit).bit_length() - 1}" in SAMPLES
    assert SAMPLES.count(f"= 16#{Word.OK:04X}") == 2, "one way to OK in either mode"


def test_the_structured_text_clears_no_latching_fault_by_itself() -> None:
    named = {int(code, 16) for code in re.findall(r"Hr\[106\] = 16#([0-9A-F]{4})", SAMPLES)}
    assert named == {int(fault) for fault in LATCHING_FAULTS}
    assert "(Hr[100].13 AND NOT Latching)" in SAMPLES
