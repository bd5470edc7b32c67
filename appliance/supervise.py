"""`inspectd run`: the process table in the foreground, with systemd's manners.

Starts every process of the table, pings each by the same NOTIFY_SOCKET and WATCHDOG_USEC that
systemd uses, restarts what died or hung, and gives up for a minute on what crashes too often:
then a file `spent-PROCESS` in the runtime directory tells decide, and it becomes a Fault.
Exit 78 and 2 of a process are for a human: the whole run ends with that code. A page, a slow bus or
metrics that served before stop no line by it: they are tried again once a minute.
"""

import errno
import fcntl
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from appliance.config import Config, load_config
from appliance.errors import AddressInUse, ConfigError
from appliance.product_table import load_products
from appliance.readiness import JUDGING
from appliance.service import EXIT_CONFIG, EXIT_DONE, EXIT_USAGE, start_logging
from appliance.tls import files_of

_WINDOW_NS = 60_000_000_000
_RETRY_NS = 60_000_000_000
_WATCHDOG_NS = 2_000_000_000
_START_NS = 30_000_000_000
_STOP_S = 2.5
_RESTART_NS = 100_000_000
_START_AGAIN_NS = 1_000_000_000
_STALL_NS = 1_000_000_000
"""Our own turn took so long: the others may have had none either, or their pings lie unread."""


def process_table(config: Config) -> tuple[tuple[str, str], ...]:
    """Process and name, in the order of starting; those of other boxes are not among them."""
    here = [label for label in config.peers if not config.is_elsewhere(label)]
    split = [label.partition(":") for label in here]
    return (
        *((process, name) for process, _, name in split),
        ("decide", ""),
        ("record", ""),
        *((process, "") for process in config.companions),
        *((("tool", ""),) if config.hmi.tool_port else ()),
    )


@dataclass(slots=True)
class Child:
    """One process of the table and its history."""

    process: str
    name: str
    limit: int
    handle: "subprocess.Popen[bytes] | None" = None
    notify: socket.socket | None = None
    patience_until_ns: int = 0
    start_at_ns: int = 0
    crashes: deque[int] = field(default_factory=deque[int])
    has_served: bool = False

    @property
    def label(self) -> str:
        """As in logs and file names."""
        return f"{self.process}-{self.name}" if self.name else self.process

    @property
    def may_stay_away(self) -> bool:
        """The line goes on without it: it judges nothing, and a start has proved the files."""
        return self.has_served and self.process not in JUDGING


