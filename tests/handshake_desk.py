"""A handshake on virtual time, its bank, and a PLC that writes into it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from appliance.codes import (
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
from appliance.handshake import Conditions, Handshake
from appliance.messages import PlcTold, Verdict
from appliance.registers import RING_SLOTS
from appliance.words import Bank, PlcInput, Slot, decode_input

MS = 1_000_000
DEADLINE_MS = 200
EPOCH = 0x1234
ENABLE, TRIGGER, ACK = Control.ENABLE, Control.TRIGGER, Control.RESULT_ACK


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

    def job(self, tag: int = 7) -> int:
        """A part that another bus asks for; its AcqID, or 0."""
        plc = replace(decode_input(self.bank), part_tag=tag)
        return self.handshake.start_job(plc, self.now)

    def acknowledge(self, control: Control = ENABLE) -> None:
        self.beat(control | ACK)
        self.beat(control)

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
