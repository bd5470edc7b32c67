"""The scan loop of the desk PLC: one request, one cycle of its program, a pause; over and over.

The appliance may die, hang or refuse at any moment: every request has a limit, and a cycle without
an answer is told to the program as such.
"""

import asyncio
import logging
import sys
import time
from contextlib import suppress
from typing import Any, Protocol

from pymodbus.client import AsyncModbusTcpClient
from pymodbus.exceptions import ConnectionException, ModbusException

from appliance.registers import WRITABLE_WORDS
from appliance.words import Bank
from tools.plc_program import PlcOptions, Ring

_STATUS = (100, 53)
_RING = (205, 125)
_RETRY_S = 0.05
TELL_S = 5.0
"""So long without communication, and a person at the desk is told, once for each loss."""

# A refused connection is an event of the program, not a warning twenty times a second.
logging.getLogger("pymodbus").addHandler(logging.NullHandler())


class NoCommunication(Exception):
    """No answer, or a refusal instead of one."""


class Scanned(Protocol):
    """A PLC program as the scan loop sees it."""

    out: Bank

    @property
    def is_done(self) -> bool:
        """Nothing is left to do."""
        ...

    def scan(self, image: Bank, now_ns: int) -> None:
        """One cycle after a good request."""
        ...

    def lost(self, now_ns: int, why: str) -> None:
        """One cycle without an answer."""
        ...


async def run_scans(options: PlcOptions, program: Scanned, stop: asyncio.Event) -> int:
    """Request, program, pause; returns how often communication was lost."""
    line = _Line(options)
    image = Bank(options.word_order)
    losses, was_lost = 0, True
    next_s = good_s = time.monotonic()
    is_told = False
    try:
        while not program.is_done and not stop.is_set():
            try:
                await line.exchange(program.out, image)
                program.scan(image, time.monotonic_ns())
                was_lost, pause_s = False, options.scan_ms / 1e3
                good_s, is_told = time.monotonic(), False
            except NoCommunication as err:
                losses += not was_lost
                was_lost, pause_s = True, _RETRY_S
                program.lost(time.monotonic_ns(), f"no communication: {err}")
                if not is_told and time.monotonic() - good_s > TELL_S:
                    is_told = True
                    sys.stderr.write(
                        f"inspectd: {options.host}:{options.port}: expected an appliance's Modbus "
                        f"server, got {err}; trying on\n"
                    )
            next_s = max(next_s + pause_s, time.monotonic())
            await _pause(stop, next_s - time.monotonic())
    finally:
        line.close()
    return losses


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    if seconds <= 0:
        await asyncio.sleep(0)
    else:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stop.wait(), seconds)


class _Line:
    """The connection: one FC 23 a scan, in ring mode one read of 125 words more."""

    def __init__(self, options: PlcOptions) -> None:
        self._options = options
        self._client: AsyncModbusTcpClient | None = None
        self._good_s = 0.0

    async def exchange(self, out: Bank, image: Bank) -> None:
        """Control words out, status words in. Raises NoCommunication and hangs up.

        Silence counts from the last good answer, as the timer of a PLC program does: a request that
        was sent one scan before the appliance fell silent must not add to it. After a scan that was
        slow itself, an answer has half of the time still.
        """
        limit_s = self._options.timeout_ms / 1e3
        if self._client is not None:
            limit_s = max(limit_s / 2, self._good_s + limit_s - time.monotonic())
        try:
            await asyncio.wait_for(self._exchange(out, image), limit_s)
        except (ModbusException, OSError, asyncio.TimeoutError) as err:
            self.close()
            raise NoCommunication("no answer") from err
        except NoCommunication:
            self.close()
            raise
        self._good_s = time.monotonic()

    async def _exchange(self, out: Bank, image: Bank) -> None:
        client = await self._connected()
        answer = await client.readwrite_registers(
            read_address=_STATUS[0],
            read_count=_STATUS[1],
            write_address=0,
            values=out.read(0, WRITABLE_WORDS),
        )
        self._take(image, _STATUS, answer)
        if self._options.ring != Ring.NONE:
            answer = await client.read_holding_registers(_RING[0], count=_RING[1])
            self._take(image, _RING, answer)

    def close(self) -> None:
        """Hang up."""
        if self._client is not None:
            self._client.close()
            self._client = None

    async def _connected(self) -> AsyncModbusTcpClient:
        if self._client is None:
            options = self._options
            client = AsyncModbusTcpClient(
                options.host,
                port=options.port,
                timeout=options.timeout_ms / 1e3,
                retries=0,
                reconnect_delay=0,
                trace_connect=self._connection_changed,
            )
            self._client = client
            if not await client.connect():
                raise NoCommunication("no connection")
        return self._client

    def _connection_changed(self, is_connected: bool) -> None:
        """A request in flight ends when the peer hangs up; pymodbus would wait for its time-out."""
        if self._client is None or is_connected:
            return
        answer = self._client.ctx.response_future
        if not answer.done():
            answer.set_exception(ConnectionException("the appliance hung up"))
            answer.exception()  # nobody need be waiting for it

    @staticmethod
    def _take(image: Bank, span: tuple[int, int], answer: Any) -> None:
        if answer.isError():
            raise NoCommunication(f"exception {answer.exception_code:02d}")
        if len(answer.registers) != span[1]:
            raise NoCommunication(f"{len(answer.registers)} words instead of {span[1]}")
        image.write(span[0], answer.registers)
