"""The appliance as a conformance check sees it: one Modbus client, one request at a time.

Every write carries a new PlcHeartbeat unless the check asks for silence. Times are those of this
machine's monotonic clock, so they contain the network and this client.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pymodbus.client import AsyncModbusTcpClient
from pymodbus.exceptions import ModbusException

from appliance.codes import Control, Status1, Status2
from appliance.registers import WRITABLE_WORDS
from appliance.words import Bank, Slot, WordOrder

STATUS = (100, 53)
COUNTERS = (160, 26)
RING = (205, 125)

# A refused connection has one line of ours, and none of the library's.
logging.getLogger("pymodbus").addHandler(logging.NullHandler())


class Violation(Exception):
    """The appliance breaks the rule: what was expected and what came."""


class NotApplicable(Exception):
    """This box has no such thing, and the contract does not ask for it."""


class NoBox(Exception):
    """Nobody answers: the check cannot go on."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How this box is set up, and how much time the way to it may take."""

    host: str
    port: int = 5020
    word_order: WordOrder = "high_first"
    mode: str = "level"
    deadline_ms: int = 0
    """As in the box's config.toml; 0 = not checked against it."""
    acknowledge_ms: int = 2000
    network_ms: float = 25.0
    """Added to every limit: the way there and back, and the turns of this client."""


