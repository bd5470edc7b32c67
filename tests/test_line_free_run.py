"""The line on virtual time in free run."""

from collections.abc import Iterator

import pytest

from appliance.codes import (
    CommandCode,
    Control,
    OfflineReason,
    Reason,
    State,
    Status1,
    Word,
)
from appliance.messages import NoFrame
from tests.line_plans import MS, Plan
from tests.line_steps import breach, free, load
from tests.line_world import World

ENABLE = Control.ENABLE
EXECUTE = Control.EXECUTE


@pytest.fixture
def running() -> Iterator[World]:
    with World(trigger="free") as made:
        yield free(made)


def test_a_frame_is_a_part_and_its_clock_began_with_its_exposure(running: World) -> None:
    running.send_frame(running.frame(0, 1), Plan())
    assert running.bank.number("AcqID") == 1
    assert running.opened[1] == running.now - 5 * MS + 200 * MS
    running.run(50)
    assert running.verdicts[1].verdict.word == Word.OK
    assert running.bank.number("RingLast") == 1
    assert not running.has(Status1.RESULT_VALID)


def test_a_score_before_its_frame_in_free_run(running: World) -> None:
    running.send_frame(running.frame(0, 1), Plan(is_infer_first=True))
    running.run(50)
    assert running.verdicts[1].verdict.word == Word.OK


def test_a_failure_before_its_frame_in_free_run(running: World) -> None:
    running.send_frame(running.frame(0, 1), Plan(is_infer_first=True, infer="failed"))
    running.run(50)
    assert running.verdicts[1].verdict.reason == Reason.IMAGE_HEALTH
    assert breach(running) == 0


def test_a_frame_of_another_set_up_in_free_run(running: World) -> None:
    running.camera.setup = "another"
    running.send_frame(running.frame(0, 1), Plan())
    running.run(50)
    assert running.verdicts[1].verdict.reason == Reason.WRONG_RECIPE


def test_a_doubled_frame_opens_no_second_part(running: World) -> None:
    frame = running.frame(0, 1)
    running.send_frame(frame, Plan())
    running.seen(frame)
    running.run(50)
    assert len(running.opened) == 1
    assert breach(running) == 1


@pytest.mark.parametrize("is_infer_first", [False, True])
def test_frames_while_not_ready_are_counted_and_no_parts(
    running: World, is_infer_first: bool
) -> None:
    running.beat(Control(0))
    running.send_frame(running.frame(0, 1), Plan(is_infer_first=is_infer_first))
    running.idle(300)
    assert running.opened == {}
    assert running.bank.number("missed_triggers") == 1
    assert running.line.book.orphans == 1
    assert breach(running) == 0


@pytest.mark.parametrize("reason", [Reason.QUEUE_FULL, Reason.INCOMPLETE_IMAGE])
def test_a_lost_picture_in_free_run_is_a_part_too(running: World, reason: Reason) -> None:
    message = NoFrame(camera="top", part_id=0, reason=reason, detail="planned")
    running.line.no_frame(message, running.now)
    verdict = running.verdicts[1].verdict
    assert (verdict.word, verdict.reason) == (Word.ERROR, reason)
    assert running.bank.read_slot(0).verdict == Word.ERROR
    running.beat(Control(0))
    running.line.no_frame(message, running.now)
    assert len(running.opened) == 1
    assert running.line.tally.shift["missed_triggers"] == 1


def test_a_score_for_a_frame_that_nobody_saw_shows(running: World) -> None:
    running.send_frame(running.frame(0, 1), Plan())
    running.scored(running.score_of(running.frame(0, 2)))
    assert breach(running) == 1


def test_an_answer_that_waited_while_infer_prepared_a_set_up_is_no_breach(running: World) -> None:
    """Of a frame that came in a change of recipe: nobody remembers that it belonged to no part."""
    running.beat(Control(0))
    frame = running.frame(0, 1)
    running.seen(frame)
    running.idle(40_000)
    running.scored(running.score_of(frame))
    free(running)
    assert breach(running) == 0
    running.scored(running.score_of(running.frame(0, 2)))
    assert breach(running) == 1


def test_answers_that_find_a_new_decide_before_the_camera_does_are_no_breach(
    running: World,
) -> None:
    """Both try again every 200 ms, each at its own time: fault 9 would stop the line."""
    running.kill_decide()
    running.run(150)  # the camera's sign of life is heard
    for _ in range(3):
        running.scored(running.score_of(running.frame(0, 1)))
    running.send_frame(running.frame(0, 2), Plan())
    orphans = running.line.book.orphans
    assert breach(running) == 0
    assert running.line.book.orphans == orphans + 3


def test_an_answer_to_a_frame_that_a_camera_died_with_is_no_breach(running: World) -> None:
    """It went to infer, which is slow; what should have told decide of it died with the camera."""
    running.send_frame(running.frame(0, 1), Plan())
    last = running.score_of(running.frame(0, 2))
    running.kill(running.camera)
    running.idle(1000)
    running.scored(last)
    free(running)
    running.send_frame(running.frame(0, 3), Plan())
    assert breach(running) == 0


def test_stop_and_start_of_free_run(running: World) -> None:
    running.beat(ENABLE | EXECUTE, Command=CommandCode.STOP)
    assert running.has(Status1.CMD_DONE)
    running.run(60)
    assert not running.is_ready
    assert running.bank.number("OfflineReason") == OfflineReason.STOPPED_BY_PERSON
    assert running.bank.number("State") == State.READY
    running.beat(ENABLE)
    running.beat(ENABLE | EXECUTE, Command=CommandCode.START_CONTINUOUS)
    running.run(60)
    running.beat(ENABLE)
    assert running.is_ready


def test_free_run_comes_back_by_itself_after_a_recipe_change(running: World) -> None:
    load(running, 2)
    running.idle(1000)
    running.beat(ENABLE)
    free(running)
    assert running.bank.number("RecipeId") == 2
