"""The foreground supervisor with real child processes: restart, limit, hang, exit 78, stop."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from appliance import supervise
from appliance.config import Config, Engine, Hmi, Wire
from appliance.config_camera import Camera
from appliance.errors import AddressInUse, ConfigError
from appliance.service import EXIT_CONFIG, EXIT_DONE
from appliance.supervise import Supervisor, check_addresses, is_running, process_table
from appliance.wire import Wiring
from tests.ports import free_port
from tests.rig import Rig
from tests.rig_camera import short_root
from tests.waiting import until

CRASH = "import sys; sys.exit(1)"
REFUSE = "import sys; sys.exit(78)"
SERVE = """
import os, socket, sys, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect(os.environ["NOTIFY_SOCKET"])
s.send(b"READY=1")
while True:
    s.send(b"WATCHDOG=1")
    time.sleep(0.05)
"""
HANG = SERVE.replace("while True:", "while False:") + "\ntime.sleep(60)\n"


RUN = f"""
import sys
from pathlib import Path
from appliance import supervise
class Small(supervise.Supervisor):
    def command(self, child):
        return [sys.executable, "-c", {SERVE!r}]
supervise.Supervisor = Small
sys.exit(supervise.run(Path(sys.argv[1])))
"""


class Children(Supervisor):
    """The supervisor with other commands in its table: real processes, only smaller."""

    def __init__(
        self, rig: Rig, programs: dict[str, str], clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        super().__init__(rig.config_path, rig.config, clock)
        self.programs = programs
        self.away: set[str] = set()

    def command(self, child: supervise.Child) -> list[str]:
        """A small program instead of a process of the line."""
        python = "/nowhere/python" if child.process in self.away else sys.executable
        return [python, "-c", self.programs.get(child.process, SERVE)]


@contextmanager
def running(
    rig: Rig, programs: dict[str, str], clock: Callable[[], int] = time.monotonic_ns
) -> Iterator[tuple[Children, list[int]]]:
    """The supervisor in a thread; the list gets its exit code."""
    supervisor = Children(rig, programs, clock)
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(supervisor.run()))
    thread.start()
    try:
        yield supervisor, codes
    finally:
        supervisor.stop()
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture()
def rig() -> Iterator[Rig]:
    """An installation with a restart limit of 3."""
    with Rig({"restart_limit": 3}) as rig:
        yield rig


def spent(rig: Rig) -> list[str]:
    """Processes whose budget is spent."""
    return sorted(path.name for path in rig.config.runtime_dir.glob("spent-*"))


def test_what_dies_is_started_again(rig: Rig) -> None:
    """A killed process is another process soon; nothing counts as spent."""
    with running(rig, {}) as (supervisor, _):
        old = until("record", lambda: supervisor.pids.get("record"))
        os.kill(old, signal.SIGKILL)
        until("another record", lambda: supervisor.pids.get("record", old) != old)
        assert spent(rig) == []


def test_what_cannot_be_started_now_is_tried_again_and_the_others_run_on(rig: Rig) -> None:
    """No memory for another process, no room for its socket."""
    with running(rig, {}) as (supervisor, codes):
        old = until("record", lambda: supervisor.pids.get("record"))
        record = next(child for child in supervisor.children if child.process == "record")
        supervisor.away.add("record")
        os.kill(old, signal.SIGKILL)
        until("a try in vain", lambda: record.start_at_ns > time.monotonic_ns() + 500_000_000)
        assert {"decide", "infer-0", "camera-top"} <= set(supervisor.pids)
        supervisor.away.clear()
        until("another record", lambda: supervisor.pids.get("record", old) != old)
        assert not codes


def test_what_crashes_too_often_is_left_for_a_minute(rig: Rig) -> None:
    """The limit is written where decide sees it; the others run on."""
    with running(rig, {"record": CRASH}) as (supervisor, codes):
        until("a spent budget", lambda: spent(rig) == ["spent-record"])
        until("it to stay down", lambda: "record" not in supervisor.pids)
        assert {"decide", "infer-0", "camera-top"} <= set(supervisor.pids)
        assert not codes


def test_a_directory_that_takes_no_file_ends_no_line(rig: Rig) -> None:
    """A full disk below `runtime` while something crashes too often: decide is not told."""
    with running(rig, {"record": CRASH}) as (supervisor, codes):
        (rig.config.runtime_dir / "spent-record").symlink_to(rig.root / "nowhere" / "file")
        record = next(child for child in supervisor.children if child.process == "record")
        until("a minute's rest", lambda: record.start_at_ns > time.monotonic_ns() + 30 * 10**9)
        assert {"decide", "infer-0", "camera-top"} <= set(supervisor.pids)
        assert not codes


def test_a_directory_that_lets_no_file_go_keeps_nobody_from_being_stopped(rig: Rig) -> None:
    """Read-only by now: the recorder still gets its turn after decide."""
    with running(rig, {}) as (supervisor, codes):
        until("all of them", lambda: len(supervisor.pids) == len(supervisor.children))
        stuck = rig.config.runtime_dir / "notify-decide"
        stuck.unlink()
        stuck.mkdir()
    assert codes == [EXIT_DONE]


def test_a_spent_process_has_one_try_a_minute_until_it_serves_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault ends with the first start that succeeds, not before and not never."""
    monkeypatch.setattr(supervise, "_RETRY_NS", 1_000_000_000)
    with running(rig, {"record": CRASH}) as (supervisor, _):
        until("a spent budget", lambda: spent(rig) == ["spent-record"])
        record = next(child for child in supervisor.children if child.process == "record")
        until("a try", lambda: "record" in supervisor.pids)
        until("its end", lambda: "record" not in supervisor.pids)
        assert spent(rig) == ["spent-record"]
        assert len(record.crashes) <= 1
        supervisor.programs["record"] = SERVE
        until("service", lambda: not spent(rig))
        assert "record" in supervisor.pids


