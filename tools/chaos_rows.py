"""The failure table: how each failure is brought about for real, and what must come of it.

A row breaks a running line, waits until the PLC saw it, mends what does not mend itself, and waits
for accepted parts. What the PLC read, and when, is judged afterwards by `chaos.py`.
"""

import importlib.util
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from appliance.bundle import GateLimits
from appliance.codes import FaultCode, OfflineReason, Reason, Status1, Status2
from tools.bench_line import free_port, numbered
from tools.chaos_clock import SteppingClock
from tools.chaos_line import DEADLINE_MS, SCAN_MS, Scene, Sight

KILL_MS = 500.0 + SCAN_MS
"""VisionHeartbeat may stand still for so long before the PLC rejects by itself."""
READY_S = 5.0
_GATED = 16
_BLACK, _FLAT = 0, 7
_GATES = GateLimits(
    mean=(0.5, 250.0),
    saturated=(0.0, 1.0),
    focus=(50.0, 1e9),
    shift_px=None,
    mean_image="gates.png",
)


class NotHereError(Exception):
    """This machine or this user cannot bring it about; the message says what it takes."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    play: breaks, awaits, mends, awaits. reasons: what the parts that it costs may carry; for a
    failure that shows in the box's state alone, none. shown: what the PLC must see; None = parts
    alone tell. within_ms: from the failure (or from the trigger of the part that it strikes) to the
    PLC's knowledge of it. recovers_s: from there, or from the mending, to accepted parts; 0 = the
    next part.
    """

    failure: str
    play: Callable[[Scene], None]
    scene: Callable[[], "Scene"]
    reasons: frozenset[Reason] = frozenset()
    shown: Callable[[Sight], bool] | None = None
    within_ms: float = DEADLINE_MS + 2 * SCAN_MS
    recovers_s: float = READY_S
    note: str = ""
    needs: Callable[[], None] = field(default=lambda: None)
    """Raises NotHereError."""


def _scene(**settings: Any) -> Callable[[], Scene]:
    return lambda: Scene(**settings)


def _offline(reason: OfflineReason) -> Callable[[Sight], bool]:
    return lambda sight: sight.offline == reason


def _lost(sight: Sight) -> bool:
    return sight.is_lost


def _kill(process: str, number: signal.Signals) -> Callable[[Scene], None]:
    def play(scene: Scene) -> None:
        scene.kill(process, number)
        scene.await_accepted()

    return play


def _struck(scene: Scene, reasons: frozenset[Reason]) -> int:
    return sum(part.reason in reasons for part in list(scene.parts))


def _recurring(*reasons: Reason, times: int = 3) -> Callable[[Scene], None]:
    """The failure comes by itself, every n-th frame: some of it, each time with a recovery."""

    def play(scene: Scene) -> None:
        scene.await_(
            f"{times} parts with {reasons}",
            lambda: _struck(scene, frozenset(reasons)) >= times,
        )
        scene.await_accepted(3)

    return play


def _overload(scene: Scene) -> None:
    def refused() -> int:
        return sum("not ready" in part.why for part in list(scene.parts))

    scene.await_("parts that find the line not ready", lambda: refused() >= 10)
    scene.await_accepted()


def _camera_gone(scene: Scene) -> None:
    scene.await_sight("camera that is lost", _offline(OfflineReason.CAMERA))
    scene.await_accepted()


def _engine_restarts(scene: Scene) -> None:
    scene.await_sight("engine that is lost", _offline(OfflineReason.ENGINE))
    scene.await_accepted()


def _out_of_memory(scene: Scene) -> None:
    pid = scene.line.pids()["infer"]
    used = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
    limit = used + (64 << 20)
    scene.inject(lambda: resource.prlimit(pid, resource.RLIMIT_AS, (limit, limit)))
    scene.await_("new infer", lambda: scene.line.pids().get("infer", pid) != pid)
    scene.await_accepted()


