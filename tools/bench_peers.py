"""Our graph against anomalib's own export of SuperSimpleNet: same runtime, precision, machine.

WRN-50-2 at 256 x 256, batch 1, random weights in both: speed alone. anomalib is installed in a
throw-away environment, which takes minutes and the package index.
"""

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

from appliance.config import Engine
from appliance.engine_opening import thread_count
from tools import anomalib_environment
from tools.bench_graph import fastest, forms_of
from tools.bench_row import NotMeasuredError, Row, Value
from tools.bench_runtimes import RUNTIMES, SHORTEST_S, Call, caller, in_turn, ratio, told

_SIZE = (256, 256)
_EXPORT = """
from anomalib.models import Supersimplenet
model = Supersimplenet().eval()
print(model.to_onnx(sys.argv[2], input_size=(256, 256)))
"""
_ONNX_RUNTIME, _OPENVINO, _ = RUNTIMES


def peers(seconds: float) -> list[Row]:
    """One row per runtime and precision, and int8 against their float32."""
    try:
        from models.comparison import graphs_to_compare
        from models.quantise import Quantiser
    except ImportError as err:
        raise NotMeasuredError(f"the extra `train` is needed: {err}") from err
    theirs = _anomalib()
    graphs = graphs_to_compare("wide_resnet50_2", _SIZE)
    noise = np.random.default_rng(0).uniform(0, 255, (3, 1, 3, *_SIZE)).astype(np.float32)
    quantiser = Quantiser(graphs["exact"], noise)
    int8 = quantiser.network(quantiser.layers)
    threads = thread_count(Engine())
    rows: list[Row] = []
    for runtime in RUNTIMES:
        try:
            calls = {form: caller(graphs[form], runtime, threads) for form in forms_of(runtime)}
            calls["anomalib"] = caller(theirs, runtime, threads)
        except NotMeasuredError as err:
            what = f"WRN-50-2 at 256², {runtime}: our graph ÷ anomalib's export"
            note = f"not measured: {err}"
            rows.append(Row(bench="peers", what=what, value=None, unit="ratio", note=note))
            continue
        rows.append(_row(runtime, calls, seconds, must=0.3, ambition=0.2))
    for runtime, must, ambition in ((_OPENVINO, 0.1, 0.04), (_ONNX_RUNTIME, None, None)):
        calls = {
            "exact": caller(int8, runtime, threads),
            "anomalib": caller(theirs, runtime, threads),
        }
        name = f"{runtime.partition(' f')[0]} int8, every layer, against float32"
        rows.append(_row(name, calls, seconds, must=must, ambition=ambition))
    return rows


def _row(
    runtime: str, calls: Mapping[str, Call], seconds: float, *,
    must: float | None, ambition: float | None,
) -> Row:  # fmt: skip
    # anomalib takes 0 to 1, we take 0 to 255: time does not depend on it.
    picture = np.random.default_rng(0).uniform(0, 1, (1, 3, *_SIZE)).astype(np.float32)
    times = in_turn(calls, picture, max(seconds, SHORTEST_S))
    ours, theirs = fastest(times), "anomalib"
    spread: dict[str, Value] = {"of CPU time": ratio(times[ours].cpu, times[theirs].cpu)}
    spread |= told(times)
    return Row(
        bench="peers",
        what=f"WRN-50-2 at 256², {runtime}: our graph ÷ anomalib's export",
        value=ratio(times[ours].wall, times[theirs].wall),
        unit="ratio",
        must=must,
        ambition=ambition,
        spread=spread,
        note=f"anomalib {anomalib_environment.VERSION}, random weights; form: {ours}",
    )


def _anomalib() -> onnx.ModelProto:
    """Its export. Raises NotMeasuredError where it cannot be had."""
    with tempfile.TemporaryDirectory(prefix="insp") as folder:
        root = Path(folder)
        try:
            python = anomalib_environment.build(root / "venv")
            return onnx.load(anomalib_environment.export(python, _EXPORT, "ssn", root))
        except subprocess.CalledProcessError as err:
            raise NotMeasuredError(
                f"pip could not install anomalib: exit {err.returncode}"
            ) from err
        except RuntimeError as err:
            raise NotMeasuredError(f"anomalib did not export it: {err}") from err
