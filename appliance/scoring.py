"""One network answer → features → forest → margin, with the reasons. Runs in decide's thread.

Enters: a `Scored` whose map lies in a ring. Leaves: a `Judgement`. Limits are not compared here.
"""

import time
from collections.abc import Mapping
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from appliance.bundle import Bundle
from appliance.codes import OfflineReason, Reason
from appliance.errors import ArtefactError, PartError
from appliance.forest import Forest
from appliance.messages import PixelRef, Scored
from appliance.part import Judgement
from appliance.recipe import Limits, LoadedRecipe
from appliance.scores import Decides, average
from appliance.segments import CLASSIFICATION, IGNORED, SegmentIndex, column_names

_WORDS: dict[Decides, str] = {
    "segad": "region forest",
    "average": "average",
    "map_max": "map maximum",
    "classification": "classification logit",
}


class Maps(Protocol):
    """Where the maps lie: rings on the line, memory in replay."""

    def view(self, ref: PixelRef) -> npt.NDArray[Any]:
        """The map; raises PartError where it is gone."""
        ...

    def check(self, ref: PixelRef) -> None:
        """Raises PartError where it changed since `view`."""
        ...


class Scorer:
    """What one bundle needs to turn maps into margins."""

    def __init__(self, bundle: Bundle) -> None:
        manifest = bundle.manifest
        self._with_classification = CLASSIFICATION in manifest.columns
        columns = column_names(
            manifest.segments, manifest.detectors, classification=self._with_classification
        )
        if columns != manifest.columns:
            raise ArtefactError(
                bundle.path("manifest.json: columns"),
                f"the {len(columns)} columns of this software",
                f"{len(manifest.columns)} others",
            )
        self.bundle = bundle
        labels = bundle.segment_map()
        self._index = SegmentIndex(labels, len(manifest.segments))
        self._is_seen = labels != IGNORED
        self._units = manifest.units
        self._forest = (
            Forest.load(bundle.path(manifest.forest), columns, manifest.files[manifest.forest])
            if manifest.forest
            else None
        )
        self._warm_up(labels.shape, len(manifest.detectors))

    @property
    def map_shape(self) -> tuple[int, int, int]:
        """(K, H, W) of the maps that it takes."""
        return len(self.bundle.manifest.detectors), *self._index.shape

    def check(self, recipe: LoadedRecipe, camera: str = "") -> None:
        """Raises ArtefactError where the recipe wants what this bundle does not have.

        camera: whose views are judged; "" = one without settings of its own.
        """
        decides, known = recipe.recipe.terms(camera).decides, self.bundle.manifest.scores
        if decides not in known:
            raise ArtefactError(
                f"{recipe.path}: decides",
                f"{' or '.join(known)} (bundle {self.bundle.id[:12]}… has no other)",
                decides,
                OfflineReason.NO_RECIPE,
            )

    def score(
        self, scored: Scored, rings: Maps, recipe: LoadedRecipe, frame: tuple[int, int]
    ) -> Judgement:
        """The margin of one camera's view of a part.

        frame: height and width in pixels of the camera's frame, for the worst region.
        Raises PartError: FRAME_OVERWRITTEN, INFERENCE_ERROR, INVALID_NUMBER.
        """
        maps = rings.view(scored.map)
        begun = time.monotonic_ns()
        features = self._index.features(maps)
        featured = time.monotonic_ns()
        largest = float(features[-maps.shape[0]])  # of the first detector, which leads
        if self._with_classification:
            features = np.append(features, np.float32(scored.classification))
        _, _, decides, limits = recipe.recipe.terms(scored.camera)
        margins = {"map_max": largest, "classification": scored.classification}
        forest = self._forest if decides in ("segad", "average") else None
        if forest is not None:
            margins["segad"] = forest.margin(features)
        if decides == "average" and self._units:
            margins["average"] = float(average(margins, self._units))
        if decides not in margins:
            raise PartError(Reason.INTERNAL, f"the bundle has no score {decides}")
        margin = margins[decides]
        judged = time.monotonic_ns()
        reasons: tuple[str, ...] = ()
        region, defects = None, 0
        if margin >= limits.t1:
            region, defects = worst_region(maps[0], self._is_seen, _covered(scored, recipe, frame))
            if forest is not None:
                reasons = forest.reasons(features)
            if decides != "segad":
                reasons += (self._told(decides, margins, limits),)
        rings.check(scored.map)
        return Judgement(
            margin=float(np.float32(margin)),
            map_max=largest,
            features=tuple(float(value) for value in features),
            reasons=reasons,
            region_px=region,
            defects=defects,
            stages_ns={
                "features": featured - begun,
                "forest": judged - featured,
                "reasons": time.monotonic_ns() - judged,
            },
        )

    def _told(self, decides: Decides, margins: Mapping[str, float], limits: Limits) -> str:
        """The figure that decided, in words; of the average also what each score says."""
        told = f"{_WORDS[decides]} {margins[decides]:.3g}"
        told += f" (OK below {limits.t1:.3g}, NG from {limits.t2:.3g})"
        if decides != "average":
            return told
        each = (
            f"{_WORDS[name]} {(margins[name] - unit.middle) / unit.spread:.3g}"
            for name, unit in self._units.items()
        )
        return f"{told} of {', '.join(each)}"

    def _warm_up(self, shape: tuple[int, ...], detectors: int) -> None:
        """The first call of every library is many times slower than the second."""
        noise = np.random.default_rng(0).normal(size=(detectors, *shape)).astype(np.float32)
        for _ in range(3):
            features = self._index.features(noise)
            if self._with_classification:
                features = np.append(features, np.float32(0))
            if self._forest is not None:
                self._forest.margin(features)
                self._forest.reasons(features)
            worst_region(noise[0], self._is_seen, (0, 0, shape[1], shape[0]))


