"""Ten thousand inferences of one engine: what they leave behind in memory.

lite0 as it is trained here, random weights, 128 x 128. Torch is needed.
"""

from pathlib import Path

import numpy as np

from appliance import config
from appliance.bundle import InputContract
from appliance.engine import Engine, Spec
from appliance.engine_opening import thread_count
from appliance.errors import ArtefactError
from appliance.head import merged_network
from tools.bench_row import NotMeasuredError, Row

_SIZE = 128
_CALLS, _SETTLING = 10_000, 500
_MUST_KIB = 2000.0
"""One frame or map leaked per call would be 160,000 KiB and more."""


def memory(seconds: float) -> list[Row]:
    """One row per runtime that is installed; always 10,000 calls, whatever `seconds` says."""
    del seconds
    try:
        from models.comparison import Heads, random_network
        from models.export import export_exact
    except ImportError as err:
        raise NotMeasuredError(f"the extra `train` is needed: {err}") from err
    size = (_SIZE, _SIZE)
    network = export_exact(random_network("efficientnet_lite0", size, Heads(256, 1)), size)
    contract = InputContract(
        height_px=_SIZE, width_px=_SIZE, source_height_px=_SIZE, source_width_px=_SIZE,
        channels=1, smallest_defect_px=3.0,
    )  # fmt: skip
    spec = Spec(height_px=_SIZE, width_px=_SIZE, channels=1, map_shape=(1, *size))
    rows: list[Row] = []
    for adapter in _adapters():
        model = merged_network(network, contract, *spec.frame_shape, adapter.sums)
        engine = adapter(spec, model.SerializeToString(), "fp32", thread_count(config.Engine()))
        rows.append(_row(engine))
        engine.close()
    return rows


def _adapters() -> list[type[Engine]]:
    from appliance.engine_onnx import OnnxEngine

    found: list[type[Engine]] = [OnnxEngine]
    try:
        from appliance.engine_openvino import OpenVinoEngine

        found.append(OpenVinoEngine)
    except ImportError:  # an extra
        pass
    return found


def _row(engine: Engine) -> Row:
    frames = np.random.default_rng(0).integers(0, 256, (8, *engine.spec.frame_shape), np.uint8)
    out = np.empty(engine.spec.map_shape, np.float32)
    for call in range(_SETTLING):
        engine.infer(frames[call % len(frames)], out)
    before, handles = _resident_kib(), _descriptors()
    for call in range(_CALLS):
        engine.infer(frames[call % len(frames)], out)
    return Row(
        bench="engine-memory",
        what=f"{engine.runtime}: resident memory after {_CALLS:,} inferences",
        value=max(0.0, float(_resident_kib() - before)),
        unit="KiB more",
        must=_MUST_KIB,
        spread={"more descriptors": _descriptors() - handles, "failures": engine.failures},
    )


def _resident_kib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise ArtefactError("/proc/self/status", "a line VmRSS", "none")


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
