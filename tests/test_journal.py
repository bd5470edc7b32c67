"""What survives a crash: killed at every byte, cut, overwritten, full, unwritable."""

import errno
import os
import resource
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.codes import Reason, Word
from appliance.errors import AddressInUse
from appliance.journal import BLOCK, ID_WRAP, Closed, Journal, Opened, acq_id
from appliance.messages import Verdict
from tests.waiting import until

SIZE = 1 << 16
MEMORY = "/dev/shm"
"""Hundreds of starts, each with its fsyncs: in memory they cost nothing."""


def opened(part_id: int) -> Opened:
    return Opened(
        part_id=part_id,
        part_tag=part_id + 1000,
        part_text="",
        lot="L1",
        opened_utc_ns=5,
        deadline_ns=200_000_000,
        recipe="cell/1",
        recipe_hash="ab",
    )


def closed(part_id: int, detail: str = "") -> Verdict:
    return Verdict(
        part_id=part_id,
        acq_id=acq_id(part_id),
        epoch=1,
        word=Word.NG,
        reason=Reason.ANOMALY_SCORE,
        detail=detail,
    )


def after_kill(folder: Path, size: int = SIZE) -> Journal:
    """The journal as the next start finds it while the old one still holds its files."""
    copy = Path(tempfile.mkdtemp(prefix="insp", dir=folder.parent)) / "state"
    shutil.copytree(folder, copy)
    return Journal(copy, size)


@pytest.fixture
def folder() -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(prefix="insp", dir=MEMORY))
    yield root / "state"
    shutil.rmtree(root)


@pytest.fixture
def journal(folder: Path) -> Iterator[Journal]:
    made = Journal(folder, SIZE)
    yield made
    made.close()


# ---- ids and epochs


@pytest.mark.parametrize(
    ("part_id", "shown"), [(1, 1), (65_534, 65_534), (65_535, 65_535), (65_536, 1), (131_071, 1)]
)
def test_acq_id_wraps_past_zero(part_id: int, shown: int) -> None:
    assert ID_WRAP == 65_535
    assert acq_id(part_id) == shown


def test_a_new_journal_begins_with_one(journal: Journal) -> None:
    assert (journal.epoch, journal.lost, journal.first_id) == (1, 0, 1)
    assert [journal.take_id() for _ in range(3)] == [1, 2, 3]


def test_ids_are_consecutive_over_blocks(journal: Journal) -> None:
    assert [journal.take_id() for _ in range(5 * BLOCK)] == list(range(1, 5 * BLOCK + 1))


def test_epoch_wraps_past_zero(folder: Path) -> None:
    made = Journal(folder, SIZE)
    made.epoch = 0xFFFF
    made._rewrite()
    made.close()
    again = Journal(folder, SIZE)
    again.close()
    assert again.epoch == 1


def test_every_start_has_its_own_epoch_and_ids(folder: Path) -> None:
    epochs: list[int] = []
    last = 0
    for _ in range(5):
        made = Journal(folder, SIZE)
        epochs.append(made.epoch)
        assert made.first_id > last
        last = max(made.take_id() for _ in range(3))
        made.close()
    assert epochs == [1, 2, 3, 4, 5]


