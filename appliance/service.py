"""The shell around every line process: signals, systemd, exit codes, logging, the turn counter.

A process is a function `main(service, config, name)` that serves until `service.is_stopping`.
This is the only file with a broad `except`: what is not in the error taxonomy is a bug, ends in a
traceback and exit 1, and the supervisor starts the process afresh.
"""

import contextlib
import ctypes
import faulthandler
import gc
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TextIO, cast

import structlog

from appliance.config import Config, load_config
from appliance.errors import AddressInUse, CertificateError, ChipAway, ConfigError
from appliance.log_lines import Lines, LinesBeside
from appliance.shortage import give_back

EXIT_DONE = 0
EXIT_NO = 1
EXIT_USAGE = 2
EXIT_CONFIG = 78

ProcessMain = Callable[["Service", Config, str], None]
_PR_SET_PDEATHSIG = 1
_GIVE_BACK_NS = 30_000_000_000


class Service:
    """What a process needs of its surroundings; processes under test make their own."""

    def __init__(self, process: str, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.process = process
        self.clock = clock
        self.log = structlog.get_logger(process=process)
        self.is_stopping = False
        self.life = secrets.randbits(62) | 1
        """Which start of the process this is."""
        self.has_process = False
        """Nobody else lives in this process."""
        self.config_path = Path("config.toml")
        """For those who start another process with the same configuration."""
        self.last_words: Callable[[], object] = lambda: None
        """Waits a moment for whoever reads the log."""
        self._on_stop: list[Callable[[], object]] = []
        self._notify_address = os.environ.pop("NOTIFY_SOCKET", "")
        watchdog_us = int(os.environ.pop("WATCHDOG_USEC", "0"))
        self._ping_every_ns = watchdog_us * 1000 // 4
        self._pinged_ns = 0
        self._gave_back_ns = clock()

    def ready(self) -> None:
        """Serving and reporting health; says nothing about PLC, camera or engine."""
        self.settle()
        self._notify("READY=1")

    def settle(self) -> None:
        """What is there by now stays. The garbage collector need not look through it again, which
        would stop the process for 0.1 s now and then, in the middle of a part."""
        if self.has_process:
            gc.collect()
            gc.freeze()

    def turn(self) -> None:
        """A turn was completed, idle or not. Feeds systemd's watchdog; gives memory back."""
        now = self.clock()
        if self._ping_every_ns and now - self._pinged_ns >= self._ping_every_ns:
            self._pinged_ns = now
            self._notify("WATCHDOG=1")
        if now - self._gave_back_ns >= _GIVE_BACK_NS:
            self._gave_back_ns = now
            give_back()

    def extend(self, seconds: float) -> None:
        """Ask systemd for patience until the next turn: this step takes long and is no hang."""
        # The next turn pings at once: a hang right after the step must not enjoy its patience.
        self._pinged_ns = 0
        self._notify(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def changed(self, event: str, before: str, now: str) -> None:
        """A state in words, "" = all is well: logged on loss and on return, not at every look."""
        if now != before:
            self.log.warning(event, now=now or "no more")

    def on_stop(self, call: Callable[[], object]) -> None:
        """Call this, in the signal handler and once, when the process shall stop."""
        self._on_stop.append(call)
        if self.is_stopping:
            self.stop()

    def stop(self, *_: object) -> None:
        """Finish the turn in hand, then end."""
        self.is_stopping = True
        # A second signal may come when the loop that they wake is closed already.
        while self._on_stop:
            self._on_stop.pop()()

    def leave(self, code: int) -> NoReturn:
        """End in the middle of a call, past everybody's cleaning up, which may hang itself."""
        self.last_words()
        os._exit(code)

    def take_signals(self) -> None:
        """SIGTERM and SIGINT mean stop. Call again after an SDK took them (harvesters does)."""
        signal.signal(signal.SIGTERM, self.stop)
        signal.signal(signal.SIGINT, self.stop)

    def _notify(self, text: str) -> None:
        if not self._notify_address:
            return
        address = self._notify_address
        if address.startswith("@"):
            address = "\0" + address[1:]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)
            # systemd gone or its queue full: its watchdog then decides, not we.
            with contextlib.suppress(OSError):
                channel.sendto(text.encode(), address)


def start_logging(is_beside: bool = False) -> Lines | LinesBeside:
    """One line per event on stderr: for people on a terminal, with journald priority elsewhere.

    is_beside: by a thread, which alone waits where nobody takes the line.
    """
    lines = LinesBeside() if is_beside else Lines()
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=True)
        if sys.stderr.isatty()
        else structlog.processors.LogfmtRenderer(key_order=("level", "process", "event"))
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, lines)),
        cache_logger_on_first_use=False,
    )
    return lines


def die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the foreground supervisor dies, however it dies."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def be_nice(least: int = 5) -> None:
    """Give way to the line, as the unit files of pages say; before any thread but the log's."""
    if os.getpriority(os.PRIO_PROCESS, 0) < least:
        os.setpriority(os.PRIO_PROCESS, 0, least)


def exit_of(err: ConfigError, is_supervised: bool) -> int:
    """78 stays down; what may mend itself is tried again where somebody starts us afresh."""
    is_retried = is_supervised and isinstance(err, (AddressInUse, ChipAway, CertificateError))
    return EXIT_NO if is_retried else EXIT_CONFIG


def run_process(
    main: ProcessMain, process: str, config_path: Path, name: str, is_supervised: bool
) -> int:
    """Run one process to its end and return its exit code."""
    if is_supervised:
        die_with_parent()
    faulthandler.enable()
    lines = start_logging(is_beside=True)
    label = f"{process}:{name}" if name else process
    service = Service(label)
    service.last_words = lines.end
    service.has_process = True
    service.take_signals()
    service.config_path = config_path
    try:
        config = load_config(config_path)
        main(service, config, name)
    except ConfigError as err:
        service.log.error(str(err))  # noqa: TRY400 - one clear line, no traceback
        return exit_of(err, is_supervised)
    except Exception:
        service.log.exception("bug")
        return EXIT_NO
    service.log.info("stopped")
    return EXIT_DONE
