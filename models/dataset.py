"""Labelled images on disk → disjoint sets: for the network, for the forest and the limits (good and
bad each), and held out.

Understands the layouts of `layouts.py` and the package `elpv-dataset`. Nothing is copied; files are
read once to hash them and again when their pixels are needed. Pictures of one physical part stay in
one set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from appliance.errors import ConfigError
from models.layouts import LAYOUTS, Found, Sample, find, samples
from models.pictures import Shape, like, read_image, read_mask, shape_of

__all__ = ["ELPV_COUNTS", "Dataset", "Sample", "elpv", "open_dataset", "read_image"]

ELPV_COUNTS = (300, 140, 150)
"""Good for the network, good and bad for the forest and the limits; the rest is held out."""

ENOUGH_BAD = 40
"""From so many known bad images up, half of them teach the network unless told otherwise. The other
half stays for the forest and the limits, which must not see what the network learnt by heart."""

_SIZED = 200
"""Images whose size is looked at where sizes differ."""


@dataclass(frozen=True)
class Dataset:
    """Disjoint sets of images of one product, all of one size."""

    name: str
    network_good: tuple[Sample, ...]
    """The network, and nothing else, learns from these."""
    limits_good: tuple[Sample, ...]
    """Good images for the forest, the limits and the image gates."""
    limits_bad: tuple[Sample, ...]
    """Bad images for the forest and the limits; empty where none are known."""
    held_out: tuple[Sample, ...]
    """Seen by nothing before the evaluation."""
    source: Shape
    """Height, width and channels (1 grey, 3 RGB) of every image."""
    notes: tuple[str, ...] = ()
    """What a user should be told: licence, what was left out."""
    network_bad: tuple[Sample, ...] = ()
    """Bad images that the network learns from, in every regime but the unsupervised one."""
    stretch: bool = False
    """Whether images of another size are brought to `source` instead of refused."""
    fold: int = 0
    """Of a set that is dealt out in folds."""

    def sets(self) -> dict[str, tuple[Sample, ...]]:
        """Name of each set → its samples."""
        sets = {
            "network_good": self.network_good,
            "limits_good": self.limits_good,
            "limits_bad": self.limits_bad,
            "held_out": self.held_out,
        }
        return sets | ({"network_bad": self.network_bad} if self.network_bad else {})

    def hashes(self) -> dict[str, list[str]]:
        """Name of each set → sorted SHA-256 of its files."""
        return {name: sorted(s.sha256 for s in samples) for name, samples in self.sets().items()}

    def pixels(self, samples: Sequence[Sample]) -> npt.NDArray[np.uint8]:
        """(N, H, W, C) uint8, grey or RGB. Raises ConfigError on a file of another shape."""
        frames = np.empty((len(samples), *self.source), np.uint8)
        for index, sample in enumerate(samples):
            image = read_image(sample.path)
            frames[index] = like(image, self.source, sample.path, stretch=self.stretch)
        return frames

    def mask(self, sample: Sample) -> npt.NDArray[np.uint8] | None:
        """Defects of a bad image as (h, w) uint8 of 0 and 1, in the file's own size.

        None where no mask is known; for a good image all 0. Raises ConfigError on an unusable mask.
        """
        if sample.mask is None:
            return None if sample.label else np.zeros(self.source[:2], np.uint8)
        height, width, _ = shape_of(read_image(sample.path)) if self.stretch else self.source
        return read_mask(sample.mask, (height, width), sample.path)


def open_dataset(
    where: str | Path,
    seed: int = 0,
    *,
    learn_bad: bool | None = False,
    official: bool = False,
    stretch: bool | None = None,
    fold: int = 0,
) -> Dataset:
    """`elpv`, or a folder in one of the known layouts, split by `seed`. Raises ConfigError.

    learn_bad: whether known bad images teach the network, too; None = where there are enough of
    them. official: the layout's own split, as published figures use it: nothing of the test set is
    taken for anything. stretch: bring images to one size; None = where that is usual in the set.
    """
    if str(where) == "elpv":
        return elpv(seed, learn_bad=learn_bad)
    if not Path(where).is_dir():
        raise ConfigError(where, f"a folder with {LAYOUTS}, or the word elpv", "no folder")
    found = find(Path(where), fold)
    stretch = found.stretch if stretch is None else stretch
    if not found.test_good:
        if official:
            raise ConfigError(where, "a layout with a test set", "good/ and bad/ alone")
        # One half of the good for the network, a quarter each for the limits and held out.
        good, bad = len(found.good), len(found.bad)
        counts = (max(1, good // 2), good // 4, bad // 2)
        return _split(found, counts, seed, learn_bad=learn_bad, stretch=stretch)
    if not official and not found.bad:
        found = _with_test_defects(found, seed)
    for_network = max(1, round(len(found.good) * ELPV_COUNTS[0] / sum(ELPV_COUNTS[:2])))
    counts = (for_network, len(found.good) - for_network, len(found.bad))
    data = _split(found, counts, seed, learn_bad=learn_bad, stretch=stretch, official=official)
    return replace(data, fold=fold)


def elpv(seed: int = 0, *, learn_bad: bool | None = False) -> Dataset:
    """Mono cells of elpv-dataset: probability 0 is good, 1 is bad. Raises ConfigError."""
    spec = find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise ConfigError("data", "the package elpv-dataset (extra `demo`)", "it is not installed")
    folder = Path(spec.origin).parent / "data"
    table = folder / "labels.csv"
    good: list[Path] = []
    bad: list[Path] = []
    left_out = 0
    try:
        rows = table.read_text().splitlines()
    except OSError as err:
        raise ConfigError(table, "the table of labels", err.strerror or str(err)) from err
    for row in rows:
        name, probability, cell = row.split()
        if cell != "mono":
            continue
        if float(probability) in (0.0, 1.0):
            (bad if float(probability) else good).append(folder / name)
        else:
            left_out += 1
    notes = (
        "elpv-dataset, mono cells; licence CC BY-NC-SA 4.0 (not for commercial use)",
        f"{left_out} cells with the doubtful labels 1/3 and 2/3 are left out",
    )
    found = Found("elpv", samples(good, "good"), samples(bad, "bad"), [], [], notes)
    return _split(found, ELPV_COUNTS, seed, learn_bad=learn_bad)


def _with_test_defects(found: Found, seed: int) -> Found:
    """Where training knows no bad image: half of each kind in the test set, by physical part."""
    rng = np.random.default_rng(seed)
    taken: set[str] = set()
    kept: set[str] = set()
    for kind in sorted({sample.kind for sample in found.test_bad}):
        groups = _by_part([s for s in found.test_bad if s.kind == kind])
        wanted = sum(map(len, groups.values())) // 2
        wanted -= sum(len(group) for part, group in groups.items() if part in taken)
        for part in _shuffled(list(groups), rng):
            if part in taken or part in kept:
                continue
            if wanted > 0:
                taken.add(part)
                wanted -= len(groups[part])
            else:
                kept.add(part)
    bad = [s for s in found.test_bad if _part(s) in taken]
    note = (
        f"train/ holds good images alone: {len(bad)} bad ones of test/, half of each kind, "
        "are used for training, forest and limits and not held out"
    )
    return found._replace(
        bad=bad,
        test_bad=[s for s in found.test_bad if _part(s) not in taken],
        notes=(*found.notes, note),
    )


def _split(
    found: Found,
    counts: tuple[int, int, int],
    seed: int,
    *,
    learn_bad: bool | None,
    stretch: bool = False,
    official: bool = False,
) -> Dataset:
    """Deal out whole parts: `counts` good for the network, good for the limits, and known bad."""
    rng = np.random.default_rng(seed)
    test = (*found.test_good, *found.test_bad)
    known: dict[str, Sample] = {}
    # Held-out images come first: a double of one of them must not be learnt from.
    for sample in (*test, *found.good, *found.bad):
        other = known.setdefault(sample.sha256, sample)
        if other.label != sample.label:
            raise ConfigError(sample.path, "one label per image", f"both labels, see {other.path}")
    first = {sample.path for sample in known.values()}
    doubles = len({s.path for s in (*test, *found.good, *found.bad)}) - len(first)
    notes = found.notes
    if doubles:
        notes = (*notes, f"{doubles} files that equal another one byte for byte are left out")
    network, limits, faulty = counts
    network_good, limits_good, rest_good = _dealt(
        [s for s in found.good if s.path in first], (network, limits), rng
    )
    (known_bad, rest_bad) = _dealt([s for s in found.bad if s.path in first], (faulty,), rng)
    limits_bad, network_bad = known_bad, []
    if learn_bad or (learn_bad is None and len(known_bad) >= ENOUGH_BAD):
        half = len(known_bad) if official else (len(known_bad) + 1) // 2
        network_bad, limits_bad = _dealt(known_bad, (half,), rng)
    held_out = (*(s for s in test if s.path in first), *rest_good, *rest_bad)
    if not limits_good:
        got = str(sum(sample.path in first for sample in found.good))
        if doubles:
            got += f", and {doubles} files that equal another one"
        raise ConfigError(found.name, "at least 4 good images", got)
    return Dataset(
        name=found.name,
        network_good=tuple(network_good),
        limits_good=tuple(limits_good),
        limits_bad=tuple(limits_bad),
        held_out=held_out,
        source=_source(network_good, stretch=stretch),
        notes=notes,
        network_bad=tuple(network_bad),
        stretch=stretch,
    )


def _source(good: list[Sample], *, stretch: bool) -> Shape:
    """Shape of the first image, or the median one where sizes may differ."""
    if not stretch:
        return shape_of(read_image(good[0].path))
    shapes = [shape_of(read_image(s.path)) for s in good[:: max(1, len(good) // _SIZED)]]
    height, width, channels = np.median(np.array(shapes), axis=0)
    return int(height), int(width), 3 if channels > 2 else 1


def _dealt(
    samples: list[Sample], counts: tuple[int, ...], rng: np.random.Generator
) -> list[list[Sample]]:
    """Shuffled by part and cut into sets of about `counts` images, the rest behind them."""
    groups = _by_part(samples)
    dealt: list[list[Sample]] = [[] for _ in range(len(counts) + 1)]
    index = 0
    for part in _shuffled(list(groups), rng):
        while index < len(counts) and len(dealt[index]) >= counts[index]:
            index += 1
        dealt[index] += groups[part]
    return dealt


def _by_part(samples: list[Sample]) -> dict[str, list[Sample]]:
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(_part(sample), []).append(sample)
    return groups


def _part(sample: Sample) -> str:
    return sample.part or str(sample.path)


def _shuffled(items: list[str], rng: np.random.Generator) -> list[str]:
    return [items[index] for index in rng.permutation(len(items))]
