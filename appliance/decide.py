"""PROCESS decide: parts, deadlines, scores → verdicts → PLC words.

Enters: PLC words, frames seen, scores, commands, signs of life. Leaves: triggers, verdicts, words.
It learns of a part from the PLC's trigger (or a frame), never from the score it waits for, so
that silence ends as ERROR. One asyncio loop; features and forest run in one thread beside it.
"""

import asyncio
import importlib.metadata
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.bundle import load_bundle
from appliance.clock import is_clock_synced
from appliance.codes import CommandError, FaultCode, Reason, State
from appliance.config import Config, load_products, write_atomically
from appliance.errors import ArtefactError, ConfigError, PartError
from appliance.frames import RingReader
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
    camera_label,
)
from appliance.parts import Judgement, Sight
from appliance.plc_io import IoPort, open_lines
from appliance.plc_modbus import ModbusPort
from appliance.recipe import LoadedRecipe, RecipeError, load_recipe
from appliance.service import Service
from appliance.tape import Tape
from appliance.wire import AsyncReceiver, Sender, Wiring
from appliance.words import Bank, PlcInput

if TYPE_CHECKING:
    from appliance.scoring import Scorer

_TICK_S = 0.05
_STOP_S = 1.0
_READ_AGAIN_S = 3.0
_LAG_WARNING_MS = 20.0


def software_version() -> str:
    """The installed distribution's version."""
    return importlib.metadata.version("inspectd")


def main(service: Service, config: Config, name: str) -> None:
    """Serve until told to stop. Raises ConfigError."""
    asyncio.run(_Decide(service, config).serve())


def product_at_start(where: Path, text: str | None, products: Mapping[int, str]) -> int:
    """The product that was in force, by what `last_recipe` says: "ID/VERSION", and its number in a
    second line (older files have none). The first product where there is no file (None).

    A recipe that nobody knows any more is no reason to judge parts by another product's: raises
    RecipeError.
    """
    if text is None:
        return min(products, default=0)
    name, _, rest = text.partition("\n")
    number = int(rest) if rest.strip().isdecimal() else 0
    if number in products:
        return number
    for known, recipe in products.items():
        if recipe == name.strip():
            return known
    expected = ", ".join(f"{known} {recipe}" for known, recipe in sorted(products.items()))
    raise RecipeError(where, f"a product to go on with ({expected})", repr(text.strip()))


