"""ONNX Runtime on the CPU: the default and the reference. The only importer of onnxruntime."""

from typing import Any

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

    def _load(self, model: bytes) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Spinning threads take the cores from camera and decide: 2.8 times the time per frame
        # where another process is busy, for nothing on a line with a picture every 50 ms.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except _ERRORS as err:
            raise ArtefactError("network", "a graph that ONNX Runtime can run", _line(err)) from err
        self._check(session)
        self._binding = session.io_binding()
        self._session: ort.InferenceSession | None = session
        self._score = np.empty(1, np.float32)

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

    def _run(self, frame: Frame, out: Map) -> float:
        if self._session is None:
            raise AssertionError("run after release")
        frame = np.ascontiguousarray(frame)
        binding = self._binding
        try:
            binding.bind_input("frame", "cpu", 0, np.uint8, frame.shape, frame.ctypes.data)
            binding.bind_output("map", "cpu", 0, np.float32, out.shape, out.ctypes.data)
            binding.bind_output("score", "cpu", 0, np.float32, (1,), self._score.ctypes.data)
            self._score.fill(np.nan)
            self._session.run_with_iobinding(binding)
        except _ERRORS as err:
            raise PartError(Reason.INFERENCE_ERROR, f"ONNX Runtime: {_line(err)}") from err
        return float(self._score[0])

    def _release(self) -> None:
        self._session = None
        del self._binding


def _fits(got: list[Any], wanted: tuple[int, ...]) -> bool:
    """Names in a shape are free dimensions."""
    shape = (1, *wanted)
    return len(got) == len(shape) and all(
        isinstance(g, str) or g is None or g == w for g, w in zip(got, shape, strict=True)
    )


def _line(err: Exception) -> str:
    return " ".join(str(err).split())
