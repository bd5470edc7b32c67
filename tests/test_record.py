"""The recorder: acknowledged means on the disk, and nothing upsets it for good."""

import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from appliance import database
from appliance import record as record_module
from appliance.archive import Archive, read_image
from appliance.codes import Reason, Word
from appliance.config import Config, load_config
from appliance.frames import RingReader, RingWriter
from appliance.messages import Health, LateResult, PixelRef, Stored, Verdict
from appliance.record import Recorder
from appliance.service import Service
from appliance.store import Store
from appliance.wire import Inbox, Wiring
from tests.waiting import PATIENCE_S, until

UTC_NS = 1_790_000_000_000_000_000


def verdict(part_id: int, word: Word = Word.OK, **changes: object) -> Verdict:
    fields: dict[str, object] = {
        "part_id": part_id,
        "acq_id": part_id,
        "epoch": 1,
        "word": word,
        "reason": Reason.NONE,
        "opened_utc_ns": UTC_NS,
    }
    return Verdict(**{**fields, **changes})  # pyright: ignore[reportArgumentType]


@pytest.fixture
def config() -> Iterator[Config]:
    root = Path(tempfile.mkdtemp(prefix="insp", dir="/tmp"))
    (root / "config.toml").write_text(
        'root = "."\ndeadline_ms = 200\n[[camera]]\nname = "top"\nkind = "files"\nfolder = "x"\n'
        "[record]\nmin_free_gb = 0.0\n"
    )
    loaded = load_config(root / "config.toml")
    yield loaded
    shutil.rmtree(root)
    shutil.rmtree(loaded.rings_dir, ignore_errors=True)


# ---- the recorder without sockets ----------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now_ns = 10**12

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def desk(config: Config) -> Iterator[SimpleNamespace]:
    clock = Clock()
    archive = Archive(config.data_dir, config.record, RingReader(config.rings_dir), clock)
    recorder = Recorder(config.data_dir / "parts.db", archive, Service("record", clock))
    yield SimpleNamespace(clock=clock, recorder=recorder, path=config.data_dir / "parts.db")
    recorder.close()


def test_rows_are_written_together_after_50_ms_or_64(desk: SimpleNamespace) -> None:
    recorder: Recorder = desk.recorder
    assert not recorder.is_due()
    recorder.take(verdict(1))
    desk.clock.now_ns += 49_000_000
    recorder.take(verdict(2))
    assert not recorder.is_due()
    assert recorder.patience_ms() == 1
    desk.clock.now_ns += 1_000_000
    assert recorder.is_due()
    assert recorder.commit() == (1, 2)
    for part_id in range(3, 67):
        assert not recorder.is_due()
        recorder.take(verdict(part_id))
    assert recorder.is_due()
    assert len(recorder.commit()) == 64
    assert recorder.health(0).counters["rows"] == 66


def test_a_verdict_that_is_sent_again_is_acknowledged_again(desk: SimpleNamespace) -> None:
    for _ in range(2):
        desk.recorder.take(verdict(1))
        assert desk.recorder.commit() == (1,)
    counters = desk.recorder.health(0).counters
    assert (counters["received"], counters["rows"], counters["known"]) == (2, 1, 1)
    assert counters["doubled"] == 1


def test_a_contradiction_is_never_acknowledged(desk: SimpleNamespace) -> None:
    desk.recorder.take(verdict(1, Word.NG))
    desk.recorder.commit()
    desk.recorder.take(verdict(1, Word.OK))
    desk.recorder.take(verdict(2))
    assert desk.recorder.commit() == (2,)
    assert desk.recorder.health(0).counters["contradictions"] == 1
    desk.recorder.take(verdict(3, Word.NG))
    desk.recorder.take(verdict(3, Word.OK))
    desk.recorder.commit()
    assert desk.recorder.health(0).counters["contradictions"] == 2


def test_details_beat_a_rebuilt_verdict_within_a_batch(desk: SimpleNamespace) -> None:
    desk.recorder.take(verdict(1, is_rebuilt=True))
    desk.recorder.take(verdict(1, detail="all of it"))
    desk.recorder.take(verdict(1, is_rebuilt=True))
    desk.recorder.commit()
    store = Store(desk.path, is_reader=True)
    row = store.part(1)
    store.close()
    assert row is not None
    assert row.verdict.detail == "all of it"


