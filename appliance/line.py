"""The line as the decision process knows it: parts, handshake, recipe, ledger, one clock.

No socket, no file but the journal: everything that leaves goes through `Outlets`, everything that
enters is a method, and time is an argument. So a random PLC can drive it on virtual time.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from appliance.alarms import Alarms
from appliance.association import Association
from appliance.challenge import Challenge
from appliance.challenge_due import ChallengeDue
from appliance.closing import restart_verdict
from appliance.codes import (
    CommandError,
    FaultCode,
    Reason,
    Status2,
    Word,
)
from appliance.config import Config, is_simulated
from appliance.gate import Gate
from appliance.handshake import Conditions, Done, Handshake
from appliance.hardware import HardwareTrigger, exposure_end_ns
from appliance.journal import Journal, Opened, utc_ns
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
from appliance.orders import Actions, Answer, Orders
from appliance.part import Judgement, Part, Sight
from appliance.parts import PartBook
from appliance.readiness import JUDGING, Facts, bits_of, fault_of, offline_of
from appliance.recipe import LoadedRecipe
from appliance.row_delivery import RowDelivery
from appliance.setups import Send, Setups
from appliance.states import Event, next_state
from appliance.tally import Tally
from appliance.tape import Tape, TapedBook
from appliance.words import Bank, PlcInput, decode_input

_MS = 1_000_000
GUARD_NS = 2 * _MS
"""A turn of the loop may take this long: deadlines are called so much earlier."""
_CAMERA_FRESH_NS = 300 * _MS
_INFER_FRESH_NS = 500 * _MS
_STARTING_NS = 10_000 * _MS
_STALL_NS = 250 * _MS
"""The loop without a turn for so long: signs of life that are missing may lie unread."""
_STALL_SHOWN_NS = 500 * _MS
"""How long turns must come in time again before that fault ends."""


@dataclass(frozen=True, slots=True)
class Outlets:
    """Where the line's decisions go."""

    trigger: Callable[[str, Trigger], bool]
    """To the camera of this name; False when it does not take it."""
    verdict: Callable[[Verdict | LateResult], bool]
    """To the recorder; False when it does not take it."""
    live: Callable[[Verdict], object]
    load_recipe: Callable[[int, Answer], None]
    """Product number; the outlet reads the files and calls `Line.change_recipe`."""
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
        self._config, self._journal, self._out = config, journal, outlets
        self._started_ns = now_ns
        self._deadline_ns = config.deadline_ms * _MS
        self._is_free = config.trigger == "free"
        self._is_continuous = config.trigger != "plc"
        cameras = config.cameras
        self._cameras = {camera_label(name): name for name in cameras}
        self._is_simulated = is_simulated(config)
        self.bank = bank
        self.ledger = Ledger()
        self.tally = Tally(journal.counters)
        self.alarms = Alarms(config.alarms)
        self.gate = Gate(config.plc.gate_timeout_ms, self.tally.add)
        due = ChallengeDue(config.challenge, journal.counters)
        self.challenge = Challenge(self.tally.add, self.tally.total, due, utc_s, journal.counters)
        self._workers = config.workers
        self.setups = Setups((*self._cameras, *self._workers), outlets.setup)
        keeping = (journal, self.ledger, software, self._closed, cameras, self._is_simulated)
        self.book = PartBook(*keeping) if tape is None else TapedBook(*keeping, tape)
        self.conditions = Conditions()
        self.handshake = Handshake(
            bank,
            self.conditions,
            self._accept,
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
                Association(int(config.window_ms * _MS), self._deadline_ns, cameras),
                self.book,
                self._open_unasked,
                lambda: self.handshake.is_trigger_ready,
                self.tally.add,
                outlets.verdict,
            )
        self.orders = Orders(self._actions())
        self.bundle_id = ""
        self.recipe_number = 0
        self._newest_part_id = 0
        self._to_keep = 0
        """Parts whose picture will still be kept by SaveNextN."""
        self.spent_budgets: tuple[str, ...] = ()
        """Processes whose restart budget is spent, as the supervisor says."""
        self.is_clock_synced = False
        """As the kernel says; a label for people, deadlines are monotonic."""
        self.throttled = ""
        """What slows this box down, as its kernel says; "" = nothing."""
        self.warnings: tuple[str, ...] = ()
        """What else of this box a person should see to, in words."""
        self.heat_lost = ""
        """What said before whether this box is slowed down, and cannot be read any more."""
        self._hot_workers: set[str] = set()
        """Workers whose GPU is slowed down."""
        self._blind_workers: set[str] = set()
        """Workers whose GPU does not say whether it is."""
        self._plc: PlcInput | None = None
        self._beats = 0
        self._was_ready = False
        self._no_image_until_ns: int | None = None
        self._is_stopped = False
        self._is_ended = False
        self._was_lost = True
        """The association of a hardware trigger, when `_follow` last looked."""
        self._is_halted = False
        self._ticked_ns = now_ns
        self._stalled_until_ns = now_ns
        self._ledger_cleared = 0
        self._is_journal_bad_at_start = journal.lost > 0
        for record in journal.uncounted:
            if isinstance(record, Opened):
                self.tally.add("triggers")
            else:
                self.tally.verdict(record.verdict)
        for opened in list(journal.open_parts.values()):
            verdict = restart_verdict(opened, journal.epoch, software)
            journal.closed(verdict)
            self.tally.verdict(verdict)
        self._rows = RowDelivery(journal, self.ledger, outlets.verdict, now_ns)

    # ---- PLC -------------------------------------------------------------------------------

    def plc_wrote(self, plc: PlcInput, received_ns: int) -> None:
        """An accepted write of the PLC; before its request is answered."""
        self._plc = plc
        self.gate.wrote(plc)
        self.handshake.on_write(plc, received_ns)
        if self.hardware is not None:
            self.hardware.wrote(plc, received_ns)
            self._follow_hardware(received_ns)

    def _follow_hardware(self, now_ns: int) -> None:
        """TriggerReady in the same turn as what changed it."""
        if self.hardware is not None and self.hardware.is_lost != self._was_lost:
            self._was_lost = self.hardware.is_lost
            self._follow(now_ns)
        self.handshake.refresh(now_ns)

    def _accept(self, plc: PlcInput, received_ns: int) -> int:
        recipe = self.setups.current
        if recipe is None:
            raise RuntimeError("TriggerReady without a recipe")
        deadline = self._allowed_ns(plc)
        is_challenge, expected = self.challenge.terms(plc)
        part = self.book.open(
            received_ns,
            received_ns + deadline,
            recipe,
            part_tag=plc.part_tag,
            part_text=plc.part_text,
            lot=plc.lot,
            is_challenge=is_challenge,
            expected=expected,
        )
        self._began(part)
        self._move(Event.TRIGGERED)
        self._move(Event.RESOURCES_FREE)
        self.conditions.open_parts = len(self.book)
        trigger = Trigger(part_id=part.part_id, part_tag=part.part_tag)
        for camera, sight in part.sights.items():
            self.book.asked_camera(sight)
            if not self._out.trigger(camera, trigger):
                self.book.trigger_refused(sight, received_ns)
        return part.acq_id

    def _ask(self, command: int, argument: int, now_ns: int, done: Done) -> None:
        """A command of the PLC."""
        self.orders.by_code(command, argument, now_ns, lambda code, _: done(code))

    def asked(self, command: Command, now_ns: int, answer: Answer) -> None:
        """A command of a person or of a slow bus."""
        self.orders.by_name(command, now_ns, answer)
        self.handshake.refresh(now_ns)

    def _actions(self) -> Actions:
        return Actions(
            load_recipe=lambda number, answer: self._out.load_recipe(
                number, self.recipe_ordered(answer)
            ),
            load_recipe_by_hash=lambda wanted, answer: self._out.load_recipe_by_hash(
                wanted, self.recipe_ordered(answer)
            ),
            reset_counters=self._reset_counters,
            clear_overrun=self.handshake.clear_overrun,
            clear_error=self.handshake.clear_error,
            reload_products=self._out.reload_products,
            resync=self._resync,
            set_running=self._set_running,
            start_job=self._start_job,
            start_challenge=self._start_challenge,
            end_challenge=self.challenge.end,
            unlock_challenge=partial(self._answered, self.challenge.answer),
            pass_challenge=partial(self._answered, self.challenge.passed),
            fail_challenge=partial(self._answered, self.challenge.failed),
            drift=self._drifted,
            save_next=self._save_next,
            halt=self._halt,
            reset=self._reset,
            owner_changed=self._owner_changed,
        )

    def _reset_counters(self) -> None:
        self.tally.reset_shift()
        self.alarms.restart()

    def _set_running(self, is_running: bool, now_ns: int) -> CommandError:
        if not self._is_continuous:
            return CommandError.WRONG_STATE
        self._is_stopped = not is_running
        self._follow(now_ns)
        return CommandError.DONE

    def _resync(self, now_ns: int) -> CommandError:
        # Only hardware triggers can lose their association; nothing to do is done.
        if self.hardware is not None and self._plc is not None:
            self.hardware.resync(self._plc.trigger_count, now_ns)
            self._follow_hardware(now_ns)
        return CommandError.DONE

    def _start_job(self, part_tag: int, now_ns: int) -> int:
        plc = replace(decode_input(self.bank), part_tag=part_tag, part_text="", deadline_ms=0)
        return self._newest_part_id if self.handshake.start_job(plc, now_ns) else 0

    def _start_challenge(self) -> CommandError:
        # Only a Trigger says what must come out: without that nothing would be compared.
        return CommandError.WRONG_STATE if self._is_continuous else self.challenge.start()

    def _save_next(self, count: int) -> None:
        self._to_keep = count

    def _began(self, part: Part) -> None:
        """Whatever opened it."""
        part.is_kept = self._to_keep > 0
        self._to_keep -= part.is_kept
        self._newest_part_id = part.part_id
        self.tally.add("triggers")

    def _answered(self, said: Callable[[], None], now_ns: int) -> None:
        """A person has judged a test with challenge parts."""
        said()
        self._keep_counters()
        self._follow(now_ns)

    def _drifted(self, level: int) -> None:
        self.challenge.drifted(level)
        self._keep_counters()

    def _halt(self, now_ns: int) -> None:
        self._is_halted = True
        self._follow(now_ns)

    def _reset(self, now_ns: int) -> None:
        self._is_halted = False
        self._move(Event.RESET)
        self.handshake.clear_error(now_ns)
        self._follow(now_ns)

    def _owner_changed(self, now_ns: int) -> None:
        self.conditions.is_maintenance = bool(self.orders.owner)
        if not self.conditions.is_maintenance:
            # What happened meanwhile nobody watched: camera and infer confirm what they hold.
            self.setups.confirm(now_ns)
        self._follow(now_ns)

    def _error_cleared(self, known: FaultCode) -> None:
        """known: the latched fault that was acknowledged; what else is wrong shows next."""
        if known == FaultCode.LEDGER:
            self._ledger_cleared = self.ledger.unaccounted
        self.gate.clear(is_reject_known=known == FaultCode.REJECT_NOT_CONFIRMED)
        if self.conditions.fault == known:
            self.conditions.fault = FaultCode.NONE

    # ---- camera and infer ------------------------------------------------------------------

    def frame(self, message: FrameReady, now_ns: int) -> Sight | None:
        """A frame was seen. Returns the view to score when its score was there first."""
        is_exposed = True
        if message.part_id:
            sight = self.book.frame(message, now_ns)
            if not self.book.holds(message):
                return None
            part = self.book.part(message.part_id)
            is_exposed = part is not None and part.is_exposed
        elif self._is_continuous and self.book.is_double(message):
            return None
        elif self.hardware is not None:
            sight = self.hardware.frame(message, now_ns)
            self._follow_hardware(now_ns)
            if self.book.is_ignored(message):
                return None
            part = self.book.shown(message)
            is_exposed = part is not None and part.is_exposed
        elif self._is_free and self.handshake.is_trigger_ready:
            sight = self._open_by_frame(message, now_ns)
        else:
            self.book.ignore(message, now_ns)
            if self._is_free:
                self.tally.add("missed_triggers")
            return None
        self.tally.add("frames_ok")
        if is_exposed:
            self.handshake.exposure_complete()
        self.handshake.refresh(now_ns)
        return sight

    def _open_by_frame(self, message: FrameReady, now_ns: int) -> Sight | None:
        zero_ns = exposure_end_ns(message, now_ns)
        return self.book.opened_by_frame(message, self._open_unasked(zero_ns), now_ns)

    def _open_unasked(self, zero_ns: int, plc: PlcInput | None = None, tag: int = 0) -> Part:
        """A part that comes by itself; with the PLC's words where these brought it."""
        recipe = self.setups.current
        if recipe is None:
            raise RuntimeError("TriggerReady without a recipe")
        part = self.book.open(
            zero_ns,
            zero_ns + self._allowed_ns(plc or self._plc),
            recipe,
            part_tag=tag,
            part_text=plc.part_text if plc else "",
            lot=plc.lot if plc else "",
            is_paired=self.hardware is None,
        )
        part.is_tag_known = tag != 0
        self._began(part)
        self.bank.set("AcqID", part.acq_id)
        self.conditions.open_parts = len(self.book)
        return part

    def _allowed_ns(self, plc: PlcInput | None) -> int:
        """The configured deadline, or the shorter one that the PLC asks for."""
        wanted_ns = plc.deadline_ms * _MS if plc else 0
        return wanted_ns if 0 < wanted_ns <= self._deadline_ns else self._deadline_ns

    def no_frame(self, message: NoFrame, now_ns: int) -> None:
        """A part without a usable picture; in free run the lost picture was a part, too."""
        if message.reason == Reason.INCOMPLETE_IMAGE:
            self.tally.add("frames_incomplete")
        if message.part_id:
            self.book.no_frame(message, now_ns)
        elif self.hardware is not None:
            self.hardware.no_frame(message, now_ns)
            self._follow_hardware(now_ns)
        elif self._is_free and self.handshake.is_trigger_ready:
            part = self._open_unasked(now_ns)
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
            self._follow(now_ns)  # no part may be triggered on the verdict that locks
        self.conditions.open_parts = len(self.book)
        self.handshake.deliver(verdict, now_ns)
        self._show_counters()
        self._out.live(verdict)
        self._rows.send(verdict, now_ns)

    # ---- recorder --------------------------------------------------------------------------

    def stored(self, message: Stored) -> None:
        """Rows are committed."""
        self._rows.stored(message)

    # ---- recipe ----------------------------------------------------------------------------

    def recipe_ordered(self, answer: Answer) -> Answer:
        """TriggerReady is 0 until the returned answer is given, while files are read, too: the next
        part is another product's already."""
        self.conditions.recipe_orders += 1

        def answered(code: CommandError, detail: str) -> None:
            self.conditions.recipe_orders -= 1
            answer(code, detail)

        return answered

    def change_recipe(
        self,
        target: LoadedRecipe,
        number: int,
        bundle_id: str,
        now_ns: int,
        done: Callable[[CommandError, str], None],
    ) -> None:
        """Begin the change to a recipe whose files were read and checked."""

        def finished(code: CommandError, detail: str) -> None:
            if code == CommandError.DONE:
                self.bundle_id, self.recipe_number = bundle_id, number
                self._show_recipe()
                self.alarms.restart()
            done(code, detail)

        self.setups.begin(target, now_ns, finished)
        self._follow(now_ns)
        self.handshake.refresh(now_ns)

    def adopt(self, target: LoadedRecipe, number: int, bundle_id: str) -> None:
        """The first recipe after a start: camera and infer are asked for it until they take it."""
        self.setups.current = target
        self.bundle_id, self.recipe_number = bundle_id, number
        self._show_recipe()

    def _show_recipe(self) -> None:
        current = self.setups.current
        if current is not None:
            self.bank.set("RecipeId", self.recipe_number)
            self.bank.set("RecipeHash32", current.hash32)
            self.bank.set("ModelId", int(self.bundle_id[:4] or "0", 16))

    # ---- health ----------------------------------------------------------------------------

    def heard(self, health: Health, now_ns: int) -> None:
        """A sign of life."""
        is_new = self.setups.heard(health, now_ns)
        camera = self._cameras.get(health.process)
        if camera is not None:
            if is_new:
                self.book.camera_restarted(camera)
                if self.hardware is not None:
                    self.hardware.lose("the camera process was started anew", now_ns)
            self.ledger.seen_alive(health.process, health.pid)
            of = camera if len(self._cameras) > 1 else ""
            for name in ("frames_lost", "orphans"):
                self.tally.follow(name, health.pid, health.counters.get(name, 0), of)
        elif health.process in self._workers:
            # Which of them has a frame is not known here: a new one forgives what all of them owe.
            lives = tuple(self.setups.peers[label].pid for label in self._workers)
            self.ledger.seen_alive(INFER, hash(lives))
            for gauge, workers in (
                ("gpu_throttled", self._hot_workers),
                ("gpu_heat_unknown", self._blind_workers),
            ):
                is_so = health.gauges.get(gauge, 0.0) > 0
                (workers.add if is_so else workers.discard)(health.process)
        elif health.process == "record":
            self._rows.heard(health, now_ns)
            for name in ("archived", "archive_dropped"):
                self.tally.follow(name, health.pid, health.counters.get(name, 0))

    # ---- time ------------------------------------------------------------------------------

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
        if self._was_ready and now_ns - self._ticked_ns >= _STALL_NS:
            self._stalled_until_ns = now_ns + _STALL_SHOWN_NS
        self._ticked_ns = now_ns
        self.expire(now_ns)
        self.setups.tick(now_ns, len(self.book))
        self._follow(now_ns)
        self.handshake.refresh(now_ns)

    def beat(self, now_ns: int) -> None:
        """Every 100 ms: the heartbeat that only the decision loop gives."""
        self._beats += 1
        self.handshake.beat(self._beats)
        self._show_counters()

    def check_ledger(self, now_ns: int) -> None:
        """Every second: the conservation law, rows that wait, counters into the journal."""
        is_recording = self._rows.is_recording(now_ns)
        self._rows.drop()
        alive: list[Debtor] = [
            peer.label
            for peer in self.setups.peers.values()
            if peer.is_fresh(now_ns, max(_INFER_FRESH_NS, peer.hang_limit_ns))
        ]
        if all(label in alive for label in self._workers):
            alive.append(INFER)
        self.ledger.check(now_ns, self.book.deadlines_ns, is_recording, alive)
        if is_recording:
            self._rows.send_again(now_ns)
        self._keep_counters()
        self._journal.reserve_ahead()
        if not len(self.book):
            self._journal.make_room()

    def stop(self, now_ns: int) -> None:
        """Orderly end: nothing stays open."""
        self._is_ended = True
        self._follow(now_ns)
        self.book.close_all(Reason.RESTART, "the decision process was stopped", now_ns)
        self._follow(now_ns)
        self.handshake.refresh(now_ns)
        self._keep_counters()

    # ---- conditions ------------------------------------------------------------------------

    def _is_usable(self, label: str, now_ns: int, limit_ns: int) -> bool:
        peer = self.setups.peers[label]
        return peer.is_fresh(now_ns, limit_ns) and peer.is_serving

    def _is_lossy(self, now_ns: int) -> bool:
        """Rows or pictures are not kept now, or were not a moment ago."""
        return self._rows.archive.is_lossy or not self._rows.is_recording(now_ns)

    def _follow(self, now_ns: int) -> None:
        """Derive state, offline reason, fault and bits from what is known now."""
        conditions, setups, challenge = self.conditions, self.setups, self.challenge
        facts = self._facts(now_ns)
        conditions.fault = fault_of(facts)
        challenge.follow(setups.current.hash32 if setups.current else 0, self.handshake.fault)
        is_lost = self.hardware is not None and self.hardware.is_lost
        conditions.offline = offline_of(facts, challenge.is_locked, is_lost)

        self._move(Event.HALT if self._is_halted else Event.SELF_TEST_OK)
        self._move(Event.FAULT if self.handshake.fault else Event.RESOLVED)
        if facts.is_usable and not conditions.is_maintenance:
            self._move(Event.RECIPE_PREPARED)
            self._was_ready = True
        else:
            self._move(Event.RECIPE_LOST)
        if self._is_continuous:
            self._move(Event.STOP if self._is_stopped else Event.START_CONTINUOUS)

        is_recorder_ok = self._rows.is_recording(now_ns)
        is_throttled = bool(self.throttled or self._hot_workers)
        alarms = self.alarms.raised
        conditions.status2 = bits_of(
            {
                Status2.DECISION_OK: True,
                Status2.CLOCK_SYNCED: self.is_clock_synced,
                Status2.SIMULATED: self._is_simulated,
                Status2.CAMERA_OK: facts.is_camera_ok,
                Status2.MODEL_OK: facts.is_infer_ok and facts.refusal is None,
                Status2.DISK_LOW: self._rows.archive.is_disk_low,
                Status2.ARCHIVE_LOSSY: self._is_lossy(now_ns) or self._journal.lost > 0,
                Status2.CHALLENGE_DUE: challenge.due_since_s is not None,
                Status2.CHALLENGE_FAILED: challenge.is_failed,
                Status2.DRIFT_WARN: challenge.drift,
                Status2.THROTTLED: is_throttled,
                Status2.REJECT_RATE_ALARM: "rejects" in alarms,
            }
        )
        conditions.is_warning = (
            not is_recorder_ok
            or self._journal.lost > 0
            or self.gate.is_warning
            or is_throttled
            or self._rows.archive.is_slow
            or bool(self.warnings)
            or bool(self.spent_budgets)
            or any(name != "rejects" for name in alarms)
        )
        conditions.open_parts = len(self.book)

    def _facts(self, now_ns: int) -> Facts:
        setups = self.setups
        lost = [
            name
            for label, name in self._cameras.items()
            if not self._is_usable(label, now_ns, _CAMERA_FRESH_NS)
        ]
        is_infer_ok = all(
            self._is_usable(label, now_ns, max(_INFER_FRESH_NS, setups.peers[label].hang_limit_ns))
            for label in self._workers
        )
        is_camera_ok = not lost and self.book.no_image_in_a_row < 2
        for camera in lost:
            # A fresh start of the camera is what ends a row of missing pictures.
            self.book.forgive(camera)
        if not lost and not is_camera_ok and len(self.book) == 0:
            self._probe_camera(now_ns)
        is_current = all(setups.uses_current(label) for label in setups.peers)
        self._ledger_cleared = min(self._ledger_cleared, self.ledger.unaccounted)
        return Facts(
            is_camera_ok=is_camera_ok,
            is_infer_ok=is_infer_ok,
            is_using=is_camera_ok and is_infer_ok and is_current,
            is_changing=setups.is_changing,
            is_ordered=self.conditions.recipe_orders > 0,
            recipe=setups.offline(),
            refusal=setups.refusal,
            was_ready=self._was_ready,
            is_starting=not self._was_ready and now_ns - self._started_ns < _STARTING_NS,
            is_unaccounted=self.ledger.unaccounted > self._ledger_cleared,
            is_journal_bad=self._is_journal_bad_at_start,
            is_reject_missing=self.gate.check(now_ns),
            is_stalled=now_ns < self._stalled_until_ns,
            is_budget_spent=any(p.partition("-")[0] in JUDGING for p in self.spent_budgets),
            is_unkept=self._config.record.stop_when_lossy and self._is_lossy(now_ns),
            is_stopped=self._is_stopped or self._is_halted,
            is_ended=self._is_ended,
        )

    def _probe_camera(self, now_ns: int) -> None:
        """Two parts without a picture in a row: the camera is alive by its own word, so let the
        next part try after one second, or the line would never come back by itself."""
        if self._no_image_until_ns is None:
            self._no_image_until_ns = now_ns + 1000 * _MS
        elif now_ns >= self._no_image_until_ns:
            self._no_image_until_ns = None
            for camera in self._cameras.values():
                self.book.forgive(camera)

    def _move(self, event: Event) -> None:
        self.conditions.state = next_state(self.conditions.state, event)

    def _keep_counters(self) -> None:
        self._journal.count(self.tally.persistent | self.challenge.persistent)

    def _show_counters(self) -> None:
        self.handshake.show_counters(self.tally.shift | {"unaccounted": self.ledger.unaccounted})

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know though parts are judged: alarms at a rate, warnings, heat."""
        hot = self.throttled or ("the GPU is slowed down" if self._hot_workers else "")
        lost = ", ".join(filter(None, (self.heat_lost, "GPU" if self._blind_workers else "")))
        heat = (f"throttled: {hot}" if hot else "", f"heat cannot be read: {lost}" if lost else "")
        spent = (f"{process}: restarted too often" for process in self.spent_budgets)
        return (*self.alarms.notes, *spent, *self.warnings, *filter(None, heat))

    @property
    def counters(self) -> dict[str, int]:
        """For pages and metrics."""
        return self.tally.shift | {
            "orphans": self.book.orphans + self.tally.shift["orphans"],
            "journal_lost": self._journal.lost,
            "rows_dropped": self._journal.unstored_dropped,
        }
