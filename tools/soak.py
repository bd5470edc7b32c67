"""`inspectd soak`: a line under load for as long as wanted, with faults at random moments.

Free run, the ring, 0.5 MP frames, the null engine, a PLC with a 20 ms poll. Pictures are lost, cut,
doubled and late, maps are not numbers, the engine is slow and fails; now and then a process is
killed or stopped. In the end every part must have its verdict and its row, and every row that says
OK the number of the picture that it was made from.
"""

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from appliance.codes import Reason, Word
from tools.bench import describe_machine
from tools.bench_row import NotMeasuredError
from tools.chaos_line import Scene
from tools.plc_program import Ring

_HEIGHT, _WIDTH, _STEP, _PICTURES = 640, 800, 2000, 64
_PROCESSES = ("camera", "infer", "decide", "record")
_LOOK_S = 5.0
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
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """A line under load with faults at random moments. Exit 1 where a part is not accounted for."""
    try:
        report = soak(minutes * 60, rate, kill_every, seed)
    except NotMeasuredError as err:
        sys.stderr.write(f"inspectd: {err}\n")
        raise typer.Exit(1) from err
    if as_json:
        sys.stdout.write(json.dumps(report) + "\n")
    else:
        for name, value in report.items():
            sys.stdout.write(f"{name:18} {value}\n")
    raise typer.Exit(0 if report["passed"] else 1)


def soak(seconds: float, rate_hz: float, kill_every_s: float, seed: int) -> dict[str, Any]:
    """The object of `--json`. Raises NotMeasuredError where the line does not come back."""
    draw = random.Random(seed)
    faults = _FAULTS if kill_every_s else {}
    kills: Counter[str] = Counter()
    rows: dict[int, bool] = {}
    words: Counter[str] = Counter()
    with Scene(
        picture=_numbered,
        pictures=_PICTURES,
        ring_hz=rate_hz,
        ring=Ring.FREE,
        scan_ms=20.0,
        trigger="free",
        deadline_ms=500,
        camera={"order": "sequence", "rate_hz": rate_hz, **faults.get("camera", {})},
        engine=faults.get("engine", {}),
    ) as scene:
        scene.begin()
        rings = len(list(scene.line.config.rings_dir.iterdir()))
        begun = now = looked = time.monotonic()
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
                _collect(scene, rows, words, int(4 * _LOOK_S * rate_hz))
        before = len(scene.parts)
        scene.await_("parts at the end", lambda: len(scene.parts) > before + 5)
        scene.end()  # without a PLC no part is opened: those that are open must close
        open_parts = scene.open_parts()
        _collect(scene, rows, words, int(8 * _LOOK_S * rate_hz))
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


def _collect(scene: Scene, rows: dict[int, bool], words: Counter[str], count: int) -> None:
    """New rows by part; False for an OK without the number of its own picture."""
    for verdict in scene.line.verdicts(count):
        if verdict.part_id not in rows:
            words[f"{Word(verdict.word).name} {Reason(verdict.reason).name}"] += 1
            rows[verdict.part_id] = verdict.word != Word.OK or (
                verdict.margin is not None
                and _number_of(verdict.margin) == int(verdict.source.partition(".")[0])
            )


def _numbered(number: int) -> npt.NDArray[np.uint8]:
    pixels = np.zeros(_HEIGHT * _WIDTH, np.uint8)
    pixels[: number * _STEP] = 255
    return pixels.reshape(_HEIGHT, _WIDTH)


def _number_of(margin: float) -> float:
    return round(margin * _HEIGHT * _WIDTH / (_STEP * 255), 3)
