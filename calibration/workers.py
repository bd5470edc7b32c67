"""Starts `inspectd work` for a job of the pages: as a unit of its own, or as a child.

Under systemd the tool may start nothing: `inspectd-work.path` sees the request and starts
`inspectd-work.service`. Elsewhere (`inspectd run`, the demo) the worker is a child that makes
itself nice and ends with the tool.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from appliance.codes import State
from appliance.config import Config
from appliance.errors import ConfigError
from appliance.jobs import Job, JobFolder, JobPart, Jobs, Kind, new_id
from appliance.messages import Words
from appliance.recipe import LoadedRecipe

LEAST_CORES = 4
"""To train while the line is Ready without being asked twice."""
_STATE = 104
"""Register of the state."""
_JUDGING = (State.READY, State.SINGLE_EXECUTION, State.CONTINUOUS_EXECUTION)


class Workers:
    """Jobs of one box, and who does them."""

    def __init__(self, config: Config, config_path: Path) -> None:
        self._config_path = config_path
        self.jobs = Jobs(config)
        self._child: subprocess.Popen[bytes] | None = None

    def start(
        self,
        kind: Kind,
        recipe: LoadedRecipe,
        by: str,
        parts: Sequence[JobPart],
        segments: Sequence[str] = (),
        files: dict[str, bytes] | None = None,
        ignored: tuple[float, float] | None = None,
        epochs: int | None = None,
    ) -> JobFolder:
        """Ask for a job and see that it is begun. Raises ConfigError: another one, no parts."""
        if not parts:
            raise ConfigError("parts", "at least one with a picture", "none")
        job = Job(
            id=new_id(kind, time.time_ns()), kind=kind, recipe=recipe.name,
            bundle=recipe.recipe.bundle, by=by, parts=tuple(parts), segments=tuple(segments),
            ignored=ignored, epochs=epochs,
        )  # fmt: skip
        folder = self.jobs.ask(job, files)
        if not is_unit():
            self._start_child()
        return folder

    def _start_child(self) -> None:
        if self._child is not None:
            self._child.poll()
        command = [sys.executable, "-m", "appliance", "work", "--config", str(self._config_path)]
        self._child = subprocess.Popen(
            [*command, "--supervised"], stdin=subprocess.DEVNULL, start_new_session=True
        )

    def close(self) -> None:
        """At the end of the process: a child ends with it."""
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(1)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()


def is_unit() -> bool:
    """systemd itself started this very process."""
    return os.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid())


def check_room(words: Words | None, is_forced: bool, cores: int | None = None) -> None:
    """Training takes what the line may need. Raises ConfigError where it has to be forced."""
    cores = os.cpu_count() or 1 if cores is None else cores
    if is_forced or cores >= LEAST_CORES or not is_ready(words):
        return
    raise ConfigError("training", f"{LEAST_CORES} cores, or a line that is not Ready",
                      f"{cores} cores and a Ready line")  # fmt: skip


def is_ready(words: Words | None) -> bool:
    """The line judges parts now."""
    return words is not None and words.offline == 0 and words.registers.get(_STATE) in _JUDGING
