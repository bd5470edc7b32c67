"""The installed TensorRT, 10.3 to 11, behind the facades. The only importer of tensorrt.

Nothing here has run on a GPU of ours yet: docs/gpu.md says what was checked without TensorRT.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import tensorrt as trt  # pyright: ignore

from appliance.atomic import write_atomically
from appliance.engine import Spec
from appliance.engine_tensorrt import Tensor, TensorRtEngine
from appliance.engine_tensorrt_build import Builder, fix_batch, plan_precisions, require_precision
from appliance.engine_tensorrt_memory import open_gpu
from appliance.errors import ArtefactError


class Log(trt.ILogger):  # pyright: ignore
    """Keeps what TensorRT complains about; it prints nothing."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        """Called by TensorRT, from any thread."""
        if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
            self.errors.append(" ".join(message.split()))


class Installed:
    """`Sdk` of the TensorRT that is installed."""

    def __init__(self) -> None:
        self._log = Log()
        self._runtime: Any = trt.Runtime(self._log)

    def deserialize(self, plan: bytes) -> Any | None:
        """As `Sdk.deserialize`."""
        return self._runtime.deserialize_cuda_engine(plan)

    def tensors(self, engine: Any) -> tuple[Tensor, ...]:
        """As `Sdk.tensors`."""
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        return tuple(_tensor(engine, name) for name in names)

    def context(self, engine: Any) -> Any | None:
        """As `Sdk.context`."""
        return engine.create_execution_context()

    def set_shape(self, context: Any, name: str, shape: tuple[int, ...]) -> bool:
        """As `Sdk.set_shape`."""
        return bool(context.set_input_shape(name, shape))

    def set_address(self, context: Any, name: str, address: int) -> bool:
        """As `Sdk.set_address`."""
        return bool(context.set_tensor_address(name, address))

    def enqueue(self, context: Any, stream: int) -> bool:
        """As `Sdk.enqueue`."""
        return bool(context.execute_async_v3(stream))

    def complaints(self) -> list[str]:
        """As `Sdk.complaints`."""
        taken, self._log.errors = self._log.errors, []
        return taken


def _tensor(engine: Any, name: str) -> Tensor:
    shape = tuple(engine.get_tensor_shape(name))
    is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
    most = 1
    if is_input and shape[:1] == (-1,):
        _, _, largest = engine.get_tensor_profile_shape(name, 0)
        most = int(largest[0])
    return Tensor(name, is_input, _numpy_name(engine.get_tensor_dtype(name)), shape, most)


def _numpy_name(dtype: Any) -> str:
    try:
        return str(trt.nptype(dtype)().dtype)
    except TypeError:  # bf16, fp8: NumPy has no such type
        return str(dtype)


def build(
    graph: onnx.ModelProto, precision: str, batch: int, cache: Path, report: Callable[[str], None]
) -> tuple[bytes, dict[str, int]]:
    """A plan for the first GPU, and precision → its layers. Raises ArtefactError.

    cache: file of TensorRT's timings: the next build of a like network takes seconds.
    """
    known = b""
    with contextlib.suppress(OSError):
        known = cache.read_bytes()
    builder = Builder(trt, report)
    network = builder.network(fix_batch(graph, 1) if batch == 1 else graph, precision)
    plan, timings = builder.plan(network, batch, known)
    if timings:
        with contextlib.suppress(OSError):
            write_atomically(cache, timings)
    sdk = Installed()
    engine = sdk.deserialize(plan)
    if engine is None:
        words = "; ".join(sdk.complaints()) or "no reason given"
        raise ArtefactError("engine", "a plan that this GPU can load", words)
    layers = plan_precisions(trt, engine)
    require_precision(precision, layers)
    return plan, layers


class InstalledTensorRt(TensorRtEngine):
    """`TensorRtEngine` on the installed TensorRT and the first GPU."""

    runtime = f"tensorrt {trt.__version__}"

    def __init__(self, spec: Spec, model: bytes, precision: str, threads: int) -> None:
        del threads  # a GPU has its own
        super().__init__(spec, model, precision, Installed(), open_gpu())

    @classmethod
    def device(cls) -> tuple[str, str]:
        """As `Engine.device`."""
        gpu = open_gpu()
        try:
            return gpu.name(), gpu.driver()
        finally:
            gpu.close()
