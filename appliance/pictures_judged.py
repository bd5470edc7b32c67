"""Pictures on disk, judged as the line judges frames, beside it and in no hurry.

Enters: a bundle, a view of a recipe, pixels as the archive keeps them. Leaves: what the network
sees of them, its maps, and the margin by every score of the bundle. Limits are not compared here.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from appliance import config
from appliance.bundle import Bundle
from appliance.engine import Frame, Map
from appliance.engine_opening import open_engine
from appliance.fixture import finder_of
from appliance.forest import Forest
from appliance.image_gates import gates_of, judge
from appliance.images import stored_bits
from appliance.infer_setup import CameraSetup
from appliance.pixels import Pixels
from appliance.recipe import View
from appliance.scores import Decides, average
from appliance.segments import CLASSIFICATION, SegmentIndex


class PictureJudge:
    """One bundle with the engine of the line. Close it.

    cache: where merged graphs are kept. view: what a recipe says of the camera; None = pictures
    are as in training. Raises ArtefactError where bundle, engine or view cannot be used.
    """

    def __init__(
        self,
        bundle: Bundle,
        settings: config.Engine,
        cache: Path,
        view: View | None = None,
        where: str = "recipe",
    ) -> None:
        manifest, contract = bundle.manifest, bundle.manifest.input
        roi = view.roi if view else None
        finder = finder_of(view.fixture, bundle, roi, where) if view and view.fixture else None
        size = (roi[3], roi[2]) if roi else (contract.source_height_px, contract.source_width_px)
        self._index = SegmentIndex(bundle.segment_map(), len(manifest.segments))
        self._with_classification = CLASSIFICATION in manifest.columns
        self._units = manifest.units
        self._forest = None
        if manifest.forest:
            self._forest = Forest.load(
                bundle.path(manifest.forest), manifest.columns, manifest.files[manifest.forest]
            )
        self._bits = stored_bits(view.pixel_format if view else None)
        engine = open_engine(settings, bundle, *size, contract.channels, cache)
        self._camera = CameraSetup(engine, gates_of(bundle), roi, finder)
        self._limits = manifest.gates

    def close(self) -> None:
        """Release the engine."""
        self._camera.engine.close()

    def picture(self, stored: Pixels) -> Frame:
        """(H, W) or (H, W, 3) as archived → uint8 as the network sees it: ROI, fixture, 8 bits.

        Raises PartError where the line would not judge it.
        """
        return self._camera.picture(stored, self._bits, {})

    def is_healthy(self, frame: Frame) -> bool:
        """The image gates let it through; a repeated picture is none of their business here."""
        if self._limits is None:
            return True
        return judge(self._camera.gates.measure(frame), self._limits, may_repeat=True) is None

    def maps(self, frame: Frame) -> tuple[Map, float]:
        """(K, h, w) raw logits, and the classification logit. Raises PartError."""
        out = np.empty(self._camera.engine.spec.map_shape, np.float32)
        return out, self._camera.engine.infer(frame, out)

    def margins(self, frame: Frame) -> dict[Decides, float]:
        """Of every score that the bundle has. Raises PartError."""
        amap, classification = self.maps(frame)
        features: npt.NDArray[np.float32] = self._index.features(amap)
        margins: dict[Decides, float] = {
            "map_max": float(features[-len(amap)]),
            "classification": classification,
        }
        if self._forest is not None:
            if self._with_classification:
                features = np.append(features, np.float32(classification))
            margins["segad"] = self._forest.margin(features)
        if self._units:
            margins["average"] = float(average({**margins}, self._units))
        return margins
