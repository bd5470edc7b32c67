"""What survives a crash: killed at every byte, cut, overwritten, full, unwritable."""

import os
import resource
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.journal import BLOCK, Journal
from tests.journals import MEMORY, SIZE, after_kill, closed, folder, journal, opened

__all__ = ["folder", "journal"]


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
