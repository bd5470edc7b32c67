"""PROCESS decide: parts, deadlines, scores → verdicts → PLC words.

Enters: PLC words, frames seen, scores, commands, signs of life. Leaves: triggers, verdicts, words.
It learns of a part from the PLC's trigger (or a frame), never from the score it waits for, so
that silence ends as ERROR. One asyncio loop; features and forest run in one thread beside it.
"""

import asyncio
import importlib.metadata
import os
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from appliance.budgets import Budgets
from appliance.clock import is_clock_synced
from appliance.codes import CommandError, FaultCode, State
from appliance.companions import Companions
from appliance.config import Config
from appliance.frames import INLINE
from appliance.journal import Journal
from appliance.line import Line, Outlets
from appliance.messages import (
    AnyMessage,
    Command,
    CommandResult,
    FrameReady,
    Health,
    InferFailed,
    NoFrame,
    Prepared,
    Refused,
    Scored,
    Stored,
    Verdict,
    Words,
)
from appliance.plc_io import IoPort, open_lines
from appliance.plc_modbus import ModbusPort
from appliance.recipe_in_force import RecipeInForce, said
from appliance.scoring_thread import ScoringThread
from appliance.service import Service
from appliance.shortage import Shortage, own_use
from appliance.tape import Tape
from appliance.throttle import Throttle
from appliance.turns import Turns
from appliance.wire import AsyncReceiver, Sender, Wiring
from appliance.words import Bank, PlcInput

_TICK_S = 0.05
_STOP_S = 1.0


def software_version() -> str:
    """The installed distribution's version."""
    return importlib.metadata.version("inspectd")


def main(service: Service, config: Config, name: str) -> None:
    """Serve until told to stop. Raises ConfigError."""
    asyncio.run(_Decide(service, config).serve())


