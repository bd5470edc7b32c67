"""OpenVINO on the CPU. The only importer of openvino.

The precision is always said: OpenVINO's own default on processors with AMX is bfloat16, which
moves logits by 0.02 and more, so that limits would not travel from box to box.
"""

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

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


class _Compiled(NamedTuple):
    """The network for one number of frames."""

    request: Any
    frames: Frame
    """Its input, OpenVINO's own memory."""


class OpenVinoEngine(Engine):
    """One stream, lowest latency."""

    kind = "openvino"
    runtime = f"openvino {ov.__version__}"
    precisions = tuple(_HINTS)
    sums = "float"  # its product of bytes goes through floats: twice the time of adding floats

    def _load(self, model: bytes) -> None:
        self._core: Any = ov.Core()
        try:
            self._graph: Any = self._core.read_model(model)
            self._handed_in = hand_in(self._graph) if _HINTS[self.precision] != "f32" else {}
            self._compiled = {1: self._compile(1)}
        except RuntimeError as err:
            raise ArtefactError("network", "a graph that OpenVINO can run", _line(err)) from err

    def _compile(self, count: int) -> _Compiled:
        """Raises ArtefactError, RuntimeError."""
        hint = _HINTS[self.precision]
        properties = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        if count == 1:
            self._check(self._graph, 1)
        self._graph.reshape({"frame": (count, *self.spec.frame_shape)})
        self._check(self._graph, count)
        compiled = self._core.compile_model(self._graph, "CPU", properties)
        used = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if used != hint:
            raise ArtefactError("engine.precision", f"a processor that runs {hint}", used)
        request = compiled.create_infer_request()
        for name, value in self._handed_in.items():
            request.set_tensor(name, value)
        return _Compiled(request, request.get_tensor("frame").data)

    def warm_up(self, together: int = 1) -> int:
        """As `Engine.warm_up`; afterwards the graph, which holds all weights once more, is gone."""
        p99_ns = super().warm_up(together)
        self._graph = None
        return p99_ns

    def _make_room(self, count: int) -> bool:
        if self._graph is None:
            return False
        try:
            self._compiled[count] = self._compile(count)
        except (ArtefactError, RuntimeError):  # its batch is fixed
            return False
        return True

    def _give_up_room(self, count: int) -> None:
        del self._compiled[count]

    def _check(self, graph: Any, count: int) -> None:
        """Before and after the free dimensions are set: `reshape` also changes fixed ones."""
        wanted = {
            "frame": (count, *self.spec.frame_shape),
            "map": (count, *self.spec.map_shape),
            "score": (count,),
        }
        ports = {port.get_any_name(): port for port in [*graph.inputs, *graph.outputs]}
        got = {name: port for name, port in ports.items() if name not in self._handed_in}
        if set(got) != set(wanted):
            raise ArtefactError("network", f"{sorted(wanted)}", f"{sorted(got)}")
        for name, shape in wanted.items():
            if not got[name].partial_shape.compatible(ov.PartialShape(list(shape))):
                raise ArtefactError("network", f"{name} {shape}", str(got[name].partial_shape))

    def _run(self, frames: Sequence[Frame], outs: Sequence[Map]) -> Sequence[float]:
        count = len(frames)
        request, room = self._compiled[count]
        try:
            # OpenVINO takes no read-only memory, and the ring's slots are just that: one copy.
            np.stack(frames, out=room)
            for name in ("map", "score"):
                request.get_tensor(name).data.fill(np.nan)
            request.infer()
            maps, scores = (request.get_tensor(name).data for name in ("map", "score"))
        except (RuntimeError, ValueError) as err:
            raise PartError(Reason.INFERENCE_ERROR, f"OpenVINO: {_line(err)}") from err
        shape = (count, *self.spec.map_shape)
        if maps.shape != shape or scores.shape != (count,):
            raise PartError(
                Reason.INFERENCE_ERROR,
                f"expected map {shape} and score ({count},), got {maps.shape} and {scores.shape}",
            )
        for out, amap in zip(outs, maps, strict=True):
            np.copyto(out, amap)
        return scores.tolist()

    def _release(self) -> None:
        self._compiled, self._handed_in = {}, {}
        self._graph = None


def hand_in(graph: Any) -> dict[str, Any]:
    """Constants on the left of large products become inputs: name → tensor, for every request.

    OpenVINO multiplies by such a constant in float32, whatever precision was asked for, and turns
    all numbers before and behind it: a quarter of the time of the exact graph in bfloat16 on AMX.
    Only behind the first convolution: what resizes a frame goes on in float32; and not what makes
    an output, which is one channel.
    """
    handed_in: dict[str, Any] = {}
    parameters: list[Any] = []
    is_behind = False
    made = {result.input_value(0).get_node().get_friendly_name() for result in graph.results}
    for node in graph.get_ordered_ops():
        is_behind |= node.get_type_name() == "Convolution"
        if not is_behind or node.get_type_name() != "MatMul" or node.get_friendly_name() in made:
            continue
        left = node.input_value(0)
        if left.get_node().get_type_name() != "Constant" or len(left.get_shape()) != 2:
            continue
        name = f"left of {node.get_friendly_name()}"
        parameter = ov.opset13.parameter(list(left.get_shape()), ov.Type.f32, name)
        parameter.output(0).set_names({name})
        node.input(0).replace_source_output(parameter.output(0))
        handed_in[name] = ov.Tensor(left.get_node().data.copy())
        parameters.append(parameter)
    graph.add_parameters(parameters)
    return handed_in


def _line(err: Exception) -> str:
    return " ".join(str(err).split())