def test_a_camera_may_crash_twice_as_often(rig: Rig) -> None:
    """Losses with back-off end the camera process by design."""
    limits = {child.process: child.limit for child in Children(rig, {}).children}
    assert limits["camera"] == 2 * limits["infer"] == 6


def test_wrong_configuration_ends_the_run(rig: Rig) -> None:
    """Exit 78 is for a human: nothing is restarted, the code is handed on."""
    with running(rig, {"decide": REFUSE}) as (supervisor, codes):
        until("the end", lambda: codes)
    assert codes == [EXIT_CONFIG]
    assert supervisor.pids == {}


def test_a_page_that_refuses_another_file_after_a_crash_stops_no_line() -> None:
    with Rig({"restart_limit": 3, "hmi": {"is_enabled": True, "port": free_port()}}) as rig:
        with running(rig, {"hmi": SERVE}) as (supervisor, codes):
            page = next(child for child in supervisor.children if child.process == "hmi")
            until("the page", lambda: page.has_served)
            supervisor.programs["hmi"] = REFUSE
            os.kill(supervisor.pids["hmi"], signal.SIGKILL)
            until("a minute's rest", lambda: spent(rig) == ["spent-hmi"])
            assert {"decide", "infer-0", "camera-top", "record"} <= set(supervisor.pids)
            assert not codes


def test_what_hangs_is_killed(rig: Rig) -> None:
    """No turn completed within the watchdog's time: SIGKILL and a fresh start."""
    with running(rig, {"infer": HANG}) as (supervisor, _):
        old = until("infer", lambda: supervisor.pids.get("infer-0"))
        until("another infer", lambda: supervisor.pids.get("infer-0", old) != old)


def test_a_supervisor_that_stood_still_itself_kills_nobody(rig: Rig) -> None:
    """A box that was frozen: nobody pinged, since nobody ran."""
    slept_ns = 0
    with running(rig, {}, lambda: time.monotonic_ns() + slept_ns) as (supervisor, _):
        children = supervisor.children
        until("all", lambda: all(child.has_served for child in children))
        old = supervisor.pids
        slept_ns = 10_000_000_000
        later_ns = time.monotonic_ns() + slept_ns + 2_300_000_000  # 0.3 s on, and 2 s of patience
        until("pings", lambda: all(child.patience_until_ns > later_ns for child in children))
        assert supervisor.pids == old


