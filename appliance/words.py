"""An image of the register map: named values to 16-bit words and back.

Enters: values of the decision process, control words of the PLC. Leaves: holding registers, and
the PLC's words decoded. Pure: no socket, no clock, no thread.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from appliance.codes import Control, ExpectedVerdict, GateStatus
from appliance.registers import (
    MAP_VERSION,
    MAP_WORDS,
    PROTOCOL_REVISION,
    REGISTERS,
    RING_ADDRESS,
    RING_SLOTS,
    SLOT_FIELDS,
    SLOT_WORDS,
    Register,
)

WordOrder: TypeAlias = Literal["high_first", "low_first"]
Value: TypeAlias = int | float | str | tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One verdict in the ring, as it lies in ten registers."""

    seq: int
    verdict: int
    reason: int
    flags: int
    score: int
    latency_ms: int
    part_tag: int
    inspection_id: int
    seq_again: int


@dataclass(frozen=True, kw_only=True)
class PlcInput:
    """What the PLC wants, decoded from HR 0–63."""

    control: Control
    heartbeat: int
    ack_seq: int
    command: int
    argument: int
    part_tag: int
    expected_verdict: ExpectedVerdict
    deadline_ms: int
    lane: int
    trigger_count: int
    epoch_echo: int
    gate_status: GateStatus
    part_text: str
    lot: str
    confirmed_tag: int
    tag_fifo: tuple[int, ...]


class Bank:
    """An image of the map: 1024 registers, by name or by address.

    The appliance serves one; a client keeps another of what it read, and decodes it with the same
    table. All words of one turn of the event loop are seen together or not at all.
    """

    def __init__(
        self, word_order: WordOrder = "high_first", software: str = "", serial: str = ""
    ) -> None:
        self.word_order: WordOrder = word_order
        self._words = [0] * MAP_WORDS
        self.set("MapVersion", MAP_VERSION)
        self.set("ProtocolRevision", PROTOCOL_REVISION)
        self.set("SoftwareVersion", software)
        self.set("Serial", serial)
        self.set("RingSlots", RING_SLOTS)
        self.set("RingSlotWords", SLOT_WORDS)

    def set(self, name: str, value: float | str | Sequence[int]) -> None:
        """Encode a value. Raises KeyError (no such name), ValueError (kind, range or length)."""
        register = REGISTERS[name]
        words = self._encode(register, value)
        self._words[register.address : register.address + register.size] = words

    def set_counter(self, name: str, value: int) -> None:
        """A count that wraps at the width of its register, as a PLC's counters do."""
        self.set(name, value % (1 << 16 * REGISTERS[name].size))

    def get(self, name: str) -> Value:
        """The decoded value: int, float, str, or a tuple where the register is an array."""
        register = REGISTERS[name]
        words = self.read(register.address, register.size)
        match register.kind:
            case "ascii":
                return _text(words)
            case "f32":
                value: float = struct.unpack(">f", struct.pack(">HH", *self._pair(words)))[0]
                return value
            case "u32":
                pairs = [self._pair(words[i : i + 2]) for i in range(0, len(words), 2)]
                numbers = tuple(high << 16 | low for high, low in pairs)
            case "u16":
                numbers = tuple(words)
        return numbers if register.count > 1 else numbers[0]

    def number(self, name: str) -> int:
        """The value of a u16 or u32 register. Raises TypeError for any other."""
        value = self.get(name)
        if not isinstance(value, int):
            raise TypeError(f"{name} is {REGISTERS[name].kind}, not one whole number")
        return value

    def read(self, address: int, count: int) -> list[int]:
        """A copy of `count` registers."""
        return self._words[address : address + count]

    def write(self, address: int, words: Sequence[int]) -> None:
        """Registers as they came off the wire. Raises ValueError outside the map."""
        if not 0 <= address <= MAP_WORDS - len(words):
            raise ValueError(f"HR {address}: expected 0 to {MAP_WORDS - len(words)}")
        self._words[address : address + len(words)] = words

    def snapshot(self) -> dict[int, int]:
        """HR 100–152, 160–185 and 200–209: what `messages.Words` carries."""
        spans = (range(100, 153), range(160, 186), range(200, 210))
        return {address: self._words[address] for span in spans for address in span}

    def put_slot(
        self,
        index: int,
        *,
        seq: int,
        verdict: int,
        reason: int,
        flags: int,
        score: int,
        latency_ms: int,
        part_tag: int,
        inspection_id: int,
    ) -> None:
        """Overwrite slot 0…11. `flags` holds SlotFlags and, in its high byte, Epoch's low byte."""
        tag = self._pair((part_tag >> 16 & 0xFFFF, part_tag & 0xFFFF))
        words = (seq, verdict, reason, flags, score, latency_ms, *tag, inspection_id, seq)
        for (name, _), word in zip(SLOT_FIELDS, words, strict=True):
            _in_range(f"slot {index}: {name}", word, 0xFFFF)
        self.write(_slot_address(index), words)

    def read_slot(self, index: int) -> Slot:
        """Slot 0…11 as it lies there; whether it may be believed is the acceptance rule's job."""
        words = self.read(_slot_address(index), SLOT_WORDS)
        high, low = self._pair(words[6:8])
        return Slot(
            seq=words[0],
            verdict=words[1],
            reason=words[2],
            flags=words[3],
            score=words[4],
            latency_ms=words[5],
            part_tag=high << 16 | low,
            inspection_id=words[8],
            seq_again=words[9],
        )

    def _pair(self, words: Sequence[int]) -> tuple[int, int]:
        """High and low word, or the two in the order of this bank: the same exchange both ways."""
        first, second = words
        return (first, second) if self.word_order == "high_first" else (second, first)

    def _encode(self, register: Register, value: float | str | Sequence[int]) -> Sequence[int]:
        name = register.name
        if register.kind == "ascii":
            if not isinstance(value, str):
                raise ValueError(f"{name}: expected text, got {value!r}")
            data = _printable(value.encode("ascii", "replace"))[: 2 * register.count]
            return struct.unpack(f">{register.count}H", data.ljust(2 * register.count, b"\0"))
        if isinstance(value, str):
            raise ValueError(f"{name}: expected numbers, got {value!r}")
        if register.kind == "f32":
            if not isinstance(value, int | float):
                raise ValueError(f"{name}: expected one number, got {value!r}")
            return self._pair(struct.unpack(">HH", struct.pack(">f", _as_float32(value))))
        numbers = (value,) if isinstance(value, int | float) else tuple(value)
        if len(numbers) != register.count:
            raise ValueError(f"{name}: expected {register.count} numbers, got {len(numbers)}")
        if register.kind == "u16":
            return [_in_range(name, number, 0xFFFF) for number in numbers]
        wide = [_in_range(name, number, 0xFFFFFFFF) for number in numbers]
        return [word for number in wide for word in self._pair((number >> 16, number & 0xFFFF))]


