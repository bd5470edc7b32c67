"""A float32 network → the same with explicit int8: quantise and dequantise nodes that ONNX Runtime,
OpenVINO and a strongly typed TensorRT take alike.

Symmetric, per channel for weights, one scale per activation, biases left in float: what TensorRT's
parser accepts. Scales come from good images alone. Only convolutions are quantised; the constant
products of the exact graph, the statistics and the map stay float. Which convolutions are worth
their error is measured, one by one, by what they do to the deciding margin.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData, create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from appliance.errors import ArtefactError

Inputs = npt.NDArray[np.float32]
Drift = Callable[[onnx.ModelProto], float]
"""How far a network is from the float one; smaller is better."""

_OPTIONS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "AddQDQPairToWeight": True,
    "OpTypesToExcludeOutputQuantization": ["Conv"],
}
"""With ONNX Runtime's own defaults TensorRT's parser refuses the int32 biases, and the logit map
itself would be cut to 256 steps: what a convolution reads is quantised, what it gives is not."""


class Quantiser:
    """Ranges learnt once, networks made from them as often as asked for."""

    def __init__(self, network: onnx.ModelProto, inputs: Iterable[Inputs]) -> None:
        """Inputs: (1, 3, H, W) float32, 0 to 255, of good images."""
        self._network = network
        self.layers = tuple(_convolutions(network))
        if not self.layers or len(set(self.layers)) != len(self.layers):
            raise ArtefactError("network.onnx", "convolutions with names", f"{len(self.layers)}")
        self._ranges = _ranges(network, inputs)

    def network(self, layers: Sequence[str]) -> onnx.ModelProto:
        """The network with these convolutions in int8."""
        if not layers:
            return self._network
        copy = onnx.ModelProto.FromString(self._network.SerializeToString())
        quantiser = QDQQuantizer(
            copy,
            True,  # per channel
            False,  # all 8 bits
            QuantType.QInt8,
            QuantType.QInt8,
            self._ranges,
            list(layers),
            [],
            ["Conv"],
            dict(_OPTIONS),
        )
        quantiser.quantize_model()
        quantiser.model.topological_sort()
        made = quantiser.model.model
        _leave_the_others_float(made.graph, set(layers))
        # The quantiser stamps opsets and a producer of its own.
        del made.metadata_props[:]
        onnx.checker.check_model(made)
        return made


def choose(
    quantiser: Quantiser, drift: Drift, limit: float, report: Callable[[float], None]
) -> tuple[onnx.ModelProto, list[str], float]:
    """The network with as many int8 convolutions as `limit` allows; which were left out; drift.

    All of them where that will do. Otherwise each one alone is measured, and as few of the worst
    as will do are left out, found by halving. Raises ArtefactError where even one layer alone, the
    best, is too far off.
    """
    layers = quantiser.layers
    whole = quantiser.network(layers)
    reached = drift(whole)
    if reached <= limit:
        report(1.0)
        return whole, [], reached
    alone: dict[str, float] = {}
    for done, layer in enumerate(layers, 1):
        alone[layer] = drift(quantiser.network([layer]))
        report(0.9 * done / len(layers))
    worst = sorted(layers, key=lambda layer: -alone[layer])
    found: tuple[onnx.ModelProto, list[str], float] | None = None
    # Too few left out; enough left out, as far as is known.
    few, enough = 0, len(layers)
    while enough - few > 1:
        count = (few + enough) // 2
        made = quantiser.network([layer for layer in layers if layer not in worst[:count]])
        reached = drift(made)
        if reached <= limit:
            enough, found = count, (made, worst[:count], reached)
        else:
            few = count
    report(1.0)
    if found is None:
        told = f"{reached:.3g} with the best layer alone in int8"
        raise ArtefactError("network.int8.onnx", f"a drift of at most {limit:.3g}", told)
    return found


def _convolutions(network: onnx.ModelProto) -> Iterator[str]:
    """All but those that make or read the logit map: one channel, no cost, and it is the answer."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in network.graph.initializer}
    for node in network.graph.node:
        if node.op_type == "Conv":
            outs, ins = shapes.get(node.input[1], (0, 0))[:2]
            groups = next((a.i for a in node.attribute if a.name == "group"), 1)
            if outs > 1 and (ins > 1 or groups > 1):
                yield node.name


def _leave_the_others_float(graph: onnx.GraphProto, layers: set[str]) -> None:
    """What reads a tensor beside a quantised convolution reads it as it is.

    ONNX Runtime's quantiser rounds a tensor for all its readers. Residual sums would then add up
    the rounding of every block, which no later layer can undo.
    """
    source = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "QuantizeLinear"}
    source = {
        node.output[0]: source[node.input[0]]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in source
    }
    for node in graph.node:
        if node.name not in layers:
            for index, value in enumerate(node.input):
                node.input[index] = source.get(value, value)


class _Reader(CalibrationDataReader):
    def __init__(self, name: str, inputs: Iterable[Inputs]) -> None:
        self._feeds: Iterator[dict[str, Inputs]] = ({name: one} for one in inputs)

    def get_next(self) -> dict[str, Inputs] | None:  # type: ignore[override]
        return next(self._feeds, None)


def _ranges(network: onnx.ModelProto, inputs: Iterable[Inputs]) -> TensorsData:
    with tempfile.TemporaryDirectory(prefix="inspectd-") as folder:
        plain = Path(folder) / "network.onnx"
        onnx.save(network, plain)
        calibrator = create_calibrator(
            str(plain),
            ["Conv"],
            augmented_model_path=str(Path(folder) / "ranges.onnx"),
            calibrate_method=CalibrationMethod.Percentile,
            # One value in 100 000 may be cut off: rare peaks would cost all others their steps.
            extra_options={"symmetric": True, "num_bins": 2048, "percentile": 99.999},
        )
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
            calibrator.collect_data(_Reader(network.graph.input[0].name, inputs))
            return calibrator.compute_data()
