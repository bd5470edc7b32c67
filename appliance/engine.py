"""What an engine is: a uint8 frame in, raw logits out. `engine_opening.py` opens one.

Every engine passes the same contract suite. An engine never answers without an answer: the output
is filled with NaN before each call and checked after it, so a call that wrote nothing, or not all,
is an error and no stale map of the part before.

Several frames may go through the runtime in one call, where the warm-up found that this is worth it
and changes no bit: what a part is given must not depend on who waits beside it.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from appliance.codes import Reason
from appliance.errors import ArtefactError, DeviceError, PartError
from appliance.head import Sums
from appliance.passport import cpu_name
from appliance.toml_file import Section

Frame = npt.NDArray[np.uint8]
Map = npt.NDArray[np.float32]
Answer = float | PartError
"""The classification logit of a frame, or why there is none."""

_WARM_UP_RUNS = (5, 30)
_WARM_UP_NS = 500_000_000
_BATCH_RUNS = 3


def is_worth_it(count: int, cost: float, best: float) -> bool:
    """Whether `count` frames shall go through one call.

    cost: its time ÷ as many single calls. best: that of the largest call so far. One after another
    the frames are answered after 1, 2 … `count` times the time of one, in the mean after
    (count + 1) / 2 times: a call that takes longer makes the answers later.
    """
    return cost < min(best, (count + 1) / 2 / count)


class Spec(Section, frozen=True, kw_only=True):
    """What goes into an engine and what comes out."""

    height_px: int
    width_px: int
    channels: int
    map_shape: tuple[int, int, int]
    """(K, h, w): detectors, pixels of the network input."""

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.height_px, self.width_px, self.channels


class Engine(ABC):
    """One loaded network on one device. Used by one thread; close it, twice is fine.

    model: the ONNX graph that runs: input `frame`, uint8 (N, H, W, C); outputs `map`, float32
    (N, K, h, w), and `score`, float32 (N,). Raises ArtefactError where it cannot be used.
    """

    kind: ClassVar[str]
    runtime: ClassVar[str]
    """Name and version of the library."""
    precisions: ClassVar[tuple[str, ...]]
    sums: ClassVar[Sums] = "integer"
    """How the pre-processing head adds pixels here; see `head.head_model`."""
    is_simulated: bool = False
    plan: str = ""
    """SHA-256 of what was built for this device and is loaded; "" = the network itself runs."""
    uses_threads: ClassVar[bool] = True
    """Computes on the processor: the number of threads is part of who it is."""

    def __init__(self, spec: Spec, model: bytes, precision: str, threads: int) -> None:
        self.require_precision(precision)
        self.spec, self.precision, self.threads = spec, precision, threads
        self.calls = 0
        """Frames that the runtime was asked about."""
        self.failures = 0
        """Calls that failed: the runtime said so, or a result that it gave is no number. One call
        is one failure, however many frames went through it: three cameras that look at the same
        broken part are no three failures of the engine. Counted in `_call` and nowhere else."""
        self.last_ns = 0
        """Of the last call, of one frame or several."""
        self.shortest_ns = 0
        """Of the fastest call so far; 0 = there was none."""
        self.batch_ns: dict[int, int] = {1: 0}
        """How many frames one call takes → its longest time when that was measured, ascending."""
        self._batch_cost = 1.0
        self._is_closed = False
        self._load(model)

    def infer(self, frame: Frame, out: Map) -> float:
        """Run the network: the raw maps go into `out`, the classification logit is returned.

        frame: (H, W) or (H, W, C) uint8 of the size that the engine was opened for. out: (K, h, w)
        float32, contiguous, one's own; its content means nothing after an error.
        Raises PartError: INFERENCE_ERROR on another frame size and where the runtime fails,
        INVALID_NUMBER where an output is not finite. Raises DeviceError after `close`.
        """
        (answer,) = self.infer_many((frame,), (out,))
        if isinstance(answer, PartError):
            raise answer
        return answer

    def infer_many(self, frames: Sequence[Frame], outs: Sequence[Map]) -> list[Answer]:
        """The same for several frames, in as few calls as `batch_ns` allows: one answer for each.

        A frame of another size, and a result that is not finite, fail by themselves; an error of
        the runtime is that of all frames of the call.
        """
        if self._is_closed:
            raise DeviceError(f"the {self.kind} engine is closed")
        answers: dict[int, Answer] = {}
        left: list[int] = []
        for index, (frame, out) in enumerate(zip(frames, outs, strict=True)):
            shape = frame.shape if frame.ndim == 3 else (*frame.shape, 1)
            if shape != self.spec.frame_shape or frame.dtype != np.uint8:
                expected = f"expected a uint8 frame {self.spec.frame_shape}"
                misfit = f"{expected}, got {frame.dtype} {shape}"
                answers[index] = PartError(Reason.INFERENCE_ERROR, misfit)
            elif out.shape != self.spec.map_shape or out.dtype != np.float32:
                expected = f"expected room for {self.spec.map_shape} float32"
                raise ValueError(f"{expected}, got {out.shape}")
            else:
                left.append(index)
        while left:
            count = self.at_once(len(left))
            now, left = left[:count], left[count:]
            fitting = [frames[index].reshape(self.spec.frame_shape) for index in now]
            given = self._call(fitting, [outs[index] for index in now])
            answers.update(zip(now, given, strict=True))
        return [answers[index] for index in range(len(frames))]

    def at_once(self, count: int) -> int:
        """Of so many frames, how many the next call takes."""
        return max(size for size in self.batch_ns if size <= count)

    def _call(self, frames: Sequence[Frame], outs: Sequence[Map]) -> list[Answer]:
        """One call into the runtime, with an answer for each frame."""
        self.calls += len(frames)
        for out in outs:
            out.fill(np.nan)
        begun = time.monotonic_ns()
        try:
            scores = self._run(frames, outs)
        except PartError as err:
            self.failures += 1
            return [err] * len(frames)
        answers: list[Answer] = [
            score
            if np.isfinite(score) and np.isfinite(out).all()
            else PartError(Reason.INVALID_NUMBER, "the network's output is not finite")
            for score, out in zip(scores, outs, strict=True)
        ]
        self.failures += any(isinstance(answer, PartError) for answer in answers)
        self.last_ns = time.monotonic_ns() - begun
        self.shortest_ns = min(self.shortest_ns or self.last_ns, self.last_ns)
        return answers

    def reads_from(self, ring: str, slot: npt.NDArray[np.uint8]) -> None:  # noqa: B027
        """The next frame of this ring lies in this slot; told before each of them.

        ring: "WRITER.EPOCH.ring"; another epoch replaces the one before. slot: all of its memory,
        at the same address whenever it is told. For engines that can fetch pixels from where they
        lie.
        """

    @classmethod
    def require_precision(cls, precision: str) -> None:
        """Raises ArtefactError where this engine does not compute in it."""
        if precision not in cls.precisions:
            raise ArtefactError(
                "engine.precision", f"{', '.join(cls.precisions)} with {cls.kind}", precision
            )

    @classmethod
    def device(cls) -> tuple[str, str]:
        """Name of what computes, and its driver; "" where it has none. Raises ArtefactError."""
        return cpu_name(), ""

    @abstractmethod
    def _load(self, model: bytes) -> None:
        """Make ready for `self.spec`. Raises ArtefactError."""

    @abstractmethod
    def _run(self, frames: Sequence[Frame], outs: Sequence[Map]) -> Sequence[float]:
        """One call: frames (H, W, C), contiguous or not, maybe read-only; outs (K, h, w).

        As many as a key of `batch_ns` says, or as `_make_room` was asked for last.
        """

    def _make_room(self, count: int) -> bool:
        """Be ready for calls of so many frames, too. False: this engine takes no such call."""
        del count
        return False

    def _give_up_room(self, count: int) -> None:  # noqa: B027
        """Calls of so many frames will not come."""

    @abstractmethod
    def _release(self) -> None:
        """Give back what the runtime holds."""

    def warm_up(self, together: int = 1) -> int:
        """Run on noise until times are steady; returns the 99th percentile of a call in ns.

        together: frames that may have to be answered at once. How many of them one call takes is
        measured here, see `batch_ns`. Raises PartError where the network cannot be run or its
        output is not finite.
        """
        shape = (together, *self.spec.frame_shape)
        noise = list(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
        out = np.empty(self.spec.map_shape, np.float32)
        times: list[int] = []
        deadline = time.monotonic_ns() + _WARM_UP_NS
        for run in range(_WARM_UP_RUNS[1]):
            if run >= _WARM_UP_RUNS[0] and time.monotonic_ns() > deadline:
                break
            self.infer(noise[0], out)
            times.append(self.last_ns)
        p99_ns = int(np.quantile(times[2:], 0.99))
        self.batch_ns = {1: p99_ns}
        self._find_batches(noise, float(np.median(times[2:])))
        return max(self.batch_ns.values())

    def _find_batches(self, noise: list[Frame], single_ns: float) -> None:
        """Two frames in a call, four, and so on, while that is worth it and changes no bit."""
        count, best = 1, 1.0
        while count < len(noise):
            count = min(2 * count, len(noise))
            if not self._make_room(count):
                return
            outs, again = np.empty((2, count, *self.spec.map_shape), np.float32)
            singles = [self.infer(frame, out) for frame, out in zip(noise, outs, strict=False)]
            times: list[int] = []
            answers: list[Answer] = []
            for _ in range(1 + _BATCH_RUNS):
                answers = self._call(noise[:count], list(again))
                times.append(self.last_ns)
            self._batch_cost = float(np.median(times[1:])) / (count * single_ns)
            is_same = answers == singles and np.array_equal(outs, again)
            if not is_same or not is_worth_it(count, self._batch_cost, best):
                self._give_up_room(count)
                return
            best = self._batch_cost
            self.batch_ns[count] = max(times[1:])

    def close(self) -> None:
        """Release the runtime; twice is fine."""
        if not self._is_closed:
            self._is_closed = True
            self._release()

    def health(self) -> dict[str, float]:
        """Figures for people: frames, failed calls, time of the last call in ms, and `traits`.

        Of several engines `figures_of` makes one; what a new figure does there is said there.
        """
        return {
            "engine_calls": self.calls,
            "engine_failures": self.failures,
            "engine_ms": self.last_ns / 1e6,
            **self.traits(),
        }

    def traits(self) -> dict[str, float]:
        """What the warm-up found: frames that one call takes; the time of the last number of them
        that was tried, as a share of as many single calls (1: none was tried)."""
        return {"engine_batch": max(self.batch_ns), "engine_batch_cost": self._batch_cost}


_ADD_UP = frozenset({"engine_calls", "engine_failures", "engine_pinned_rings"})
_LEAST = frozenset({"engine_batch", "engine_cuda_graph"})


def figures_of(engines: Iterable[Engine]) -> dict[str, float]:
    """`Engine.health` of several engines as one, so that none hides another's trouble.

    What is counted adds up; of everything else the worst is told: of `engine_batch` and
    `engine_cuda_graph` the least, of times and costs the largest.
    """
    told: dict[str, list[float]] = {}
    for engine in engines:
        for name, value in engine.health().items():
            told.setdefault(name, []).append(value)
    return {
        name: (sum if name in _ADD_UP else min if name in _LEAST else max)(values)
        for name, values in told.items()
    }