def decode_input(bank: Bank) -> PlcInput:
    """HR 0–63 as the decision process reads them. Text holds printable ASCII alone."""
    fifo = bank.get("TagFifo")
    return PlcInput(
        control=Control(bank.number("Control")),
        heartbeat=bank.number("PlcHeartbeat"),
        ack_seq=bank.number("AckSeq"),
        command=bank.number("Command"),
        argument=bank.number("CmdArg"),
        part_tag=bank.number("PartTag"),
        expected_verdict=ExpectedVerdict(bank.number("ExpectedVerdict")),
        deadline_ms=bank.number("DeadlineMs"),
        lane=bank.number("Lane"),
        trigger_count=bank.number("TriggerCount"),
        epoch_echo=bank.number("EpochEcho"),
        gate_status=GateStatus(bank.number("GateStatus")),
        part_text=str(bank.get("PartId")),
        lot=str(bank.get("Lot")),
        confirmed_tag=bank.number("ConfirmedTag"),
        tag_fifo=fifo if isinstance(fifo, tuple) else (),
    )


def bad_value(address: int, words: Sequence[int]) -> str:
    """Why the PLC may not write these words (exception 03), or "" where it may.

    Only what the map forbids: a code that the appliance does not know is an answer of the
    handshake (CmdFailed), not of the transport.
    """
    for register_address, word in enumerate(words, address):
        if register_address == 0 and word >> 8:
            return f"Control: expected b8–15 = 0, got 0x{word:04X}"
        if register_address == 8 and word > ExpectedVerdict.UNCERTAIN:
            return f"ExpectedVerdict: expected 0 to 3, got {word}"
    return ""


def _slot_address(index: int) -> int:
    if not 0 <= index < RING_SLOTS:
        raise ValueError(f"ring slot: expected 0 to {RING_SLOTS - 1}, got {index}")
    return RING_ADDRESS + index * SLOT_WORDS


def _in_range(name: str, value: float, highest: int) -> int:
    if not isinstance(value, int) or not 0 <= value <= highest:
        raise ValueError(f"{name}: expected 0 to {highest}, got {value!r}")
    return int(value)


def _as_float32(value: float) -> float:
    """Too large for float32 becomes infinite, as it does in the network's own arithmetic."""
    try:
        struct.pack(">f", value)
    except OverflowError:
        return math.copysign(math.inf, value)
    return value


def _text(words: Sequence[int]) -> str:
    data = struct.pack(f">{len(words)}H", *words)
    return _printable(data.partition(b"\0")[0]).decode("ascii").rstrip()


def _printable(data: bytes) -> bytes:
    """What a PLC sends ends up in rows, logs and pages: nothing but printable ASCII passes."""
    return bytes(byte if 0x20 <= byte <= 0x7E else ord("?") for byte in data)