class _Decide:
    """Sockets and tasks around one `Line`."""

    def __init__(self, service: Service, config: Config) -> None:
        self._service, self._config, self._log = service, config, service.log
        self._products = load_products(config)
        self._last_recipe = config.state_dir / "last_recipe"
        self._rings = RingReader(config.rings_dir)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="score")
        self._scorers: dict[str, Scorer] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._io: IoPort | None = None
        self._lag_ms = 0.0
        self._largest_lag_ms = 0.0
        self._shown: tuple[object, ...] = ()
        self._notes: tuple[str, ...] = ()
        self._sending: set[asyncio.Future[None]] = set()

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
                self._thread.shutdown(wait=False, cancel_futures=True)
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
        peers = (*(camera_label(camera) for camera in cameras), *config.workers)
        prepare = {label: wiring.sender("prepare", label) for label in peers}
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
                load_recipe=self._load_by_number,
                load_recipe_by_hash=self._load_by_hash,
                reload_products=self._reload_products,
                setup=lambda label, message: prepare[label].send(message),
            ),
            software_version(),
            clock(),
            self._tape,
        )
        port = ModbusPort(config.plc, bank, self._plc_wrote, clock, self._line.handshake.shown)
        if config.io is not None:
            lines = open_lines(config.io, config.runtime_dir)
            self._io = IoPort(config.io, lines, bank, self._pins_changed, clock)
            port.is_read_only = self._io.is_master
            self._io.start()
        await port.start()
        receivers: list[tuple[AsyncReceiver, Callable[[AnyMessage], None]]] = [
            (wiring.async_receiver("seen"), self._seen),
            (wiring.async_receiver("scored"), self._scored),
            (wiring.async_receiver("stored"), self._stored),
            (wiring.async_receiver("health", *peers, "record"), self._heard),
        ]
        tasks = [asyncio.ensure_future(_forever(*receiver)) for receiver in receivers]
        tasks.append(asyncio.ensure_future(self._commands(wiring.async_receiver("command"))))
        tasks.append(asyncio.ensure_future(self._ticks(health, port)))
        self._service.ready()
        self._log.info(
            "serving", epoch=journal.epoch, plc=f"{config.plc.host}:{port.port}",
            trigger=config.trigger, results=config.results, deadline_ms=config.deadline_ms,
        )  # fmt: skip
        self._load_last()
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

    # ---- messages --------------------------------------------------------------------------

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
                    self._score(sight)
            case NoFrame():
                self._line.no_frame(message, now_ns)
            case Prepared() | Refused():
                self._setup_answer(message)
            case _:
                self._log.warning("foreign message on seen", kind=type(message).__name__)
        self._arm()

    def _scored(self, message: AnyMessage) -> None:
        now_ns = self._service.clock()
        match message:
            case Scored():
                sight = self._line.book.scored(message, now_ns)
                if sight is not None:
                    self._score(sight)
            case InferFailed():
                self._line.book.failed(message, now_ns)
            case Prepared() | Refused():
                self._setup_answer(message)
            case _:
                self._log.warning("foreign message on scored", kind=type(message).__name__)
        self._arm()

    def _stored(self, message: AnyMessage) -> None:
        if isinstance(message, Stored):
            self._line.stored(message)

    def _heard(self, message: AnyMessage) -> None:
        if isinstance(message, Health):
            self._line.heard(message, self._service.clock())

    # ---- scoring ---------------------------------------------------------------------------

    def _score(self, sight: Sight) -> None:
        recipe, scored, frame = sight.part.recipe, sight.scored, sight.frame
        scorer = self._scorers.get(recipe.recipe.terms(sight.camera).bundle)
        if scorer is None or scored is None or frame is None:
            detail = "a score without the bundle it belongs to"
            self._line.part_failed(sight, Reason.INTERNAL, detail, self._service.clock())
            return
        loop = asyncio.get_running_loop()
        size = frame.pixels.shape[0], frame.pixels.shape[1]
        future = self._thread.submit(scorer.score, scored, self._rings, recipe, size)
        future.add_done_callback(lambda done: loop.call_soon_threadsafe(self._judged, sight, done))

    def _judged(self, sight: Sight, done: "Future[Judgement]") -> None:
        now_ns = self._service.clock()
        error = None if done.cancelled() else done.exception()
        if error is None and not done.cancelled():
            self._line.judged(sight, done.result(), now_ns)
        elif isinstance(error, PartError):
            self._line.part_failed(sight, error.reason, error.detail, now_ns)
        else:
            self._line.part_failed(sight, Reason.INTERNAL, f"scoring: {error}", now_ns)
            self._log.error("scoring failed", error=str(error), part_id=sight.part.part_id)

    # ---- recipes ---------------------------------------------------------------------------

    def _setup_answer(self, message: Prepared | Refused) -> None:
        if isinstance(message, Refused):
            why = f"{message.where}: expected {message.expected}, got {message.got}"
            refusal = self._said(message.process, why)
            if refusal not in self._notes:
                self._log.error("refused", process=message.process, why=refusal)
            self._notes = (refusal,)
            self._line.setups.refused(message)
        else:
            self._line.setups.prepared(message)
            self._notes = ()
        self._line.tick(self._service.clock())

    def _load_last(self) -> None:
        """The recipe of the product that was in force before the last stop."""
        try:
            text = self._last_recipe.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            text = None
        except OSError as error:
            self._loaded_at_start(CommandError.REFUSED_ARTEFACT, str(error))
            return
        try:
            number = product_at_start(self._last_recipe, text, self._products)
        except RecipeError as error:
            self._loaded_at_start(CommandError.UNKNOWN_PRODUCT, str(error))
        else:
            self._load_by_number(number, self._loaded_at_start)

    def _loaded_at_start(self, code: CommandError, detail: str) -> None:
        if code != CommandError.DONE:
            if detail not in self._notes:
                self._log.error("no recipe", why=detail)
            self._notes = (detail,)
            # A person may have mended the file.
            asyncio.get_running_loop().call_later(_READ_AGAIN_S, self._load_again)

    def _load_again(self) -> None:
        if self._line.setups.current is None:
            self._load_last()

    def _load_by_number(
        self, number: int, done: Callable[[CommandError, str], None], *, is_reload: bool = False
    ) -> None:
        name = self._products.get(number)
        if name is None:
            known = ", ".join(str(n) for n in sorted(self._products))
            detail = f"product: expected one of {known}, got {number}"
            done(CommandError.UNKNOWN_PRODUCT, detail)
            return
        task = asyncio.get_running_loop().run_in_executor(None, self._read_recipe, name)
        task.add_done_callback(lambda read: self._recipe_read(number, read, done, is_reload))

    def _load_by_hash(self, wanted: int, done: Callable[[CommandError, str], None]) -> None:
        task = asyncio.get_running_loop().run_in_executor(None, self._number_of_hash, wanted)

        def found(read: "asyncio.Future[int]") -> None:
            if read.result():
                self._load_by_number(read.result(), done)
            else:
                detail = f"no product's recipe has a hash that begins with {wanted:08x}"
                done(CommandError.UNKNOWN_PRODUCT, detail)

        task.add_done_callback(found)

    def _number_of_hash(self, wanted: int) -> int:
        """The product whose recipe has this hash; 0 where none has."""
        for number, name in self._products.items():
            with suppress(ArtefactError):
                if load_recipe(self._config, name).hash32 == wanted:
                    return number
        return 0

    def _read_recipe(self, name: str) -> "tuple[LoadedRecipe, dict[str, Scorer]]":
        """In a thread: every hash of its bundles is checked, which takes a while."""
        # XGBoost alone takes a second to import: after a crash the PLC's port comes first.
        from appliance.scoring import Scorer

        loaded = load_recipe(self._config, name)
        scorers: dict[str, Scorer] = {}
        for camera in self._config.cameras:
            bundle, bundle_dir, _, _ = loaded.recipe.terms(camera)
            scorer = scorers.get(bundle) or self._scorers.get(bundle)
            if scorer is None:
                folder = self._config.bundles_dir / bundle_dir
                if folder.parent != self._config.bundles_dir:
                    raise RecipeError(f"{loaded.path}: bundle_dir", "a name", repr(bundle_dir))
                scorer = Scorer(load_bundle(folder, bundle))
            scorer.check(loaded, camera)
            scorers[bundle] = scorer
        return loaded, scorers

    def _recipe_read(
        self,
        number: int,
        read: "asyncio.Future[tuple[LoadedRecipe, dict[str, Scorer]]]",
        done: Callable[[CommandError, str], None],
        is_reload: bool,
    ) -> None:
        error = read.exception()
        if is_reload and number != self._line.recipe_number:
            # A product that was put in force meanwhile stays, and follows the new table itself.
            self._reload_in_force(done)
            return
        if error is not None:
            if not isinstance(error, ArtefactError):
                self._log.error("bug while a recipe was read", exc_info=error)
            if str(error) not in self._notes:
                self._log.error("recipe refused", why=str(error))
            self._notes = (str(error),)
            done(CommandError.REFUSED_ARTEFACT, str(error))
            return
        loaded, scorers = read.result()
        bundle_id = next(iter(scorers))
        if done == self._loaded_at_start and self._line.setups.current is not None:
            return  # the PLC asked for another one meanwhile, and it is in force
        if loaded.name != self._products.get(number):
            # The table was read anew meanwhile, and names another version.
            self._load_by_number(number, done, is_reload=is_reload)
            return

        def finished(code: CommandError, detail: str) -> None:
            if code == CommandError.DONE:
                self._scorers = scorers
                self._log.info("recipe in force", recipe=loaded.name, hash=loaded.hash[:12])
                data = f"{loaded.name}\n{number}\n".encode()
                task = asyncio.get_running_loop().run_in_executor(
                    None, write_atomically, self._last_recipe, data
                )
                task.add_done_callback(self._remembered)
            else:
                self._notes = (detail,)
                self._log.error("recipe not changed", recipe=loaded.name, why=detail)
            done(code, detail)

        now_ns = self._service.clock()
        if self._line.setups.current is None:
            # At start there is nothing to go back to: what refuses is asked again by itself.
            self._line.adopt(loaded, number, bundle_id)
            finished(CommandError.DONE, "")
        else:
            self._line.change_recipe(loaded, number, bundle_id, now_ns, finished)

    def _remembered(self, written: "asyncio.Future[None]") -> None:
        error = written.exception()
        if error is not None:
            self._log.error("recipe will not be remembered over a restart", why=str(error))

    # ---- commands of people and slow buses -------------------------------------------------

    async def _commands(self, receiver: AsyncReceiver) -> None:
        while True:
            route, message = await receiver.receive()
            if not isinstance(message, Command):
                continue
            self._log.info("command", name=message.name, argument=message.argument, by=message.by)
            answer = partial(self._command_done, receiver, route, message.id)
            self._line.asked(message, self._service.clock(), answer)
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

    def _reload_products(self, done: Callable[[CommandError, str], None]) -> None:
        """What products.toml says now; the product in force follows from the next part on."""
        task = asyncio.get_running_loop().run_in_executor(None, load_products, self._config)

        def read(products: "asyncio.Future[dict[int, str]]") -> None:
            error = products.exception()
            if error is None:
                self._products = products.result()
                self._reload_in_force(done)
            elif isinstance(error, ConfigError):
                done(CommandError.REFUSED_ARTEFACT, str(error))
            else:
                raise error

        task.add_done_callback(read)

    def _reload_in_force(self, done: Callable[[CommandError, str], None]) -> None:
        """Limits alone change between two parts; for anything else TriggerReady falls first."""
        number, current = self._line.recipe_number, self._line.setups.current
        name, setup_hash = self._products.get(number, ""), current.setup_hash if current else ""
        task = asyncio.get_running_loop().run_in_executor(None, self._is_of, name, setup_hash)

        def compared(task: "asyncio.Future[bool]") -> None:
            answer = done
            if not task.result():
                answer = self._line.recipe_ordered(done)
                self._line.tick(self._service.clock())
            self._load_by_number(number, answer, is_reload=True)

        task.add_done_callback(compared)

    def _is_of(self, name: str, setup_hash: str) -> bool:
        """In a thread: this recipe has this set-up; one that will be refused changes nothing."""
        try:
            return load_recipe(self._config, name).setup_hash == setup_hash
        except ArtefactError:
            return True

    # ---- time ------------------------------------------------------------------------------

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
                self._line.is_clock_synced = is_clock_synced()
                self._line.spent_budgets = tuple(
                    path.name.removeprefix("spent-")
                    for path in self._config.runtime_dir.glob("spent-*")
                )
            self._service.turn()

    def _said(self, label: str, sentence: str) -> str:
        """With the name of the process that said it, where several cameras may say the same."""
        return f"{label}: {sentence}" if len(self._config.camera) > 1 else sentence

    def _publish(self, health: Sender, port: ModbusPort) -> None:
        line = self._line
        peers = line.setups.peers.values()
        notes = (*self._notes, *(self._said(peer.label, peer.note) for peer in peers if peer.note))
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
        current = line.setups.current
        health.send(
            Health(
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
                gauges={"loop_lag_ms": self._lag_ms, "largest_lag_ms": self._largest_lag_ms},
                note=notes[0] if notes else "",
            )
        )
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
