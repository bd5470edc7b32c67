"""What a test does with a line on virtual time, and reads from it."""

from appliance.codes import (
    CommandCode,
    Control,
    FaultCode,
    Reason,
    State,
    Word,
)
from tests.line_plans import Plan
from tests.line_world import World

ENABLE = Control.ENABLE
CLEAR, EXECUTE = Control.CLEAR_ERROR, Control.EXECUTE


def ends(world: World, plan: Plan) -> tuple[Word, Reason]:
    """One part with this plan, to its verdict."""
    world.plan = lambda part_id: plan
    part_id = world.until_ready().part()
    world.idle(400)
    verdict = world.verdicts[part_id].verdict
    return verdict.word, verdict.reason


def breach(world: World) -> int:
    """Let everything that is owed come due; the fault must be latched."""
    world.idle(15_000)
    shown = world.unaccounted
    if shown:
        assert world.bank.number("FaultCode") == FaultCode.LEDGER
        assert not world.is_ready
        world.beat(ENABLE | CLEAR)
        world.until_ready()
    return shown


def load(world: World, number: int) -> None:
    world.beat(ENABLE | EXECUTE, Command=CommandCode.LOAD_RECIPE, CmdArg=number)


def free(world: World) -> World:
    """Ready in state 8."""
    world.until_ready()
    assert world.bank.number("State") == State.CONTINUOUS_EXECUTION
    return world
