"""Images of parts for the pages: one reduced JPEG per view for all clients, made once.

Taken from the ring (read-only) while the frame is there, else from the archive; a map else from
where the caller knows. May run in a thread of its own, one call at a time. A frame that is
overwritten meanwhile gives no image, never another part's.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from appliance.archive import image_path, read_image, view_path
from appliance.codes import Word
from appliance.config import Config
from appliance.errors import ConfigError, PartError
from appliance.frames import RingReader
from appliance.hmi_screen import Picture
from appliance.images import heat_png, outline_png, reduced_jpeg, stored_bits
from appliance.messages import PixelRef, Verdict
from appliance.pixels import Pixels
from appliance.recipe import Recipe, load_recipe

KEPT = 200
"""Parts whose images are kept; as many rejects besides, which the page shows for longer."""
_KEPT_RECIPES = 32
"""Recipe and camera."""


class Images(msgspec.Struct, frozen=True, kw_only=True):
    """What the address of one part, or of one view of it, serves."""

    picture: Picture
    jpeg: bytes
    heat: bytes
    """PNG with opacity; b"" = no map."""


class _Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What a recipe says about its pictures."""

    recipe: Recipe
    bundle: str
    labels: npt.NDArray[np.uint8] | None


Maps = npt.NDArray[np.float32]


class Pictures:
    """Makes images of parts and keeps the newest.

    recorded: asked for the map of a part that the ring does not hold any more; it answers with
    (K · h, w), or None.
    """

    def __init__(
        self, config: Config, recorded: Callable[[Verdict], Maps | None] = lambda verdict: None
    ) -> None:
        self._config, self._recorded = config, recorded
        self._rings = RingReader(config.rings_dir)
        # Part and camera; "" = the camera whose view decided, or the only one.
        self._kept: OrderedDict[tuple[int, str], Images] = OrderedDict()
        self._rejects: OrderedDict[tuple[int, str], Images] = OrderedDict()
        self._settings: OrderedDict[tuple[str, str], _Setting] = OrderedDict()
        self._outlines: dict[str, bytes] = {}
        self.made = 0
        self.failed = 0

    def get(self, part_id: int, camera: str = "") -> Images | None:
        """Images that were made already. camera: see `make`."""
        key = part_id, camera
        return self._kept.get(key) or self._rejects.get(key)

    def outline(self, name: str) -> bytes | None:
        """The outline image that a `Picture` names."""
        return self._outlines.get(name)

    def make(self, part: Verdict, camera: str = "") -> Images | None:
        """Images of this part, or None where neither ring nor archive has its frame (any more).

        camera: of several, whose view; "" = the one that decided.
        """
        if known := self.get(part.part_id, camera):
            return known
        views = {view.camera: view for view in part.by_view()}
        verdict = views.get(camera or part.camera)
        if verdict is None:
            return None
        setting = self._setting(verdict.recipe, verdict.camera)
        frame = self._frame(verdict, camera)
        if frame is None:
            self.failed += 1
            return None
        jpeg, size_px = reduced_jpeg(frame, self._bits(setting, verdict.camera))
        heat = self._heat(verdict, setting)
        view = setting.recipe.camera.get(verdict.camera) if setting else None
        images = Images(
            picture=Picture(
                size_px=size_px,
                roi_px=view.roi if view and view.roi else (0, 0, *size_px),
                has_heat=bool(heat),
                regions=self._regions(setting),
            ),
            jpeg=jpeg,
            heat=heat,
        )
        self.made += 1
        kept = self._rejects if part.word is Word.NG else self._kept
        kept[part.part_id, camera] = images
        while len(kept) > KEPT * len(views):
            kept.popitem(last=False)
        return images

    def _frame(self, verdict: Verdict, camera: str) -> Pixels | None:
        frame = self._from_ring(verdict.pixels)
        if frame is not None:
            return frame
        path = image_path(verdict.part_id, verdict.opened_utc_ns)
        try:
            return read_image(self._config.data_dir / (view_path(path, camera) if camera else path))
        except OSError:
            return None

    def _from_ring(self, ref: PixelRef | None) -> npt.NDArray[Any] | None:
        if ref is None:
            return None
        try:
            return self._rings.copy(ref)
        except (PartError, ConfigError):
            return None

    def _heat(self, verdict: Verdict, setting: _Setting | None) -> bytes:
        margin, t1, t2 = verdict.margin, verdict.t1, verdict.t2
        if margin is None or t1 is None or t2 is None or not np.isfinite(margin):
            return b""
        amap = self._map(verdict, setting)
        if amap is None:
            return b""
        labels = setting.labels if setting else None
        return heat_png(amap, margin, t1, t2, verdict.decides == "map_max", labels)

    def map(self, verdict: Verdict) -> Maps | None:
        """(K, h, w) raw logits of this part, or None where nobody holds them (any more)."""
        return self._map(verdict, self._setting(verdict.recipe, verdict.camera))

    def _map(self, verdict: Verdict, setting: _Setting | None) -> Maps | None:
        if (amap := self._from_ring(verdict.map)) is not None:
            return amap.astype(np.float32) if amap.ndim == 3 else None
        if (stacked := self._recorded(verdict)) is None:
            return None
        labels = setting.labels if setting else None
        height = stacked.shape[0] if labels is None else labels.shape[0]
        if stacked.shape[0] % height:
            return None  # of another size than the segment map: not of this bundle
        return stacked.reshape(-1, height, stacked.shape[1])

    def _regions(self, setting: _Setting | None) -> str:
        if setting is None or setting.labels is None:
            return ""
        name = setting.bundle[:16]
        if name not in self._outlines:
            self._outlines[name] = outline_png(setting.labels)
        return name

    def _bits(self, setting: _Setting | None, camera: str) -> int:
        view = setting.recipe.camera.get(camera) if setting else None
        return stored_bits(view.pixel_format if view else None)

    def _setting(self, name: str, camera: str) -> _Setting | None:
        """A recipe and its segment map; None where it cannot be read: the frame is shown bare."""
        if (name, camera) in self._settings:
            return self._settings[name, camera]
        try:
            recipe = load_recipe(self._config, name).recipe
        except ConfigError:
            return None
        bundle, bundle_dir, _, _ = recipe.terms(camera)
        path = self._config.bundles_dir / bundle_dir / "segments.png"
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        is_map = labels is not None and labels.ndim == 2 and labels.dtype == np.uint8
        setting = _Setting(
            recipe=recipe, bundle=bundle, labels=np.asarray(labels, np.uint8) if is_map else None
        )
        self._settings[name, camera] = setting
        while len(self._settings) > _KEPT_RECIPES:
            self._settings.popitem(last=False)
        return setting
