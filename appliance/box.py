"""The box as a whole: whether a part may come, what is wrong, and what people should know.

Enters: what peers, journal, ledger and kernel say. Leaves: state, fault, offline reason and bits in
`Conditions`, which the handshake shows the PLC. What follows from what is in readiness.py.
"""

from appliance.alarms import Alarms
from appliance.challenge import Challenge
from appliance.codes import Status2
from appliance.config import Config, is_simulated
from appliance.handshake import Conditions, Handshake
from appliance.hardware import HardwareTrigger
from appliance.journal import UNSTORED_MAX, Journal
from appliance.ledger import Ledger
from appliance.messages import Health, camera_label
from appliance.parts import PartBook
from appliance.readiness import JUDGING, Facts, bits_of, fault_of, offline_of
from appliance.reject_gate import Gate
from appliance.row_delivery import RowDelivery
from appliance.setups import Setups
from appliance.states import Event

_MS = 1_000_000
_CAMERA_FRESH_NS = 300 * _MS
INFER_FRESH_NS = 500 * _MS
_STARTING_NS = 10_000 * _MS
_STALL_NS = 250 * _MS
"""The loop without a turn for so long: signs of life that are missing may lie unread."""
_STALL_SHOWN_NS = 500 * _MS
"""How long turns must come in time again before that fault ends."""


