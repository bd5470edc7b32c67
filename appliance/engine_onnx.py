"""ONNX Runtime: on the CPU, the default and the reference; on CUDA where `onnxruntime-gpu` is
installed instead of `onnxruntime`. The only importer of onnxruntime.
"""

import contextlib
import ctypes
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as state  # pyright: ignore

from appliance.codes import Reason
from appliance.engine import Engine, Frame, Map
from appliance.errors import ArtefactError, PartError

# ONNX Runtime has no common base class; from run_with_iobinding come bare RuntimeErrors.
_ERRORS = (
    state.EPFail,
    state.EngineError,
    state.Fail,
    state.InvalidArgument,
    state.InvalidGraph,
    state.InvalidProtobuf,
    state.NoModel,
    state.NoSuchFile,
    state.NotImplemented,
    state.RuntimeException,
    RuntimeError,
)


class OnnxEngine(Engine):
    """Reads the frame where it lies and writes the map where it shall go."""

    kind = "onnx"
    runtime = f"onnxruntime {ort.__version__}"
    precisions = ("fp32", "int8")
    providers: ClassVar[tuple[tuple[str, dict[str, str]], ...]] = (("CPUExecutionProvider", {}),)

    def _load(self, model: bytes) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Spinning threads take the cores from camera and decide: 2.8 times the time per frame
        # where another process is busy, for nothing on a line with a picture every 50 ms.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._require_provider()
        try:
            session = ort.InferenceSession(model, options, providers=list(self.providers))
        except _ERRORS as err:
            raise ArtefactError("network", "a graph that ONNX Runtime can run", _line(err)) from err
        wanted, used = self.providers[0][0], session.get_providers()
        if used[0] != wanted:  # it falls back to the CPU with a line in a log
            raise ArtefactError("engine.kind", f"a device for {wanted}", f"{used}")
        self._check(session)
        self._binding = session.io_binding()
        self._session: ort.InferenceSession | None = session
        # Frames and maps of a call lie in one block; those of a single frame where they lie.
        self._blocks: dict[int, tuple[Frame, Map]] = {}
        self._is_batch_free = not isinstance(session.get_inputs()[0].shape[0], int)

    @classmethod
    def _require_provider(cls) -> None:
        wanted, got = cls.providers[0][0], ort.get_available_providers()
        if wanted not in got:
            raise ArtefactError("engine.kind", f"an onnxruntime with {wanted}", f"{got}")

    def _check(self, session: ort.InferenceSession) -> None:
        wanted = {
            "frame": ("tensor(uint8)", self.spec.frame_shape),
            "map": ("tensor(float)", self.spec.map_shape),
            "score": ("tensor(float)", ()),
        }
        got = {v.name: v for v in [*session.get_inputs(), *session.get_outputs()]}
        if set(got) != set(wanted):
            raise ArtefactError("network", f"{sorted(wanted)}", f"{sorted(got)}")
        for name, (kind, shape) in wanted.items():
            value = got[name]
            if value.type != kind or not _fits(value.shape, shape):
                raise ArtefactError(
                    "network", f"{name} {kind} [1, *{shape}]", f"{value.type} {value.shape}"
                )

    def _make_room(self, count: int) -> bool:
        if self._is_batch_free:
            shapes = self.spec.frame_shape, self.spec.map_shape
            frames, maps = ((count, *shape) for shape in shapes)
            self._blocks[count] = np.empty(frames, np.uint8), np.empty(maps, np.float32)
        return self._is_batch_free

    def _give_up_room(self, count: int) -> None:
        del self._blocks[count]

    def _run(self, frames: Sequence[Frame], outs: Sequence[Map]) -> Sequence[float]:
        if self._session is None:
            raise AssertionError("run after release")
        block = self._blocks.get(len(frames))
        if block is None:
            pixels, maps = np.ascontiguousarray(frames[0])[np.newaxis], outs[0][np.newaxis]
        else:
            pixels, maps = block
            np.stack(frames, out=pixels)
            maps.fill(np.nan)
        scores = np.full(len(frames), np.nan, np.float32)
        binding = self._binding
        try:
            binding.bind_input("frame", "cpu", 0, np.uint8, pixels.shape, pixels.ctypes.data)
            binding.bind_output("map", "cpu", 0, np.float32, maps.shape, maps.ctypes.data)
            binding.bind_output("score", "cpu", 0, np.float32, scores.shape, scores.ctypes.data)
            self._session.run_with_iobinding(binding)
        except _ERRORS as err:
            raise PartError(Reason.INFERENCE_ERROR, f"ONNX Runtime: {_line(err)}") from err
        if block is not None:
            for out, amap in zip(outs, maps, strict=True):
                np.copyto(out, amap)
        return scores.tolist()

    def _release(self) -> None:
        self._session = None
        self._blocks = {}
        del self._binding


