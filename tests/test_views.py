"""Several cameras, one part: its views are grouped, the worst one decides, none may be missing.

On virtual time, with the processes of `line_world`: frame ids of the cameras are alike, and whose
picture a frame is, is kept beside the messages.
"""

import itertools
from collections.abc import Callable, Iterator

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from appliance.closing import as_whole
from appliance.codes import Control, OfflineReason, Reason, Status1, Status2, Word
from appliance.journal import ID_WRAP
from appliance.messages import FrameReady, Verdict, ViewResult
from appliance.verdict import worst
from tests.line_plans import Plan
from tests.line_world import DEADLINE_MS, World

TWO = ("left", "right")
FOUR = ("left", "right", "top", "under")
WORDS = (Word.OK, Word.UNCERTAIN, Word.ERROR, Word.NG)
"""The best first."""


@pytest.fixture
def world() -> Iterator[World]:
    with World(cameras=TWO) as made:
        yield made


def planned(**plans: Plan) -> Callable[[int, str], Plan]:
    """These plans for the first part's views; good ones for all others."""
    return lambda part_id, camera: plans.get(camera, Plan()) if part_id == 1 else Plan()


def judged(world: World, **plans: Plan) -> Verdict:
    """The verdict of one part whose views go like this."""
    world.view = planned(**plans)
    part_id = world.until_ready().part()
    world.read()
    return world.verdicts[part_id].verdict


def test_the_worst_word_decides_whatever_the_order() -> None:
    for words in itertools.product(WORDS, repeat=3):
        assert words[worst(words)] == max(words, key=WORDS.index), words
        assert (words[worst(words)] == Word.OK) == (set(words) == {Word.OK}), words


def test_no_view_and_a_view_without_a_word_are_nothing_that_could_be_ok() -> None:
    for words in ([], [Word.OK, Word.NONE], [Word.NONE]):
        with pytest.raises(ValueError, match=r"tuple\.index|empty"):
            worst(words)


def test_a_part_says_which_of_its_views_speak_against_it() -> None:
    left = ViewResult(camera="left", word=Word.UNCERTAIN, reason=Reason.UNCERTAIN_BAND)
    right = ViewResult(
        camera="right", word=Word.NG, reason=Reason.SEGAD, reasons=("edge: p99",), margin=7.0
    )
    under = ViewResult(camera="under", word=Word.ERROR, reason=Reason.FIXTURE, detail="not found")
    whole = as_whole([left, right, under])
    assert (whole.camera, whole.word, whole.reason, whole.margin) == (
        "right", Word.NG, Reason.SEGAD, 7.0,
    )  # fmt: skip
    assert whole.detail == "right NG; left UNCERTAIN; under ERROR (not found)"
    assert whole.reasons == ("right: edge: p99",)


@pytest.mark.parametrize("infer_first", [*itertools.product((False, True), repeat=2)])
@pytest.mark.parametrize("slow", ["", *TWO])
def test_two_good_views_in_any_order_of_arrival_are_ok(
    world: World, slow: str, infer_first: tuple[bool, bool]
) -> None:
    plans = {
        name: Plan(camera_ms=60 if name == slow else 15, is_infer_first=first)
        for name, first in zip(TWO, infer_first, strict=True)
    }
    verdict = judged(world, **plans)
    assert (verdict.word, verdict.reason, verdict.detail) == (Word.OK, Reason.NONE, "")
    assert [view.camera for view in verdict.views] == list(TWO)
    assert [view.word for view in verdict.views] == [Word.OK, Word.OK]
    assert world.line.tally.shift["frames_ok"] == 2
    world.idle(8000)
    assert world.unaccounted == 0


def test_the_part_may_move_only_when_every_camera_has_its_picture(world: World) -> None:
    world.view = planned(left=Plan(camera_ms=10), right=Plan(camera_ms=50))
    world.until_ready().part()
    world.run(30)
    world.beat()
    assert not world.has(Status1.EXPOSURE_COMPLETE)
    world.run(25)
    world.beat()
    assert world.has(Status1.EXPOSURE_COMPLETE)