def _plc_lost(scene: Scene) -> None:
    def fall_silent() -> None:
        scene.plc.is_silent = True

    scene.inject(fall_silent)
    scene.await_sight("lost PLC", _offline(OfflineReason.PLC_COMMUNICATION))
    scene.plc.is_silent = False
    scene.await_accepted()


def _power_cut(scene: Scene) -> None:
    scene.inject(scene.line.cut_power)
    scene.await_sight("silence", _lost)
    scene.line.start()
    scene.await_accepted()


def _edited_bundle(scene: Scene) -> None:
    bundle = scene.folder / "bundles" / "null"
    labels = bundle / "segments.png"
    kept = labels.read_bytes()
    labels.write_bytes(kept + b"x")
    scene.kill("infer")
    scene.await_sight("refusal", lambda sight: sight.offline in _REFUSED)
    time.sleep(1.0)  # it is tried again meanwhile, and must be refused again
    labels.write_bytes(kept)
    scene.await_accepted()


_REFUSED = (OfflineReason.NO_RECIPE, OfflineReason.ENGINE, OfflineReason.PASSPORT)


def _crash_loop(scene: Scene) -> None:
    for _ in range(2):
        scene.kill("record")
    old = scene.line.pids()["record"]
    scene.inject(lambda: os.kill(old, signal.SIGKILL))
    scene.await_sight("fault", lambda sight: sight.fault == FaultCode.RESTART_BUDGET_SPENT)
    scene.await_("another try a minute later", lambda: "record" in scene.line.pids(), 90)
    scene.await_accepted()


# ---- disks ---------------------------------------------------------------------------------


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


def _can_mount() -> None:
    if os.geteuid() != 0 or not shutil.which("mount"):
        raise NotHereError("needs root, to mount a small disk")
    probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotHereError(f"may not mount: {done.stderr.strip()}")


class _SmallDiskScene(Scene):
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


def _small_disk_scene() -> Scene:
    # DiskLow from 4 MB down; every picture is kept.
    return _SmallDiskScene(record={"images": "all", "min_free_gb": 0.004})


def _disk_full(scene: Scene) -> None:
    filler = scene.folder / "data" / "filler"

    def fill() -> None:
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(1 << 16))

    scene.inject(fill)
    scene.await_sight("full disk", _archive_is_lossy)
    scene.await_accepted(40)
    filler.unlink()
    scene.await_("rows", lambda: scene.ear.figure("rows_pending") == 0)


def _disk_read_only(scene: Scene) -> None:
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
    scene.await_sight("lossy archive", _archive_is_lossy)
    scene.await_accepted(40)
    if not remount("rw"):
        raise NotHereError("the disk cannot be made writable again")
    scene.await_("rows", lambda: scene.ear.figure("rows_pending") == 0)


def _archive_is_lossy(sight: Sight) -> bool:
    return bool(sight.status2 & (Status2.DISK_LOW | Status2.ARCHIVE_LOSSY))


# ---- clock ---------------------------------------------------------------------------------


class _ClockScene(Scene):
    """Its processes read a wall clock that can be set."""

    def begin(self, **environment: str) -> None:
        """As every scene."""
        self.clock = SteppingClock(self.folder)
        super().begin(**environment, **self.clock.environment)


def _has_compiler() -> None:
    if not SteppingClock.is_possible():
        raise NotHereError("needs gcc: a machine's own clock is left alone")


def _clock_steps(scene: Scene) -> None:
    if not isinstance(scene, _ClockScene):
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


# ---- buses ---------------------------------------------------------------------------------


def _has_opcua() -> None:
    if importlib.util.find_spec("asyncua") is None:
        raise NotHereError("needs the extra inspectd[bus]")


# ---- pictures ------------------------------------------------------------------------------


def _some_sick(number: int) -> npt.NDArray[np.uint8]:
    """Numbered pictures; one of them is black, one has no edge at all."""
    if number == _FLAT:
        return np.full((64, 64), 40, np.uint8)
    return numbered(number)


