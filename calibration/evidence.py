"""Labelled images → one margin per view, through the path that the line runs.

Enters: a bundle and labelled images. Leaves: the margins of every score that the bundle has. The
engine is the one of the line, the images are those that nothing of the bundle has learnt from, and
a picture that the line would not judge (image health) is left out and counted.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from appliance import config
from appliance.bundle import Bundle
from appliance.errors import ArtefactError, ConfigError
from appliance.pictures_judged import PictureJudge
from appliance.scores import Decides
from calibration.limits import Parts, parts_of
from models.dataset import Dataset, Sample

_SPLIT = "split.json"


@dataclass(frozen=True)
class View:
    """One picture of one part."""

    part: str
    """Pictures with the same name show the same part."""
    kind: str
    file: str
    margins: dict[Decides, float]
    """Raw, of every score that the bundle has."""


@dataclass(frozen=True)
class Evidence:
    """What the line would have said about labelled pictures."""

    views: tuple[View, ...]
    learnt: int
    """Pictures left out because the bundle has learnt from them."""
    unhealthy: int
    """Pictures left out because the line would end them as ERROR 13 or 21."""

    def parts(self, decides: Decides, names: set[str] | None = None) -> Parts:
        """One margin per part by one score; of these parts alone, if `names` are given."""
        chosen = [view for view in self.views if names is None or view.part in names]
        return parts_of(
            [view.part for view in chosen],
            [view.kind for view in chosen],
            [view.margins[decides] for view in chosen],
        )

    def kinds(self) -> dict[str, str]:
        """Part → its kind."""
        return {view.part: view.kind for view in self.views}


def unseen(bundle: Bundle, dataset: Dataset) -> tuple[list[Sample], int]:
    """Samples that the bundle has not learnt from, and how many it has.

    `split.json` of the bundle lists the hashes of what it knows; without it nothing can be told,
    and the caller's word counts. Raises ConfigError where nothing is left.
    """
    samples = [sample for samples in dataset.sets().values() for sample in samples]
    path = bundle.path(_SPLIT)
    known: set[str] = set()
    if _SPLIT in bundle.manifest.files:
        try:
            sets = msgspec.json.decode(path.read_bytes(), type=dict[str, list[str]])
        except (OSError, msgspec.DecodeError) as err:
            raise ArtefactError(path, "lists of hashes", str(err)) from err
        known = {one for name, hashes in sets.items() if name != "held_out" for one in hashes}
    fresh = [sample for sample in samples if sample.sha256 not in known]
    if not fresh:
        raise ConfigError(
            dataset.name,
            "pictures that the bundle has not learnt from",
            f"{len(samples)} that it has all learnt from",
        )
    return fresh, len(samples) - len(fresh)


def part_name(file: Path, pattern: str) -> str:
    """Which part a file shows: group `part` of `pattern` in the file's stem; "" = a part each.

    Raises ConfigError where the pattern does not match.
    """
    if not pattern:
        return str(file)
    found = re.search(pattern, file.stem)
    if found is None or not found.groupdict().get("part"):
        raise ConfigError(file, f"a name that holds a part by {pattern!r}", file.stem)
    return found["part"]


def gather(
    bundle: Bundle,
    dataset: Dataset,
    settings: config.Engine,
    cache: Path,
    pattern: str = "",
    report: Callable[[float], None] = lambda done: None,
) -> Evidence:
    """Score every sample that the bundle has not learnt from, as the line does.

    settings: which engine; it should be that of the line. cache: where merged graphs are kept.
    Raises ConfigError, and ArtefactError where the bundle or the engine cannot be used.
    """
    samples, learnt = unseen(bundle, dataset)
    contract = bundle.manifest.input
    wanted = (contract.source_height_px, contract.source_width_px, contract.channels)
    if dataset.source != wanted:
        raise ConfigError(
            dataset.name, f"pictures {wanted} (H, W, C) as in training", str(dataset.source)
        )
    judge = PictureJudge(bundle, settings, cache)
    views: list[View] = []
    unhealthy = 0
    try:
        for number, sample in enumerate(samples):
            frame = dataset.pixels([sample])[0]
            if not judge.is_healthy(frame[:, :, 0] if frame.shape[2] == 1 else frame):
                unhealthy += 1
                continue
            part = part_name(sample.path, pattern)
            views.append(View(part, sample.kind, sample.path.name, judge.margins(frame)))
            report((number + 1) / len(samples))
    finally:
        judge.close()
    return Evidence(tuple(views), learnt, unhealthy)
