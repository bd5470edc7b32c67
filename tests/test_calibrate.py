"""`inspectd calibrate` on pictures whose margin is known: the null engine gives the mean grey."""

import json
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from appliance.__main__ import app
from appliance.audit import AuditJournal
from appliance.bundle import finish_bundle
from appliance.config import load_config
from appliance.engine_null import write_null_bundle
from appliance.errors import ConfigError
from appliance.recipe import View, load_recipe
from calibration.evidence import part_name
from calibration.publish import newest, publish, use, versions

SIDE_PX = 32
KINDS = {"good": (60.0, 200), "dent": (120.0, 120), "stain": (150.0, 120)}
"""Kind → mean grey of its pictures, and how many there are."""


def draw(folder: Path, kind: str, mean: float, count: int, views: int = 1) -> None:
    (folder / kind).mkdir(parents=True)
    rng = np.random.default_rng([len(kind), count])
    for number in range(count):
        level = rng.normal(mean, 8)
        for view in range(views):
            noise = rng.normal(level, 3, (SIDE_PX, SIDE_PX))
            path = folder / kind / f"{kind[0]}{number:03d}_{view}.png"
            cv2.imwrite(str(path), np.clip(noise, 1, 254).astype(np.uint8))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("calibrate")
    for kind, (mean, count) in KINDS.items():
        draw(root / "data" / ("train" if kind == "good" else "test"), kind, mean, count)
    draw(root / "data" / "test", "good", 60.0, 20)
    write_null_bundle(root / "bundles" / "null", "cell", SIDE_PX, SIDE_PX)
    (root / "config.toml").write_text(
        'root = "."\ndeadline_ms = 200\n[[camera]]\nname = "top"\nkind = "files"\nfolder = "x"\n'
    )
    return root


def calibrate(root: Path, *options: str, data: str = "data") -> tuple[int, Any, str]:
    command = ["calibrate", str(root / "bundles" / "null"), str(root / data), "--engine", "null"]
    command += ["--config", str(root / "config.toml"), "--json", *options]
    done = CliRunner().invoke(app, command)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, json.loads(done.stdout) if done.stdout else None, done.stderr


def test_what_is_provable_is_proved_and_told(root: Path) -> None:
    code, answer, _ = calibrate(root, "--max-escape", "0.1", "--max-overkill", "0.05")
    assert code == 0 and answer["is_proved"]
    assert answer["calibrate"] == {"good": 110, "dent": 60, "stain": 60}
    assert answer["verify"] == {"good": 110, "dent": 60, "stain": 60}
    assert 60 < answer["t1"] <= answer["t2"] < 150
    assert max(answer["proved"]["escape"].values()) <= 0.1
    assert answer["verified"]["escapes"]["dent"]["total"] == 60
    assert answer["verified"]["says"]["overkill"] in ("proved", "open")
    assert answer["verified"]["escapes_all"]["upper"] < 0.1
    assert answer["recipe"] is None


def test_what_is_not_provable_gives_no_limit_and_exit_1(root: Path) -> None:
    code, answer, _ = calibrate(
        root, "--max-escape", "0.01", "--recipe", "none", "--by", "ann", "--reason", "because of it"
    )
    assert code == 1 and not answer["is_proved"]
    assert answer["t1"] is None and answer["recipe"] is None
    assert "60 bad parts (dent)" in answer["advice"][0] and "368 can" in answer["advice"][0]
    assert versions(load_config(root / "config.toml"), "none") == ()


def test_the_same_in_words(root: Path) -> None:
    command = ["calibrate", str(root / "bundles" / "null"), str(root / "data")]
    done = CliRunner().invoke(app, [*command, "--engine", "null", "--max-escape", "0.1"])
    assert done.exit_code == 0
    for words in ("limits     OK below", "verify     escapes, dent: 0 of 60, at most", "estimate"):
        assert words in done.stdout
    assert "0 pictures that the bundle has learnt from" in done.stdout


def test_views_of_a_part_count_once(root: Path) -> None:
    for kind, (mean, _) in KINDS.items():
        draw(root / "views", kind if kind == "good" else "bad", mean, 30, views=4)
        if (root / "views" / "bad").is_dir():
            break
    options = ("--part", r"^(?P<part>[a-z]\d+)_", "--verify", "0")
    code, answer, _ = calibrate(root, *options, data="views")
    assert code == 1, "120 pictures of 30 parts prove what 30 parts prove"
    assert answer["views"] == 240 and answer["calibrate"] == {"good": 30, "bad": 30}
    assert answer["verified"] is None
    with pytest.raises(ConfigError, match="a name that holds a part"):
        part_name(Path("x.png"), r"(?P<part>\d+)")


