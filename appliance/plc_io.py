"""24 V outputs and inputs: energise to pass, a toggling HEALTHY, NG as the opposite of OK.

Enters: verdicts, the beat of the decision loop, edges of the trigger input. Leaves: levels; and,
where the trigger is wired here, the same `PlcInput` that a Modbus PLC writes: one handshake.
OK never depends on this process living: the configuration demands an external watchdog.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from appliance.codes import Control, Status1, Status2, Word
from appliance.config_io import VIRTUAL, Io
from appliance.messages import Verdict
from appliance.words import Bank, PlcInput, decode_input

_MS = 1_000_000
_EDGE_MAX_AGE_NS = 20 * _MS
"""An edge that waited longer, in a stall, is a missed trigger: the camera would take the next part
for it."""


class Lines(Protocol):
    """One chip's lines. The virtual chip and gpiod pass the same contract suite."""

    def write(self, offset: int, level: bool) -> None:
        """Set an output. Raises OSError."""
        ...

    def read(self, offset: int) -> bool:
        """The level of a line."""
        ...

    def listen(self, edge: Callable[[int, bool, int], None]) -> None:
        """Call with offset, level and monotonic ns at every edge of an input, on the loop."""
        ...

    def close(self) -> None:
        """Let go; what the outputs do then is the chip's business."""
        ...


def open_lines(io: Io, runtime_dir: Path) -> Lines:
    """All lines of the section, outputs at their safe level. Raises ConfigError."""
    outputs = {io.ok: False, io.ng: True, io.healthy: False, io.ready: False}
    outputs.pop(-1, None)
    inputs = tuple(offset for offset in (io.trigger, io.enable) if offset >= 0)
    if io.chip == VIRTUAL:
        from appliance.plc_io_virtual import VirtualLines

        return VirtualLines(runtime_dir / "gpio", outputs, inputs)
    from appliance.plc_io_gpiod import GpiodLines

    return GpiodLines(io.chip, outputs, inputs, io.debounce_us)


class IoPort:
    """The wired side of one line."""

    def __init__(
        self,
        io: Io,
        lines: Lines,
        bank: Bank,
        on_write: Callable[[PlcInput, int], None],
        clock: Callable[[], int],
    ) -> None:
        self._io, self._lines, self._bank = io, lines, bank
        self._on_write, self._clock = on_write, clock
        self._pulse: asyncio.TimerHandle | None = None
        self._is_healthy = False
        self._is_enabled = False
        self._count = 0
        self._shown: dict[int, bool] = {}
        self.counters = {"io_triggers": 0, "io_pulses": 0}

    @property
    def is_master(self) -> bool:
        """The trigger is wired here: nobody else writes."""
        return self._io.trigger >= 0

    def start(self) -> None:
        """Listen to the inputs."""
        if self.is_master:
            self._is_enabled = self._lines.read(self._io.enable)
            self._lines.listen(self._edge)

    def beat(self) -> None:
        """Every 100 ms, from the decision loop alone: HEALTHY toggles while the line is Online."""
        if self.is_master:
            self._is_enabled = self._lines.read(self._io.enable)
            if self._is_enabled:  # an enabled PLC is an alive one
                self._bank.set_counter("PlcHeartbeat", self._bank.number("PlcHeartbeat") + 1)
            self._write(Control(0))
        self._is_healthy = not self._is_healthy and not self._is_safe
        self._put(self._io.healthy, self._is_healthy)
        self.follow()

    def follow(self) -> None:
        """READY as it stands in HR 100; in SafeState no window stays open."""
        if self._is_safe:
            self._end_pulse()
        status = Status1(self._bank.number("Status1"))
        self._put(self._io.ready, Status1.TRIGGER_READY in status)

    def verdict(self, verdict: Verdict) -> None:
        """A part was closed: the OK window, or the end of the one that is open."""
        if verdict.word == Word.OK and self._may_pass(verdict):
            self._end_pulse()
            self._put(self._io.ng, False)
            self._put(self._io.ok, True)
            self.counters["io_pulses"] += 1
            loop = asyncio.get_running_loop()
            self._pulse = loop.call_later(self._io.pulse_ms / 1e3, self._end_pulse)
        else:
            self._end_pulse()
        if self.is_master:
            # The window is the result; nobody reads the level words here.
            asyncio.get_running_loop().call_soon(self._acknowledge)

    def close(self) -> None:
        """Safe levels, then let go."""
        self._end_pulse()
        self._put(self._io.healthy, False)
        self._put(self._io.ready, False)
        self._lines.close()

    def _may_pass(self, verdict: Verdict) -> bool:
        """Whether OK can only be taken for this part, and may be believed."""
        is_real = not verdict.is_simulated or self._io.chip == VIRTUAL
        # A later edge, refused or not, is a part that would take this OK for its own.
        is_newest = not self.is_master or verdict.part_tag == self._count
        return is_real and is_newest and not self._is_safe

    @property
    def _is_safe(self) -> bool:
        """SafeState as it stands in HR 101."""
        return Status2.SAFE_STATE in Status2(self._bank.number("Status2"))

    def _end_pulse(self) -> None:
        if self._pulse is not None:
            self._pulse.cancel()
            self._pulse = None
        self._put(self._io.ok, False)
        self._put(self._io.ng, True)

    def _put(self, offset: int, level: bool) -> None:
        if offset >= 0 and self._shown.get(offset) != level:
            self._lines.write(offset, level)
            self._shown[offset] = level

    def _edge(self, offset: int, level: bool, at_ns: int) -> None:
        if offset == self._io.enable:
            self._is_enabled = level
            self._write(Control(0))
        elif offset == self._io.trigger and level:
            self._end_pulse()  # what is open was said of the part before, even if this is refused
            self._count = (self._count + 1) & 0xFFFF_FFFF
            self.counters["io_triggers"] += 1
            self._bank.set("PartTag", self._count)
            if self._clock() - at_ns > _EDGE_MAX_AGE_NS:
                # Not enabled is not Ready: refused and counted as any other, in a replay, too.
                self._write(Control.TRIGGER, is_enabled=False)
            else:
                self._write(Control.TRIGGER, at_ns)
            self._write(Control(0))
        self.follow()

    def _acknowledge(self) -> None:
        self._write(Control.RESULT_ACK)
        self._write(Control(0))
        self.follow()

    def _write(
        self, control: Control, at_ns: int | None = None, *, is_enabled: bool = True
    ) -> None:
        """As if a PLC had written; the deadline runs from the edge itself."""
        control |= Control.ENABLE if self._is_enabled and is_enabled else Control(0)
        self._bank.set("Control", control)
        now_ns = self._clock() if at_ns is None else at_ns
        self._on_write(decode_input(self._bank), now_ns)
