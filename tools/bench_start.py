"""How long a command takes to say anything: `inspectd --help`, as a process of its own."""

import subprocess
import sys
import time

from tools.bench_row import Row, quantiles

_MUST_S = 0.3
_TIMES = 20


def start(seconds: float) -> list[Row]:
    """One row: median of 20 starts, whatever `seconds` says, after one that fills the caches."""
    command = [sys.executable, "-m", "appliance", "--help"]
    taken: list[float] = []
    for _ in range(_TIMES + 1):
        begun = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        taken.append(time.perf_counter() - begun)
    found = quantiles(taken[1:])
    return [
        Row(
            bench="start",
            what="`inspectd --help`, process start to end, median",
            value=found["p50"],
            unit="s",
            must=_MUST_S,
            spread=found,
        )
    ]
