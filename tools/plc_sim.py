"""A PLC on the desk: a Modbus client that runs a PLC program scan by scan and says what it saw.

It survives the appliance dying and coming back; parts meanwhile are rejected. What it reports is
what a real PLC would have done, which makes it the instrument for "does the box ever lie".
"""

import asyncio
import json
import math
import signal
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, TextIO

import numpy as np
import typer
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from appliance.codes import CommandCode, CommandError, Reason, Word
from appliance.errors import ConfigError
from appliance.words import Bank
from tools.plc_client import TELL_S, run_scans
from tools.plc_command import CommandProgram
from tools.plc_level import LevelProgram
from tools.plc_program import Break, Part, PlcOptions, Program, Ring, Sightings, not_ready
from tools.plc_ring import RingProgram
from tools.plc_view import KEPT_PARTS, name_of, view

_LATENCIES_KEPT = 100_000
_PLAIN_LINE_EVERY_S = 10.0
_SCREEN_EVERY_S = 0.1


@dataclass(kw_only=True)
class PlcReport:
    """What the PLC saw and did."""

    parts: int = 0
    accepted: int = 0
    rejected: int = 0
    triggered: int = 0
    words: Counter[str] = field(default_factory=Counter[str])
    """Verdict words as read, believed or not; NONE where no result was read."""
    reasons: Counter[str] = field(default_factory=Counter[str])
    rejected_why: Counter[str] = field(default_factory=Counter[str])
    communication_losses: int = 0
    seen: Sightings = field(default_factory=Sightings)
    elapsed_s: float = 0.0
    latencies_ms: list[float] = field(default_factory=list[float])
    """Trigger to result, of parts whose result was read."""

    def add(self, part: Part) -> None:
        """One decision."""
        self.parts += 1
        self.accepted += part.is_accepted
        self.rejected += not part.is_accepted
        self.triggered += part.triggered_ns > 0
        self.words[name_of(Word, part.word)] += 1
        self.reasons[name_of(Reason, part.reason)] += 1
        self.rejected_why.update(part.why)
        if part.word != Word.NONE and len(self.latencies_ms) < _LATENCIES_KEPT:
            self.latencies_ms.append(part.latency_ms)

    def summary(self) -> dict[str, Any]:
        """The object of `--json`; figures that do not apply are None."""
        quantiles = (None, None, None)
        if self.latencies_ms:
            quantiles = np.percentile(self.latencies_ms, (50, 99, 100)).round(3).tolist()
        return {
            "parts": self.parts,
            "accepted": self.accepted,
            "rejected": self.rejected,
            "triggered": self.triggered,
            "words": dict(self.words),
            "reasons": dict(self.reasons),
            "rejected_why": dict(self.rejected_why),
            "latency_ms": dict(zip(("p50", "p99", "max"), quantiles, strict=True)),
            "communication_losses": self.communication_losses,
            **asdict(self.seen),
            "elapsed_s": round(self.elapsed_s, 3),
        }


async def run_plc(
    options: PlcOptions,
    on_part: Callable[[Part], None] | None = None,
    stop: asyncio.Event | None = None,
    on_scan: Callable[[Bank | None, Program], None] | None = None,
) -> PlcReport:
    """Drive the line until every part is judged, or until `stop`; `on_part` sees each decision.

    `on_scan` sees every cycle: the image that was read, or None where nobody answered.

    Raises ValueError for options that contradict each other.
    """
    if options.ring == Ring.HARDWARE and not options.rate_hz:
        raise ValueError("ring = hardware needs a rate: its parts come by themselves")
    report = PlcReport()

    def decided(part: Part) -> None:
        report.add(part)
        if on_part is not None:
            on_part(part)

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as barrier:

        def pulse() -> None:
            for camera in options.barrier:
                # A camera that is not there is not triggered, and the appliance will say so.
                with suppress(OSError):
                    barrier.sendto(b"", camera)

        is_level = options.ring == Ring.NONE
        program: Program = (
            LevelProgram(options, decided) if is_level else RingProgram(options, decided, pulse)
        )
        begun = time.monotonic()
        scanned = program if on_scan is None else _Watched(program, on_scan)
        report.communication_losses = await run_scans(options, scanned, stop or asyncio.Event())
    program.lost(time.monotonic_ns(), "stopped")
    report.seen = program.seen
    report.elapsed_s = time.monotonic() - begun
    return report


