"""What a pixel format costs: 5 MP unpacked, beside the one copy that every frame costs anyway."""

import time
from functools import partial

import numpy as np

from appliance.pixels import FORMATS, unpack
from tools.bench_row import Row, figure, quantiles
from tools.bench_score import time_ms

_WIDTH, _HEIGHT = 2448, 2048
_MUST_MS = 5.0
_SHOWN = ("Mono12p", "Mono10p", "Mono12Packed", "Mono10Packed", "BayerRG8", "BayerRG12p")
"""Bayer includes the interpolation of the colours, which has no budget."""


def pixels(seconds: float) -> list[Row]:
    """One row per format: median of unpacking, and the CPU time of it."""
    noise = np.random.default_rng(0)
    rows: list[Row] = []
    for name in _SHOWN:
        form = FORMATS[name]
        size = form.buffer_bytes(_WIDTH, _HEIGHT)
        data = noise.integers(0, 256, size, np.uint8).tobytes()
        cpu, begun = time.process_time(), time.perf_counter()
        taken = time_ms(partial(unpack, data, _WIDTH, _HEIGHT, name), seconds / len(_SHOWN))
        share = (time.process_time() - cpu) / (time.perf_counter() - begun)
        found = quantiles(taken)
        rows.append(
            Row(
                bench="pixels",
                what=f"5 MP {name} → array, median",
                value=found["p50"],
                unit="ms",
                must=_MUST_MS if form.to_rgb is None else None,
                spread={**found, "cores": figure(share)},
            )
        )
    return rows
