"""Hardware trigger: parts from frames and steps of TriggerCount, as `association.py` pairs them.

Enters: the PLC's writes, frames seen, time. Leaves: parts opened and closed in the book. A part is
opened by its first frame or by its step, whichever is seen first, if TriggerReady is 1 at that
moment; else all of them are counted as one missed trigger and swallowed, so that the counters stay
in step. It ends by its scores only when its step and the frames of all cameras are there.
"""

from collections.abc import Callable
from typing import Protocol

from appliance.association import COUNTS, FIFO, Association, Pair
from appliance.codes import Word
from appliance.messages import FrameReady, LateResult, NoFrame
from appliance.part import Part, Sight
from appliance.parts import PartBook
from appliance.words import PlcInput


class Open(Protocol):
    """How a part is opened."""

    def __call__(self, zero_ns: int, plc: PlcInput | None, tag: int) -> Part:
        """A part whose clock starts at `zero_ns`; the words and the tag where the PLC told them."""
        ...


class HardwareTrigger:
    """The trigger line of the cameras.

    is_ready: TriggerReady as it stands. count: one more of a counter. late: where the result of a
    part goes whose score waited for its step too long. tagged: a part with this tag is at the
    cameras, whether it is accepted or not.
    """

    def __init__(
        self,
        association: Association,
        book: PartBook,
        open_part: Open,
        is_ready: Callable[[], bool],
        count: Callable[[str], None],
        late: Callable[[LateResult], object],
        tagged: Callable[[int, int], None],
    ) -> None:
        self.association, self._book = association, book
        self._open, self._is_ready, self._count, self._late = open_part, is_ready, count, late
        self._tagged = tagged
        self._trigger_count: int | None = None
        self._is_told = True
        """The parts that the loss concerns are closed."""

    @property
    def is_lost(self) -> bool:
        """Nothing can be paired until Resync."""
        return self.association.is_lost

    def wrote(self, plc: PlcInput, now_ns: int) -> None:
        """A write of the PLC; after the handshake has set TriggerReady."""
        self._tell_tags(plc, now_ns)
        for pair in self.association.step(plc.trigger_count, now_ns):
            self._stepped(pair, plc, now_ns)
        self._settle(now_ns)

    def frame(self, message: FrameReady, now_ns: int) -> Sight | None:
        """A frame that was not seen before. Returns its view when that can be judged."""
        exposed_ns = exposure_end_ns(message, now_ns)
        pair = self.association.frame(message.camera, message.frame_id, exposed_ns)
        part = self._part_of(pair, exposed_ns) if pair else None
        if pair is None or part is None:
            self._book.ignore(message, now_ns)
        self._settle(now_ns)
        if pair is None or part is None:
            return None
        _set_clock(part, pair)
        self._pair(pair, part, now_ns)
        return self._book.opened_by_frame(message, part, now_ns)

    def no_frame(self, message: NoFrame, now_ns: int) -> None:
        """A picture that cannot be used: it was a part all the same."""
        pair = self.association.frame(message.camera, message.frame_id, now_ns)
        part = self._part_of(pair, now_ns) if pair else None
        self._settle(now_ns)
        if pair is not None and part is not None:
            self._pair(pair, part, now_ns)
            sight = part.sights[message.camera]
            self._book.close(sight, Word.ERROR, message.reason, now_ns, message.detail)

    def resync(self, count: int, now_ns: int) -> None:
        """The PLC says that no part is at the cameras, and has counted so many."""
        self._book.close_unpaired((), "Resync", now_ns)
        self.association.resync(count, now_ns)
        self._is_told = False

    def lose(self, why: str, now_ns: int) -> None:
        """Something happened after which the counters prove nothing."""
        self.association.lose(why)
        self._settle(now_ns)

    def expire(self, now_ns: int) -> None:
        """What is still alone at its deadline is a disagreement."""
        self.association.overdue(now_ns)
        self._settle(now_ns)

    def _tell_tags(self, plc: PlcInput, now_ns: int) -> None:
        """Of every part that the PLC has counted since its last write; as many as it can tell."""
        last, self._trigger_count = self._trigger_count, plc.trigger_count
        if last is not None:
            steps = (plc.trigger_count - last) % COUNTS
            for back in range(min(steps, FIFO)):
                self._tagged(_tag(plc, (plc.trigger_count - back) % COUNTS), now_ns)

    def _stepped(self, pair: Pair, plc: PlcInput, now_ns: int) -> None:
        tag = _tag(plc, pair.count)
        if pair.is_new:
            if self._is_ready():
                self._opened(pair, self._open(now_ns, plc, tag))
            else:
                self._count("missed_triggers")
        elif (part := self._book.part(pair.part_id)) is not None:
            part.part_tag, part.is_tag_known = tag, tag != 0
            part.part_text, part.lot = plc.part_text, plc.lot
            self._pair(pair, part, now_ns)

    def _part_of(self, pair: Pair, zero_ns: int) -> Part | None:
        """The part of a frame's pair, opened now where that came first; None: not accepted."""
        if not pair.is_new:
            return self._book.part(pair.part_id)
        if not self._is_ready():
            self._count("missed_triggers")
            return None
        part = self._open(zero_ns, None, 0)
        self._opened(pair, part)
        return part

    def _opened(self, pair: Pair, part: Part) -> None:
        pair.part_id, pair.due_ns = part.part_id, part.deadline_ns
        pair.allowed_ns = part.deadline_ns - part.zero_ns

    def _pair(self, pair: Pair, part: Part, now_ns: int) -> None:
        """The book learns of tag and clock, whole or not: of one that stays alone, too, they are
        what its verdict says."""
        if pair.is_new:
            return  # it was opened with them just now
        late = self._book.paired(part, now_ns, pair.is_whole)
        if late is not None:
            self._late(late)

    def _settle(self, now_ns: int) -> None:
        """Once lost, every part that is not proved ends now."""
        if self.is_lost and not self._is_told:
            self._is_told = True
            self._count("associations_lost")
            why = self.association.why_lost
            self._book.close_unpaired(self.association.doubtful, why, now_ns)


def _tag(plc: PlcInput, count: int) -> int:
    """Of the part with this TriggerCount; 0 = the PLC does not say."""
    tag = plc.tag_fifo[(count - 1) % FIFO]
    return plc.part_tag if tag == 0 and count == plc.trigger_count else tag


def _set_clock(part: Part, pair: Pair) -> None:
    """The clock starts at the first exposure that ended; a deadline that stood is not moved on."""
    part.zero_ns = min(pair.frames_ns.values())
    part.deadline_ns = min(part.deadline_ns, part.zero_ns + pair.allowed_ns)
    pair.due_ns = part.deadline_ns


def exposure_end_ns(message: FrameReady, now_ns: int) -> int:
    """When the frame's exposure ended, on our clock."""
    end_ns = now_ns - message.age_ns
    if message.copied_here_ns:
        # One box, one clock: what the message waited on its way to us counts, too.
        end_ns = min(end_ns, message.copied_here_ns - message.age_ns)
    return end_ns