def test_no_verdict_is_given_before_the_last_view(world: World) -> None:
    world.view = planned(left=Plan(camera_ms=5, infer_ms=5, is_bad=True), right=Plan(infer_ms=90))
    part_id = world.until_ready().part()
    world.run(60)
    assert part_id not in world.verdicts
    world.run(60)
    verdict = world.verdicts[part_id].verdict
    assert (verdict.word, verdict.camera, verdict.margin) == (Word.NG, "left", 5.0)
    assert verdict.detail == "left NG"
    assert verdict.views[1].word == Word.OK


FAULTS = {
    # how the right view goes wrong: the part's reason, the view's own reason
    "no picture": (Plan(camera="silent"), Reason.VIEW_MISSING, Reason.NO_IMAGE),
    "none came": (Plan(camera="none"), Reason.VIEW_MISSING, Reason.NO_IMAGE),
    "late": (Plan(infer_ms=DEADLINE_MS + 50), Reason.VIEW_MISSING, Reason.LATE),
    "no score": (Plan(infer="silent"), Reason.VIEW_MISSING, Reason.LATE),
    "incomplete": (Plan(camera="incomplete"), Reason.INCOMPLETE_IMAGE, Reason.INCOMPLETE_IMAGE),
    "queue full": (Plan(camera="queue_full"), Reason.QUEUE_FULL, Reason.QUEUE_FULL),
    "unhealthy": (Plan(infer="failed"), Reason.IMAGE_HEALTH, Reason.IMAGE_HEALTH),
    "NaN": (Plan(infer="nan"), Reason.INVALID_NUMBER, Reason.INVALID_NUMBER),
    "other frame": (Plan(infer="other_frame"), Reason.ASSOCIATION_LOST, Reason.ASSOCIATION_LOST),
    "other set-up": (Plan(infer="other_setup"), Reason.WRONG_RECIPE, Reason.WRONG_RECIPE),
    "overwritten": (Plan(infer="map_lost"), Reason.FRAME_OVERWRITTEN, Reason.FRAME_OVERWRITTEN),
}


@pytest.mark.parametrize("camera", TWO)
@pytest.mark.parametrize("fault", FAULTS)
def test_one_view_that_fails_makes_the_part_an_error_that_names_it(
    world: World, fault: str, camera: str
) -> None:
    plan, reason, own = FAULTS[fault]
    verdict = judged(world, **{camera: plan})
    assert (verdict.word, verdict.reason, verdict.camera) == (Word.ERROR, reason, camera)
    assert verdict.detail.startswith(f"{camera} ERROR")
    by_camera = {view.camera: view for view in verdict.views}
    assert (by_camera[camera].word, by_camera[camera].reason) == (Word.ERROR, own)
    (other,) = set(TWO) - {camera}
    # One infer serves both: what keeps it busy with the first view makes the second late, too.
    is_held_up = fault == "late" and camera == "left"
    assert by_camera[other].word == (Word.ERROR if is_held_up else Word.OK)


@pytest.mark.parametrize("plan", [Plan(camera="silent"), Plan(infer="silent")])
def test_a_bad_view_stays_ng_though_the_other_one_is_missing(world: World, plan: Plan) -> None:
    verdict = judged(world, left=plan, right=Plan(is_bad=True))
    assert (verdict.word, verdict.camera) == (Word.NG, "right")
    assert verdict.detail.startswith("right NG; left ERROR (no ")


def test_what_a_late_view_would_have_said_goes_to_the_archive_with_the_others(world: World) -> None:
    judged(world, left=Plan(infer_ms=DEADLINE_MS + 50), right=Plan())
    world.run(200)
    assert [(late.word, late.margin) for late in world.late] == [(Word.OK, 0.0)]
    assert world.line.tally.shift["late"] == 1


