"""One line of real processes to break, and the desk PLC that sees what comes of it.

Pictures are numbered: the null engine gives a picture's number back as the margin, so a part that
is accepted with another number than its own was never scored, whatever the words said.
"""

import asyncio
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from appliance.bundle import GateLimits
from appliance.codes import (
    CommandCode,
    Control,
    ExpectedVerdict,
    FaultCode,
    OfflineReason,
    Status1,
    Status2,
)
from appliance.messages import Command
from appliance.wire import COMMAND_MS, Wiring
from appliance.words import Bank
from tools.bench_line import (
    NUMBERS,
    BenchLine,
    Ear,
    MakeBundle,
    Picture,
    number_of,
    numbered,
)
from tools.bench_row import NotMeasuredError
from tools.plc_client import run_scans
from tools.plc_level import LevelProgram
from tools.plc_program import Break, Part, PlcOptions, Program, Ring
from tools.plc_ring import RingProgram

SCAN_MS = 5.0
DEADLINE_MS = 300
PLC_DEADLINE_MS = 2000.0
"""A deadline of the PLC's own would help: ids and heartbeat alone have to protect it."""
PATIENCE_S = 30.0


class Sight(NamedTuple):
    """What the PLC read about the box at one moment; `is_lost`: it got no answer."""

    at_ns: int
    is_lost: bool
    status1: Status1
    status2: Status2
    offline: OfflineReason
    fault: FaultCode

    def __str__(self) -> str:
        if self.is_lost:
            return "no answer"
        said: list[str] = []
        if self.offline:
            said.append(f"TriggerReady 0, OfflineReason {self.offline.value}")
        if self.fault:
            said.append(f"FaultCode {self.fault.value}")
        said += [name for bit, name in _BITS1 if bit in self.status1]
        said += [name for bit, name in _BITS2 if bit in self.status2]
        said += [name for bit, name in _GOOD2 if bit not in self.status2]
        return ", ".join(said) or "nothing"


_BITS1 = ((Status1.WARNING, "Warning"),)
_BITS2 = (
    (Status2.SAFE_STATE, "SafeState"),
    (Status2.MAINTENANCE, "Maintenance"),
    (Status2.CHALLENGE_FAILED, "ChallengeFailed"),
    (Status2.CMD_FAILED, "CmdFailed"),
    (Status2.THROTTLED, "Throttled"),
    (Status2.DISK_LOW, "DiskLow"),
    (Status2.ARCHIVE_LOSSY, "ArchiveLossy"),
)
_GOOD2 = (
    (Status2.CAMERA_OK, "CameraOK 0"),
    (Status2.MODEL_OK, "ModelOK 0"),
    (Status2.PLC_COMM_OK, "PlcCommOK 0"),
)
_WATCHED1 = Status1.WARNING | Status1.FAULT
_WATCHED2 = (
    Status2.SAFE_STATE | Status2.DISK_LOW | Status2.ARCHIVE_LOSSY
    | Status2.CAMERA_OK | Status2.MODEL_OK | Status2.PLC_COMM_OK | Status2.MAINTENANCE
    | Status2.CHALLENGE_FAILED | Status2.CMD_FAILED | Status2.THROTTLED
)  # fmt: skip


class _Watch(Program):
    """What both PLC programs of a scene add: every change of the box's state, with its time."""

    sights: list[Sight]
    is_silent = False
    expected = ExpectedVerdict.NONE
    """Of every part, which is a challenge part then."""
    _command: tuple[CommandCode, int] | None = None

    def order(self, code: CommandCode, argument: int) -> None:
        """One command, held until the box has answered."""
        self._command = code, argument

    def scan(self, image: Bank, now_ns: int) -> None:
        """One cycle after a good request."""
        super().scan(image, now_ns)
        sight = Sight(
            now_ns,
            False,
            Status1(image.number("Status1")) & _WATCHED1,
            Status2(image.number("Status2")) & _WATCHED2,
            OfflineReason(image.number("OfflineReason")),
            FaultCode(image.number("FaultCode")),
        )
        self._note(sight)
        if Status1.CMD_DONE in Status1(image.number("Status1")):
            self._command = None

    def _write(self, now_ns: int) -> None:
        if self._command is not None:
            self.out.set("Command", self._command[0])
            self.out.set("CmdArg", self._command[1])
            self._bits |= Control.EXECUTE
        if self.expected:
            self._bits |= Control.CHALLENGE_MODE
        self.out.set("ExpectedVerdict", self.expected)
        super()._write(now_ns)

    def lost(self, now_ns: int, why: str) -> None:
        """One cycle without an answer."""
        super().lost(now_ns, why)
        nothing = (Status1(0), Status2(0), OfflineReason.NONE, FaultCode.NONE)
        self._note(Sight(now_ns, True, *nothing))

    def _note(self, sight: Sight) -> None:
        if not self.sights or self.sights[-1][1:] != sight[1:]:
            self.sights.append(sight)

    def _breaks(self, rule: Break) -> bool:
        return (rule == Break.SILENT_HEARTBEAT and self.is_silent) or super()._breaks(rule)


class _LevelWatch(_Watch, LevelProgram):
    """One part at a time."""


class _RingWatch(_Watch, RingProgram):
    """As many as come."""


