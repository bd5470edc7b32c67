"""Waiting for another process: patience, and the error that says it ended."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_S = 60.0
"""A property of the machine, not of what is awaited: a process that has to share a core with ten
others takes more than ten seconds to start. Nothing waits longer for it where all is well."""


class NotYet(AssertionError):
    """What was awaited did not come in time. The one failure that a test may have a second try at:
    on a loaded machine it says nothing about the product. pyproject.toml names it."""


def until(
    what: str,
    check: Callable[[], T | None],
    seconds: float = PATIENCE_S,
    between: Callable[[], object] | None = None,
) -> T:
    """The first true answer of `check`; `between` is done from one try to the next.

    Raises:
        NotYet: `seconds` went by; says what was awaited.

    """
    end = time.monotonic() + seconds
    while True:
        answer = check()
        if answer:
            return answer
        if time.monotonic() >= end:
            raise NotYet(f"after {seconds} s still no {what}")
        if between is None:
            time.sleep(0.005)
        else:
            between()
