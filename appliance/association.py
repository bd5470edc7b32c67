"""Hardware trigger: which frame belongs to which step of the PLC's TriggerCount. Pure; time given.

A light barrier triggers the cameras and is counted by the PLC. Since the last Resync all count from
1: each camera by the ids of its frames, the PLC by TriggerCount. Frame n of every camera and step n
are one part, whichever is seen first, if each frame also lies no further from the step than the
window, and if none lies within the window of another part's step. Parts come further apart than two
windows (`config.py` sees to it), so a pair that is off by one cannot pass; and as every frame is
held against the step, two cameras that are off by one against each other cannot either.

A gap, a surplus, a pair that does not fit or one that stays incomplete: the association is lost,
and nothing is paired any more until Resync, which the PLC gives when no part is at the cameras.
After a start it is lost, too: nobody knows what passed meanwhile.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

FIFO = 8
"""Entries of TagFifo: steps that one write may bring."""
COUNTS = 1 << 32
_NEAR = 16
"""Pairs whose times are remembered: no more can lie within one window."""


@dataclass(slots=True)
class Pair:
    """One part at the cameras: a step, and a frame of each camera, as far as they are there."""

    number: int
    """Parts since Resync, from 1."""
    due_ns: int
    """It must be whole by then."""
    cameras: tuple[str, ...]
    part_id: int = 0
    """0: it was not accepted, and its frames and its step are only counted."""
    allowed_ns: int = 0
    """From the start of its clock to its deadline."""
    frames_ns: dict[str, int] = field(default_factory=dict[str, int])
    """Camera → end of exposure."""
    step_ns: int | None = None
    count: int = 0
    """TriggerCount at its step."""

    @property
    def is_new(self) -> bool:
        """The first of them has come just now."""
        return len(self.frames_ns) + (self.step_ns is not None) == 1

    @property
    def is_whole(self) -> bool:
        """All of them are there."""
        return self.step_ns is not None and len(self.frames_ns) == len(self.cameras)

    @property
    def missing(self) -> str:
        """What it waits for, in words."""
        if self.step_ns is None:
            return "step of TriggerCount"
        lacking = [camera for camera in self.cameras if camera not in self.frames_ns]
        return "frame" + _of(lacking) * (len(self.cameras) > 1)


@dataclass(slots=True)
class _Eye:
    """One camera since Resync."""

    frames: int = 0
    frame_id: int | None = None
    unnumbered: int = 0
    """Frames without an id since the last one that had one."""


class Association:
    """The counters of the cameras and of one PLC.

    window_ns: the furthest that a frame's exposure and its step may lie apart.
    patience_ns: how long what came first waits for the rest.
    """

    def __init__(self, window_ns: int, patience_ns: int, cameras: Sequence[str]) -> None:
        self._window_ns, self._patience_ns = window_ns, patience_ns
        self._cameras = tuple(cameras)
        self.why_lost = "no Resync since the start"
        """"" while frames and steps can be paired."""
        self.doubtful: tuple[int, ...] = ()
        """Part ids that the loss puts in doubt even where frame and step had been paired."""
        self._forget(0, 0)

    def _forget(self, count: int, now_ns: int) -> None:
        self._count, self._since_ns = count, now_ns
        self._steps = 0
        self._eyes = {camera: _Eye() for camera in self._cameras}
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
        behind = (count - self._count) % COUNTS
        if self.is_lost or behind == 0:
            return []
        if behind > FIFO:
            self.lose(f"TriggerCount went from {self._count} to {count} at once")
            return []
        pairs: list[Pair] = []
        for _ in range(behind):
            self._count = (self._count + 1) % COUNTS
            self._steps += 1
            pair = self._pair(self._steps, now_ns)
            pair.step_ns, pair.count = now_ns, self._count
            self._check(pair)
            pairs.append(pair)
        return [] if self.is_lost else pairs

    def frame(self, camera: str, frame_id: int, exposed_ns: int) -> Pair | None:
        """A frame, or (id 0) one that came incomplete: its pair, new or made whole.

        None once lost, and for what was exposed before Resync. Ids of frames keep the camera's own
        distances.
        """
        if self.is_lost:
            return None
        eye = self._eyes[camera]
        if frame_id == 0:
            eye.unnumbered += 1
        else:
            expected = None if eye.frame_id is None else eye.frame_id + 1 + eye.unnumbered
            if expected is not None and frame_id != expected:
                missing = frame_id - expected
                what = f"{missing} frames are missing" if missing > 0 else "ids went back"
                where = self._name(camera)
                self.lose(f"{what} before frame {frame_id}{where}, expected {expected}")
                return None
            eye.frame_id, eye.unnumbered = frame_id, 0
        if exposed_ns < self._since_ns:
            return None
        eye.frames += 1
        pair = self._pair(eye.frames, exposed_ns)
        pair.frames_ns[camera] = exposed_ns
        self._check(pair)
        return None if self.is_lost else pair

    def overdue(self, now_ns: int) -> None:
        """What stayed alone too long is a disagreement."""
        for pair in self._waiting.values():
            if pair.due_ns <= now_ns:
                self.lose(f"part {pair.number} since Resync has no {pair.missing}")
                return

    @property
    def due_ns(self) -> int | None:
        """When `overdue` finds the next one."""
        if self.is_lost or not self._waiting:
            return None
        return min(pair.due_ns for pair in self._waiting.values())

    def _pair(self, number: int, at_ns: int) -> Pair:
        pair = self._waiting.get(number)
        if pair is None:
            pair = Pair(number, at_ns + self._patience_ns, self._cameras)
            self._waiting[number] = pair
            self._near.append(pair)
        return pair

    def _check(self, pair: Pair) -> None:
        """Its frames lie within the window of its step; nobody else's do."""
        if pair.is_whole:
            del self._waiting[pair.number]
        for camera, apart_ns in _apart_ns(pair, pair):
            if apart_ns > self._window_ns:
                self.lose(
                    f"frame{self._name(camera)} and step of part {pair.number} since Resync "
                    f"lie {apart_ns / 1e6:.1f} ms apart, expected at most "
                    f"{self._window_ns / 1e6:.1f} ms"
                )
        for other in self._near:
            if other is pair:
                continue
            for first, second in ((pair, other), (other, pair)):
                for camera, apart_ns in _apart_ns(first, second):
                    if apart_ns < self._window_ns:
                        self.doubtful = (first.part_id, second.part_id)
                        self.lose(
                            f"frame {first.number}{self._name(camera)} and step {second.number} "
                            f"since Resync lie {apart_ns / 1e6:.1f} ms apart: whose frame it is "
                            "cannot be told"
                        )
                        return

    def _name(self, camera: str) -> str:
        """Of which camera, where there are several."""
        return _of([camera]) if len(self._cameras) > 1 else ""


def _of(cameras: Sequence[str]) -> str:
    return " of camera " + " and ".join(cameras)


def _apart_ns(frames: Pair, step: Pair) -> list[tuple[str, int]]:
    """Between each frame of one pair and the step of another; empty where that is not there."""
    if step.step_ns is None:
        return []
    return [(camera, abs(at_ns - step.step_ns)) for camera, at_ns in frames.frames_ns.items()]
