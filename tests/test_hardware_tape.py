"""A line with a light barrier once more, from its tape."""

from pathlib import Path

import msgspec
import pytest

from appliance.codes import (
    Reason,
)
from appliance.comparison import compare
from appliance.deck import SCHEMAS
from appliance.deck_writer import about_recording
from appliance.messages import PartOpened, Taped
from appliance.recording import TAPE, Entry, Recording, SegmentWriter
from appliance.replay_infer import Answer, Engines, Recipes
from appliance.replay_stage import Pair, Stage, Told
from appliance.replay_tape import read
from tests.hardware_belt import TWO, Belt, ready
from tests.line_plans import MS, Plan
from tests.line_world import World


def replayed(world: World, taped: list[Taped], folder: Path) -> list[Pair | Told]:
    """What the tape of this line comes to, through a recording."""
    segment = SegmentWriter(folder / "000001.ok.mcap", about_recording(world.config), SCHEMAS)
    for told in taped:
        topic = TAPE + told.topic
        segment.add(Entry(topic, told.sequence, told.at_ns, told.sequence, told.data))
    segment.finish()
    recording, engines = Recording(folder), Engines(world.config)
    stage = Stage(recording, world.cameras, engines, is_what_if=False)
    recipes = Recipes(world.recipes[1], world.recipes[1])
    heard = read(recording)
    answers = [
        Answer(one, recipes if isinstance(one.message, PartOpened) else None) for one in heard
    ]
    engines.close()
    return [made for answer in answers if (made := stage.take(answer)) is not None]


UNPAIRED = {
    "a step after a picture": [("left", 0), ("step", 0)],
    "a picture after the step": [("step", 0), ("left", 25)],
    "an older picture after a picture": [("left", 0), ("right", 30)],
    "no picture after the step": [("step", 0), ("none", 0)],
    "all": [("right", 20), ("step", 0), ("left", 0)],
}
"""What comes of a part, one after the other, and how old a picture is then, in ms."""


@pytest.mark.parametrize("case", UNPAIRED)
def test_a_part_of_which_not_all_came_is_replayed_with_its_tag_and_its_clock(
    case: str, tmp_path: Path
) -> None:
    taped: list[Taped] = []

    def take(told: Taped) -> bool:
        taped.append(told)
        return True

    with World(trigger="hardware", cameras=TWO, tape=take) as world:
        belt = Belt(world)
        world.run(1000)
        ready(belt)
        number = next(belt.numbers)
        world.plans[number] = Plan(infer="silent")
        for what, old_ms in UNPAIRED[case]:
            if what == "step":
                belt.step(number)
            elif what == "none":
                world.frame_ids["left"] += 1
                world.no_frame(0, Reason.INCOMPLETE_IMAGE, "left")
            else:
                message = world.frame(0, number, what)
                message = msgspec.structs.replace(message, age_ns=old_ms * MS)
                world.send_frame(message, world.plans[number])
            world.run(12)
        world.run(1000)
        (shown,) = world.verdicts.values()
        has_step = any(what == "step" for what, _ in UNPAIRED[case])
        assert (shown.verdict.part_tag, shown.verdict.is_tag_known) == (number * has_step, has_step)
        made = replayed(world, taped, tmp_path)
    pairs = [pair for pair in made if isinstance(pair, Pair)]
    (pair,) = pairs
    assert pair.replayed is not None
    assert compare(pair.recorded, pair.replayed, 0.0).differences == ()
    told = [words for words in made if isinstance(words, Told)]
    assert told
    for words in told:
        assert words.then == words.now
