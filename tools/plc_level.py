"""The desk PLC's program where results come through HR 115–152, one part at a time. Pure."""

from collections.abc import Callable

from appliance.acceptance import level_objections
from appliance.codes import Control, Status1
from appliance.words import Bank
from tools.plc_program import Break, Part, PlcOptions, Program, TriggerLine


class LevelProgram(Program):
    """One part at a time through HR 115–152, with the whole handshake."""

    _finishing = Status1.RESULT_VALID | Status1.TRIGGER_ACK | Status1.BUSY

    def __init__(self, options: PlcOptions, on_part: Callable[[Part], None]) -> None:
        super().__init__(options, on_part)
        self._trigger = TriggerLine()
        self._awaited: Part | None = None

    def _judge(self, image: Bank, now_ns: int) -> None:
        status = Status1(image.number("Status1"))
        if taken := self._trigger.step(image, now_ns):
            part, why = taken
            if why:
                self._decide(part, now_ns, (why,))
            else:
                self._awaited = part
        part = self._awaited
        if part is not None and Status1.RESULT_VALID in status:
            if image.number("InspectionID") == part.acq_id:
                self._take(part, image, now_ns)
            else:
                self.seen.stale_results += 1
        if self._awaited is not None and self._is_overdue(self._awaited, now_ns):
            self._decide(self._awaited, now_ns, ("no result by the deadline",))
            self._awaited = None
        if Status1.RESULT_VALID in status and not self._breaks(Break.DROPPED_ACK):
            self._bits |= Control.RESULT_ACK
        if self._trigger.part is not None or self._is_stuck:
            self._bits |= Control.TRIGGER

    def _take(self, part: Part, image: Bank, now_ns: int) -> None:
        part.word, part.reason = image.number("Verdict"), image.number("Reason")
        margin = image.get("Margin")
        part.margin = margin if isinstance(margin, float) else part.margin
        if image.number("ResultTear") != part.acq_id:
            self.seen.torn_results += 1
        terms = self._terms(part, now_ns)
        self._awaited = None
        self._decide(part, now_ns, level_objections(image, *terms, self.options.accept_simulated))

    def _feed(self, image: Bank, now_ns: int, is_ready: bool) -> None:
        due_ns = self._due_ns()
        busy = Status1.TRIGGER_ACK | Status1.RESULT_VALID | Status1.ACQ_ERROR
        is_free = is_ready and not Status1(image.number("Status1")) & busy
        if due_ns is None or due_ns > now_ns or not is_free or self._awaited or self._trigger.part:
            return
        part = self._next_part(due_ns)
        part.triggered_ns, part.epoch = now_ns, self._epoch
        self._put_tag(part)
        self._trigger.part = part
        self._bits |= Control.TRIGGER
        self._is_stuck = self._breaks(Break.STUCK_TRIGGER)

    def _reject_open(self, now_ns: int, why: str) -> None:
        for part in (self._trigger.part, self._awaited):
            if part is not None:
                self._decide(part, now_ns, (why,))
        self._trigger.part = self._awaited = None
