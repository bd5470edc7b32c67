"""Plays of the failure table: how each failure is brought about, awaited, and mended.

A play breaks a running line, waits until the PLC saw it, mends what does not mend itself, and waits
for accepted parts. Disks and clocks: `chaos_disks.py`.
"""

import importlib.util
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

from appliance.codes import (
    CommandCode,
    ExpectedVerdict,
    FaultCode,
    OfflineReason,
    Reason,
    Status1,
    Status2,
)
from appliance.engine_null import write_null_bundle
from appliance.recipe import Limits, Recipe, write_recipe
from tools.chaos_line import Scene, Sight


class NotHereError(Exception):
    """This machine or this user cannot bring it about; the message says what it takes."""


def offline(reason: OfflineReason) -> Callable[[Sight], bool]:
    """The PLC reads this OfflineReason."""
    return lambda sight: sight.offline == reason


def lost(sight: Sight) -> bool:
    """The PLC gets no answer."""
    return sight.is_lost


def kill(process: str, number: signal.Signals) -> Callable[[Scene], None]:
    """A process is killed or stopped; the supervisor has to see to it."""

    def play(scene: Scene) -> None:
        scene.kill(process, number)
        scene.await_accepted()

    return play


def _struck(scene: Scene, reasons: frozenset[Reason]) -> int:
    return sum(part.reason in reasons for part in list(scene.parts))


def recurring(*reasons: Reason, times: int = 3) -> Callable[[Scene], None]:
    """The failure comes by itself, every n-th frame: some of it, each time with a recovery."""

    def play(scene: Scene) -> None:
        scene.await_(
            f"{times} parts with {reasons}",
            lambda: _struck(scene, frozenset(reasons)) >= times,
        )
        scene.await_accepted(3)

    return play


def overload(scene: Scene) -> None:
    """Parts come faster than infer judges them."""

    def refused() -> int:
        whys = [why for part in list(scene.parts) for why in part.why]
        return sum(why.startswith("not ready") for why in whys)

    scene.await_("parts that find the line not ready", lambda: refused() >= 10)
    scene.await_accepted()


def camera_gone(scene: Scene) -> None:
    """The camera is lost by itself."""
    scene.await_sight("camera that is lost", offline(OfflineReason.CAMERA))
    scene.await_accepted()


def engine_restarts(scene: Scene) -> None:
    """The engine fails by itself, until infer ends."""
    scene.await_sight("engine that is lost", offline(OfflineReason.ENGINE))
    scene.await_accepted()


def out_of_memory(scene: Scene) -> None:
    """infer may take 64 MB more, and its engine wants a gigabyte."""
    pid = scene.line.pids()["infer"]
    used = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
    limit = used + (64 << 20)
    scene.inject(lambda: resource.prlimit(pid, resource.RLIMIT_AS, (limit, limit)))
    scene.await_("new infer", lambda: scene.line.pids().get("infer", pid) != pid)
    scene.await_accepted()


def plc_lost(scene: Scene) -> None:
    """Its heartbeat stands still."""

    def fall_silent() -> None:
        scene.plc.is_silent = True

    scene.inject(fall_silent)
    scene.await_sight("lost PLC", offline(OfflineReason.PLC_COMMUNICATION))
    scene.plc.is_silent = False
    scene.await_accepted()


def power_cut(scene: Scene) -> None:
    """Everything is killed at once, the supervisor first."""
    scene.inject(scene.line.cut_power)
    scene.await_sight("silence", lost)
    scene.line.start()
    scene.await_accepted()


def edited_bundle(scene: Scene) -> None:
    """A file of the bundle is changed, and infer has to load it."""
    bundle = scene.folder / "bundles" / "null"
    labels = bundle / "segments.png"
    kept = labels.read_bytes()
    labels.write_bytes(kept + b"x")
    scene.kill("infer")
    scene.await_sight("refusal", lambda sight: sight.offline in REFUSED)
    time.sleep(1.0)  # it is tried again meanwhile, and must be refused again
    labels.write_bytes(kept)
    scene.await_accepted()


REFUSED = (OfflineReason.NO_RECIPE, OfflineReason.ENGINE, OfflineReason.PASSPORT)


