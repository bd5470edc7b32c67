"""The line as the decision process knows it: parts, handshake, recipe, ledger, one clock.

No socket, no file but the journal: everything that leaves goes through `Outlets`, everything that
enters is a method, and time is an argument. So a random PLC can drive it on virtual time.
"""

from collections.abc import Callable
from dataclasses import dataclass

from appliance.actions import Actions
from appliance.alarms import Alarms
from appliance.association import Association
from appliance.box import INFER_FRESH_NS, Box
from appliance.challenge import Challenge
from appliance.challenge_due import ChallengeDue
from appliance.closing import restart_verdict
from appliance.codes import FaultCode, Reason, Word
from appliance.config import Config, is_simulated
from appliance.handshake import Conditions, Done, Handshake
from appliance.hardware import HardwareTrigger, exposure_end_ns
from appliance.intake import Intake
from appliance.journal import Journal, utc_ns
from appliance.journal_records import Opened
from appliance.ledger import Debtor, Ledger
from appliance.messages import (
    INFER,
    Command,
    FrameReady,
    Health,
    LateResult,
    NoFrame,
    Stored,
    Trigger,
    Verdict,
    camera_label,
)
from appliance.orders import Orders
from appliance.part import Judgement, Part, Sight
from appliance.parts import PartBook
from appliance.product import Product
from appliance.reject_gate import Gate
from appliance.row_delivery import RowDelivery
from appliance.setups import Answer, Send, Setups
from appliance.tally import Tally
from appliance.tape import Tape, TapedBook
from appliance.words import Bank, PlcInput

_MS = 1_000_000
GUARD_NS = 2 * _MS
"""A turn of the loop may take this long: deadlines are called so much earlier."""


@dataclass(frozen=True, slots=True)
class Outlets:
    """Where the line's decisions go."""

    trigger: Callable[[str, Trigger], bool]
    """To the camera of this name; False when it does not take it."""
    verdict: Callable[[Verdict | LateResult], bool]
    """To the recorder; False when it does not take it."""
    live: Callable[[Verdict], object]
    load_recipe: Callable[[int, Answer], None]
    """Product number; the outlet reads the files and calls `Product.change`."""
    load_recipe_by_hash: Callable[[int, Answer], None]
    """First 32 bits of the hash of a recipe that `products.toml` names."""
    reload_products: Callable[[Answer], None]
    setup: Send


