"""TensorRT on an NVIDIA GPU, written against two facades: about twenty calls, each looked at.

A plan is built by `inspectd engine` (`engine_tensorrt_build.py`), never here: a line that finds no
engine, or one of another device, runtime or driver, is not Ready and says so. One context and one
stream; pinned memory on the host, the frame rings themselves where the driver allows: then a whole
frame is copied by its camera and by nobody else. After the warm-up network and download are one
CUDA graph. `engine_tensorrt_sdk.py` is the facade of the installed TensorRT,
`engine_tensorrt_memory.py` that of CUDA.
"""

import contextlib
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


class TensorRtEngine(Engine):
    """One loaded plan. model: the plan's bytes."""

    kind = "tensorrt"
    runtime = "tensorrt"
    precisions = ("fp32", "fp16", "int8")
    uses_threads = False
    sums = "float"  # TensorRT has no product of bytes

    def __init__(self, spec: Spec, model: bytes, precision: str, sdk: Sdk, gpu: Gpu) -> None:
        self._sdk, self._gpu = sdk, gpu
        self._graph = 0
        self._rings: dict[str, tuple[str, Bytes | None]] = {}
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
        self._check(sdk.tensors(engine))
        context = sdk.context(engine)
        if context is None:
            raise ArtefactError("engine", "device memory for one context", self._words())
        # The engine must outlive its context, and both must go before the memory does.
        self._engine: Any = engine
        self._context: Any = context
        self._stream = gpu.stream()
        shapes = {"frame": self.spec.frame_shape, "map": self.spec.map_shape, "score": ()}
        self._buffers: dict[str, _Buffer] = {}
        for name, shape in shapes.items():
            size = int(np.prod(shape)) * np.dtype(_TYPES[name]).itemsize
            self._buffers[name] = _Buffer(gpu.pinned(size), gpu.allocate(size))
        if not sdk.set_shape(context, "frame", (1, *self.spec.frame_shape)):
            raise ArtefactError("engine", f"frames {self.spec.frame_shape}", self._words())
        for name, buffer in self._buffers.items():
            if not sdk.set_address(context, name, buffer.device):
                raise ArtefactError("engine", f"an address for {name}", self._words())

    def _check(self, tensors: tuple[Tensor, ...]) -> None:
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

    def warm_up(self) -> int:
        """As `Engine.warm_up`, first call by call, then as one graph where there are graphs.

        Raises PartError where the graph answers otherwise than the calls that it was made of.
        """
        p99_ns = super().warm_up()
        if not self._gpu.has_graphs:
            return p99_ns
        frame = np.random.default_rng(1).integers(0, 256, self.spec.frame_shape, np.uint8)
        plain, again = (np.empty(self.spec.map_shape, np.float32) for _ in range(2))
        score = self.infer(frame, plain)
        try:
            self._gpu.begin_capture(self._stream)
            try:
                self._queue_network()
            finally:
                graph = self._gpu.end_capture(self._stream)
        except DeviceError as err:
            raise PartError(Reason.INFERENCE_ERROR, f"CUDA graph: {err}") from err
        self._graph = graph
        if self.infer(frame, again) != score or not np.array_equal(plain, again):
            raise PartError(Reason.INFERENCE_ERROR, "the CUDA graph answers otherwise")
        return super().warm_up()

    def reads_from(self, ring: str, memory: Bytes) -> None:
        """As `Engine.reads_from`: pinned where the driver allows; else frames are copied."""
        writer = ring.partition(".")[0]
        known, old = self._rings.get(writer, ("", None))
        if known == ring:
            return
        if old is not None:
            with contextlib.suppress(DeviceError):  # its camera is gone; nothing reads it any more
                self._gpu.unregister(old)
        self._rings[writer] = ring, memory if self._gpu.register(memory) else None

    def _is_pinned(self, frame: Frame) -> bool:
        """Whether the device can fetch it from where it lies."""
        if not frame.flags.c_contiguous:
            return False
        at = frame.ctypes.data
        rings = [memory for _, memory in self._rings.values() if memory is not None]
        return any(0 <= at - m.ctypes.data <= m.nbytes - frame.nbytes for m in rings)

    def _queue_network(self) -> None:
        """Run, download. Raises PartError, DeviceError."""
        buffers, stream = self._buffers, self._stream
        if not self._sdk.enqueue(self._context, stream):
            raise PartError(Reason.INFERENCE_ERROR, f"TensorRT: {self._words()}")
        for name in ("map", "score"):
            self._gpu.download(buffers[name].host, buffers[name].device, stream)

    def _run(self, frame: Frame, out: Map) -> float:
        buffers = self._buffers
        source = buffers["frame"].host
        if self._is_pinned(frame):
            source = frame.reshape(-1)
        else:
            np.copyto(source.reshape(frame.shape), frame)
        amap = buffers["map"].host.view(np.float32).reshape(out.shape)
        score = buffers["score"].host.view(np.float32)
        # A run that ends without writing must not leave the answer of the part before.
        amap.fill(np.nan)
        score.fill(np.nan)
        try:
            self._gpu.upload(buffers["frame"].device, source, self._stream)
            if self._graph:
                self._gpu.launch(self._graph, self._stream)
            else:
                self._queue_network()
            self._gpu.synchronize(self._stream)
        except DeviceError as err:
            raise PartError(Reason.INFERENCE_ERROR, f"CUDA: {err}") from err
        if complaints := self._sdk.complaints():
            raise PartError(Reason.INFERENCE_ERROR, f"TensorRT: {complaints[0]}")
        np.copyto(out, amap)
        return float(score[0])

    def health(self) -> dict[str, float]:
        """As `Engine.health`, and whether the CUDA graph is in use, and of how many rings."""
        rings = sum(memory is not None for _, memory in self._rings.values())
        graph = float(bool(self._graph))
        return {**super().health(), "engine_cuda_graph": graph, "engine_pinned_rings": rings}

    def _words(self) -> str:
        return "; ".join(self._sdk.complaints()) or "no reason given"

    def _release(self) -> None:
        with contextlib.suppress(DeviceError):
            self._gpu.synchronize(self._stream)  # nothing may be in flight when memory goes
        self._give_back()

    def _give_back(self) -> None:
        for _, memory in self._rings.values():
            if memory is not None:
                with contextlib.suppress(DeviceError):
                    self._gpu.unregister(memory)
        self._rings = {}
        self._context = None
        self._engine = None
        self._buffers = {}
        # At the end of an engine nobody can act on what a driver still has to say.
        with contextlib.suppress(DeviceError):
            self._gpu.close()
