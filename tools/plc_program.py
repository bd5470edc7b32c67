"""The program of the desk PLC: one call per scan, inputs to outputs. Pure; time is an argument.

Enters: an image of what was read (HR 100–152, in ring mode 205–329) and the PLC's clock. Leaves:
the control block (HR 0–63) for the next request, and one `Part` for every part that came to the
camera, accepted or rejected with the reason. Silence, doubt and lateness all end as rejects.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from appliance.acceptance import HEARTBEAT_LIMIT_MS, Sent, Timing
from appliance.codes import LATCHING_FAULTS, Control, Status1, Word
from appliance.hmi_texts import OFFLINE
from appliance.words import Bank, WordOrder

HEARTBEAT_EVERY_NS = 50_000_000
TRIGGER_ACK_LIMIT_MS = 100.0
"""The appliance has 10 ms; the rest is the network and two scans."""
FINISH_LIMIT_NS = 3_000_000_000
"""Longer than the appliance holds a result that nobody acknowledges."""
_WRONG_TAG_BIT = 1 << 31


class Break(str, Enum):
    """The rule that this PLC breaks, to see what the appliance does."""

    NONE = "none"
    DROPPED_ACK = "dropped-ack"
    SILENT_HEARTBEAT = "silent-heartbeat"
    STUCK_TRIGGER = "stuck-trigger"
    WRONG_TAG = "wrong-tag"


class Ring(str, Enum):
    """Where results come from: the level words, or the ring with one of three triggers."""

    NONE = "none"
    PLC = "plc"
    HARDWARE = "hardware"
    FREE = "free"


@dataclass(frozen=True, kw_only=True)
class PlcOptions:
    """One run of the desk PLC."""

    host: str = "127.0.0.1"
    port: int = 5020
    word_order: WordOrder = "high_first"
    parts: int = 100
    """0 = for ever."""
    rate_hz: float = 0.0
    """Parts per second that come to the camera; 0 = the next when the last one is judged."""
    scan_ms: float = 5.0
    deadline_ms: float = 250.0
    """Of the acceptance rule, on the PLC's clock: travel from camera to gate less actuation."""
    ask_deadline_ms: int = 0
    """Written to DeadlineMs, which may only shorten the appliance's; 0 = the appliance's own."""
    wait_ready_ms: float = 2000.0
    """How long a part waits in front of the camera for TriggerReady."""
    patience_s: float = 120.0
    """Not Ready for so long: the remaining parts are rejected and the run ends."""
    timeout_ms: float = 500.0
    """Longest silence: no answer for so long since the last one is no communication."""
    accept_simulated: bool = False
    """A real PLC never does."""
    first_tag: int = 1
    ring: Ring = Ring.NONE
    barrier: tuple[str, ...] = ()
    """Hardware: datagram sockets that get a pulse for each part, as tools/gentl listens on; one for
    each camera."""
    breaks: Break = Break.NONE
    break_from: int = 1
    """The first part, counted from 1, at which it does."""


@dataclass(kw_only=True)
class Part:
    """One part at the camera, as the PLC saw it. Times are the PLC's monotonic nanoseconds."""

    tag: int
    due_ns: int
    triggered_ns: int = 0
    """0 = it was never triggered."""
    acq_id: int = 0
    epoch: int = 0
    word: int = Word.NONE
    """As read, believed or not; NONE where no result with this part's id was read."""
    reason: int = 0
    margin: float = float("nan")
    is_accepted: bool = False
    why: tuple[str, ...] = ()
    """Why it was rejected; empty where it was accepted."""
    decided_ns: int = 0

    @property
    def latency_ms(self) -> float:
        """From the trigger to the decision of this PLC."""
        return (self.decided_ns - self.triggered_ns) / 1e6


@dataclass(kw_only=True)
class Sightings:
    """What a PLC should never see, counted."""

    stale_results: int = 0
    """ResultValid with another part's id while one was awaited."""
    torn_results: int = 0
    """ResultTear was not InspectionID."""
    missing_slots: int = 0
    """Sequence numbers of the ring that were never read."""
    unread_slots: int = 0
    """As the box counts them in HR 207: overwritten before AckSeq passed them."""
    unmatched_slots: int = 0
    """Slots whose tag belongs to no open part."""
    epochs: list[int] = field(default_factory=list[int])
    """In the order in which they were seen."""


