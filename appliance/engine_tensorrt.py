"""TensorRT on an NVIDIA GPU, written against two facades: about twenty calls, each looked at.

A plan is built by `inspectd engine` (`engine_tensorrt_build.py`), never here: a line that finds no
engine, or one of another device, runtime or driver, is not Ready and says so. One stream, and one
context for each number of frames that a call takes, as TensorRT asks of who captures graphs; pinned
memory on the host, the slots of frame rings where the driver allows: then a whole frame is copied
by its camera and by nobody else. After the warm-up network and download are one CUDA graph.
`engine_tensorrt_sdk.py` is the facade of the installed TensorRT,
`engine_tensorrt_memory.py` that of CUDA.
"""

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from appliance.codes import Reason
from appliance.engine import Engine, Frame, Map, Spec
from appliance.engine_tensorrt_memory import Bytes, Gpu
from appliance.errors import ArtefactError, DeviceError, PartError

_TYPES = {"frame": "uint8", "map": "float32", "score": "float32"}


class Tensor(NamedTuple):
    """One input or output of an engine."""

    name: str
    is_input: bool
    dtype: str
    """As NumPy calls it."""
    shape: tuple[int, ...]
    """-1 = free."""
    most: int = 1
    """Of an input: frames at once."""


class Sdk(Protocol):
    """TensorRT's runtime. Failures are None or False, as TensorRT gives them: the engine looks."""

    def deserialize(self, plan: bytes) -> Any | None:
        """An engine; None where the plan is none, or of another version or device."""
        ...

    def tensors(self, engine: Any) -> tuple[Tensor, ...]:
        """All inputs and outputs."""
        ...

    def context(self, engine: Any) -> Any | None:
        """Room to run in; None where the device has not enough."""
        ...

    def set_shape(self, context: Any, name: str, shape: tuple[int, ...]) -> bool:
        """Of an input."""
        ...

    def set_address(self, context: Any, name: str, address: int) -> bool:
        """Device memory of an input or output."""
        ...

    def enqueue(self, context: Any, stream: int) -> bool:
        """Queue one run."""
        ...

    def complaints(self) -> list[str]:
        """Errors that TensorRT has logged since the last time."""
        ...


class _Buffer(NamedTuple):
    host: Bytes
    device: int


@dataclass
class _Ring:
    """What is pinned of a camera's ring: the slots in which a frame came so far."""

    name: str
    slots: dict[int, Bytes] = field(default_factory=dict[int, Bytes])
    """By address."""
    latest: int = 0
    """Address of the slot of the frame that comes next."""
    is_refused: bool = False
    """The driver pins nothing of it, and is not asked again."""


@dataclass
class _Lane:
    """What calls of one number of frames go through."""

    context: Any
    buffers: dict[str, _Buffer]
    graph: int = 0
    """0 = none captured: call by call."""