def _covered(
    scored: Scored, recipe: LoadedRecipe, frame: tuple[int, int]
) -> tuple[int, int, int, int]:
    """x, y, width, height of what the map covers, in pixels of the frame.

    Where a fixture was found, the place that it was found in; a turn is not followed.
    """
    view = recipe.recipe.camera.get(scored.camera)
    x, y, width, height = (view.roi if view else None) or (0, 0, frame[1], frame[0])
    shift = (scored.gates.get(f"fixture_{axis}_px", 0.0) for axis in "xy")
    left, top = (
        min(max(0, round(at + moved)), limit - 1)
        for at, moved, limit in zip((x, y), shift, (frame[1], frame[0]), strict=True)
    )
    return left, top, width, height


def worst_region(
    amap: npt.NDArray[np.float32],
    is_seen: npt.NDArray[np.bool_],
    roi: tuple[int, int, int, int],
) -> tuple[tuple[int, int, int, int], int]:
    """Box around the peak, and how many regions stand out as much as half the peak does.

    amap: (H, W) float32 raw logits. roi: x, y, width, height in pixels of the frame that the map
    covers. Returns (x, y, width, height) in pixels of the frame, and the number of regions higher
    than half way between the map's median and its peak. For people; nothing is decided by it.
    """
    height, width = amap.shape
    seen: npt.NDArray[Any] = np.where(is_seen, amap, -np.inf)
    peak = int(np.argmax(seen))
    level = (float(seen.flat[peak]) + float(np.median(amap))) / 2
    above = ((seen >= level) & is_seen).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(above, connectivity=8)
    label = int(labels.flat[peak])
    if label == 0:
        return roi, 0
    left, top, box_width, box_height = (int(value) for value in stats[label][:4])
    scale_x, scale_y = roi[2] / width, roi[3] / height
    box = (
        roi[0] + int(left * scale_x),
        roi[1] + int(top * scale_y),
        max(1, round(box_width * scale_x)),
        max(1, round(box_height * scale_y)),
    )
    return box, int(count) - 1
