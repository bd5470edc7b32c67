"""`inspectd backup` and `restore`: a whole box in one file, and a new box out of it.

In: configuration, products, recipes, bundles, keys and certificates, users, rows, audit journal and
the journal of ids. Not in: images, recordings, engines (they belong to the device). The databases
are copied by SQLite itself while the line runs. The file is a tar whose first member lists every
other with its SHA-256; a restore reads and hashes all of it before it touches anything.
"""

import contextlib
import fcntl
import hashlib
import io
import os
import shutil
import socket
import sqlite3
import sys
import tarfile
import tempfile
import time
from collections.abc import Generator
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import IO, Annotated

import msgspec
import typer

from appliance.config import load_config
from appliance.errors import ArtefactError, ConfigError

_FORMAT = "inspectd backup 1"
_FOLDERS = ("recipes", "bundles", "keys", "state")
_FILES = ("products.toml", "data/audit.jsonl")
_DATABASES = ("data/parts.db", "data/people.db")
_NEVER = (".lock", "-wal", "-shm")


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """First member of a backup."""

    format: str
    box: str
    made_utc: str
    files: dict[str, str]
    """Path below root → SHA-256."""


def backup(
    out: Annotated[Path, typer.Argument(help="The file to write; must not exist.")],
    config: Annotated[Path, typer.Option(help="The integrator's config.toml.")] = Path(
        "config.toml"
    ),
) -> None:
    """The whole box into one file, users and certificates included; while the line runs.

    It holds secrets: keep it as you keep the box. A PostgreSQL is backed up by its own tools.
    """
    loaded = load_config(config)
    if out.exists():
        raise ConfigError(out, "a file that is not there yet", "an existing one")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".backup.") as made:
        copies = Path(made)
        sources = {"config.toml": config}
        for folder in _FOLDERS:
            for path in sorted((loaded.root_dir / folder).rglob("*")):
                if path.is_file() and not path.name.endswith(_NEVER):
                    sources[path.relative_to(loaded.root_dir).as_posix()] = path
        for name in _FILES:
            if (loaded.root_dir / name).is_file():
                sources[name] = loaded.root_dir / name
        for name in _DATABASES:
            if (loaded.root_dir / name).is_file():
                sources[name] = _copy_database(loaded.root_dir / name, copies / Path(name).name)
        # What is written to meanwhile (the journal) is copied first, so that hash and bytes agree.
        for number, (name, path) in enumerate(sources.items()):
            if path.parent != copies:
                copy = copies / f"{number:06d}"
                shutil.copy2(path, copy)
                sources[name] = copy
        contents = Contents(
            format=_FORMAT,
            box=socket.gethostname(),
            made_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            files={name: _hash_of(path) for name, path in sources.items()},
        )
        draft = copies / "backup.tar"
        with draft.open("xb") as file:
            os.fchmod(file.fileno(), 0o600)
            with tarfile.open(fileobj=file, mode="w") as archive:
                text = msgspec.json.format(msgspec.json.encode(contents), indent=1)
                head = tarfile.TarInfo("contents.json")
                head.size, head.mode, head.mtime = len(text), 0o644, int(time.time())
                archive.addfile(head, io.BytesIO(text))
                for name, path in sources.items():
                    archive.add(path, name)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(out)
    sys.stdout.write(f"{out}: {len(contents.files)} files, {out.stat().st_size / 1e6:.1f} MB\n")


