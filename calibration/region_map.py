"""A segment map on its way between a browser and a file, and what its regions say of parts. Pure.

A browser sends runs of equal labels, row by row: label, count, label, count … What it sends is a
wish, and is taken for a map only when every pixel of it is accounted for.
"""

import base64
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from appliance.errors import ConfigError
from appliance.segments import IGNORED, STATISTICS, SegmentIndex, column_names

Labels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

PALETTE = (
    "#e6194b", "#3cb44b", "#0082c8", "#f58230", "#911eb4", "#46f0f0", "#f032e6", "#d2f53c",
    "#aa6e28",
)  # fmt: skip
KEEP = 254
"""In what is sent to a browser: no label of this map."""
_MOST_REGIONS = 32
_LONGEST_NAME = 40
_QUANTILE = STATISTICS.index("q99.5")


class RegionMap(NamedTuple):
    """What is painted."""

    labels: Labels
    """(H, W); 255 is ignored."""
    names: tuple[str, ...]
    colours: tuple[str, ...]

    @property
    def ignored(self) -> float:
        """Share of the picture that nothing looks at."""
        return float((self.labels == IGNORED).mean())

    def runs(self, numbers_of: "RegionMap | None" = None) -> list[int]:
        """As a browser wants it; in the numbers of another map's regions of the same names, KEEP
        where that map has none."""
        flat = self.labels.reshape(-1)
        if numbers_of is not None:
            number = np.full(256, KEEP, np.uint8)
            number[IGNORED] = IGNORED
            for place, name in enumerate(self.names):
                if name in numbers_of.names:
                    number[place] = numbers_of.names.index(name)
            flat = number[flat]
        starts = np.concatenate([[0], np.flatnonzero(np.diff(flat.astype(np.int16))) + 1])
        counts = np.diff(np.append(starts, len(flat)))
        return np.stack([flat[starts], counts], axis=1).reshape(-1).tolist()

    def regions(self) -> list[dict[str, str]]:
        """Names and colours in the order of the labels: `segments.json`."""
        pairs = zip(self.names, self.colours, strict=True)
        return [{"name": name, "colour": colour} for name, colour in pairs]

    def files(self) -> dict[str, bytes]:
        """`segments.png` and `segments.json`."""
        return {
            "segments.png": cv2.imencode(".png", self.labels)[1].tobytes(),
            "segments.json": msgspec.json.encode(self.regions()),
        }

    def check_painted(self) -> None:
        """Raises ConfigError where a region has no pixel: a forest would learn from nothing."""
        for place, name in enumerate(self.names):
            if not (self.labels == place).any():
                raise ConfigError(
                    f"region {name}", "at least one pixel", "none: paint or remove it"
                )

    def equals(self, other: "RegionMap") -> bool:
        """Labels and names; a colour decides nothing."""
        return self.names == other.names and bool(np.array_equal(self.labels, other.labels))


def coloured(labels: Labels, names: Sequence[str]) -> RegionMap:
    """A map of a bundle, in our colours."""
    colours = tuple(PALETTE[place % len(PALETTE)] for place in range(len(names)))
    return RegionMap(labels, tuple(names), colours)


def painted(folder: Path) -> RegionMap:
    """As `files` wrote it. Raises ConfigError."""
    try:
        regions = msgspec.json.decode((folder / "segments.json").read_bytes(), type=list[_Region])
    except (OSError, msgspec.DecodeError) as err:
        raise ConfigError(folder / "segments.json", "names and colours", str(err)) from err
    labels = cv2.imread(str(folder / "segments.png"), cv2.IMREAD_UNCHANGED)
    if labels is None or labels.ndim != 2 or labels.dtype != np.uint8:
        raise ConfigError(folder / "segments.png", "an 8-bit one-channel PNG", "something else")
    return RegionMap(
        labels.astype(np.uint8, copy=False), tuple(region.name for region in regions),
        tuple(region.colour for region in regions),
    )  # fmt: skip


def received(message: Any, size: tuple[int, int]) -> RegionMap:
    """What a browser sent as a map of (H, W). Raises ConfigError: regions, names, runs."""
    try:
        sent = msgspec.convert(message, _Sent)
    except msgspec.ValidationError as err:
        raise ConfigError("map", "runs and regions", str(err)) from err
    if not 1 <= len(sent.regions) <= _MOST_REGIONS:
        raise ConfigError("regions", f"1 to {_MOST_REGIONS}", str(len(sent.regions)))
    names = tuple(region.name.strip() for region in sent.regions)
    for name in names:
        if not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
            expected = f"a name of 1 to {_LONGEST_NAME} signs"
            raise ConfigError("regions", expected, repr(name[:_LONGEST_NAME]))
    column_names(names, ("any",))
    for region in sent.regions:
        if not re.fullmatch("#[0-9a-f]{6}", region.colour):
            raise ConfigError("regions", 'a colour like "#e6194b"', repr(region.colour[:20]))
    try:
        runs = np.array(sent.runs, np.int64).reshape(-1, 2) if len(sent.runs) % 2 == 0 else None
    except OverflowError:  # a number of more than 64 bits
        runs = None
    wanted = size[0] * size[1]
    if (
        runs is None
        or not runs.size
        or (runs < 0).any()
        or runs.max() > max(wanted, IGNORED)
        or ((runs[:, 0] > IGNORED).any())
    ):
        raise ConfigError("map", "pairs of label and count", "something else")
    if int(runs[:, 1].sum()) != wanted:
        raise ConfigError("map", f"{size[1]}x{size[0]} labels", str(int(runs[:, 1].sum())))
    labels = np.repeat(runs[:, 0].astype(np.uint8), runs[:, 1]).reshape(size)
    SegmentIndex(labels, len(names))
    return RegionMap(labels, names, tuple(region.colour for region in sent.regions))


class _Region(msgspec.Struct):
    name: str
    colour: str


class _Sent(msgspec.Struct):
    runs: list[int]
    regions: list[_Region]


def region_scores(maps: Floats, made: RegionMap) -> Floats:
    """(N, regions) q99.5 of each region in the first detector's map; maps: (N, K, H, W)."""
    index = SegmentIndex(made.labels, len(made.names))
    detectors = maps.shape[1]
    rows = [
        index.features(one)[:-detectors].reshape(-1, detectors, len(STATISTICS))[:, 0, _QUANTILE]
        for one in maps
    ]
    return np.array(rows, np.float32)


def apart(scores: Floats, kinds: Sequence[str]) -> list[float | None]:
    """Per region: share of pairs of a good and a bad part that it puts in order (AUROC); None
    without a pair. kinds: of the N parts, "" = not judged."""
    good = np.array([kind == "good" for kind in kinds], bool)
    bad = np.array([kind not in ("good", "") for kind in kinds], bool)
    if not (good.any() and bad.any()):
        return [None] * scores.shape[1]
    above = scores[bad][:, None, :] > scores[good][None, :, :]
    equal = scores[bad][:, None, :] == scores[good][None, :, :]
    return [float(share) for share in (above + 0.5 * equal).mean(axis=(0, 1))]


def hidden(maps: Floats, made: RegionMap) -> list[int]:
    """Which of the N parts have the highest place of their first map where nothing looks."""
    peaks = maps[:, 0].reshape(len(maps), -1).argmax(axis=1)
    return np.flatnonzero(made.labels.reshape(-1)[peaks] == IGNORED).tolist()


def data_url(png: bytes) -> str:
    """A picture as part of a page."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
