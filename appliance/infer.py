"""PROCESS infer: `FrameReady` → anomaly map in the second ring and `Scored`, or `InferFailed`.

One blocking loop: ring view → ROI → 8 bits → image gates → engine → was the frame still ours? →
map ring → `Scored`; where decide is on another box the map goes behind the message. Every frame
that comes is answered once; of several cameras the oldest deadline first, and those that wait at
the same time together, where the engine gains by that (`batches.py`). It holds the set-up in force
and the one prepared beside it; a set-up that cannot be used is `Refused` and nothing ends. The
process ends itself, for the supervisor to start it afresh, in two cases: one call into the engine
lasts too long, or the engine fails three times within a minute.
"""

import faulthandler
import os
import time
from collections import Counter, deque
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from appliance.batches import Waiting, due_ns, in_order, next_batch
from appliance.codes import OfflineReason, Reason
from appliance.config import Config
from appliance.engine import Answer, Engine, Frame, Map
from appliance.errors import ArtefactError, ConfigError, PartError
from appliance.frames import (
    INLINE,
    RingReader,
    RingWriter,
    inline_ref,
    inline_view,
    slots_for,
)
from appliance.golden import DailyProof
from appliance.hang_guard import HangGuard
from appliance.infer_setup import CameraSetup, Setup, prepare
from appliance.messages import (
    AnyMessage,
    FrameReady,
    Health,
    InferFailed,
    Prepare,
    Prepared,
    Refused,
    Swap,
)
from appliance.service import EXIT_NO, Service
from appliance.shortage import own_use
from appliance.throttle_nvidia import NvidiaThrottle
from appliance.wire import SETUP_ANSWER_MS, Inbox, Wiring

_HEALTH_NS = 100_000_000
_FAILURES, _FAILURES_NS = 3, 60_000_000_000
_HEAT_NS = 1_000_000_000
_QUIET_NS = 10_000_000_000
"""No frame for so long: the daily proof may take a turn."""
_LOADING_NS = 120_000_000_000
"""Hang limit of one step of a preparation: three bundles that take a minute each are no hang."""


def main(service: Service, config: Config, name: str) -> None:
    """Serve until stopped. Exit code 1 where the engine hangs or keeps failing."""
    with Wiring(config.runtime_dir, config.wire.remote, config.keys_dir) as wiring:
        Infer(service, config, name or "0", wiring).serve()


class _Seen(NamedTuple):
    """A frame whose picture has passed its gates, and where its map goes."""

    waiting: Waiting
    setup: Setup
    camera: CameraSetup
    picture: Frame
    out: Map
    looked_ns: int


