"""Plays of the failure table around disks and the wall clock."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from appliance.codes import FaultCode, Status1, Status2
from tools.bench_row import NotMeasuredError
from tools.chaos_clock import SteppingClock
from tools.chaos_line import Scene, Sight
from tools.chaos_plays import NotHereError

_SLOW_S = 15


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 24 MB on `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)


def can_mount() -> None:
    """Raises NotHereError."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        raise NotHereError("needs root, to mount a small disk")
    probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotHereError(f"may not mount: {done.stderr.strip()}")


class SmallDiskScene(Scene):
    """Its data lie on a small disk."""

    def begin(self, **environment: str) -> None:
        """As every scene."""
        self._disk = _small_disk(self.folder / "data")
        self._disk.__enter__()
        super().begin(**environment)

    def close(self) -> None:
        """As every scene."""
        self.end()
        self.ear.__exit__()
        self.line.stop()
        with suppress(AttributeError):
            self._disk.__exit__(None, None, None)
        self.line.close()


def small_disk_scene() -> Scene:
    """Every picture is kept; DiskLow from 4 MB down."""
    return SmallDiskScene(record={"images": "all", "min_free_gb": 0.004})


def disk_full(scene: Scene) -> None:
    """Every byte of it is taken by somebody else."""
    filler = scene.folder / "data" / "filler"

    def fill() -> None:
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(1 << 16))

    scene.inject(fill)
    scene.await_sight("full disk", archive_is_lossy)
    scene.await_accepted(40)
    filler.unlink()
    scene.await_("rows", lambda: scene.ear.figure("rows_pending") == 0)


def disk_read_only(scene: Scene) -> None:
    """As the kernel leaves it after a bad sector."""

    data = str(scene.folder / "data")

    def remount(how: str) -> bool:
        command = ["mount", "-o", f"remount,{how}", data]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    scene.inject(lambda: None)

    def is_read_only() -> bool:
        # The kernel refuses while a file is open for writing: as after a bad sector, the process
        # starts anew and finds a disk that takes nothing.
        pid = scene.line.pids().get("record")
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return remount("ro")

    scene.await_("read-only disk", is_read_only)
    scene.await_sight("lossy archive", archive_is_lossy)
    scene.await_accepted(40)
    if not remount("rw"):
        raise NotHereError("the disk cannot be made writable again")
    scene.await_("rows", lambda: scene.ear.figure("rows_pending") == 0)


def can_trace() -> None:
    """Raises NotHereError."""
    if not shutil.which("strace"):
        raise NotHereError("needs strace, to slow a process's disk down")
    # A process that is no child of strace, as record is none: some kernels allow children alone.
    with subprocess.Popen(["sleep", "60"]) as traced:
        probe = ["timeout", "2", "strace", "-qq", "-o", "/dev/null", "-p", str(traced.pid)]
        done = subprocess.run(probe, capture_output=True, text=True, check=False)
        traced.kill()
    if done.stderr:
        raise NotHereError(f"may not trace: {done.stderr.strip()}")


def busy_disk_scene() -> Scene:
    """Rejects alone are kept, so that pictures do not wait before the rows."""
    return Scene(record={"images": "ng"})


def disk_slow(scene: Scene) -> None:
    """Every sync of record takes 4 s, twice its watchdog, as worn flash takes them."""
    pid = scene.line.pids()["record"]
    slow = ["-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:delay_enter=4s"]
    command = ["strace", "-f", "-qq", "-o", "/dev/null", *slow, "-p", str(pid)]
    tracers: list[subprocess.Popen[bytes]] = []
    scene.inject(lambda: tracers.append(subprocess.Popen(command, stderr=subprocess.DEVNULL)))
    try:
        scene.await_sight("Warning", lambda sight: Status1.WARNING in sight.status1)
        for _ in range(_SLOW_S):  # several commits, each longer than a row may wait elsewhere
            time.sleep(1.0)
            scene.await_accepted()
        if scene.line.pids().get("record") != pid:
            raise NotMeasuredError(f"record was killed for its disk: {scene.line.log_end()}")
    finally:
        for tracer in tracers:
            tracer.terminate()
            tracer.wait()
    scene.await_("rows", lambda: scene.ear.figure("rows_pending") == 0)
    faults = {sight.fault for sight in list(scene.plc.sights)} - {FaultCode.NONE}
    if faults:
        raise NotMeasuredError(f"a slow disk is no fault, got {faults}")


def archive_is_lossy(sight: Sight) -> bool:
    """Pictures or rows are missing, or soon will be."""
    return bool(sight.status2 & (Status2.DISK_LOW | Status2.ARCHIVE_LOSSY))


class ClockScene(Scene):
    """Its processes read a wall clock that can be set."""

    def begin(self, **environment: str) -> None:
        """As every scene."""
        self.clock = SteppingClock(self.folder)
        super().begin(**environment, **self.clock.environment)


def has_compiler() -> None:
    """Raises NotHereError."""
    if not SteppingClock.is_possible():
        raise NotHereError("needs gcc: a machine's own clock is left alone")


def clock_steps(scene: Scene) -> None:
    """An hour forward, an hour back, and where it was."""
    if not isinstance(scene, ClockScene):
        raise TypeError("a scene with a clock")
    labels_s = [_newest_label_s(scene)]
    for step_s in (3600, -3600, 0):
        scene.inject(lambda step_s=step_s: scene.clock.step(step_s))
        scene.await_accepted(8)
        labels_s.append(_newest_label_s(scene))
    if not labels_s[1] - labels_s[0] > 3000 or not labels_s[1] - labels_s[2] > 6000:
        raise NotHereError("its processes did not see the clock step")


def _newest_label_s(scene: Scene) -> float:
    scene.await_("rows", lambda: scene.ear.figure("rows_pending") == 0)
    return scene.line.verdicts(1)[-1].opened_utc_ns / 1e9
