"""The failure table: how each failure is brought about for real, and what must come of it.

A row breaks a running line, waits until the PLC saw it, mends what does not mend itself, and waits
for accepted parts. What the PLC read, and when, is judged afterwards by `chaos.py`.
"""

import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from appliance.codes import FaultCode, OfflineReason, Reason, Status1, Status2
from tools import chaos_disks as disks
from tools import chaos_pictures as pictures
from tools import chaos_plays as plays
from tools.bench_line import free_port
from tools.chaos_line import DEADLINE_MS, SCAN_MS, Scene, Sight

KILL_MS = 500.0 + SCAN_MS
"""VisionHeartbeat may stand still for so long before the PLC rejects by itself."""
READY_S = 5.0


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


def _killed_rows() -> Iterator[tuple[str, Row]]:
    shown: Mapping[str, Callable[[Sight], bool]] = {
        "camera": plays.offline(OfflineReason.CAMERA),
        "infer": plays.offline(OfflineReason.ENGINE),
        "decide": plays.lost,
        "record": lambda sight: Status1.WARNING in sight.status1,
    }
    reasons = {
        "camera": {Reason.NO_IMAGE, Reason.LATE},
        # The next infer may get a picture of the one before, and has no recipe yet.
        "infer": {Reason.LATE, Reason.QUEUE_FULL, Reason.WRONG_RECIPE},
    }
    for process, is_shown in shown.items():
        for how, number in (("killed", signal.SIGKILL), ("stopped", signal.SIGSTOP)):
            is_quick = process == "record" and how == "killed"
            yield (
                f"{process}-{how}",
                Row(
                    failure=f"{process} {how} ({number.name})",
                    scene=_scene(),
                    play=plays.kill(process, number),
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
        play=plays.camera_gone,
        reasons=frozenset({Reason.NO_IMAGE, Reason.LATE}),
        shown=plays.offline(OfflineReason.CAMERA),
    ),
    "frame-missing": Row(
        failure="no picture after a trigger",
        scene=_scene(camera={"faults": {"drop_every": 30}}),
        play=plays.recurring(Reason.NO_IMAGE),
        reasons=frozenset({Reason.NO_IMAGE}),
    ),
    "incomplete": Row(
        failure="incomplete buffer",
        scene=_scene(camera={"faults": {"incomplete_every": 20}}),
        play=plays.recurring(Reason.INCOMPLETE_IMAGE),
        reasons=frozenset({Reason.INCOMPLETE_IMAGE}),
        recovers_s=0.0,
    ),
    "sick-picture": Row(
        failure="black picture, blurred picture",
        scene=pictures.sick_scene,
        play=plays.recurring(Reason.IMAGE_HEALTH, times=4),
        reasons=frozenset({Reason.IMAGE_HEALTH}),
        recovers_s=0.0,
    ),
    "shifted-picture": Row(
        failure="the part is not in its place",
        scene=pictures.shifted_scene,
        play=plays.recurring(Reason.FIXTURE),
        reasons=frozenset({Reason.FIXTURE}),
        recovers_s=0.0,
    ),
    "nan-map": Row(
        failure="NaN in the anomaly map",
        scene=_scene(engine={"faults": {"nan_every": 20}}, deadline_ms=DEADLINE_MS),
        play=plays.recurring(Reason.INVALID_NUMBER, times=2),
        reasons=frozenset({Reason.INVALID_NUMBER}),
        recovers_s=0.0,
    ),
    "engine-fails": Row(
        failure="the network raises an error, three times in a minute",
        scene=_scene(engine={"faults": {"fail_every": 15}}),
        play=plays.engine_restarts,
        reasons=frozenset({Reason.INFERENCE_ERROR, Reason.LATE, Reason.QUEUE_FULL}),
        shown=plays.offline(OfflineReason.ENGINE),
        within_ms=5000.0,
        note="each part at once; infer starts anew after the third",
    ),
    "engine-hangs": Row(
        failure="a call into the engine never returns",
        scene=_scene(engine={"faults": {"hang_every": 60}}),
        play=plays.engine_restarts,
        reasons=frozenset({Reason.LATE, Reason.QUEUE_FULL}),
        shown=plays.offline(OfflineReason.ENGINE),
        within_ms=DEADLINE_MS + KILL_MS,
    ),
    "out-of-memory": Row(
        failure="no more memory for infer",
        scene=_scene(engine={"faults": {"hoard_every": 120}}),
        play=plays.out_of_memory,
        reasons=frozenset({Reason.LATE, Reason.QUEUE_FULL, Reason.INFERENCE_ERROR}),
        shown=plays.offline(OfflineReason.ENGINE),
        within_ms=10_000.0,
        note="from the moment at which memory is limited",
    ),
    "late": Row(
        failure="result later than the deadline",
        scene=_scene(engine={"faults": {"slow_every": 30, "slow_ms": DEADLINE_MS + 100}}),
        play=plays.recurring(Reason.LATE),
        reasons=frozenset({Reason.LATE, Reason.QUEUE_FULL}),
        recovers_s=1.0,
    ),
    "queue-full": Row(
        failure="more parts than infer can judge",
        scene=_scene(ring_hz=40.0, engine={"null_delay_ms": 60.0}, deadline_ms=1000),
        play=plays.overload,
        reasons=frozenset(),
        recovers_s=0.0,
        note="TriggerReady falls before the queue is full: the PLC rejects what it could not take",
    ),
    **dict(_killed_rows()),
    "plc-lost": Row(
        failure="the PLC's heartbeat stands still",
        scene=_scene(),
        play=plays.plc_lost,
        shown=plays.offline(OfflineReason.PLC_COMMUNICATION),
        within_ms=500.0 + 100.0,
        recovers_s=1.0,
    ),
    "disk-full": Row(
        failure="disk full",
        scene=disks.small_disk_scene,
        play=disks.disk_full,
        shown=disks.archive_is_lossy,
        within_ms=5000.0,
        recovers_s=0.0,
        note="inspection goes on; every row is written once there is room",
        needs=disks.can_mount,
    ),
    "disk-read-only": Row(
        failure="disk read-only",
        scene=disks.small_disk_scene,
        play=disks.disk_read_only,
        shown=disks.archive_is_lossy,
        within_ms=10_000.0,
        recovers_s=0.0,
        note="inspection goes on; every row is written once the disk takes them",
        needs=disks.can_mount,
    ),
    "disk-slow": Row(
        failure="disk slow: each sync takes 4 s",
        scene=disks.busy_disk_scene,
        play=disks.disk_slow,
        shown=lambda sight: Status1.WARNING in sight.status1,
        within_ms=3000.0,
        recovers_s=0.0,
        note="inspection goes on, record is not killed; rows wait for the disk",
        needs=disks.can_trace,
    ),
    "power-loss": Row(
        failure="power cut: everything killed at once",
        scene=_scene(engine={"null_delay_ms": 30.0}),
        play=plays.power_cut,
        reasons=frozenset({Reason.RESTART}),
        shown=plays.lost,
        within_ms=KILL_MS,
        recovers_s=2 * READY_S,
    ),
    "clock-step": Row(
        failure="system clock steps by an hour, forward and back",
        scene=disks.ClockScene,
        play=disks.clock_steps,
        recovers_s=0.0,
        note="nothing may happen",
        needs=disks.has_compiler,
    ),
    "edited-bundle": Row(
        failure="a file of the model was changed",
        scene=_scene(),
        play=plays.edited_bundle,
        reasons=frozenset({Reason.LATE, Reason.QUEUE_FULL}),
        shown=lambda sight: sight.offline in plays.REFUSED,
        within_ms=KILL_MS,
        recovers_s=30.0,
        note="not Ready until the file is as it was",
    ),
    "wrong-engine": Row(
        failure="an engine that another network was built into",
        scene=pictures.network_scene,
        play=pictures.wrong_engine,
        reasons=frozenset({Reason.LATE, Reason.QUEUE_FULL, Reason.NO_IMAGE}),
        shown=plays.offline(OfflineReason.PASSPORT),
        within_ms=30_000.0,
        recovers_s=30.0,
        note="infer is killed, so that it loads it; a golden frame finds it; mended by its removal",
    ),
    "wrong-recipe": Row(
        failure="the PLC orders a recipe whose model was changed",
        scene=plays.TwoRecipes,
        play=plays.wrong_recipe,
        shown=lambda sight: Status2.CMD_FAILED in sight.status2,
        within_ms=5000.0,
        recovers_s=1.0,
        note="CmdFailed; the old recipe stays in force",
    ),
    "hands-on-page": Row(
        failure="a person takes control",
        scene=_scene(),
        play=plays.taken_control,
        shown=lambda sight: Status2.MAINTENANCE in sight.status2,
        within_ms=500.0,
        recovers_s=READY_S,
        note="until it is given back",
    ),
    "challenge": Row(
        failure="a challenge part that must be NG ends as OK",
        scene=_scene(),
        play=plays.failed_challenge,
        shown=plays.offline(OfflineReason.CHALLENGE_LOCK),
        note="locked until a person unlocks it, with a reason",
    ),
    "thermal-throttle": Row(
        failure="the processor is slowed down by heat",
        scene=_scene(sysfs="sysfs"),
        play=plays.throttled,
        shown=lambda sight: Status2.THROTTLED in sight.status2,
        within_ms=3000.0,
        recovers_s=0.0,
        note="a tree as /sys has it; parts are judged as before, the PLC knows",
    ),
    "memory-short": Row(
        failure="memory runs short",
        scene=_scene(procfs="procfs"),
        play=plays.short_of_memory,
        shown=lambda sight: Status1.WARNING in sight.status1,
        within_ms=3000.0,
        recovers_s=0.0,
        note="a figure as /proc has it; Warning names who uses most, parts are judged as before",
    ),
    "late-rate": Row(
        failure="more than 1 of the last 1000 parts late",
        scene=_scene(engine={"faults": {"slow_every": 20, "slow_ms": DEADLINE_MS + 100}}),
        play=plays.alarmed,
        reasons=frozenset({Reason.LATE, Reason.QUEUE_FULL}),
        shown=lambda sight: Status1.WARNING in sight.status1,
        recovers_s=1.0,
        note="Warning, until the last 1000 parts are within the limit again",
    ),
    "bus-killed": Row(
        failure="process of the slow buses (OPC UA) killed",
        scene=lambda: Scene(bus={"opcua": {"port": free_port()}}),
        play=plays.kill("bus", signal.SIGKILL),
        recovers_s=0.0,
        note="no verdict may notice",
        needs=plays.has_opcua,
    ),
    "crash-loop": Row(
        failure="record crashes three times within a minute (limit 3)",
        scene=_scene(restart_limit=3),
        play=plays.crash_loop,
        shown=lambda sight: sight.fault == FaultCode.RESTART_BUDGET_SPENT,
        within_ms=2000.0,
        recovers_s=75.0,
        note="FaultCode 6, another try a minute later",
    ),
}

NOT_YET: Mapping[str, str] = {
    "fieldbus-dead": "the Modbus server is a task of decide, which ends with it: decide-killed",
    "wrong-plan": "a TensorRT engine of another version or card needs a GPU "
    "(tests/test_engine_tensorrt.py, tests/test_gpu.py)",
    "memory-creep": "slopes of memory, descriptors, threads: `inspectd soak`, `inspectd bench`",
}
"""Rows of the failure table that this tool does not inject, and why."""
