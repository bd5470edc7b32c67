"""The shell around a process: what its surroundings may not do to it."""

import os
import subprocess
import sys

import pytest

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


@pytest.mark.parametrize("log", [full, unread])
def test_a_log_that_takes_no_line_stops_no_process(log) -> None:
    stderr = log()
    program = [sys.executable, "-c", TALKS]
    done = subprocess.run(program, stdout=subprocess.PIPE, stderr=stderr, text=True)
    os.close(stderr)
    assert done.stdout == "goes on\n"
