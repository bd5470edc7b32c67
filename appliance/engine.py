"""What an engine is: a uint8 frame in, raw logits out; and the one way to open one.

Every engine passes the same contract suite. An engine never answers without an answer: the output
is filled with NaN before each call and checked after it, so a call that wrote nothing, or not all,
is an error and no stale map of the part before.

Several frames may go through the runtime in one call, where the warm-up found that this is worth it
and changes no bit: what a part is given must not depend on who waits beside it.
"""

import contextlib
import hashlib
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError

from appliance import config
from appliance.atomic import write_atomically
from appliance.bundle import Bundle
from appliance.codes import OfflineReason, Reason
from appliance.errors import ArtefactError, DeviceError, PartError
from appliance.head import Sums, head_model, merged_network
from appliance.passport import Passport, cpu_name, read_record
from appliance.toml_file import Section

Frame = npt.NDArray[np.uint8]
Map = npt.NDArray[np.float32]
Answer = float | PartError
"""The classification logit of a frame, or why there is none."""

_WARM_UP_RUNS = (5, 30)
_WARM_UP_NS = 500_000_000
_BATCH_RUNS = 3
_GRAPHS = ("network.onnx", "network.plain.onnx")
"""Of one network: the exact one, and the published one where export wrote it, too."""


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
    uses_threads: ClassVar[bool] = True
    """Computes on the processor: the number of threads is part of who it is."""

    def __init__(self, spec: Spec, model: bytes, precision: str, threads: int) -> None:
        if precision not in self.precisions:
            raise ArtefactError(
                "engine.precision", f"{', '.join(self.precisions)} with {self.kind}", precision
            )
        self.spec, self.precision, self.threads = spec, precision, threads
        self.calls = 0
        """Frames that the runtime was asked about."""
        self.failures = 0
        """Calls that failed, and results that are no numbers."""
        self.last_ns = 0
        """Of the last call, of one frame or several."""
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
        """One call into the runtime."""
        self.calls += len(frames)
        for out in outs:
            out.fill(np.nan)
        begun = time.monotonic_ns()
        try:
            scores = self._run(frames, outs)
        except PartError as err:
            self.failures += 1
            return [err] * len(frames)
        answers: list[Answer] = []
        for score, out in zip(scores, outs, strict=True):
            if np.isfinite(score) and np.isfinite(out).all():
                answers.append(score)
            else:
                self.failures += 1
                no_number = "the network's output is not finite"
                answers.append(PartError(Reason.INVALID_NUMBER, no_number))
        self.last_ns = time.monotonic_ns() - begun
        return answers

    def reads_from(self, ring: str, memory: npt.NDArray[np.uint8]) -> None:  # noqa: B027
        """Frames will lie in this memory, the whole of a ring file; told before each of them.

        ring: "WRITER.EPOCH.ring"; another epoch replaces the one before. For engines that can fetch
        pixels from where they lie.
        """

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
        """Figures for people: frames, failures, time of the last call in ms, and `traits`."""
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