class Scene:
    """A line that was started, a PLC that feeds it, and what both said. A context manager."""

    def __init__(
        self,
        picture: Picture = numbered,
        pictures: int = NUMBERS,
        gates: GateLimits | None = None,
        ring_hz: float = 0.0,
        ring: Ring = Ring.PLC,
        scan_ms: float = SCAN_MS,
        first_number: int = 0,
        make_bundle: MakeBundle | None = None,
        **changes: Any,
    ) -> None:
        """ring_hz: so many parts per second through the ring; 0 = one at a time, no ring.

        ring: who triggers then. scan_ms: of the PLC. first_number: what the first picture's margin
        codes. Further: see `BenchLine`.
        """
        settings: dict[str, Any] = {"deadline_ms": DEADLINE_MS, "camera": {}, **changes}
        settings["camera"] = {"order": "tag", **settings["camera"]}
        if ring_hz:
            settings["plc"] = {"results": "ring"}
        self.pictures, self._first_number = pictures, first_number
        self.line = BenchLine(picture, pictures, gates, make_bundle=make_bundle, **settings)
        self.ear = Ear(self.line)
        self.parts: list[Part] = []
        self.injected_ns = 0
        """0 where the fault comes by itself, again and again."""
        options = PlcOptions(
            port=self.line.port,
            parts=0,
            scan_ms=scan_ms,
            deadline_ms=PLC_DEADLINE_MS,
            accept_simulated=True,
            ring=ring if ring_hz else Ring.NONE,
            rate_hz=ring_hz if ring != Ring.FREE else 0.0,
        )
        self.plc = (_RingWatch if ring_hz else _LevelWatch)(options, self.parts.append)
        self.plc.sights = []
        self._stop: Callable[[], object] = lambda: None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._scan()))

    async def _scan(self) -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        self._stop = lambda: loop.call_soon_threadsafe(stop.set)
        await run_scans(self.plc.options, self.plc, stop)

    def begin(self, **environment: str) -> None:
        """Start everything; until the line is ready and parts come."""
        self.line.start(**environment)
        self.ear.await_ready()
        self._thread.start()
        self.await_("parts", lambda: len(self.parts) > 5)

    def end(self) -> None:
        """No more parts; the PLC lets go."""
        if self._thread.is_alive():
            self._stop()
            self._thread.join(10)

    def inject(self, act: Callable[[], object]) -> None:
        """Do it now, and measure from here."""
        self.injected_ns = time.monotonic_ns()
        act()

    def kill(self, process: str, number: signal.Signals = signal.SIGKILL) -> None:
        """One process; returns when another one has taken its place."""
        old = self.line.pids()[process]
        self.inject(lambda: os.kill(old, number))
        self.await_(f"new {process}", lambda: self.line.pids().get(process, old) != old)

    def order(self, name: str, argument: str = "") -> None:
        """A command of a person, as the page sends it."""
        with Wiring(self.line.config.runtime_dir) as wiring:
            command = Command(id=name, name=name, argument=argument, by="ada")
            wiring.sender("command").send(command, wait_ms=COMMAND_MS)

    def accepted_since(self, begun_ns: int) -> int:
        """Parts triggered after this and accepted."""
        return sum(p.is_accepted and p.triggered_ns > begun_ns for p in list(self.parts))

    def await_accepted(self, count: int = 20) -> None:
        """Until so many parts that were triggered from now on are accepted."""
        now_ns = time.monotonic_ns()
        self.await_("accepted parts", lambda: self.accepted_since(now_ns) >= count)

    def await_sight(self, what: str, is_shown: Callable[[Sight], bool]) -> None:
        """Until the PLC sees this."""
        begun = len(self.plc.sights)
        self.await_(what, lambda: any(is_shown(s) for s in list(self.plc.sights)[begun - 1 :]))

    def await_(self, what: str, check: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
        """Raises NotMeasuredError, with the end of the log."""
        end = time.monotonic() + seconds
        while not check():
            if time.monotonic() > end:
                why = f"after {seconds:.0f} s still no {what}"
                raise NotMeasuredError(f"{why}: {self.line.log_end()}")
            time.sleep(0.01)
            self.ear.listen()

    def lies(self) -> list[Part]:
        """Parts that were accepted without having been scored from their own picture."""
        return [
            part
            for part in self.parts
            if part.is_accepted
            and self.plc.options.ring == Ring.NONE
            and (
                not math.isfinite(part.margin)
                or number_of(part.margin) - self._first_number != (part.tag - 1) % self.pictures
            )
        ]

    def open_parts(self) -> int:
        """Accepted by the box and without a verdict, or without a row, once it is quiet."""

        def is_settled() -> bool:
            words = self.ear.words
            ledger = words.ledger if words else {}
            is_closed = ledger.get("accepted", -1) == ledger.get("verdicts")
            return is_closed and ledger.get("rows_pending") == 0

        try:
            self.await_("row for every part", is_settled, 15)
        except NotMeasuredError:
            words = self.ear.words
            if words is None:
                raise
            ledger = words.ledger
            return max(ledger["accepted"] - ledger["verdicts"], ledger["rows_pending"])
        return 0

    @property
    def folder(self) -> Path:
        """The root of the installation."""
        return self.line.root

    def close(self) -> None:
        """Stop all of it and remove the files."""
        self.end()
        self.ear.__exit__()
        self.line.close()

    def __enter__(self) -> "Scene":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