class Line:
    """Some cameras that see the same parts, one PLC, one recipe in force."""

    def __init__(
        self,
        config: Config,
        journal: Journal,
        bank: Bank,
        outlets: Outlets,
        software: str,
        now_ns: int,
        tape: Tape | None = None,
        utc_s: Callable[[], int] = lambda: utc_ns() // 1_000_000_000,
    ) -> None:
        """utc_s: the wall clock, which no deadline is compared with; challenge parts fall due."""
        self._journal, self._out = journal, outlets
        self._is_free = config.trigger == "free"
        self._is_continuous = config.trigger != "plc"
        cameras = config.cameras
        self._cameras = {camera_label(name): name for name in cameras}
        self.bank = bank
        self.ledger = Ledger()
        self.tally = Tally(journal.counters)
        self.alarms = Alarms(config.alarms)
        self.gate = Gate(config.plc.gate_timeout_ms, self.tally.add, now_ns)
        due = ChallengeDue(config.challenge, journal.counters)
        self.challenge = Challenge(self.tally.add, self.tally.total, due, utc_s, journal.counters)
        self._workers = config.workers
        self.setups = Setups(config.peers, outlets.setup)
        keeping = (journal, self.ledger, software, self._closed, cameras, is_simulated(config))
        self.book = PartBook(*keeping) if tape is None else TapedBook(*keeping, tape)
        self.conditions = Conditions()
        self.intake = Intake(
            config,
            self.book,
            self.setups,
            self.conditions,
            self.challenge,
            bank,
            self.tally.add,
            outlets.trigger,
        )
        self.handshake = Handshake(
            bank,
            self.conditions,
            self.intake.asked,
            self._ask,
            self._error_cleared,
            self.tally.add,
            mode=config.results,
            is_triggered_by_plc=config.trigger == "plc",
            epoch=journal.epoch,
            heartbeat_timeout_ms=config.plc.heartbeat_timeout_ms,
            acknowledge_timeout_ms=config.plc.acknowledge_timeout_ms,
            deadline_ms=config.deadline_ms,
            told=None if tape is None else tape.plc_told,
        )
        self.hardware: HardwareTrigger | None = None
        if config.trigger == "hardware":
            self.hardware = HardwareTrigger(
                Association(int(config.window_ms * _MS), config.deadline_ms * _MS, cameras),
                self.book,
                self.intake.unasked,
                lambda: self.handshake.is_trigger_ready,
                self.tally.add,
                outlets.verdict,
                self.handshake.tagged,
            )
        self._beats = 0
        is_journal_bad = journal.lost > 0
        self._end_what_was_open(software)
        self._rows = RowDelivery(journal, self.ledger, outlets.verdict, now_ns)
        self.box = Box(
            config,
            now_ns,
            journal=journal,
            conditions=self.conditions,
            handshake=self.handshake,
            setups=self.setups,
            book=self.book,
            ledger=self.ledger,
            rows=self._rows,
            gate=self.gate,
            challenge=self.challenge,
            alarms=self.alarms,
            hardware=self.hardware,
            is_journal_bad=is_journal_bad,
        )
        self.product = Product(
            bank,
            self.handshake,
            self.box,
            self.setups,
            self.alarms,
            cameras[0],
            journal.counters,
            self._keep_counters,
        )
        actions = Actions(
            bank=bank,
            handshake=self.handshake,
            box=self.box,
            intake=self.intake,
            setups=self.setups,
            product=self.product,
            challenge=self.challenge,
            tally=self.tally,
            alarms=self.alarms,
            hardware=self.hardware,
            is_continuous=self._is_continuous,
            load_recipe=outlets.load_recipe,
            load_recipe_by_hash=outlets.load_recipe_by_hash,
            reload_products=outlets.reload_products,
            keep_counters=self._keep_counters,
        )
        self.orders = Orders(actions)

    def _end_what_was_open(self, software: str) -> None:
        """Parts of an earlier life: counted, and those that were open are ERROR."""
        for record in self._journal.uncounted:
            if isinstance(record, Opened):
                self.tally.add("triggers")
            else:
                self.tally.verdict(record.verdict)
        for opened in list(self._journal.open_parts.values()):
            verdict = restart_verdict(opened, self._journal.epoch, software)
            self._journal.closed(verdict)
            self.tally.verdict(verdict)

    def plc_wrote(self, plc: PlcInput, received_ns: int) -> None:
        """An accepted write of the PLC; before its request is answered."""
        self.intake.plc = plc
        self.gate.wrote(plc, received_ns)
        self.handshake.on_write(plc, received_ns)
        if self.hardware is not None:
            self.hardware.wrote(plc, received_ns)
            self.box.follow_hardware(received_ns)

    def _ask(self, command: int, argument: int, now_ns: int, done: Done) -> None:
        """A command of the PLC."""
        self.orders.by_code(command, argument, now_ns, lambda code, _: done(code))

    def asked(self, command: Command, now_ns: int, answer: Answer) -> None:
        """A command of a person or of a slow bus."""
        self.orders.by_name(command, now_ns, answer)
        self.handshake.refresh(now_ns)

    def _error_cleared(self, known: FaultCode) -> None:
        """known: the latched fault that was acknowledged; what else is wrong shows next."""
        if known == FaultCode.LEDGER:
            self.box.ledger_cleared = self.ledger.unaccounted
        self.gate.clear(is_reject_known=known == FaultCode.REJECT_NOT_CONFIRMED)
        if self.conditions.fault == known:
            self.conditions.fault = FaultCode.NONE

    def frame(self, message: FrameReady, now_ns: int) -> Sight | None:
        """A frame was seen. Returns the view to score when its score was there first."""
        if message.part_id:
            sight = self.book.frame(message, now_ns)
            if not self.book.holds(message):
                return None
            part = self.book.part(message.part_id)
            if part is not None:
                self.intake.check_shot(part.sights[message.camera], message, now_ns)
        elif self._is_continuous and self.book.is_double(message):
            return None
        elif self.hardware is not None:
            sight = self.hardware.frame(message, now_ns)
            self.box.follow_hardware(now_ns)
            if self.book.is_ignored(message):
                return None
            part = self.book.shown(message)
        elif self._is_free and self.handshake.is_trigger_ready:
            part = self.intake.unasked(exposure_end_ns(message, now_ns))
            sight = self.book.opened_by_frame(message, part, now_ns)
        else:
            self.book.ignore(message, now_ns)
            if self._is_free:
                self.tally.add("missed_triggers")
            return None
        self.tally.add("frames_ok")
        # A late picture of an older part says nothing of the one that lies before the camera now.
        if part is not None and part.is_exposed and part.part_id == self.intake.newest_part_id:
            self.handshake.exposure_complete()
        self.handshake.refresh(now_ns)
        return sight

    def no_frame(self, message: NoFrame, now_ns: int) -> None:
        """A part without a usable picture; in free run the lost picture was a part, too."""
        if message.reason == Reason.INCOMPLETE_IMAGE:
            self.tally.add("frames_incomplete")
        if message.part_id:
            self.book.no_frame(message, now_ns)
        elif self.hardware is not None:
            self.hardware.no_frame(message, now_ns)
            self.box.follow_hardware(now_ns)
        elif self._is_free and self.handshake.is_trigger_ready:
            part = self.intake.unasked(now_ns)
            self.book.close(part.only, Word.ERROR, message.reason, now_ns, message.detail)
        elif self._is_free:
            self.tally.add("missed_triggers")

    def judged(self, sight: Sight, result: Judgement, now_ns: int) -> None:
        """Features and forest are done."""
        late = self.book.judged(sight, result, now_ns)
        if late is not None:
            self._out.verdict(late)

    def part_failed(self, sight: Sight, reason: Reason, detail: str, now_ns: int) -> None:
        """Features or forest could not judge this view."""
        self.book.close(sight, Word.ERROR, reason, now_ns, detail)

    def _closed(self, part: Part, verdict: Verdict) -> None:
        self.tally.verdict(verdict)
        self.alarms.verdict(verdict)
        now_ns = part.zero_ns + verdict.latency_ns
        self.gate.verdict(verdict, now_ns, part.is_paired or part.is_tag_known)
        if self.challenge.verdict(verdict):
            self._keep_counters()  # the lock outlives a crash
            self.box.follow(now_ns)  # no part may be triggered on the verdict that locks
        self.conditions.open_parts = len(self.book)
        self.handshake.deliver(verdict, now_ns, part.part_id == self.intake.newest_part_id)
        self._show_counters()
        self._out.live(verdict)
        self._rows.send(verdict, now_ns)

    def stored(self, message: Stored) -> None:
        """Rows are committed."""
        self._rows.stored(message)

    def heard(self, health: Health, now_ns: int) -> None:
        """A sign of life."""
        is_new = self.setups.heard(health, now_ns)
        camera = self._cameras.get(health.process)
        if camera is not None:
            if is_new:
                self.book.camera_restarted(camera)
                if self.hardware is not None:
                    self.hardware.lose("the camera process was started anew", now_ns)
            self.ledger.seen_alive(health.process, health.start)
            of = camera if len(self._cameras) > 1 else ""
            for name in ("frames_lost", "orphans"):
                self.tally.follow(name, health.start, health.counters.get(name, 0), of)
        elif health.process in self._workers:
            # Which of them has a frame is not known here: a new one forgives what all of them owe.
            lives = tuple(self.setups.peers[label].start for label in self._workers)
            self.ledger.seen_alive(INFER, hash(lives))
            self.box.heard_of_heat(health)
        elif health.process == "record":
            self._rows.heard(health, now_ns)
            for name in ("archived", "archive_dropped"):
                self.tally.follow(name, health.start, health.counters.get(name, 0))

    def expire(self, now_ns: int) -> None:
        """Close what reaches its deadline within the guard."""
        if self.hardware is not None:
            self.hardware.expire(now_ns + GUARD_NS)
        self.book.expire(now_ns, GUARD_NS)

    def next_deadline_ns(self) -> int | None:
        """When `expire` must be called next."""
        deadlines = self.book.deadlines_ns
        return min(deadlines) - GUARD_NS if deadlines else None

    def tick(self, now_ns: int) -> None:
        """Every 50 ms: what changes by time alone."""
        self.box.turned(now_ns)
        self.expire(now_ns)
        self.setups.tick(now_ns, len(self.book))
        if self._rows.is_recording(now_ns):
            self._rows.send_again(now_ns)
        self.box.follow(now_ns)
        self.handshake.refresh(now_ns)

    def beat(self, now_ns: int) -> None:
        """Every 100 ms: the heartbeat that only the decision loop gives."""
        self._beats += 1
        self.handshake.beat(self._beats)
        self._show_counters()

    def check_ledger(self, now_ns: int) -> None:
        """Every second: the conservation law, rows that are given up, counters into the journal."""
        # What was owed is given its time again where nobody could read that it came.
        is_known = not self.box.is_stalled(now_ns)
        is_recording = is_known and self._rows.is_recording(now_ns)
        self._rows.drop()
        # What prepares a set-up may say so all the time, and answers when it is done.
        alive: list[Debtor] = [
            peer.label
            for peer in self.setups.peers.values()
            if is_known
            and peer.is_fresh(now_ns, max(INFER_FRESH_NS, peer.hang_limit_ns))
            and self.setups.uses_current(peer.label)
            and not self.setups.is_changing
        ]
        if all(label in alive for label in self._workers):
            alive.append(INFER)
        # Rows that wait for a slow disk are late, not missing: their Warning is another one.
        is_prompt = is_recording and not self._rows.archive.is_slow
        self.ledger.check(now_ns, self.book.deadlines_ns, is_prompt, alive)
        self._keep_counters()
        self._journal.reserve_ahead()
        self._journal.make_room()

    def stop(self, now_ns: int) -> None:
        """Orderly end: nothing stays open."""
        self.box.is_ended = True
        self.box.follow(now_ns)
        self.book.close_all(Reason.RESTART, "the decision process was stopped", now_ns)
        self.box.follow(now_ns)
        self.handshake.refresh(now_ns)
        self._keep_counters()

    def _keep_counters(self) -> None:
        kept = (self.tally, self.challenge, self.product)
        self._journal.count({k: n for each in kept for k, n in each.persistent.items()})

    def sync(self) -> None:
        """What was kept is on the disk, however long that takes: in a thread of the caller's."""
        self._journal.sync()

    def _show_counters(self) -> None:
        self.handshake.show_counters(self.tally.shift | {"unaccounted": self.ledger.unaccounted})

    @property
    def counters(self) -> dict[str, int]:
        """For pages and metrics."""
        return self.tally.shift | {
            "orphans": self.book.orphans + self.tally.shift["orphans"],
            "journal_lost": self._journal.lost,
            "rows_dropped": self._journal.unstored_dropped,
        }
