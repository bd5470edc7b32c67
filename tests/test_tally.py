"""Counters: for life and for the shift, and those that other processes keep."""

import pytest

from appliance.codes import Reason, Word
from appliance.messages import Verdict
from appliance.tally import NAMES, Tally


def verdict(word: Word, reason: Reason = Reason.NONE, is_challenge: bool = False) -> Verdict:
    return Verdict(
        part_id=1, acq_id=1, epoch=1, word=word, reason=reason, is_challenge=is_challenge
    )


@pytest.mark.parametrize(
    ("word", "name"),
    [
        (Word.OK, "ok"),
        (Word.NG, "ng"),
        (Word.UNCERTAIN, "uncertain"),
        (Word.ERROR, "error_reject"),
    ],
)
def test_each_word_has_its_counter(word: Word, name: str) -> None:
    tally = Tally({})
    tally.verdict(verdict(word))
    assert {n for n, count in tally.shift.items() if count} == {name}


def test_late_parts_are_counted_twice_over_as_error_and_as_late() -> None:
    tally = Tally({})
    tally.verdict(verdict(Word.ERROR, Reason.LATE))
    assert (tally.shift["error_reject"], tally.shift["late"]) == (1, 1)


def test_challenge_parts_are_counted_apart() -> None:
    tally = Tally({})
    tally.verdict(verdict(Word.NG, is_challenge=True))
    assert (tally.shift["ng"], tally.shift["challenges"]) == (0, 1)


def test_a_reset_touches_the_shift_alone_and_survives_a_restart() -> None:
    tally = Tally({})
    tally.add("ok", 5)
    tally.reset_shift()
    tally.add("ok", 2)
    again = Tally(tally.persistent)
    again.add("ok")
    assert again.shift["ok"] == 3
    assert again.persistent["ok"] == 8


def test_followed_counters_go_on_over_lives_of_the_other_process() -> None:
    tally = Tally({})
    for life, total in ((10, 3), (10, 5), (11, 1), (11, 4)):
        tally.follow("frames_lost", life, total)
    assert tally.shift["frames_lost"] == 5 + 4


def test_followed_counters_are_not_taken_over_again_after_our_own_restart() -> None:
    tally = Tally({})
    tally.follow("frames_lost", 10, 5)
    again = Tally(tally.persistent)
    again.follow("frames_lost", 10, 6)
    assert again.shift["frames_lost"] == 6
    other = Tally(tally.persistent)
    other.follow("frames_lost", 11, 6)
    assert other.shift["frames_lost"] == 11


def test_a_followed_counter_that_steps_back_takes_nothing_away() -> None:
    tally = Tally({})
    tally.follow("archived", 10, 5)
    tally.follow("archived", 10, 2)
    assert tally.shift["archived"] == 5


def test_names_are_all_there_and_foreign_ones_are_refused() -> None:
    tally = Tally({"no such counter": 3})
    assert set(tally.shift) == set(NAMES)
    with pytest.raises(KeyError):
        tally.add("no such counter")
