"""When challenge parts fall due, as a table of days; and what the line makes of it."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from appliance.challenge_due import ChallengeDue
from appliance.codes import (
    CommandCode,
    Control,
    ExpectedVerdict,
    FaultCode,
    OfflineReason,
    Status1,
    Status2,
    Word,
)
from appliance.config_challenge import ChallengePlan
from tests.line_world import World

ENABLE, EXECUTE = Control.ENABLE, Control.EXECUTE
MINUTE, HOUR, DAY = 60, 3600, 86_400
MIDNIGHT = 1_789_948_800
"""2026-09-21, 00:00 UTC."""


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Shift starts are local times."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@dataclass
class Line:
    """What is known to a schedule, and what it says at a time of the first day."""

    plan: ChallengePlan
    parts: int = 0
    recipe: int = 0xABCD
    fault: FaultCode = FaultCode.NONE

    def __post_init__(self) -> None:
        self.due = ChallengeDue(self.plan, {})

    def at(self, now_s: int) -> int | None:
        """Since when it is due, in seconds of the first day."""
        self.due.follow(MIDNIGHT + now_s, self.parts, self.recipe, self.fault)
        return None if self.due.since_s is None else self.due.since_s - MIDNIGHT

    def passed(self, now_s: int) -> "Line":
        self.at(now_s)
        self.due.passed(MIDNIGHT + now_s, self.parts)
        assert self.at(now_s) is None
        return self

    def restarted(self) -> "Line":
        self.due = ChallengeDue(self.plan, self.due.persistent)
        return self


def test_without_a_plan_nothing_is_ever_due_and_nothing_is_kept() -> None:
    line = Line(ChallengePlan(hold_after_min=0))
    line.fault = FaultCode.CAMERA_LOST
    assert line.at(400 * DAY) is None
    assert not line.due.is_overdue
    assert line.due.persistent == {}


def test_a_box_that_never_was_challenged_is_due_from_its_first_minute() -> None:
    line = Line(ChallengePlan(every_hours=8, hold_after_min=10))
    assert line.at(100) == 100
    assert line.restarted().at(9 * MINUTE) == 100
    assert not line.due.is_overdue
    assert line.at(100 + 10 * MINUTE) == 100
    assert line.due.is_overdue
    line.passed(100 + 11 * MINUTE)
    assert not line.due.is_overdue


def test_hours_run_from_the_last_one_that_was_passed() -> None:
    line = Line(ChallengePlan(every_hours=8)).passed(HOUR)
    assert line.at(9 * HOUR - 1) is None
    assert line.restarted().at(20 * HOUR) == 9 * HOUR
    assert line.passed(21 * HOUR).at(28 * HOUR) is None


def test_a_shift_starts_at_its_local_time_also_while_the_box_was_off() -> None:
    line = Line(ChallengePlan(shift_starts=("06:00", "14:00", "22:00"))).passed(5 * HOUR)
    assert line.at(6 * HOUR - 1) is None
    assert line.at(6 * HOUR) == 6 * HOUR
    line.passed(6 * HOUR + 5 * MINUTE)
    assert line.at(13 * HOUR) is None
    assert line.restarted().at(23 * HOUR) == 14 * HOUR, "that of the shift before was missed, too"
    line.passed(23 * HOUR)
    assert line.at(DAY + 5 * HOUR) is None, "the shift of yesterday evening was challenged"
    assert line.at(DAY + 6 * HOUR) == DAY + 6 * HOUR


def test_shift_starts_follow_the_local_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    line = Line(ChallengePlan(shift_starts=("06:00",))).passed(0)
    assert line.at(4 * HOUR - 1) is None
    assert line.at(4 * HOUR) == 4 * HOUR, "06:00 in summer"
    winter = 60 * DAY
    line.passed(winter)
    assert line.at(winter + 5 * HOUR - 1) is None
    assert line.at(winter + 5 * HOUR) == winter + 5 * HOUR


def test_parts() -> None:
    line = Line(ChallengePlan(every_parts=100), parts=7).passed(0)
    line.parts = 106
    assert line.at(HOUR) is None
    line.parts = 107
    assert line.at(2 * HOUR) == 2 * HOUR
    line.parts = 500
    assert line.restarted().at(3 * HOUR) == 2 * HOUR
    assert line.passed(4 * HOUR).at(5 * HOUR) is None


def test_another_recipe_also_one_that_was_changed_while_the_box_was_off() -> None:
    line = Line(ChallengePlan(after_change=True)).passed(0)
    line.recipe = 0
    assert line.at(HOUR) is None, "none in force yet"
    line.recipe = 0x1234
    assert line.restarted().at(2 * HOUR) == 2 * HOUR
    line.recipe = 0xABCD
    assert line.at(3 * HOUR) == 2 * HOUR, "back again, and nobody has looked"
    assert line.passed(4 * HOUR).at(5 * HOUR) is None


def test_a_fault_asks_once_and_a_slow_machine_does_not() -> None:
    line = Line(ChallengePlan(after_fault=True)).passed(0)
    line.fault = FaultCode.DECISION_LATE
    assert line.at(HOUR) is None
    line.fault = FaultCode.CAMERA_LOST
    assert line.at(2 * HOUR) == 2 * HOUR
    line.passed(3 * HOUR)
    assert line.at(4 * HOUR) is None, "it goes on, and was known"
    line.fault = FaultCode.NONE
    assert line.at(5 * HOUR) is None
    line.fault = FaultCode.CAMERA_LOST
    assert line.at(6 * HOUR) == 6 * HOUR


def test_one_passed_by_a_clock_that_was_ahead_counts_for_nothing() -> None:
    line = Line(ChallengePlan(every_hours=8)).passed(400 * DAY)
    assert line.at(HOUR) == HOUR
    assert line.passed(2 * HOUR).at(3 * HOUR) is None


def test_a_clock_that_is_behind_after_a_start_locks_no_line_once_it_is_right() -> None:
    """An empty battery on the board: a year ago, until the network says what time it is."""
    line = Line(ChallengePlan(every_hours=8, after_fault=True, hold_after_min=30)).passed(0)
    assert line.restarted().at(-365 * DAY) == -365 * DAY
    assert not line.due.is_overdue
    assert line.at(HOUR) is None
    line.restarted().at(-365 * DAY)
    line.fault = FaultCode.CAMERA_LOST
    line.at(-365 * DAY + MINUTE)
    assert line.at(HOUR) == HOUR, "the fault did happen, and is known since now"
    assert not line.due.is_overdue
    line.at(HOUR + 31 * MINUTE)
    assert line.due.is_overdue


def is_due(world: World) -> bool:
    return Status2.CHALLENGE_DUE in Status2(world.bank.number("Status2"))


def challenge(world: World, expected: ExpectedVerdict = ExpectedVerdict.OK) -> None:
    """One part between the commands 30 and 31."""
    world.beat(ENABLE | EXECUTE, Command=CommandCode.START_CHALLENGE)
    world.beat(ENABLE)
    world.until_ready()
    world.part(ENABLE, ExpectedVerdict=expected)
    assert world.read()[1] == Word.OK
    world.beat(ENABLE | EXECUTE, Command=CommandCode.END_CHALLENGE)
    world.beat(ENABLE)
    world.idle(100)


def test_due_is_shown_and_an_overdue_one_holds_the_line_until_it_is_passed() -> None:
    with World(challenge=ChallengePlan(every_hours=1, hold_after_min=1)) as world:
        world.until_ready()
        assert is_due(world)
        world.part()
        assert world.read()[1] == Word.OK
        world.idle(61_000)
        assert not world.is_ready
        assert world.bank.number("OfflineReason") == OfflineReason.CHALLENGE_LOCK
        assert Status2.CHALLENGE_FAILED not in Status2(world.bank.number("Status2"))
        world.kill_decide()
        world.idle(3000)
        assert world.bank.number("OfflineReason") == OfflineReason.CHALLENGE_LOCK
        challenge(world)
        assert not is_due(world)
        world.until_ready()


def test_a_challenge_that_fails_leaves_it_due() -> None:
    with World(challenge=ChallengePlan(every_hours=1)) as world:
        world.until_ready()
        challenge(world, ExpectedVerdict.NG)
        assert is_due(world)
        assert Status2.CHALLENGE_FAILED in Status2(world.bank.number("Status2"))


def test_after_another_product_no_part_before_a_challenge_where_it_holds_at_once() -> None:
    with World(challenge=ChallengePlan(after_change=True, hold_after_min=0)) as world:
        world.beat(ENABLE)
        world.idle(2000)
        challenge(world)
        world.until_ready()
        world.beat(ENABLE | EXECUTE, Command=CommandCode.LOAD_RECIPE, CmdArg=2)
        for _ in range(100):
            world.run(20)
            assert not world.has(Status1.TRIGGER_READY)
            world.beat()
        world.beat(ENABLE)
        assert world.bank.number("RecipeId") == 2
        assert is_due(world)
        assert not world.is_ready
        challenge(world)
        world.until_ready()
