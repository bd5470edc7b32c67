"""Several cameras behind one light barrier, on virtual time."""

from collections.abc import Iterator

import pytest

from appliance.codes import (
    FaultCode,
    OfflineReason,
    Reason,
    Status1,
    Word,
)
from tests.hardware_belt import FITTED, PERIOD_MS, TWO, Belt, ready, words_of
from tests.line_plans import MS, Plan
from tests.line_world import DEADLINE_MS, World


@pytest.fixture
def wide() -> Iterator[Belt]:
    with World(trigger="hardware", cameras=TWO) as world:
        made = Belt(world)
        world.run(1000)
        yield ready(made)


def test_one_pulse_groups_the_pictures_of_all_cameras_and_the_worst_decides(wide: Belt) -> None:
    world = wide.world
    numbers: list[int] = []
    for index in range(12):
        beside = Plan(is_bad=index % 4 == 1)
        numbers.append(wide.part(is_bad=index % 3 == 2, views={"right": beside}))
        world.run(PERIOD_MS)
    world.run(500)
    for index, number in enumerate(numbers):
        verdict = wide.verdict_of(number)
        assert verdict is not None
        words = [Word.NG if index % n == rest else Word.OK for n, rest in ((3, 2), (4, 1))]
        assert [view.word for view in verdict.views] == words
        assert [world.shows[v.camera, v.frame_id] for v in verdict.views] == [number, number]
        assert verdict.word == (Word.NG if Word.NG in words else Word.OK)
    assert len(world.opened) == 12
    assert world.unaccounted == 0
    assert world.is_ready


@pytest.mark.parametrize("slow", TWO)
def test_no_view_is_judged_before_the_step_and_the_pictures_of_all_are_there(
    wide: Belt, slow: str
) -> None:
    world = wide.world
    number = next(wide.numbers)
    fast = next(camera for camera in TWO if camera != slow)
    world.plans[number] = Plan(infer_ms=1)
    wide.expose(number, fast)
    wide.step(number)
    wide.expose(number, slow, late_ms=60)
    world.run(50)
    (part,) = world.line.book._open.values()
    assert not part.is_paired
    assert not world.has(Status1.EXPOSURE_COMPLETE)
    world.run(50)
    assert world.has(Status1.EXPOSURE_COMPLETE)
    assert words_of(wide, [number]) == [Word.OK]


def test_the_clock_starts_at_the_first_exposure_that_ended(wide: Belt) -> None:
    """Whatever is seen first: the step, or the picture that was exposed later."""
    world = wide.world
    number = next(wide.numbers)
    world.plans[number] = Plan(infer_ms=1)
    wide.step(number)
    world.run(12)
    wide.expose(number, "left", late_ms=30)
    begun_ns = world.now
    world.run(8)
    wide.expose(number, "right")
    world.run(100)
    verdict = wide.verdict_of(number)
    assert verdict is not None and verdict.word == Word.OK
    (shown,) = world.verdicts.values()
    assert shown.at_ns - verdict.latency_ns == begun_ns
    assert world.opened[verdict.part_id] <= begun_ns + DEADLINE_MS * MS


@pytest.mark.parametrize("at", TWO)
@pytest.mark.parametrize("fault", ["dropped", "missed", "double", "late"])
def test_one_camera_that_goes_astray_stops_the_line_until_resync(
    wide: Belt, fault: str, at: str
) -> None:
    world = wide.world
    good = wide.run(4)
    broken = wide.part(fault, at=at)
    world.run(PERIOD_MS)
    after = wide.run(4)
    world.run(500)
    assert words_of(wide, good) == [Word.OK, Word.OK, Word.NG, Word.OK]
    assert world.bank.number("OfflineReason") == OfflineReason.ASSOCIATION_LOST
    assert world.line.counters["associations_lost"] == 1
    assert world.line.hardware is not None
    assert f"of camera {at}" in world.line.hardware.association.why_lost
    assert Word.OK not in words_of(wide, [broken, *after])
    assert len(world.opened) == len(world.verdicts)
    again = ready(wide).run(3)
    world.run(2000)
    assert words_of(wide, again) == [Word.OK, Word.OK, Word.NG]
    assert world.unaccounted == 0


def test_a_part_whose_step_came_is_awaited_at_the_gate_though_a_view_never_came(wide: Belt) -> None:
    world = wide.world
    world.bank.set("GateStatus", FITTED)
    wide.run(1)
    wide.part("dropped", at=TWO[1])
    world.run(500)
    assert world.line.counters["rejects_untagged"] == 0
    world.run(3000)
    assert world.bank.number("FaultCode") == FaultCode.REJECT_NOT_CONFIRMED


@pytest.mark.parametrize("at", TWO)
def test_an_incomplete_view_is_the_error_of_its_own_part_alone(wide: Belt, at: str) -> None:
    wide.run(2)
    cut = wide.part("incomplete", at=at)
    wide.world.run(PERIOD_MS)
    after = wide.run(3)
    wide.world.run(500)
    verdict = wide.verdict_of(cut)
    assert verdict is not None
    assert (verdict.word, verdict.reason) == (Word.ERROR, Reason.INCOMPLETE_IMAGE)
    assert {view.camera: view.word for view in verdict.views} == {
        at: Word.ERROR, next(camera for camera in TWO if camera != at): Word.OK,
    }  # fmt: skip
    assert words_of(wide, after) == [Word.OK, Word.OK, Word.NG]
    assert wide.world.is_ready


def test_a_late_view_is_an_error_though_the_other_one_is_good(wide: Belt) -> None:
    number = wide.part(views={"right": Plan(infer_ms=400)})
    wide.world.run(1000)
    verdict = wide.verdict_of(number)
    assert verdict is not None
    assert (verdict.word, verdict.reason) == (Word.ERROR, Reason.VIEW_MISSING)
    assert [view.reason for view in verdict.views] == [Reason.NONE, Reason.LATE]
    assert verdict.latency_ns <= verdict.deadline_ns
    assert wide.world.is_ready


def test_any_camera_that_starts_anew_needs_resync(wide: Belt) -> None:
    world = wide.world
    wide.run(2)
    world.kill(world.eyes["right"])
    world.run(3000)
    assert world.bank.number("OfflineReason") == OfflineReason.ASSOCIATION_LOST
    assert words_of(wide, ready(wide).run(2)) == [Word.OK, Word.OK]
