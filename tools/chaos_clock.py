"""A wall clock that steps for some processes alone: the machine's own clock is left as it is.

A library of a few lines stands in front of libc's and adds the seconds that a file says. Monotonic
clocks go their way, as on a machine whose clock is set.
"""

import shutil
import struct
import subprocess
from pathlib import Path

_SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static const volatile long long *step_s;
__attribute__((constructor)) static void look(void) {
    const char *path = getenv("INSPECTD_CHAOS_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *page = file < 0 ? MAP_FAILED : mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
    if (page != MAP_FAILED) step_s = page;
    if (file >= 0) close(file);
}
int clock_gettime(clockid_t id, struct timespec *now) {
    int done = (int)syscall(SYS_clock_gettime, id, now);
    if (!done && step_s && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
        now->tv_sec += *step_s;
    return done;
}
time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
int gettimeofday(struct timeval *out, void *zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"""


class SteppingClock:
    """folder: where library and file go. Raises OSError where gcc cannot build it."""

    def __init__(self, folder: Path) -> None:
        self._file, self._library = folder / "clock", folder / "clock.so"
        self._write(0)
        build = ["gcc", "-O2", "-shared", "-fPIC", "-x", "c", "-", "-o", str(self._library)]
        done = subprocess.run(build, input=_SOURCE, text=True, capture_output=True, check=False)
        if done.returncode:
            raise OSError(f"gcc: {done.stderr.strip()}")

    @staticmethod
    def is_possible() -> bool:
        """A compiler is there."""
        return shutil.which("gcc") is not None

    @property
    def environment(self) -> dict[str, str]:
        """Of the processes that shall read this clock."""
        return {"LD_PRELOAD": str(self._library), "INSPECTD_CHAOS_CLOCK": str(self._file)}

    def step(self, seconds: int) -> None:
        """From now on so far from the machine's clock."""
        self._write(seconds)

    def _write(self, seconds: int) -> None:
        if not self._file.exists():
            self._file.write_bytes(bytes(8))
        with self._file.open("r+b") as file:
            file.write(struct.pack("=q", seconds))
