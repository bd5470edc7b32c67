"""Who changed what, from what to what, and why: an append-only file whose entries are chained.

`data/audit.jsonl`, one JSON object a line. The last member of each is the SHA-256 of the bytes
before it, and each entry carries the hash of the one before: an entry that is altered, removed,
inserted or reordered is found and named. `state/audit.head` keeps number and hash of the newest
entry, so that a journal cut short at its end is found, too. Who can write both files can write a
new history: compare the head with one that was noted elsewhere (every entry's hash goes to the
system's log as well), `inspectd audit verify --head HASH`.

An entry is on the disk when `append` returns. A change whose entry cannot be written must not be
made. Several processes may append; each entry is written under a lock.
"""

import contextlib
import errno
import fcntl
import getpass
import hashlib
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO, NamedTuple

import msgspec
import structlog
import typer

from appliance.atomic import write_atomically
from appliance.config import Config, load_config
from appliance.errors import ConfigError

FIRST = "0" * 64
"""What the first entry carries as the hash of the one before."""
_TAIL = b',"hash":"%s"}\n'
_TAIL_BYTES = len(_TAIL % FIRST.encode())
_LONGEST = 1 << 20


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One change. New fields need defaults: old files stay readable, their hashes are of bytes."""

    number: int
    """1, 2, 3 … without a gap."""
    utc_ns: int
    """A label: the order of the entries is their number."""
    who: str
    """The user, or "system"."""
    what: str
    """A dotted verb, `limits.approved`, `user.created` …"""
    subject: str = ""
    """What was changed: a recipe's "ID/VERSION", a user's name, a bundle's id."""
    old: Any = None
    new: Any = None
    reason: str = ""
    role: str = ""
    """Of the user at that moment."""
    source: str = ""
    """Where it was done: "page", "command", "plc", an address."""
    previous: str
    """Hash of entry `number` - 1."""


class Head(NamedTuple):
    """The newest entry: what proves a journal when it is noted elsewhere."""

    number: int
    hash: str


class Finding(NamedTuple):
    """What a check of the whole file says."""

    head: Head
    """Of the last entry that is good."""
    problems: tuple[str, ...]
    """Empty: nothing was altered, as far as file and head can tell."""
    torn_bytes: int
    """Of an entry that was being written when the power went: it was never acknowledged."""


