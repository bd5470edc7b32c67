"""How far a long command is: a bar on a terminal, plain lines elsewhere, always on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

Report = Callable[[str, float], None]
"""Called with the running stage, its name first, and the share of the whole work done, 0 to 1."""

_STEP = 0.1


def ignore(stage: str, done: float) -> None:
    """For callers that do not want to know."""


@contextmanager
def shown() -> Iterator[Report]:
    """A `Report` that a person can read."""
    console = Console(stderr=True)
    if not console.is_terminal:
        last = ("", 0.0)

        def line(stage: str, done: float) -> None:
            nonlocal last
            # What stands behind the first word changes with every epoch.
            name = stage.partition(" ")[0]
            if name != last[0] or done >= last[1] + _STEP:
                sys.stderr.write(f"{done:4.0%}  {stage}\n")
                sys.stderr.flush()
                last = (name, done)

        yield line
        return
    with Progress(console=console) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda stage, done: bar.update(task, description=stage, completed=done)
