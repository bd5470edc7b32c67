"""Segment maps between browser and file, and what their regions say of parts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.errors import ConfigError
from calibration.region_map import (
    KEEP,
    apart,
    coloured,
    hidden,
    painted,
    received,
    region_scores,
)
from calibration.region_view import region_rows

SIZE = (4, 6)


def labels() -> np.ndarray:
    made = np.zeros(SIZE, np.uint8)
    made[2:] = 1
    made[3, 5] = 255
    return made


def sent(**changes: Any) -> dict[str, Any]:
    made = coloured(labels(), ("top", "bottom"))
    return {"runs": made.runs(), "regions": made.regions()} | changes


def test_a_map_in_the_numbers_of_another_one_and_from_its_files(tmp_path: Path) -> None:
    made = coloured(labels(), ("top", "bottom"))
    other = coloured(labels(), ("bottom", "third"))
    assert made.runs(other) == [KEEP, 12, 0, 11, 255, 1]
    for name, data in made.files().items():
        (tmp_path / name).write_bytes(data)
    assert painted(tmp_path).equals(made) and painted(tmp_path).colours == made.colours
    (tmp_path / "segments.png").write_bytes(b"")
    with pytest.raises(ConfigError, match="8-bit one-channel PNG"):
        painted(tmp_path)


def test_a_map_comes_back_as_it_went() -> None:
    made = coloured(labels(), ("top", "bottom"))
    assert made.runs() == [0, 12, 1, 11, 255, 1]
    back = received(sent(), SIZE)
    assert back.equals(made) and back.ignored == pytest.approx(1 / 24)
    back.check_painted()
    with pytest.raises(ConfigError, match="region bottom: expected at least one pixel"):
        received(sent(runs=[0, 24]), SIZE).check_painted()
    assert not back.equals(coloured(labels(), ("top", "base")))
    assert set(made.files()) == {"segments.png", "segments.json"}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"runs": [0, 12]}, "6x4 labels, got 12"),
        ({"runs": [0, 24, 1]}, "pairs of label and count"),
        ({"runs": [-1, 24]}, "pairs of label and count"),
        ({"runs": [0, 1 << 40, 0, -(1 << 40)]}, "pairs of label and count"),
        ({"runs": [0, 1 << 70]}, "pairs of label and count"),
        ({"runs": []}, "pairs of label and count"),
        ({"runs": [7, 24]}, "labels below 2 or 255"),
        ({"runs": "<script>"}, "runs and regions"),
        ({"regions": []}, "1 to 32"),
        ({"regions": [{"name": "a", "colour": "#ffffff"}] * 2}, "each name once"),
        ({"regions": [{"name": "a/b", "colour": "#ffffff"}]}, "names without"),
        ({"regions": [{"name": "x" * 41, "colour": "#ffffff"}]}, "1 to 40 signs"),
        ({"regions": [{"name": "a", "colour": "red; x"}]}, "a colour like"),
    ],
)
def test_what_is_no_map_is_refused_in_words(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        received(sent(**changes), SIZE)


def test_scores_name_the_region_that_tells_good_from_bad_and_who_hides() -> None:
    rng = np.random.default_rng(0)
    maps = rng.normal(0, 0.1, (6, 2, *SIZE)).astype(np.float32)
    kinds = ["good", "good", "good", "dent", "dent", ""]
    maps[3:5, 0, 0, 0] = 5.0
    maps[:, 1] = 9.0  # the second detector is not what people see
    made = coloured(labels(), ("top", "bottom"))
    scores = region_scores(maps, made)
    assert scores.shape == (6, 2) and scores.max() < 6
    top, bottom = apart(scores, kinds)
    assert top == 1.0 and bottom is not None and 0 <= bottom <= 1
    assert apart(scores, [""] * 6) == [None, None]
    maps[5, 0, 3, 5] = 8.0
    assert hidden(maps, made) == [5]


def test_the_region_that_tells_best_stands_first() -> None:
    columns = ("a/net/q99.5", "a/net/mean", "b/net/q99.5", "b/memory/q99.5", "*/net/max")
    rng = np.random.default_rng(1)
    features = rng.normal(0, 1, (40, 5)).astype(np.float32)
    kinds = ["good"] * 25 + ["dent"] * 15
    features[25:, 2] += 9
    first, second = region_rows(columns, "net", features, kinds)
    assert (first.name, first.auroc, second.name) == ("b", 1.0, "a")
    assert (len(first.good), len(first.bad)) == (25, 15)
    assert first.svg().count("bar-good") > 3 < first.svg().count("bar-bad")
    assert region_rows(columns, "net", features[:0], []) == []
