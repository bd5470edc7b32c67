import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.source import Choice, FrameIds


def steps(ids):
    account = FrameIds()
    return [account.step(frame_id) for frame_id in ids]


@pytest.mark.parametrize(
    ("ids", "lost"),
    [
        ([1, 2, 3], [0, 0, 0]),
        ([0, 1, 2], [0, 0, 0]),
        ([65401, 65402], [0, 0]),
        ([1, 2, 3, 7, 12], [0, 0, 0, 3, 4]),
        ([65534, 65535, 1, 2], [0, 0, 0, 0]),
        ([65533, 1], [0, 2]),
        ([65535, 4], [0, 3]),
        ([65530, 3], [0, 7]),
        ([0, 5, 65535, 0, 1], [0, 4, 65529, 0, 0]),
        ([65535, 0, 1], [0, 0, 0]),
        ([65536, 65538], [0, 1]),
        ([2**32 - 1, 1], [0, 0]),
        ([2**32 - 3, 2], [0, 3]),
        ([5, 5, 6], [0, None, 0]),
        ([5, 6, 4, 7], [0, 0, None, 0]),
        ([30000, 29000, 30001], [0, None, 0]),
        ([2**40, 1], [0, None]),
    ],
)
def test_gaps_and_wraps(ids, lost):
    assert steps(ids) == lost


def test_a_new_acquisition_starts_anywhere_and_proves_no_loss():
    account = FrameIds()
    assert [account.step(i) for i in (1, 2, 900)] == [0, 0, 897]
    account.begin()
    assert [account.step(i) for i in (1, 2)] == [0, 0]
    account.begin()
    assert [account.step(i) for i in (500, 501)] == [0, 0]


def test_an_incomplete_frame_is_not_lost_too():
    account = FrameIds()
    account.step(1)
    account.incomplete()
    assert account.step(3) == 0
    account.incomplete()
    assert account.step(6) == 1
    assert account.step(8) == 1


def test_underruns_are_the_same_losses_counted_by_the_producer():
    account = FrameIds()
    assert [account.step(i, u) for i, u in ((1, 0), (2, 3), (3, 3), (4, 5))] == [0, 3, 0, 2]
    account.begin()
    assert [account.step(i, u) for i, u in ((1, 0), (5, 3), (6, 3), (9, 4))] == [0, 3, 0, 2]


@given(
    st.integers(1, 65535),
    st.lists(st.sampled_from([True, True, True, False]), min_size=1, max_size=300),
)
def test_every_frame_of_a_wrapping_counter_is_received_or_lost(start, received):
    """Whatever is dropped, the account adds up: first to last, 0 is never an id."""
    account, counted = FrameIds(), 0
    frame_id, came = start, [index for index, arrives in enumerate(received) if arrives]
    for arrives in received:
        if arrives:
            lost = account.step(frame_id)
            assert lost is not None
            counted += 1 + lost
        frame_id = frame_id % 65535 + 1
    assert counted == (came[-1] - came[0] + 1 if came else 0)


def test_without_timestamps_the_third_frame_to_arrive_is_the_one():
    choice = Choice()
    assert not choice.is_waiting and not choice.arrived(None)
    choice.ask(None)
    assert [choice.arrived(None) for _ in range(5)] == [False, False, True, False, False]
    assert not choice.is_waiting


def test_with_timestamps_the_first_later_one_is_the_one():
    choice = Choice()
    choice.ask(1000)
    assert [choice.arrived(stamp) for stamp in (900, 999, 1000, 1001, 1002)] == [
        False,
        False,
        False,
        True,
        False,
    ]


def test_a_timestamp_never_counts_as_one_of_three():
    choice = Choice()
    choice.ask(1000)
    assert [choice.arrived(stamp) for stamp in (1, 2, 3, 4, 5)] == [False] * 5
    assert choice.is_waiting
    choice.ask(None)
    assert [choice.arrived(2000) for _ in range(3)] == [False, False, True]
