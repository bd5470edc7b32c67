"""Private memory of each process per part, over a long free run at a steady rate.

Pages of the rings are not counted: they belong to the ring and are reserved at its start. What
the processes remember on purpose (parts for 30 s, ids) has to fill up before a slope means
anything, so the first 75 s do not count (at 100 parts/s decide grew until 65 s, then no more).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy import stats

from tools.bench_line import BenchLine, Ear, numbered
from tools.bench_row import Row, figure

_RATE_HZ = 500.0
FILL_S = 75.0
_SAMPLE_S = 0.5
_ENOUGH_PARTS = 100_000
_MUST_BYTES = 20.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at one process."""

    parts: int
    bytes: int
    resident_bytes: int
    descriptors: int
    threads: int


def memory(seconds: float) -> list[Row]:
    """`seconds` of 500 parts/s after 75 s that fill up what is remembered."""
    taken: dict[str, list[Sample]] = {}
    camera = {"rate_hz": _RATE_HZ}
    with BenchLine(numbered, 16, trigger="free", camera=camera) as line, Ear(line) as ear:
        line.start()
        ear.await_ready()
        line.start_plc("--ring", "free", "--forever", "--scan-ms", "10")
        ear.await_parts(1)
        ear.sleep(FILL_S)
        rings = _files(line)
        for _ in range(max(3, int(seconds / _SAMPLE_S))):
            for process, pid in line.pids().items():
                sample = look(pid, ear.figure("verdicts"))
                taken.setdefault(process, []).append(sample)
            ear.sleep(_SAMPLE_S)
        rings_after = _files(line)
    shared = Row(
        bench="memory",
        what="files in shared memory, more or fewer",
        value=rings_after - rings,
        unit="files",
        must=0.0,
        spread={"at the end": rings_after},
    )
    return [
        *(_row(process, samples) for process, samples in sorted(taken.items())),
        _equal(taken),
        shared,
    ]


def _files(line: BenchLine) -> int:
    return len(list(line.config.rings_dir.iterdir()))


def _row(process: str, samples: list[Sample]) -> Row:
    first, last = samples[0], samples[-1]
    parts = last.parts - first.parts
    per_part, bound = slope([s.parts for s in samples], [s.bytes for s in samples])
    is_long = parts >= _ENOUGH_PARTS
    return Row(
        bench="memory",
        what=f"private memory of {process}, 95 % bound of the slope",
        value=figure(bound),
        unit="bytes/part",
        must=_MUST_BYTES if is_long else None,
        ambition=0.0,
        spread={
            "slope": figure(per_part),
            "parts": parts,
            "resident MB": figure(last.resident_bytes / 1e6),
        },
        note="" if is_long else f"the budget is for {_ENOUGH_PARTS} parts: --seconds 210",
    )


def _equal(taken: dict[str, list[Sample]]) -> Row:
    """Descriptors and threads at both ends."""
    pairs = {process: (samples[0], samples[-1]) for process, samples in sorted(taken.items())}
    descriptors = {
        name: last.descriptors - first.descriptors for name, (first, last) in pairs.items()
    }
    threads = {name: last.threads - first.threads for name, (first, last) in pairs.items()}
    changed = sum(1 for name in pairs if descriptors[name] or threads[name])
    return Row(
        bench="memory",
        what="processes whose descriptors or threads became more or fewer",
        value=changed,
        unit="processes",
        must=0.0,
        spread={
            **{f"{name} descriptors": last.descriptors for name, (_, last) in pairs.items()},
            **{f"{name} threads": last.threads for name, (_, last) in pairs.items()},
        },
    )


def slope(at: Sequence[float], size: Sequence[int]) -> tuple[float, float]:
    """Bytes per part or second: the straight line's slope and its 95 % bound."""
    if len(set(size)) == 1:
        return 0.0, 0.0
    fit: Any = stats.linregress(at, size)
    error = stats.t.ppf(0.975, len(at) - 2) * fit.stderr
    return float(fit.slope), float(fit.slope + error)


def private_bytes(pid: int) -> int:
    """Anonymous memory of a live process: no pages of files or rings. Raises OSError."""
    return 1024 * int(_status(pid)["RssAnon"].split()[0])


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":", 1) for line in lines)


def look(pid: int, parts: int) -> Sample:
    """One process, now, after so many parts. Raises OSError, KeyError where it has just ended."""
    fields = _status(pid)
    return Sample(
        parts=parts,
        bytes=private_bytes(pid),
        resident_bytes=1024 * int(fields["VmRSS"].split()[0]),
        descriptors=len(list(Path(f"/proc/{pid}/fd").iterdir())),
        threads=int(fields["Threads"]),
    )