def test_what_a_part_would_have_been_is_not_known_while_a_view_has_no_picture(
    world: World,
) -> None:
    judged(world, left=Plan(infer_ms=DEADLINE_MS + 50), right=Plan(camera="silent"))
    world.run(500)
    assert world.late == []


@pytest.mark.parametrize("camera", TWO)
@pytest.mark.parametrize("plan", [Plan(camera="silent"), Plan(infer="silent")])
def test_a_view_that_nobody_answers_is_unaccounted(world: World, plan: Plan, camera: str) -> None:
    judged(world, **{camera: plan})
    world.idle(8000)
    assert world.line.ledger.unanswered == 1


@pytest.mark.parametrize("camera", TWO)
@pytest.mark.parametrize("plan", [Plan(camera="double"), Plan(infer="double")])
def test_a_view_that_is_answered_twice_is_unaccounted(
    world: World, plan: Plan, camera: str
) -> None:
    judged(world, **{camera: plan})
    world.run(300)
    assert world.line.ledger.duplicates == 1


def test_two_cameras_that_give_each_other_s_name_are_unaccounted(world: World) -> None:
    """The same frame id, the same part: what tells the two apart is the camera alone."""
    seen = world.seen

    def misnamed(message: FrameReady) -> None:
        seen(msgspec.structs.replace(message, camera="left"))

    world.seen = misnamed
    verdict = judged(world)
    assert (verdict.word, verdict.reason, verdict.camera) == (
        Word.ERROR, Reason.VIEW_MISSING, "right",
    )  # fmt: skip
    assert world.line.ledger.duplicates == 1


def test_a_frame_of_a_camera_that_the_line_does_not_have_is_foreign(world: World) -> None:
    part_id = world.until_ready().part()
    message = msgspec.structs.replace(world.frame(part_id, part_id), camera="elsewhere")
    world.seen(message)
    assert world.line.ledger.foreign == 1


def test_a_second_picture_for_a_view_that_was_ok_takes_the_ok_back(world: World) -> None:
    world.view = planned(left=Plan(camera_ms=5, infer_ms=5), right=Plan(infer_ms=100))
    part_id = world.until_ready().part()
    world.run(40)
    world.seen(world.frame(part_id, part_id, "left"))
    world.run(150)
    verdict = world.verdicts[part_id].verdict
    assert (verdict.word, verdict.reason, verdict.camera) == (
        Word.ERROR, Reason.ASSOCIATION_LOST, "left",
    )  # fmt: skip


@pytest.mark.parametrize("camera", TWO)
def test_one_camera_that_dies_takes_ready_away_and_its_part_is_an_error(
    world: World, camera: str
) -> None:
    part_id = world.until_ready().part()
    world.kill(world.eyes[camera], back_ms=1500)
    world.read()
    verdict = world.verdicts[part_id].verdict
    assert (verdict.word, verdict.reason) == (Word.ERROR, Reason.VIEW_MISSING)
    assert [view.word for view in verdict.views] == [
        Word.ERROR if name == camera else Word.OK for name in TWO
    ]
    world.idle(500)
    assert not world.is_ready
    assert world.line.conditions.offline == OfflineReason.CAMERA
    assert not Status2(world.bank.number("Status2")) & Status2.CAMERA_OK
    world.until_ready()
    assert world.line.ledger.unaccounted == 0
    assert judged(world).word == Word.OK


def test_one_camera_without_pictures_twice_in_a_row_takes_ready_away(world: World) -> None:
    silent = Plan(camera="none")
    world.view = lambda part_id, camera: silent if camera == "right" and part_id < 3 else Plan()
    for _ in range(2):
        world.until_ready().part()
        world.read()
    world.idle(100)
    assert not world.is_ready
    world.until_ready()
    part_id = world.part()
    world.read()
    assert world.verdicts[part_id].verdict.word == Word.OK


