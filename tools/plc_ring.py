"""The desk PLC's program where results come from the ring. Pure; time is an argument.

Parts are triggered by the PLC (`plc`), by a light barrier whose pulses the PLC counts (`hardware`),
or by the camera itself (`free`). A free run without a rate has no parts of its own: every slot is
one. Results are matched by tag alone, never by order.
"""

from collections.abc import Callable

from appliance.acceptance import slot_objections
from appliance.codes import CommandCode, Control, OfflineReason, SlotFlags, Status1
from appliance.registers import RING_SLOTS
from appliance.words import Bank, Slot
from tools.plc_program import Break, Part, PlcOptions, Program, Ring, TriggerLine

_SEQUENCES = 65_535
_FIFO = 8


class RingProgram(Program):
    """Many parts at a time; every slot is read, acknowledged by AckSeq and used once."""

    _finishing = Status1.TRIGGER_ACK

    def __init__(
        self,
        options: PlcOptions,
        on_part: Callable[[Part], None],
        on_pulse: Callable[[], None] = lambda: None,
    ) -> None:
        """on_pulse: the light barrier that the PLC counts triggers the camera, too."""
        super().__init__(options, on_part)
        self._on_pulse = on_pulse
        self._trigger = TriggerLine()
        self._open: dict[int, Part] = {}
        self._consumed = 0
        self._fed_ns = 0

    @property
    def _is_feeder(self) -> bool:
        return self.options.ring != Ring.FREE or self.options.rate_hz > 0

    def _read_beat(self, image: Bank) -> int:
        return image.number("VisionHeartbeatCopy")

    def _new_epoch(self, image: Bank) -> None:
        """What lies in the ring at the first sight of it belongs to nobody here; later, to us."""
        super()._new_epoch(image)
        is_first = len(self.seen.epochs) == 1
        self._consumed = image.number("RingLast") if is_first else 0
        self.out.set("AckSeq", 0)

    def _due_ns(self) -> int | None:
        if not self._is_feeder:
            return None
        due_ns = super()._due_ns()
        if due_ns is None or self.options.rate_hz:
            return due_ns
        return self._fed_ns or self._first_due_ns  # no rate: the next as soon as it can be taken

    def _judge(self, image: Bank, now_ns: int) -> None:
        if taken := self._trigger.step(image, now_ns):
            part, why = taken
            if why and self._open.pop(part.tag, None):
                self._decide(part, now_ns, (why,))
        self.seen.unread_slots = image.number("RingUnread")
        for slot in self._new_slots(image):
            self._take(slot, image, now_ns)
        for part in [part for part in self._open.values() if self._is_overdue(part, now_ns)]:
            del self._open[part.tag]
            self._decide(part, now_ns, ("no result by the deadline",))
        if self._trigger.part is not None and self._trigger.part.tag not in self._open:
            self._trigger.part = None
        if self._trigger.part is not None or self._is_stuck:
            self._bits |= Control.TRIGGER
        if self.options.ring == Ring.HARDWARE:
            self._resync(image)

    def _resync(self, image: Bank) -> None:
        """Frames and counts are apart, and no part is at the camera: begin anew."""
        is_lost = image.number("OfflineReason") == OfflineReason.ASSOCIATION_LOST
        is_done = Status1.CMD_DONE in Status1(image.number("Status1"))
        if is_lost and not is_done and not self._open:
            self.out.set("Command", CommandCode.RESYNC)
            self._bits |= Control.EXECUTE

    def _new_slots(self, image: Bank) -> list[Slot]:
        """In the order of their sequence; a number that is not there was overwritten."""
        slots = [image.read_slot(index) for index in range(RING_SLOTS)]
        whole = [slot for slot in slots if slot.seq == slot.seq_again != 0]
        fresh = [slot for slot in whole if 0 < self._ahead(slot) <= _SEQUENCES // 2]
        fresh.sort(key=self._ahead)
        for slot in fresh:
            self.seen.missing_slots += self._ahead(slot) - 1
            self._consumed = slot.seq
        if fresh and not self._breaks(Break.DROPPED_ACK):
            self.out.set("AckSeq", self._consumed)
        return fresh

    def _ahead(self, slot: Slot) -> int:
        """How far this slot is ahead of the last one consumed; numbers run 1…65535, then 1."""
        return (slot.seq - self._consumed) % _SEQUENCES

    def _take(self, slot: Slot, image: Bank, now_ns: int) -> None:
        if not self._is_feeder:
            if 0 < self.options.parts <= self._fed:
                return
            part = self._next_part(now_ns)
            part.tag, part.triggered_ns = slot.part_tag, now_ns - slot.latency_ms * 1_000_000
            part.epoch = self._epoch
        elif not slot.flags & SlotFlags.TAG_KNOWN or slot.part_tag not in self._open:
            self.seen.unmatched_slots += 1
            return
        else:
            part = self._open.pop(slot.part_tag)
        part.word, part.reason, part.acq_id = slot.verdict, slot.reason, slot.inspection_id
        sent, timing = self._terms(part, now_ns)
        epoch = image.number("Epoch")
        why = slot_objections(slot, epoch, sent, timing, self.options.accept_simulated)
        self._decide(part, now_ns, why)

    def _feed(self, image: Bank, now_ns: int, is_ready: bool) -> None:
        due_ns = self._due_ns()
        if due_ns is None or due_ns > now_ns or not is_ready:
            return
        if self.options.ring == Ring.PLC:
            busy = Status1.TRIGGER_ACK | Status1.ACQ_ERROR
            if self._trigger.part is not None or Status1(image.number("Status1")) & busy:
                return
        part = self._next_part(due_ns)
        part.triggered_ns, part.epoch = now_ns, self._epoch
        self._fed_ns = now_ns
        self._open[part.tag] = part
        self._put_tag(part)
        if self.options.ring == Ring.PLC:
            self._trigger.part = part
            self._bits |= Control.TRIGGER
            self._is_stuck = self._breaks(Break.STUCK_TRIGGER)
        elif self.options.ring == Ring.HARDWARE:
            self._count(part)

    def _count(self, part: Part) -> None:
        """The light barrier's pulse: the tag is in the FIFO no later than its count."""
        count = self.out.number("TriggerCount") + 1
        fifo = self.out.get("TagFifo")
        tags = list(fifo) if isinstance(fifo, tuple) else [0] * _FIFO
        tags[(count - 1) % _FIFO] = part.tag
        self.out.set("TagFifo", tags)
        self.out.set_counter("TriggerCount", count)
        self._on_pulse()

    def _reject_open(self, now_ns: int, why: str) -> None:
        for part in self._open.values():
            self._decide(part, now_ns, (why,))
        self._open.clear()
        self._trigger.part = None
