"""Folders of labelled images as people have them → lists of good and bad ones, with masks.

MVTec AD and what is laid out like it (VAD, the prepared VisA), BTAD, VisA as published, KSDD2,
SensumSODF, and plain `good/ bad/`. Reads names and, where a label stands nowhere else, masks; no
pixels of images.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import pickletools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from appliance.errors import ConfigError
from models.pictures import SUFFIXES, images_in

LAYOUTS = (
    "train/good with test/good and test/<defect> (MVTec AD, VAD), good/ and bad/, "
    "train/ok (BTAD), Data/Images (a VisA category), train/*_GT.png (KSDD2) "
    "or negative/data (a SensumSODF category)"
)

FOLDS = 3
"""Of SensumSODF."""


@dataclass(frozen=True)
class Sample:
    """One labelled image file."""

    path: Path
    label: int
    """0 good, 1 bad."""
    kind: str
    """"good" or the name of the defect."""
    sha256: str
    """Of the file's bytes."""
    mask: Path | None = None
    """Pixels of the defects, not 0; None where nobody has drawn them."""
    part: str = ""
    """Physical part that the picture shows; "" = a part of its own."""


class Found(NamedTuple):
    """What a folder holds, as its layout says."""

    name: str
    good: list[Sample]
    bad: list[Sample]
    """Known at the time of training."""
    test_good: list[Sample]
    test_bad: list[Sample]
    """Both empty where the layout knows no test set."""
    notes: tuple[str, ...] = ()
    stretch: bool = False
    """Whether images of several sizes are usual in this set."""


def find(folder: Path, fold: int = 0) -> Found:
    """Recognise the layout of a folder. Raises ConfigError, with what was expected."""
    if not folder.is_dir():
        raise ConfigError(folder, f"a folder with {LAYOUTS}", "no folder")
    if (folder / "train" / "good").is_dir():
        return _mvtec(folder)
    if (folder / "train" / "ok").is_dir():
        return _btad(folder)
    if (folder / "Data" / "Images" / "Normal").is_dir():
        return _visa(folder)
    if (folder / "negative" / "data").is_dir():
        return _sensum(folder, fold)
    if (folder / "train").is_dir() and any((folder / "train").glob("*_GT.png")):
        return _ksdd2(folder)
    if (folder / "good").is_dir():
        return _plain(folder)
    found = sorted(path.name for path in folder.iterdir())
    got = ", ".join(found[:6]) + (" …" if len(found) > 6 else "")
    raise ConfigError(folder, LAYOUTS, got or "an empty folder")


def _mvtec(folder: Path) -> Found:
    parts = _parts(folder)
    return Found(
        folder.name,
        samples(images_in(folder / "train" / "good"), "good", parts=parts),
        _defects(folder / "train", parts),
        samples(images_in(folder / "test" / "good"), "good", parts=parts),
        _defects(folder / "test", parts),
    )


def _plain(folder: Path) -> Found:
    parts = _parts(folder)
    bad: list[Sample] = []
    if (folder / "bad").is_dir():
        bad = samples(
            images_in(folder / "bad"), "bad", masks=folder / "ground_truth" / "bad", parts=parts
        )
    return Found(folder.name, samples(images_in(folder / "good"), "good", parts=parts), bad, [], [])


def _btad(folder: Path) -> Found:
    """beanTech: ok and ko; masks carry the image's own name."""
    masks = folder / "ground_truth" / "ko"
    return Found(
        f"btad-{folder.name}",
        samples(images_in(folder / "train" / "ok"), "good"),
        [],
        samples(images_in(folder / "test" / "ok"), "good"),
        samples(images_in(folder / "test" / "ko"), "ko", masks=masks),
    )


def _visa(folder: Path) -> Found:
    """A category as published, dealt out by split_csv/1cls.csv beside it, the one-class split."""
    table = folder.parent / "split_csv" / "1cls.csv"
    sets: dict[tuple[str, str], list[Sample]] = {}
    for row in _rows(table, ("object", "split", "label", "image", "mask")):
        if row["object"] != folder.name:
            continue
        kind = "good" if row["label"] == "normal" else "anomaly"
        image = folder.parent / row["image"]
        mask = folder.parent / row["mask"] if row["mask"] else None
        sets.setdefault((row["split"], kind), []).append(sample(image, kind, mask))
    for key in (("train", "good"), ("test", "good"), ("test", "anomaly")):
        if not sets.get(key):
            raise ConfigError(table, f"rows {key} of {folder.name}", "none")
    return Found(
        f"visa-{folder.name}",
        sets["train", "good"],
        sets.get(("train", "anomaly"), []),
        sets["test", "good"],
        sets["test", "anomaly"],
        stretch=True,
    )


