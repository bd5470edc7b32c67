"""Work beside the line, one job at a time, as files below `root/jobs`: asked for, on its way, done.

Enters: what somebody on a page asked for (`ask`). Leaves: a folder per job with its request, how
far it is, and what came of it. The tool writes requests and reads the rest; the worker (`inspectd
work`) takes a request away, writes everything else and holds a lock as long as it lives. Nothing of
it is needed to judge a part.
"""

import fcntl
import os
import shutil
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from appliance.atomic import write_atomically
from appliance.config import Config
from appliance.errors import ConfigError
from appliance.scores import Decides
from appliance.toml_file import Section

Kind = Literal["look", "regions", "teach"]
Role = Literal["learn", "verify", "unjudged"]
KEPT = 6
"""Finished jobs of each kind whose folders stay."""
PROPOSED_S = 90 * 86400
"""How long a proposed job stays, whatever came after it."""
_REQUEST, _STOP, _LOCK, _PROPOSED = "request.json", "stop", "lock", "proposed"
T = TypeVar("T")


class JobPart(Section, frozen=True, kw_only=True):
    """One part that a job may look at."""

    part_id: int
    name: str
    """Parts with the same name are views of one physical part."""
    kind: str
    """"good" or a type of defect; "" = nobody has judged it."""
    image: str
    """Below the data directory."""
    camera: str
    role: Role
    """"learn": the calibrate parts; "verify": no say in anything, judged once it is done, and not
    shown before somebody opens it; "unjudged": the network may learn that good parts look so."""


class Job(Section, frozen=True, kw_only=True):
    """What is asked for."""

    id: str
    """Name of its folder; they sort by time."""
    kind: Kind
    """"look": maps of some parts; "regions": another segment map, the forest fitted anew; "teach":
    a network trained anew."""
    recipe: str
    """ "ID/VERSION" whose bundle and cameras it starts from."""
    bundle: str
    """Id of that bundle."""
    by: str
    parts: tuple[JobPart, ...]
    segments: tuple[str, ...] = ()
    """Regions in the order of their labels; the map is `segments.png` in the job's folder."""
    ignored: tuple[float, float] | None = None
    """Share of the picture that nothing looks at: of the map in force, and of this one."""
    epochs: int | None = None
    """Of the network; None = what its plan says."""

    @property
    def recipe_id(self) -> str:
        """Without the version."""
        return self.recipe.partition("/")[0]


class State(Section, frozen=True, kw_only=True):
    """How far a job is."""

    state: Literal["waiting", "running", "done", "failed", "stopped"]
    stage: str = ""
    done: float = 0.0
    """0 to 1."""
    error: str = ""
    at_utc_ns: int = 0

    @property
    def is_over(self) -> bool:
        """Nothing of it will change any more."""
        return self.state in ("done", "failed", "stopped")


class Result(Section, frozen=True, kw_only=True):
    """What came of "regions" and "teach": a bundle that a person may propose."""

    bundle: str
    """Its id."""
    bundle_dir: str
    decides: Decides
    t1: float
    t2: float
    why: str
    """What the held-out gate compared, in words."""
    helps: bool
    """The forest has a say: alone, or in the average."""
    evidence: dict[str, float]
    counts: dict[str, int]
    """Pictures that were used, by set, and what was left out, by cause."""


class Sealed(Section, frozen=True, kw_only=True):
    """A verify part, judged by the new bundle and by the one in force; opened once per proposal."""

    name: str
    kind: str
    margin: float
    current: float
    """By the score that decides today."""


class JobFolder:
    """One job's files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def job(self) -> Job:
        """What was asked for. Raises ConfigError where it cannot be read."""
        return _read(self.path / "job.json", Job)

    def state(self, is_worked_on: bool) -> State:
        """How far it is; a job whose worker is gone has failed. Raises ConfigError."""
        state = _read(self.path / "state.json", State)
        if state.state == "running" and not is_worked_on:
            return msgspec.structs.replace(
                state, state="failed", error="its process ended: killed, or out of memory"
            )
        return state

    def say(self, state: State) -> None:
        """Write how far it is."""
        write(self.path / "state.json", msgspec.structs.replace(state, at_utc_ns=time.time_ns()))

    def result(self) -> Result:
        """Of a finished job. Raises ConfigError."""
        return _read(self.path / "result.json", Result)

    def mark_proposed(self) -> None:
        """Its bundle waits for a second engineer."""
        (self.path / _PROPOSED).touch()

    @property
    def is_proposed(self) -> bool:
        """Somebody proposed it in the last weeks: nothing of it may go."""
        try:
            return time.time() - (self.path / _PROPOSED).stat().st_mtime < PROPOSED_S
        except FileNotFoundError:
            return False

    def sealed(self) -> tuple[Sealed, ...]:
        """The verify parts' margins. Raises ConfigError."""
        return tuple(_read(self.path / "sealed.json", list[Sealed]))


