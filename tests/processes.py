"""Processes that a test has started, and how they end."""

import contextlib
import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from typing import BinaryIO

from tests.waiting import PATIENCE_S


def stopped(process: "subprocess.Popen[str] | None") -> str:
    """As the supervisor does it; what it wrote to stderr."""
    assert process is not None
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    return errors


def let_go(process: "subprocess.Popen[str] | None") -> None:
    """At the end of a test, whatever has become of it."""
    if process is None:
        return
    if process.poll() is None:
        process.terminate()
    try:
        process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()


def has_tool(url: str) -> bool:
    """The tool serves its door there."""
    try:
        with urllib.request.urlopen(f"{url}/login", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


@contextlib.contextmanager
def full_pipe() -> Iterator[BinaryIO]:
    """That nobody reads and that takes no more: whoever writes waits for ever."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(4096))
    os.set_blocking(writing, True)
    with os.fdopen(writing, "wb") as end:
        yield end
    os.close(reading)
