"""One call of a float graph in each runtime, set up as the engines set it up; and fair timing."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from tools.bench_row import NotMeasuredError, Value, figure

Pixels = npt.NDArray[Any]
Call = Callable[[Pixels], dict[str, npt.NDArray[np.float32]]]
RUNTIMES = ("ONNX Runtime fp32", "OpenVINO f32", "OpenVINO bf16")
SHORTEST_S = 5.0
ROUNDS = 5
"""At least so many, however long one takes."""


def caller(model: onnx.ModelProto, runtime: str, threads: int) -> Call:
    """A graph with one input, ready: pixels → outputs by name. Raises NotMeasuredError."""
    if runtime == "ONNX Runtime fp32":
        return _onnx_runtime(model, threads)
    return _openvino(model, runtime.rpartition(" ")[2], threads)


def _onnx_runtime(model: onnx.ModelProto, threads: int) -> Call:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    outputs = [value.name for value in session.get_outputs()]

    def call(pixels: Pixels) -> dict[str, Any]:
        return dict(zip(outputs, session.run(None, {name: pixels}), strict=True))

    return call


def _openvino(model: onnx.ModelProto, hint: str, threads: int) -> Call:
    try:
        from appliance.engine_openvino import hand_in, ov
    except ImportError as err:
        raise NotMeasuredError(f"the extra `openvino` is needed: {err}") from err
    core = ov.Core()
    graph = core.read_model(model.SerializeToString())
    name = graph.inputs[0].get_any_name()
    fixed = [1, *(int(axis.get_length()) for axis in list(graph.inputs[0].partial_shape)[1:])]
    handed_in = hand_in(graph) if hint != "f32" else {}
    graph.reshape({name: fixed})
    compiled = core.compile_model(
        graph,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        },
    )
    used = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if used != hint:
        raise NotMeasuredError(f"this processor has no {hint}, OpenVINO would take {used}")
    request: Any = compiled.create_infer_request()
    for left, value in handed_in.items():
        request.set_tensor(left, value)
    outputs = [port.get_any_name() for port in compiled.outputs]

    def call(pixels: Pixels) -> dict[str, Any]:
        request.infer({name: pixels})
        return {output: request.get_tensor(output).data.copy() for output in outputs}

    return call


class Times(NamedTuple):
    """Of every call, in ms."""

    wall: list[float]
    cpu: list[float]
    """Of all threads of this process: what other processes take is not in it."""


def in_turn(calls: Mapping[str, Call], pixels: Pixels, seconds: float) -> dict[str, Times]:
    """Each call, one after the other and again, each after one that is not counted.

    In turn, so that whatever else the machine does meets all of them alike; and the second of two,
    because on a line the same graph runs again and again and finds its weights where it left them.
    """
    times = {name: Times([], []) for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values())).wall) < ROUNDS:
        for name, call in calls.items():
            call(pixels)
            begun, begun_cpu = time.perf_counter(), time.process_time()
            call(pixels)
            times[name].cpu.append((time.process_time() - begun_cpu) * 1e3)
            times[name].wall.append((time.perf_counter() - begun) * 1e3)
    return times


def ratio(ours: list[float], others: list[float]) -> float:
    """Median of the ratios of neighbouring calls."""
    return figure(float(np.median(np.array(ours) / np.array(others))))


def told(times: Mapping[str, Times]) -> dict[str, Value]:
    """Median and 95th percentile of each, its processor time, and how many rounds there were."""
    spread: dict[str, Value] = {}
    for name, values in times.items():
        middle, high = np.percentile(values.wall, (50, 95))
        spread |= {f"{name} p50 ms": figure(middle), f"{name} p95 ms": figure(high)}
        spread[f"{name} CPU ms"] = figure(float(np.median(values.cpu)))
    return {**spread, "rounds": len(next(iter(times.values())).wall)}