class TensorRtEngine(Engine):
    """One loaded plan. model: the plan's bytes."""

    kind = "tensorrt"
    runtime = "tensorrt"
    precisions = ("fp32", "fp16", "int8")
    uses_threads = False
    sums = "float"  # TensorRT has no product of bytes

    def __init__(self, spec: Spec, model: bytes, precision: str, sdk: Sdk, gpu: Gpu) -> None:
        self._sdk, self._gpu = sdk, gpu
        self.plan = hashlib.sha256(model).hexdigest()
        self._lanes: dict[int, _Lane] = {}
        self._rings: dict[str, _Ring] = {}
        """By camera."""
        self._stale: list[Bytes] = []
        """Slots of rings whose camera has made another one, still pinned."""
        super().__init__(spec, model, precision, 0)

    def _load(self, model: bytes) -> None:
        try:
            self._open(model)
        except DeviceError as err:
            self._give_back()
            raise ArtefactError("engine", "a GPU that can load it", str(err)) from err
        except ArtefactError:
            self._give_back()
            raise

    def _open(self, plan: bytes) -> None:
        sdk, gpu = self._sdk, self._gpu
        engine = sdk.deserialize(plan)
        if engine is None:
            raise ArtefactError("engine", "a plan of this TensorRT and GPU", self._words())
        self._most = self._check(sdk.tensors(engine))
        # The engine must outlive its contexts, and both must go before the memory does.
        self._engine: Any = engine
        self._stream = gpu.stream()
        self._lanes[1] = self._lane(1)

    def _lane(self, count: int) -> _Lane:
        """Raises ArtefactError, DeviceError."""
        sdk, gpu = self._sdk, self._gpu
        context = sdk.context(self._engine)
        if context is None:
            raise ArtefactError("engine", "device memory for one context", self._words())
        shapes = {"frame": self.spec.frame_shape, "map": self.spec.map_shape, "score": ()}
        buffers: dict[str, _Buffer] = {}
        for name, shape in shapes.items():
            size = count * int(np.prod(shape)) * np.dtype(_TYPES[name]).itemsize
            buffers[name] = _Buffer(gpu.pinned(size), gpu.allocate(size))
        if not sdk.set_shape(context, "frame", (count, *self.spec.frame_shape)):
            raise ArtefactError("engine", f"{count} of {self.spec.frame_shape}", self._words())
        for name, buffer in buffers.items():
            if not sdk.set_address(context, name, buffer.device):
                raise ArtefactError("engine", f"an address for {name}", self._words())
        return _Lane(context, buffers)

    def _check(self, tensors: tuple[Tensor, ...]) -> int:
        """Frames at once. Raises ArtefactError."""
        spec = self.spec
        wanted = {"frame": spec.frame_shape, "map": spec.map_shape, "score": ()}
        found = {tensor.name: tensor for tensor in tensors}
        if set(found) != set(wanted):
            raise ArtefactError("engine", f"{sorted(wanted)}", f"{sorted(found)}")
        for name, shape in wanted.items():
            tensor = found[name]
            is_fit = tensor.shape[:1] in ((1,), (-1,)) and tensor.shape[1:] == shape
            if not is_fit or tensor.dtype != _TYPES[name] or tensor.is_input != (name == "frame"):
                raise ArtefactError(
                    "engine",
                    f"{name} {_TYPES[name]} (1, *{shape})",
                    f"{tensor.dtype} {tensor.shape}",
                )
        return found["frame"].most

    def warm_up(self, together: int = 1) -> int:
        """As `Engine.warm_up`, first call by call, then as one graph where there are graphs.

        Of more frames than the plan was built for, as many as it takes are tried. Raises PartError
        where the graph answers otherwise than the calls that it was made of.
        """
        if self._gpu.has_graphs:
            super().warm_up()
            self._capture(1)
        return super().warm_up(min(together, self._most))

    def _capture(self, count: int) -> None:
        """One graph for calls of so many frames. Raises PartError."""
        shapes = self.spec.frame_shape, self.spec.map_shape
        frames = np.random.default_rng(1).integers(0, 256, (count, *shapes[0]), np.uint8)
        plain, again = np.empty((2, count, *shapes[1]), np.float32)
        lane = self._lanes[count]
        scores = self._run(list(frames), list(plain))
        try:
            self._gpu.begin_capture(self._stream)
            try:
                self._queue_network(lane)
            finally:
                graph = self._gpu.end_capture(self._stream)
        except DeviceError as err:
            raise PartError(Reason.INFERENCE_ERROR, f"CUDA graph: {err}") from err
        lane.graph = graph
        if self._run(list(frames), list(again)) != scores or not np.array_equal(plain, again):
            raise PartError(Reason.INFERENCE_ERROR, "the CUDA graph answers otherwise")

    def _make_room(self, count: int) -> bool:
        try:
            self._lanes[count] = self._lane(count)
            if self._gpu.has_graphs:
                self._capture(count)
        except (ArtefactError, DeviceError, PartError):  # the device has no memory for more
            self._lanes.pop(count, None)
            self._sdk.complaints()  # of this trial: the next part is not to answer for them
            return False
        return True

    def _give_up_room(self, count: int) -> None:
        del self._lanes[count]

    def reads_from(self, ring: str, slot: Bytes) -> None:
        """As `Engine.reads_from`: pinned where the driver allows; else frames are copied.

        Slot by slot, as frames come: a ring may be gigabytes, and to pin them all at once takes so
        long that frames would miss their deadlines, or the call be taken for one that hangs. Of
        rings that are gone two slots are let go for each frame, so that none piles up, the newest
        ring first: each of its slots keeps the memory of the whole ring.
        """
        writer = ring.partition(".")[0]
        known = self._rings.get(writer)
        if known is None or known.name != ring:
            self._stale += [] if known is None else known.slots.values()
            known = self._rings[writer] = _Ring(ring)
        for _ in range(min(2, len(self._stale))):
            self._let_go(self._stale.pop())
        known.latest = slot.ctypes.data
        if known.latest not in known.slots and not known.is_refused:
            known.is_refused = not self._gpu.register(slot)
            if not known.is_refused:
                known.slots[known.latest] = slot

    def _let_go(self, slot: Bytes) -> None:
        with contextlib.suppress(DeviceError):  # its camera is gone; nothing reads it any more
            self._gpu.unregister(slot)

    def _is_pinned(self, frame: Frame) -> bool:
        """Whether the device can fetch it from where it lies."""
        if not frame.flags.c_contiguous:
            return False
        at = frame.ctypes.data
        slots = ((ring.latest, ring.slots.get(ring.latest)) for ring in self._rings.values())
        return any(
            slot is not None and 0 <= at - begin <= slot.nbytes - frame.nbytes
            for begin, slot in slots
        )

    def _queue_network(self, lane: _Lane) -> None:
        """Run, download. Raises PartError, DeviceError."""
        if not self._sdk.enqueue(lane.context, self._stream):
            raise PartError(Reason.INFERENCE_ERROR, f"TensorRT: {self._words()}")
        for name in ("map", "score"):
            self._gpu.download(lane.buffers[name].host, lane.buffers[name].device, self._stream)

    def _run(self, frames: Sequence[Frame], outs: Sequence[Map]) -> Sequence[float]:
        lane = self._lanes[len(frames)]
        room = lane.buffers["frame"].host.reshape(len(frames), -1)
        maps = lane.buffers["map"].host.view(np.float32).reshape(-1, *self.spec.map_shape)
        scores = lane.buffers["score"].host.view(np.float32)
        sources: list[Bytes] = []
        for frame, copied in zip(frames, room, strict=True):
            if self._is_pinned(frame):
                sources.append(frame.reshape(-1))
            else:
                np.copyto(copied.reshape(frame.shape), frame)
                sources.append(copied)
        # A run that ends without writing must not leave the answer of the part before.
        maps.fill(np.nan)
        scores.fill(np.nan)
        try:
            for index, source in enumerate(sources):
                at = lane.buffers["frame"].device + index * source.nbytes
                self._gpu.upload(at, source, self._stream)
            if lane.graph:
                self._gpu.launch(lane.graph, self._stream)
            else:
                self._queue_network(lane)
            self._gpu.synchronize(self._stream)
        except DeviceError as err:
            self._sdk.complaints()  # about the same; the next part is not to answer for them
            raise PartError(Reason.INFERENCE_ERROR, f"CUDA: {err}") from err
        if complaints := self._sdk.complaints():
            raise PartError(Reason.INFERENCE_ERROR, f"TensorRT: {complaints[0]}")
        for out, amap in zip(outs, maps, strict=True):
            np.copyto(out, amap)
        return scores.tolist()

    def traits(self) -> dict[str, float]:
        """As `Engine.traits`, and whether the CUDA graph is in use, and of how many rings."""
        rings = sum(bool(ring.slots) for ring in self._rings.values())
        graph = float(1 in self._lanes and bool(self._lanes[1].graph))
        return {**super().traits(), "engine_cuda_graph": graph, "engine_pinned_rings": rings}

    def _words(self) -> str:
        return "; ".join(self._sdk.complaints()) or "no reason given"

    def _release(self) -> None:
        with contextlib.suppress(DeviceError):
            self._gpu.synchronize(self._stream)  # nothing may be in flight when memory goes
        self._give_back()

    def _give_back(self) -> None:
        for ring in self._rings.values():
            self._stale += ring.slots.values()
        for slot in self._stale:
            self._let_go(slot)
        self._rings, self._stale = {}, []
        self._lanes = {}
        self._engine = None
        # At the end of an engine nobody can act on what a driver still has to say.
        with contextlib.suppress(DeviceError):
            self._gpu.close()