def test_reserving_ahead_comes_true_once_it_is_on_disk(journal: Journal) -> None:
    for _ in range(BLOCK // 2 + 1):
        journal.take_id()
    journal.reserve_ahead()
    until("reservation on disk", lambda: journal._reserved_to != 1 + BLOCK)
    assert journal._reserved_to in range(1 + 2 * BLOCK, 2 + 6 * BLOCK, BLOCK)


# ---- what comes back


def test_open_parts_unstored_verdicts_and_counters_come_back(
    journal: Journal, folder: Path
) -> None:
    journal.count({"ok": 7})
    for part_id in (journal.take_id() for _ in range(4)):
        journal.opened(opened(part_id))
    journal.closed(closed(2, "scratch"))
    journal.closed(closed(3))
    journal.stored((3,))
    again = after_kill(folder)
    again.close()
    assert again.open_parts == {1: opened(1), 4: opened(4)}
    assert again.unstored == {2: closed(2, "scratch")}
    assert again.counters == {"ok": 7}
    # What happened after the counters were written can be counted again.
    assert again.uncounted == [
        *(opened(part_id) for part_id in (1, 2, 3, 4)),
        Closed(closed(2, "scratch")),
        Closed(closed(3)),
    ]


def test_a_second_start_repeats_nothing_as_uncounted(journal: Journal, folder: Path) -> None:
    journal.opened(opened(journal.take_id()))
    journal.closed(closed(1))
    journal.count({"ng": 1})
    again = after_kill(folder)
    again.close()
    assert (again.uncounted, list(again.unstored)) == ([], [1])


def test_files_that_take_turns_forget_nothing_uncounted(journal: Journal, folder: Path) -> None:
    for part_id in (journal.take_id() for _ in range(3)):
        journal.opened(opened(part_id))
    journal.count({"triggers": 3})
    journal.closed(closed(1))
    journal.stored((1,))
    journal.closed(closed(2))
    journal.opened(opened(4))
    before = list(journal.uncounted)
    journal._rewrite()
    for _ in range(2):
        again = after_kill(folder)
        again.close()
        assert again.counters == {"triggers": 3}
        assert again.uncounted == before
        assert list(again.unstored) == [2]
        assert sorted(again.open_parts) == [3, 4]
        folder = again._paths[0].parent


def test_another_live_process_keeps_its_journal(journal: Journal, folder: Path) -> None:
    with pytest.raises(AddressInUse, match="another live process"):
        Journal(folder, SIZE)
    journal.opened(opened(journal.take_id()))
    again = after_kill(folder)
    again.close()
    assert list(again.open_parts) == [1]


def test_an_orderly_end_lets_the_next_one_in_at_once(folder: Path) -> None:
    Journal(folder, SIZE).close()
    Journal(folder, SIZE).close()
    assert not [t for t in threading.enumerate() if t.name == "journal"]


# ---- files that take turns


@pytest.mark.parametrize("last", ["opened", "closed", "stored", "count", "reserved"])
def test_whatever_record_fills_the_file_nothing_is_lost(
    journal: Journal, folder: Path, last: str
) -> None:
    """The record that makes the files take turns, and all behind it, can be read again."""
    turn = journal._generation
    number = 0
    while journal._generation == turn:
        number += 1
        journal.count({"triggers": number // 20})
        if last == "opened":
            part_id = journal.take_id()
            journal.opened(opened(part_id))
            if len(journal.open_parts) > 20:
                journal.open_parts.pop(min(journal.open_parts))
        elif last == "closed":
            journal.closed(closed(number, "x" * 200))
            if len(journal.unstored) > 20:
                journal.unstored.pop(min(journal.unstored))
        elif last == "stored":
            journal.stored(tuple(range(number, number + 50)))
        elif last == "count":
            journal.count({"ok": number})
        else:
            journal._reserve()
    behind = 10_000_000
    journal.opened(opened(behind))
    journal.closed(closed(behind + 1))
    again = after_kill(folder)
    again.close()
    assert again.lost == 0
    assert again.open_parts.items() >= journal.open_parts.items()
    assert again.unstored.items() >= journal.unstored.items()
    assert again.counters == journal.counters
    assert again.first_id >= journal._reserved_to


def test_a_thousand_parts_through_small_files(journal: Journal, folder: Path) -> None:
    for _ in range(1000):
        part_id = journal.take_id()
        journal.opened(opened(part_id))
        journal.closed(closed(part_id, "x" * 100))
        journal.stored((part_id,))
        if part_id % 10 == 0:
            journal.count({"triggers": part_id})
    journal.opened(opened(journal.take_id()))
    assert journal._generation > 3
    again = after_kill(folder)
    again.close()
    assert (list(again.open_parts), again.unstored, again.lost) == ([1001], {}, 0)
    assert again.first_id > 1001


def test_files_take_turns_between_parts_before_one_has_to_wait(journal: Journal) -> None:
    turn = journal._generation
    journal.make_room()
    assert journal._generation == turn
    while journal._offset <= SIZE * 3 // 4:
        journal.stored(tuple(range(100)))
    journal.make_room()
    until("the turn", lambda: journal._generation == turn + 1)
    assert journal._offset < SIZE // 4


class Disk:
    """One that takes as long for a sync of the file that is written anew as a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
        self.may_sync = threading.Event()
        self.is_asked = threading.Event()
        self._sync = getattr(os, call)
        monkeypatch.setattr(os, call, self._wait)

    def _wait(self, handle: int) -> None:
        if threading.current_thread().name == "journal turn":
            self.is_asked.set()
            assert self.may_sync.wait(60)
        self._sync(handle)


@pytest.mark.parametrize("call", ["fdatasync", "fsync"])
def test_while_a_slow_disk_lets_the_files_take_turns_the_line_goes_on(
    journal: Journal, folder: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """And whatever is appended meanwhile is there after a kill in the turn, and behind it.

    fsync: the new file has its first record already, so that a start may find either.
    """
    first, second = journal.take_id(), journal.take_id()
    journal.opened(opened(first))
    while journal._offset <= SIZE * 3 // 4:
        journal.stored(tuple(range(100)))
    turn, disk = journal._generation, Disk(monkeypatch, call)
    journal.make_room()
    until("the disk is asked", disk.is_asked.is_set)
    journal.opened(opened(second))
    journal.closed(closed(first))
    journal.count({"ok": 3})
    reserved = journal._reserved_to
    journal._reserve()
    journal.make_room()
    assert journal._generation == turn
    assert journal._reserved_to > reserved

    def look() -> None:
        again = after_kill(folder)
        again.close()
        assert again.open_parts == {second: opened(second)}
        assert again.unstored == {first: closed(first)}
        assert (again.counters, again.lost) == ({"ok": 3}, 0)
        assert again.first_id >= journal._reserved_to

    look()
    disk.may_sync.set()
    until("the turn", lambda: journal._generation == turn + 1)
    assert journal._offset < SIZE // 4
    look()


def test_a_file_that_is_full_before_the_turn_is_over_costs_what_is_lost_and_no_time(
    journal: Journal, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    while journal._offset <= SIZE * 3 // 4:
        journal.stored(tuple(range(100)))
    turn, disk = journal._generation, Disk(monkeypatch, "fdatasync")
    journal.make_room()
    until("the disk is asked", disk.is_asked.is_set)
    part_id = journal.take_id()
    while not journal.lost:
        journal.stored(tuple(range(100)))
    journal.opened(opened(part_id))
    disk.may_sync.set()
    until("the turn", lambda: journal._generation == turn + 1)
    again = after_kill(folder)
    again.close()
    assert list(again.open_parts) == [part_id], "what the old file had no room for the new one has"


@pytest.mark.parametrize("call", ["fdatasync", "fsync"])
def test_files_that_are_full_before_the_turn_is_over_still_have_room_for_ids(
    journal: Journal, folder: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Details are lost and counted; ids that are given meanwhile must not come again.

    fsync: the new file has its first record already, and is the one that a start finds.
    """
    while journal._offset <= SIZE * 3 // 4:
        journal.stored(tuple(range(100)))
    disk = Disk(monkeypatch, call)
    journal.make_room()
    until("the disk is asked", disk.is_asked.is_set)
    draft = journal._draft
    assert draft is not None
    while not (journal.lost and (draft.is_broken or call == "fdatasync")):
        journal.stored(tuple(range(100)))
    given = [journal.take_id() for _ in range(10 * BLOCK)]

    def look() -> None:
        again = after_kill(folder)
        again.close()
        assert again.first_id > given[-1]

    look()
    disk.may_sync.set()
    until("the turn is over", lambda: journal._draft is None)
    look()


def test_who_ends_while_the_disk_hangs_keeps_the_files_to_itself(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its turn of the files may still write: over what the next start would have written there."""
    journal = Journal(folder, SIZE)
    while journal._offset <= SIZE * 3 // 4:
        journal.stored(tuple(range(100)))
    disk = Disk(monkeypatch, "fdatasync")
    journal.make_room()
    until("the disk is asked", disk.is_asked.is_set)
    turn = journal._turn
    assert turn is not None
    journal.close()
    with pytest.raises(AddressInUse):
        Journal(folder, SIZE)
    disk.may_sync.set()
    turn.join()
    again = after_kill(folder)
    again.close()
    assert (again.epoch, again.lost) == (journal.epoch + 1, 0)


def test_a_process_without_a_handle_to_spare_syncs_again_later(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    duplicate, is_refused = os.dup, threading.Event()

    def dup(handle: int) -> int:
        if not is_refused.is_set():
            is_refused.set()
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return duplicate(handle)

    monkeypatch.setattr(os, "dup", dup)
    journal.opened(opened(journal.take_id()))
    until("a sync fails", is_refused.is_set)
    journal.opened(opened(journal.take_id()))
    journal.reserve_ahead()
    until("the next one succeeds", lambda: journal._reserved_ahead == 0)
    assert journal.lost == 1


@pytest.mark.parametrize("what", ["file", "record"])
def test_a_turn_that_fails_leaves_the_file_that_counts(
    journal: Journal, folder: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    while journal._offset <= SIZE * 3 // 4:
        journal.stored(tuple(range(100)))
    turn = journal._generation
    if what == "file":
        other = journal._paths[(turn + 1) % 2]
        other.unlink(missing_ok=True)
        other.mkdir()
        journal.make_room()
    else:
        disk = Disk(monkeypatch, "fsync")
        journal.make_room()
        until("the disk is asked", disk.is_asked.is_set)
        draft = journal._draft
        assert draft is not None
        draft.offset = SIZE  # no room for one more
        journal.count({"ok": 1})
        disk.may_sync.set()
    until("the turn is given up", lambda: journal._draft is None)
    assert (journal._generation, journal.lost) == (turn, 1)
    part_id = journal.take_id()
    journal.opened(opened(part_id))
    again = after_kill(folder)
    again.close()
    assert list(again.open_parts) == [part_id]


def test_verdicts_that_wait_cost_no_open_part_its_place(journal: Journal, folder: Path) -> None:
    """Of what a new file has no room for, the oldest verdicts go: never a part that is open."""
    for part_id in range(1, 101):
        journal.closed(closed(part_id, "x" * 1000))
    journal.count({"ng": 100})
    journal.opened(opened(101))
    journal.closed(closed(102))
    journal._rewrite()
    again = after_kill(folder)
    again.close()
    assert list(again.open_parts) == [101]
    assert 0 < len(again.unstored) < 101
    assert list(again.unstored)[-2:] == [100, 102]
    assert again.counters == {"ng": 100}
    assert again.uncounted == [opened(101), Closed(closed(102))]
    assert journal.unstored_dropped > 0


def test_more_than_the_file_can_repeat_is_counted(journal: Journal) -> None:
    for part_id in range(1, 201):
        journal.closed(closed(part_id, "x" * 1000))
        journal.count({"ng": part_id})
    assert journal.unstored_dropped > 0
    assert len(journal.unstored) == 200  # in memory nothing is given up


def test_unstored_verdicts_are_bounded_and_the_oldest_go_first(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.journal._UNSTORED_MAX", 3)
    for part_id in range(1, 6):
        journal.closed(closed(part_id))
    assert list(journal.unstored) == [3, 4, 5]
    assert journal.unstored_dropped == 2


# ---- killed at every byte


def written(folder: Path) -> tuple[Path, int, int]:
    """A journal of some parts: its live file, how far it reaches, how far it is surely on disk."""
    made = Journal(folder, SIZE)
    for _ in range(6):
        part_id = made.take_id()
        made.opened(opened(part_id))
    made.sync()
    synced = made._offset
    for part_id in (1, 2, 3):
        made.closed(closed(part_id))
    made.stored((1,))
    path = made._paths[made._generation % 2]
    end = made._offset
    made.close()
    return path, end, synced


@pytest.fixture(scope="module")
def template() -> Iterator[tuple[Path, int, int]]:
    root = Path(tempfile.mkdtemp(prefix="insp", dir=MEMORY))
    yield written(root / "state")
    shutil.rmtree(root)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_cut_or_damaged_anywhere_no_id_and_no_epoch_repeats(
    template: tuple[Path, int, int], data: st.DataObject
) -> None:
    path, end, synced = template
    root = Path(tempfile.mkdtemp(prefix="insp", dir=MEMORY))
    try:
        shutil.copytree(path.parent, root / "state")
        victim = root / "state" / path.name
        offset = data.draw(st.integers(0, end), label="offset")
        how = data.draw(st.sampled_from(["truncate", "garbage", "flip"]), label="how")
        raw = bytearray(victim.read_bytes())
        if how == "truncate":
            raw = raw[:offset]
        elif how == "garbage":
            tail = data.draw(st.binary(min_size=1, max_size=64), label="tail")
            raw[offset : offset + len(tail)] = tail
        else:
            raw[offset] ^= data.draw(st.integers(1, 255), label="bits")
        victim.write_bytes(raw)
        again = Journal(root / "state", SIZE)
        again.close()
        if again.lost:
            # Neither file could be read: decide stays not Ready with this.
            assert again.epoch >= 1
        else:
            assert again.epoch > 1
        assert again.first_id > 6
        assert set(again.open_parts) <= {1, 2, 3, 4, 5, 6}
        if offset >= end:
            assert set(again.open_parts) == {4, 5, 6}
            assert list(again.unstored) == [2, 3]
        elif offset >= synced:
            # All parts were on the disk: they come back as open or as closed, none is forgotten.
            assert {4, 5, 6} <= set(again.open_parts)
            assert set(again.open_parts) | set(again.unstored) >= {2, 3, 4, 5, 6}
        # And the start after that is an ordinary one.
        third = Journal(root / "state", SIZE)
        third.close()
        assert (third.lost, third.epoch) == (0, again.epoch % 0xFFFF + 1)
        assert third.first_id >= again.first_id
    finally:
        shutil.rmtree(root)


def test_every_cut_behind_what_was_synced(template: tuple[Path, int, int]) -> None:
    path, end, synced = template
    raw = path.read_bytes()
    root = Path(tempfile.mkdtemp(prefix="insp", dir=MEMORY))
    try:
        for cut in range(synced, end, 7):
            folder = root / str(cut)
            folder.mkdir()
            # A power cut: what was not yet on the disk reads as zeros.
            (folder / path.name).write_bytes(raw[:cut].ljust(SIZE, b"\0"))
            again = Journal(folder, SIZE)
            again.close()
            assert again.epoch == 2
            assert again.first_id >= 1 + BLOCK
            assert {4, 5, 6} <= set(again.open_parts)
            shutil.rmtree(folder)
    finally:
        shutil.rmtree(root)


def test_a_damaged_newer_file_never_gives_its_epoch_again(folder: Path) -> None:
    Journal(folder, SIZE).close()
    second = Journal(folder, SIZE)
    given = [second.take_id() for _ in range(300)]
    newest = second._paths[second._generation % 2]
    second.close()
    with newest.open("r+b") as file:
        file.write(b"damaged")
    third = Journal(folder, SIZE)
    third.close()
    assert third.epoch > second.epoch
    assert third.first_id > max(given)


def test_a_file_cut_short_while_it_was_written_anew_does_not_count(folder: Path) -> None:
    made = Journal(folder, SIZE)
    made.opened(opened(made.take_id()))
    other = made._paths[(made._generation + 1) % 2]
    made.close()
    other.write_bytes(bytes(200) + b"half a head" + bytes(SIZE - 211))
    again = Journal(folder, SIZE)
    again.close()
    assert (again.epoch, list(again.open_parts)) == (2, [1])
    assert again.first_id in range(1 + BLOCK, 2 + 6 * BLOCK, BLOCK)


def test_both_files_damaged_is_said(folder: Path) -> None:
    Journal(folder, SIZE).close()
    Journal(folder, SIZE).close()
    for name in ("journal.0", "journal.1"):
        with (folder / name).open("r+b") as file:
            file.write(b"damaged")
    again = Journal(folder, SIZE)
    again.close()
    assert again.lost == 1
    assert again.first_id > 1000


# ---- disks that fail


def test_a_folder_that_cannot_be_written_is_said_and_ids_run_on(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    made = Journal(tmp_path / "state", SIZE)
    assert made.lost > 0
    assert made.epoch == 1
    ids = [made.take_id() for _ in range(3 * BLOCK)]
    assert ids == list(range(1, 3 * BLOCK + 1))
    before = made.lost
    made.opened(opened(1))
    made.closed(closed(1))
    assert made.lost == before + 2
    assert list(made.unstored) == [1]
    made.close()


def test_writes_that_fail_are_counted_and_the_line_goes_on(journal: Journal) -> None:
    journal._stopping.set()  # its thread would count that it cannot bring /dev/null to the disk
    journal._dirty.set()
    journal._hurry.set()
    journal._thread.join()
    part_id = journal.take_id()
    real, journal._file = journal._file, os.open("/dev/null", os.O_RDONLY)
    journal.opened(opened(part_id))
    journal.closed(closed(1))
    assert journal.lost == 2
    os.close(journal._file)
    journal._file = real
    journal.opened(opened(journal.take_id()))
    assert journal.lost == 2


def test_a_disk_that_takes_half_a_record_loses_that_record_alone(
    journal: Journal, folder: Path
) -> None:
    """The kernel's own limit cuts a write short: nothing behind it may become unreadable."""
    part_id = journal.take_id()
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (journal._offset + 20, old[1]))
    try:
        journal.opened(opened(part_id))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert journal.lost == 1
    journal.opened(opened(journal.take_id()))
    again = after_kill(folder)
    again.close()
    assert list(again.open_parts) == [2]


def test_a_full_journal_that_cannot_take_turns_keeps_the_file_that_counts(
    journal: Journal, folder: Path
) -> None:
    journal.opened(opened(journal.take_id()))
    other = journal._paths[(journal._generation + 1) % 2]
    other.unlink(missing_ok=True)
    other.mkdir()
    for number in range(2000):
        journal.stored(tuple(range(number, number + 20)))
    assert journal.lost > 0
    again = after_kill(folder)
    again.close()
    assert (list(again.open_parts), again.epoch) == ([1], 3)
    other.rmdir()
    before = journal.lost
    for number in range(300):
        journal.stored(tuple(range(number, number + 20)))
    assert journal.lost - before <= 100  # it tries again now and then, and then goes on
    part_id = journal.take_id()
    journal.opened(opened(part_id))
    again = after_kill(folder)
    again.close()
    assert list(again.open_parts) == [1, part_id]
