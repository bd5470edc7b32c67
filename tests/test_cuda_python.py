"""`CudaPython` on a stand-in for NVIDIA's module: what a failure leaves for the next call."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from appliance.engine_tensorrt_memory import CudaPython
from appliance.errors import DeviceError

SUCCESS, NO_MEMORY, NOT_SUPPORTED = 0, 2, 801


class Runtime:
    """`cuda.bindings.runtime`: as CUDA, it keeps the last error until it is asked for it.

    fail: call → its status.
    """

    cudaError_t = SimpleNamespace(cudaSuccess=SUCCESS)
    cudaHostRegisterReadOnly = 8

    def __init__(self) -> None:
        self.fail: dict[str, int] = {}
        self.last = SUCCESS

    def cudaGetLastError(self) -> tuple[int]:
        kept, self.last = self.last, SUCCESS
        return (kept,)

    def cudaGetErrorString(self, status: int) -> tuple[int, bytes]:
        return SUCCESS, f"error {status}".encode()

    def cudaGetDeviceProperties(self, device: int) -> tuple[int, Any]:
        return SUCCESS, SimpleNamespace(name=b"Fake", major=8, minor=device + 7)

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> tuple[Any, ...]:
            status = self.fail.get(name, SUCCESS)
            self.last = status or self.last
            return (status, 0 if status else 4096)

        return call


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    made, bindings = Runtime(), ModuleType("cuda.bindings")
    bindings.runtime = made  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    return made


def test_a_ring_that_is_not_pinned_is_no_error_of_the_call_after_it(runtime: Runtime) -> None:
    gpu = CudaPython()
    assert gpu.name() == "Fake, 8.7"
    runtime.fail = {"cudaHostRegister": NOT_SUPPORTED}
    assert gpu.register(np.zeros(8, np.uint8)) is False
    assert runtime.last == SUCCESS
    runtime.fail = {}
    assert gpu.register(np.zeros(8, np.uint8)) is True


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("cudaMalloc", lambda gpu: gpu.allocate(8)),
        ("cudaHostAlloc", lambda gpu: gpu.pinned(8)),
        ("cudaHostUnregister", lambda gpu: gpu.unregister(np.zeros(8, np.uint8))),
        ("cudaStreamCreateWithFlags", lambda gpu: gpu.stream()),
    ],
)
def test_an_error_that_was_told_is_not_kept_for_others(
    runtime: Runtime, name: str, call: Any
) -> None:
    gpu = CudaPython()
    runtime.fail = {name: NO_MEMORY}
    with pytest.raises(DeviceError, match=rf"{name}: error 2 \(2\)"):
        call(gpu)
    assert runtime.last == SUCCESS