def thread_count(settings: config.Engine) -> int:
    """Threads for one network: as configured, else its share of one less than there are cores."""
    return settings.threads or max(1, (len(os.sched_getaffinity(0)) - 1) // settings.workers)


def passport_of(settings: config.Engine, bundle: Bundle, cache: Path) -> Passport:
    """Who this bundle runs as on this box. Raises ArtefactError where no such engine is there.

    Of two graphs the one that `inspectd engine` found to be the faster here, else the exact one.
    cache: `config.engines_dir`.
    """
    exact, *others = passports_of(settings, bundle)
    for other in others:
        folder = other.folder(cache)
        if (folder / "passport.json").exists() and read_record(folder, other).is_faster:
            return other
    return exact


def passports_of(settings: config.Engine, bundle: Bundle) -> tuple[Passport, ...]:
    """The same of each graph that the bundle has for this precision, the exact one first."""
    adapter = _adapter(settings)
    device, driver = adapter.device()
    # Other precisions are made by the runtime; int8 needs a network that was calibrated.
    files = ("network.int8.onnx",) if settings.precision == "int8" else _GRAPHS
    hashes = [bundle.manifest.files[name] for name in files if name in bundle.manifest.files]
    return tuple(
        Passport(
            bundle=bundle.id,
            network=network,
            kind=adapter.kind,
            runtime=adapter.runtime,
            precision=settings.precision,
            threads=thread_count(settings) if adapter.uses_threads else 0,
            device=device,
            driver=driver,
        )
        for network in hashes or [""]
    )


def open_engine(
    settings: config.Engine,
    bundle: Bundle,
    height_px: int,
    width_px: int,
    channels: int,
    cache: Path,
    passport: Passport | None = None,
) -> Engine:
    """An engine for frames of this size. Raises ArtefactError: what was expected, what came.

    cache: `config.engines_dir`; the graph with its head for this size is kept there. passport: None
    = what `passport_of` says.
    """
    manifest = bundle.manifest
    if (settings.kind == "null") != (manifest.kind == "null"):
        raise ArtefactError(
            bundle.path("manifest.json"),
            f"a bundle for the engine kind {settings.kind}",
            f"kind {manifest.kind}",
        )
    spec = spec_for(bundle, height_px, width_px, channels)
    engine = _opened(settings, bundle, spec, cache, passport)
    grid = manifest.input.grid(height_px, width_px)
    if grid is None:
        return engine
    from appliance.engine_tiled import TiledEngine

    whole = msgspec.structs.replace(
        spec,
        height_px=height_px,
        width_px=width_px,
        map_shape=(len(manifest.detectors), *manifest.input.map_size),
    )
    try:
        return TiledEngine(engine, whole, grid)
    except ArtefactError:
        engine.close()
        raise


def _opened(
    settings: config.Engine, bundle: Bundle, spec: Spec, cache: Path, passport: Passport | None
) -> Engine:
    """What calls the runtime: for whole frames, or for one tile of them."""
    if settings.kind == "null":
        from appliance.engine_null import NullEngine

        return NullEngine(spec, settings.null_delay_ms, settings.faults)
    adapter = _adapter(settings)
    passport = passport or passport_of(settings, bundle, cache)
    if settings.kind == "tensorrt":
        return adapter(spec, read_plan(passport, spec, cache), settings.precision, 0)
    model = _merged(bundle, network_file(bundle, passport), spec, adapter.sums, cache)
    return adapter(spec, model, settings.precision, thread_count(settings))


def spec_for(bundle: Bundle, height_px: int, width_px: int, channels: int) -> Spec:
    """What the runtime takes and gives for frames of this size: of one tile, where they are cut."""
    manifest = bundle.manifest
    tiles = manifest.input.tiles
    if tiles is not None:
        height_px, width_px = tiles.height_px, tiles.width_px
    return Spec(
        height_px=height_px,
        width_px=width_px,
        channels=channels,
        map_shape=(len(manifest.detectors), *manifest.input.network_size),
    )


def plan_name(spec: Spec) -> str:
    """File of the plan for frames of this size, beside its passport."""
    return f"{spec.height_px}x{spec.width_px}.plan"


def read_plan(passport: Passport, spec: Spec, cache: Path) -> bytes:
    """The engine that was built here under this passport. Raises ArtefactError.

    A line builds none: an hour of building is no way to start, and what was never proved is no
    engine.
    """
    folder = passport.folder(cache)
    path = folder / plan_name(spec)
    if not path.exists():
        command = f"inspectd engine --precision {passport.precision}"
        expected = f"an engine for {spec.frame_shape}, built here by `{command}`"
        raise ArtefactError(path, expected, "none")
    built = read_record(folder, passport).engines.get(path.name)
    if built is None:
        raise ArtefactError(folder / "passport.json", f"an entry for {path.name}", "none")
    try:
        data = path.read_bytes()
    except OSError as err:
        raise ArtefactError(path, "a readable engine", err.strerror or str(err)) from err
    digest = hashlib.sha256(data).hexdigest()
    if digest != built.sha256:
        raise ArtefactError(
            path, f"SHA-256 {built.sha256[:12]}…", f"{digest[:12]}…", OfflineReason.PASSPORT
        )
    return data


def _adapter(settings: config.Engine) -> type[Engine]:
    """The adapter, imported on first use: each drags in its SDK."""
    try:
        if settings.kind == "onnx":
            from appliance.engine_onnx import OnnxEngine as Adapter
        elif settings.kind == "onnx-cuda":
            from appliance.engine_onnx import OnnxCudaEngine as Adapter
        elif settings.kind == "openvino":
            from appliance.engine_openvino import OpenVinoEngine as Adapter
        elif settings.kind == "tensorrt":
            from appliance.engine_tensorrt_sdk import InstalledTensorRt as Adapter
        else:
            from appliance.engine_null import NullEngine as Adapter
    except ImportError as err:
        raise ArtefactError(
            "engine.kind", f"the extra `{settings.kind}` installed", str(err)
        ) from err
    return Adapter


def network_file(bundle: Bundle, passport: Passport) -> str:
    """The graph that runs under this passport. Raises ArtefactError where the bundle has none."""
    files = bundle.manifest.files
    names = ("network.int8.onnx",) if passport.precision == "int8" else _GRAPHS
    for name in names:
        if files.get(name, "") == passport.network != "":
            return name
    raise ArtefactError(bundle.path(names[0]), f"{names[0]} in the bundle", "none")


def _merged(bundle: Bundle, file: str, spec: Spec, sums: Sums, cache: Path) -> bytes:
    """The network with its head for this frame size, from the cache or built and kept there.

    The key covers all that goes into the graph; the file is used only while it has the hash that
    was noted beside it. A cache that cannot be written costs time at the next start, nothing else.
    """
    path = bundle.path(file)
    contract = bundle.manifest.input
    head = head_model(contract, *spec.frame_shape, sums).SerializeToString(deterministic=True)
    key = hashlib.sha256(bundle.manifest.files[file].encode() + head).hexdigest()[:16]
    kept = cache / bundle.id / f"{key}.onnx"
    noted = kept.with_suffix(".sha256")
    with contextlib.suppress(OSError):
        data = kept.read_bytes()
        if hashlib.sha256(data).hexdigest() == noted.read_text():
            return data
    try:
        network = onnx.load(str(path))
    except (OSError, ValueError, DecodeError) as err:
        raise ArtefactError(path, "an ONNX network", str(err)) from err
    merged = merged_network(network, contract, *spec.frame_shape, sums)
    data = merged.SerializeToString()
    with contextlib.suppress(OSError):
        write_atomically(kept, data)
        write_atomically(noted, hashlib.sha256(data).hexdigest().encode())
    return data