class AuditJournal:
    """Appends entries. Thread- and process-safe."""

    def __init__(self, config: Config, clock: Callable[[], int] = time.time_ns) -> None:
        self.path = config.data_dir / "audit.jsonl"
        self._head_path = config.state_dir / "audit.head"
        self._clock = clock
        self._log = structlog.get_logger(process="audit")

    def append(
        self,
        who: str,
        what: str,
        *,
        subject: str = "",
        old: Any = None,
        new: Any = None,
        reason: str = "",
        role: str = "",
        source: str = "",
    ) -> Entry:
        """Write one entry through to the disk. Never put a secret into `old` or `new`.

        old, new: anything that JSON can say.
        Raises OSError where it cannot be written (the file is then as before), ConfigError where
        the end of the journal is not what was written last: somebody altered it.
        """
        with self._locked() as file:
            head = self._mend(file)
            entry = Entry(
                number=head.number + 1,
                utc_ns=self._clock(),
                who=who,
                what=what,
                subject=subject,
                old=old,
                new=new,
                reason=reason,
                role=role,
                source=source,
                previous=head.hash,
            )
            self._write(file, entry)
        return entry

    def restart(self, who: str, reason: str) -> Path:
        """Put a journal that was altered or damaged aside and begin a new one that says so.

        Returns where the old one lies now. Raises OSError.
        """
        with self._locked() as file:
            aside = self.path.with_name(f"audit-{self._clock()}.jsonl")
            old = {"file": aside.name, "sha256": _digest(file.read())}
            self.path.rename(aside)
            self._head_path.unlink(missing_ok=True)
        self.append(who, "audit.restarted", old=old, reason=reason)
        return aside

    def entries(self) -> Iterator[Entry]:
        """All of them, oldest first, each checked. Raises ConfigError at the first bad one."""
        if self.path.exists():
            with self.path.open("rb") as file:
                for step in _read(file):
                    if step.problem:
                        raise ConfigError(self.path, "a chain of entries", step.problem)
                    if step.entry is not None:
                        yield step.entry

    def verify(self, noted: str = "") -> Finding:
        """Check every entry, the chain and its end. Raises OSError where it cannot be read.

        noted: a hash noted elsewhere, which must be that of some entry.
        """
        problems: list[str] = []
        last, torn, is_noted_seen = Head(0, FIRST), 0, False
        with contextlib.ExitStack() as stack:
            lines: Iterator[_Step] = iter(())
            if self.path.exists():
                file = stack.enter_context(self.path.open("rb"))
                fcntl.flock(file, fcntl.LOCK_SH)  # no writer is between entry and head
                lines = _read(file)
            for step in lines:
                if step.problem:
                    problems.append(step.problem)
                elif step.entry is None:
                    torn = step.length
                if step.entry is not None:
                    last = Head(step.entry.number, step.hash)
                    is_noted_seen |= step.hash == noted
            problems += self._against_head(last)
        if noted and not is_noted_seen:
            problems.append(f"no entry has the noted hash {noted}")
        return Finding(last, tuple(problems), torn)

    def _against_head(self, last: Head) -> Iterator[str]:
        head = self._head()
        if head is None:
            if last.number:
                yield f"{self._head_path} is missing or damaged: the end cannot be proved"
        elif head.number > last.number:
            yield f"entries {last.number + 1} to {head.number} are missing at the end"
        elif head.number == last.number and head.hash != last.hash:
            yield f"entry {last.number} is not the one that was written last"
        elif head.number < last.number - 1:
            # One more than the head is a power cut between the two files, two are not.
            yield f"entries {head.number + 2} to {last.number} were not written by inspectd"

    def _head(self) -> Head | None:
        with contextlib.suppress(OSError, ValueError):
            number, _, digest = self._head_path.read_text(encoding="ascii").strip().partition(" ")
            if len(digest) == len(FIRST):
                return Head(int(number), digest)
        return None

    @contextlib.contextmanager
    def _locked(self) -> Generator[BinaryIO, None, None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not self.path.exists()
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not self.path.exists() or not os.path.samestat(self.path.stat(), os.fstat(handle)):
                raise BlockingIOError(errno.EAGAIN, f"{self.path} was just begun anew")
            if is_new:
                folder = os.open(self.path.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
            yield file

    def _mend(self, file: BinaryIO) -> Head:
        """The head that the next entry follows; cuts off an entry that a power cut tore."""
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - _LONGEST))
        tail = file.read()
        whole, _, torn = tail.rpartition(b"\n")
        line = whole.rpartition(b"\n")[2] + b"\n" if whole else b""
        found = self._head()
        last = Head(0, FIRST)
        if line:
            step = _parse(line)
            if step.entry is None:
                raise ConfigError(self.path, "a last entry with its own hash", step.problem)
            last = Head(step.entry.number, step.hash)
        if found is not None and last not in (found, Head(found.number + 1, last.hash)):
            expected = f"entry {found.number} with the hash {found.hash} at its end"
            raise ConfigError(self.path, expected, f"entry {last.number} with {last.hash}")
        if torn:
            file.truncate(end - len(torn))
            reason = f"{len(torn)} bytes of an entry that was never acknowledged"
            last = self._note(file, last, "audit.mended", _digest(torn), reason)
        if found is None and last.number:
            reason = f"{self._head_path} was missing or damaged"
            last = self._note(file, last, "audit.head_lost", "", reason)
        return last

    def _note(self, file: BinaryIO, last: Head, what: str, old: str, reason: str) -> Head:
        """An entry of the journal about itself."""
        entry = Entry(
            number=last.number + 1,
            utc_ns=self._clock(),
            who="system",
            what=what,
            old=old,
            reason=reason,
            previous=last.hash,
        )
        return self._write(file, entry)

    def _write(self, file: BinaryIO, entry: Entry) -> Head:
        body = msgspec.json.encode(entry)[:-1]
        digest = _digest(body)
        line = body + _TAIL % digest.encode()
        if len(line) > _LONGEST:
            raise ConfigError(self.path, f"at most {_LONGEST} bytes an entry", str(len(line)))
        end = file.seek(0, os.SEEK_END)
        try:
            written = file.write(line)
            if written != len(line):
                raise OSError(errno.ENOSPC, f"{written} of {len(line)} bytes written")
            os.fsync(file.fileno())
            write_atomically(self._head_path, f"{entry.number} {digest}\n".encode(), mode=0o600)
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(end)
            raise
        self._log.info(
            entry.what, number=entry.number, who=entry.who, subject=entry.subject, hash=digest
        )
        return Head(entry.number, digest)