def test_ready_waits_until_every_camera_has_the_recipe(world: World) -> None:
    world.until_ready()
    world.eyes["right"].refuses = True
    world.beat(Control.ENABLE | Control.EXECUTE, Command=1, CmdArg=2)
    world.run(500)
    world.beat(Control.ENABLE)
    assert world.loads[-1][1] != 0, "one camera refused it"
    assert {eye.setup for eye in world.eyes.values()} == {world.recipes[1].setup_hash}
    world.eyes["right"].refuses = False
    world.until_ready()
    world.beat(Control.ENABLE | Control.EXECUTE, Command=1, CmdArg=2)
    world.run(500)
    world.beat(Control.ENABLE)
    assert {eye.setup for eye in world.eyes.values()} == {world.recipes[2].setup_hash}
    world.until_ready()


def test_a_decision_process_that_dies_closes_the_part_with_all_its_views(world: World) -> None:
    part_id = world.until_ready().part()
    world.run(20)
    world.kill_decide()
    row = world.journal.unstored[part_id]
    assert (row.word, row.reason) == (Word.ERROR, Reason.RESTART)
    world.until_ready()
    world.run(300)
    world.idle(8000)
    assert world.unaccounted == 0


def test_ids_wrap_past_zero_with_every_view() -> None:
    with World(cameras=TWO, first_id=ID_WRAP - 1) as world:
        world.until_ready()
        seen: list[tuple[int, int]] = []
        for _ in range(4):
            world.part()
            seen.append(world.read())
        assert [acq for acq, _ in seen] == [ID_WRAP - 1, ID_WRAP, 1, 2]
        assert {word for _, word in seen} == {Word.OK}


camera_fates = st.sampled_from(
    ["good"] * 6 + ["silent", "none", "incomplete", "queue_full", "double", "then_none", "foreign"]
)
infer_fates = st.sampled_from(
    ["good"] * 6 + ["silent", "failed", "double", "nan", "other_frame", "other_setup", "map_lost"]
)
plans = st.builds(
    Plan,
    camera=camera_fates,
    infer=infer_fates,
    camera_ms=st.floats(1, 120),
    infer_ms=st.floats(1, 150),
    is_infer_first=st.booleans(),
    is_bad=st.sampled_from([False] * 4 + [True]),
)


def cleared(world: World) -> None:
    """Ready again: a person acknowledges what the ledger shows."""
    for _ in range(100):
        world.beat(Control.ENABLE | Control.CLEAR_ERROR)
        world.run(50)
        world.beat(Control.ENABLE)
        if world.is_ready:
            return
        world.run(50)
    raise AssertionError(f"not ready: {world.line.conditions}, {world.line.ledger.figures()}")


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[phase for phase in Phase if phase != Phase.shrink],
)
@given(
    st.lists(st.lists(plans, min_size=4, max_size=4), min_size=3, max_size=6),
    st.integers(0, 5),
    st.sampled_from([*FOUR, "infer", "nobody"]),
)
def test_no_part_is_ok_unless_every_view_of_it_is(
    fates: list[list[Plan]], dies_at: int, who: str
) -> None:
    """Every accepted part gets one verdict, in time; OK is checked against the truth as given."""
    with World(cameras=FOUR) as world:
        world.view = lambda part_id, camera: (
            fates[part_id - 1][FOUR.index(camera)] if part_id <= len(fates) else Plan()
        )
        for number in range(len(fates)):
            cleared(world)
            part_id = world.part()
            if number == dies_at and who != "nobody":
                world.run(10)
                world.kill(world.eyes.get(who, world.infer))
            world.read(ms=DEADLINE_MS + 100)
            verdict = world.verdicts[part_id].verdict
            assert [view.camera for view in verdict.views] == list(FOUR)
            words = [view.word for view in verdict.views]
            assert Word.NONE not in words
            assert verdict.word == max(words, key=WORDS.index)
            assert world.verdicts[part_id].at_ns <= world.opened[part_id]
            for view, plan in zip(verdict.views, fates[number], strict=True):
                if plan.is_faulty or plan.is_bad:
                    assert view.word != Word.OK, plan
        assert len(world.verdicts) == len(world.opened)
        assert world.line.ledger.pending == 0