@dataclass
class Box:
    """One connection and the last image read over it."""

    terms: Terms
    out: Bank = field(init=False)
    image: Bank = field(init=False)
    next_tag: int = 1

    def __post_init__(self) -> None:
        self.out, self.image = Bank(self.terms.word_order), Bank(self.terms.word_order)
        self._client: AsyncModbusTcpClient | None = None

    async def connect(self) -> "Box":
        """Raises NoBox."""
        client = AsyncModbusTcpClient(
            self.terms.host, port=self.terms.port, timeout=2, retries=0, reconnect_delay=0
        )
        try:
            is_connected = await client.connect()
        except (ModbusException, OSError) as err:
            raise NoBox(str(err)) from err
        if not is_connected:
            raise NoBox("no connection")
        self._client = client
        return self

    def close(self) -> None:
        """Hang up."""
        if self._client is not None:
            self._client.close()
            self._client = None

    async def ask(self, request: Callable[[AsyncModbusTcpClient], Any]) -> Any:
        """One request; the answer, which may be an exception response. Raises NoBox."""
        if self._client is None:
            raise NoBox("not connected")
        try:
            return await request(self._client)
        except (ModbusException, OSError, asyncio.TimeoutError) as err:
            raise NoBox(f"no answer: {err}") from err

    async def code_of(self, request: Callable[[AsyncModbusTcpClient], Any]) -> int:
        """The exception code of the answer; 0 where it was accepted."""
        answer = await self.ask(request)
        return int(answer.exception_code) if answer.isError() else 0

    async def read(self, address: int, count: int, function: int = 3) -> list[int]:
        """Registers into the image. Raises Violation where they cannot be read."""
        if function == 4:
            answer = await self.ask(lambda c: c.read_input_registers(address, count=count))
        else:
            answer = await self.ask(lambda c: c.read_holding_registers(address, count=count))
        if answer.isError():
            last = address + count - 1
            raise Violation(
                f"FC {function} of HR {address}–{last}: exception {answer.exception_code}"
            )
        self.image.write(address, answer.registers)
        return list(answer.registers)

    async def exchange(
        self, control: Control | None = None, *, beats: bool = True, **words: Any
    ) -> float:
        """FC 23: HR 0–63 out, HR 100–152 in. Returns how long it took, in ms."""
        if control is not None:
            self.out.set("Control", control)
        for name, value in words.items():
            self.out.set(name, value)
        if beats:
            self.out.set("PlcHeartbeat", (self.out.number("PlcHeartbeat") + 1) & 0xFFFF)
        begun = time.monotonic()
        answer = await self.ask(
            lambda c: c.readwrite_registers(
                read_address=STATUS[0], read_count=STATUS[1],
                write_address=0, values=self.out.read(0, WRITABLE_WORDS),
            )
        )  # fmt: skip
        if answer.isError():
            raise Violation(f"FC 23 refused with exception {answer.exception_code}")
        self.image.write(STATUS[0], answer.registers)
        return (time.monotonic() - begun) * 1e3

    def has(self, bit: Status1) -> bool:
        """In HR 100, as last read."""
        return bit in Status1(self.image.number("Status1"))

    def has2(self, bit: Status2) -> bool:
        """In HR 101, as last read."""
        return bit in Status2(self.image.number("Status2"))

    async def slots(self) -> list[Slot]:
        """The ring, in one request of 125 words."""
        await self.read(*RING)
        return [self.image.read_slot(index) for index in range(12)]

    async def counter(self, name: str) -> int:
        """One of HR 160–185."""
        await self.read(*COUNTERS)
        return self.image.number(name)

    async def until(
        self, what: str, check: Callable[[], bool], limit_ms: float, control: Control | None = None
    ) -> float:
        """Exchange until `check`; ms that it took. Raises Violation after limit and network."""
        begun = time.monotonic()
        allowed = limit_ms + self.terms.network_ms
        while True:
            await self.exchange(control)
            took = (time.monotonic() - begun) * 1e3
            if check():
                return took
            if took > allowed:
                raise Violation(f"{what}: not within {limit_ms:g} ms (waited {took:.0f} ms)")
            await asyncio.sleep(0.002)

    async def make_ready(self, control: Control = Control.ENABLE, limit_ms: float = 5000) -> None:
        """Nothing pending, no error, TriggerReady 1."""
        await self.exchange(control | Control.RESULT_ACK | Control.CLEAR_ERROR)
        await self.exchange(control)
        begun = time.monotonic()
        while not self.has(Status1.TRIGGER_READY):
            if (time.monotonic() - begun) * 1e3 > limit_ms:
                offline = self.image.number("OfflineReason")
                raise Violation(f"TriggerReady stays 0 (OfflineReason {offline})")
            ack = Control.RESULT_ACK if self.has(Status1.RESULT_VALID) else Control(0)
            await self.exchange(control | ack)
            await self.exchange(control)
            await asyncio.sleep(0.005)

    async def trigger(self, control: Control = Control.ENABLE, **words: Any) -> tuple[int, int]:
        """One part: its tag and AcqID; Trigger is dropped again. Raises Violation."""
        tag, self.next_tag = self.next_tag, self.next_tag + 1
        await self.exchange(
            control | Control.TRIGGER, PartTag=tag, PartId=f"CONF-{tag:06d}", **words
        )
        if not self.has(Status1.TRIGGER_ACK):
            await self.until(
                "TriggerAck", lambda: self.has(Status1.TRIGGER_ACK), 10, control | Control.TRIGGER
            )
        acq_id = self.image.number("AcqID")
        await self.until("TriggerAck falls", lambda: not self.has(Status1.TRIGGER_ACK), 10, control)
        return tag, acq_id

    async def result(self, limit_ms: float = 61_000) -> float:
        """Until ResultValid; ms that it took."""
        valid = Status1.RESULT_VALID
        return await self.until("ResultValid", lambda: self.has(valid), limit_ms, Control.ENABLE)

    async def acknowledge(self) -> float:
        """ResultAck until ResultValid falls, then back; ms that the fall took."""
        valid = Status1.RESULT_VALID
        took = await self.until(
            "ResultValid falls after ResultAck",
            lambda: not self.has(valid),
            5,
            Control.ENABLE | Control.RESULT_ACK,
        )
        await self.exchange(Control.ENABLE)
        return took

    async def beat_for(self, ms: float, control: Control = Control.ENABLE) -> None:
        """Only heartbeats."""
        end = time.monotonic() + ms / 1e3
        while time.monotonic() < end:
            await self.exchange(control)
            await asyncio.sleep(0.02)
