"""The process `record`: the test plays decide and the camera against it."""

import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from appliance.archive import read_image
from appliance.codes import Word
from appliance.config import Config
from appliance.frames import RingWriter
from appliance.messages import Health, LateResult, PixelRef, Stored, Verdict
from appliance.store import Store
from appliance.wire import Inbox, Wiring
from tests.recorders import config, verdict
from tests.waiting import PATIENCE_S, until

__all__ = ["config"]


class Line:
    """The test plays decide and the camera against the real process."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.wiring = Wiring(config.runtime_dir)
        self.verdicts = self.wiring.sender("verdicts")
        self.stored = self.wiring.receiver("stored")
        self.heard = self.wiring.receiver("health", "record")
        self.inbox = Inbox(self.stored, self.heard)
        self.ring = RingWriter(config.rings_dir, "frame-top", slots=64, slot_bytes=1 << 20)
        self.acknowledged: set[int] = set()
        self.health: Health | None = None
        self.archive: Stored | None = None
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        code = (
            "import sys; from pathlib import Path; from appliance.service import run_process;"
            "from appliance.record import main;"
            "sys.exit(run_process(main, 'record', Path(sys.argv[1]), '', False))"
        )
        path = str(self.config.root_dir / "config.toml")
        self.process = subprocess.Popen([sys.executable, "-c", code, path])
        self.health = None
        self.until(lambda: self.health is not None)
        return self.process

    def send(self, message: Verdict | LateResult) -> None:
        until("taker of verdicts", lambda: self.verdicts.send(message))

    def listen(self, timeout_ms: int = 20) -> None:
        for _, message in self.inbox.poll(timeout_ms):
            if isinstance(message, Stored):
                self.acknowledged.update(message.part_ids)
                self.archive = message
            elif isinstance(message, Health):
                self.health = message

    def until(self, holds: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
        until("answer of record", holds, seconds, between=self.listen)

    def counter(self, name: str) -> int:
        return self.health.counters[name] if self.health else -1

    def picture(self, value: int) -> PixelRef:
        return self.ring.put(np.full((60, 80), value, np.uint8))

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(PATIENCE_S) == 0

    def close(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.ring.close()
        self.wiring.close()


@pytest.fixture
def line(config: Config) -> Iterator[Line]:
    line = Line(config)
    yield line
    line.close()


def rows(config: Config) -> dict[int, str]:
    with sqlite3.connect(config.data_dir / "parts.db") as plain:
        found = dict(plain.execute("SELECT part_id, image FROM parts").fetchall())
    plain.close()
    return found


def test_verdicts_become_rows_and_pictures_become_files(line: Line) -> None:
    process = line.start()
    for part_id in range(1, 41):
        word = Word.NG if part_id % 10 == 0 else Word.OK
        line.send(verdict(part_id, word, pixels=line.picture(part_id)))
    line.send(LateResult(part_id=3, word=Word.NG, margin=1.5))
    line.until(lambda: len(line.acknowledged) == 40 and line.counter("archived") == 4)
    assert line.counter("archive_dropped") == 0
    assert line.archive is not None
    assert line.archive.is_writable
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0
    found = rows(line.config)
    assert sorted(found) == list(range(1, 41))
    assert [part_id for part_id, image in found.items() if image] == [10, 20, 30, 40]
    for part_id in (10, 40):
        assert int(read_image(line.config.data_dir / found[part_id]).mean()) == part_id


def test_stopping_writes_all_that_has_come(line: Line) -> None:
    process = line.start()
    for part_id in range(1, 101):
        line.send(verdict(part_id, Word.NG, pixels=line.picture(part_id % 60)))
    # The last picture may still travel; the signal comes when the process has all of them.
    line.until(lambda: line.counter("received") == 100)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0
    found = rows(line.config)
    assert len(found) == 100
    files = {path.stem for path in line.config.data_dir.rglob("*.png")}
    assert files == {str(part_id) for part_id, image in found.items() if image}
    assert not list(line.config.data_dir.rglob(".*"))


def test_acknowledged_rows_survive_kill_9(line: Line) -> None:
    process = line.start()
    sent = 0
    while len(line.acknowledged) < 300:
        sent += 1
        line.send(verdict(sent, Word.NG, pixels=line.picture(sent % 250)))
        line.listen(0)
    process.kill()
    process.wait()
    line.listen(50)
    assert line.acknowledged <= rows(line.config).keys()
    process = line.start()
    for part_id in range(1, sent + 1):  # decide sends again what was not acknowledged
        if part_id not in line.acknowledged:
            line.send(verdict(part_id, Word.NG))
    line.until(lambda: len(line.acknowledged) == sent)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0
    found = rows(line.config)
    assert sorted(found) == list(range(1, sent + 1))
    for path in line.config.data_dir.rglob("*.png"):
        assert read_image(path).shape == (60, 80)
        assert found[int(path.stem)] == path.relative_to(line.config.data_dir).as_posix()


def test_a_full_disk_holds_rows_counts_pictures_and_ends_by_itself(line: Line) -> None:
    """A limit on file size stops every write of the running process, as a full disk does."""
    process = line.start()
    line.send(verdict(1))
    line.until(lambda: 1 in line.acknowledged)
    _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4096, hard))
    for part_id in range(2, 30):
        line.send(verdict(part_id, Word.NG, detail="x" * 2000, pixels=line.picture(part_id)))
    line.until(lambda: line.archive is not None and not line.archive.is_writable)
    line.until(lambda: line.counter("rows_held") > 0 and line.counter("commits_failed") >= 2)
    assert line.health is not None
    assert not line.health.is_serving
    assert "parts.db" in line.health.note
    held = set(range(2, 30)) - line.acknowledged
    assert held
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (hard, hard))
    line.until(lambda: set(range(1, 30)) <= line.acknowledged)
    line.until(lambda: line.health is not None and line.health.is_serving)
    assert process.poll() is None
    assert sorted(rows(line.config)) == list(range(1, 30))
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0


@pytest.fixture
def small_disk(line: Line) -> Iterator[Path]:
    """The data directory on a file system of its own, 4 MB."""
    data = line.config.data_dir
    data.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(data)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system is not allowed here")
    yield data
    line.stop()
    subprocess.run(["umount", "-l", str(data)], check=True)


def test_a_disk_that_is_read_only_at_start_and_later_is_not(line: Line, small_disk: Path) -> None:
    Store(small_disk / "parts.db").close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    line.start()
    line.send(verdict(1, Word.NG, pixels=line.picture(1)))
    line.until(lambda: line.archive is not None and not line.archive.is_writable)
    line.until(lambda: line.counter("dropped_write_failed") == 1)
    assert 1 not in line.acknowledged
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    line.until(lambda: 1 in line.acknowledged)


def test_a_disk_that_is_full_and_later_is_not(line: Line, small_disk: Path) -> None:
    line.start()
    line.send(verdict(1))
    line.until(lambda: 1 in line.acknowledged)
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space"), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    for part_id in range(2, 30):
        line.send(verdict(part_id, Word.NG, detail="x" * 4000, pixels=line.picture(part_id)))
    line.until(lambda: line.archive is not None and not line.archive.is_writable)
    line.until(lambda: line.counter("dropped_write_failed") > 0)
    assert 29 not in line.acknowledged
    filler.unlink()
    line.until(lambda: set(range(1, 30)) <= line.acknowledged)
    assert not list(small_disk.rglob(".*"))


def test_a_database_of_a_newer_software_leaves_the_process_alive_and_says_so(line: Line) -> None:
    line.config.data_dir.mkdir()
    Store(line.config.data_dir / "parts.db").close()
    with sqlite3.connect(line.config.data_dir / "parts.db") as plain:
        plain.execute("UPDATE alembic_version SET version_num = '9001'")
    plain.close()
    process = line.start()
    line.send(verdict(1))
    line.until(lambda: line.archive is not None and not line.archive.is_writable)
    assert line.health is not None
    assert "9001" in line.health.note
    assert 1 not in line.acknowledged
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0


def test_the_recorder_pulls_in_no_page_and_no_network() -> None:
    code = (
        "import sys, appliance.record;"
        "print([m for m in ('nicegui', 'torch', 'fastapi', 'onnxruntime') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