def test_a_worker_that_is_prepared_on_another_box_is_not_started_here() -> None:
    camera = Camera(name="top", kind="files", folder="x")
    wire = Wire(remote={"scored": "tcp://a:1", "prepare-infer-1": "tcp://b:2"})
    config = Config(
        root="/x", deadline_ms=100, camera=(camera,), engine=Engine(workers=3), wire=wire,
        hmi=Hmi(is_enabled=False),
    )  # fmt: skip
    names = [("camera", "top"), ("infer", "0"), ("infer", "2"), ("decide", ""), ("record", "")]
    assert list(process_table(config)) == names


def test_a_second_run_of_one_root_takes_nothing_of_the_first(rig: Rig) -> None:
    """It would bind the sockets anew by which the first hears that its processes live."""
    with running(rig, {}) as (supervisor, codes):
        until("all serve", lambda: all(child.has_served for child in supervisor.children))
        pids = supervisor.pids
        with pytest.raises(ConfigError, match="expected a root whose line is stopped, got one"):
            Children(rig, {}).run()
        beats = [child.patience_until_ns for child in supervisor.children]
        until(
            "further signs of life",
            lambda: all(
                child.patience_until_ns > old
                for child, old in zip(supervisor.children, beats, strict=True)
            ),
        )
        assert supervisor.pids == pids
        assert not codes


def test_stop_leaves_nothing_behind(rig: Rig) -> None:
    """All children end, the socket files go."""
    with running(rig, {}) as (supervisor, codes):
        until("all", lambda: len(supervisor.pids) == len(process_table(rig.config)))
        pids = list(supervisor.pids.values())
    assert codes == [0]
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert list(rig.config.runtime_dir.glob("notify-*")) == []


def test_who_supervises_waits_for_nobody_who_reads_its_log(rig: Rig) -> None:
    """Ctrl-S on the terminal of `inspectd run`: what dies is started again all the same."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:  # full: whoever writes one line waits
            os.write(writing, bytes(4096))
    os.set_blocking(writing, True)
    handle = subprocess.Popen([sys.executable, "-c", RUN, str(rig.config_path)], stderr=writing)

    def pids() -> set[int]:
        text = Path(f"/proc/{handle.pid}/task/{handle.pid}/children").read_text()
        found = {int(pid) for pid in text.split()}
        return found if len(found) == len(process_table(rig.config)) else set()

    try:
        killed: set[int] = set()
        for _ in range(2):
            one = min(until("all of them", pids))
            os.kill(one, signal.SIGKILL)
            killed.add(one)
            until("another one in its place", lambda: pids() and not pids() & killed)
        handle.terminate()
        assert handle.wait(30) == 0
    finally:
        handle.kill()
        handle.wait()
        os.close(reading)
        os.close(writing)


def test_children_end_with_their_supervisor(rig: Rig) -> None:
    """`inspectd run` killed: the kernel tells every process of the line."""
    rig.start()
    pids = [rig.pid(name) for name in ("camera", "infer", "decide", "record")]
    assert rig.handle is not None
    time_left = time.monotonic() + 20
    # A child that is killed before it asked to die with its parent would outlive it.
    with rig.ear() as ear:
        until("Ready", lambda: ear.is_ready, time_left - time.monotonic())
    rig.handle.kill()
    rig.handle.wait()
    until("their end", lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_a_line_that_runs_has_its_own_ports_taken() -> None:
    """`config check` beside a line, before it is started anew, asks for no free port."""
    with short_root() as root:
        camera = Camera(name="top", kind="files", folder="x")
        config = Config(root=str(root), deadline_ms=200, camera=(camera,))
        assert not is_running(config)
        with Wiring(config.runtime_dir) as wiring:
            wiring.receiver("command")
            assert is_running(config)
        assert not is_running(config)


def test_a_taken_port_is_named_before_anything_starts(rig: Rig) -> None:
    """Key, address, reason."""
    check_addresses(rig.config)
    with Rig({"plc": {"port": free_port()}}) as other:
        other.start()
        with other.ear() as ear:
            until("Ready", lambda: ear.is_ready, 20)
        with pytest.raises(AddressInUse, match=rf"plc\.port.*{other.config.plc.port}"):
            check_addresses(other.config)