class _Step(NamedTuple):
    """One line of the file: an entry, a problem (then perhaps with an entry), or a torn end."""

    entry: Entry | None
    hash: str
    problem: str
    length: int


def _read(file: BinaryIO) -> Iterator[_Step]:
    last = Head(0, FIRST)
    for count, line in enumerate(file, 1):
        if not line.endswith(b"\n"):
            yield _Step(None, "", "", len(line))
            return
        step = _parse(line)
        if step.entry is None:
            yield step._replace(problem=f"line {count}: {step.problem}")
            # The next entry tells whether this line was altered or put in.
            last = Head(
                last.number + 1, line[len(line) - _TAIL_BYTES :][9:73].decode("ascii", "replace")
            )
            continue
        entry, problem = step.entry, ""
        if entry.number != last.number + 1:
            problem = f"line {count}: entry {entry.number} follows entry {last.number}"
        elif entry.previous != last.hash:
            problem = f"line {count}: entry {last.number} is not the one that entry"
            problem += f" {entry.number} was written after"
        yield step._replace(problem=problem)
        last = Head(entry.number, step.hash)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _parse(line: bytes) -> _Step:
    body = line[:-_TAIL_BYTES]
    digest = _digest(body)
    if line[len(body) :] != _TAIL % digest.encode():
        said = line[:120].decode(errors="replace").rstrip()
        return _Step(None, digest, f"altered: its hash is another one: {said}", len(line))
    try:
        entry = msgspec.json.decode(body + b"}", type=Entry)
    except msgspec.DecodeError as err:
        return _Step(None, digest, f"no entry: {err}", len(line))
    return _Step(entry, digest, "", len(line))


ConfigPath = Annotated[Path, typer.Option(help="The integrator's config.toml.")]
main = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="The journal of who changed what.",
)


@main.callback()
def _group() -> None:
    """The journal of who changed what."""


@main.command()
def verify(
    config: ConfigPath = Path("config.toml"),
    head: Annotated[
        str, typer.Option(help="A hash noted elsewhere: some entry must have it.")
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Check every entry, the chain and its end. Exit 1 where something was altered."""
    journal = AuditJournal(load_config(config))
    try:
        finding = journal.verify(head)
    except OSError as err:
        raise ConfigError(journal.path, "a readable audit journal", str(err)) from err
    if json:
        report = {
            "good": not finding.problems,
            "entries": finding.head.number,
            "head": finding.head.hash,
            "torn_bytes": finding.torn_bytes,
            "problems": finding.problems,
        }
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    else:
        for problem in finding.problems:
            sys.stdout.write(f"{problem}\n")
        if finding.torn_bytes:
            sys.stdout.write(f"{finding.torn_bytes} bytes at the end were never acknowledged\n")
        grade = "ALTERED" if finding.problems else "good"
        sys.stdout.write(
            f"{journal.path}: {grade}, {finding.head.number} entries, head {finding.head.hash}\n"
        )
    raise typer.Exit(1 if finding.problems else 0)


@main.command()
def restart(
    reason: Annotated[str, typer.Option(help="Why the old journal cannot go on.")],
    config: ConfigPath = Path("config.toml"),
) -> None:
    """Put an altered or damaged journal aside and begin a new one that says so."""
    journal = AuditJournal(load_config(config))
    try:
        aside = journal.restart(getpass.getuser(), reason)
    except OSError as err:
        raise ConfigError(journal.path, "a writable audit journal", str(err)) from err
    sys.stdout.write(f"{aside}: the old journal, kept\n{journal.path}: begun\n")
