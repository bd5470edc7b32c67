"""The recorder without sockets: acknowledged means on the disk, and nothing upsets it for good."""

import sqlite3
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from appliance import database
from appliance import record as record_module
from appliance.archive import Archive
from appliance.codes import Word
from appliance.config import Config
from appliance.frames import RingReader
from appliance.messages import LateResult
from appliance.record import Recorder
from appliance.service import Service
from appliance.store import Store
from tests.recorders import config, verdict
from tests.waiting import until

__all__ = ["config"]


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
