"""Free run: frames as they come through ring, null engine, decide and recorder, a PLC reading.

What was lost is told by the frame ids of the rows: they keep the device's own distances, so a
frame that was dropped anywhere between camera and verdict leaves a gap. Times are those that the
rows themselves carry.
"""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from appliance.codes import Word
from appliance.messages import Verdict
from tools.bench_line import BenchLine, Ear, Picture, cpu_seconds, numbered
from tools.bench_row import NotMeasuredError, Row, Value, figure, quantiles

_SETTLE_S = 2.0
_PLC = ("--ring", "free", "--forever", "--scan-ms", "10")
_FLAT_OUT_HZ = 1000.0


def line_30(seconds: float) -> list[Row]:
    """5 MP at 30/s."""
    return _five_megapixels("line-30", 30.0, seconds)


def line_60(seconds: float) -> list[Row]:
    """5 MP at 60/s."""
    return _five_megapixels("line-60", 60.0, seconds)


def free_run(seconds: float) -> list[Row]:
    """64 x 64 frames as fast as the camera gives them."""
    taken = measure(numbered, 16, _FLAT_OUT_HZ, seconds)
    scored = [v for v in taken.verdicts if v.word is not Word.ERROR]
    return [
        Row(
            bench="free-run",
            what="verdicts, null bundle, free run",
            value=figure(len(scored) / taken.seconds),
            unit="1/s",
            must=500.0,
            ambition=1000.0,
            is_floor=True,
            spread={
                **milliseconds(v.latency_ns for v in scored),
                "offered": _FLAT_OUT_HZ,
                **taken.cpu,
            },
            note=taken.errors,
        ),
        unaccounted("free-run", taken),
    ]


def _five_megapixels(bench: str, rate_hz: float, seconds: float) -> list[Row]:
    taken = measure(five_megapixel_picture, 4, rate_hz, seconds)
    scored = [v for v in taken.verdicts if v.word is not Word.ERROR]
    if not scored:
        raise NotMeasuredError(f"no part of {len(taken.verdicts)} was scored: {taken.errors}")
    name = f"5 MP at {rate_hz:.0f}/s"
    latency = milliseconds(v.latency_ns for v in scored)
    seen = milliseconds(v.stages_ns["hand_over"] for v in scored)
    stages = {
        stage: quantiles([v.stages_ns[stage] / 1e6 for v in scored])["p99"]
        for stage in scored[0].stages_ns
    }
    return [
        Row(
            bench=bench,
            what=f"{name}: end of exposure → verdict on the bus, p99",
            value=latency["p99"],
            unit="ms",
            must=10.0,
            ambition=4.0,
            spread={**latency, **{f"{stage} p99": value for stage, value in stages.items()}},
            note="folder camera, null engine that reads every pixel",
        ),
        Row(
            bench=bench,
            what=f"{name}: camera buffer → infer sees pixels, p99",
            value=seen["p99"],
            unit="ms",
            must=2.0,
            spread=seen,
        ),
        Row(
            bench=bench,
            what=f"{name}: verdicts",
            value=figure(len(scored) / taken.seconds),
            unit="1/s",
            spread=taken.cpu,
        ),
        Row(
            bench=bench,
            what=f"{name}: frames lost",
            value=taken.lost,
            unit="frames",
            must=0.0,
            spread={"frames": taken.frames, "parts the PLC read": taken.plc_parts},
            note=taken.errors,
        ),
        unaccounted(bench, taken),
    ]


def unaccounted(bench: str, taken: "Taken") -> Row:
    """What the ledger missed."""
    return Row(
        bench=bench,
        what="parts unaccounted for",
        value=taken.unaccounted,
        unit="parts",
        must=0.0,
        spread={"accepted": taken.accepted, "verdicts": len(taken.verdicts)},
    )


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What one run in free run gave."""

    seconds: float
    verdicts: Sequence[Verdict]
    """Of the measured time alone."""
    accepted: int
    unaccounted: int
    plc_parts: int
    cpu: dict[str, Value]
    """CPU time of each process in cores."""

    @property
    def frames(self) -> int:
        """That the camera exposed from the first to the last one that became a part."""
        ids = [v.frame_id for v in self.verdicts if v.frame_id]
        return max(ids) - min(ids) + 1 if ids else 0

    @property
    def lost(self) -> int:
        """Of these, how many no part shows."""
        return self.frames - len({v.frame_id for v in self.verdicts if v.frame_id})

    @property
    def errors(self) -> str:
        """Parts that ended as ERROR, by reason; and the frames that none of them shows."""
        reasons = Counter(v.reason.name for v in self.verdicts if v.word is Word.ERROR)
        told = [f"{count} {name}" for name, count in reasons.most_common()]
        if self.lost:
            told.append(f"{self.lost} of {self.frames} frames lost")
        return ", ".join(told)


def measure(
    picture: Picture,
    pictures: int,
    rate_hz: float,
    seconds: float,
    camera: dict[str, Any] | None = None,
) -> Taken:
    """One run in free run; camera: further keys of the one camera."""
    settings = {"rate_hz": rate_hz, **(camera or {})}
    with BenchLine(picture, pictures, trigger="free", camera=settings) as line:
        line.start()
        with Ear(line) as ear:
            ear.await_ready()
            line.start_plc(*_PLC)
            ear.await_parts(1)
            ear.sleep(_SETTLE_S)
            before, cpu = ear.figure("verdicts"), _cpu(line)
            begun = time.monotonic()
            ear.sleep(seconds)
            after, spent = ear.figure("verdicts"), time.monotonic() - begun
            used: dict[str, Value] = {
                f"{name} cores": figure((now - cpu[name]) / spent)
                for name, now in _cpu(line).items()
            }
            report = line.plc_report()
            ear.await_rows()
            # The ledger looks once a second whether what was owed came.
            ear.sleep(1.5)
            total = ear.figure("verdicts")
            return Taken(
                seconds=spent,
                verdicts=line.verdicts(total)[before:after],
                accepted=ear.figure("accepted"),
                unaccounted=ear.figure("unaccounted"),
                plc_parts=report["parts"],
                cpu=used,
            )


def _cpu(line: BenchLine) -> dict[str, float]:
    return {name: cpu_seconds(pid) for name, pid in sorted(line.pids().items())}


def milliseconds(values_ns: Iterable[int]) -> dict[str, Value]:
    """p50, p99 and max of nanoseconds."""
    return quantiles([ns / 1e6 for ns in values_ns])


def five_megapixel_picture(number: int) -> npt.NDArray[np.uint8]:
    """(2048, 2448) uint8: grey with the noise of a sensor."""
    noise = np.random.default_rng(number)
    return noise.integers(90, 140, (2048, 2448), np.uint8)