class _Watched:
    """A program whose cycles somebody looks at."""

    def __init__(self, program: Program, on_scan: Callable[[Bank | None, Program], None]) -> None:
        self._program, self._on_scan = program, on_scan
        self.out = program.out

    @property
    def is_done(self) -> bool:
        """As the program says."""
        return self._program.is_done

    def scan(self, image: Bank, now_ns: int) -> None:
        """One cycle after a good request."""
        self._program.scan(image, now_ns)
        self._on_scan(image, self._program)

    def lost(self, now_ns: int, why: str) -> None:
        """One cycle without an answer."""
        self._program.lost(now_ns, why)
        self._on_scan(None, self._program)


async def command(options: PlcOptions, code: CommandCode, argument: int = 0) -> CommandError:
    """One command with its handshake, for example LoadRecipe; ends within the guard time."""
    program = CommandProgram(code, argument, time.monotonic_ns(), options.word_order)
    await run_scans(options, program, asyncio.Event())
    return CommandError(program.result or 0)


def main(
    host: Annotated[str, typer.Option(help="Address of the appliance.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Its Modbus port.")] = 5020,
    parts: Annotated[int, typer.Option(min=1, help="Parts to show.")] = 100,
    forever: Annotated[bool, typer.Option("--forever", help="Until Ctrl-C.")] = False,
    rate: Annotated[float, typer.Option(min=0, help="Parts per second; 0 = as fast as Ready.")] = 0,
    scan_ms: Annotated[float, typer.Option(min=0.5, help="Scan cycle.")] = 5.0,
    deadline_ms: Annotated[float, typer.Option(help="Of the acceptance rule, own clock.")] = 250.0,
    ask_deadline_ms: Annotated[int, typer.Option(help="HR 9: a shorter deadline; 0 = none.")] = 0,
    accept_simulated: Annotated[
        bool,
        typer.Option(
            "--accept-simulated", help="Accept parts with Simulated 1, too; no real PLC does."
        ),
    ] = False,
    first_tag: Annotated[int, typer.Option(min=0, help="PartTag of the first part.")] = 1,
    ring: Annotated[
        Ring, typer.Option(help="Results from the ring, parts by plc, hardware or free.")
    ] = Ring.NONE,
    barrier: Annotated[
        list[str] | None,
        typer.Option(help="With --ring hardware: pulse this camera's socket (tools/gentl)."),
    ] = None,
    load_recipe: Annotated[int, typer.Option(help="Product number to load first.")] = 0,
    low_word_first: Annotated[
        bool, typer.Option("--low-word-first", help='As [plc] word_order = "low_first".')
    ] = False,
    break_rule: Annotated[Break, typer.Option("--break", help="Break this rule.")] = Break.NONE,
    break_from: Annotated[int, typer.Option(min=1, help="From this part on.")] = 1,
    parts_file: Annotated[Path | None, typer.Option(help="One JSON line per part.")] = None,
    as_view: Annotated[
        bool, typer.Option("--view", help="Show words, bits and the newest parts as they change.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """A PLC on the desk: triggers parts, applies the acceptance rule, reports what it saw."""
    if ring == Ring.HARDWARE and not rate:
        raise typer.BadParameter("--ring hardware needs --rate: its parts come by themselves")
    options = PlcOptions(
        host=host,
        port=port,
        word_order="low_first" if low_word_first else "high_first",
        parts=0 if forever else parts,
        rate_hz=rate,
        scan_ms=scan_ms,
        deadline_ms=deadline_ms,
        ask_deadline_ms=ask_deadline_ms,
        accept_simulated=accept_simulated,
        first_tag=first_tag,
        ring=ring,
        barrier=tuple(barrier or ()),
        breaks=break_rule,
        break_from=break_from,
    )
    raise typer.Exit(asyncio.run(_main(options, load_recipe, parts_file, as_json, as_view)))


async def _main(
    options: PlcOptions,
    load_recipe: int,
    parts_file: Path | None,
    as_json: bool,
    as_view: bool,
) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if load_recipe:
        result = await command(options, CommandCode.LOAD_RECIPE, load_recipe)
        if result != CommandError.DONE:
            sys.stderr.write(f"inspectd: recipe {load_recipe} not loaded: {result.name}\n")
            return 1
    shown = (_Screen if as_view else _View)(options, parts_file)
    try:
        report = await run_plc(options, shown.add, stop, shown.scanned)
    finally:
        shown.close()
    if as_json:
        sys.stdout.write(json.dumps(report.summary()) + "\n")
    return 0 if report.triggered else 1


class _View:
    """One line for people on stderr: a bar on a terminal, now and then a line elsewhere."""

    def __init__(self, options: PlcOptions, parts_file: Path | None) -> None:
        self.options = options
        self._report = PlcReport()
        self._file = _open(parts_file) if parts_file else None
        self._console = Console(stderr=True)
        self._shown_s = time.monotonic()
        self._offline, self._offline_s, self._is_told = 0, 0.0, False
        self._begin()

    def _begin(self) -> None:
        self._progress = Progress(
            TextColumn("PLC"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"),
            console=self._console, disable=not self._console.is_terminal,
        )  # fmt: skip
        self._task = self._progress.add_task("", total=self.options.parts or None)
        self._progress.start()

    def add(self, part: Part) -> None:
        """One decision: into the file at once, on the screen when there is time."""
        self._report.add(part)
        if self._file is not None:
            self._file.write(json.dumps(part_object(part)) + "\n")
            self._file.flush()
        self._show(part)

    def _show(self, part: Part) -> None:
        self._progress.update(self._task, advance=1, description=self.line())
        is_due = time.monotonic() - self._shown_s > _PLAIN_LINE_EVERY_S
        if is_due and not self._console.is_terminal:
            self._say()

    def scanned(self, image: Bank | None, program: Program) -> None:
        """One cycle of the program. What keeps the line from being ready is told once."""
        offline = 0 if image is None else image.number("OfflineReason")
        now_s = time.monotonic()
        if offline != self._offline:
            self._offline, self._offline_s, self._is_told = offline, now_s, False
        if image is None or not offline or self._is_told or now_s - self._offline_s < TELL_S:
            return
        self._is_told = True
        sys.stderr.write(f"plc: {not_ready(image)}; trying on\n")

    def close(self) -> None:
        """The last line stays."""
        self._end()
        if self._file is not None:
            self._file.close()

    def _end(self) -> None:
        self._progress.stop()
        if not self._console.is_terminal:
            self._say()

    def _say(self) -> None:
        self._shown_s = time.monotonic()
        sys.stderr.write(f"plc: {self._report.parts} parts, {self.line()}\n")
        sys.stderr.flush()

    def line(self) -> str:
        """What became of the parts so far."""
        report = self._report
        why = report.rejected_why.most_common(1)
        most = f", mostly: {why[0][0]}" if why else ""
        return f"{report.accepted} accepted, {report.rejected} rejected{most}"


class _Screen(_View):
    """The words of the last cycle and the newest parts; on a terminal as they change, else once."""

    def _begin(self) -> None:
        self._newest: deque[Part] = deque(maxlen=KEPT_PARTS)
        self._lines: list[str] = []
        self._live = Live(console=self._console, refresh_per_second=10, transient=True)
        if self._console.is_terminal:
            self._live.start()

    def _show(self, part: Part) -> None:
        self._newest.appendleft(part)

    def scanned(self, image: Bank | None, program: Program) -> None:
        """One cycle of the program; shown ten times a second."""
        now_s = time.monotonic()
        if now_s - self._shown_s < _SCREEN_EVERY_S and not program.is_done:
            return
        self._shown_s = now_s
        summary = f"{self._report.parts} parts, {self.line()}"
        newest = [*self._newest]
        self._lines = view(self.options, image, program.out, newest, program.seen, summary)
        if self._live.is_started:
            self._live.update(Text("\n".join(self._lines)))

    def _end(self) -> None:
        self._live.stop()
        sys.stderr.write("\n".join(self._lines) + "\n")


def _open(path: Path) -> TextIO:
    try:
        return path.open("w", encoding="utf-8")
    except OSError as err:
        raise ConfigError(path, "a file that can be written", str(err)) from err


def part_object(part: Part) -> dict[str, Any]:
    """One line of `--parts-file`; figures that do not apply are None."""
    record = asdict(part)
    has_result = part.word != Word.NONE
    record["margin"] = part.margin if math.isfinite(part.margin) else None
    record["latency_ms"] = round(part.latency_ms, 3) if has_result else None
    record["triggered_ns"] = part.triggered_ns or None
    return record
