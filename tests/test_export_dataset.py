"""Labels and archived pictures become a data set that training loads."""

import csv
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from appliance.__main__ import app
from appliance.archive import read_image
from appliance.audit import AuditJournal
from appliance.codes import Reason, Word
from appliance.config import load_config
from appliance.errors import ConfigError
from appliance.messages import ViewResult
from appliance.store import Store
from calibration.export_dataset import share_of
from calibration.opinions import Opinions
from calibration.people import People, Role
from tests.verdicts import verdict

KINDS = {1: "good", 2: "good", 3: "deep scratch", 4: "good", 5: "stain", 6: "good", 9: "good"}


@pytest.fixture
def box(tmp_path: Path) -> Path:
    (tmp_path / "config.toml").write_text(
        'root = "."\ndeadline_ms = 200\n[[camera]]\nname = "top"\nkind = "files"\nfolder = "x"\n'
    )
    images = tmp_path / "data" / "images" / "d"
    images.mkdir(parents=True)
    store = Store(tmp_path / "data" / "parts.db")
    store.add([verdict(n, Word.NG, recipe="cell/2" if n < 6 else "other/1") for n in range(1, 9)])
    for part_id in (1, 2, 3, 5, 6):
        cv2.imwrite(str(images / f"{part_id}.png"), np.full((4, 4), part_id, np.uint8))
    store.add([], images={n: f"images/d/{n}.png" for n in (1, 2, 3, 5, 6)})
    store.close()
    rows = "".join(f"{part_id},{kind}\n" for part_id, kind in KINDS.items())
    (tmp_path / "labels.csv").write_text(f"part_id,kind\n{rows}")
    return tmp_path


def run(box: Path, *more: str) -> str:
    arguments = ["export-dataset", "--config", str(box / "config.toml"), "--out", str(box / "set")]
    done = CliRunner().invoke(app, [*arguments, "--labels", str(box / "labels.csv"), *more])
    if isinstance(done.exception, ConfigError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_each_labelled_picture_lies_in_the_folder_of_its_kind(box: Path) -> None:
    said = run(box)
    found = {p.relative_to(box / "set").as_posix() for p in (box / "set").rglob("*.png")}

    def at(part_id: int, kind: str) -> str:
        return f"{'test' if share_of(part_id) < 0.3 else 'train'}/{kind}/{part_id}.png"

    assert found == {
        at(1, "good"),
        at(2, "good"),
        at(3, "deep_scratch"),
        at(5, "stain"),
        at(6, "good"),
    }
    for name in found:
        picture = cv2.imread(str(box / "set" / name), cv2.IMREAD_UNCHANGED)
        assert picture is not None
        assert int(picture[0, 0]) == int(Path(name).stem)
    assert "without a picture: 1" in said
    assert "without a row: 1" in said
    with (box / "set" / "parts.csv").open(newline="") as file:
        rows = {int(row["part_id"]): row for row in csv.DictReader(file)}
    assert rows[3]["kind"] == "deep scratch"
    assert rows[3]["recipe"] == "cell/2"


def test_labels_of_the_page_are_exported_without_a_list(box: Path) -> None:
    config = load_config(box / "config.toml")
    people = People(config, AuditJournal(config))
    anna = people.add("anna", max(Role), "correct horse battery", by="test")
    opinions = Opinions(people)
    opinions.label(1, "good", anna)
    opinions.label(3, "good", anna)
    opinions.label(3, "scratch", anna)
    people.close()
    arguments = ["export-dataset", "--config", str(box / "config.toml"), "--out", str(box / "set")]
    done = CliRunner().invoke(app, [*arguments, "--test-share", "0"])
    assert done.exit_code == 0, done.output
    found = sorted(p.relative_to(box / "set").as_posix() for p in (box / "set").rglob("*.png"))
    assert found == ["train/good/1.png", "train/scratch/3.png"]


def test_one_recipe_and_every_part_for_training(box: Path) -> None:
    run(box, "--recipe", "cell", "--test-share", "0")
    found = sorted(p.relative_to(box / "set").as_posix() for p in (box / "set").rglob("*.png"))
    assert found == [
        "train/deep_scratch/3.png", "train/good/1.png", "train/good/2.png", "train/stain/5.png",
    ]  # fmt: skip


def test_nothing_to_export_leaves_nothing_behind(box: Path) -> None:
    (box / "labels.csv").write_text("part_id,kind\n4,good\n")
    with pytest.raises(ConfigError, match="a labelled part with a picture"):
        run(box)
    (box / "labels.csv").write_text("part,kind\n4,good\n")
    with pytest.raises(ConfigError, match="line 2"):
        run(box)
    assert sorted(p.name for p in box.iterdir()) == ["config.toml", "data", "labels.csv"]


def test_of_several_cameras_one_is_exported(box: Path) -> None:
    """The archive keeps the deciding view's picture as the part's, the others beside it."""
    text = (box / "config.toml").read_text()
    other = '[[camera]]\nname = "side"\nkind = "files"\nfolder = "y"\n'
    (box / "config.toml").write_text(text + other)
    views = (
        ViewResult(camera="top", word=Word.OK, reason=Reason.NONE, margin=1.0),
        ViewResult(camera="side", word=Word.NG, reason=Reason.SEGAD, margin=5.0),
    )
    store = Store(box / "data" / "parts.db")
    store.add([verdict(9, Word.NG, camera="side", margin=5.0, views=views)])
    store.add([], images={9: "images/d/9.png"})
    store.close()
    for name, grey in (("9.png", 90), ("9.top.png", 91)):
        cv2.imwrite(str(box / "data" / "images" / "d" / name), np.full((4, 4), grey, np.uint8))
    with pytest.raises(ConfigError, match="--camera: expected one of top, side"):
        run(box)
    for camera, grey, margin in (("side", 90, 5.0), ("top", 91, 1.0)):
        run(box, "--camera", camera)
        (picture,) = (box / "set").rglob("9.png")
        assert int(read_image(picture)[0, 0]) == grey
        with (box / "set" / "parts.csv").open(newline="") as file:
            (row,) = (row for row in csv.DictReader(file) if row["part_id"] == "9")
        assert float(row["margin"]) == margin
        shutil.rmtree(box / "set")
