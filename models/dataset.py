"""Labelled images on disk → four disjoint sets: for the network, for the forest and the limits
(good and bad), and held out.

Understands the MVTec AD layout, plain `good/ bad/` folders and the package `elpv-dataset`.
Nothing is copied; files are read once to hash them and again when their pixels are needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from appliance.errors import ConfigError

SUFFIXES = frozenset({".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff"})

ELPV_COUNTS = (300, 140, 150)
"""Good for the network, good and bad for the forest and the limits; the rest is held out."""

LAYOUTS = "train/good with test/good and test/<defect>, or good/ and bad/"


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


@dataclass(frozen=True)
class Dataset:
    """Four disjoint sets of images of one product, all of one size."""

    name: str
    network_good: tuple[Sample, ...]
    """The network, and nothing else, learns from these."""
    limits_good: tuple[Sample, ...]
    """Good images for the forest, the limits and the image gates."""
    limits_bad: tuple[Sample, ...]
    """Bad images for the forest and the limits; empty where none are known."""
    held_out: tuple[Sample, ...]
    """Seen by nothing before the evaluation."""
    source: tuple[int, int, int]
    """Height, width and channels (1 grey, 3 RGB) of every image."""
    notes: tuple[str, ...] = ()
    """What a user should be told: licence, what was left out."""

    def sets(self) -> dict[str, tuple[Sample, ...]]:
        """Name of each set → its samples."""
        return {
            "network_good": self.network_good,
            "limits_good": self.limits_good,
            "limits_bad": self.limits_bad,
            "held_out": self.held_out,
        }

    def hashes(self) -> dict[str, list[str]]:
        """Name of each set → sorted SHA-256 of its files."""
        return {name: sorted(s.sha256 for s in samples) for name, samples in self.sets().items()}

    def pixels(self, samples: Sequence[Sample]) -> npt.NDArray[np.uint8]:
        """(N, H, W, C) uint8, grey or RGB. Raises ConfigError on a file of another shape."""
        frames = np.empty((len(samples), *self.source), np.uint8)
        for index, sample in enumerate(samples):
            frames[index] = _like(read_image(sample.path), self.source, sample.path)
        return frames


def open_dataset(where: str | Path, seed: int = 0) -> Dataset:
    """`elpv`, or a folder in one of the known layouts, split by `seed`. Raises ConfigError."""
    if str(where) == "elpv":
        return elpv(seed)
    folder = Path(where)
    if not folder.is_dir():
        raise ConfigError(folder, f"a folder with {LAYOUTS}, or the word elpv", "no folder")
    if (folder / "train" / "good").is_dir():
        return _mvtec(folder, seed)
    if (folder / "good").is_dir():
        return _good_bad(folder, seed)
    found = sorted(path.name for path in folder.iterdir())
    got = ", ".join(found[:6]) + (" …" if len(found) > 6 else "")
    raise ConfigError(folder, LAYOUTS, got or "an empty folder")


def elpv(seed: int = 0) -> Dataset:
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
    return _split(
        "elpv",
        _samples(good, "good"),
        _samples(bad, "bad"),
        counts=ELPV_COUNTS,
        seed=seed,
        notes=(
            "elpv-dataset, mono cells; licence CC BY-NC-SA 4.0 (not for commercial use)",
            f"{left_out} cells with the doubtful labels 1/3 and 2/3 are left out",
        ),
    )


def _mvtec(folder: Path, seed: int) -> Dataset:
    """Held out is what test/ holds, less the bad images that the forest needs."""
    good = _samples(_images(folder / "train" / "good"), "good")
    bad = _defects(folder / "train")
    test_good = _samples(_images(folder / "test" / "good"), "good")
    test_bad = _defects(folder / "test")
    notes: tuple[str, ...] = ()
    if not bad:
        kinds = sorted({sample.kind for sample in test_bad})
        rng = np.random.default_rng(seed)
        for kind in kinds:
            of_kind = _shuffled([s for s in test_bad if s.kind == kind], rng)
            bad += of_kind[: len(of_kind) // 2]
        taken = {sample.path for sample in bad}
        test_bad = [sample for sample in test_bad if sample.path not in taken]
        notes = (
            f"train/ holds good images alone: {len(bad)} bad ones of test/, half of each kind, "
            "are used for forest and limits and not held out",
        )
    for_network = max(1, round(len(good) * ELPV_COUNTS[0] / sum(ELPV_COUNTS[:2])))
    return _split(
        folder.name,
        good,
        bad,
        counts=(for_network, len(good) - for_network, len(bad)),
        seed=seed,
        notes=notes,
        held_out=[*test_good, *test_bad],
    )


def _good_bad(folder: Path, seed: int) -> Dataset:
    """One half of the good for the network, a quarter each for the limits and held out."""
    good = _samples(_images(folder / "good"), "good")
    bad = _samples(_images(folder / "bad"), "bad") if (folder / "bad").is_dir() else []
    counts = (max(1, len(good) // 2), len(good) // 4, len(bad) // 2)
    return _split(folder.name, good, bad, counts=counts, seed=seed)


def _split(
    name: str,
    good: list[Sample],
    bad: list[Sample],
    *,
    counts: tuple[int, int, int],
    seed: int,
    notes: tuple[str, ...] = (),
    held_out: Sequence[Sample] = (),
) -> Dataset:
    rng = np.random.default_rng(seed)
    known: dict[str, Sample] = {}
    # Held-out images come first: a double of one of them must not be learnt from.
    for sample in (*held_out, *good, *bad):
        other = known.setdefault(sample.sha256, sample)
        if other.label != sample.label:
            raise ConfigError(sample.path, "one label per image", f"both labels, see {other.path}")
    first = {sample.path for sample in known.values()}
    doubles = len({s.path for s in (*held_out, *good, *bad)}) - len(first)
    if doubles:
        notes = (*notes, f"{doubles} files that equal another one byte for byte are left out")
    good = _shuffled([s for s in good if s.path in first], rng)
    bad = _shuffled([s for s in bad if s.path in first], rng)
    network, limits, faulty = counts
    rest = (*held_out, *good[network + limits :], *bad[faulty:])
    dataset = Dataset(
        name=name,
        network_good=tuple(good[:network]),
        limits_good=tuple(good[network : network + limits]),
        limits_bad=tuple(bad[:faulty]),
        held_out=tuple(s for s in rest if s.path in first),
        source=_shape(read_image(good[0].path)),
        notes=notes,
    )
    if not dataset.limits_good:
        raise ConfigError(name, "at least 4 good images", f"{len(good)}")
    return dataset


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """(H, W) grey or (H, W, 3) RGB, uint8, as stored. Raises ConfigError naming the file."""
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as err:
        raise ConfigError(path, "an image", err.strerror or str(err)) from err
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if image is None:
        raise ConfigError(path, "an image", f"{data.size} bytes that are none")
    if image.dtype != np.uint8:
        raise ConfigError(path, "8 bits per channel", str(image.dtype))
    if image.ndim == 2:
        return image.astype(np.uint8, copy=False)
    if image.shape[2] != 3:
        raise ConfigError(path, "grey or colour", f"{image.shape[2]} channels")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def _shape(image: npt.NDArray[np.uint8]) -> tuple[int, int, int]:
    return image.shape[0], image.shape[1], image.shape[2] if image.ndim == 3 else 1


def _like(
    image: npt.NDArray[np.uint8], wanted: tuple[int, int, int], path: Path
) -> npt.NDArray[np.uint8]:
    if _shape(image) != wanted:
        height, width, channels = _shape(image)
        raise ConfigError(
            path,
            f"{wanted[1]}x{wanted[0]} pixels and {wanted[2]} channel(s) as the first image",
            f"{width}x{height} and {channels}",
        )
    return image.reshape(wanted)


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ConfigError(folder, "a folder of images", "no folder")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not found:
        raise ConfigError(folder, f"images ({' '.join(sorted(SUFFIXES))})", "none")
    return found


def _defects(folder: Path) -> list[Sample]:
    kinds = sorted(path for path in folder.iterdir() if path.is_dir() and path.name != "good")
    return [sample for kind in kinds for sample in _samples(_images(kind), kind.name)]


def _samples(paths: Iterable[Path], kind: str) -> list[Sample]:
    label = 0 if kind == "good" else 1
    samples: list[Sample] = []
    for path in paths:
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as err:
            raise ConfigError(path, "an image", err.strerror or str(err)) from err
        samples.append(Sample(path, label, kind, digest))
    return samples


def _shuffled(samples: list[Sample], rng: np.random.Generator) -> list[Sample]:
    return [samples[index] for index in rng.permutation(len(samples))]
