"""`inspectd soak`: a line under load for as long as wanted, with faults at random moments.

Free run, the ring, 0.5 MP frames, the null engine, a PLC with a 20 ms poll; with `--bundle` a real
network and its golden pictures instead. Pictures are lost, cut, doubled and late, maps are not
numbers, the engine is slow and fails; now and then a process is killed or stopped. In the end every
part must have its verdict and its row, and every row that says OK the number of the picture that it
was made from: what the null engine read from it, or the stored answer of that golden picture.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import typer

from appliance.bundle import Bundle, golden_outputs, load_bundle
from appliance.codes import Reason, Word
from appliance.errors import ConfigError
from appliance.messages import Verdict
from tools.bench import describe_machine
from tools.bench_line import MakeBundle, Picture
from tools.bench_memory import FILL_S, Sample, look, slope
from tools.bench_row import NotMeasuredError
from tools.chaos_line import Scene
from tools.plc_program import Ring

_HEIGHT, _WIDTH, _STEP, _PICTURES = 640, 800, 2000, 64
_PROCESSES = ("camera", "infer", "decide", "record")
_LOOK_S = 5.0
_LEAST_SAMPLES = 6
_FILL_PARTS = 10_000
"""decide was seen to grow for about 6500 parts, at any rate, and then no more."""
_FAULTS: dict[str, Any] = {
    "camera": {"faults": {"drop_every": 997, "incomplete_every": 499, "delay_every": 751,
                          "delay_ms": 150, "double_every": 1009}},
    "engine": {"faults": {"nan_every": 1499, "slow_every": 401, "slow_ms": 80,
                          "fail_every": 4001}},
}  # fmt: skip


def main(
    minutes: Annotated[float, typer.Option(min=0.1, help="How long.")] = 30.0,
    rate: Annotated[float, typer.Option(help="Parts per second.", min=1.0)] = 60.0,
    kill_every: Annotated[
        float, typer.Option(help="Mean seconds between kills; 0 = no faults at all.", min=0.0)
    ] = 30.0,
    seed: Annotated[int, typer.Option(help="Of the random moments.")] = 1,
    bundle: Annotated[
        Path | None, typer.Option(help="A real network, with ONNX Runtime, on its golden pictures.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """A line under load with faults at random moments. Exit 1 where a part is not accounted for."""
    try:
        stage = null_stage() if bundle is None else bundle_stage(bundle)
        report = soak(minutes * 60, rate, kill_every, seed, stage)
    except NotMeasuredError as err:
        sys.stderr.write(f"inspectd: {err}\n")
        raise typer.Exit(1) from err
    if as_json:
        sys.stdout.write(json.dumps(report) + "\n")
    else:
        for name, value in report.items():
            sys.stdout.write(f"{name:18} {value}\n")
    raise typer.Exit(0 if report["passed"] else 1)


class Stage(NamedTuple):
    """What is looked at, and by what."""

    picture: Picture
    pictures: int
    is_true: Callable[[Verdict], bool]
    """This OK was made from the picture that the row names."""
    engine: dict[str, Any]
    make_bundle: MakeBundle | None = None


def null_stage() -> Stage:
    """Numbered pictures and the null engine, with its faults."""

    def is_true(verdict: Verdict) -> bool:
        number = int(verdict.source.partition(".")[0])
        return verdict.margin is not None and _number_of(verdict.margin) == number

    return Stage(_numbered, _PICTURES, is_true, {"kind": "null"})


def bundle_stage(folder: Path) -> Stage:
    """A bundle on its golden pictures. Raises ConfigError where it has none."""
    bundle = load_bundle(folder)
    golden = bundle.manifest.golden
    if not golden:
        raise ConfigError(folder, "a bundle with golden pictures", "none")
    scores = [float(golden_outputs(bundle.path(g.outputs))["score"].reshape(-1)[0]) for g in golden]
    tolerance = bundle.manifest.tolerances["fp32"]

    def picture(number: int) -> npt.NDArray[np.uint8]:
        image = cv2.imread(str(bundle.path(golden[number].image)), cv2.IMREAD_UNCHANGED)
        return np.asarray(image, np.uint8)

    def is_true(verdict: Verdict) -> bool:
        score, number = verdict.classification, int(verdict.source.partition(".")[0])
        return score is not None and abs(score - scores[number]) <= tolerance

    def copy(target: Path, height_px: int, width_px: int) -> Bundle:
        shutil.copytree(folder, target)
        return load_bundle(target)

    return Stage(picture, len(golden), is_true, {"kind": "onnx"}, copy)


def soak(
    seconds: float, rate_hz: float, kill_every_s: float, seed: int, stage: Stage | None = None
) -> dict[str, Any]:
    """The object of `--json`. Raises NotMeasuredError where the line does not come back."""
    stage = stage or null_stage()
    draw = random.Random(seed)
    faults = _FAULTS if kill_every_s else {}
    kills: Counter[str] = Counter()
    rows: dict[int, bool] = {}
    words: Counter[str] = Counter()
    samples: dict[str, dict[int, list[Sample]]] = {}
    engine = stage.engine | (faults.get("engine", {}) if stage.engine["kind"] == "null" else {})
    with Scene(
        picture=stage.picture,
        pictures=stage.pictures,
        make_bundle=stage.make_bundle,
        ring_hz=rate_hz,
        ring=Ring.FREE,
        scan_ms=20.0,
        trigger="free",
        deadline_ms=500,
        camera={"order": "sequence", "rate_hz": rate_hz, **faults.get("camera", {})},
        engine=engine,
    ) as scene:
        scene.begin()
        rings = len(list(scene.line.config.rings_dir.iterdir()))
        begun = now = looked = time.monotonic()
        _look(scene, samples)
        kill_at = begun + draw.expovariate(1 / kill_every_s) if kill_every_s else float("inf")
        while now - begun < seconds:
            time.sleep(0.05)
            scene.ear.listen()
            now = time.monotonic()
            if now > kill_at:
                kills[_kill(scene, draw)] += 1
                # The line needs some seconds to come back; a fault upon a fault may come, too.
                kill_at = now + 2.0 + draw.expovariate(1 / kill_every_s)
            if now - looked > _LOOK_S:
                looked = now
                _collect(scene, stage, rows, words, int(4 * _LOOK_S * rate_hz))
                _look(scene, samples)
        before = len(scene.parts)
        scene.await_("parts at the end", lambda: len(scene.parts) > before + 5)
        _look(scene, samples)
        scene.end()  # without a PLC no part is opened: those that are open must close
        open_parts = scene.open_parts()
        _collect(scene, stage, rows, words, int(8 * _LOOK_S * rate_hz))
        ledger = scene.ear.words.ledger if scene.ear.words else {}
        rings_after = len(list(scene.line.config.rings_dir.iterdir()))
        missing = scene.plc.seen.missing_slots
        latencies = sorted(part.latency_ms for part in scene.parts)
    lies = sum(not is_true for is_true in rows.values())
    is_closed = not open_parts and ledger.get("unaccounted") == 0
    return {
        "passed": is_closed and not lies and rings == rings_after,
        "seconds": round(now - begun, 1),
        "parts": len(rows),
        "read_by_plc": len(latencies),
        "slots_missed_by_plc": missing,
        "words": dict(words.most_common()),
        "ok_unscored": lies,
        "open_parts": open_parts,
        "unaccounted": ledger.get("unaccounted"),
        "faults": dict(kills),
        "latency_ms": {
            name: round(float(np.quantile(latencies, q)), 1)
            for name, q in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
        },
        "ring_files": [rings, rings_after],
        "processes": {process: _life(lives) for process, lives in sorted(samples.items())},
        "seed": seed,
        "machine": describe_machine(),
    }


def _kill(scene: Scene, draw: random.Random) -> str:
    process = draw.choice(_PROCESSES)
    number = draw.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP))
    pid = scene.line.pids().get(process)
    if pid is None:  # it is just being started
        return "missed"
    with suppress(ProcessLookupError):
        os.kill(pid, number)
    return f"{process} {number.name}"


def _look(scene: Scene, samples: dict[str, dict[int, list[Sample]]]) -> None:
    """Memory, descriptors and threads of every process that lives now, by life."""
    for process, pid in scene.line.pids().items():
        with suppress(OSError, KeyError):  # it has just ended
            sample = look(pid, scene.ear.figure("verdicts"))
            samples.setdefault(process, {}).setdefault(pid, []).append(sample)


def _life(lives: dict[int, list[Sample]]) -> dict[str, Any]:
    """The longest life of a process, once what it remembers on purpose is full."""
    longest = max(lives.values(), key=len)
    later = longest[int(FILL_S / _LOOK_S) :]
    steady = [sample for sample in later if sample.parts - longest[0].parts >= _FILL_PARTS]
    if len(steady) < _LEAST_SAMPLES:
        return {"lives": len(lives), "longest_s": round(len(longest) * _LOOK_S)}
    per_part, bound = slope([s.parts for s in steady], [s.bytes for s in steady])
    first, last = steady[0], steady[-1]
    return {
        "lives": len(lives),
        "longest_s": round(len(longest) * _LOOK_S),
        "parts": last.parts - first.parts,
        "bytes_per_part": round(per_part, 1),
        "bytes_per_part_95": round(bound, 1),
        "private_mb": [round(first.bytes / 1e6, 1), round(last.bytes / 1e6, 1)],
        "descriptors": [first.descriptors, last.descriptors],
        "threads": [first.threads, last.threads],
    }


def _collect(
    scene: Scene, stage: Stage, rows: dict[int, bool], words: Counter[str], count: int
) -> None:
    """New rows by part; False for an OK that was not made from its own picture."""
    for verdict in scene.line.verdicts(count):
        if verdict.part_id not in rows:
            words[f"{Word(verdict.word).name} {Reason(verdict.reason).name}"] += 1
            rows[verdict.part_id] = verdict.word != Word.OK or stage.is_true(verdict)


def _numbered(number: int) -> npt.NDArray[np.uint8]:
    pixels = np.zeros(_HEIGHT * _WIDTH, np.uint8)
    pixels[: number * _STEP] = 255
    return pixels.reshape(_HEIGHT, _WIDTH)


def _number_of(margin: float) -> float:
    return round(margin * _HEIGHT * _WIDTH / (_STEP * 255), 3)
