"""What a PLC gets: the handshake's rate, and what it can still read after a process died.

Killing uses numbered pictures: a part that the acceptance rule takes must carry the margin of its
own picture, so a word set that passes for a part that was never scored shows as a lie.
"""

import asyncio
import math
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from appliance.acceptance import level_objections
from appliance.codes import Control, OfflineReason, Status1
from appliance.words import Bank
from tools.bench_line import NUMBERS, BenchLine, Ear, number_of, numbered
from tools.bench_row import NotMeasuredError, Row, figure
from tools.plc_client import run_scans
from tools.plc_level import LevelProgram
from tools.plc_program import Part, PlcOptions

_PROCESSES = ("camera", "infer", "decide", "record")
_SCAN_MS = 5.0
_PATIENCE_S = 20.0
_UNTOUCHED_S = 3.0
"""A process that is back for so long without any word of it to the PLC was never missed."""
_LEVEL_PARTS_PER_S = 40
_LEVEL_MUST_PER_S = 15.0
_ENGINE_MS = 20.0
_RING_ENGINE_MS = 5.0
"""One engine of 20 ms cannot take 60 parts in a second."""
_RING_LOADS = ((60, 10), (60, 50), (100, 20))
"""Parts per second and poll in ms."""


def handshake(seconds: float) -> list[Row]:
    """Parts per second and latency through the level words."""
    rows: list[Row] = []
    with BenchLine(numbered, 16) as line, Ear(line) as ear:
        line.start()
        ear.await_ready()
        for scan_ms in (5, 10):
            report = _level(line, seconds, scan_ms)
            what = f"level handshake, {scan_ms} ms poll: trigger → decision of the PLC, p99"
            rows.append(_handshake_row(what, report))
    slow = {"kind": "null", "null_delay_ms": _ENGINE_MS}
    with BenchLine(numbered, 16, engine=slow) as line, Ear(line) as ear:
        line.start()
        ear.await_ready()
        report = _level(line, seconds, 10)
        rows.append(
            Row(
                bench="handshake",
                what=f"level handshake, 10 ms poll, {_ENGINE_MS:.0f} ms engine",
                value=figure(report["parts"] / report["elapsed_s"]),
                unit="1/s",
                must=_LEVEL_MUST_PER_S,
                is_floor=True,
                spread={
                    "accepted": report["accepted"],
                    "parts": report["parts"],
                    **report["latency_ms"],
                },
                note=_why(report),
            )
        )
    return rows


def ring(seconds: float) -> list[Row]:
    """What the ring carries at the rates and polls of the contract."""
    return [row for load in _RING_LOADS for row in _ring(seconds, *load)]


def _level(line: BenchLine, seconds: float, scan_ms: int) -> dict[str, Any]:
    parts = max(10, int(seconds * _LEVEL_PARTS_PER_S / 2))
    line.start_plc("--parts", str(parts), "--scan-ms", str(scan_ms))
    return line.plc_report(60 + 4 * seconds)


def _ring(seconds: float, rate_hz: int, scan_ms: int) -> list[Row]:
    """A camera that is not asked: every one of its frames is a part whose slot the PLC must see.

    The sequence numbers of the slots tell the PLC which it missed, and decide tells whether one was
    overwritten before it was acknowledged.
    """
    what = f"ring, {rate_hz}/s, {scan_ms} ms poll"
    camera = {"rate_hz": float(rate_hz)}
    parts = max(10, int(seconds * rate_hz))
    with (
        BenchLine(
            numbered, 16, trigger="free", camera=camera,
            engine={"kind": "null", "null_delay_ms": _RING_ENGINE_MS},
        ) as line,
        Ear(line) as ear,
    ):  # fmt: skip
        line.start()
        ear.await_ready()
        line.start_plc("--ring", "free", "--parts", str(parts), "--scan-ms", str(scan_ms))
        report = line.plc_report(60 + 4 * seconds)
        ear.sleep(0.3)  # the counters of the last parts
        counters = ear.words.counters if ear.words else {}
        unaccounted = ear.figure("unaccounted")
    lost = {
        "slots missed": report["missing_slots"],
        # As the PLC read it last: what comes after it hung up has nobody to read it.
        "overruns": report["unread_slots"],
        "frames lost": counters["frames_lost"],
    }
    return [
        Row(
            bench="ring",
            what=f"{what}: parts and results lost",
            value=sum(lost.values()),
            unit="parts",
            must=0.0,
            spread={"parts": report["parts"], **lost, "unaccounted": unaccounted},
        ),
        Row(
            bench="ring",
            what=f"{what}: end of exposure → decision of the PLC, p99",
            value=report["latency_ms"]["p99"],
            unit="ms",
            spread={
                "parts/s": figure(report["parts"] / report["elapsed_s"]),
                **report["latency_ms"],
            },
        ),
    ]