class Supervisor:
    """Runs the table until stopped."""

    def __init__(
        self, config_path: Path, config: Config, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._config_path, self._config, self._clock = config_path, config, clock
        self._log = structlog.get_logger(process="run")
        self._selector = selectors.DefaultSelector()
        self.children = [
            Child(process, name, config.restart_limit * (2 if process == "camera" else 1))
            for process, name in process_table(config)
        ]
        self._is_stopping = False
        self._exit = EXIT_DONE
        config.runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)

    def stop(self, *_: object) -> None:
        """End the run after the present turn."""
        self._is_stopping = True

    def run(self, until: Callable[[], bool] = lambda: False) -> int:
        """Until stopped, or until `until`, called every turn, says so; returns the exit code.

        Raises ConfigError where another one runs the line of this root: a second one would take
        the sockets by which the first hears that its processes live.
        """
        lock = os.open(self._config.runtime_dir, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            os.close(lock)
            raise _runs_already(self._config) from err
        for leftover in self._config.runtime_dir.glob("spent-*"):
            leftover.unlink(missing_ok=True)
        turned_ns = self._clock()
        try:
            while not self._is_stopping and not until():
                last_ns, now_ns = turned_ns, self._clock()
                turned_ns = now_ns
                for child in self.children:
                    if now_ns - last_ns > _STALL_NS:
                        fresh_ns = now_ns + _WATCHDOG_NS
                        child.patience_until_ns = max(child.patience_until_ns, fresh_ns)
                    self._look_after(child, now_ns)
                self._hear(0.05)
        finally:
            self._stop_all()
            os.close(lock)
        return self._exit

    @property
    def pids(self) -> dict[str, int]:
        """Of the live processes, by label."""
        return {c.label: c.handle.pid for c in self.children if c.handle is not None}

    def _look_after(self, child: Child, now_ns: int) -> None:
        if child.handle is None:
            if now_ns >= child.start_at_ns:
                try:
                    self._start(child, now_ns)
                except OSError as err:  # no memory, no file: those that run go on
                    self._log.error("cannot be started", child=child.label, why=str(err))
                    self._forget(child)
                    child.start_at_ns = now_ns + _START_AGAIN_NS
            return
        code = child.handle.poll()
        if code is None:
            if now_ns > child.patience_until_ns:
                self._log.error("hangs", child=child.label, pid=child.handle.pid)
                child.handle.send_signal(signal.SIGKILL)
                child.patience_until_ns = now_ns + _WATCHDOG_NS
            return
        self._forget(child)
        is_refusal = code in (EXIT_CONFIG, EXIT_USAGE)
        if is_refusal and not child.may_stay_away:
            self._exit, self._is_stopping = code, True
            return
        child.crashes.append(now_ns)
        while now_ns - child.crashes[0] > _WINDOW_NS:
            child.crashes.popleft()
        spent = self._spent(child)
        # After the minute it has one try, until it serves again.
        if is_refusal or len(child.crashes) >= child.limit > 0 or spent.exists():
            self._log.error(
                "refuses" if is_refusal else "crashes too often",
                child=child.label,
                exit=code,
                retry_s=60,
            )
            try:
                spent.touch()
            except OSError as err:  # full or read-only: the line goes on all the same
                self._log.error("decide cannot be told", child=child.label, why=str(err))
            child.start_at_ns = now_ns + _RETRY_NS
            child.crashes.clear()
        else:
            self._log.warning("ended, starts again", child=child.label, exit=code)
            child.start_at_ns = now_ns + _RESTART_NS

    def _start(self, child: Child, now_ns: int) -> None:
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        notify.setblocking(False)
        self._selector.register(notify, selectors.EVENT_READ, child)
        child.notify = notify
        path = self._config.runtime_dir / f"notify-{child.label}"
        path.unlink(missing_ok=True)
        notify.bind(str(path))
        environment = os.environ | {
            "NOTIFY_SOCKET": str(path),
            "WATCHDOG_USEC": str(_WATCHDOG_NS // 1000),
        }
        # A session of its own: Ctrl-C reaches us alone, and we stop them in order.
        child.handle = subprocess.Popen(
            self.command(child), env=environment, start_new_session=True
        )
        child.patience_until_ns = now_ns + _START_NS

    def command(self, child: Child) -> list[str]:
        """What starts this process."""
        command = [sys.executable, "-m", "appliance", "process", child.process]
        command += ["--config", str(self._config_path), "--supervised"]
        return [*command, "--name", child.name] if child.name else command

    def _hear(self, timeout_s: float) -> None:
        for key, _ in self._selector.select(timeout_s):
            child: Child = key.data
            if child.notify is None:
                continue
            for line in _lines(child.notify):
                if line == "READY=1":
                    child.has_served = True
                    with suppress(OSError):  # read-only by now
                        self._spent(child).unlink(missing_ok=True)
                if line in ("READY=1", "WATCHDOG=1"):
                    until = self._clock() + _WATCHDOG_NS
                elif line.startswith("EXTEND_TIMEOUT_USEC="):
                    until = self._clock() + 1000 * int(line.partition("=")[2])
                else:
                    continue
                child.patience_until_ns = max(
                    until, child.patience_until_ns if line.startswith("E") else until
                )

    def _spent(self, child: Child) -> Path:
        """The file that tells decide."""
        return self._config.runtime_dir / f"spent-{child.label}"

    def _forget(self, child: Child) -> None:
        child.handle = None
        if child.notify is not None:
            self._selector.unregister(child.notify)
            child.notify.close()
            child.notify = None

    def _stop_all(self) -> None:
        """No new pictures, then the last verdicts, then the last rows; all within `_STOP_S`."""
        end_s = time.monotonic() + _STOP_S
        ordered = ("decide", "record")
        for child in self.children:
            if child.handle is not None and child.process not in ordered:
                child.handle.terminate()
        for child in sorted(self.children, key=lambda child: child.process not in ordered):
            if child.handle is not None:
                child.handle.terminate()
                self._wait(child, max(0.1, end_s - time.monotonic()))
            with suppress(OSError):  # read-only by now: the others are stopped all the same
                (self._config.runtime_dir / f"notify-{child.label}").unlink(missing_ok=True)
        self._selector.close()

    def _wait(self, child: Child, timeout_s: float) -> None:
        if child.handle is None:
            return
        try:
            child.handle.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._log.error("does not stop", child=child.label)
            child.handle.kill()
            child.handle.wait()
        self._forget(child)


def _lines(notify: socket.socket) -> Iterator[str]:
    while True:
        try:
            data = notify.recv(4096)
        except BlockingIOError:
            return
        yield from data.decode(errors="replace").splitlines()


def ports(config: Config) -> Iterator[tuple[str, str, int]]:
    """Key, host and port of all that listens."""
    yield "plc.port", config.plc.host, config.plc.port
    if config.hmi.is_enabled:
        yield "hmi.port", config.hmi.host, config.hmi.port
    if config.bus.opcua is not None:
        yield "bus.opcua.port", config.bus.opcua.host, config.bus.opcua.port
    if config.metrics.port:
        yield "metrics.port", config.metrics.host, config.metrics.port
    if config.hmi.tool_port:
        yield "hmi.tool_port", config.hmi.host, config.hmi.tool_port


def check_addresses(config: Config) -> None:
    """Raises ConfigError where an address that the line needs is taken. The one to the PLC may be
    away: decide listens there before it comes."""
    for key, host, port in ports(config):
        try:
            probe(host, port)
        except OSError as err:
            if key == "plc.port" and err.errno == errno.EADDRNOTAVAIL:
                continue
            raise AddressInUse(key, f"a free port {host}:{port}", str(err)) from err


def probe(host: str, port: int) -> None:
    """Whether a process could listen there; 0 = at any port. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tried.bind((host, port))


def is_running(config: Config) -> bool:
    """The decision process of this very configuration serves: taken ports are its own."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as tried:
        return tried.connect_ex(str(config.runtime_dir / "command")) == 0


def _runs_already(config: Config) -> ConfigError:
    return ConfigError(config.root, "a root whose line is stopped", "one whose line runs")


@contextmanager
def stopped_by_signals(stop: Callable[..., None]) -> Generator[None, None, None]:
    """SIGINT and SIGTERM call `stop` inside this block."""
    old = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def run(config_path: Path) -> int:
    """The whole line in the foreground. Raises ConfigError before anything is started."""
    config = load_config(config_path)
    load_products(config)
    files_of(config)
    if is_running(config):
        raise _runs_already(config)
    check_addresses(config)
    start_logging(is_beside=True)
    supervisor = Supervisor(config_path, config)
    with stopped_by_signals(supervisor.stop):
        return supervisor.run()
