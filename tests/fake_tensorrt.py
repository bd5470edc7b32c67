"""TensorRT and a GPU that are none: plans are ONNX graphs, device memory is a dictionary.

As on a GPU nothing that is queued happens before the stream is waited for, so that a host buffer
that is touched too early, or read too early, gives wrong numbers here too. `fail` says which call
gives None, False or an error, and `calls` in which order they came.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime as ort

from appliance.engine_tensorrt import Tensor
from appliance.errors import DeviceError

_APART = 1 << 24
"""Addresses of what is allocated: room for offsets."""


class FakeGpu:
    """`Gpu`. fail: method → DeviceError is raised there; `late` is raised by synchronize."""

    def __init__(self, fail: set[str] | None = None, has_graphs: bool = True) -> None:
        self.has_graphs = has_graphs
        self.fail = fail or set()
        self.calls: list[str] = []
        self.memory: dict[int, np.ndarray] = {}
        self.queue: list[Callable[[], None]] = []
        self.captured: list[Callable[[], None]] | None = None
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.closed = 0
        self.registered: list[np.ndarray] = []
        self.uploaded: list[np.ndarray] = []
        self.refuses_rings = False

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.fail:
            raise DeviceError(f"{name}: an illegal memory access was encountered (700)")

    def name(self) -> str:
        return "Fake, 8.7"

    def driver(self) -> str:
        return "12.6"

    def stream(self) -> int:
        self._call("stream")
        return 77

    def allocate(self, size: int) -> int:
        self._call("allocate")
        address = _APART * (1 + len(self.memory))
        assert size < _APART
        self.memory[address] = np.full(size, 0xA5, np.uint8)
        return address

    def pinned(self, size: int) -> np.ndarray:
        self._call("pinned")
        return np.full(size, 0x5A, np.uint8)

    def register(self, memory: np.ndarray) -> bool:
        self._call("register")
        assert not any(np.shares_memory(memory, known) for known in self.registered), "pinned twice"
        if not self.refuses_rings:
            self.registered.append(memory)
        return not self.refuses_rings

    def unregister(self, memory: np.ndarray) -> None:
        self._call("unregister")
        self.registered = [known for known in self.registered if known is not memory]

    def upload(self, address: int, source: np.ndarray, stream: int) -> None:
        self._call("upload")
        self.uploaded.append(source)
        self.put(lambda: np.copyto(self._at(address, source.nbytes), source), stream)

    def download(self, target: np.ndarray, address: int, stream: int) -> None:
        self._call("download")
        self.put(lambda: np.copyto(target, self._at(address, target.nbytes)), stream)

    def _at(self, address: int, size: int) -> np.ndarray:
        start = address % _APART
        found = self.memory[address - start][start : start + size]
        assert found.size == size, "beyond what was allocated"
        return found

    def put(self, work: Callable[[], None], stream: int) -> None:
        assert stream == 77
        (self.queue if self.captured is None else self.captured).append(work)

    def synchronize(self, stream: int) -> None:
        assert stream == 77 and self.captured is None
        work, self.queue = self.queue, []
        for step in work:
            step()
        self._call("synchronize")

    def begin_capture(self, stream: int) -> None:
        self._call("begin_capture")
        assert not self.queue
        self.captured = []

    def end_capture(self, stream: int) -> int:
        noted, self.captured = self.captured, None
        self._call("end_capture")
        assert noted is not None
        made = 9 + len(self.graphs)
        self.graphs[made] = noted
        return made

    def launch(self, graph: int, stream: int) -> None:
        self._call("launch")
        self.queue.extend(self.graphs[graph])

    def close(self) -> None:
        assert not self.queue, "memory was given back while work was in flight"
        assert not self.registered, "memory of others is still pinned"
        self.closed += 1
        self._call("close")
        self.memory.clear()


class FakeContext:
    """Room to run in, of one number of frames."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self.session = session
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}


class FakeSdk:
    """`Sdk` on a `FakeGpu`. fail: method → what it gives instead. most: frames at once.

    Further words: "late" = enqueue is accepted, and what it queued writes nothing and complains;
    "silent" = it writes nothing and says nothing.
    """

    def __init__(self, gpu: FakeGpu, fail: set[str] | None = None, most: int = 4) -> None:
        self.gpu, self.fail, self.most = gpu, fail or set(), most
        self.said: list[str] = []

    def _fails(self, name: str) -> bool:
        self.gpu.calls.append(name)
        if name in self.fail:
            self.said.append(f"{name}: Error Code 4: Internal Error")
        return name in self.fail

    def deserialize(self, plan: bytes) -> Any | None:
        if self._fails("deserialize"):
            return None
        try:
            return ort.InferenceSession(plan, providers=["CPUExecutionProvider"])
        except Exception as err:  # noqa: BLE001 - a plan that cannot be read gives None
            self.said.append(str(err).splitlines()[0])
            return None

    def tensors(self, engine: Any) -> tuple[Tensor, ...]:
        kinds = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
        return tuple(
            Tensor(
                value.name,
                is_input,
                kinds.get(value.type, "other"),
                tuple(d if isinstance(d, int) else -1 for d in value.shape),
                self.most if is_input else 1,
            )
            for is_input, values in ((True, engine.get_inputs()), (False, engine.get_outputs()))
            for value in values
        )

    def context(self, engine: Any) -> Any | None:
        return None if self._fails("context") else FakeContext(engine)

    def set_shape(self, context: FakeContext, name: str, shape: tuple[int, ...]) -> bool:
        context.shapes[name] = shape
        return not self._fails("set_shape") and shape[0] <= self.most

    def set_address(self, context: FakeContext, name: str, address: int) -> bool:
        context.addresses[name] = address
        return not self._fails("set_address")

    def enqueue(self, context: FakeContext, stream: int) -> bool:
        if self._fails("enqueue"):
            return False

        def run() -> None:
            if "late" in self.fail:
                self.said.append("late: Error Code 1: Cuda Runtime")
            if self.fail & {"late", "silent"}:
                return
            memory = self.gpu.memory
            frame = memory[context.addresses["frame"]].reshape(context.shapes["frame"])
            names = ["map", "score"]
            answers = context.session.run(names, {"frame": frame})
            for name, answer in zip(names, answers, strict=True):
                memory[context.addresses[name]][:] = (
                    np.ascontiguousarray(answer).view(np.uint8).ravel()
                )

        self.gpu.put(run, stream)
        return True

    def complaints(self) -> list[str]:
        taken, self.said = self.said, []
        return taken
