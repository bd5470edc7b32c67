"""`inspectd engine`: the network of a bundle → a TensorRT plan for this GPU, proved, with passport.

Precision is in the types of the graph and nowhere else: every network is parsed strongly typed, the
one way that TensorRT 10.3 to 11 share; flags that older code set are gone there or do nothing. What
was built is read back by the inspector, and a plan of another precision than the one asked for is
no plan. No torch: this runs on a Jetson.
"""

import re
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import onnx

from appliance.errors import ArtefactError

Report = Callable[[str], None]
"""Is told what is being done."""

_PRECISIONS = {"fp32": r"\b(FP32|Float)\b", "fp16": r"\b(FP16|Half)\b", "int8": r"\bInt8\b"}


class Builder:
    """TensorRT's builder. trt: the module `tensorrt`, 10.3 or later, or a relative of it."""

    def __init__(self, trt: Any, report: Report = lambda line: None) -> None:
        self._trt, self._report = trt, report
        self.errors: list[str] = []
        self._log = _log(trt, self.errors)
        self._builder: Any = trt.Builder(self._log)

    def network(self, model: onnx.ModelProto, precision: str) -> Any:
        """The parsed graph. Raises ArtefactError: the operator, or a precision not asked for."""
        trt = self._trt
        typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = self._builder.create_network(typed)
        parser = trt.OnnxParser(network, self._log)
        if not parser.parse(model.SerializeToString()):
            told = [_line(str(parser.get_error(index))) for index in range(parser.num_errors)]
            reason = told[0] if told else self._words()
            raise ArtefactError("network", "operators that TensorRT has", reason)
        # The parser's memory holds the weights until the plan is built.
        self._parser = parser
        got = network_precisions(trt, network)
        others = {"fp32": ("fp16", "int8"), "fp16": ("fp32", "int8"), "int8": ()}[precision]
        # The last product, 258 numbers to the score, stays float32 in a float16 network.
        spare = 1 if precision == "fp16" else 0
        if precision not in got or sum(got.get(other, 0) for other in others) > spare:
            raise ArtefactError("network", f"convolutions in {precision}", f"{got}")
        return network

    def plan(
        self,
        network: Any,
        batch: int,
        cache: bytes = b"",
        configure: Callable[[Any], None] = lambda config: None,
    ) -> tuple[bytes, bytes]:
        """The plan, and the timing cache for the next build. Raises ArtefactError.

        batch: frames at once, 1 to this; a network with a fixed batch takes no other. cache: as
        given back before, b"" = none. configure: a last word on TensorRT's own configuration.
        """
        trt = self._trt
        config = self._builder.create_builder_config()
        # TensorFloat-32 is on by default and cuts the mantissa to 10 bits: no float32.
        config.clear_flag(trt.BuilderFlag.TF32)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        config.progress_monitor = self._monitor = _monitor(trt, self._report)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # TensorRT for RTX keeps none
            timing = config.create_timing_cache(cache)
            # False: a cache of another device or version is refused, not bent.
            is_known = config.set_timing_cache(timing, False)
            if not is_known and cache:
                timing = config.create_timing_cache(b"")
                config.set_timing_cache(timing, False)
        shape = tuple(network.get_input(0).shape)
        if shape[0] == -1:
            profile = self._builder.create_optimization_profile()
            smallest, largest = ((count, *shape[1:]) for count in (1, batch))
            profile.set_shape(network.get_input(0).name, smallest, largest, largest)
            if config.add_optimization_profile(profile) < 0:
                raise ArtefactError("engine", f"a profile for 1 to {batch} frames", self._words())
        elif shape[0] != batch:
            raise ArtefactError("network", f"a batch of {batch}", f"{shape[0]}")
        configure(config)
        plan = self._builder.build_serialized_network(network, config)
        if plan is None:
            raise ArtefactError("engine", "a plan", self._words())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            kept = timing.serialize() if timing is not None else None
        return bytes(plan), bytes(kept) if kept is not None else b""

    def _words(self) -> str:
        return self.errors[-1] if self.errors else "no reason given"


def fix_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """The same graph for so many frames and no other: what a static engine is built from."""
    fixed = onnx.ModelProto.FromString(model.SerializeToString())
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    del fixed.graph.value_info[:]
    return fixed


def network_precisions(trt: Any, network: Any) -> dict[str, int]:
    """Precision → convolutions and products that have it, before anything is built.

    A quantised product is a float one between Quantize and Dequantize: these are what is counted.
    """
    products = (trt.LayerType.CONVOLUTION, trt.LayerType.MATRIX_MULTIPLY)
    names = {trt.DataType.FLOAT: "fp32", trt.DataType.HALF: "fp16"}
    found: Counter[str] = Counter()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == trt.LayerType.QUANTIZE:
            found["int8"] += 1
        elif layer.type in products:
            found[names.get(layer.get_input(0).dtype, str(layer.get_input(0).dtype))] += 1
    return dict(found)


def plan_precisions(trt: Any, engine: Any) -> dict[str, int]:
    """Precision → layers with outputs of it, as the inspector tells about a loaded engine."""
    told = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return count_precisions(told)


def count_precisions(told: str) -> dict[str, int]:
    """The inspector's JSON: `Layers`, each with `Outputs`, each with a "Format/Datatype" such as
    "Row major linear FP32" or "Half". Raises ArtefactError where it lists no such thing: an
    inspector that says nothing proves nothing."""
    try:
        layers: list[Any] = msgspec.json.decode(told)["Layers"]
    except (msgspec.DecodeError, KeyError, TypeError) as err:
        raise ArtefactError("engine", "an inspector that lists layers", told[:80]) from err
    found: Counter[str] = Counter()
    for layer in layers:
        outputs: list[Any] = layer.get("Outputs", []) if isinstance(layer, dict) else []
        words = " ".join(str(value) for output in outputs for value in dict(output).values())
        found.update(name for name, word in _PRECISIONS.items() if re.search(word, words))
    if not found:
        raise ArtefactError("engine", "layers with a known data type", f"{len(layers)} without")
    return dict(found)


def require_precision(precision: str, layers: dict[str, int]) -> None:
    """Raises ArtefactError where a plan is not what was asked for: the builder fell back.

    fp16 and int8 plans hold a few float32 layers (normalisation, statistics, outputs): most others
    must be in the precision asked for.
    """
    wanted = layers.get(precision, 0)
    fallen = layers.get("fp32", 0) if precision == "fp16" else 0
    if not wanted or fallen > wanted:
        raise ArtefactError("engine", f"a plan whose layers are {precision}", f"{layers}")


def _log(trt: Any, errors: list[str]) -> Any:
    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                errors.append(_line(message))

    return Log()


def _monitor(trt: Any, report: Report) -> Any:
    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if parent is None or steps > 1:
                report(f"{phase}: {steps} steps")

        def step_complete(self, phase: str, step: int) -> bool:
            return True  # go on

        def phase_finish(self, phase: str) -> None:
            pass

    return Monitor()


def _line(text: str) -> str:
    return " ".join(text.split())
