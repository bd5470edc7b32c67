"""Loaders: four disjoint sets from every layout, one clear line for every bad input."""

import shutil
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest

from appliance.errors import ConfigError
from models.dataset import Dataset, elpv, open_dataset, read_image


def write_images(
    folder: Path, count: int, seed: int = 0, shape: tuple[int, ...] = (24, 20)
) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng([seed, *folder.name.encode()])
    for index in range(count):
        cv2.imwrite(str(folder / f"{index:03d}.png"), rng.integers(0, 255, shape, np.uint8))


@pytest.fixture
def mvtec(tmp_path: Path) -> Path:
    root = tmp_path / "screws"
    write_images(root / "train" / "good", 22)
    for kind, count in (("good", 6), ("bent", 5), ("scratch", 4)):
        write_images(root / "test" / kind, count, seed=1)
    return root


def assert_disjoint(data: Dataset) -> None:
    hashes = data.hashes()
    for one, other in combinations(hashes, 2):
        assert not set(hashes[one]) & set(hashes[other]), (one, other)
    assert not any(sample.label for sample in data.network_good)


def test_mvtec_layout_takes_half_of_each_defect_for_the_limits(mvtec):
    data = open_dataset(mvtec)
    assert_disjoint(data)
    sizes = {name: len(samples) for name, samples in data.sets().items()}
    assert sizes == {"network_good": 15, "limits_good": 7, "limits_bad": 4, "held_out": 11}
    assert sorted(s.kind for s in data.limits_bad) == ["bent", "bent", "scratch", "scratch"]
    assert {s.path.parent.name for s in data.held_out} == {"good", "bent", "scratch"}
    assert data.source == (24, 20, 1)
    assert "not held out" in data.notes[0]


def test_labelled_defects_of_train_leave_the_test_set_whole(mvtec):
    write_images(mvtec / "train" / "bent", 3, seed=2)
    data = open_dataset(mvtec)
    assert_disjoint(data)
    assert len(data.limits_bad) == 3
    assert len(data.held_out) == 15
    assert not data.notes


def test_plain_folders_and_colour(tmp_path):
    write_images(tmp_path / "good", 20, shape=(24, 20, 3))
    write_images(tmp_path / "bad", 6, shape=(24, 20, 3))
    data = open_dataset(tmp_path)
    assert_disjoint(data)
    sizes = {name: len(samples) for name, samples in data.sets().items()}
    assert sizes == {"network_good": 10, "limits_good": 5, "limits_bad": 3, "held_out": 8}
    sample = data.held_out[0]
    stored = cv2.imread(str(sample.path))
    assert stored is not None
    assert np.array_equal(data.pixels([sample])[0], stored[:, :, ::-1])


def test_the_seed_and_nothing_else_decides_the_split(mvtec):
    assert open_dataset(mvtec, 3).hashes() == open_dataset(mvtec, 3).hashes()
    assert open_dataset(mvtec, 3).hashes() != open_dataset(mvtec, 4).hashes()


def test_a_double_of_a_held_out_image_is_not_learnt_from(mvtec):
    held = mvtec / "test" / "good" / "000.png"
    (mvtec / "train" / "good" / "double.png").write_bytes(held.read_bytes())
    data = open_dataset(mvtec)
    assert_disjoint(data)
    assert held in {sample.path for sample in data.held_out}
    assert any("byte for byte" in note for note in data.notes)


def test_an_image_cannot_be_good_and_bad(mvtec):
    held = mvtec / "test" / "good" / "000.png"
    (mvtec / "test" / "bent" / "zzz.png").write_bytes(held.read_bytes())
    with pytest.raises(ConfigError, match="expected one label per image, got both labels"):
        open_dataset(mvtec)


def test_elpv_split_is_the_demos():
    pytest.importorskip("elpv_dataset")
    data = elpv(0)
    assert_disjoint(data)
    sizes = {name: len(samples) for name, samples in data.sets().items()}
    assert sizes == {
        "network_good": 300, "limits_good": 140, "limits_bad": 150, "held_out": 311
    }  # fmt: skip
    assert sum(sample.label for sample in data.held_out) == 163
    assert data.source == (300, 300, 1)
    assert "CC BY-NC-SA 4.0" in data.notes[0]
    assert data.notes[1].startswith("173 cells")


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: None, r"expected a folder with train/good .*, got no folder"),
        (lambda root: root.mkdir(), r"expected train/good .*, got an empty folder"),
        (lambda root: (root / "images").mkdir(parents=True), r"expected train/good .*got images"),
        (lambda root: (root / "good").mkdir(parents=True), r"good: expected images .*, got none"),
        (
            lambda root: write_images(root / "train" / "good", 4),
            r"test/good: expected a folder of images, got no folder",
        ),
        (lambda root: write_images(root / "good", 2), r"at least 4 good images, got 2"),
    ],
)
def test_wrong_layouts_say_what_was_expected_and_what_came(tmp_path, prepare, message):
    prepare(tmp_path / "data")
    with pytest.raises(ConfigError, match=message):
        open_dataset(tmp_path / "data")


def test_doubles_are_not_counted_as_good_images(tmp_path):
    write_images(tmp_path / "good", 2)
    for number in range(4):
        shutil.copy(next((tmp_path / "good").iterdir()), tmp_path / "good" / f"again{number}.png")
    expected = "at least 4 good images, got 2, and 4 files that equal another one"
    with pytest.raises(ConfigError, match=expected):
        open_dataset(tmp_path)


def test_unusable_images_are_named(tmp_path, mvtec):
    broken = tmp_path / "broken.png"
    for content in (b"", b"not an image"):
        broken.write_bytes(content)
        with pytest.raises(ConfigError, match=rf"broken\.png: .* an image, got {len(content)}"):
            read_image(broken)
    cv2.imwrite(str(broken), np.zeros((4, 4), np.uint16))
    with pytest.raises(ConfigError, match="expected 8 bits per channel, got uint16"):
        read_image(broken)
    cv2.imwrite(str(broken), np.zeros((4, 4, 4), np.uint8))
    with pytest.raises(ConfigError, match="expected an opaque picture, got one with transparent"):
        read_image(broken)
    data = open_dataset(mvtec)
    cv2.imwrite(str(data.held_out[0].path), np.zeros((10, 10), np.uint8))
    with pytest.raises(ConfigError, match=r"expected 20x24 pixels and 1 channel.*got 10x10 and 1"):
        data.pixels(data.held_out)
