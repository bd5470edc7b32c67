"""Whether this machine is slowed down because it is hot: asked of the kernel, decides nothing.

Three places below /sys, each where it is there:
- `class/thermal/cooling_device*`: the clock of a processor or a GPU is lowered while `cur_state` is
  above 0 (types as the kernel names them: "Processor", "thermal-cpufreq-0", "cpu-throttle-alert" …;
  a fan that turns slows nothing down);
- `class/thermal/thermal_zone*`: `temp` has reached a trip point of the type "passive" or "hot";
- `devices/system/cpu/cpu*/thermal_throttle/*_throttle_count` (x86): grew lately.
A place that could be read once and cannot be read any more is no cool one: it is named as lost.
An NVIDIA card is asked by `throttle_nvidia.py`, in the process that uses it.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

_SLOWING = (
    "processor", "cpufreq", "thermal-cpufreq", "thermal-devfreq", "devfreq", "intel_powerclamp",
)  # fmt: skip
_TRIPS = ("passive", "hot")
_RECENT_S = 10.0
"""A counter that grew is shown for so long: the processor itself lowers its clock in bursts."""


class Throttle:
    """sysfs: where the kernel shows devices. Not for a loop: a sensor may take milliseconds."""

    def __init__(
        self, sysfs: Path = Path("/sys"), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._thermal, self._clock = sysfs / "class/thermal", clock
        self._cpus = sysfs / "devices/system/cpu"
        self._counts: dict[Path, int] = {}
        self._grew: tuple[float, str] | None = None
        self._known: dict[Path, str] = {}
        """What could be read once → what people call it."""
        self._read: set[Path] = set()
        self.lost = ""
        """Names of what the last look could not read any more; "" = all of it could be read."""

    def look(self) -> str:
        """What slows it down, in words; "" = nothing does, or nothing is known (`lost`)."""
        self._read = set()
        said: list[str] = []
        for place in (self._cooling, self._tripped, self._counted):
            try:
                said += place()
            except OSError:  # a zone that went away while it was listed
                continue
        self.lost = ", ".join(
            sorted({name for path, name in self._known.items() if path not in self._read})
        )
        return said[0] if said else ""

    def _number(self, path: Path, name: str) -> int | None:
        """The same as `_number`, and remembered. name: "" = nobody would miss it."""
        number = _number(path)
        if number is not None:
            self._read.add(path)
            if name:
                self._known[path] = name
        return number

    def _cooling(self) -> Iterator[str]:
        for device in sorted(self._thermal.glob("cooling_device*")):
            kind = _text(device / "type")
            if not (kind.lower().startswith(_SLOWING) or "throttle" in kind.lower()):
                continue
            state = self._number(device / "cur_state", kind)
            if state is not None and state > 0:
                yield f"{kind} at step {state}"

    def _tripped(self) -> Iterator[str]:
        for zone in sorted(self._thermal.glob("thermal_zone*")):
            limits = [
                _number(kind.with_name(kind.name.replace("_type", "_temp"))) or 0
                for kind in zone.glob("trip_point_*_type")
                if _text(kind) in _TRIPS
            ]
            # 0 and below: a trip point that is switched off.
            limit = min((limit for limit in limits if limit > 0), default=None)
            name = _text(zone / "type") or zone.name
            temperature = self._number(zone / "temp", "" if limit is None else name)
            if limit is not None and temperature is not None and limit <= temperature:
                yield f"{name} {temperature / 1000:.0f} °C, limit {limit / 1000:.0f} °C"

    def _counted(self) -> Iterator[str]:
        for path in sorted(self._cpus.glob("cpu[0-9]*/thermal_throttle/*_throttle_count")):
            count = self._number(path, path.parent.parent.name)
            if count is None:
                continue
            if count > self._counts.get(path, count):
                self._grew = self._clock(), f"{path.parent.parent.name} lowered its clock"
            self._counts[path] = count
        if self._grew is not None and self._clock() - self._grew[0] <= _RECENT_S:
            yield self._grew[1]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:  # a sensor that sleeps, a device that was unplugged
        return ""


def _number(path: Path) -> int | None:
    try:
        return int(_text(path))
    except ValueError:
        return None
