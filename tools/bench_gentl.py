"""Large pictures through harvesters and the real camera process, from our own GenTL producer."""

import shutil
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from appliance.codes import Word
from tools.bench_row import NotMeasuredError, Row, figure
from tools.bench_stream import measure, milliseconds, unaccounted

_BUILD = Path(__file__).parent / "gentl" / "build"
_PICTURES = 3


class _Run(NamedTuple):
    name: str
    height_px: int
    width_px: int
    pixel_format: str
    rate_hz: float


_RUNS = (
    _Run("5 MP Mono8 at 60/s", 2048, 2448, "Mono8", 60.0),
    _Run("12 MP Mono8 at 30/s", 3000, 4096, "Mono8", 30.0),
    _Run("5 MP Mono12p at 30/s", 2048, 2448, "Mono12p", 30.0),
)


def gentl(seconds: float) -> list[Row]:
    """Latency from arrival of the buffer to the verdict, losses, CPU, for each of the runs."""
    rows: list[Row] = []
    for run in _RUNS:
        folder = Path(tempfile.mkdtemp(prefix="gentl", dir="/tmp"))
        try:
            rows += _rows(run, folder, seconds)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return rows


def _rows(run: _Run, folder: Path, seconds: float) -> list[Row]:
    picture = partial(_picture, run.height_px, run.width_px)
    _make_producer(folder, [picture(number) for number in range(_PICTURES)])
    nodes = {
        "PixelFormat": run.pixel_format, "AcquisitionFrameRate": run.rate_hz, "ExposureTime": 500.0,
    }  # fmt: skip
    camera = {
        "kind": "genicam", "producer": str(folder / "folder.cti"), "nodes": nodes, "buffers": 8,
    }  # fmt: skip
    taken = measure(picture, 1, run.rate_hz, seconds, camera)
    scored = [v for v in taken.verdicts if v.word is not Word.ERROR]
    if not scored:
        raise NotMeasuredError(f"no part of {len(taken.verdicts)} was scored: {taken.errors}")
    latency = milliseconds(v.latency_ns for v in scored)
    copy = milliseconds(v.stages_ns["copy"] for v in scored)
    return [
        Row(
            bench="gentl",
            what=f"{run.name}: buffer → verdict on the bus, p99",
            value=latency["p99"],
            unit="ms",
            spread={**latency, "unpack and copy p50": copy["p50"], "copy p99": copy["p99"]},
            note="our GenTL producer through harvesters, null engine that reads every pixel",
        ),
        Row(
            bench="gentl",
            what=f"{run.name}: frames lost",
            value=taken.lost,
            unit="frames",
            must=0.0,
            spread={
                "frames": taken.frames,
                "verdicts/s": figure(len(scored) / taken.seconds),
                **taken.cpu,
            },
            note=taken.errors,
        ),
        unaccounted("gentl", taken),
    ]


def _make_producer(folder: Path, pictures: list[npt.NDArray[np.uint8]]) -> None:
    if shutil.which("cc") is None:
        raise NotMeasuredError("no C compiler to build the producer of tools/gentl with")
    subprocess.run([str(_BUILD), str(folder)], check=True)
    (folder / "top").mkdir()
    for number, picture in enumerate(pictures):
        height, width = picture.shape
        head = f"P5 {width} {height} 255\n".encode()
        (folder / "top" / f"{number}.pgm").write_bytes(head + picture.tobytes())


def _picture(height_px: int, width_px: int, number: int) -> npt.NDArray[np.uint8]:
    """Grey with the noise of a sensor."""
    noise = np.random.default_rng(number)
    return noise.integers(90, 140, (height_px, width_px), np.uint8)