def restore(
    file: Annotated[Path, typer.Argument(help="What `inspectd backup` wrote.")],
    root: Annotated[Path, typer.Option(help="The root of the new box.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Move what is there to a folder beside it first.")
    ] = False,
) -> None:
    """A backup onto this box. Every byte is checked before anything is touched.

    Stop the line first. Images, recordings and engines are not in a backup; engines are built and
    proved again by the first start.
    """
    with _opened(file) as archive:
        contents = check(archive, file)
        root = root.resolve()
        there = sorted(path for path in root.iterdir()) if root.is_dir() else []
        if there and not replace:
            raise ConfigError(root, "an empty root, or --replace", f"{len(there)} entries")
        _check_movable(root, there)
        owner = root.stat() if there else None
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".restore.") as made:
            new = Path(made) / "new"
            for name in contents.files:
                target = new / name
                target.parent.mkdir(parents=True, exist_ok=True)
                member = archive.getmember(name)
                with _member(archive, member, file) as source, target.open("xb") as sink:
                    shutil.copyfileobj(source, sink)
                    sink.flush()
                    os.fsync(sink.fileno())
                target.chmod(member.mode & 0o777)
            keys = new / "keys"
            if keys.is_dir():
                for folder in (keys, *(path for path in keys.rglob("*") if path.is_dir())):
                    folder.chmod(0o700)
            if owner is not None and os.geteuid() == 0:  # the line's user must read what root wrote
                for path in (new, *new.rglob("*")):
                    os.chown(path, owner.st_uid, owner.st_gid)
            moves = [(path, root / path.name) for path in sorted(new.iterdir())]
            old = root.parent / f"{root.name}.before-{datetime.now():%Y%m%dT%H%M%S}"
            if there:
                old.mkdir(mode=0o700)
                moves = [(path, old / path.name) for path in there] + moves
            _move_all(moves)
            if there:
                sys.stdout.write(f"what was there: {old}\n")
    sys.stdout.write(
        f"{root}: {len(contents.files)} files of {contents.box}, {contents.made_utc}\n"
        f"next: inspectd config check --config {root / 'config.toml'}\n"
    )


def _check_movable(root: Path, there: list[Path]) -> None:
    """Raises ConfigError where a line runs in `root`, or a part of it is a disk of its own."""
    for path in (root, *there):
        if path.is_mount():
            raise ConfigError(path, "a folder that can be moved aside", "a mount point")
    lock = root / "state" / "journal.lock"
    if lock.exists():
        with lock.open("rb") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as err:
                raise ConfigError(root, "a line that is stopped", f"{lock} is held") from err


def _move_all(moves: list[tuple[Path, Path]]) -> None:
    """All renames or none. Raises ConfigError after everything is back in its place."""
    for at, (source, target) in enumerate(moves):
        try:
            source.rename(target)
        except OSError as err:
            for moved, place in reversed(moves[:at]):
                place.rename(moved)
            got = f"{err}; everything is back in its place"
            raise ConfigError(source, "a file or folder that can be moved", got) from err


def check(archive: tarfile.TarFile, file: Path) -> Contents:
    """Read and hash every member. Raises ArtefactError: what was expected, what came."""
    first = archive.next()
    if first is None or first.name != "contents.json":
        raise ArtefactError(file, "a backup of inspectd", "another file")
    with _member(archive, first, file) as source:
        try:
            contents = msgspec.json.decode(source.read(), type=Contents)
        except (msgspec.ValidationError, msgspec.DecodeError) as err:
            raise ArtefactError(f"{file}: contents.json", "the list of a backup", str(err)) from err
    if contents.format != _FORMAT:
        raise ArtefactError(file, _FORMAT, contents.format)
    members = {member.name: member for member in archive.getmembers()[1:]}
    if members.keys() != contents.files.keys():
        odd = sorted(members.keys() ^ contents.files.keys())
        raise ArtefactError(file, "the files of its list", f"others: {', '.join(odd[:5])}")
    for name, digest in contents.files.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not members[name].isfile():
            raise ArtefactError(file, "plain files below root", repr(name))
        with _member(archive, members[name], file) as source:
            got = hashlib.sha256()
            while block := source.read(1 << 20):
                got.update(block)
        if got.hexdigest() != digest:
            raise ArtefactError(
                f"{file}: {name}", f"SHA-256 {digest[:12]}…", f"{got.hexdigest()[:12]}…"
            )
    return contents


@contextlib.contextmanager
def _opened(file: Path) -> Generator[tarfile.TarFile]:
    try:
        with tarfile.open(file, "r:") as archive:
            yield archive
    except (tarfile.TarError, EOFError) as err:
        raise ArtefactError(file, "a whole backup", str(err)) from err
    except FileNotFoundError as err:
        if err.filename == str(file):
            raise ArtefactError(file, "a backup", "no such file") from err
        raise


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo, file: Path) -> IO[bytes]:
    source = archive.extractfile(member)
    if source is None:
        raise ArtefactError(file, f"the bytes of {member.name}", "none")
    return source


def _copy_database(path: Path, copy: Path) -> Path:
    """A whole and consistent copy while others write."""
    source = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    sink = sqlite3.connect(copy)
    try:
        source.backup(sink)
    except sqlite3.Error as err:
        raise ArtefactError(path, "a database that can be copied", str(err)) from err
    finally:
        sink.close()
        source.close()
    copy.chmod(path.stat().st_mode & 0o777)
    return copy


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
