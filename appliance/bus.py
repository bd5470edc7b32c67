"""PROCESS bus: words and verdicts → OPC UA, MQTT, Logix, S7; commands of their clients → decide.

Enters: `live` from decide. Leaves: whatever each bus shows, and `Command`. It may lag, it never
decides, and its death touches no verdict. When decide is silent, every bus says so.
"""

import asyncio
import importlib
import os
from collections.abc import Callable
from typing import Any

from appliance.codes import CommandError
from appliance.config import Config
from appliance.errors import DeviceError
from appliance.messages import Command, CommandResult, Health, Verdict, Words
from appliance.projection import Ask, Projection
from appliance.results import Ring
from appliance.service import Service
from appliance.shortage import own_use
from appliance.wire import AsyncReceiver, Wiring
from appliance.words import Bank

SILENCE_NS = 500_000_000
_TICK_S = 0.1
_ANSWER_S = 65.0
"""decide has its own guards of 60 and 62 s, which answer first."""
_PREPARE_S = 60.0
_BACKOFF_S = (1.0, 2.0, 5.0, 10.0, 30.0)

_PROJECTIONS = {
    "opcua": "appliance.plc_opcua:OpcUaServer",
    "mqtt": "appliance.plc_mqtt:SparkplugNode",
    "logix": "appliance.plc_logix:LogixWriter",
    "s7": "appliance.plc_s7:S7Writer",
}
"""Section of `[bus]` → class; its SDK is imported only where the section is there."""


def main(service: Service, config: Config, name: str) -> None:
    """Serve until told to stop. Raises ConfigError."""
    asyncio.run(_Bus(service, config).serve())


def projections(service: Service, config: Config, ask: Ask) -> list[Projection]:
    """One for each section that is there. Raises ConfigError."""
    made: list[Projection] = []
    for section, target in _PROJECTIONS.items():
        settings = getattr(config.bus, section)
        if settings is not None:
            module, _, kind = target.partition(":")
            make: Callable[..., Any] = getattr(importlib.import_module(module), kind)
            made.append(make(settings, config, ask, service.log))
    return made


class View:
    """What decide said last, as an image of the map with a ring of its own. Pure; time given."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.image = Bank(config.plc.word_order)
        self.received = 0
        self.skipped = 0
        """Verdicts that decide gave and this process never got: `live` may lose messages."""
        self._ring = self._new_ring(0)
        self._base: int | None = None
        self._heard_ns: int | None = None

    def words(self, words: Words, now_ns: int) -> None:
        """Registers, but for the ring's own words."""
        self._heard_ns = now_ns
        for address, word in words.registers.items():
            if not 205 <= address <= 207:
                self.image.write(address, (word,))
        self._follow_epoch(self.image.number("Epoch"))
        given = words.ledger.get("verdicts", 0)
        if self._base is None:
            self._base = given - self.skipped - self.received
        self.skipped = max(self.skipped, given - self._base - self.received)

    def verdict(self, verdict: Verdict) -> None:
        """Into the ring."""
        self.received += 1
        self._follow_epoch(verdict.epoch)
        self._ring.put(verdict)

    def is_silent(self, now_ns: int) -> bool:
        """Nothing from decide for 500 ms, or never anything."""
        return self._heard_ns is None or now_ns - self._heard_ns > SILENCE_NS

    def _follow_epoch(self, epoch: int) -> None:
        """Each life of decide has a ring of its own; what is left of the last one is cleared."""
        if epoch != self._ring.epoch:
            self.image.write(205, [0, 0, 0])
            self.image.write(210, [0] * 120)
            self._ring = self._new_ring(epoch)
            self._base = None

    def _new_ring(self, epoch: int) -> Ring:
        return Ring(self.image, epoch, self._config.trigger == "plc")


