"""The graph's own resize of a large frame, and the network against its own backbone.

Weights are random: time does not depend on them. Torch is needed for the network alone.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from appliance.bundle import InputContract, head_model
from appliance.config import Engine
from appliance.engine import thread_count
from tools.bench_row import NotMeasuredError, Row, figure, quantiles
from tools.bench_score import time_ms

_SIDE_PX = 256
_SIZES = (("5 MP", 2048, 2448, 3.0), ("12 MP", 3000, 4096, 8.0))
_BACKBONE = "wide_resnet50_2"
_SHORTEST_S = 10.0


def resize(seconds: float) -> list[Row]:
    """The pre-processing head alone, Mono8 to 256 x 256, threads as an engine has them."""
    rows: list[Row] = []
    threads = thread_count(Engine())
    for name, height, width, ambition in _SIZES:
        contract = InputContract(
            height_px=_SIDE_PX,
            width_px=_SIDE_PX,
            source_height_px=height,
            source_width_px=width,
            channels=1,
            smallest_defect_px=1.0,
        )
        run = _runner(head_model(contract, height, width, 1), threads)
        frame = np.random.default_rng(0).integers(0, 256, (1, height, width, 1), np.uint8)
        found = quantiles(time_ms(partial(run, frame), seconds))
        rows.append(
            Row(
                bench="resize",
                what=f"graph's resize, {name} Mono8 to 256², median",
                value=found["p50"],
                unit="ms",
                ambition=ambition,
                spread={**found, "threads": threads},
            )
        )
    return rows


def model(seconds: float) -> list[Row]:
    """WRN-50-2 at 256²: the exact graph and the published one against the backbone alone."""
    try:
        from models.comparison import graphs_to_compare
    except ImportError as err:
        raise NotMeasuredError(f"the extra `train` is needed: {err}") from err
    graphs = graphs_to_compare(_BACKBONE, (_SIDE_PX, _SIDE_PX))
    threads = thread_count(Engine())
    picture = np.random.default_rng(0).uniform(0, 255, (1, 3, _SIDE_PX, _SIDE_PX))
    pixels = picture.astype(np.float32)
    runs = {name: _runner(graph, threads) for name, graph in graphs.items()}
    times = {name: [_time_ms(run, pixels)] for name, run in runs.items()}
    for measured in times.values():
        measured.clear()  # it warmed up
    end = time.perf_counter() + max(seconds, _SHORTEST_S)
    while time.perf_counter() < end:
        # In turn, so that whatever else the machine does meets all of them alike.
        for name, run in runs.items():
            times[name].append(_time_ms(run, pixels))
    medians = {name: float(np.median(values)) for name, values in times.items()}
    spread = {f"{name} p50 ms": figure(value) for name, value in medians.items()}
    return [
        Row(
            bench="model",
            what="WRN-50-2 at 256², exact graph ÷ its backbone alone, ONNX Runtime fp32",
            value=_ratio(times["exact"], times["backbone"]),
            unit="ratio",
            must=1.15,
            ambition=1.03,
            spread={**spread, "rounds": len(times["exact"]), "threads": threads},
        ),
        Row(
            bench="model",
            what="exact graph ÷ published graph, same runtime",
            value=_ratio(times["exact"], times["published"]),
            unit="ratio",
            spread={"threads": threads},
        ),
    ]


def _ratio(ours: list[float], others: list[float]) -> float:
    """Median of the ratios of neighbouring calls."""
    return figure(float(np.median(np.array(ours) / np.array(others))))


def _time_ms(run: Callable[[npt.NDArray[np.generic]], object], pixels: npt.NDArray[Any]) -> float:
    begun = time.perf_counter()
    run(pixels)
    return (time.perf_counter() - begun) * 1e3


def _runner(model: onnx.ModelProto, threads: int) -> Callable[[npt.NDArray[np.generic]], object]:
    """One call of a graph with one input, set up as `appliance/engine_onnx.py` sets it up."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return lambda pixels: session.run(None, {name: pixels})