class OnnxCudaEngine(OnnxEngine):
    """The same on an NVIDIA GPU. Frames and maps lie in host memory; the runtime copies them."""

    kind = "onnx-cuda"
    precisions = ("fp32",)
    uses_threads = False
    sums = "float"  # its product of bytes would run on the CPU
    providers = (
        # TensorFloat-32 is not float32: limits would not travel from box to box. EXHAUSTIVE, the
        # default, may choose cuDNN's algorithms by measuring them: two starts then add in another
        # order. HEURISTIC asks cuDNN's tables, which say the same on the same device, and measures
        # nothing; DEFAULT is one fixed algorithm, or cuDNN's fallback, and slow.
        # https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html
        (
            "CUDAExecutionProvider",
            {"use_tf32": "0", "device_id": "0", "cudnn_conv_algo_search": "HEURISTIC"},
        ),
        ("CPUExecutionProvider", {}),
    )

    @staticmethod
    def _prepare_libraries() -> None:
        # Where cuDNN has no plan in float32, the provider tries again with TensorFloat-32, whatever
        # `use_tf32` says; this holds for NVIDIA's libraries below it.
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
        # CUDA's libraries may lie in packages of their own, where no loader looks. What is missing
        # is printed; whether it is needed, the session says.
        with contextlib.redirect_stdout(sys.stderr):
            ort.preload_dlls()

    def _load(self, model: bytes) -> None:
        self._prepare_libraries()
        super()._load(model)

    @classmethod
    def device(cls) -> tuple[str, str]:
        """Model of the first GPU; the driver's version, as the kernel module tells it, and that of
        cuDNN, which has the convolutions and is installed and updated by itself."""
        cls._require_provider()
        cls._prepare_libraries()
        root = Path("/proc/driver/nvidia")
        try:
            told = sorted((root / "gpus").glob("*/information"))[0].read_text()
            version = (root / "version").read_text()
        except (OSError, IndexError) as err:
            raise ArtefactError(root, "an NVIDIA GPU with its driver", str(err)) from err
        return _field(told, "Model"), f"{_field(version, 'NVRM version')}{_cudnn()}"


def _cudnn() -> str:
    """ ", cuDNN 91900"; "" where there is none that ONNX Runtime could load."""
    for name in ("libcudnn.so.9", "libcudnn.so.8"):
        with contextlib.suppress(OSError):
            version = ctypes.CDLL(name).cudnnGetVersion
            version.restype = ctypes.c_size_t
            return f", cuDNN {version()}"
    return ""


def _field(text: str, name: str) -> str:
    """Of the lines "name: value"."""
    fields = (line.partition(":") for line in text.splitlines())
    return next((" ".join(value.split()) for key, _, value in fields if key.strip() == name), "")


def _fits(got: list[Any], wanted: tuple[int, ...]) -> bool:
    """Names in a shape are free dimensions."""
    shape = (1, *wanted)
    return len(got) == len(shape) and all(
        isinstance(g, str) or g is None or g == w for g, w in zip(got, shape, strict=True)
    )


def _line(err: Exception) -> str:
    return " ".join(str(err).split())
