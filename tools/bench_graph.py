"""The graph's own resize of a large frame, and the network against its own backbone.

Weights are random: time does not depend on them. Torch is needed for the network alone.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from appliance.bundle import InputContract
from appliance.config import Engine
from appliance.engine_opening import thread_count
from appliance.head import head_model
from tools.bench_row import NotMeasuredError, Row, Value, figure, quantiles
from tools.bench_runtimes import RUNTIMES, SHORTEST_S, Times, caller, in_turn, ratio, told

_SIDE_PX = 256
_WHOLE = "torchvision's whole backbone"
"""With `layer4`, pooling and classifier: what an export of the ResNet as it is costs."""
_FORMS = ("exact", "last", "winograd")
"""Of our graph, of which `inspectd engine` takes the fastest."""
_SIZES = (("5 MP", 2048, 2448, 3.0), ("12 MP", 3000, 4096, 8.0))


class Case(NamedTuple):
    """One network: name, backbone, input (H, W), hidden channels and grid of its heads."""

    name: str
    backbone: str
    size: tuple[int, int]
    hidden: int
    grid: int
    runtimes: tuple[str, ...] = RUNTIMES


CASES = (
    Case("WRN-50-2 at 256²", "wide_resnet50_2", (256, 256), 1024, 2),
    Case("WRN-50-2 at 640x232", "wide_resnet50_2", (640, 232), 1024, 2, RUNTIMES[:2]),
    Case("WRN-50-2 at 512²", "wide_resnet50_2", (512, 512), 1024, 2, RUNTIMES[:2]),
    Case("ResNet-18 at 256²", "resnet18", (256, 256), 1024, 2),
    Case("lite0 at 256², paper's heads", "efficientnet_lite0", (256, 256), 1024, 2),
    Case("lite0 at 256², as trained here", "efficientnet_lite0", (256, 256), 256, 1),
)
"""The last one has the heads of `inspectd train`; the others those of the paper."""


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
        run = caller(head_model(contract, height, width, 1), RUNTIMES[0], threads)
        frame = np.random.default_rng(0).integers(0, 256, (1, height, width, 1), np.uint8)
        times = in_turn({"resize": run}, frame, seconds)["resize"]
        found = {**quantiles(times.wall), "CPU p50": quantiles(times.cpu)["p50"]}
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
    """WRN-50-2 at 256² in ONNX Runtime: the budget of the exact graph."""
    return _rows(CASES[0], seconds, "model", RUNTIMES[:1])


def graphs(seconds: float) -> list[Row]:
    """Every backbone and size of `CASES` in every runtime. Half an hour with the defaults."""
    rows: list[Row] = []
    for case in CASES:
        rows += _rows(case, seconds, "graphs", case.runtimes)
    return rows


def _rows(case: Case, seconds: float, bench: str, runtimes: tuple[str, ...]) -> list[Row]:
    try:
        from models.comparison import WHOLE, Heads, graphs_to_compare, whole_backbone
    except ImportError as err:
        raise NotMeasuredError(f"the extra `train` is needed: {err}") from err
    models = graphs_to_compare(case.backbone, case.size, Heads(case.hidden, case.grid))
    if case.backbone in WHOLE:
        models[_WHOLE] = whole_backbone(case.backbone, case.size)
    threads = thread_count(Engine())
    picture = np.random.default_rng(0).uniform(0, 255, (1, 3, *case.size)).astype(np.float32)
    truth = caller(models["published"], RUNTIMES[0], threads)(picture)
    rows: list[Row] = []
    for runtime in runtimes:
        left_out = set(_FORMS) - set(forms_of(runtime))
        calls = {
            name: caller(graph, runtime, threads)
            for name, graph in models.items()
            if name not in left_out
        }
        times = in_turn(calls, picture, max(seconds, SHORTEST_S))
        ours = fastest(times)
        answer = calls[ours](picture)
        errors = {name: float(np.abs(answer[name] - truth[name]).max()) for name in truth}
        spread: dict[str, Value] = {
            f"{form} ÷ published": ratio(times[form].wall, times["published"].wall)
            for form in _FORMS
            if form in times
        }
        spread |= told(times)
        spread["largest difference of the map, logits"] = figure(errors["map"])
        spread["its share of the map's range"] = figure(errors["map"] / float(np.ptp(truth["map"])))
        spread["difference of the score, logits"] = figure(errors["score"])
        spread["threads"] = threads
        is_budgeted = case == CASES[0] and not runtime.endswith("bf16")
        wanted = {"published": ("published graph", 0.3), "backbone": ("its backbone alone", 1.15)}
        wanted |= {_WHOLE: (_WHOLE, 1.15)} if _WHOLE in times else {}
        for name, (called, must) in wanted.items():
            row = Row(
                bench=bench,
                what=f"{case.name}, {runtime}: our graph ÷ {called}",
                value=ratio(times[ours].wall, times[name].wall),
                unit="ratio",
                must=must if is_budgeted else None,
                spread={"of CPU time": ratio(times[ours].cpu, times[name].cpu), **spread},
                note=f"form: {ours}",
            )
            rows.append(row)
            spread = {}
    return rows


def forms_of(runtime: str) -> tuple[str, ...]:
    """Forms that may run there: Winograd's in float32 alone, as `inspectd engine` has it."""
    return _FORMS[:-1] if runtime.endswith("bf16") else _FORMS


def fastest(times: Mapping[str, Times]) -> str:
    """The form of our graph that took the least time."""
    return min(
        (form for form in _FORMS if form in times),
        key=lambda form: float(np.median(times[form].wall)),
    )
