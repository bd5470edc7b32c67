"""OpenVINO on the CPU. The only importer of openvino.

The precision is always said: OpenVINO's own default on processors with AMX is bfloat16, which
moves logits by 0.02 and more, so that limits would not travel from box to box.
"""

import sys
from typing import Any

import numpy as np

# `import openvino` reports its use to a server unless this module cannot be imported; a line box
# reports nothing to anybody and looks nothing up.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino as ov  # noqa: E402

from appliance.codes import Reason  # noqa: E402
from appliance.engine import Engine, Frame, Map  # noqa: E402
from appliance.errors import ArtefactError, PartError  # noqa: E402

_HINTS = {"fp32": "f32", "int8": "f32", "bf16": "bf16", "fp16": "f16"}
"""int8 is in the graph, as quantise and dequantise nodes; what is left between them is f32."""


class OpenVinoEngine(Engine):
    """One stream, lowest latency."""

    kind = "openvino"
    runtime = f"openvino {ov.__version__}"
    precisions = tuple(_HINTS)
    sums = "float"  # its product of bytes goes through floats: twice the time of adding floats

    def _load(self, model: bytes) -> None:
        hint = _HINTS[self.precision]
        properties = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        try:
            core = ov.Core()
            graph = core.read_model(model)
            self._check(graph)
            graph.reshape({"frame": (1, *self.spec.frame_shape)})
            self._check(graph)
            compiled = core.compile_model(graph, "CPU", properties)
            used = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
            self._request: Any = compiled.create_infer_request()
            self._frame: Any = self._request.get_tensor("frame").data
        except RuntimeError as err:
            raise ArtefactError("network", "a graph that OpenVINO can run", _line(err)) from err
        if used != hint:
            raise ArtefactError("engine.precision", f"a processor that runs {hint}", used)

    def _check(self, graph: Any) -> None:
        """Before and after the free dimensions are set: `reshape` also changes fixed ones."""
        wanted = {
            "frame": (1, *self.spec.frame_shape),
            "map": (1, *self.spec.map_shape),
            "score": (1,),
        }
        got = {port.get_any_name(): port for port in [*graph.inputs, *graph.outputs]}
        if set(got) != set(wanted):
            raise ArtefactError("network", f"{sorted(wanted)}", f"{sorted(got)}")
        for name, shape in wanted.items():
            if not got[name].partial_shape.compatible(ov.PartialShape(list(shape))):
                raise ArtefactError("network", f"{name} {shape}", str(got[name].partial_shape))

    def _run(self, frame: Frame, out: Map) -> float:
        try:
            # OpenVINO takes no read-only memory, and the ring's slots are just that: one copy.
            np.copyto(self._frame, frame)
            self._request.infer()
            amap, score = (self._request.get_tensor(name).data for name in ("map", "score"))
        except (RuntimeError, ValueError) as err:
            raise PartError(Reason.INFERENCE_ERROR, f"OpenVINO: {_line(err)}") from err
        if amap.shape != out.shape or score.shape != (1,):
            raise PartError(
                Reason.INFERENCE_ERROR,
                f"expected map {out.shape} and score (1,), got {amap.shape} and {score.shape}",
            )
        np.copyto(out, amap)
        return float(score[0])

    def _release(self) -> None:
        del self._request, self._frame


def _line(err: Exception) -> str:
    return " ".join(str(err).split())
