"""Two cameras on one line of real processes: every part has both views, the worst one decides."""

import json
from collections.abc import Iterator

import numpy as np
import pytest
from typer.testing import CliRunner

from appliance.__main__ import app
from appliance.archive import image_path, read_image, view_path
from appliance.codes import Reason, Word
from tests.rig import Ear, Rig, number_of, numbered
from tests.waiting import until

PICTURES = 12
DROPPED = 7
"""The second camera loses every seventh picture."""
T2 = 100.5 * 255 / 256
"""Picture 100 is good and picture 101 bad: margins are means of the pixels."""


def side(number: int) -> np.ndarray:
    """What the second camera sees: another number than the first, and every fourth part is bad."""
    return numbered(number + 20 if number % 4 else 200 + number)


@pytest.fixture(scope="module")
def line() -> Iterator[tuple[Rig, Ear]]:
    camera = {"record": "all"}
    changes = {"deadline_ms": 3000, "record": {"images": "ng", "min_free_gb": 0.0}}
    limits, dropping = (T2, T2), {"faults": {"drop_every": DROPPED}}
    others = {"side": side}
    with Rig(changes, camera, PICTURES, limits, others=others, special={"side": dropping}) as rig:
        rig.start()
        with rig.ear("camera:top", "camera:side", "infer:0", "decide", "record") as ear:
            until("Ready", lambda: ear.is_ready, 60)
            yield rig, ear


def test_every_part_has_both_views_and_the_worst_decides(line: tuple[Rig, Ear]) -> None:
    rig, ear = line
    _, parts = rig.drive(parts=PICTURES, first_tag=1)
    until("all rows", lambda: ear.has_rows(PICTURES), 30)
    assert ear.unaccounted == 0
    rows = {row.verdict.part_tag: row for row in rig.rows()}
    for part in parts:
        number = part.tag - 1
        verdict = rows[part.tag].verdict
        top, beside = verdict.views
        assert (top.camera, beside.camera) == ("top", "side")
        if part.tag == DROPPED:
            assert (part.word, part.reason) == (Word.ERROR, Reason.VIEW_MISSING)
            assert (top.word, beside.reason) == (Word.OK, Reason.NO_IMAGE)
            assert verdict.detail.startswith("side ERROR (no picture within ")
            continue
        assert top.margin is not None and beside.margin is not None
        # Neither another part's picture nor the other camera's.
        assert number_of(top.margin) == number
        assert number_of(beside.margin) == (number + 20 if number % 4 else 200 + number)
        assert top.word == Word.OK
        is_bad = number % 4 == 0
        assert beside.word == (Word.NG if is_bad else Word.OK)
        assert (verdict.word, part.word) == (beside.word, beside.word)
        assert part.is_accepted != is_bad
        if is_bad:
            assert (verdict.camera, verdict.detail) == ("side", "side NG")
            assert verdict.reasons[0].startswith("side: ")
            path = image_path(verdict.part_id, verdict.opened_utc_ns)
            assert rows[part.tag].image == path
            assert np.array_equal(read_image(rig.config.data_dir / path), side(number))
            of_top = rig.config.data_dir / view_path(path, "top")
            assert np.array_equal(read_image(of_top), numbered(number))


def test_a_camera_that_dies_takes_ready_away_and_the_line_comes_back(
    line: tuple[Rig, Ear],
) -> None:
    rig, ear = line
    before = len(rig.rows())
    old = rig.kill("side")
    until("not Ready", lambda: not ear.is_ready, 20)
    until("another camera process", lambda: rig.pid("side") != old, 20)
    until("Ready again", lambda: ear.is_ready, 60)
    _, parts = rig.drive(parts=4, first_tag=2)
    assert [part.word for part in parts] == [Word.OK, Word.OK, Word.OK, Word.NG]
    until("all rows", lambda: ear.has_rows(before + 4), 30)
    assert ear.unaccounted == 0


def test_the_recording_gives_the_same_verdicts_with_every_view(line: tuple[Rig, Ear]) -> None:
    rig, _ = line
    assert rig.stop() == 0
    (path,) = sorted(rig.config.recordings_dir.iterdir())
    command = ["replay", str(path), "--json", "--config", str(rig.config_path)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["replay"]
    assert found["compared"] == found["equal"] == len(rig.rows())
    assert found["lost_messages"] == found["lost_pictures"] == 0
