"""Who commands the line: the PLC, a person who took control, a slow bus. On virtual time."""

from collections.abc import Iterator

import pytest

from appliance.codes import (
    CommandCode,
    CommandError,
    Control,
    OfflineReason,
    State,
    Status1,
    Status2,
    Word,
)
from appliance.messages import Command
from tests.line_world import World

ENABLE, EXECUTE = Control.ENABLE, Control.EXECUTE
ANNA, BERT, MES = "anna", "bert", "opcua:mes"


@pytest.fixture
def world() -> Iterator[World]:
    with World() as world:
        yield world.until_ready()


def ask(world: World, name: str, argument: str = "", by: str = ANNA) -> tuple[CommandError, str]:
    """A command whose answer has come by the time that two seconds have passed."""
    answers: list[tuple[CommandError, str]] = []
    command = Command(id="1", name=name, argument=argument, by=by)
    world.line.asked(command, world.now, lambda code, detail: answers.append((code, detail)))
    for _ in range(20):
        if answers:
            break
        world.run(100)
        world.beat()
    assert len(answers) == 1
    return answers[0]


def offline(world: World) -> int:
    return world.bank.number("OfflineReason")


def test_while_a_person_has_control_no_part_and_no_plc_command_is_taken(world: World) -> None:
    assert ask(world, "take_control")[0] == CommandError.DONE
    assert not world.is_ready
    assert offline(world) == OfflineReason.MAINTENANCE
    assert world.bank.number("State") == State.INITIALIZED
    status2 = Status2(world.bank.number("Status2"))
    assert Status2.MAINTENANCE in status2 and Status2.SAFE_STATE in status2
    world.beat(ENABLE | Control.TRIGGER)
    assert world.has(Status1.ACQ_ERROR) and not world.has(Status1.TRIGGER_ACK)
    world.beat(ENABLE)
    world.beat(ENABLE | EXECUTE, Command=CommandCode.LOAD_RECIPE, CmdArg=2)
    assert world.bank.number("CmdResult") == CommandError.NOT_IN_CONTROL
    assert world.loads == []
    assert ask(world, "load_recipe", "2", MES)[0] == CommandError.NOT_IN_CONTROL


def test_a_part_under_way_ends_with_its_verdict_when_a_person_takes_control(world: World) -> None:
    part_id = world.part()
    assert ask(world, "take_control")[0] == CommandError.DONE
    world.idle(500)
    assert world.verdicts[part_id].verdict.word == Word.OK
    assert world.unaccounted == 0


def test_control_belongs_to_one_person_and_a_bus_is_none(world: World) -> None:
    assert ask(world, "take_control", by=MES)[0] == CommandError.NOT_IN_CONTROL
    assert ask(world, "take_control")[0] == CommandError.DONE
    assert ask(world, "take_control")[0] == CommandError.DONE
    code, detail = ask(world, "take_control", by=BERT)
    assert code == CommandError.NOT_IN_CONTROL
    assert "anna" in detail


def test_after_release_camera_and_network_confirm_the_recipe_before_ready(world: World) -> None:
    ask(world, "take_control")
    assert ask(world, "load_recipe", "2")[0] == CommandError.DONE
    assert ask(world, "release_control")[0] == CommandError.DONE
    assert offline(world) == OfflineReason.RECIPE_CHANGING
    world.until_ready()
    assert world.bank.number("RecipeId") == 2
    world.part()
    assert world.read()[1] == Word.OK


def test_a_job_of_another_bus_needs_trigger_ready_and_is_a_part_like_any(world: World) -> None:
    code, detail = ask(world, "start_job", "77", MES)
    assert code == CommandError.DONE
    assert int(detail) in world.opened
    assert ask(world, "start_job", "78", MES)[0] == CommandError.WRONG_STATE
    _, word = world.read()
    assert word == Word.OK
    assert world.bank.number("PartTagEcho") == 77
    assert world.unaccounted == 0


def test_a_job_of_another_bus_waits_until_the_plc_has_read_the_id_of_its_own(world: World) -> None:
    """Between the PLC's write and its read AcqID may not become another part's."""
    held = ENABLE | Control.BUFFER_RESULTS
    world.beat(held)
    world.beat(held | Control.TRIGGER, PartTag=5)
    own = world.bank.number("AcqID")
    assert world.is_ready and world.has(Status1.TRIGGER_ACK)
    code, detail = ask(world, "start_job", "77", MES)
    assert code == CommandError.WRONG_STATE
    assert "PLC" in detail
    assert world.bank.number("AcqID") == own
    world.beat(held)
    assert ask(world, "start_job", "77", MES)[0] == CommandError.DONE


def test_halt_holds_until_reset(world: World) -> None:
    assert ask(world, "halt", by=MES)[0] == CommandError.DONE
    assert world.bank.number("State") == State.HALTED
    world.idle(1000)
    assert not world.is_ready
    assert offline(world) == OfflineReason.STOPPED_BY_PERSON
    assert ask(world, "reset", by=MES)[0] == CommandError.DONE
    world.until_ready()


@pytest.mark.parametrize("number", [1, 2])
def test_a_recipe_is_loaded_by_its_hash(world: World, number: int) -> None:
    wanted = world.recipes[number].hash32
    world.beat(ENABLE | EXECUTE, Command=CommandCode.LOAD_RECIPE_BY_HASH, CmdArg=wanted)
    for _ in range(50):
        world.run(100)
        world.beat()
        if world.has(Status1.CMD_DONE):
            break
    assert world.bank.number("CmdResult") == CommandError.DONE
    assert world.bank.number("RecipeHash32") == wanted


@pytest.mark.parametrize(
    ("name", "argument", "expected"),
    [
        ("dance", "", "load_recipe"),
        ("load_recipe", "two", "a number"),
        ("load_recipe", "9" * 5000, "a number"),
        ("start_job", "9" * 5000, "a part tag"),
        ("drift", "9" * 5000, "a level"),
        ("start_job", "\u0662", "a part tag"),
        ("start_job", "-1", "a part tag"),
        ("start_job", "4294967296", "a part tag"),
    ],
)
def test_nonsense_is_refused_in_one_sentence(
    world: World, name: str, argument: str, expected: str
) -> None:
    code, detail = ask(world, name, argument)
    assert code == CommandError.UNKNOWN_COMMAND
    assert expected in detail and "got" in detail and len(detail) < 400
