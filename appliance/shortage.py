"""What a machine that runs for years may run out of: memory, and files that may be open.

Each process says what it uses, with its health; the decision process warns before anything is
refused, and names who uses most. Asked of the kernel; decides nothing.
"""

import ctypes
import os
import resource
from collections.abc import Mapping
from pathlib import Path

from appliance.messages import Health

_MEMORY_LEAST, _MEMORY_ENOUGH = 0.05, 0.07
"""Of all memory: a warning begins below the first and ends above the second."""
_FILES_MOST = 0.8
"""Of the limit of a process."""
_FRESH_NS = 3_000_000_000
"""What a process said longer ago holds no more: it ended, or is stopped."""
_PAGE = resource.getpagesize()


def own_use() -> dict[str, float]:
    """For a process's health: resident memory in MB, open files and how many there may be."""
    limit = float(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    try:
        resident = int(Path("/proc/self/statm").read_bytes().split()[1]) * _PAGE
        files = float(len(os.listdir("/proc/self/fd")))  # noqa: PTH208 - ten times a second
    except OSError:  # not one more file may be opened: just what has to be said
        resident, files = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10, limit
    return {"memory_mb": resident / 1e6, "open_files": files, "open_files_limit": limit}


def give_back() -> None:
    """Free memory that lies between pieces in use, to the kernel: a millisecond for ten megabytes.

    Bursts leave the C heap in such pieces: 7,000 damaged OPC UA messages made the private memory of
    `bus` 3 MB larger, 30,000 parts that of `decide` 2 MB, with as many bytes and objects in use as
    before. glibc alone.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class Shortage:
    """procfs: where the kernel shows its figures."""

    def __init__(self, procfs: Path = Path("/proc")) -> None:
        self._meminfo = procfs / "meminfo"
        self._uses: dict[str, tuple[int, Mapping[str, float]]] = {}
        self._total_mb = 0.0
        self._is_memory_short = False
        self.unknown = ""
        """Why nobody knows how much memory is left, in words; "" = it is known."""

    def heard(self, health: Health, now_ns: int) -> None:
        """A process says what it uses."""
        if "memory_mb" in health.gauges:
            self._uses[health.process] = now_ns, health.gauges

    def look(self, now_ns: int) -> None:
        """Once a second or so."""
        self._uses = {
            process: use for process, use in self._uses.items() if now_ns - use[0] < _FRESH_NS
        }
        total_kb, available_kb = _memory(self._meminfo)
        is_known = total_kb > 0
        self.unknown = "" if is_known else f"{self._meminfo} does not say how much memory is left"
        self._total_mb = total_kb / 1e3
        limit = _MEMORY_ENOUGH if self._is_memory_short else _MEMORY_LEAST
        self._is_memory_short = available_kb < limit * total_kb

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence for each shortage; the same one as long as it holds."""
        files = (
            f"{process}: more than {_FILES_MOST:.0%} of the files that it may open are open"
            for process, (_, use) in self._uses.items()
            if use["open_files"] > _FILES_MOST * use["open_files_limit"]
        )
        if not self._is_memory_short:
            return tuple(files)
        most = max(self._uses, key=lambda name: self._uses[name][1]["memory_mb"], default="")
        who = f"; of the line {most} uses most" if most else ""
        left = f"less than {_MEMORY_LEAST:.0%} of {self._total_mb:.0f} MB are left"
        return (f"memory runs short: {left}{who}", *files)


def _memory(meminfo: Path) -> tuple[int, int]:
    """All of it and what programs may still have, in kB; (0, 0) where the kernel does not say."""
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
        named = (line.partition(":") for line in lines)
        figures = {name: int(value.split()[0]) for name, _, value in named}
        return figures["MemTotal"], figures["MemAvailable"]
    except (OSError, ValueError, KeyError, IndexError):
        return 0, 0
