"""Every benchmark's folder as it lies on a disk, and pictures as cameras and people leave them."""

import pickle
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest

from appliance.errors import ConfigError
from models.dataset import Dataset, open_dataset, read_image
from models.pictures import read_mask

RNG = np.random.default_rng(0)


def draw(path: Path, shape: tuple[int, ...] = (24, 20)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), RNG.integers(0, 255, shape, np.uint8))


def draw_mask(path: Path, *, empty: bool = False, value: int = 255) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((24, 20), np.uint8)
    mask[5:9, 4:8] = 0 if empty else value
    cv2.imwrite(str(path), mask)


def sizes(data: Dataset) -> dict[str, int]:
    for one, other in combinations(data.hashes().values(), 2):
        assert not set(one) & set(other)
    return {name: len(samples) for name, samples in data.sets().items()}


def test_mvtec_in_its_own_split(tmp_path):
    root = tmp_path / "bottle"
    for index in range(12):
        draw(root / "train" / "good" / f"{index:03}.png")
    for index in range(4):
        draw(root / "test" / "good" / f"{index:03}.png")
        draw(root / "test" / "broken" / f"{index:03}.png")
        draw_mask(root / "ground_truth" / "broken" / f"{index:03}_mask.png")
    data = open_dataset(root, official=True)
    assert sizes(data) == {"network_good": 8, "limits_good": 4, "limits_bad": 0, "held_out": 8}
    assert {s.path.parent.parent.name for s in data.held_out} == {"test"}
    masks = [data.mask(sample) for sample in data.held_out]
    assert sum(int(mask.sum()) for mask in masks if mask is not None) == 4 * 16
    assert [mask is None for mask in masks] == [False] * 8  # of a good one: all 0


def test_vad_keeps_unseen_defects_apart(tmp_path):
    for index in range(12):
        draw(tmp_path / "train" / "good" / f"{index:04}.png")
        draw(tmp_path / "train" / "bad" / f"{index:04}.png")
    for kind in ("good", "bad", "bad_unseen_defects"):
        draw(tmp_path / "test" / kind / "0000.png")
    data = open_dataset(tmp_path, learn_bad=True)
    assert sizes(data) == {
        "network_good": 8, "limits_good": 4, "limits_bad": 6, "network_bad": 6, "held_out": 3
    }  # fmt: skip
    assert sorted(s.kind for s in data.held_out) == ["bad", "bad_unseen_defects", "good"]
    assert len(open_dataset(tmp_path, learn_bad=True, official=True).network_bad) == 12


def test_btad(tmp_path):
    root = tmp_path / "01"
    for index in range(8):
        draw(root / "train" / "ok" / f"{index:04}.bmp")
    draw(root / "test" / "ok" / "0100.bmp")
    draw(root / "test" / "ko" / "0200.bmp")
    draw_mask(root / "ground_truth" / "ko" / "0200.png")
    data = open_dataset(root, official=True)
    assert data.name == "btad-01"
    assert sizes(data) == {"network_good": 5, "limits_good": 3, "limits_bad": 0, "held_out": 2}
    bad = next(s for s in data.held_out if s.label)
    assert bad.kind == "ko" and data.mask(bad) is not None


def test_visa_as_published(tmp_path):
    rows = ["object,split,label,image,mask"]
    for index in range(10):
        name = f"pcb1/Data/Images/Normal/{index:04}.JPG"
        draw(tmp_path / name, (24 + index % 2, 20, 3))  # sizes differ a little, as they do there
        rows.append(f"pcb1,{'train' if index < 8 else 'test'},normal,{name},")
    name, mask = "pcb1/Data/Images/Anomaly/000.JPG", "pcb1/Data/Masks/Anomaly/000.png"
    draw(tmp_path / name, (24, 20, 3))
    draw_mask(tmp_path / mask, value=3)  # labels of defects, not 255
    rows += [f"pcb1,test,anomaly,{name},{mask}", "candle,train,normal,candle/a.JPG,"]
    table = tmp_path / "split_csv" / "1cls.csv"
    with pytest.raises(ConfigError, match=r"1cls\.csv: expected a table of object, .*got No such"):
        open_dataset(tmp_path / "pcb1")
    table.parent.mkdir()
    table.write_text("\n".join(rows))
    data = open_dataset(tmp_path / "pcb1", official=True)
    assert sizes(data) == {"network_good": 5, "limits_good": 3, "limits_bad": 0, "held_out": 3}
    assert data.pixels(data.network_good).shape == (5, *data.source)
    drawn = data.mask(next(s for s in data.held_out if s.label))
    assert drawn is not None and drawn.max() == 1
    table.write_text("object,split,label,image\n")
    with pytest.raises(ConfigError, match=r"expected the columns object, .*mask, got object"):
        open_dataset(tmp_path / "pcb1")
    table.write_text("\n".join(row for row in rows if "anomaly" not in row))
    with pytest.raises(ConfigError, match=r"rows \('test', 'anomaly'\) of pcb1, got none"):
        open_dataset(tmp_path / "pcb1")


