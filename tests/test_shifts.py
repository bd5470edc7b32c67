"""Which shift a moment belongs to, at its edges, over midnight and when the clock is changed."""

import itertools
import os
import time
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from appliance.shifts import earlier, shift_at


@pytest.fixture(autouse=True)
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(os.environ, "TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def local(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone()


@pytest.mark.parametrize(
    ("moment", "begin", "end"),
    [
        ("2026-11-27T06:00", "2026-11-27T06:00", "2026-11-27T14:00"),
        ("2026-11-27T13:59:59", "2026-11-27T06:00", "2026-11-27T14:00"),
        ("2026-11-27T14:00", "2026-11-27T14:00", "2026-11-27T22:00"),
        ("2026-11-27T23:30", "2026-11-27T22:00", "2026-11-28T06:00"),
        ("2026-11-28T05:59", "2026-11-27T22:00", "2026-11-28T06:00"),
    ],
)
def test_a_shift_lasts_from_its_start_to_the_next(moment: str, begin: str, end: str) -> None:
    assert shift_at(local(moment)) == (local(begin), local(end))


def test_one_start_a_day_makes_a_shift_of_a_day() -> None:
    assert shift_at(local("2026-11-27T05:59"), ("06:00",)) == (
        local("2026-11-26T06:00"), local("2026-11-27T06:00"),
    )  # fmt: skip


@pytest.mark.parametrize(("night", "hours"), [("2026-03-29T01:00", 7), ("2026-10-25T01:00", 9)])
def test_the_night_of_a_clock_change_is_shorter_or_longer(night: str, hours: int) -> None:
    begin, end = shift_at(local(night))
    assert timedelta(seconds=end.timestamp() - begin.timestamp()) == timedelta(hours=hours)


def test_going_back_and_on_again_leaves_no_gap() -> None:
    now = shift_at(local("2026-10-25T12:00"))
    steps = [earlier(now, count) for count in range(5)]
    assert all(older.end == newer.begin for newer, older in itertools.pairwise(steps))
    assert earlier(steps[4], -4) == now
