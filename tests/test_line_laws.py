"""Broken laws of the ledger on virtual time: each shows, and holds the line."""

from collections.abc import Iterator

import msgspec
import pytest

from appliance.codes import (
    Control,
    FaultCode,
    OfflineReason,
    Reason,
    Status1,
    Status2,
    Word,
)
from appliance.config_record import Record
from appliance.messages import Health, Stored
from tests.line_plans import Plan
from tests.line_steps import breach, ends
from tests.line_world import World

ENABLE, BUFFER = Control.ENABLE, Control.BUFFER_RESULTS
CLEAR = Control.CLEAR_ERROR


@pytest.fixture
def world() -> Iterator[World]:
    with World() as made:
        yield made


@pytest.mark.parametrize(
    ("plan", "word"),
    [
        (Plan(infer="silent"), Word.ERROR),  # drop a Scored
        (Plan(camera="silent"), Word.ERROR),  # lose a frame
        (Plan(camera="double"), None),  # double a frame
        (Plan(infer="double"), None),  # double a score
        (Plan(camera="then_none"), Word.ERROR),  # a frame and none
        (Plan(camera="after_none"), Word.ERROR),  # none and a frame
        (Plan(camera="foreign"), Word.ERROR),  # the frame of a part that nobody opened
        (Plan(infer="other_frame"), Word.ERROR),  # the score of another frame
    ],
    ids=str,
)
def test_a_broken_law_shows_and_holds_the_line(world: World, plan: Plan, word: Word | None) -> None:
    got, _ = ends(world, plan)
    assert word is None or got == word
    assert breach(world) > 0


def test_nothing_shows_without_a_broken_law(world: World) -> None:
    for _ in range(20):
        world.until_ready().part()
        world.read()
    assert breach(world) == 0


def two_open(world: World) -> tuple[int, int]:
    """Two parts with frames and without scores, the first good and the second bad."""
    world.plan = lambda part_id: Plan(infer="silent", is_bad=part_id % 2 == 0)
    world.until_ready(ENABLE | BUFFER)
    first = world.part(ENABLE | BUFFER)
    world.run(5)
    second = world.part(ENABLE | BUFFER)
    world.run(20)
    return first, second


def test_two_ids_swapped_between_scores(world: World) -> None:
    first, second = two_open(world)
    frames = [world.line.book._open[part].only.frame for part in (first, second)]
    scores = [world.score_of(frame) for frame in frames if frame]
    for score, part_id in zip(scores, (second, first), strict=True):
        world.scored(msgspec.structs.replace(score, part_id=part_id))
    world.run(10)
    assert {world.verdicts[p].verdict.word for p in (first, second)} == {Word.ERROR}
    assert breach(world) >= 2


def test_two_ids_swapped_between_frames(world: World) -> None:
    """infer and decide hear the same wrong ids: only the order of the frames tells."""
    world.plan = lambda part_id: Plan(camera="silent", is_bad=part_id == 1)
    world.until_ready(ENABLE | BUFFER)
    parts = [world.part(ENABLE | BUFFER), world.part(ENABLE | BUFFER)]
    frames = [world.frame(part_id, part_id) for part_id in parts]
    for frame, part_id in zip(frames, reversed(parts), strict=True):
        wrong = msgspec.structs.replace(frame, part_id=part_id)
        world.seen(wrong)
        world.scored(world.score_of(wrong))
        world.run(5)
    assert {world.verdicts[p].verdict.word for p in parts} == {Word.ERROR}
    assert breach(world) > 0


def test_a_frame_before_its_elder_was_answered_is_not_believed(world: World) -> None:
    """One of two pictures was lost, and the other may be anybody's."""
    world.plan = lambda part_id: Plan(camera="silent" if part_id == 1 else "good")
    world.until_ready(ENABLE | BUFFER)
    world.part(ENABLE | BUFFER)
    second = world.part(ENABLE | BUFFER)
    world.plans[second].is_doubtful = True
    world.idle(400)
    verdict = world.verdicts[second].verdict
    assert (verdict.word, verdict.reason) == (Word.ERROR, Reason.ASSOCIATION_LOST)


def test_a_trigger_doubled_on_its_way(world: World) -> None:
    part_id = world.until_ready().part()
    world._triggered("top", world.triggers[-1])
    world.idle(400)
    assert part_id in world.verdicts
    assert breach(world) > 0


def test_a_row_that_is_skipped(world: World) -> None:
    world.is_storing = False
    world.until_ready().part()
    world.read()
    world.idle(4000)
    assert world.line.ledger.rows_pending == 1
    assert breach(world) == 1
    world.is_storing = True
    world.idle(4000)
    assert world.unaccounted == 0  # it was sent again, and now it is there
    assert set(world.rows) == {1}


