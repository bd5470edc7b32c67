"""A box for the desk PLC: register bank, Modbus server and handshake; verdicts by tag."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from appliance.codes import CommandError, OfflineReason, Reason, State, Status1, Word
from appliance.config import Plc
from appliance.handshake import Conditions, Handshake
from appliance.messages import Verdict
from appliance.plc_modbus import ModbusPort
from appliance.words import Bank, PlcInput

OK, NG = Word.OK, Word.NG
READY = Status1.ONLINE | Status1.TRIGGER_READY
T = TypeVar("T")


class Box:
    """Register bank, Modbus server and handshake as in the decision process; verdicts by tag."""

    def __init__(self, port: int = 0, epoch: int = 1, **settings: Any) -> None:
        self.mode = settings.get("mode", "level")
        self.delay_s = settings.get("delay_ms", 5) / 1e3
        self.word_of: Callable[[int], Word] = settings.get("word_of", lambda _: OK)
        self.epoch = epoch
        self.bank = Bank(settings.get("word_order", "high_first"))
        self.conditions = Conditions(
            state=State.READY, offline=OfflineReason.NONE, status2=settings.get("status2", 0)
        )
        self.taken: list[int] = []
        self.counted: list[str] = []
        self.is_beating = True
        self.handshake = Handshake(
            self.bank, self.conditions, self._accept, self._ask, lambda _: None,
            self.counted.append,
            mode=self.mode, is_triggered_by_plc=True, epoch=epoch, heartbeat_timeout_ms=500,
            acknowledge_timeout_ms=100, deadline_ms=1000,
        )  # fmt: skip
        self.port = ModbusPort(
            Plc(host="127.0.0.1", port=port),
            self.bank,
            self.handshake.on_write,
            time.monotonic_ns,
            self.handshake.shown,
        )

    def _accept(self, plc: PlcInput, now_ns: int) -> int:
        self.taken.append(plc.part_tag)
        acq_id = len(self.taken)
        self.conditions.open_parts += 1
        loop = asyncio.get_running_loop()
        loop.call_later(self.delay_s, self._close, acq_id, plc.part_tag)
        return acq_id

    def _close(self, acq_id: int, tag: int) -> None:
        word = self.word_of(tag)
        self.conditions.open_parts -= 1
        verdict = Verdict(
            part_id=acq_id, acq_id=acq_id, epoch=self.epoch, word=word, part_tag=tag,
            reason=Reason.NONE if word == OK else Reason.ANOMALY_SCORE, margin=float(tag),
        )  # fmt: skip
        self.handshake.deliver(verdict, time.monotonic_ns())

    def _ask(
        self, code: int, argument: int, now_ns: int, done: Callable[[CommandError], None]
    ) -> None:
        result = CommandError.DONE if argument == 1 else CommandError.UNKNOWN_PRODUCT
        asyncio.get_running_loop().call_later(0.02, done, result)

    async def live(self) -> None:
        """The decision loop: heartbeat and ticks."""
        beats = 0
        while True:
            beats += 1
            if self.is_beating:
                self.handshake.beat(beats // 5)
            self.handshake.refresh(time.monotonic_ns())
            await asyncio.sleep(0.02)


@asynccontextmanager
async def box(port: int = 0, **settings: Any):
    appliance = Box(port, **settings)
    await appliance.port.start()
    living = asyncio.ensure_future(appliance.live())
    try:
        yield appliance
    finally:
        living.cancel()
        await asyncio.gather(living, return_exceptions=True)
        await appliance.port.stop()


def run(body: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(body, 30))


def by_tag(tag: int) -> Word:
    return (Word.OK, Word.NG, Word.UNCERTAIN, Word.ERROR)[tag % 4]