def test_pictures_that_the_bundle_has_learnt_from_are_left_out(root: Path) -> None:
    first = write_null_bundle(root / "bundles" / "first", "cell", SIDE_PX, SIDE_PX)
    draft = root / "draft"
    draft.mkdir()
    (draft / "segments.png").write_bytes(first.path("segments.png").read_bytes())
    (draft / "split.json").write_bytes(split_of(root / "data" / "train" / "good"))
    finish_bundle(draft, root / "bundles" / "learnt", first.manifest)
    command = ["calibrate", str(root / "bundles" / "learnt"), str(root / "data"), "--json"]
    done = CliRunner().invoke(app, [*command, "--engine", "null", "--max-escape", "0.1"])
    answer = json.loads(done.stdout)
    assert answer["left_out"] == {"learnt": 200, "unhealthy": 0}
    assert answer["calibrate"]["good"] == 10, "of test/good"
    assert answer["t2"] is None and done.exit_code == 1


def split_of(folder: Path) -> bytes:
    from models.dataset import open_dataset

    dataset = open_dataset(folder.parent.parent)
    hashes = [s.sha256 for s in (*dataset.network_good, *dataset.limits_good)]
    return msgspec.json.encode({"network_good": hashes, "limits_good": [], "held_out": ["x"]})


def test_limits_become_a_new_version_with_an_entry_in_the_journal(root: Path) -> None:
    config = load_config(root / "config.toml")
    options = ("--max-escape", "0.1", "--recipe", "cell", "--by", "ann")
    answers = [
        calibrate(root, *options, "--reason", reason) for reason in ("first evidence", "more parts")
    ]
    assert [code for code, _, _ in answers] == [0, 0]
    assert [answer["recipe"] for _, answer, _ in answers] == ["cell/1", "cell/2"]
    answer = answers[1][1]
    first, second = load_recipe(config, "cell/1"), load_recipe(config, "cell/2")
    assert first.recipe.limits.reason == "first evidence" and first.hash != second.hash
    assert (second.recipe.limits.set_by, second.recipe.limits.t1) == ("ann", answer["t1"])
    entries = [entry for entry in AuditJournal(config).entries() if entry.what == "limits.set"]
    assert [entry.subject for entry in entries] == ["cell/1", "cell/2"]
    assert entries[0].old is None and entries[1].old["hash"] == first.hash
    assert entries[1].new["evidence"]["verify"] == answer["verify"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--max-escape", "0"), "--max-escape: expected a share between 0 and 1, got 0.0"),
        (("--confidence", "1"), "--confidence: expected 0.5 to below 1"),
        (
            ("--decides", "best"),
            "--decides: expected segad or average or map_max or classification",
        ),
        (("--decides", "segad"), "--decides: expected one of map_max, classification, got segad"),
        (("--precision", "fp7"), "--engine, --precision: expected known ones"),
        (("--recipe", "cell"), "--recipe: expected --by and --reason with it"),
    ],
)
def test_bad_input_is_one_clear_error(root: Path, options: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        calibrate(root, *options)
    assert message in str(caught.value)


def test_what_cannot_be_journalled_is_not_published(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(root / "config.toml")
    journal = AuditJournal(config)
    publish(config, journal, recipe_of(root), (1.0, 2.0), who="ann", reason="a good reason")
    before = versions(config, "kept")
    journal.path.write_bytes(b"spoilt\n")
    with pytest.raises(ConfigError):
        publish(config, journal, recipe_of(root), (1.0, 3.0), who="ann", reason="a good reason")
    assert versions(config, "kept") == before
    base = newest(config, "kept")
    assert base is not None and base.recipe.camera["top"].exposure_us == 80.0
    for reason, who, expected in (("short", "ann", "at least"), ("long enough", " ", "a name")):
        with pytest.raises(ConfigError, match=expected):
            publish(config, journal, recipe_of(root), (1.0, 2.0), who=who, reason=reason)
    for name in ("", "..", "a/b", "unknown"):
        assert versions(config, name) == ()


def recipe_of(root: Path) -> Any:
    from appliance.recipe import Limits, Recipe

    return Recipe(
        id="kept",
        version=0,
        bundle="0" * 64,
        bundle_dir="null",
        decides="map_max",
        limits=Limits(t1=0.0, t2=1.0),
        camera={"top": View(exposure_us=80.0)},
    )


def test_products_move_to_the_new_version_and_the_file_stays_the_integrators(
    tmp_path: Path,
) -> None:
    (tmp_path / "config.toml").write_text(
        'root = "."\ndeadline_ms = 200\n[[camera]]\nname = "top"\nkind = "files"\nfolder = "x"\n'
    )
    config = load_config(tmp_path / "config.toml")
    path = tmp_path / "products.toml"
    text = """# ours
[[product]]
number = 1   # the small one
recipe = "cell/1"  # first
[[product]]
number = 2
recipe='cell/1'
[[product]]
number = 3
recipe = "cell/11"
"""
    path.write_text(text)
    assert use(config, "cell/1", "cell/2") == 2
    assert path.read_text() == text.replace('"cell/1"', '"cell/2"').replace("'cell/1'", "'cell/2'")
    assert use(config, "cell/1", "cell/2") == 0
    path.write_text('product = [{number = 1, recipe = "cell/2"}]')
    with pytest.raises(ConfigError, match="another way to write it"):
        use(config, "cell/2", "cell/3")
    assert "cell/2" in path.read_text()