def test_a_verdict_that_is_doubled_on_its_way(world: World) -> None:
    world.until_ready().part()
    world.read()
    health = Health(process="record", pid=300, is_serving=True)
    world.line.heard(health, world.now)
    assert breach(world) == 0
    doubled = Health(process="record", pid=300, is_serving=True, counters={"doubled": 1})
    world.line.heard(doubled, world.now)
    assert breach(world) == 1


def test_rows_sent_again_by_us_are_no_doubles(world: World) -> None:
    world.is_storing = False
    world.until_ready().part()
    world.read()
    world.idle(3500)
    sent_again = world.rows_seen - 1
    assert sent_again >= 1
    health = Health(process="record", pid=300, is_serving=True, counters={"doubled": sent_again})
    world.line.heard(health, world.now)
    assert world.line.ledger.rows_doubled == 0


def test_a_breach_in_the_scan_of_a_clear_error_is_not_acknowledged_by_it(world: World) -> None:
    world.until_ready()
    world.line.ledger.duplicates += 1
    world.beat(ENABLE | CLEAR)
    world.idle(200)
    assert world.bank.number("FaultCode") == FaultCode.LEDGER
    assert not world.is_ready
    world.beat(ENABLE)
    world.beat(ENABLE | CLEAR)
    world.until_ready()


def test_a_cleared_breach_does_not_hide_the_next(world: World) -> None:
    world.is_storing = False
    world.until_ready().part()
    world.read()
    assert breach(world) == 1  # cleared, and still missing
    world.is_storing = True
    world.idle(4000)
    assert world.unaccounted == 0
    assert ends(world, Plan(infer="double"))[0] == Word.OK
    assert breach(world) == 1


def test_rows_without_a_recorder_are_pending_and_no_fault(world: World) -> None:
    world.kill(world.record, back_ms=20_000)
    world.until_ready().part()
    world.read()
    world.idle(15_000)
    assert world.unaccounted == 0
    assert world.has(Status1.WARNING)
    assert Status2.ARCHIVE_LOSSY in Status2(world.bank.number("Status2"))
    assert world.is_ready
    world.idle(10_000)
    assert set(world.rows) == {1}
    assert world.unaccounted == 0
    assert not world.has(Status1.WARNING)


def test_rows_that_wait_for_a_slow_disk_are_a_warning_and_no_fault(world: World) -> None:
    world.store_delay_ms = 8_000.0
    world.until_ready().part()
    world.read()
    world.is_disk_slow = True
    for _ in range(20):  # the recorder says so all the time, also without a row
        world.line.stored(Stored(part_ids=(), is_slow=True))
        world.idle(500)
    assert world.unaccounted == 0
    assert world.bank.number("FaultCode") == FaultCode.NONE
    assert world.has(Status1.WARNING)
    assert world.is_ready
    assert "the disk is slow: rows wait" in world.line.box.notes
    world.is_disk_slow = False
    world.line.stored(Stored(part_ids=()))
    world.idle(1000)
    assert set(world.rows) == {1}
    assert not world.has(Status1.WARNING)
    assert world.line.box.notes == ()


def test_a_site_that_must_keep_everything_makes_no_part_while_it_cannot() -> None:
    with World(record_policy=Record(stop_when_lossy=True)) as world:
        world.until_ready().part()
        world.read()
        world.kill(world.record, back_ms=5000)
        world.idle(2000)
        assert not world.is_ready
        assert world.bank.number("OfflineReason") == OfflineReason.STORAGE_POLICY
        assert world.bank.number("FaultCode") == FaultCode.NONE
        world.idle(6000)
        assert world.is_ready
        assert set(world.rows) == {1}
        assert world.unaccounted == 0
        world.journal.lost += 1  # rows are kept all the same
        world.run(60)
        assert world.is_ready and world.has(Status1.WARNING)


def test_rows_that_wait_are_a_warning_long_before_the_first_is_given_up(world: World) -> None:
    world.until_ready().part()
    world.read()
    world.idle(1000)
    assert not world.has(Status1.WARNING)
    world.kill(world.record, back_ms=20_000)
    world.idle(2000)
    assert world.line.box.notes == ()
    world.until_ready().part()
    world.read()
    world.idle(200)
    assert (world.line.ledger.rows_pending, world.line.ledger.rows_dropped) == (1, 0)
    assert world.has(Status1.WARNING)
    assert world.line.box.notes == ("no rows are written: 5,000 of them can wait",)
    world.idle(40_000)
    assert not world.has(Status1.WARNING)
    assert world.line.box.notes == ()


def test_verdicts_beyond_what_can_be_kept_are_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.journal.UNSTORED_MAX", 3)
    world.kill(world.record, back_ms=20_000)
    for _ in range(5):
        world.until_ready().part()
        world.read()
    world.idle(3000)
    ledger = world.line.ledger
    assert (ledger.rows_dropped, ledger.rows_pending, ledger.unaccounted) == (2, 3, 0)
    world.idle(40_000)
    assert ledger.unaccounted == 2