class _Bus:
    """Sockets and tasks around the projections."""

    def __init__(self, service: Service, config: Config) -> None:
        self._service, self._config = service, config
        self._view = View(config)
        self._waiting: dict[str, asyncio.Future[CommandResult]] = {}
        self._asked = 0
        self._notes: dict[str, str] = {}
        self._was_silent = False

    async def serve(self) -> None:
        """All of it."""
        service, config = self._service, self._config
        loop = asyncio.get_running_loop()
        stopping = asyncio.Event()
        service.on_stop(lambda: loop.call_soon_threadsafe(stopping.set))
        self._projections = projections(service, config, self._ask)
        service.extend(_PREPARE_S)
        for projection in self._projections:
            await projection.prepare()
        with Wiring(config.runtime_dir, config.wire.remote, config.keys_dir) as wiring:
            self._live = wiring.async_receiver("live")
            self._health = wiring.sender("health", "bus")
            self._commands = wiring.async_sender("command")
            stopped = asyncio.ensure_future(stopping.wait())
            tasks = [
                asyncio.ensure_future(task)
                for task in (
                    self._follow_live(),
                    self._take_answers(),
                    self._ticks(),
                    *(self._keep_serving(projection) for projection in self._projections),
                )
            ]
            service.ready()
            service.log.info("serving", buses=", ".join(p.name for p in self._projections))
            if service.is_stopping:
                stopping.set()
            done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for task in done - {stopped}:
                task.result()
                raise RuntimeError("a task of the bus process ended by itself")

    async def _follow_live(self) -> None:
        while True:
            _, message = await self._live.receive()
            if isinstance(message, Words):
                self._view.words(message, self._service.clock())
                for projection in self._projections:
                    projection.words(self._view.image, message)
            elif isinstance(message, Verdict):
                self._view.verdict(message)
                for projection in self._projections:
                    projection.verdict(message, self._view.image)

    async def _keep_serving(self, projection: Projection) -> None:
        """Each bus for itself: one that is lost backs off and holds up no other."""
        log, failures = self._service.log, 0
        while True:
            begun_ns = self._service.clock()
            try:
                await projection.serve()
            except DeviceError as err:
                if self._service.clock() - begun_ns > 60e9:
                    failures = 0
                if projection.name not in self._notes:  # on loss alone, not on every try
                    log.warning("bus lost", bus=projection.name, why=str(err))
                self._notes[projection.name] = f"{projection.name}: {err}"
                await asyncio.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
                failures += 1

    async def _ask(self, name: str, argument: str, by: str) -> CommandResult:
        self._asked += 1
        identity = f"bus-{os.getpid()}-{self._asked}"
        answer: asyncio.Future[CommandResult] = asyncio.get_running_loop().create_future()
        self._waiting[identity] = answer
        command = Command(id=identity, name=name, argument=argument, by=by)
        try:
            if await self._commands.send(command):
                return await asyncio.wait_for(answer, _ANSWER_S)
            detail = "the decision process takes no command"
        except (asyncio.TimeoutError, TimeoutError):
            detail = "the decision process gave no answer"
        finally:
            del self._waiting[identity]
        return CommandResult(id=identity, code=CommandError.TIMED_OUT, detail=detail)

    async def _take_answers(self) -> None:
        while True:
            _, message = await self._commands.receive()
            if isinstance(message, CommandResult):
                waiting = self._waiting.get(message.id)
                if waiting is not None and not waiting.done():
                    waiting.set_result(message)

    async def _ticks(self) -> None:
        """Every 100 ms: silence of decide, our health, the watchdog."""
        while True:
            await asyncio.sleep(_TICK_S)
            is_silent = self._view.is_silent(self._service.clock())
            if is_silent:
                for projection in self._projections:
                    projection.silent()
            if is_silent != self._was_silent:
                self._was_silent = is_silent
                self._service.log.info("decide is silent" if is_silent else "decide speaks again")
            self._health.send(self._report(is_silent))
            self._service.turn()

    def _report(self, is_silent: bool) -> Health:
        counters = {"verdicts": self._view.received, "skipped": self._view.skipped}
        counters["foreign"] = _foreign(self._live) + _foreign(self._commands)
        for projection in self._projections:
            counters |= {f"{projection.name}_{k}": v for k, v in projection.counters.items()}
        return Health(
            process="bus",
            pid=os.getpid(),
            is_serving=not is_silent,
            counters=counters,
            gauges=own_use(),
            note="; ".join(self._notes.values()),
        )


def _foreign(receiver: AsyncReceiver) -> int:
    return receiver.foreign