def _gated(**settings: Any) -> Callable[[], Scene]:
    return _scene(picture=_some_sick, pictures=_GATED, gates=_GATES, **settings)


def _killed_rows() -> Iterator[tuple[str, Row]]:
    shown: Mapping[str, Callable[[Sight], bool]] = {
        "camera": _offline(OfflineReason.CAMERA),
        "infer": _offline(OfflineReason.ENGINE),
        "decide": _lost,
        "record": lambda sight: Status1.WARNING in sight.status1,
    }
    reasons = {
        "camera": {Reason.NO_IMAGE, Reason.LATE},
        "infer": {Reason.LATE, Reason.QUEUE_FULL},
    }
    for process, is_shown in shown.items():
        for how, number in (("killed", signal.SIGKILL), ("stopped", signal.SIGSTOP)):
            is_quick = process == "record" and how == "killed"
            yield (
                f"{process}-{how}",
                Row(
                    failure=f"{process} {how} ({number.name})",
                    scene=_scene(),
                    play=_kill(process, number),
                    reasons=frozenset(reasons.get(process, ())),
                    shown=None if is_quick else is_shown,
                    within_ms=1500.0 if process == "record" else KILL_MS,
                    note="another one is there before anybody misses it" if is_quick else "",
                ),
            )


ROWS: Mapping[str, Row] = {
    "camera-gone": Row(
        failure="camera unplugged",
        scene=_scene(camera={"faults": {"lost_after": 120}}),
        play=_camera_gone,
        reasons=frozenset({Reason.NO_IMAGE, Reason.LATE}),
        shown=_offline(OfflineReason.CAMERA),
    ),
    "frame-missing": Row(
        failure="no picture after a trigger",
        scene=_scene(camera={"faults": {"drop_every": 30}}),
        play=_recurring(Reason.NO_IMAGE),
        reasons=frozenset({Reason.NO_IMAGE}),
    ),
    "incomplete": Row(
        failure="incomplete buffer",
        scene=_scene(camera={"faults": {"incomplete_every": 20}}),
        play=_recurring(Reason.INCOMPLETE_IMAGE),
        reasons=frozenset({Reason.INCOMPLETE_IMAGE}),
        recovers_s=0.0,
    ),
    "sick-picture": Row(
        failure="black picture, blurred picture",
        scene=_gated(),
        play=_recurring(Reason.IMAGE_HEALTH, times=4),
        reasons=frozenset({Reason.IMAGE_HEALTH}),
        recovers_s=0.0,
    ),
    "nan-map": Row(
        failure="NaN in the anomaly map",
        scene=_scene(engine={"faults": {"nan_every": 20}}, deadline_ms=DEADLINE_MS),
        play=_recurring(Reason.INVALID_NUMBER, times=2),
        reasons=frozenset({Reason.INVALID_NUMBER}),
        recovers_s=0.0,
    ),
    "engine-fails": Row(
        failure="the network raises an error, three times in a minute",
        scene=_scene(engine={"faults": {"fail_every": 15}}),
        play=_engine_restarts,
        reasons=frozenset({Reason.INFERENCE_ERROR, Reason.LATE, Reason.QUEUE_FULL}),
        shown=_offline(OfflineReason.ENGINE),
        within_ms=5000.0,
        note="each part at once; infer starts anew after the third",
    ),
    "engine-hangs": Row(
        failure="a call into the engine never returns",
        scene=_scene(engine={"faults": {"hang_every": 60}}),
        play=_engine_restarts,
        reasons=frozenset({Reason.LATE, Reason.QUEUE_FULL}),
        shown=_offline(OfflineReason.ENGINE),
        within_ms=DEADLINE_MS + KILL_MS,
    ),
    "out-of-memory": Row(
        failure="no more memory for infer",
        scene=_scene(engine={"faults": {"hoard_every": 120}}),
        play=_out_of_memory,
        reasons=frozenset({Reason.LATE, Reason.QUEUE_FULL, Reason.INFERENCE_ERROR}),
        shown=_offline(OfflineReason.ENGINE),
        within_ms=10_000.0,
        note="from the moment at which memory is limited",
    ),
    "late": Row(
        failure="result later than the deadline",
        scene=_scene(engine={"faults": {"slow_every": 30, "slow_ms": DEADLINE_MS + 100}}),
        play=_recurring(Reason.LATE),
        reasons=frozenset({Reason.LATE, Reason.QUEUE_FULL}),
        recovers_s=1.0,
    ),
    "queue-full": Row(
        failure="more parts than infer can judge",
        scene=_scene(ring_hz=40.0, engine={"null_delay_ms": 60.0}, deadline_ms=1000),
        play=_overload,
        reasons=frozenset(),
        recovers_s=0.0,
        note="TriggerReady falls before the queue is full: the PLC rejects what it could not take",
    ),
    **dict(_killed_rows()),
    "plc-lost": Row(
        failure="the PLC's heartbeat stands still",
        scene=_scene(),
        play=_plc_lost,
        shown=_offline(OfflineReason.PLC_COMMUNICATION),
        within_ms=500.0 + 100.0,
        recovers_s=1.0,
    ),
    "disk-full": Row(
        failure="disk full",
        scene=_small_disk_scene,
        play=_disk_full,
        shown=_archive_is_lossy,
        within_ms=5000.0,
        recovers_s=0.0,
        note="inspection goes on; every row is written once there is room",
        needs=_can_mount,
    ),
    "disk-read-only": Row(
        failure="disk read-only",
        scene=_small_disk_scene,
        play=_disk_read_only,
        shown=_archive_is_lossy,
        within_ms=10_000.0,
        recovers_s=0.0,
        note="inspection goes on; every row is written once the disk takes them",
        needs=_can_mount,
    ),
    "power-loss": Row(
        failure="power cut: everything killed at once",
        scene=_scene(engine={"null_delay_ms": 30.0}),
        play=_power_cut,
        reasons=frozenset({Reason.RESTART}),
        shown=_lost,
        within_ms=KILL_MS,
        recovers_s=2 * READY_S,
    ),
    "clock-step": Row(
        failure="system clock steps by an hour, forward and back",
        scene=_ClockScene,
        play=_clock_steps,
        recovers_s=0.0,
        note="nothing may happen",
        needs=_has_compiler,
    ),
    "edited-bundle": Row(
        failure="a file of the model was changed",
        scene=_scene(),
        play=_edited_bundle,
        reasons=frozenset({Reason.LATE, Reason.QUEUE_FULL}),
        shown=lambda sight: sight.offline in _REFUSED,
        within_ms=KILL_MS,
        recovers_s=30.0,
        note="not Ready until the file is as it was",
    ),
    "bus-killed": Row(
        failure="process of the slow buses (OPC UA) killed",
        scene=lambda: Scene(bus={"opcua": {"port": free_port()}}),
        play=_kill("bus", signal.SIGKILL),
        recovers_s=0.0,
        note="no verdict may notice",
        needs=_has_opcua,
    ),
    "crash-loop": Row(
        failure="record crashes three times within a minute (limit 3)",
        scene=_scene(restart_limit=3),
        play=_crash_loop,
        shown=lambda sight: sight.fault == FaultCode.RESTART_BUDGET_SPENT,
        within_ms=2000.0,
        recovers_s=75.0,
        note="FaultCode 6, another try a minute later",
    ),
}

NOT_YET: Mapping[str, str] = {
    "wrong-engine": "an engine of another version or GPU needs a GPU",
    "shifted-picture": "the fixture gate is tested on its own (tests/test_gates.py)",
    "wrong-recipe": "refused recipes are tested with real processes (tests/test_process_recipe.py)",
    "hands-on-page": "taking control from the page is not injected here",
    "challenge": "challenge parts are not injected here",
    "thermal-throttle": "temperatures are not watched yet",
}
"""Rows of the failure table that this tool does not inject, and why."""
