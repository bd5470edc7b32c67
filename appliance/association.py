"""Hardware trigger: which frame belongs to which step of the PLC's TriggerCount. Pure; time given.

A light barrier triggers the camera and is counted by the PLC. Since the last Resync both count
from 1: the camera by the ids of its frames, the PLC by TriggerCount. Frame n and step n are one
part, whichever is seen first, if they also lie no further apart in time than the window, and if
neither lies within the window of another part's step or frame. Parts come further apart than two
windows (`config.py` sees to it), so a pair that is off by one cannot pass.

A gap, a surplus, a pair that does not fit or a half that stays alone: the association is lost, and
nothing is paired any more until Resync, which the PLC gives when no part is at the camera. After a
start it is lost, too: nobody knows what passed meanwhile.
"""

from collections import deque
from dataclasses import dataclass

FIFO = 8
"""Entries of TagFifo: steps that one write may bring."""
_COUNTS = 1 << 32
_NEAR = 16
"""Pairs whose times are remembered: no more can lie within one window."""


@dataclass(slots=True)
class Pair:
    """One part at the camera: a frame, a step, or both."""

    number: int
    """Parts since Resync, from 1."""
    due_ns: int
    """The other half must be there by then."""
    part_id: int = 0
    """0: it was not accepted, and its halves are only counted."""
    frame_ns: int | None = None
    """End of exposure."""
    step_ns: int | None = None
    count: int = 0
    """TriggerCount at its step."""

    @property
    def is_whole(self) -> bool:
        """Both halves are there."""
        return self.frame_ns is not None and self.step_ns is not None


class Association:
    """The two counters of one camera and one PLC.

    window_ns: the furthest that a frame's exposure and its step may lie apart.
    patience_ns: how long one half waits for the other.
    """

    def __init__(self, window_ns: int, patience_ns: int) -> None:
        self._window_ns, self._patience_ns = window_ns, patience_ns
        self.why_lost = "no Resync since the start"
        """"" while frames and steps can be paired."""
        self.doubtful: tuple[int, ...] = ()
        """Part ids that the loss puts in doubt even where frame and step had been paired."""
        self._forget(0, 0)

    def _forget(self, count: int, now_ns: int) -> None:
        self._count, self._since_ns = count, now_ns
        self._steps = self._frames = 0
        self._frame_id: int | None = None
        self._unnumbered = 0
        """Frames without an id since the last one that had one."""
        self._waiting: dict[int, Pair] = {}
        self._near: deque[Pair] = deque(maxlen=_NEAR)

    @property
    def is_lost(self) -> bool:
        """Frames and steps cannot be paired."""
        return self.why_lost != ""

    def resync(self, count: int, now_ns: int) -> None:
        """The line is clear: the step after `count` and the next exposed frame are number 1."""
        self._forget(count, now_ns)
        self.why_lost, self.doubtful = "", ()

    def lose(self, why: str) -> None:
        """Nothing is paired any more until Resync."""
        if not self.is_lost:
            self.why_lost = why

    def step(self, count: int, now_ns: int) -> list[Pair]:
        """TriggerCount as written: a pair for each step, new or made whole. [] once lost."""
        behind = (count - self._count) % _COUNTS
        if self.is_lost or behind == 0:
            return []
        if behind > FIFO:
            self.lose(f"TriggerCount went from {self._count} to {count} at once")
            return []
        pairs: list[Pair] = []
        for _ in range(behind):
            self._count = (self._count + 1) % _COUNTS
            self._steps += 1
            pair = self._pair(self._steps, now_ns)
            pair.step_ns, pair.count = now_ns, self._count
            self._check(pair)
            pairs.append(pair)
        return [] if self.is_lost else pairs

    def frame(self, frame_id: int, exposed_ns: int) -> Pair | None:
        """A frame, or (id 0) one that came incomplete: its pair, new or made whole.

        None once lost, and for what was exposed before Resync. Ids of frames keep the camera's own
        distances.
        """
        if self.is_lost:
            return None
        if frame_id == 0:
            self._unnumbered += 1
        else:
            expected = None if self._frame_id is None else self._frame_id + 1 + self._unnumbered
            if expected is not None and frame_id != expected:
                missing = frame_id - expected
                what = f"{missing} frames are missing" if missing > 0 else "ids went back"
                self.lose(f"{what} before frame {frame_id}, expected {expected}")
                return None
            self._frame_id, self._unnumbered = frame_id, 0
        if exposed_ns < self._since_ns:
            return None
        self._frames += 1
        pair = self._pair(self._frames, exposed_ns)
        pair.frame_ns = exposed_ns
        self._check(pair)
        return None if self.is_lost else pair

    def overdue(self, now_ns: int) -> None:
        """A half that stayed alone too long is a disagreement."""
        for pair in self._waiting.values():
            if pair.due_ns <= now_ns:
                missing = "frame" if pair.frame_ns is None else "step of TriggerCount"
                self.lose(f"part {pair.number} since Resync has no {missing}")
                return

    @property
    def due_ns(self) -> int | None:
        """When `overdue` finds the next one."""
        if self.is_lost or not self._waiting:
            return None
        return min(pair.due_ns for pair in self._waiting.values())

    def _pair(self, number: int, at_ns: int) -> Pair:
        pair = self._waiting.pop(number, None)
        if pair is None:
            pair = self._waiting[number] = Pair(number, at_ns + self._patience_ns)
            self._near.append(pair)
        return pair

    def _check(self, pair: Pair) -> None:
        """The halves of a pair lie within the window; nobody else's do."""
        apart_ns = _apart_ns(pair, pair)
        if apart_ns is not None and apart_ns > self._window_ns:
            self.lose(
                f"frame and step of part {pair.number} since Resync lie {apart_ns / 1e6:.1f} ms "
                f"apart, expected at most {self._window_ns / 1e6:.1f} ms"
            )
        for other in self._near:
            if other is pair:
                continue
            for first, second in ((pair, other), (other, pair)):
                apart_ns = _apart_ns(first, second)
                if apart_ns is not None and apart_ns < self._window_ns:
                    self.doubtful = (first.part_id, second.part_id)
                    self.lose(
                        f"frame {first.number} and step {second.number} since Resync lie "
                        f"{apart_ns / 1e6:.1f} ms apart: whose frame it is cannot be told"
                    )
                    return


def _apart_ns(frame: Pair, step: Pair) -> int | None:
    """Between the frame of one pair and the step of another; None where one is not there."""
    if frame.frame_ns is None or step.step_ns is None:
        return None
    return abs(frame.frame_ns - step.step_ns)