def test_ksdd2_labels_stand_in_its_masks(tmp_path):
    for split, first, bad in (("train", 10000, 4), ("test", 20000, 2)):
        for number in range(12):
            draw(tmp_path / split / f"{first + number}.png", (24 + number % 3, 20, 3))
            shape = (24 + number % 3, 20)
            mask = np.zeros(shape, np.uint8)
            mask[3:5, 3:5] = 255 if number < bad else 0
            cv2.imwrite(str(tmp_path / split / f"{first + number}_GT.png"), mask)
    data = open_dataset(tmp_path, learn_bad=True, official=True)
    assert sizes(data) == {
        "network_good": 5, "limits_good": 3, "limits_bad": 0, "network_bad": 4, "held_out": 12
    }  # fmt: skip
    assert all(data.mask(s) is not None for s in data.network_bad)
    (tmp_path / "train" / "10003_GT.png").unlink()
    with pytest.raises(ConfigError, match=r"10003_GT\.png: expected the mask of 10003\.png"):
        open_dataset(tmp_path)


def test_sensum_folds_are_the_published_ones_where_they_lie_beside_it(tmp_path):
    root = tmp_path / "capsule"
    for number in range(12):
        draw(root / "negative" / "data" / f"{number:03}.png")
    for number in range(6):
        draw(root / "positive" / "data" / f"{number:03}.png")
        draw_mask(root / "positive" / "annotation" / f"{number:03}.png")
    held: list[str] = []
    for fold in range(3):
        data = open_dataset(root, learn_bad=True, official=True, fold=fold)
        assert "not the published one" in data.notes[0]
        assert len(data.network_bad) == 4
        held += data.hashes()["held_out"]
    assert len(held) == len(set(held)) == 18
    splits = tmp_path / "sensum_splits" / "capsule" / "1" / "test"
    splits.mkdir(parents=True)
    (splits / "neg.pckl").write_bytes(pickle.dumps([(0, True), (5, True), (300, False)]))
    (splits / "pos.pckl").write_bytes(pickle.dumps([(2, True)]))
    data = open_dataset(root, official=True, fold=1)
    assert sorted(s.path.stem for s in data.held_out) == ["000", "002", "005"]
    assert not data.notes
    (splits / "pos.pckl").write_bytes(pickle.dumps({"no": "numbers"}))
    with pytest.raises(ConfigError, match=r"pos\.pckl: expected a pickled list of \(number, bool"):
        open_dataset(root, official=True, fold=1)


def test_a_split_file_is_read_and_never_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    for number in range(4):
        draw(tmp_path / "capsule" / "negative" / "data" / f"{number:03}.png")
        draw(tmp_path / "capsule" / "positive" / "data" / f"{number:03}.png")
    splits = tmp_path / "sensum_splits" / "capsule" / "0" / "test"
    splits.mkdir(parents=True)
    for name in ("neg", "pos"):
        (splits / f"{name}.pckl").write_bytes(pickle.dumps([Trap(), (1, True)]))
    open_dataset(tmp_path / "capsule", official=True)
    assert not (tmp_path / "sprung").exists()


def test_pictures_of_one_part_stay_together(tmp_path):
    rows = ["image,part"]
    for index in range(40):
        for folder in ("good", "bad"):
            draw(tmp_path / folder / f"{folder}{index}.png")
            rows.append(f"{folder}{index},{folder}-part-{index // 4}")
    (tmp_path / "parts.csv").write_text("\n".join(rows))
    data = open_dataset(tmp_path, learn_bad=True)
    where: dict[str, set[str]] = {}
    for name, samples in data.sets().items():
        for sample in samples:
            assert sample.part
            where.setdefault(sample.part, set()).add(name)
    assert len(where) == 20
    assert all(len(sets) == 1 for sets in where.values())
    assert sizes(data) == {
        "network_good": 20, "limits_good": 12, "limits_bad": 8, "network_bad": 12, "held_out": 28
    }  # fmt: skip


