"""Ids and epochs that never repeat, and what comes back at the next start."""

import threading
from pathlib import Path

import pytest

from appliance.errors import AddressInUse
from appliance.journal import BLOCK, ID_WRAP, Journal, acq_id
from appliance.journal_records import Closed
from tests.journals import SIZE, after_kill, closed, folder, journal, opened
from tests.waiting import until

__all__ = ["folder", "journal"]


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