def not_ready(image: Bank) -> str:
    """Why TriggerReady is 0, as the appliance says it in OfflineReason."""
    reason = image.number("OfflineReason")
    if not reason:
        return "not ready"
    words = next((words for code, words in OFFLINE.items() if code == reason), "unknown")
    return f"not ready: {words} (OfflineReason {reason})"


class Program(ABC):
    """What both ways of fetching results share: the feeder, the watch, the decision."""

    _finishing: Status1
    """While any of these is 1, the handshake of the last part goes on."""

    def __init__(self, options: PlcOptions, on_part: Callable[[Part], None]) -> None:
        self.options = options
        self.out = Bank(options.word_order)
        """HR 0–63 for the next request."""
        self.seen = Sightings()
        self.decided = 0
        self._on_part = on_part
        self._fed = 0
        self._first_due_ns: int | None = None
        self._last_end_ns = 0
        self._moved_ns: int | None = None
        self._beat: int | None = None
        self._beat_at_ns: int | None = None
        self._bits = Control.ENABLE
        self._is_stuck = False
        self._is_at_rest = False
        self._epoch = 0

    @property
    def is_done(self) -> bool:
        """Every part is judged and the handshake of the last one is over."""
        return self._is_at_rest

    @property
    def _is_feeder(self) -> bool:
        """Parts come by this program; else by what the ring shows."""
        return True

    def scan(self, image: Bank, now_ns: int) -> None:
        """One cycle after a good request."""
        status = Status1(image.number("Status1"))
        self._rest(now_ns, not status & self._finishing)
        self._watch(image, now_ns)
        self._bits = Control.ENABLE
        self._judge(image, now_ns)
        is_ready = Status1.TRIGGER_READY in status and self._is_alive(now_ns)
        if is_ready:
            self._first_due_ns = self._first_due_ns or now_ns
            self._moved_ns = now_ns if self._is_feeder else self._moved_ns
        self._feed(image, now_ns, is_ready)
        self._give_up(now_ns, not_ready(image))
        if Status1.ACQ_ERROR in status and image.number("FaultCode") not in LATCHING_FAULTS:
            # ClearError acknowledges a latching fault too, and that is for a person to do.
            self._bits |= Control.CLEAR_ERROR
        self._write(now_ns)

    def lost(self, now_ns: int, why: str) -> None:
        """One cycle without an answer: every open part is rejected, nothing is triggered."""
        self._rest(now_ns, True)
        self._reject_open(now_ns, why)
        self._bits = Control.ENABLE
        self._give_up(now_ns, why)
        self._write(now_ns)

    @abstractmethod
    def _judge(self, image: Bank, now_ns: int) -> None:
        """Take what the words say about open parts."""

    @abstractmethod
    def _feed(self, image: Bank, now_ns: int, is_ready: bool) -> None:
        """Bring the next part to the camera, if one is due and it can be taken."""

    @abstractmethod
    def _reject_open(self, now_ns: int, why: str) -> None:
        """Reject every part that was triggered and is not judged."""

    def _due_ns(self) -> int | None:
        """When the next part came or comes to the camera; None = no more parts, or not begun."""
        options = self.options
        if self._first_due_ns is None or 0 < options.parts <= self._fed:
            return None
        if options.rate_hz:
            return self._first_due_ns + int(self._fed * 1e9 / options.rate_hz)
        return self._last_end_ns or self._first_due_ns

    def _next_part(self, due_ns: int) -> Part:
        tag = (self.options.first_tag + self._fed) & 0xFFFFFFFF
        self._fed += 1
        return Part(tag=tag, due_ns=due_ns)

    def _give_up(self, now_ns: int, why: str) -> None:
        """Parts that waited too long in front of the camera, or all that are left."""
        options = self.options
        self._moved_ns = self._moved_ns or now_ns
        if options.parts and now_ns - self._moved_ns > options.patience_s * 1e9:
            self._first_due_ns = self._first_due_ns or now_ns
            while self._fed < options.parts:
                self._decide(self._next_part(now_ns), now_ns, (why,))
        due_ns = self._due_ns()
        while due_ns is not None and now_ns - due_ns > options.wait_ready_ms * 1e6:
            self._decide(self._next_part(due_ns), now_ns, (why,))
            due_ns = self._due_ns()

    def _watch(self, image: Bank, now_ns: int) -> None:
        beat, epoch = self._read_beat(image), image.number("Epoch")
        if beat != self._beat:
            if self._beat is not None:
                self._beat_at_ns = now_ns
            self._beat = beat
        if epoch != self._epoch:
            self._reject_open(now_ns, "Epoch changed")
            self._epoch = epoch
            self._new_epoch(image)

    def _read_beat(self, image: Bank) -> int:
        return image.number("VisionHeartbeat")

    def _new_epoch(self, image: Bank) -> None:
        """The decision process started anew, or is seen for the first time."""
        self.seen.epochs.append(self._epoch)

    def _since_beat_ms(self, now_ns: int) -> float:
        return float("inf") if self._beat_at_ns is None else (now_ns - self._beat_at_ns) / 1e6

    def _is_alive(self, now_ns: int) -> bool:
        return self._since_beat_ms(now_ns) <= HEARTBEAT_LIMIT_MS

    def _terms(self, part: Part, now_ns: int) -> tuple[Sent, Timing]:
        sent = Sent(
            part_tag=part.tag,
            epoch=part.epoch,
            acq_id=part.acq_id,
            deadline_ms=self.options.deadline_ms,
        )
        since_trigger_ms = (now_ns - part.triggered_ns) / 1e6
        beat_ms = self._since_beat_ms(now_ns)
        return sent, Timing(since_trigger_ms=since_trigger_ms, since_heartbeat_ms=beat_ms)

    def _is_overdue(self, part: Part, now_ns: int) -> bool:
        return now_ns - part.triggered_ns > self.options.deadline_ms * 1e6

    def _decide(self, part: Part, now_ns: int, why: tuple[str, ...]) -> None:
        """The one decision about a part: accepted where there is no objection."""
        part.why, part.is_accepted, part.decided_ns = why, not why, now_ns
        self.decided += 1
        self._last_end_ns = self._moved_ns = now_ns
        self._on_part(part)

    def _breaks(self, rule: Break) -> bool:
        return self.options.breaks == rule and self._fed >= self.options.break_from

    def _rest(self, now_ns: int, is_quiet: bool) -> None:
        """After the last decision: wait, within a limit, for the handshake to end."""
        if 0 < self.options.parts <= self.decided:
            is_long_ago = now_ns - self._last_end_ns > FINISH_LIMIT_NS
            self._is_at_rest = is_quiet or is_long_ago

    def _write(self, now_ns: int) -> None:
        if not self._breaks(Break.SILENT_HEARTBEAT):
            self.out.set_counter("PlcHeartbeat", now_ns // HEARTBEAT_EVERY_NS)
        self.out.set("EpochEcho", self._epoch)
        self.out.set("DeadlineMs", self.options.ask_deadline_ms)
        self.out.set("Control", self._bits)

    def _put_tag(self, part: Part) -> None:
        wrong = _WRONG_TAG_BIT if self._breaks(Break.WRONG_TAG) else 0
        self.out.set("PartTag", part.tag ^ wrong)
        self.out.set("PartId", f"SIM-{part.tag:010d}")


class TriggerLine:
    """Trigger held until TriggerAck, then dropped; never waited for longer than the limit."""

    def __init__(self) -> None:
        self.part: Part | None = None

    def step(self, image: Bank, now_ns: int) -> tuple[Part, str] | None:
        """The part that was taken ("") or not (why); None while there is nothing to tell."""
        part, status = self.part, Status1(image.number("Status1"))
        if part is None:
            return None
        if Status1.TRIGGER_ACK in status:
            part.acq_id = image.number("AcqID")
            why = ""
        elif Status1.ACQ_ERROR in status:
            why = "trigger refused"
        elif now_ns - part.triggered_ns > TRIGGER_ACK_LIMIT_MS * 1e6:
            why = "no TriggerAck"
        else:
            return None
        self.part = None
        return part, why