def crash_loop(scene: Scene) -> None:
    """record is killed until its restart budget is spent."""
    for _ in range(2):
        scene.kill("record")
    old = scene.line.pids()["record"]
    scene.inject(lambda: os.kill(old, signal.SIGKILL))
    scene.await_sight("fault", lambda sight: sight.fault == FaultCode.RESTART_BUDGET_SPENT)
    scene.await_("another try a minute later", lambda: "record" in scene.line.pids(), 90)
    scene.await_accepted()


def has_opcua() -> None:
    """Raises NotHereError."""
    if importlib.util.find_spec("asyncua") is None:
        raise NotHereError("needs the extra inspectd[bus]")


class TwoRecipes(Scene):
    """products.toml names a second recipe, of a bundle of its own."""

    def begin(self, **environment: str) -> None:
        """As every scene."""
        config = self.line.config
        bundle = write_null_bundle(config.bundles_dir / "other", "other", 64, 64)
        limits = Limits(t1=1e6, t2=2e6)
        recipe = Recipe(
            id="other", version=1, bundle=bundle.id, bundle_dir="other", decides="map_max",
            limits=limits,
        )  # fmt: skip
        write_recipe(config, recipe)
        products = self.folder / "products.toml"
        second = '[[product]]\nnumber = 2\nrecipe = "other/1"\n'
        products.write_text(products.read_text() + second)
        super().begin(**environment)


def wrong_recipe(scene: Scene) -> None:
    """A file of the second bundle is changed, and the PLC orders its recipe."""
    labels = scene.folder / "bundles" / "other" / "segments.png"
    labels.write_bytes(labels.read_bytes() + b"x")
    scene.inject(lambda: scene.plc.order(CommandCode.LOAD_RECIPE, 2))
    scene.await_sight("failed command", lambda sight: Status2.CMD_FAILED in sight.status2)
    scene.await_accepted()


def taken_control(scene: Scene) -> None:
    """As the page orders it for a technician."""
    scene.inject(lambda: scene.order("take_control"))
    scene.await_sight("maintenance", lambda sight: Status2.MAINTENANCE in sight.status2)
    scene.order("release_control")
    scene.await_accepted()


def failed_challenge(scene: Scene) -> None:
    """The PLC says that a part must be NG; it is a good one."""

    def expect_ng() -> None:
        scene.plc.expected = ExpectedVerdict.NG

    scene.inject(expect_ng)
    scene.await_sight("lock", offline(OfflineReason.CHALLENGE_LOCK))
    scene.plc.expected = ExpectedVerdict.NONE
    scene.order("unlock_challenge", "chaos: the part was a good one")
    scene.await_accepted()


def throttled(scene: Scene) -> None:
    """A cooling device as /sys/class/thermal has it lowers the clock, and lets it go again."""
    device = scene.folder / "sysfs" / "class" / "thermal" / "cooling_device0"
    device.mkdir(parents=True)
    (device / "type").write_text("Processor\n")
    (device / "max_state").write_text("10\n")
    state = device / "cur_state"
    scene.inject(lambda: state.write_text("3\n"))
    scene.await_sight("Throttled", lambda sight: Status2.THROTTLED in sight.status2)
    scene.await_accepted()
    state.write_text("0\n")
    scene.await_("end of Throttled", lambda: Status2.THROTTLED not in scene.plc.sights[-1].status2)
    scene.await_accepted()


def short_of_memory(scene: Scene) -> None:
    """The kernel says that little is left, and then that there is enough again."""
    meminfo = scene.folder / "procfs" / "meminfo"
    meminfo.parent.mkdir()

    def left(megabytes: int) -> None:
        meminfo.write_text(f"MemTotal: 4000000 kB\nMemAvailable: {megabytes}000 kB\n")

    scene.inject(lambda: left(150))
    scene.await_sight("Warning", lambda sight: Status1.WARNING in sight.status1)
    scene.await_accepted()
    left(2000)
    scene.await_("end of Warning", lambda: Status1.WARNING not in scene.plc.sights[-1].status1)
    scene.await_accepted()


def alarmed(scene: Scene) -> None:
    """Parts are late again and again."""
    scene.await_sight("warning", lambda sight: Status1.WARNING in sight.status1)
    scene.await_accepted(3)
