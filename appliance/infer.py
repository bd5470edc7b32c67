"""PROCESS infer: `FrameReady` → anomaly map in the second ring and `Scored`, or `InferFailed`.

One blocking loop. Every frame that comes is answered once (`infer_answers.py`); of several cameras
the oldest deadline first, and those that wait at the same time together, where the engine gains by
that (`batches.py`). It holds the set-up in force and the one prepared beside it; a set-up that
cannot be used is `Refused` and nothing ends. The process ends itself, for the supervisor to start
it afresh, in two cases: one call into the engine lasts too long, or three calls fail within a
minute.
"""

import os
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager

from appliance.batches import Waiting, due_ns, in_order, next_batch
from appliance.config import Config
from appliance.engine import Map
from appliance.errors import ArtefactError, ConfigError
from appliance.golden import DailyProof
from appliance.hang_guard import HangGuard
from appliance.infer_answers import Answers
from appliance.infer_setup import HANG_LIMIT_NS, Setup, prepare
from appliance.messages import (
    AnyMessage,
    FrameReady,
    Health,
    Prepare,
    Prepared,
    Refused,
    Swap,
    refusal,
)
from appliance.service import EXIT_NO, Service
from appliance.shortage import own_use
from appliance.throttle_nvidia import NvidiaThrottle
from appliance.wire import SETUP_ANSWER_MS, Inbox, Wiring

_HEALTH_NS = 100_000_000
_HEAT_NS = 1_000_000_000
_QUIET_NS = 10_000_000_000
"""No frame for so long: the daily proof may take a turn."""
_LOADING_NS = 120_000_000_000
"""Hang limit of one step of a preparation: three bundles that take a minute each are no hang."""
_CLOSING_NS = 5_000_000_000
"""Hang limit of giving a set-up back, while a recipe changes: a driver may take its time."""


def main(service: Service, config: Config, name: str) -> None:
    """Serve until stopped. Exit code 1 where the engine hangs or keeps failing."""
    with Wiring(config.runtime_dir, config.wire.remote, config.keys_dir) as wiring:
        Infer(service, config, name or "0", wiring).serve()


class Infer:
    """The process: sockets, the two set-ups, and what keeps it alive or ends it."""

    def __init__(self, service: Service, config: Config, name: str, wiring: Wiring) -> None:
        self._service, self._config = service, config
        self._label = f"infer:{name}"
        self._frames = wiring.receiver("frames", *config.cameras)
        self._orders = wiring.receiver("prepare", self._label)
        self._scored = wiring.sender("scored")
        self._health = wiring.sender("health", self._label)
        self._delays_ns = {each.name: int(each.arrival_delay_ms * 1e6) for each in config.camera}
        self._current: Setup | None = None
        self._prepared: Setup | None = None
        self._daily: tuple[DailyProof, ...] = ()
        self._frame_ns = 0
        self._guard = HangGuard(_LOADING_NS, self._hung)
        has_ring = not wiring.leaves_box("scored")
        self._answers = Answers(
            config, name, self._watched, self._send, has_ring=has_ring, clock=service.clock
        )
        self._counters = Counter(refused=0, unsent=0)
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
            self._answers.close()

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
                self._answers.make_room(setup)
            except ConfigError:
                self._close(setup)
                raise
        except ConfigError as err:
            self._counters["refused"] += 1
            if self._current is None:
                self._note = str(err)
            self._service.log.warning("set-up refused", recipe=order.recipe, error=str(err))
            self._send(refusal(self._label, order.setup_hash, err))
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
        )
        self._send(prepared)

    def _swap(self, order: Swap) -> None:
        if self._prepared is not None and order.setup_hash == self._prepared.setup_hash:
            if self._current is not None:
                self._close(self._current)
            self._current, self._prepared = self._prepared, None
            self._answers.use(self._current)
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
            due.step(now_ns, self._watched())
        except ArtefactError as err:
            self._service.log.warning("the daily proof failed", error=str(err))
            self._counters["proofs_failed"] += 1
            self._note = str(err)
            self._current, self._daily = None, ()
            self._answers.use(None)
            self._close(setup)
            self._beat_ns = 0

    def _drop_prepared(self) -> None:
        if self._prepared is not None:
            self._close(self._prepared)
            self._prepared = None

    def _close(self, setup: Setup) -> None:
        """Watched like every other call that a driver may never return from."""
        limit_ns, self._guard.limit_ns = self._guard.limit_ns, _CLOSING_NS
        with self._watched():
            setup.close()
        self._guard.limit_ns = limit_ns

    def _answer_all(self, frame: FrameReady, inline: bytes | None, woken_ns: int) -> None:
        """This frame and what waits besides."""
        waiting = self._waiting(frame, inline)
        while waiting:
            batch, waiting = next_batch(waiting, self._answers.engine_of, self._service.clock())
            self._answers.answer(batch, woken_ns)
            self._beat()
            self._service.turn()
        if self._answers.is_engine_failing:
            self._service.log.error("the engine failed three times within a minute")
            raise SystemExit(EXIT_NO)

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

    @contextmanager
    def _watched(self) -> Generator[None]:
        """Around each call that may never return. The watchdog waits as long as the guard does: a
        call of a large network on a small processor may take longer than a turn may."""
        if self._guard.limit_ns > HANG_LIMIT_NS:
            self._service.extend(self._guard.limit_ns / 1e9)
        with self._guard:
            yield

    def _hung(self) -> None:
        """In the guard's thread: no cleaning up can be trusted while a runtime hangs."""
        limit_ms = self._guard.limit_ns // 1_000_000
        threads = sys._current_frames()  # pyright: ignore[reportPrivateUsage] - documented so
        frames = traceback.walk_stack(threads[threading.main_thread().ident or 0])
        calls = [f"{frame.f_code.co_filename}:{line}" for frame, line in frames]
        # Not by faulthandler, which would wait for whoever reads the log.
        self._service.log.error("the engine hangs", limit_ms=limit_ms, at=" < ".join(calls))
        self._service.leave(EXIT_NO)

    def _send(self, message: AnyMessage, amap: Map | None = None) -> None:
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
            gauges.update(setup.figures())
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
            is_simulated=setup is not None and setup.is_simulated,
            counters={
                **self._answers.counters,
                **self._counters,
                "undecodable": self._frames.foreign + self._orders.foreign,
            },
            gauges=gauges,
            note=self._note,
        )
        self._health.send(health)
        return True
