"""The words of the map, copied into a controller that does not speak Modbus (Logix, S7).

One block: HR 100–329, status words and ring, 230 words. The acceptance rule of the ring holds for
it unchanged: a slot counts only where both of its sequence numbers are equal, so a block that comes
in pieces is never half believed, and its heartbeat comes from the decision loop alone.
"""

import asyncio
import struct
from typing import Protocol

from appliance.codes import Status2
from appliance.messages import Verdict, Words
from appliance.registers import RING_SLOTS
from appliance.words import Bank

FIRST, WORDS = 100, 230
_STATUS1, _STATUS2, _STATUS1_COPY = 100, 101, 209


class Controller(Protocol):
    """The other side, blocking; called in a thread. Every call may raise DeviceError."""

    def open(self) -> None:
        """Connect, and check that the block is there and large enough."""
        ...

    def write(self, words: list[int]) -> None:
        """All 230 words, from the first to the last."""
        ...

    def close(self) -> None:
        """Hang up; never raises."""
        ...


class ImageWriter:
    """A Projection: the newest image, at every verdict and at least every period."""

    def __init__(self, name: str, controller: Controller, period_ms: int) -> None:
        self.name = name
        self.counters = {"writes": 0, "overwritten": 0}
        self._controller, self._period_s = controller, period_ms / 1e3
        self._words = [0] * WORDS
        self._changed = asyncio.Event()
        self._since_write = 0

    def words(self, image: Bank, words: Words) -> None:
        """Status words and heartbeat."""
        self._words = image.read(FIRST, WORDS)
        self._changed.set()

    def verdict(self, verdict: Verdict, image: Bank) -> None:
        """The slot of this part goes out at once; more than a ring in one write is counted."""
        self._words = image.read(FIRST, WORDS)
        self._since_write += 1
        if self._since_write > RING_SLOTS:
            self.counters["overwritten"] += 1
        self._changed.set()

    def silent(self) -> None:
        """Nothing may be believed: status 0, SafeState 1; the heartbeat stands still anyway."""
        self._words[_STATUS1 - FIRST] = self._words[_STATUS1_COPY - FIRST] = 0
        self._words[_STATUS2 - FIRST] = int(Status2.SAFE_STATE)
        self._changed.set()

    async def prepare(self) -> None:
        """Nothing takes long here."""

    async def serve(self) -> None:
        """Write until cancelled. Raises DeviceError where the controller is lost."""
        await asyncio.to_thread(self._controller.open)
        try:
            while True:
                try:
                    await asyncio.wait_for(self._changed.wait(), self._period_s)
                except (asyncio.TimeoutError, TimeoutError):
                    pass
                self._changed.clear()
                self._since_write = 0
                await asyncio.to_thread(self._controller.write, list(self._words))
                self.counters["writes"] += 1
        finally:
            await asyncio.to_thread(self._controller.close)


def as_bytes(words: list[int]) -> bytes:
    """High byte first, as S7 keeps a WORD."""
    return struct.pack(f">{len(words)}H", *words)


def as_signed(words: list[int]) -> list[int]:
    """The same 16 bits as the INT that a Logix controller has for them."""
    return list(struct.unpack(f">{len(words)}h", as_bytes(words)))
