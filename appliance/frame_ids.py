"""Which part a picture belongs to, where no message says it. Pure.

In free run and behind a light barrier a camera knows its frame ids alone. Which of them was tied to
which part is remembered here, which belong to none, and what infer said of a frame that was not
announced yet: two sockets are read in any order.
"""

import math
from typing import TypeAlias

from appliance.messages import FrameReady, InferFailed, Scored

Answer: TypeAlias = Scored | InferFailed

_EARLY_NS = 5_000_000_000
"""An answer that waits for its frame so long waits for one that nobody saw."""


class FrameIds:
    """By camera and frame id: two cameras may give the same number."""

    def __init__(self) -> None:
        self._parts: dict[tuple[str, int], int] = {}
        self._ignored: dict[tuple[str, int], int] = {}
        self._early: dict[tuple[str, int], tuple[int, Answer]] = {}
        self._since: dict[str, int] = {}
        """By camera, the lowest id of which it is known whether its frame was announced: of the
        first one in our life and its own that is not forgotten."""

    def is_known(self, frame: FrameReady) -> bool:
        """It was tied or ignored before."""
        key = (frame.camera, frame.frame_id)
        return key in self._parts or key in self._ignored

    def part_of(self, message: FrameReady | Answer) -> int:
        """Id of the part; 0 where there is none."""
        return self._parts.get((message.camera, message.frame_id), 0)

    def tie(self, frame: FrameReady, part_id: int) -> Answer | None:
        """It is this part's. Returns what infer said of it already."""
        key = (frame.camera, frame.frame_id)
        self._since.setdefault(*key)
        self._parts[key] = part_id
        _, early = self._early.pop(key, (0, None))
        return early

    def ignore(self, frame: FrameReady, now_ns: int) -> None:
        """It belongs to no part, and neither does what infer will say of it."""
        key = (frame.camera, frame.frame_id)
        self._since.setdefault(*key)
        self._ignored[key] = now_ns
        self._early.pop(key, None)

    def is_ignored(self, message: FrameReady | Answer) -> bool:
        """Its frame belongs to no part."""
        return (message.camera, message.frame_id) in self._ignored

    def keep(self, answer: Answer, now_ns: int) -> bool:
        """Until its frame is tied. True where another answer waited for the same one."""
        key = (answer.camera, answer.frame_id)
        is_double = key in self._early
        self._early[key] = (now_ns, answer)
        return is_double

    def forget(self, frame: FrameReady) -> None:
        """Its part is long closed."""
        key = (frame.camera, frame.frame_id)
        self._parts.pop(key, None)
        self._forgot(*key)

    def _forgot(self, camera: str, frame_id: int) -> None:
        self._since[camera] = max(frame_id + 1, self._since.get(camera, 0))

    def camera_restarted(self, camera: str) -> int:
        """What its last life had announced is all that will come of it. How many answers wait for
        a frame of that life: they do not any more."""
        self._since.pop(camera, None)
        void = [key for key in self._early if key[0] == camera]
        for key in void:
            del self._early[key]
        return len(void)

    def expire(self, now_ns: int, remember_ns: int) -> tuple[int, int]:
        """How many answers were of frames that nobody saw: in free run a lost `FrameReady` each.
        And how many of frames from before all that is known: infer found us sooner than the camera
        did, or answered one that the camera died with, or one that waited while infer prepared a
        set-up.

        remember_ns: how long a frame that belongs to no part is known.
        """
        while self._ignored and now_ns - next(iter(self._ignored.values())) > remember_ns:
            key = next(iter(self._ignored))
            del self._ignored[key]
            self._forgot(*key)
        waited = [key for key, (at, _) in self._early.items() if now_ns - at > _EARLY_NS]
        for key in waited:
            del self._early[key]
        lost = sum(1 for camera, number in waited if number >= self._since.get(camera, math.inf))
        return lost, len(waited) - lost
