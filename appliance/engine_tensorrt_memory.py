"""Memory, streams and graphs of one GPU: the few CUDA calls that an engine needs.

`Gpu` is what the engine is written against; `CudaPython` and `PyCuda` do it, the latter where no
cuda-python fits the toolkit of a board. Every status is looked at: what is no success is a
DeviceError with CUDA's own words. docs/gpu.md says on which GPU `CudaPython` has run; `PyCuda` has
on none yet.
"""

import ctypes
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from appliance.errors import ArtefactError, DeviceError

Bytes = npt.NDArray[np.uint8]


class Gpu(Protocol):
    """One GPU, used by one thread. Every method raises DeviceError where CUDA reports one."""

    has_graphs: bool
    """Whether a stream can be captured once and launched as a whole."""

    def name(self) -> str:
        """Model and compute capability: "Orin, 8.7"."""
        ...

    def driver(self) -> str:
        """Version of the driver, as CUDA counts it: "12.6"."""
        ...

    def stream(self) -> int:
        """A stream of its own, which waits for no other."""
        ...

    def allocate(self, size: int) -> int:
        """Device memory: its address."""
        ...

    def pinned(self, size: int) -> Bytes:
        """Host memory that the device can fetch by itself: (size,) uint8."""
        ...

    def register(self, memory: Bytes) -> bool:
        """Pin host memory of someone else, which the device will only read. False: not allowed."""
        ...

    def unregister(self, memory: Bytes) -> None:
        """Let go of what `register` took."""
        ...

    def upload(self, address: int, source: Bytes, stream: int) -> None:
        """Queue the copy host → device. source: pinned, untouched until the stream is done."""
        ...

    def download(self, target: Bytes, address: int, stream: int) -> None:
        """Queue the copy device → host. target: pinned."""
        ...

    def synchronize(self, stream: int) -> None:
        """Wait until the stream is done. Errors of what was queued come up here, late."""
        ...

    def begin_capture(self, stream: int) -> None:
        """What is queued from now on is noted and not run."""
        ...

    def end_capture(self, stream: int) -> int:
        """A graph of what was noted."""
        ...

    def launch(self, graph: int, stream: int) -> None:
        """Queue a whole graph."""
        ...

    def close(self) -> None:
        """Give back all that was handed out."""
        ...


def open_gpu() -> Gpu:
    """The first GPU, through cuda-python, else pycuda. Raises ArtefactError where there is none."""
    try:
        return CudaPython()
    except ImportError:
        pass
    try:
        return PyCuda()
    except ImportError as err:
        raise ArtefactError("engine.kind", "cuda-python or pycuda installed", str(err)) from err


class CudaPython:
    """`Gpu` through cuda-python, NVIDIA's own binding of the runtime; primary context."""

    has_graphs = True

    def __init__(self) -> None:
        from cuda.bindings import runtime  # pyright: ignore

        self._cuda: Any = runtime
        self._given: list[tuple[Any, Any]] = []
        self._handles: dict[int, Any] = {}
        try:
            self._call("cudaSetDevice", 0)
            self._properties = self._call("cudaGetDeviceProperties", 0)
        except DeviceError as err:
            raise ArtefactError("engine.kind", "an NVIDIA GPU with its driver", str(err)) from err

    def name(self) -> str:
        """As `Gpu.name`."""
        found = self._properties
        return f"{found.name.decode()}, {found.major}.{found.minor}"

    def driver(self) -> str:
        """As `Gpu.driver`."""
        version = int(self._call("cudaDriverGetVersion"))
        return f"{version // 1000}.{version % 1000 // 10}"

    def stream(self) -> int:
        """As `Gpu.stream`."""
        made = self._call("cudaStreamCreateWithFlags", self._cuda.cudaStreamNonBlocking)
        return self._keep(made, "cudaStreamDestroy")

    def allocate(self, size: int) -> int:
        """As `Gpu.allocate`."""
        return self._keep(self._call("cudaMalloc", size), "cudaFree")

    def pinned(self, size: int) -> Bytes:
        """As `Gpu.pinned`."""
        address = self._keep(self._call("cudaHostAlloc", size, 0), "cudaFreeHost")
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def register(self, memory: Bytes) -> bool:
        """As `Gpu.register`. Drivers without read-only registration refuse a ring of ours."""
        flag = self._cuda.cudaHostRegisterReadOnly
        try:
            self._call("cudaHostRegister", memory.ctypes.data, memory.nbytes, flag)
        except DeviceError:
            return False
        return True

    def unregister(self, memory: Bytes) -> None:
        """As `Gpu.unregister`."""
        self._call("cudaHostUnregister", memory.ctypes.data)

    def upload(self, address: int, source: Bytes, stream: int) -> None:
        """As `Gpu.upload`."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        where = source.ctypes.data
        self._call("cudaMemcpyAsync", address, where, source.nbytes, kind, self._handles[stream])

    def download(self, target: Bytes, address: int, stream: int) -> None:
        """As `Gpu.download`."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        where = target.ctypes.data
        self._call("cudaMemcpyAsync", where, address, target.nbytes, kind, self._handles[stream])

    def synchronize(self, stream: int) -> None:
        """As `Gpu.synchronize`."""
        self._call("cudaStreamSynchronize", self._handles[stream])

    def begin_capture(self, stream: int) -> None:
        """As `Gpu.begin_capture`."""
        # Of this thread alone: what other threads do on the device may go on.
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self._handles[stream], mode)

    def end_capture(self, stream: int) -> int:
        """As `Gpu.end_capture`."""
        noted = self._call("cudaStreamEndCapture", self._handles[stream])
        try:
            return self._keep(self._call("cudaGraphInstantiate", noted, 0), "cudaGraphExecDestroy")
        finally:
            self._call("cudaGraphDestroy", noted)

    def launch(self, graph: int, stream: int) -> None:
        """As `Gpu.launch`."""
        self._call("cudaGraphLaunch", self._handles[graph], self._handles[stream])

    def close(self) -> None:
        """As `Gpu.close`; last handed out, first given back. All of them, then the first error."""
        first: DeviceError | None = None
        while self._given:
            handle, destroy = self._given.pop()
            try:
                self._call(destroy, handle)
            except DeviceError as err:
                first = first or err
        self._handles.clear()
        if first is not None:
            raise first

    def _keep(self, handle: Any, destroy: str) -> int:
        number = int(handle)
        if not number:
            raise DeviceError(f"CUDA gave nothing where {destroy} would give it back")
        self._given.append((handle, destroy))
        self._handles[number] = handle
        return number

    def _call(self, name: str, *arguments: Any) -> Any:
        """One CUDA call: its result. Raises DeviceError where its status is no success.

        CUDA keeps the last error of a thread until it is asked for it, and who asks next takes it
        for his own: TensorRT after a launch, for one. Some failures are tolerated, so each is taken
        off here. What has spoilt the context cannot be taken off and comes again with every call.
        """
        status, *results = getattr(self._cuda, name)(*arguments)
        if status != self._cuda.cudaError_t.cudaSuccess:
            self._cuda.cudaGetLastError()
            words = self._cuda.cudaGetErrorString(status)[1].decode()
            raise DeviceError(f"{name}: {words} ({int(status)})")
        return results[0] if results else None