def _ksdd2(folder: Path) -> Found:
    """Every image has a `_GT.png`; it is bad where that is not black."""
    sets: dict[str, tuple[list[Sample], list[Sample]]] = {}
    for part in ("train", "test"):
        good, bad = sets[part] = ([], [])
        for path in images_in(folder / part):
            if path.stem.endswith("_GT"):
                continue
            mask = path.with_name(f"{path.stem}_GT.png")
            drawn = cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE)
            if drawn is None:
                raise ConfigError(mask, f"the mask of {path.name}", "no readable image")
            if np.any(drawn):
                bad.append(sample(path, "defect", mask))
            else:
                good.append(sample(path, "good"))
        if not good:
            raise ConfigError(folder / part, "images whose mask is black, the good ones", "none")
    return Found("ksdd2", *sets["train"], *sets["test"], stretch=True)


def _sensum(folder: Path, fold: int) -> Found:
    """A category, one of three folds: the authors' `sensum_splits` beside it, or every third."""
    good = samples(images_in(folder / "negative" / "data"), "good")
    bad = samples(
        images_in(folder / "positive" / "data"),
        "defect",
        masks=folder / "positive" / "annotation",
    )
    splits = folder.parent / "sensum_splits" / folder.name / str(fold)
    notes: tuple[str, ...] = ()
    if splits.is_dir():
        tests = [{f"{n:03}" for n in _numbers(splits / "test" / f"{which}.pckl")}
                 for which in ("neg", "pos")]  # fmt: skip
    else:
        tests = [{s.path.stem for s in group[fold::FOLDS]} for group in (good, bad)]
        notes = (f"no {splits}: fold {fold} is every third picture, not the published one",)
    sets = [
        [s for s in group if (s.path.stem in test) == wanted]
        for wanted in (False, True)
        for group, test in zip((good, bad), tests, strict=True)
    ]
    return Found(f"sensum-{folder.name}", *sets, notes=notes, stretch=True)


def _numbers(path: Path) -> list[int]:
    """Sample numbers of a split file: a pickled list of (number, is segmented).

    The opcodes are read, never run: a pickle that is run may do anything.
    """
    try:
        operations = list(pickletools.genops(path.read_bytes()))
    except (OSError, ValueError) as err:
        raise ConfigError(path, "a list of sample numbers", str(err)) from err
    numbers = [
        value
        for (operation, value, _), (following, _, _) in itertools.pairwise(operations)
        if isinstance(value, int)
        and operation.name in {"BININT", "BININT1", "BININT2", "LONG1", "INT"}
        and following.name in {"NEWTRUE", "NEWFALSE"}
    ]
    if not numbers:
        raise ConfigError(path, "a pickled list of (number, bool)", "no such pair")
    return numbers


def _defects(folder: Path, parts: Mapping[str, str]) -> list[Sample]:
    truth = folder.parent / "ground_truth"
    kinds = sorted(path for path in folder.iterdir() if path.is_dir() and path.name != "good")
    return [
        one
        for kind in kinds
        for one in samples(images_in(kind), kind.name, masks=truth / kind.name, parts=parts)
    ]


def samples(
    paths: Iterable[Path],
    kind: str,
    *,
    masks: Path | None = None,
    parts: Mapping[str, str] | None = None,
) -> list[Sample]:
    """Samples of one kind; masks: a folder with `<stem>_mask.png` or the image's own stem."""
    drawn = _masks_in(masks) if masks is not None else {}
    return [
        sample(
            path,
            kind,
            drawn.get(f"{path.stem}_mask", drawn.get(path.stem)),
            (parts or {}).get(path.stem, ""),
        )
        for path in paths
    ]


def sample(path: Path, kind: str, mask: Path | None = None, part: str = "") -> Sample:
    """One image file, hashed. Raises ConfigError where it cannot be read."""
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as err:
        raise ConfigError(path, "an image", err.strerror or str(err)) from err
    return Sample(path, 0 if kind == "good" else 1, kind, digest, mask, part)


def _masks_in(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES}


def _parts(folder: Path) -> dict[str, str]:
    """Stem of each image → the physical part that it shows, from an optional `parts.csv`.

    Columns `image` and `part`; `tiles.csv` with `image` and `tile` is read alike. Pictures of one
    part are never dealt out to two sets.
    """
    for name, column in (("parts.csv", "part"), ("tiles.csv", "tile")):
        if (folder / name).is_file():
            rows = _rows(folder / name, ("image", column))
            return {Path(row["image"]).stem: row[column] for row in rows}
    return {}


def _rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            got = tuple(reader.fieldnames or ())
            rows = list(reader)
    except OSError as err:
        raise ConfigError(path, f"a table of {', '.join(columns)}", err.strerror or "none") from err
    except (UnicodeDecodeError, csv.Error) as err:
        raise ConfigError(path, f"a table of {', '.join(columns)}", str(err)) from err
    if not set(columns) <= set(got):
        raise ConfigError(path, f"the columns {', '.join(columns)}", ", ".join(got) or "none")
    return rows
