"""The line on virtual time: one recipe after the other."""

from collections.abc import Iterator

import msgspec
import pytest

from appliance.codes import (
    CommandCode,
    CommandError,
    Control,
    OfflineReason,
    Reason,
    Status1,
    Status2,
    Word,
)
from tests.line_plans import Plan, loaded
from tests.line_steps import breach, load
from tests.line_world import World

ENABLE, TRIGGER, BUFFER = Control.ENABLE, Control.TRIGGER, Control.BUFFER_RESULTS
EXECUTE = Control.EXECUTE


@pytest.fixture
def world() -> Iterator[World]:
    with World() as made:
        yield made


def test_recipe_change_waits_for_open_parts_and_holds_ready(world: World) -> None:
    world.plan = lambda part_id: Plan(infer_ms=150)
    first = world.until_ready().part()
    load(world, 2)
    world.run(30)
    world.beat()
    assert world.has(Status1.CMD_EXECUTING)
    assert world.bank.number("OfflineReason") == OfflineReason.RECIPE_CHANGING
    world.beat(ENABLE | EXECUTE | TRIGGER)
    assert len(world.opened) == 1
    assert world.has(Status1.ACQ_ERROR)
    assert world.read(control=ENABLE | EXECUTE) == (first, Word.OK)
    world.idle(1000)
    assert world.has(Status1.CMD_DONE)
    assert world.bank.number("CmdResult") == 0
    assert world.bank.number("RecipeId") == 2
    assert world.camera.setup == world.infer.setup == world.recipes[2].setup_hash
    world.beat(ENABLE)
    world.until_ready().part()
    assert world.read()[1] == Word.OK
    assert world.verdicts[2].verdict.recipe == "other/1"
    assert breach(world) == 0


@pytest.mark.parametrize("by_hash", [False, True])
def test_ready_falls_in_the_turn_of_the_order_while_files_are_still_read(
    world: World, by_hash: bool
) -> None:
    """A PLC may wait for TriggerReady alone: the next part is the next product's."""
    world.read_ms = 700
    world.until_ready()
    if by_hash:
        argument = world.recipes[2].hash32
        world.beat(ENABLE | EXECUTE, Command=CommandCode.LOAD_RECIPE_BY_HASH, CmdArg=argument)
    else:
        load(world, 2)
    for _ in range(6):
        assert not world.is_ready
        assert world.bank.number("OfflineReason") == OfflineReason.RECIPE_CHANGING
        assert world.bank.number("RecipeId") == 1
        world.idle(100)
    world.beat(ENABLE | EXECUTE | TRIGGER)
    assert world.opened == {}
    world.until_ready().part()
    assert world.read()[1] == Word.OK
    assert world.verdicts[1].verdict.recipe == "other/1"


def test_ready_is_back_at_once_after_an_order_that_nobody_can_follow(world: World) -> None:
    world.until_ready()
    load(world, 9)
    assert world.bank.number("CmdResult") == CommandError.UNKNOWN_PRODUCT
    assert world.is_ready


@pytest.mark.parametrize("victim", ["camera", "infer"])
def test_a_refused_recipe_leaves_the_old_one(world: World, victim: str) -> None:
    world.until_ready()
    getattr(world, victim).refuses = True
    load(world, 2)
    world.idle(1000)
    assert world.has(Status1.CMD_DONE)
    assert Status2.CMD_FAILED in Status2(world.bank.number("Status2"))
    assert world.bank.number("CmdResult") == CommandError.REFUSED_ARTEFACT
    assert world.bank.number("RecipeId") == 1
    world.beat(ENABLE)
    world.until_ready().part()
    assert world.read()[1] == Word.OK


def test_a_silent_process_times_the_change_out(world: World) -> None:
    world.until_ready()
    world.infer.is_alive = False
    load(world, 2)
    world.idle(61_000)
    assert world.bank.number("CmdResult") == CommandError.TIMED_OUT
    assert world.bank.number("RecipeId") == 1


def test_no_recipe_comes_into_force_after_the_plc_was_told_that_the_old_one_stays(
    world: World,
) -> None:
    """Reading and preparing take their time one after the other; the order's minute is one."""
    world.until_ready()
    world.read_ms = 50_000
    world.infer.is_alive = False
    load(world, 2)
    world.idle(61_000)
    assert world.bank.number("CmdResult") == CommandError.TIMED_OUT
    world.infer.is_alive = True
    world.until_ready()
    world.idle(60_000)
    assert world.bank.number("RecipeId") == 1
    world.part()
    world.read()
    assert {shown.verdict.recipe for shown in world.verdicts.values()} == {"cell/1"}


def test_infer_restarted_during_the_change(world: World) -> None:
    world.until_ready()
    load(world, 2)
    world.run(30)
    world.kill(world.infer)
    world.idle(3000)
    assert world.bank.number("CmdResult") == 0
    assert world.infer.setup == world.recipes[2].setup_hash
    assert world.is_ready


def test_a_second_change_during_the_first_is_busy(world: World) -> None:
    world.recipes[3] = loaded("third")
    world.until_ready()
    load(world, 2)
    world.run(25)
    answers: list[CommandError] = []
    world.line.product.change(
        world.recipes[3], 3, world.now, world.now, lambda code, _: answers.append(code)
    )
    assert answers == [CommandError.BUSY]
    world.idle(1000)
    assert world.bank.number("RecipeId") == 2


def test_an_unknown_product_fails_at_once_and_stops_nothing(world: World) -> None:
    world.until_ready()
    load(world, 9)
    assert world.bank.number("CmdResult") == CommandError.UNKNOWN_PRODUCT
    assert world.is_ready


def test_limits_alone_change_at_once_for_parts_opened_afterwards(world: World) -> None:
    world.recipes[2] = loaded("cell", t1=-2.0, t2=-1.0, version=2)
    assert world.recipes[2].setup_hash == world.recipes[1].setup_hash
    control = ENABLE | BUFFER
    world.until_ready(control)
    first = world.part(control)
    world.run(1)
    world.line.product.change(world.recipes[2], 2, world.now, world.now, lambda *_: None)
    assert world.is_ready
    second = world.part(control)
    world.idle(300)
    shown = [world.verdicts[part].verdict for part in (first, second)]
    assert [(v.word, v.t2, v.recipe) for v in shown] == [
        (Word.OK, 2.0, "cell/1"),
        (Word.NG, -1.0, "cell/2"),
    ]
    assert world.bank.number("RecipeHash32") == world.recipes[2].hash32


def test_a_stale_score_after_a_recipe_change_is_no_verdict(world: World) -> None:
    world.plan = lambda part_id: Plan(infer="silent")
    world.until_ready().part()
    frame = world.line.book._open[1].only.frame
    world.run(20)
    frame = world.line.book._open[1].only.frame
    assert frame is not None
    score = world.score_of(frame)
    world.read()
    load(world, 2)
    world.idle(1000)
    world.beat(ENABLE)
    world.until_ready().part()
    world.run(20)
    world.scored(msgspec.structs.replace(score, part_id=2))
    world.run(5)
    verdict = world.verdicts[2].verdict
    assert (verdict.word, verdict.reason) == (Word.ERROR, Reason.ASSOCIATION_LOST)


def test_a_frame_of_another_set_up_is_no_picture(world: World) -> None:
    world.until_ready()
    world.camera.setup = "another"
    part_id = world.part()
    world.run(20)
    assert world.verdicts[part_id].verdict.reason == Reason.WRONG_RECIPE