def test_halves_of_test_defects_are_whole_parts(tmp_path):
    rows = ["image,tile"]
    for index in range(12):
        draw(tmp_path / "train" / "good" / f"g{index}.png")
        draw(tmp_path / "test" / "good" / f"t{index}.png")
        for kind in ("crack", "hole"):
            draw(tmp_path / "test" / kind / f"{kind}{index}.png")
            rows.append(f"{kind}{index},{index // 3}")  # a tile with both defects
    (tmp_path / "tiles.csv").write_text("\n".join(rows))
    data = open_dataset(tmp_path)
    held = {s.part for s in data.held_out if s.label}
    learnt = {s.part for s in data.limits_bad}
    assert held and learnt and not held & learnt


def test_other_sizes_are_refused_or_stretched_with_their_masks(tmp_path):
    for index in range(20):
        draw(tmp_path / "good" / f"{index}.png", (24, 20))
        draw(tmp_path / "bad" / f"{index}.png", (48, 40))
        mask = np.zeros((48, 40), np.uint8)
        mask[:24] = 255
        (tmp_path / "ground_truth" / "bad").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "ground_truth" / "bad" / f"{index}_mask.png"), mask)
    data = open_dataset(tmp_path)
    with pytest.raises(ConfigError, match=r"expected 20x24 pixels .* got 40x48"):
        data.pixels(data.limits_bad)
    data = open_dataset(tmp_path, stretch=True)
    assert data.pixels(data.limits_bad).shape == (10, 24, 20, 1)
    mask = data.mask(data.limits_bad[0])
    assert mask is not None and mask.shape == (48, 40)


def test_rgba_is_taken_where_it_is_opaque(tmp_path):
    pixels = RNG.integers(0, 255, (8, 6, 4), np.uint8)
    pixels[:, :, 3] = 255
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    assert np.array_equal(read_image(tmp_path / "a.png"), pixels[:, :, 2::-1])
    pixels[0, 0, 3] = 254
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    with pytest.raises(ConfigError, match=r"a\.png: expected an opaque picture"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("shape", [(16, 32), (16, 32, 3)])
def test_pictures_are_turned_as_their_exif_says(tmp_path, shape):
    pixels = np.zeros(shape, np.uint8)
    pixels[:8, :16] = 200  # upper left
    _, coded = cv2.imencode(".jpg", pixels)
    # One entry: tag 0x0112 (orientation), short, 6: the camera stood on its side, turn right.
    entry = bytes([8, 0, 0, 0, 1, 0, 0x12, 1, 3, 0, 1, 0, 0, 0, 6, 0, 0, 0])
    exif = b"Exif\0\0II*\0" + entry + b"\0" * 4
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    (tmp_path / "a.jpg").write_bytes(coded.tobytes()[:2] + segment + coded.tobytes()[2:])
    seen = read_image(tmp_path / "a.jpg")
    assert seen.shape[:2] == (32, 16)
    assert seen[8, 12].min() > 150 and seen[8, 3].max() < 50  # now upper right


def test_truncated_pictures_are_named(tmp_path):
    for suffix in (".png", ".jpg", ".bmp"):
        path = tmp_path / f"a{suffix}"
        draw(path, (64, 64, 3))
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(ConfigError, match=rf"a\{suffix}: expected an image, got \d+ bytes"):
            read_image(path)


def test_one_image_is_not_enough(tmp_path):
    draw(tmp_path / "good" / "only.png")
    with pytest.raises(ConfigError, match="expected at least 4 good images, got 1"):
        open_dataset(tmp_path)


def test_a_colour_mask_counts_where_any_channel_does(tmp_path):
    mask = np.zeros((6, 5, 3), np.uint8)
    mask[2, 3, 1] = 9
    cv2.imwrite(str(tmp_path / "m.png"), mask)
    read = read_mask(tmp_path / "m.png", (6, 5), Path("a.png"))
    assert read.sum() == read[2, 3] == 1