class Box:
    """What is known of the box at this moment. `follow` after whatever may change it."""

    def __init__(
        self,
        config: Config,
        now_ns: int,
        *,
        journal: Journal,
        conditions: Conditions,
        handshake: Handshake,
        setups: Setups,
        book: PartBook,
        ledger: Ledger,
        rows: RowDelivery,
        gate: Gate,
        challenge: Challenge,
        alarms: Alarms,
        hardware: HardwareTrigger | None,
        is_journal_bad: bool,
    ) -> None:
        """is_journal_bad: it could not be written when this life began."""
        self._config, self._journal, self._conditions = config, journal, conditions
        self._handshake, self._setups, self._book, self._rows = handshake, setups, book, rows
        self._ledger, self._gate, self._challenge = ledger, gate, challenge
        self._alarms, self._hardware = alarms, hardware
        self._cameras = {camera_label(name): name for name in config.cameras}
        self._workers = config.workers
        self._is_continuous = config.trigger != "plc"
        self._is_simulated = is_simulated(config)
        self.spent_budgets: tuple[str, ...] = ()
        """Processes whose restart budget is spent, as the supervisor says."""
        self.is_clock_synced = False
        """As the kernel says; a label for people, deadlines are monotonic."""
        self.throttled = ""
        """What slows this box down, as its kernel says; "" = nothing."""
        self.warnings: tuple[str, ...] = ()
        """What else of this box a person should see to, in words."""
        self.memory_unknown = ""
        """Why nobody knows how much memory is left; "" = it is known."""
        self.heat_lost = ""
        """What said before whether this box is slowed down, and cannot be read any more."""
        self.is_stopped = False
        """By the PLC or a person: no part comes by itself."""
        self.is_halted = False
        self.is_ended = False
        """The process ends."""
        self.ledger_cleared = 0
        """Unaccounted parts that somebody acknowledged."""
        self._hot_workers: set[str] = set()
        """Workers whose GPU is slowed down."""
        self._blind_workers: set[str] = set()
        """Workers whose GPU does not say whether it is."""
        self._started_ns = self._ticked_ns = self._stalled_until_ns = now_ns
        self._was_ready = False
        self._is_recorder_ok = True
        self._no_image_until_ns: int | None = None
        self._was_lost = True
        """The association of a hardware trigger, when `follow_hardware` last looked."""
        self.is_journal_bad = is_journal_bad

    def turned(self, now_ns: int) -> None:
        """The loop had a turn."""
        if self._was_ready and now_ns - self._ticked_ns >= _STALL_NS:
            self._stalled_until_ns = now_ns + _STALL_SHOWN_NS
        self._ticked_ns = now_ns

    def is_stalled(self, now_ns: int) -> bool:
        """The loop stood still a moment ago: what was said meanwhile may lie unread."""
        return now_ns < self._stalled_until_ns

    def heard_of_heat(self, health: Health) -> None:
        """A sign of life of a worker."""
        for gauge, workers in (
            ("gpu_throttled", self._hot_workers),
            ("gpu_heat_unknown", self._blind_workers),
        ):
            is_so = health.gauges.get(gauge, 0.0) > 0
            (workers.add if is_so else workers.discard)(health.process)

    def _is_usable(self, label: str, now_ns: int, limit_ns: int) -> bool:
        peer = self._setups.peers[label]
        return peer.is_fresh(now_ns, limit_ns) and peer.is_serving

    def _is_lossy(self, now_ns: int) -> bool:
        """Rows or pictures are not kept now, or were not a moment ago."""
        return self._rows.archive.is_lossy or not self._rows.is_recording(now_ns)

    def follow(self, now_ns: int) -> None:
        """Derive state, offline reason, fault and bits from what is known now."""
        conditions, setups, challenge = self._conditions, self._setups, self._challenge
        facts = self._facts(now_ns)
        conditions.fault = fault_of(facts)
        challenge.follow(setups.current.hash32 if setups.current else 0, self._handshake.fault)
        is_lost = self._hardware is not None and self._hardware.is_lost
        conditions.offline = offline_of(facts, challenge.is_locked, is_lost)

        conditions.move(Event.HALT if self.is_halted else Event.SELF_TEST_OK)
        conditions.move(Event.FAULT if self._handshake.fault else Event.RESOLVED)
        if facts.is_usable and not conditions.is_maintenance:
            conditions.move(Event.RECIPE_PREPARED)
            self._was_ready = True
        else:
            conditions.move(Event.RECIPE_LOST)
        if self._is_continuous:
            conditions.move(Event.STOP if self.is_stopped else Event.START_CONTINUOUS)

        self._is_recorder_ok = self._rows.is_recording(now_ns)
        is_throttled = bool(self.throttled or self._hot_workers)
        alarms = self._alarms.raised
        conditions.status2 = bits_of(
            {
                Status2.DECISION_OK: True,
                Status2.CLOCK_SYNCED: self.is_clock_synced,
                Status2.SIMULATED: self._is_simulated or setups.is_simulated,
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
            not self._is_recorder_ok
            or self._journal.lost > 0
            or self._gate.is_warning
            or is_throttled
            or self._rows.archive.is_slow
            or bool(self.warnings)
            or bool(self.spent_budgets)
            or any(name != "rejects" for name in alarms)
        )
        conditions.open_parts = len(self._book)

    def follow_hardware(self, now_ns: int) -> None:
        """TriggerReady in the same turn as what changed it."""
        if self._hardware is not None and self._hardware.is_lost != self._was_lost:
            self._was_lost = self._hardware.is_lost
            self.follow(now_ns)
        self._handshake.refresh(now_ns)

    def _facts(self, now_ns: int) -> Facts:
        setups = self._setups
        lost = [
            name
            for label, name in self._cameras.items()
            if not self._is_usable(label, now_ns, _CAMERA_FRESH_NS)
        ]
        is_infer_ok = all(
            self._is_usable(label, now_ns, max(INFER_FRESH_NS, setups.peers[label].hang_limit_ns))
            for label in self._workers
        )
        is_camera_ok = not lost and self._book.no_image_in_a_row < 2
        for camera in lost:
            # A fresh start of the camera is what ends a row of missing pictures.
            self._book.forgive(camera)
        if lost or is_camera_ok:
            self._no_image_until_ns = None
        elif len(self._book) == 0:
            self._probe_camera(now_ns)
        is_current = all(setups.uses_current(label) for label in setups.peers)
        self.ledger_cleared = min(self.ledger_cleared, self._ledger.unaccounted)
        return Facts(
            is_camera_ok=is_camera_ok,
            is_infer_ok=is_infer_ok,
            is_using=is_camera_ok and is_infer_ok and is_current,
            is_changing=setups.is_changing,
            is_ordered=self._conditions.recipe_orders > 0,
            recipe=setups.offline(),
            refusal=setups.refusal,
            was_ready=self._was_ready,
            is_starting=not self._was_ready and now_ns - self._started_ns < _STARTING_NS,
            is_unaccounted=self._ledger.unaccounted > self.ledger_cleared,
            is_journal_bad=self.is_journal_bad,
            is_reject_missing=self._gate.check(),
            is_stalled=self.is_stalled(now_ns),
            is_budget_spent=any(p.partition("-")[0] in JUDGING for p in self.spent_budgets),
            is_unkept=self._config.record.stop_when_lossy and self._is_lossy(now_ns),
            is_stopped=self.is_stopped or self.is_halted,
            is_ended=self.is_ended,
        )

    def _probe_camera(self, now_ns: int) -> None:
        """Two parts without a picture in a row: the camera is alive by its own word, so let the
        next part try after one second, or the line would never come back by itself."""
        if self._no_image_until_ns is None:
            self._no_image_until_ns = now_ns + 1000 * _MS
        elif now_ns >= self._no_image_until_ns:
            self._no_image_until_ns = None
            for camera in self._cameras.values():
                self._book.forgive(camera)

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know though parts are judged: alarms at a rate, warnings, heat."""
        hot = self.throttled or ("the GPU is slowed down" if self._hot_workers else "")
        lost = ", ".join(filter(None, (self.heat_lost, "GPU" if self._blind_workers else "")))
        heat = (f"throttled: {hot}" if hot else "", f"heat cannot be read: {lost}" if lost else "")
        unsure = (self._waiting, *self.warnings, self.memory_unknown, *heat)
        spent = (f"{process}: restarted too often" for process in self.spent_budgets)
        return (*self._alarms.notes, *spent, *filter(None, unsure))

    @property
    def _waiting(self) -> str:
        """Why rows wait; "" = they do not."""
        if self._ledger.rows_pending and not self._is_recorder_ok:
            return f"no rows are written: {UNSTORED_MAX:,} of them can wait"
        return "the disk is slow: rows wait" if self._rows.archive.is_slow else ""
