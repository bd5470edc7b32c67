"""The shell around a process: what its surroundings may not do to it."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from appliance.service import Service

TALKS = """
import structlog
from appliance.service import start_logging
start_logging()
for number in range(2000):
    structlog.get_logger(process="decide").warning("said", number=number)
print("goes on")
"""


def full() -> int:
    """A file on a full disk."""
    return os.open("/dev/full", os.O_WRONLY)


def unread() -> int:
    """A pipe whose reader has ended."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def test_nobody_waits_for_a_log_that_nobody_takes() -> None:
    """Ctrl-S on a terminal, a pager, a journald that waits for its disk: decide goes on."""
    reading, writing = os.pipe()  # holds 64 KB, and nobody reads
    program = [sys.executable, "-c", TALKS.replace("start_logging()", "start_logging(True)")]
    done = subprocess.run(program, stdout=subprocess.PIPE, stderr=writing, text=True, timeout=120)
    os.close(writing)
    assert done.stdout == "goes on\n"
    with os.fdopen(reading) as log:
        assert log.readline().startswith("level=warning process=decide event=said")


def test_nobody_waits_for_a_supervisor_that_listens_no_more(tmp_path: Path) -> None:
    """It may hang itself: in its own log, behind Ctrl-S."""
    program = (
        "from appliance.service import Service\n"
        "service = Service('decide')\n"
        "for _ in range(2000):\n"
        "    service.ready()\n"
        "print('goes on')\n"
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(tmp_path / "notify"))
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify")},
            stdout=subprocess.PIPE,
            text=True,
            timeout=120,
        )
    assert done.stdout == "goes on\n"


def test_what_is_said_last_is_read_where_somebody_reads() -> None:
    program = TALKS.replace("start_logging()", "start_logging(True)").replace("2000", "1500")
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert len(done.stderr.splitlines()) == 1500
    assert done.stderr.splitlines()[-1].split("number=")[1].startswith("1499")


@pytest.mark.parametrize("log", [full, unread])
def test_a_log_that_takes_no_line_stops_no_process(log) -> None:
    stderr = log()
    program = [sys.executable, "-c", TALKS]
    done = subprocess.run(program, stdout=subprocess.PIPE, stderr=stderr, text=True)
    os.close(stderr)
    assert done.stdout == "goes on\n"


def test_what_is_there_when_a_process_serves_is_not_looked_through_again() -> None:
    code = (
        "import gc\n"
        "from appliance.service import Service\n"
        "service = Service('decide')\n"
        "service.ready()\n"
        "assert gc.get_freeze_count() == 0\n"  # somebody else's process: a test, a command
        "service.has_process = True\n"
        "service.ready()\n"
        "assert gc.get_freeze_count() > 10_000\n"
        "assert len(gc.get_objects()) < 1_000\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_stop_is_told_once_and_to_whoever_asks_too_late() -> None:
    service, told = Service("hmi"), list[str]()
    service.on_stop(lambda: told.append("loop"))
    service.stop()
    service.stop()  # Ctrl-C twice, or the supervisor and the kernel: the loop is closed by now
    assert told == ["loop"]
    service.on_stop(lambda: told.append("late"))
    assert told == ["loop", "late"]


def test_a_state_is_logged_when_it_changes_and_when_it_ends() -> None:
    looks = ["", "Processor at step 1", "Processor at step 1", "Processor at step 2", "", ""]
    with capture_logs() as logged:
        service = Service("decide")
        for before, now in zip(["", *looks], looks, strict=False):
            service.changed("throttled", before, now)
    assert [line["event"] for line in logged] == ["throttled"] * 3
    assert [line["now"] for line in logged] == [
        "Processor at step 1", "Processor at step 2", "no more",
    ]  # fmt: skip