class Infer:
    """The process: sockets, rings and the two set-ups."""

    def __init__(self, service: Service, config: Config, name: str, wiring: Wiring) -> None:
        self._service, self._config, self._name = service, config, name
        self._label = f"infer:{name}"
        self._frames = wiring.receiver("frames", *config.cameras)
        self._orders = wiring.receiver("prepare", self._label)
        self._scored = wiring.sender("scored")
        self._health = wiring.sender("health", self._label)
        self._delays_ns = {each.name: int(each.arrival_delay_ms * 1e6) for each in config.camera}
        self._rings = RingReader(config.rings_dir)
        self._is_map_sent_along = wiring.leaves_box("scored")
        self._maps: RingWriter | None = None
        self._map: dict[str, npt.NDArray[np.float32]] = {}
        self._current: Setup | None = None
        self._prepared: Setup | None = None
        self._daily: tuple[DailyProof, ...] = ()
        self._frame_ns = 0
        self._guard = HangGuard(_LOADING_NS, self._hung)
        self._engine_failed_ns: deque[int] = deque(maxlen=_FAILURES)
        self._counters = Counter(scored=0, failed=0, refused=0, unsent=0, batched=0)
        self._note = "no recipe prepared yet"
        self._beat_ns = 0
        is_on_gpu = config.engine.kind in ("tensorrt", "onnx-cuda")
        self._gpu = NvidiaThrottle() if is_on_gpu else None
        self._hot, self._looked_ns = "", 0

    def serve(self) -> None:
        """The loop; releases everything at the end."""
        service, inbox = self._service, Inbox(self._orders, self._frames)
        self._beat()
        service.ready()
        try:
            while not service.is_stopping:
                woken_ns, beat_ns = 0, self._beat_ns
                for receiver, message in inbox.poll(self._patience_ms()):
                    woken_ns = woken_ns or service.clock()
                    self._take(message, receiver.inline, woken_ns)
                    self._beat()
                    if self._beat_ns != beat_ns or service.is_stopping:
                        # Frames may come as fast as they are taken: orders and signals get a turn.
                        break
                if not woken_ns:
                    self._prove_again()
                self._beat()
                service.turn()
        finally:
            self._guard.close()
            for setup in (self._current, self._prepared):
                if setup is not None:
                    setup.close()
            if self._maps is not None:
                self._maps.close()

    def _take(self, message: AnyMessage, inline: bytes | None, woken_ns: int) -> None:
        match message:
            case FrameReady():
                self._frame_ns = woken_ns
                self._answer_all(message, inline, woken_ns)
            case Prepare():
                self._prepare(message)
            case Swap():
                self._swap(message)
            case _:
                self._counters["foreign"] += 1

    def _prepare(self, order: Prepare) -> None:
        for ready in (self._current, self._prepared):
            # Asked again because the answer came late: the proof still stands.
            if ready is not None and ready.setup_hash == order.setup_hash:
                self._say_prepared(ready)
                return
        self._drop_prepared()
        self._service.extend(_LOADING_NS / 1e9)
        self._guard.limit_ns = _LOADING_NS
        try:
            with self._guard:
                setup = prepare(self._config, order.recipe, order.setup_hash, self._loading)
            try:
                self._make_room(setup)
            except ConfigError:
                setup.close()
                raise
        except ConfigError as err:
            self._counters["refused"] += 1
            if self._current is None:
                self._note = str(err)
            self._service.log.warning("set-up refused", recipe=order.recipe, error=str(err))
            offline = err.offline if isinstance(err, ArtefactError) else OfflineReason.ENGINE
            refused = Refused(
                process=self._label,
                setup_hash=order.setup_hash,
                where=err.where,
                expected=err.expected,
                got=err.got,
                offline=offline,
            )
            self._send(refused)
        else:
            self._prepared = setup
            self._say_prepared(setup)
        finally:
            if self._current is not None:
                self._guard.limit_ns = self._current.hang_limit_ns

    def _say_prepared(self, setup: Setup) -> None:
        prepared = Prepared(
            process=self._label,
            setup_hash=setup.setup_hash,
            passport=setup.passports,
            is_simulated=setup.is_simulated,
        )
        self._send(prepared)

    def _make_room(self, setup: Setup) -> None:
        """A map ring whose slots hold this set-up's maps; a larger one replaces a smaller one.

        No part is open while a recipe changes, and a reader that has the old ring keeps it.
        """
        if self._is_map_sent_along:
            return
        needed = 4 * max(int(np.prod(camera.map_shape)) for camera in setup.cameras.values())
        if self._maps is None or self._maps.slot_bytes < needed:
            config = self._config
            rate_hz = sum(camera.rate_hz for camera in config.camera)
            slots = slots_for(config.deadline_ms, config.record.grace_ms, rate_hz)
            name = f"map-{self._name}"
            self._maps = RingWriter(config.rings_dir, name, slots, needed, self._maps)

    def _swap(self, order: Swap) -> None:
        if self._prepared is not None and order.setup_hash == self._prepared.setup_hash:
            if self._current is not None:
                self._current.close()
            self._current, self._prepared = self._prepared, None
            self._map = {
                name: np.empty(camera.map_shape, np.float32)
                for name, camera in self._current.cameras.items()
            }
            self._guard.limit_ns = self._current.hang_limit_ns
            self._note = ""
            now_ns = self._service.clock()
            self._daily = tuple(DailyProof(golden, now_ns) for golden in self._current.goldens)
            self._service.log.info("set-up in force", passport=self._current.passports)
        elif self._current is not None and order.setup_hash == self._current.setup_hash:
            self._drop_prepared()
        else:
            # Health shows what is in force; decide will ask for what it wants.
            self._counters["unknown_swaps"] += 1
        self._beat_ns = 0

    def _prove_again(self) -> None:
        """In a quiet minute, once a day: one golden frame. What fails is no longer in force.

        decide then asks for the set-up again, and is told why it is refused.
        """
        now_ns, setup = self._service.clock(), self._current
        due = next((proof for proof in self._daily if proof.is_due(now_ns)), None)
        if setup is None or due is None or now_ns - self._frame_ns < _QUIET_NS:
            return
        try:
            due.step(now_ns, self._guard)
        except ArtefactError as err:
            self._service.log.warning("the daily proof failed", error=str(err))
            self._counters["proofs_failed"] += 1
            self._note = str(err)
            self._current, self._daily = None, ()
            setup.close()
            self._beat_ns = 0

    def _drop_prepared(self) -> None:
        if self._prepared is not None:
            self._prepared.close()
            self._prepared = None

    def _answer_all(self, frame: FrameReady, inline: bytes | None, woken_ns: int) -> None:
        """This frame and what waits besides."""
        waiting = self._waiting(frame, inline)
        while waiting:
            batch, waiting = next_batch(waiting, self._engine_of, self._service.clock())
            self._answer(batch, woken_ns)
            self._beat()
            self._service.turn()
        self._end_if_engine_keeps_failing()

    def _waiting(self, frame: FrameReady, inline: bytes | None) -> list[Waiting]:
        """In order: this frame and at most one more for each other camera.

        The others stay where cameras see that they wait, and the channel gives each its turn.
        """
        found = [self._noted(frame, inline)]
        while len(found) < len(self._config.cameras):
            message = self._frames.receive()
            if not isinstance(message, FrameReady):
                self._counters["foreign"] += message is not None
                break
            found.append(self._noted(message, self._frames.inline))
        return in_order(found)

    def _noted(self, frame: FrameReady, inline: bytes | None) -> Waiting:
        deadline_ns = self._config.deadline_ms * 1_000_000
        delay_ns = self._delays_ns.get(frame.camera, 0)
        return Waiting(frame, inline, due_ns(frame, self._service.clock(), deadline_ns, delay_ns))

    def _engine_of(self, camera: str) -> Engine | None:
        setup = None if self._current is None else self._current.cameras.get(camera)
        return None if setup is None else setup.engine

    def _answer(self, batch: list[Waiting], woken_ns: int) -> None:
        """Scored or InferFailed, one of them for each frame, once. All are of one engine."""
        seen: list[_Seen] = []
        for one in batch:
            one.stages_ns["wait"] = self._service.clock() - woken_ns
            try:
                seen.append(self._look(one))
            except PartError as err:
                self._say_failed(one, err)
        # One that fell out may leave more calls than one: each is watched and answered by itself.
        while seen:
            count = seen[0].camera.engine.at_once(len(seen))
            now, seen = seen[:count], seen[count:]
            self._ask(now)

    def _ask(self, seen: list[_Seen]) -> None:
        """One call of the engine, and what it says."""
        self._counters["batched"] += len(seen) if len(seen) > 1 else 0
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
        setup, frame = self._current, one.frame
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
        begun = time.monotonic_ns()
        if frame.pixels.ring != INLINE and frame.copied_at_ns:
            one.stages_ns["hand_over"] = begun - frame.copied_at_ns + frame.copy_ns
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
            with self._guard:  # a driver may hang while it pins the ring
                camera.engine.reads_from(frame.pixels.ring, self._rings.memory(frame.pixels))
        return _Seen(one, setup, camera, picture, self._map[frame.camera], looked_ns)

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
        self._counters["scored"] += 1
        self._send(scored, one.out if ring is None else None)

    def _say_failed(self, one: Waiting, err: PartError) -> None:
        self._counters["failed"] += 1
        self._counters[f"failed_{err.reason.name.lower()}"] += 1
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
        self._send(failed)

    def _check(self, frame: FrameReady) -> None:
        """Raises FrameOverwritten: what was computed belongs to no picture."""
        if frame.pixels.ring != INLINE:
            self._rings.check(frame.pixels)

    def _run(self, seen: list[_Seen]) -> list[Answer]:
        """The network, watched. What the engine itself could not do is noted."""
        engine = seen[0].camera.engine
        failures = engine.failures
        try:
            with self._guard:
                return engine.infer_many([one.picture for one in seen], [one.out for one in seen])
        finally:
            failed = engine.failures - failures
            self._engine_failed_ns.extend([self._service.clock()] * failed)

    def _end_if_engine_keeps_failing(self) -> None:
        failed_ns = self._engine_failed_ns
        if len(failed_ns) == _FAILURES and failed_ns[-1] - failed_ns[0] <= _FAILURES_NS:
            self._service.log.error("the engine failed three times within a minute")
            raise SystemExit(EXIT_NO)

    def _hung(self) -> None:
        """In the guard's thread: no cleaning up can be trusted while a runtime hangs."""
        limit_ms = self._guard.limit_ns // 1_000_000
        self._service.log.error("the engine hangs", limit_ms=limit_ms)
        faulthandler.dump_traceback()
        os._exit(EXIT_NO)

    def _send(self, message: AnyMessage, amap: npt.NDArray[np.float32] | None = None) -> None:
        is_about_setup = isinstance(message, Prepared | Refused)
        if not self._scored.send(message, amap, SETUP_ANSWER_MS if is_about_setup else 0):
            self._counters["unsent"] += 1

    def _loading(self) -> None:
        """Between the steps of a preparation: alive, and no hang."""
        self._guard.step()
        self._beat()
        self._service.turn()
        self._service.extend(_LOADING_NS / 1e9)

    def _patience_ms(self) -> int:
        waited_ns = self._service.clock() - self._beat_ns
        return max(0, min(_HEALTH_NS, _HEALTH_NS - waited_ns)) // 1_000_000

    def _beat(self) -> bool:
        """Health, at most every 100 ms. True where it was time for it."""
        now_ns = self._service.clock()
        if self._beat_ns and now_ns - self._beat_ns < _HEALTH_NS:
            return False
        self._beat_ns = now_ns
        setup = self._current
        gauges = own_use()
        if setup is not None:
            gauges["hang_limit_ms"] = setup.hang_limit_ns / 1e6
            for camera in setup.cameras.values():
                gauges.update(camera.engine.health())
        if self._gpu is not None:
            if now_ns - self._looked_ns >= _HEAT_NS:
                self._looked_ns, lost, hot = now_ns, self._gpu.lost, self._gpu.look()
                self._service.changed("GPU throttled", self._hot, hot)
                self._service.changed("heat of the GPU cannot be read", lost, self._gpu.lost)
                self._hot = hot
            gauges["gpu_throttled"] = float(bool(self._hot))
            gauges["gpu_heat_unknown"] = float(bool(self._gpu.lost))
        health = Health(
            process=self._label,
            pid=os.getpid(),
            life=self._service.life,
            is_serving=setup is not None,
            setup_hash="" if setup is None else setup.setup_hash,
            counters={
                **self._counters,
                "undecodable": self._frames.foreign + self._orders.foreign,
            },
            gauges=gauges,
            note=self._note,
        )
        self._health.send(health)
        return True
