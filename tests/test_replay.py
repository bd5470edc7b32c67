"""Replay of recordings that were made without a line: stages side by side, several recordings."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from appliance.codes import Word
from appliance.errors import ArtefactError
from appliance.messages import PartOpened, Scored
from appliance.recipe import load_recipe
from appliance.recording import Recording
from appliance.replay import Player, WhatIf
from appliance.replay_command import Options, play_one
from appliance.replay_infer import Engines, Infer, Recipes
from appliance.replay_report import Report
from appliance.replay_stage import Pair
from appliance.replay_tape import ahead, read
from tests.recorded_world import T2, Recorded, part, replayed

PARTS = 30


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    made = Recorded(tmp_path_factory.mktemp("recorded"))
    for number in range(2):
        made.record(f"r{number}", range(PARTS * number, PARTS * (number + 1)))
    return made


def report(world: Recorded, *names: str) -> Report:
    """Of these recordings, with one set of engines."""
    total, engines = Report(), Engines(world.config)
    options = Options(config=str(world.config_path))
    for name in names:
        path = world.config.recordings_dir / name
        total.merge(play_one(path, options, world.config, engines))
    engines.close()
    return total


def test_every_word_comes_back_and_the_engine_is_kept_between_recordings(world: Recorded) -> None:
    both = report(world, "r0", "r1")
    assert both.compared == both.equal == 2 * PARTS
    assert {verdict.word for verdict in both.verdicts} == {Word.OK, Word.UNCERTAIN, Word.NG}
    assert both.largest_map_difference == both.largest_margin_difference == 0.0
    one, other = report(world, "r0"), report(world, "r1")
    one.merge(other)
    for timed in (one, both):
        timed.seconds = timed.engine_seconds = 0.0
        timed.verdicts = [verdict for verdict in timed.verdicts if verdict.part_id < 0]
    assert one == both, "who played which recording does not show"


def test_the_first_score_of_all_may_stand_before_its_part(world: Recorded) -> None:
    """In free run decide may hear of the score first; nothing was opened then."""
    recipe = load_recipe(world.config, "net/1")
    tape = list(read(Recording(world.config.recordings_dir / "r0")))
    kinds = [type(heard.message) for heard in tape]
    tape.insert(0, tape.pop(kinds.index(Scored)))
    assert kinds.index(PartOpened) == 0
    engines = Engines(world.config)
    scores = [heard for heard in tape if type(heard.message) is Scored]
    whole, alone = (
        list(Infer(engines, lambda opened: Recipes(recipe, recipe)).answers(heard))
        for heard in (tape, scores)
    )
    engines.close()
    assert [answer.heard.entry for answer in whole] == [heard.entry for heard in tape]
    assert not any(answer.is_blind for answer in whole)
    assert all(answer.is_blind for answer in alone), "of scores alone nobody knows the recipe"


def test_a_recipe_that_is_not_there_is_an_error_of_the_caller(world: Recorded) -> None:
    bundle = world.config.bundles_dir / "net" / "segments.png"
    data = bundle.read_bytes()
    bundle.write_bytes(data + b"x")
    try:
        with pytest.raises(ArtefactError, match=r"segments\.png"):
            report(world, "r0")
    finally:
        bundle.write_bytes(data)
    assert report(world, "r0").equal == PARTS


def test_who_looks_at_the_first_part_alone_leaves_no_thread_behind(world: Recorded) -> None:
    engines = Engines(world.config)
    what_if = WhatIf(load_recipe(world.config, "net/2"))
    recording = Recording(world.config.recordings_dir / "r0")
    parts = Player(recording, world.config, engines, what_if).play()
    first = next(iter(parts))
    assert isinstance(first, Pair) and first.recorded.part_id == 1
    parts.close()  # pyright: ignore[reportAttributeAccessIssue]
    engines.close()
    assert not [t.name for t in threading.enumerate() if t.name.startswith(("ahead", "book"))]


def test_a_lower_limit_flips_what_lies_between(world: Recorded) -> None:
    options = Options(config=str(world.config_path), recipe="net/2")
    engines = Engines(world.config)
    found = play_one(world.config.recordings_dir / "r0", options, world.config, engines)
    engines.close()
    between = [v.part_id for v in found.recorded if v.margin and T2 - 10 <= v.margin < T2]
    assert [flip.part_id for flip in found.flips] == between != []


def test_a_damaged_picture_is_refused_or_left_out_and_counted(
    world: Recorded, tmp_path: Path
) -> None:
    shutil.copytree(world.config.recordings_dir / "r0", tmp_path / "r0")
    (segment,) = (tmp_path / "r0").iterdir()
    data = bytearray(segment.read_bytes())
    pixels = part(7).tobytes()
    data[data.index(pixels)] ^= 1
    segment.write_bytes(data)
    engines = Engines(world.config)
    options = Options(config=str(world.config_path))
    with pytest.raises(ArtefactError, match="crc"):
        play_one(tmp_path / "r0", options, world.config, engines)
    options = Options(config=str(world.config_path), is_partial=True)
    found = play_one(tmp_path / "r0", options, world.config, engines)
    engines.close()
    assert found.equal == found.compared == PARTS - 1
    assert (found.lost_pictures, found.not_compared) == (1, {"no picture": 1})


def test_a_video_is_judged_frame_by_frame(world: Recorded, tmp_path: Path) -> None:
    path = tmp_path / "belt.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    levels = (70, 90, 120, 150, 70, 150)
    for level in levels:
        writer.write(np.full((64, 96, 3), level, np.uint8))
    writer.release()
    code, answer, errors = replayed(world.config_path, str(path), "--recipe", "net/1")
    assert code == 0, errors
    assert (answer["parts"], answer["error"]) == (len(levels), 0)
    assert (answer["ok"], answer["uncertain"], answer["ng"]) == (3, 1, 2)
    (tmp_path / "no.avi").write_bytes(b"no video")
    code, _, errors = replayed(world.config_path, str(tmp_path / "no.avi"), "--recipe", "net/1")
    assert code == 78 and "expected a video" in errors


def test_what_a_thread_raises_is_raised_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("three")

    taken: list[int] = []
    with pytest.raises(ValueError, match="three"):
        taken.extend(ahead(items(), 1))
    assert taken == [1, 2]
    assert [next(iter(ahead(items(), depth))) for depth in (1, 5)] == [1, 1]