def _handshake_row(what: str, report: dict[str, Any]) -> Row:
    latency: dict[str, float | None] = report["latency_ms"]
    return Row(
        bench="handshake",
        what=what,
        value=latency["p99"],
        unit="ms",
        spread={
            "parts/s": figure(report["parts"] / report["elapsed_s"]),
            "accepted": report["accepted"],
            "parts": report["parts"],
            **latency,
        },
        note=_why(report),
    )


def _why(report: dict[str, Any]) -> str:
    """Why parts were rejected, in one line."""
    return ", ".join(f"{count} {name}" for name, count in report["rejected_why"].items())


def kill(seconds: float) -> list[Row]:
    """SIGKILL and SIGSTOP of each process under load; `seconds` is not used."""
    return asyncio.run(_kill_each(_PROCESSES, (signal.SIGKILL, signal.SIGSTOP)))


async def _kill_each(processes: tuple[str, ...], numbers: tuple[signal.Signals, ...]) -> list[Row]:
    rows: list[Row] = []
    lies = 0
    changes: dict[str, Any] = {"deadline_ms": 300, "camera": {"order": "tag"}}
    with BenchLine(numbered, NUMBERS, **changes) as line:
        line.start()
        stop = asyncio.Event()
        # A deadline of the PLC's own would help: ids and heartbeat alone have to protect it.
        options = PlcOptions(
            port=line.port, parts=0, scan_ms=_SCAN_MS, deadline_ms=2000.0, accept_simulated=True
        )
        witness = _Witness(options)
        scanning = asyncio.ensure_future(run_scans(options, witness, stop))
        judging = asyncio.ensure_future(_judge_for_ever(witness))
        try:
            await _until("line that accepts parts", lambda: witness.accepted > 3, line)
            for process in processes:
                for number in numbers:
                    rows += await _kill_one(line, witness, process, number)
            lies = witness.lies
        finally:
            stop.set()
            await scanning
            judging.cancel()
            await asyncio.gather(judging, return_exceptions=True)
    rows.append(
        Row(
            bench="kill",
            what="parts accepted with another margin than their picture's",
            value=lies,
            unit="parts",
            must=0.0,
            spread={"accepted": witness.accepted, "parts": witness.decided},
        )
    )
    return rows


async def _kill_one(
    line: BenchLine, witness: "_Witness", process: str, number: signal.Signals
) -> list[Row]:
    accepted = witness.accepted
    await _until("accepted parts", lambda: witness.accepted > accepted + 20, line)
    if process == "decide":
        # The worst moment: a result that passes lies in the words as they are read last.
        witness.hold()
        await _until("accepted result to hold", lambda: witness.is_believing, line)
    pid = line.pids()[process]
    witness.begin()
    os.kill(pid, number)
    killed_ns = time.monotonic_ns()

    def is_over() -> bool:
        if witness.ready_ns:
            return True
        is_back = line.pids().get(process, pid) != pid
        waited_s = (time.monotonic_ns() - killed_ns) / 1e9
        return not witness.down_ns and is_back and waited_s > _UNTOUCHED_S

    await _until(f"line that is Ready after {process} {number.name}", is_over, line)
    took_s = (witness.ready_ns - killed_ns) / 1e9 if witness.ready_ns else 0.0
    is_kill = number == signal.SIGKILL
    rows = [
        Row(
            bench="kill",
            what=f"{process} {number.name} → Ready again, as the PLC sees it",
            value=figure(took_s),
            unit="s",
            must=5.0 if is_kill else None,
            ambition=2.0 if is_kill else None,
            note="" if witness.ready_ns else "TriggerReady never fell",
        )
    ]
    if witness.down_ns:
        silent_ms = max(0.0, (witness.believed_ns - killed_ns) / 1e6)
        rows.append(
            Row(
                bench="kill",
                what=f"{process} {number.name}: last word set that the rule accepts",
                value=figure(silent_ms),
                unit="ms",
                must=500.0 + (0.0 if is_kill else _SCAN_MS),
                ambition=200.0 if is_kill else None,
                spread={"not Ready after ms": figure((witness.down_ns - killed_ns) / 1e6)},
            )
        )
    return rows


