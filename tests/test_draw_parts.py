import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models.dataset import open_dataset
from tools.draw_parts import DEFECTS, SIDE_PX, draw


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tools.draw_parts", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_same_seed_draws_the_same_picture() -> None:
    picture = draw(0, "good", 3)
    assert picture.shape == (SIDE_PX, SIDE_PX)
    assert picture.dtype == np.uint8
    assert np.array_equal(picture, draw(0, "good", 3))
    assert not np.array_equal(picture, draw(0, "good", 4))
    assert not np.array_equal(picture, draw(1, "good", 3))


def test_a_plate_is_bright_with_dark_holes_on_a_dark_belt() -> None:
    mean = np.mean([draw(0, "good", number) for number in range(8)], axis=0)
    assert mean[150:170, 60:130].mean() > 120, "the plate"
    assert mean[212, 192] < 60, "the bore"
    assert mean[:20].mean() < 60, "the belt"


@pytest.mark.parametrize("kind", DEFECTS)
def test_a_defect_changes_one_place_of_its_plate_and_can_be_seen(kind: str) -> None:
    """More than noise and texture do, over an area that survives the network's input size."""
    for number in range(4):
        clean = draw(0, kind, number, is_spoilt=False).astype(np.int16)
        change = np.abs(draw(0, kind, number).astype(np.int16) - clean)
        assert 20 < np.count_nonzero(change > 15) < SIDE_PX * SIDE_PX / 20, number


def test_the_folder_is_one_that_the_training_takes(tmp_path: Path) -> None:
    done = run(str(tmp_path / "plate"), "--train", "12", "--good", "4", "--each", "4")
    assert done.returncode == 0, done.stderr
    data = open_dataset(tmp_path / "plate", seed=0)
    counts = {name: len(samples) for name, samples in data.sets().items()}
    assert counts["network_good"] + counts["limits_good"] == 12
    assert counts["limits_bad"] == 8, "half of each kind"
    assert counts["held_out"] == 4 + 8
    assert data.source == (SIDE_PX, SIDE_PX, 1)


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    done = run(str(tmp_path))
    assert done.returncode == 2
    assert "found files" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
