"""Several infer processes on virtual time: Ready takes all, and a dead one costs its own part."""

from collections.abc import Iterator

import pytest

from appliance.codes import FaultCode, OfflineReason, Reason, Word
from tests.line_plans import Plan
from tests.line_steps import breach, load
from tests.line_world import World


@pytest.fixture
def world() -> Iterator[World]:
    with World(workers=2) as made:
        yield made


def test_both_take_the_recipe_before_the_line_is_ready(world: World) -> None:
    first = world.until_ready().recipes[1].setup_hash
    assert [infer.setup for infer in world.infers] == [first, first]
    load(world, 2)
    world.idle(1000)
    assert world.bank.number("RecipeId") == 2
    assert {infer.setup for infer in world.infers} == {world.recipes[2].setup_hash}
    world.until_ready().part()
    assert world.read() == (1, Word.OK)


def test_a_worker_that_refuses_keeps_the_old_recipe_for_all(world: World) -> None:
    old = world.until_ready().recipes[1].setup_hash
    world.infers[1].refuses = True
    load(world, 2)
    world.idle(1000)
    assert world.bank.number("RecipeId") == 1
    assert {infer.setup for infer in world.infers} == {old}


@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_that_dies_costs_the_part_in_its_hands(world: World, victim: int) -> None:
    world.plan = lambda part_id: Plan(infer_ms=150)
    part_id = world.until_ready().part()
    world.run(50)
    holder = world.frame_ids["top"] % 2
    world.kill(world.infers[victim], back_ms=2000)
    world.idle(700)
    verdict = world.verdicts[part_id].verdict
    assert verdict.word is (Word.ERROR if victim == holder else Word.OK)
    assert (verdict.reason is Reason.LATE) == (victim == holder)
    assert not world.is_ready, "half of the engine is missing"
    shown = world.bank.number("FaultCode"), world.bank.number("OfflineReason")
    assert shown == (FaultCode.ENGINE_FAILED, OfflineReason.ENGINE)
    world.read()
    world.idle(12_000)
    assert world.is_ready
    assert world.infers[victim].setup == world.recipes[1].setup_hash
    assert breach(world) == 0, "what a dead worker owed is not a lost message"