class PyCuda:
    """`Gpu` through pycuda; primary context, no autoinit. It cannot capture graphs."""

    has_graphs = False

    def __init__(self) -> None:
        import pycuda.driver as driver  # pyright: ignore

        self._cuda: Any = driver
        self._streams: dict[int, Any] = {}
        self._given: list[Any] = []
        try:
            driver.init()
            self._device = driver.Device(0)
            # The primary context: the one that TensorRT and torch use too.
            self._context = self._device.retain_primary_context()
            self._context.push()
        except driver.Error as err:
            raise ArtefactError("engine.kind", "an NVIDIA GPU with its driver", str(err)) from err

    def name(self) -> str:
        """As `Gpu.name`."""
        major, minor = self._device.compute_capability()
        return f"{self._device.name()}, {major}.{minor}"

    def driver(self) -> str:
        """As `Gpu.driver`."""
        version = int(self._cuda.get_driver_version())
        return f"{version // 1000}.{version % 1000 // 10}"

    def stream(self) -> int:
        """As `Gpu.stream`."""
        made = self._try(self._cuda.Stream, 1)  # CU_STREAM_NON_BLOCKING
        self._streams[int(made.handle)] = made
        return int(made.handle)

    def allocate(self, size: int) -> int:
        """As `Gpu.allocate`."""
        self._given.append(self._try(self._cuda.mem_alloc, size))
        return int(self._given[-1])

    def pinned(self, size: int) -> Bytes:
        """As `Gpu.pinned`."""
        return self._try(self._cuda.pagelocked_empty, size, np.uint8)

    def register(self, memory: Bytes) -> bool:
        """Never: pycuda registers writable memory alone, and a ring is none to its reader."""
        del memory
        return False

    def unregister(self, memory: Bytes) -> None:
        """Raises DeviceError: nothing was registered."""
        raise DeviceError(f"pycuda registered none of these {memory.nbytes} bytes")

    def upload(self, address: int, source: Bytes, stream: int) -> None:
        """As `Gpu.upload`."""
        self._try(self._cuda.memcpy_htod_async, address, source, self._streams[stream])

    def download(self, target: Bytes, address: int, stream: int) -> None:
        """As `Gpu.download`."""
        self._try(self._cuda.memcpy_dtoh_async, target, address, self._streams[stream])

    def synchronize(self, stream: int) -> None:
        """As `Gpu.synchronize`."""
        self._try(self._streams[stream].synchronize)

    def begin_capture(self, stream: int) -> None:
        """Raises DeviceError: not here."""
        raise DeviceError("pycuda captures no graphs")

    def end_capture(self, stream: int) -> int:
        """Raises DeviceError: not here."""
        raise DeviceError("pycuda captures no graphs")

    def launch(self, graph: int, stream: int) -> None:
        """Raises DeviceError: not here."""
        raise DeviceError("pycuda captures no graphs")

    def close(self) -> None:
        """As `Gpu.close`."""
        while self._given:
            self._given.pop().free()
        self._streams.clear()
        self._context.pop()

    def _try(self, call: Any, *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except self._cuda.Error as err:
            raise DeviceError(str(err)) from err