class _Witness(LevelProgram):
    """The desk PLC in level mode as fast as it goes, and a look at what it could have believed.

    Between two answers it judges the last image it read again and again, as a PLC does whose
    driver has not noticed yet that nobody answers.
    """

    def __init__(self, options: PlcOptions) -> None:
        super().__init__(options, self._count)
        self.accepted = 0
        self.lies = 0
        self.down_ns = 0
        """The first scan since `begin` in which the box was not Ready or not there."""
        self.ready_ns = 0
        """The first scan after that with TriggerReady."""
        self.believed_ns = 0
        """The last moment before that at which the rule took the words for the last part."""
        self._image = Bank(options.word_order)
        self._last: Part | None = None
        self._is_watching = self._is_holding = False

    def hold(self) -> None:
        """Acknowledge no result until the box is Ready again after its end."""
        self._is_holding = True

    def begin(self) -> None:
        """From now on watch what happens."""
        self.down_ns = self.ready_ns = self.believed_ns = 0
        self._is_watching = True

    def scan(self, image: Bank, now_ns: int) -> None:
        """One cycle after a good request."""
        self._image = image
        super().scan(image, now_ns)
        if self._is_holding:
            self._bits &= ~Control.RESULT_ACK
            self._write(now_ns)
        status = Status1(image.number("Status1"))
        is_well = image.number("OfflineReason") == OfflineReason.NONE
        if not self._is_watching:
            return
        if not is_well or Status1.FAULT in status:
            self.down_ns = self.down_ns or now_ns
        elif self.down_ns and Status1.TRIGGER_READY in status:
            self.ready_ns = now_ns
            self._is_watching = self._is_holding = False

    def lost(self, now_ns: int, why: str) -> None:
        """One cycle without an answer."""
        super().lost(now_ns, why)
        if self._is_watching:
            self.down_ns = self.down_ns or now_ns

    def judge_again(self, now_ns: int) -> None:
        """Would the words as last read let the last part pass now?"""
        if self._is_watching and self._believes(now_ns):
            self.believed_ns = now_ns

    @property
    def is_believing(self) -> bool:
        """The words as last read let the last part pass."""
        return self._believes(time.monotonic_ns())

    def _believes(self, now_ns: int) -> bool:
        if self._last is None:
            return False
        terms = self._terms(self._last, now_ns)
        return not level_objections(self._image, *terms, self.options.accept_simulated)

    def _take(self, part: Part, image: Bank, now_ns: int) -> None:
        self._last = part
        super()._take(part, image, now_ns)

    def _count(self, part: Part) -> None:
        if part.is_accepted:
            self.accepted += 1
            expected = (part.tag - 1) % NUMBERS
            self.lies += not math.isfinite(part.margin) or number_of(part.margin) != expected


async def _judge_for_ever(witness: _Witness) -> None:
    while True:
        witness.judge_again(time.monotonic_ns())
        await asyncio.sleep(0.001)


async def _until(what: str, check: Callable[[], bool], line: BenchLine) -> None:
    end = time.monotonic() + _PATIENCE_S
    while not check():
        if time.monotonic() > end:
            why = f"after {_PATIENCE_S:.0f} s still no {what}: {line.log_end()}"
            raise NotMeasuredError(why)
        await asyncio.sleep(0.02)