class _Decide:
    """Sockets and tasks around one `Line`."""

    def __init__(self, service: Service, config: Config) -> None:
        self._service, self._config, self._log = service, config, service.log
        self._recipes = RecipeInForce(service, config)
        self._scoring = ScoringThread(service, config, self._recipes)
        self._timer: asyncio.TimerHandle | None = None
        self._io: IoPort | None = None
        self._lag_ms = 0.0
        self._largest_lag_ms = 0.0
        self._shown: tuple[object, ...] = ()
        self._sending: set[asyncio.Future[bool]] = set()
        self._throttle = Throttle(config.root_dir / config.sysfs)
        self._shortage = Shortage(config.root_dir / config.procfs)
        self._turns = Turns(service.clock)
        self._companions = Companions(config.companions, service.clock())
        self._budgets = Budgets((*config.peers, "record"))
        self._is_looking = False

    async def serve(self) -> None:
        """All of it."""
        service, config = self._service, self._config
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        service.on_stop(lambda: loop.call_soon_threadsafe(stopping.set))
        self._bug: asyncio.Future[None] = loop.create_future()
        loop.set_exception_handler(self._callback_failed)
        if service.is_stopping:  # the signal came before anybody listened
            stopping.set()
        with Wiring(config.runtime_dir, config.wire.remote, config.keys_dir) as wiring:
            journal = Journal(config.state_dir)
            try:
                await self._serve(wiring, journal, stopping)
            finally:
                self._scoring.close()
                journal.close()

    def _callback_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """asyncio would log a bug in a callback and go on: here the process ends and restarts."""
        error = context.get("exception")
        if not self._bug.done():
            reason = error if isinstance(error, Exception) else RuntimeError(context["message"])
            self._bug.set_exception(reason)

    async def _serve(self, wiring: Wiring, journal: Journal, stopping: asyncio.Event) -> None:
        config, clock = self._config, self._service.clock
        cameras = config.cameras
        trigger = {camera: wiring.sender("trigger", camera) for camera in cameras}
        prepare = {label: wiring.sender("prepare", label) for label in config.peers}
        self._verdicts = wiring.sender("verdicts")
        self._live = wiring.sender("live")
        self._tape = Tape(wiring.sender("tape").send) if config.is_taped else None
        health = wiring.sender("health", "decide")
        bank = Bank(config.plc.word_order, software_version(), os.uname().nodename)
        line = self._line = Line(
            config,
            journal,
            bank,
            Outlets(
                trigger=lambda camera, message: trigger[camera].send(message),
                verdict=self._verdicts.send,
                live=self._closed,
                load_recipe=self._recipes.load_by_number,
                load_recipe_by_hash=self._recipes.load_by_hash,
                reload_products=self._recipes.reload_products,
                setup=lambda label, message: prepare[label].send(message),
            ),
            software_version(),
            clock(),
            self._tape,
        )
        self._recipes.serve(line)
        self._scoring.serve(line)
        # A trigger may be older than it looks; a step of TriggerCount must not look older than it
        # is, or it would fit a picture that came before it.
        came_ns = self._turns.came_ns if config.trigger == "plc" else clock
        shown = self._line.handshake.shown
        port = ModbusPort(config.plc, bank, self._plc_wrote, came_ns, shown)
        if config.io is not None:
            lines = open_lines(config.io, config.runtime_dir)
            self._io = IoPort(config.io, lines, bank, self._pins_changed, clock)
            port.is_read_only = self._io.is_master
            self._io.start()
        await port.start()
        if port.remark:
            self._log.warning(port.remark)
        scored = wiring.async_receiver("scored")
        receivers: list[tuple[AsyncReceiver, Callable[[AnyMessage], None]]] = [
            (wiring.async_receiver("seen"), self._seen),
            (scored, lambda message: self._scored(message, scored.inline)),
            (wiring.async_receiver("stored"), self._stored),
            (
                wiring.async_receiver("health", *config.peers, "record", *config.companions),
                self._heard,
            ),
        ]
        tasks = [asyncio.ensure_future(_forever(*receiver)) for receiver in receivers]
        tasks.append(asyncio.ensure_future(self._commands(wiring.async_receiver("command"))))
        tasks.append(asyncio.ensure_future(self._ticks(health, port)))
        self._service.ready()
        self._log.info(
            "serving", epoch=journal.epoch, plc=f"{config.plc.host}:{port.port}",
            trigger=config.trigger, results=config.results, deadline_ms=config.deadline_ms,
        )  # fmt: skip
        self._recipes.load_last()
        try:
            await _first_of([*tasks, self._bug], stopping.wait())
        finally:
            line.stop(clock())
            await self._drain(port)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _drain(self, port: ModbusPort) -> None:
        """The last verdicts reach PLC and recorder before the port closes."""
        until = self._service.clock() + int(_STOP_S * 1e9)
        while self._line.ledger.rows_pending and self._service.clock() < until:
            await asyncio.sleep(0.01)
        await port.stop()
        if self._io is not None:
            self._io.close()

    def _closed(self, verdict: Verdict) -> None:
        """A part has its verdict, and the PLC's words have it, too."""
        if self._io is not None:
            self._io.verdict(verdict)
        self._live.send(verdict)

    def _plc_wrote(self, plc: PlcInput, received_ns: int) -> None:
        if self._tape is not None:
            self._tape.plc_wrote(plc, received_ns)
        self._line.plc_wrote(plc, received_ns)
        self._arm()

    def _pins_changed(self, plc: PlcInput, received_ns: int) -> None:
        """At 24 V the PLC sees the output Fault all the time."""
        self._plc_wrote(plc, received_ns)
        self._line.handshake.shown()

    def _seen(self, message: AnyMessage) -> None:
        now_ns = self._service.clock()
        match message:
            case FrameReady():
                sight = self._line.frame(message, now_ns)
                if sight is not None:
                    self._scoring.score(sight)
            case NoFrame():
                self._line.no_frame(message, now_ns)
            case Prepared() | Refused():
                self._recipes.answered(message)
            case _:
                self._log.warning("foreign message on seen", kind=type(message).__name__)
        self._arm()

    def _scored(self, message: AnyMessage, inline: bytes | None = None) -> None:
        now_ns = self._service.clock()
        match message:
            case Scored() if message.map.ring == INLINE:
                self._scoring.land(message, inline, self._scored)
            case Scored():
                sight = self._line.book.scored(message, now_ns)
                if sight is not None:
                    self._scoring.score(sight)
            case InferFailed():
                self._line.book.failed(message, now_ns)
            case Prepared() | Refused():
                self._recipes.answered(message)
            case _:
                self._log.warning("foreign message on scored", kind=type(message).__name__)
        self._arm()

    def _stored(self, message: AnyMessage) -> None:
        if isinstance(message, Stored):
            self._line.stored(message)

    def _heard(self, message: AnyMessage) -> None:
        if isinstance(message, Health):
            now_ns = self._service.clock()
            if not self._config.is_elsewhere(message.process):
                self._shortage.heard(message, now_ns)
            self._budgets.heard(message.process, message.start, now_ns)
            if not self._companions.heard(message, now_ns):
                self._line.heard(message, now_ns)

    async def _commands(self, receiver: AsyncReceiver) -> None:
        while True:
            route, message = await receiver.receive()
            if not isinstance(message, Command):
                continue
            if message.name != "start_job":  # a part, and its row says so: 30 lines a second
                said = {"argument": message.argument, "by": message.by}
                self._log.info("command", name=message.name, **said)
            answer = partial(self._command_done, receiver, route, message.id)
            self._line.asked(message, self._turns.came_ns(), answer)
            self._arm()

    def _command_done(
        self,
        receiver: AsyncReceiver,
        route: list[bytes],
        identity: str,
        code: CommandError,
        detail: str,
    ) -> None:
        """Answers may take a minute and come in any order; the next command is not held up."""
        answer = CommandResult(id=identity, code=code, detail=detail)
        sending = asyncio.ensure_future(receiver.send(answer, route))
        self._sending.add(sending)
        sending.add_done_callback(self._sending.discard)

    def _arm(self) -> None:
        """Wake up for the next deadline."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_ns = self._line.next_deadline_ns()
        if due_ns is not None:
            wait_s = max(0.0, (due_ns - self._service.clock()) / 1e9)
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._deadline)

    def _deadline(self) -> None:
        self._timer = None
        self._line.expire(self._service.clock())
        self._arm()

    async def _ticks(self, health: Sender, port: ModbusPort) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        count = 0
        while True:
            due = max(due + _TICK_S, loop.time())
            self._turns.due(int(due * 1e9))
            await asyncio.sleep(due - loop.time())
            self._lag_ms = max(self._lag_ms * 0.9, (loop.time() - due) * 1e3)
            self._largest_lag_ms = max(self._largest_lag_ms, self._lag_ms)
            now_ns = self._service.clock()
            self._line.tick(now_ns)
            self._arm()
            count += 1
            if count % 2 == 0:
                self._line.beat(now_ns)
                if self._io is not None:
                    self._io.beat()
                self._publish(health, port)
            if count % 20 == 0:
                self._line.check_ledger(now_ns)
                self._line.box.is_clock_synced = is_clock_synced()
                self._look_at_heat()
                self._look_around(now_ns)
                named = self._config.runtime_dir.glob("spent-*")
                labels = [path.name.removeprefix("spent-") for path in named]
                self._line.box.spent_budgets = self._budgets.look(labels, now_ns)
            self._service.turn()

    def _look_around(self, now_ns: int) -> None:
        self._shortage.look(now_ns)
        box, unknown = self._line.box, self._shortage.unknown
        self._service.changed("memory is not known", box.memory_unknown, unknown)
        box.memory_unknown = unknown
        warnings = (*self._shortage.notes, *self._companions.notes(now_ns))
        for note in warnings:
            if note not in box.warnings:
                self._log.warning(note)
        box.warnings = warnings

    def _look_at_heat(self) -> None:
        """In a thread: some sensors take milliseconds to answer."""
        if not self._is_looking:
            self._is_looking = True
            looking = asyncio.get_running_loop().run_in_executor(None, self._throttle.look)
            looking.add_done_callback(self._looked)

    def _looked(self, looking: "asyncio.Future[str]") -> None:
        self._is_looking = False
        if looking.cancelled():  # the process ends
            return
        box, throttled, lost = self._line.box, looking.result(), self._throttle.lost
        self._service.changed("throttled", box.throttled, throttled)
        self._service.changed("heat cannot be read", box.heat_lost, lost)
        box.throttled, box.heat_lost = throttled, lost

    def _publish(self, health: Sender, port: ModbusPort) -> None:
        line = self._line
        peers = line.setups.peers.values()
        notes = (
            *self._recipes.notes,
            *(said(self._config, peer.label, peer.note) for peer in peers if peer.note),
            *line.box.notes,
        )
        self._live.send(
            Words(
                registers=line.bank.snapshot(),
                counters=line.counters,
                ledger=line.ledger.figures(),
                offline=line.conditions.offline,
                owner=line.orders.owner,
                notes=notes,
                challenge_due_utc_s=line.challenge.due_since_s or 0,
                drift=line.challenge.drift,
            )
        )
        current, now_ns = line.setups.current, self._service.clock()
        for refusal in port.refusals.untold():
            self._log.warning("Modbus request refused", who=refusal)
        own = Health(
            process="decide",
            pid=os.getpid(),
            is_serving=True,
            setup_hash=current.setup_hash if current else "",
            counters={
                **line.counters,
                **port.counters,
                "unsent": self._verdicts.refused,
                "tape_lost": self._tape.lost if self._tape else 0,
            },
            gauges={
                "loop_lag_ms": self._lag_ms,
                "largest_lag_ms": self._largest_lag_ms,
                **own_use(),
            },
            note=notes[0] if notes else port.refusals.note(now_ns),
        )
        self._shortage.heard(own, now_ns)
        health.send(own)
        shown = (line.conditions.state, line.conditions.offline, line.handshake.fault)
        if shown != self._shown:
            self._shown = shown
            self._log.info(
                "state", state=State(shown[0]).name, offline=line.conditions.offline.name,
                fault=FaultCode(line.handshake.fault).name,
            )  # fmt: skip


async def _forever(receiver: AsyncReceiver, take: Callable[[AnyMessage], None]) -> None:
    while True:
        _, message = await receiver.receive()
        take(message)


async def _first_of(tasks: "Sequence[asyncio.Future[None]]", stop: Awaitable[bool]) -> None:
    """Until told to stop; a task that ends before that is a bug and ends the process."""
    stopped = asyncio.ensure_future(stop)
    done, _ = await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        if task is not stopped:
            task.result()
            raise RuntimeError("a task of the decision loop ended by itself")
