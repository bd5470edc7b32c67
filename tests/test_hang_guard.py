import threading
import time

import pytest

from appliance.hang_guard import HangGuard


@pytest.fixture
def hung():
    return threading.Event()


@pytest.fixture
def guard(hung):
    made = HangGuard(300_000_000, hung.set)
    yield made
    made.close()


def test_a_call_that_stays_is_a_hang(guard, hung):
    with guard:
        begun = time.monotonic()
        assert hung.wait(10)
        assert time.monotonic() - begun >= 0.25


def test_many_short_calls_are_no_hang(guard, hung):
    end = time.monotonic() + 0.6
    while time.monotonic() < end:
        with guard:
            time.sleep(0.01)
    assert not hung.is_set()


def test_a_long_call_of_short_steps_is_no_hang_and_a_long_step_is_one(guard, hung):
    end = time.monotonic() + 0.6
    with guard:
        while time.monotonic() < end:
            time.sleep(0.01)
            guard.step()
        assert not hung.is_set()
        assert hung.wait(10)


def test_nothing_to_do_is_no_hang(guard, hung):
    assert not hung.wait(0.6)


def test_a_call_that_fails_is_over(guard, hung):
    with pytest.raises(ZeroDivisionError), guard:
        raise ZeroDivisionError
    assert not hung.wait(0.6)


def test_a_higher_limit_gives_more_time(guard, hung):
    guard.limit_ns = 60_000_000_000
    with guard:
        assert not hung.wait(0.6)


def test_closing_ends_the_thread(hung):
    before = threading.active_count()
    made = HangGuard(1, hung.set)
    assert threading.active_count() == before + 1
    made.close()
    made.close()
    assert threading.active_count() == before
