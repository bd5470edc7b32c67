"""Frames and steps of TriggerCount, without the rest of the line."""

import pytest

from appliance.association import FIFO, Association

MS = 1_000_000
WINDOW, PATIENCE = 40 * MS, 200 * MS
TOP = 1 << 32


def synced(count: int = 0) -> Association:
    association = Association(WINDOW, PATIENCE, ("top",))
    assert association.is_lost
    association.resync(count, 0)
    return association


def test_nothing_is_paired_before_the_first_resync() -> None:
    association = Association(WINDOW, PATIENCE, ("top",))
    assert association.step(5, 0) == []
    assert association.frame("top", 1, 0) is None
    assert association.why_lost == "no Resync since the start"


@pytest.mark.parametrize("apart_ms", [-40, -3, 0, 3, 40])
def test_frame_and_step_within_the_window_are_one_part(apart_ms: int) -> None:
    association = synced()
    for number in range(1, 20):
        frame_ns, step_ns = number * 100 * MS, (number * 100 + apart_ms) * MS
        if apart_ms < 0:
            (pair,) = association.step(number, step_ns)
            whole = association.frame("top", 7000 + number, frame_ns)
        else:
            pair = association.frame("top", 7000 + number, frame_ns)
            assert pair is not None and not pair.is_whole
            (whole,) = association.step(number, step_ns)
        assert whole is pair and pair.is_whole
        assert (pair.number, pair.count) == (number, number)
    assert not association.is_lost
    assert association.due_ns is None


def test_the_count_wraps_and_begins_where_resync_found_it() -> None:
    association = synced(TOP - 2)
    for number, count in enumerate((TOP - 1, 0, 1, 2), 1):
        (pair,) = association.step(count, number * 100 * MS)
        assert (pair.number, pair.count) == (number, count)
        assert association.frame("top", number, number * 100 * MS) is pair


def test_the_first_frame_may_have_any_id_and_the_next_ones_may_not() -> None:
    association = synced()
    assert association.frame("top", 123_456, 0)
    association.frame("top", 123_458, 100 * MS)
    assert "1 frames are missing before frame 123458, expected 123457" in association.why_lost
    association = synced()
    association.frame("top", 10, 0)
    association.frame("top", 9, 100 * MS)
    assert "ids went back" in association.why_lost


def test_an_incomplete_frame_takes_one_number_and_one_id() -> None:
    association = synced()
    for number, frame_id in enumerate((50, 0, 0, 53, 54), 1):
        at_ns = number * 100 * MS
        pair = association.frame("top", frame_id, at_ns)
        assert pair is not None and pair.number == number
        assert association.step(number, at_ns) == [pair]
    association.frame("top", 0, 600 * MS)
    association.frame("top", 57, 700 * MS)
    assert association.is_lost


@pytest.mark.parametrize("apart_ms", [-41, 41])
def test_further_apart_than_the_window_is_a_disagreement(apart_ms: int) -> None:
    association = synced()
    association.step(1, 100 * MS)
    assert association.frame("top", 1, (100 + apart_ms) * MS) is None
    assert "41.0 ms apart, expected at most 40.0 ms" in association.why_lost


def test_two_frames_at_one_step_put_both_parts_in_doubt() -> None:
    association = synced()
    (pair,) = association.step(1, 100 * MS)
    pair.part_id = 11
    assert association.frame("top", 1, 95 * MS) is pair
    assert association.frame("top", 2, 110 * MS) is None
    assert "frame 2 and step 1" in association.why_lost
    assert 11 in association.doubtful


def test_two_steps_at_one_frame_put_both_parts_in_doubt() -> None:
    association = synced()
    pair = association.frame("top", 1, 100 * MS)
    assert pair is not None
    pair.part_id = 11
    association.step(1, 105 * MS)
    assert association.step(2, 130 * MS) == []
    assert 11 in association.doubtful


@pytest.mark.parametrize("count", [FIFO + 1, TOP - 1])
def test_a_count_that_jumps_or_goes_back_is_a_disagreement(count: int) -> None:
    association = synced()
    assert association.step(count, 0) == []
    assert f"TriggerCount went from 0 to {count} at once" in association.why_lost


def test_a_half_that_stays_alone_is_a_disagreement() -> None:
    for half, missing in (("frame", "step of TriggerCount"), ("step", "frame")):
        association = synced()
        if half == "frame":
            association.frame("top", 1, 100 * MS)
        else:
            association.step(1, 100 * MS)
        assert association.due_ns == 300 * MS
        association.overdue(299 * MS)
        assert not association.is_lost
        association.overdue(300 * MS)
        assert association.why_lost == f"part 1 since Resync has no {missing}"
        assert association.due_ns is None


def test_what_was_exposed_before_resync_is_no_part_and_keeps_its_id() -> None:
    association = Association(WINDOW, PATIENCE, ("top",))
    association.resync(3, 500 * MS)
    assert association.frame("top", 8, 499 * MS) is None
    pair = association.frame("top", 9, 600 * MS)
    assert pair is not None and pair.number == 1
    assert association.step(4, 610 * MS) == [pair]


def test_resync_forgets_what_waits_and_what_was_lost() -> None:
    association = synced()
    association.frame("top", 1, 100 * MS)
    association.lose("a test")
    association.lose("another reason")
    assert association.why_lost == "a test"
    association.resync(9, 1000 * MS)
    assert not association.is_lost and association.due_ns is None
    (pair,) = association.step(10, 1100 * MS)
    assert association.frame("top", 40, 1100 * MS) is pair
