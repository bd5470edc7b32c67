"""Two files that take turns: nothing is forgotten, and the line never waits for the disk."""

import errno
import os
import threading
from pathlib import Path

import pytest

from appliance.errors import AddressInUse
from appliance.journal import BLOCK, Journal
from appliance.journal_records import Closed
from tests.journals import SIZE, after_kill, closed, folder, journal, opened
from tests.waiting import until

__all__ = ["folder", "journal"]


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
    monkeypatch.setattr("appliance.journal.UNSTORED_MAX", 3)
    for part_id in range(1, 6):
        journal.closed(closed(part_id))
    assert list(journal.unstored) == [3, 4, 5]
    assert journal.unstored_dropped == 2