class Jobs:
    """All jobs of one box."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.root = config.root_dir / "jobs"

    def ask(self, job: Job, files: dict[str, bytes] | None = None) -> JobFolder:
        """Leave a request; the worker takes it when it is started. files: for the job's folder.

        Raises ConfigError where another job waits or runs.
        """
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.waiting is not None or self.is_busy:
            raise ConfigError("job", "one at a time", "another one that waits or runs")
        folder = JobFolder(self.root / job.id)
        try:
            folder.path.mkdir(mode=0o700)
        except FileExistsError as err:
            raise ConfigError("job", "a new name", job.id) from err
        for name, data in (files or {}).items():
            write_atomically(folder.path / name, data)
        write(folder.path / "job.json", job)
        folder.say(State(state="waiting"))
        (self.root / _STOP).unlink(missing_ok=True)
        write(self.root / _REQUEST, job.id)
        return folder

    @property
    def waiting(self) -> JobFolder | None:
        """Asked for and not yet taken."""
        path = self.root / _REQUEST
        return self.folder(_read(path, str)) if path.is_file() else None

    def take(self) -> JobFolder | None:
        """For the worker: the request, which is gone then."""
        try:
            return self.waiting
        finally:
            (self.root / _REQUEST).unlink(missing_ok=True)  # one that cannot be read, too

    def stop(self) -> None:
        """Ask the job that waits or runs to end."""
        if (folder := self.waiting) is not None:
            self.take()
            folder.say(State(state="stopped"))
        elif self.is_busy:
            (self.root / _STOP).touch()

    @property
    def is_stopping(self) -> bool:
        """Somebody wants the job that runs to end."""
        return (self.root / _STOP).exists()

    @property
    def is_busy(self) -> bool:
        """A worker lives."""
        try:
            handle = os.open(self.root / _LOCK, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(handle)
        return False

    @contextmanager
    def working(self) -> Generator[None]:
        """Hold the lock of the worker. Raises ConfigError where another one lives."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(self.root / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            os.close(handle)
            raise ConfigError("job", "one worker at a time", "another one that lives") from err
        try:
            yield
        finally:
            (self.root / _STOP).unlink(missing_ok=True)
            os.close(handle)

    def folder(self, identity: str) -> JobFolder:
        """By name. Raises ConfigError where that cannot be one."""
        if identity != Path(identity).name or identity in ("", ".", ".."):
            raise ConfigError("job", "the name of a job", repr(identity[:80]))
        return JobFolder(self.root / identity)

    def newest(self, kind: Kind, recipe_id: str) -> JobFolder | None:
        """The job of this kind and recipe that was asked for last."""
        for folder in self.all():
            job = folder.job
            if job.kind == kind and job.recipe_id == recipe_id:
                return folder
        return None

    def all(self) -> list[JobFolder]:
        """Newest first."""
        found = [path.parent for path in self.root.glob("*/job.json")]
        return [JobFolder(path) for path in sorted(found, reverse=True)]

    def tidy(self, used: set[str]) -> None:
        """Old jobs of each kind go, and the bundles that they made, unless in `used` (directories)
        or proposed lately."""
        seen: Counter[str] = Counter()
        for folder in self.all():
            kind = folder.path.name.rpartition("-")[2]
            seen[kind] += 1
            if seen[kind] <= KEPT or folder.is_proposed:
                continue
            made = folder.path / "result.json"
            name = folder.result().bundle_dir if made.is_file() else ""
            if name not in ("", "..") and name == Path(name).name and name not in used:
                shutil.rmtree(self._config.bundles_dir / name, ignore_errors=True)
            shutil.rmtree(folder.path, ignore_errors=True)


def new_id(kind: Kind, now_utc_ns: int) -> str:
    """Sorts by time and says what it is."""
    seconds, rest = divmod(now_utc_ns, 1_000_000_000)
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(seconds))
    return f"{stamp}-{rest // 1_000_000:03d}-{kind}"


def write(path: Path, value: Any) -> None:
    """As JSON, whole or not at all."""
    write_atomically(path, msgspec.json.encode(value))


def _read(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as err:
        raise ConfigError(path, "a file of a job", err.strerror or str(err)) from err
    except msgspec.DecodeError as err:
        raise ConfigError(path, "a file of a job", str(err)) from err
