"""From frames that wait to answers: `Scored` or `InferFailed`, one of them for each frame, once.

Ring view → ROI → 8 bits → image gates → engine → was the frame still ours? → map ring → `Scored`.
Where decide is on another box the map goes behind the message. What is wrong with one frame is said
of that one; nothing here ends the process or decides what comes first.
"""

import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from appliance.batches import Waiting
from appliance.codes import Reason
from appliance.config import Config
from appliance.engine import Answer, Engine, Frame, Map
from appliance.errors import PartError
from appliance.frames import (
    INLINE,
    RingReader,
    RingWriter,
    inline_ref,
    inline_view,
    slots_for,
)
from appliance.infer_setup import CameraSetup, Setup
from appliance.messages import FrameReady, InferFailed, Scored

_FAILURES, _FAILURES_NS = 3, 60_000_000_000

Send = Callable[[Scored | InferFailed, Map | None], None]
"""To decide; with the map where it goes behind the message."""


class _Seen(NamedTuple):
    """A frame whose picture has passed its gates, and where its map goes."""

    waiting: Waiting
    setup: Setup
    camera: CameraSetup
    picture: Frame
    out: Map
    looked_ns: int


class Answers:
    """Who answers frames by the set-up in force, and holds the rings for it.

    name: of the worker. watched: around every call that a driver may never return from. has_ring:
    maps go through a ring of this box, else behind the message. clock: in ns.
    """

    def __init__(
        self,
        config: Config,
        name: str,
        watched: Callable[[], AbstractContextManager[None]],
        send: Send,
        *,
        has_ring: bool,
        clock: Callable[[], int],
    ) -> None:
        self._config, self._name, self._watched, self._send = config, name, watched, send
        self._has_ring, self._clock = has_ring, clock
        self._rings = RingReader(config.rings_dir)
        self._maps: RingWriter | None = None
        self._rooms: dict[str, npt.NDArray[np.float32]] = {}
        """One map for each camera: a call holds at most one frame of each."""
        self._setup: Setup | None = None
        self._failed_ns: deque[int] = deque(maxlen=_FAILURES)
        self.counters = Counter(scored=0, failed=0, batched=0)

    def make_room(self, setup: Setup) -> None:
        """A map ring whose slots hold this set-up's maps; a larger one replaces a smaller one.

        No part is open while a recipe changes, and a reader that has the old ring keeps it.
        Raises ConfigError where shared memory has no room.
        """
        if not self._has_ring:
            return
        needed = 4 * max(int(np.prod(camera.map_shape)) for camera in setup.cameras.values())
        if self._maps is None or self._maps.slot_bytes < needed:
            config = self._config
            rate_hz = sum(camera.rate_hz for camera in config.camera)
            slots = slots_for(config.deadline_ms, config.record.grace_ms, rate_hz)
            name = f"map-{self._name}"
            self._maps = RingWriter(config.rings_dir, name, slots, needed, self._maps)

    def use(self, setup: Setup | None) -> None:
        """Another set-up is in force, for which `make_room` was called; None: none is."""
        self._setup = setup
        self._failed_ns.clear()  # by engines that are gone
        cameras = {} if setup is None else setup.cameras
        self._rooms = {name: np.empty(each.map_shape, np.float32) for name, each in cameras.items()}

    def engine_of(self, camera: str) -> Engine | None:
        """None where no set-up is in force, or the camera is not in it."""
        setup = None if self._setup is None else self._setup.cameras.get(camera)
        return None if setup is None else setup.engine

    def answer(self, batch: list[Waiting], woken_ns: int) -> None:
        """Each of these frames. All are of one engine, and at most one is of each camera."""
        seen: list[_Seen] = []
        for one in batch:
            one.stages_ns["wait"] = self._clock() - woken_ns
            try:
                seen.append(self._look(one))
            except PartError as err:
                self._say_failed(one, err)
        # One that fell out may leave more calls than one: each is watched and answered by itself.
        while seen:
            count = seen[0].camera.engine.at_once(len(seen))
            now, seen = seen[:count], seen[count:]
            self._ask(now)

    @property
    def is_engine_failing(self) -> bool:
        """Three calls failed within a minute; see `Engine.failures` for what a failed call is."""
        failed_ns = self._failed_ns
        return len(failed_ns) == _FAILURES and failed_ns[-1] - failed_ns[0] <= _FAILURES_NS

    def close(self) -> None:
        """Remove the map ring."""
        if self._maps is not None:
            self._maps.close()

    def _ask(self, seen: list[_Seen]) -> None:
        """One call of the engine, and what it says."""
        self.counters["batched"] += len(seen) if len(seen) > 1 else 0
        entered = time.monotonic_ns()
        answers = self._run(seen)
        left = time.monotonic_ns()
        for one, answer in zip(seen, answers, strict=True):
            stages_ns = one.waiting.stages_ns
            stages_ns["wait"] += entered - one.looked_ns
            stages_ns["engine"] = left - entered
            try:
                self._say_scored(one, answer)
            except PartError as err:
                self._say_failed(one.waiting, err)

    def _look(self, one: Waiting) -> _Seen:
        """Fills its `gates` and `stages_ns` as far as it gets. Raises PartError."""
        setup, frame = self._setup, one.frame
        if setup is None or frame.setup_hash != setup.setup_hash:
            in_force = "none" if setup is None else f"{setup.setup_hash[:12]}…"
            raise PartError(
                Reason.WRONG_RECIPE,
                f"expected the set-up in force ({in_force}), got {frame.setup_hash[:12]}…",
            )
        camera = setup.cameras.get(frame.camera)
        if camera is None:
            raise PartError(Reason.INTERNAL, f"camera {frame.camera!r} is not in the recipe")
        if frame.pixels.dtype not in ("uint8", "uint16") or not 8 <= frame.bits <= 16:
            got = f"{frame.bits} bits in {frame.pixels.dtype}"
            raise PartError(Reason.INTERNAL, f"expected 8 to 16 bits in uint8 or uint16, got {got}")
        _require_time(one, camera.engine.shortest_ns, self._clock())
        begun = time.monotonic_ns()
        if frame.copied_here_ns:
            one.stages_ns["hand_over"] = begun - frame.copied_here_ns + frame.copy_ns
        pixels: Any = (
            inline_view(frame.pixels, one.inline)
            if frame.pixels.ring == INLINE
            else self._rings.view(frame.pixels)
        )
        try:
            picture = camera.look(pixels, frame, one.gates, one.stages_ns)
        except PartError:
            self._check(frame)
            raise
        looked_ns = time.monotonic_ns()
        if frame.pixels.ring != INLINE:
            with self._watched():  # a driver may hang while it pins the slot
                camera.engine.reads_from(frame.pixels.ring, self._rings.slot(frame.pixels))
        return _Seen(one, setup, camera, picture, self._rooms[frame.camera], looked_ns)

    def _say_scored(self, one: _Seen, answer: Answer) -> None:
        """Raises PartError where there is no answer, or none to this picture."""
        if isinstance(answer, PartError):
            raise answer
        frame, stages_ns = one.waiting.frame, one.waiting.stages_ns
        self._check(frame)
        begun = time.monotonic_ns()
        ring = self._maps
        amap = inline_ref(one.out, frame.frame_id) if ring is None else ring.put(one.out)
        stages_ns["map"] = time.monotonic_ns() - begun
        gates = one.waiting.gates
        scored = one.setup.score_of(frame, amap, answer, gates, stages_ns, self._name)
        self.counters["scored"] += 1
        self._send(scored, one.out if ring is None else None)

    def _say_failed(self, one: Waiting, err: PartError) -> None:
        self.counters["failed"] += 1
        self.counters[f"failed_{err.reason.name.lower()}"] += 1
        failed = InferFailed(
            camera=one.frame.camera,
            part_id=one.frame.part_id,
            frame_id=one.frame.frame_id,
            setup_hash=one.frame.setup_hash,
            reason=err.reason,
            detail=err.detail,
            gates=one.gates,
            stages_ns=one.stages_ns,
            worker=self._name,
        )
        self._send(failed, None)

    def _check(self, frame: FrameReady) -> None:
        """Raises FrameOverwritten: what was computed belongs to no picture."""
        if frame.pixels.ring != INLINE:
            self._rings.check(frame.pixels)

    def _run(self, seen: list[_Seen]) -> list[Answer]:
        """The network, watched. A call that failed is noted with its time."""
        engine = seen[0].camera.engine
        failures = engine.failures
        with self._watched():
            answers = engine.infer_many([one.picture for one in seen], [one.out for one in seen])
        if engine.failures > failures:
            self._failed_ns.append(self._clock())
        return answers


def _require_time(one: Waiting, shortest_ns: int, now_ns: int) -> None:
    """What a frame costs that is late all the same makes those that wait behind it late, too.

    Sockets hold more than the channel says: after a stop the frames of a second may wait, and where
    more come than the network can take, all would be just too late, and not only the excess. What
    has hardly waited goes through: its late result tells people more.

    shortest_ns: of the network's calls. Raises PartError, LATE.
    """
    left_ns = one.due_ns - now_ns
    if left_ns < 0:
        raise PartError(Reason.LATE, "its part was over before its turn came")
    waited_ns = now_ns - (one.frame.copied_here_ns or now_ns)
    if left_ns < shortest_ns < waited_ns:
        left, needed = (f"{ns / 1e6:.1f} ms" for ns in (left_ns, shortest_ns))
        raise PartError(
            Reason.LATE, f"{left} were left when its turn came, the network takes {needed}"
        )