def test_while_the_store_is_locked_rows_are_held_and_not_acknowledged(
    desk: SimpleNamespace,
) -> None:
    recorder: Recorder = desk.recorder
    other = sqlite3.connect(desk.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    recorder.take(verdict(1))
    assert recorder.commit() == ()
    assert not recorder.is_writable
    assert recorder.stored(()).is_writable is False
    assert recorder.stored(()).is_lossy
    health = recorder.health(0)
    assert not health.is_serving
    assert "locked" in health.note
    assert health.counters["rows_held"] == 1
    assert not recorder.is_due()  # not at every turn
    recorder.take(verdict(1))  # decide sends it again
    recorder.take(verdict(2))
    desk.clock.now_ns += record_module.RETRY_NS
    assert recorder.is_due()
    assert recorder.commit() == ()
    other.execute("ROLLBACK")
    other.close()
    desk.clock.now_ns += record_module.RETRY_NS
    assert recorder.is_due()
    assert recorder.commit() == (1, 2)
    assert recorder.is_writable
    assert recorder.health(0).note == ""


def test_a_commit_that_takes_long_holds_up_nobody(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_S", 60)  # the store waits for the lock as for a slow disk
    clock = Clock()
    archive = Archive(config.data_dir, config.record, RingReader(config.rings_dir), clock)
    recorder = Recorder(config.data_dir / "parts.db", archive, Service("record", clock))
    other = sqlite3.connect(config.data_dir / "parts.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    recorder.take(verdict(1))
    recorder.take(verdict(2, is_rebuilt=True))
    assert recorder.commit(0.01) == ()
    recorder.take(verdict(2, detail="all of it"))
    recorder.take(verdict(3))
    clock.now_ns += record_module.BATCH_NS
    assert not recorder.is_due()
    assert not recorder.is_slow
    clock.now_ns += 2_000_000_000
    assert recorder.is_slow
    assert recorder.stored(()).is_slow
    assert not recorder.stored(()).is_lossy
    assert not recorder.is_hanging
    health = recorder.health(0)
    assert health.is_serving
    assert "the disk is slow" in health.note
    assert health.counters["rows_held"] == 4
    recorder.take(verdict(1))  # sent again: it is being written
    assert recorder.health(0).counters["rows_held"] == 4
    clock.now_ns += 60_000_000_000
    assert recorder.is_hanging
    other.execute("ROLLBACK")
    other.close()
    until("the slow commit", recorder.is_due)
    assert recorder.commit(0.01) == (1, 2)
    assert not recorder.is_hanging
    assert recorder.commit() == (2, 3)
    assert recorder.is_slow
    clock.now_ns += 10_000_000_000
    assert not recorder.is_slow  # without another part, too
    recorder.close()
    store = Store(config.data_dir / "parts.db", is_reader=True)
    row = store.part(2)
    store.close()
    assert row is not None
    assert row.verdict.detail == "all of it"


def test_tables_that_take_long_to_be_brought_up_to_date_are_no_hang(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watchdog would kill it, the migration be undone, and the next start begin it anew."""
    may_end = threading.Event()

    def slow(*arguments: object, **more: object) -> Store:
        assert may_end.wait(60)
        return Store(config.data_dir / "parts.db")

    monkeypatch.setattr(record_module, "_OPEN_S", 0.01)
    monkeypatch.setattr("appliance.commits.Store", slow)
    clock = Clock()
    archive = Archive(config.data_dir, config.record, RingReader(config.rings_dir), clock)
    recorder = Recorder(config.data_dir / "parts.db", archive, Service("record", clock))
    clock.now_ns += 3_600_000_000_000
    recorder.take(verdict(1))
    assert not recorder.is_hanging
    assert recorder.is_slow
    may_end.set()
    until("the tables", recorder.is_due)
    recorder.commit()
    assert recorder.commit() == (1,)
    recorder.close()


def test_ready_comes_before_the_disk_is_asked(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd starts decide after it: a disk that takes minutes for a look at a million pictures
    must not hold up the line."""
    service, said = Service("record"), list[str]()
    monkeypatch.setattr(service, "_notify", said.append)

    class AskedError(Exception):
        pass

    def asked(*arguments: object, **more: object) -> None:
        raise AskedError

    monkeypatch.setattr(record_module, "Archive", asked)
    with pytest.raises(AskedError):
        record_module.main(service, config, "")
    assert said == ["READY=1", "EXTEND_TIMEOUT_USEC=20000000"]


def test_rows_of_a_long_commit_that_failed_are_held_with_what_came_meanwhile(
    desk: SimpleNamespace,
) -> None:
    other = sqlite3.connect(desk.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    recorder: Recorder = desk.recorder
    for part_id in (1, 2, 3):
        recorder.take(verdict(part_id, is_rebuilt=True))
    recorder.take(LateResult(part_id=1, word=Word.NG, margin=1.0))
    assert recorder.commit(0.0) == ()
    recorder.take(verdict(2, detail="all of it"))
    recorder.take(verdict(4))
    recorder.take(LateResult(part_id=2, word=Word.NG, margin=2.0))
    until("the failure", recorder.is_due)  # the store waits a quarter of a second for a lock
    assert recorder.commit() == ()
    assert not recorder.is_writable
    other.execute("ROLLBACK")
    other.close()
    assert recorder.commit() == (1, 2, 3, 4)
    store = Store(desk.path, is_reader=True)
    rows = [store.part(part_id) for part_id in (1, 2)]
    store.close()
    assert [(row.verdict.detail, row.late_margin) for row in rows if row is not None] == [
        ("", 1.0),
        ("all of it", 2.0),
    ]


def test_held_rows_are_bounded_and_refusals_counted(
    desk: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_module, "HOLD_ROWS", 2)
    for part_id in (1, 2, 3, 1):
        desk.recorder.take(verdict(part_id))
    desk.recorder.take(LateResult(part_id=1, word=Word.NG, margin=1.0))
    assert desk.recorder.health(0).counters["refused"] == 1
    assert desk.recorder.commit() == (1, 2)


def test_a_store_that_was_made_later_than_the_recorder(config: Config) -> None:
    config.root_dir.joinpath("data").write_text("a file in the way")
    clock = Clock()
    archive = Archive(config.data_dir, config.record, RingReader(config.rings_dir), clock)
    recorder = Recorder(config.data_dir / "parts.db", archive, Service("record", clock))
    recorder.take(verdict(1))
    assert not recorder.is_writable
    assert "data" in recorder.health(0).note
    config.data_dir.unlink()
    clock.now_ns += record_module.RETRY_NS
    assert recorder.commit() == (1,)
    recorder.close()


# ---- the real process ----------------------------------------------------------------------


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
