"""Alarms at a rate: over the window, per kind, and what ends them."""

from collections.abc import Iterator

import pytest

from appliance.alarms import WINDOW, Alarms
from appliance.closing import as_whole
from appliance.codes import CommandCode, Reason, Status1, Status2, Word
from appliance.config import Alarms as Limits
from appliance.messages import Health, Verdict, ViewResult
from tests.line_plans import Plan
from tests.line_world import World


def verdict(word: Word = Word.OK, reason: Reason = Reason.NONE, *, test: bool = False) -> Verdict:
    return Verdict(part_id=1, acq_id=1, epoch=1, word=word, reason=reason, is_challenge=test)


@pytest.fixture
def world() -> Iterator[World]:
    with World() as world:
        yield world


def judged(world: World, plan: Plan) -> None:
    world.plan = lambda part_id: plan
    world.part()
    world.read()


LATE = verdict(Word.ERROR, Reason.LATE)


def fed(limits: Limits, *verdicts: Verdict) -> Alarms:
    alarms = Alarms(limits)
    for one in verdicts:
        alarms.verdict(one)
    return alarms


@pytest.mark.parametrize(
    ("reason", "name", "limit"),
    [
        (Reason.LATE, "late", 1),
        (Reason.INCOMPLETE_IMAGE, "incomplete", 10),
        (Reason.NO_IMAGE, "incomplete", 10),
        (Reason.IMAGE_HEALTH, "image_health", 10),
        (Reason.FIXTURE, "image_health", 10),
        (Reason.ANOMALY_SCORE, "rejects", 13),
    ],
)
def test_one_more_than_the_limit_raises_it(reason: Reason, name: str, limit: int) -> None:
    word = Word.NG if reason == Reason.ANOMALY_SCORE else Word.ERROR
    alarms = fed(Limits(), *[verdict(word, reason)] * limit)
    assert name not in alarms.raised
    alarms.verdict(verdict(word, reason))
    assert name in alarms.raised
    assert str(limit) in alarms.notes[0]


GOOD_VIEW = ViewResult(camera="left", word=Word.OK, reason=Reason.NONE)
NG_VIEW = ViewResult(camera="left", word=Word.NG, reason=Reason.ANOMALY_SCORE)


@pytest.mark.parametrize("beside", [GOOD_VIEW, NG_VIEW])
@pytest.mark.parametrize(
    ("reason", "name"),
    [
        (Reason.LATE, "late"),
        (Reason.NO_IMAGE, "incomplete"),
        (Reason.INCOMPLETE_IMAGE, "incomplete"),
        (Reason.IMAGE_HEALTH, "image_health"),
    ],
)
def test_every_view_counts_and_the_part_once(reason: Reason, name: str, beside: ViewResult) -> None:
    missed = [ViewResult(camera=camera, word=Word.ERROR, reason=reason) for camera in "ab"]
    views = (beside, *missed)
    whole = as_whole(views)
    part = Verdict(part_id=1, acq_id=1, epoch=1, word=whole.word, reason=whole.reason, views=views)
    alarms = fed(Limits(late=1, incomplete=1, image_health=1, rejects=1), part)
    assert alarms.raised == ()
    alarms.verdict(part)
    assert set(alarms.raised) == {name, "rejects"}


def test_it_ends_when_the_window_has_moved_on_and_says_the_same_meanwhile() -> None:
    alarms = fed(Limits(), LATE, LATE)
    said = alarms.notes
    for _ in range(WINDOW - 2):
        alarms.verdict(verdict())
        assert alarms.notes == said
    alarms.verdict(verdict())
    assert alarms.raised == ()


def test_challenge_parts_and_a_limit_of_the_whole_window_raise_nothing() -> None:
    bad = verdict(Word.NG, Reason.ANOMALY_SCORE, test=True)
    assert fed(Limits(rejects=0), *[bad] * 50).raised == ()
    assert fed(Limits(late=WINDOW, rejects=WINDOW), *[LATE] * 2 * WINDOW).raised == ()


def test_another_shift_begins_anew() -> None:
    alarms = fed(Limits(late=0), LATE)
    alarms.restart()
    assert alarms.raised == ()


def test_the_plc_sees_late_parts_as_a_warning_and_rejects_as_their_own_bit(world: World) -> None:
    world.until_ready()
    for _ in range(14):
        judged(world, Plan(is_bad=True))
    world.idle(100)
    assert Status2.REJECT_RATE_ALARM in Status2(world.bank.number("Status2"))
    assert not world.has(Status1.WARNING)
    for _ in range(2):
        judged(world, Plan(infer_ms=400))
        world.idle(600)
    assert world.has(Status1.WARNING)
    assert any("late" in note for note in world.line.box.notes)
    world.line.orders.by_code(CommandCode.RESET_COUNTERS, 0, world.now, lambda *_: None)
    world.idle(100)
    assert not world.has(Status1.WARNING)


def test_heat_of_the_box_and_of_a_gpu_is_throttled_and_a_warning(world: World) -> None:
    judged(world.until_ready(), Plan())
    world.line.box.throttled = "Processor at step 3"
    world.idle(100)
    assert Status2.THROTTLED in Status2(world.bank.number("Status2"))
    assert world.has(Status1.WARNING) and world.is_ready
    assert world.line.box.notes == ("throttled: Processor at step 3",)
    world.line.box.throttled = ""
    hot = Health(process="infer:0", pid=200, is_serving=True, gauges={"gpu_throttled": 1.0})
    world.line.heard(hot, world.now)
    world.line.tick(world.now)
    assert Status2.THROTTLED in Status2(world.bank.number("Status2"))
    world.idle(300)  # the world's own infer is cool
    assert Status2.THROTTLED not in Status2(world.bank.number("Status2"))


def test_memory_that_nobody_knows_is_a_note_and_no_warning(world: World) -> None:
    judged(world.until_ready(), Plan())
    world.line.box.memory_unknown = "/proc/meminfo does not say how much memory is left"
    world.idle(100)
    assert world.line.box.notes == ("/proc/meminfo does not say how much memory is left",)
    assert not world.has(Status1.WARNING) and world.is_ready


def test_heat_that_cannot_be_read_any_more_is_told_and_is_no_throttling(world: World) -> None:
    judged(world.until_ready(), Plan())
    world.line.box.heat_lost = "cpu-thermal"
    lost = Health(process="infer:0", pid=200, is_serving=True, gauges={"gpu_heat_unknown": 1.0})
    world.line.heard(lost, world.now)
    assert world.line.box.notes == ("heat cannot be read: cpu-thermal, GPU",)
    world.line.box.heat_lost = ""
    world.idle(300)  # the world's own infer asks no GPU
    assert world.line.box.notes == ()
    assert Status2.THROTTLED not in Status2(world.bank.number("Status2"))
    assert not world.has(Status1.WARNING)
