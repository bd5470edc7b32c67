"""Processes that a test has started, and how they end."""

import signal
import subprocess
import urllib.request

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
