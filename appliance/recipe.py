"""What an engineer and an operator tune per product: `recipes/ID/VERSION.toml`, never overwritten.

A recipe names its bundle by id, says which score decides and holds the two limits as raw margins.
Two hashes come out of it: the hash of the whole file (on the PLC and in every row), and the
set-up hash, which leaves out what only the decision process reads (limits, which score decides),
so that a change of limits needs no camera and no engine to move.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import tomli_w

from appliance.atomic import write_atomically
from appliance.codes import OfflineReason
from appliance.config import Config
from appliance.errors import ArtefactError, ConfigError
from appliance.scores import Decides
from appliance.toml_file import Section, read_toml

_LARGEST = 3.4e38
"""Limits are compared as float32."""


class Limits(Section, frozen=True, kw_only=True):
    """OK below t1, NG from t2 up, UNCERTAIN between; raw margins, compared as float32."""

    t1: float
    t2: float
    set_by: str = ""
    reason: str = ""
    settings: dict[str, dict[str, str]] = msgspec.field(default_factory=dict[str, dict[str, str]])
    """Camera → feature → value as the device read it back when these limits were approved for it
    (`inspectd approve-camera`). A camera with others is refused; none = not approved for any."""


class Fixture(Section, frozen=True, kw_only=True):
    """How far a part may lie from where it lay in training, and what on it shows where it lies.

    The frame is moved (and turned, and scaled) before the network so that the region falls on its
    place; a part outside these limits, without the region, or cut off by the frame's edge ends as
    ERROR "fixture not found".
    """

    region: tuple[int, int, int, int]
    """x, y, width, height in the training images: something that every good part has, and once."""
    method: Literal["template", "ecc"] = "template"
    """"template": best place, in steps; "ecc": refined from there to a fraction of a pixel and of
    a degree by the enhanced correlation coefficient."""
    reference: str = "golden/00.png"
    """A picture in the bundle that shows the region where it belongs; a good golden frame."""
    max_shift_px: float
    """Of the region's middle, in pixels of the training images."""
    max_rotation_deg: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    """Smallest and largest; 1 = as in training."""
    min_likeness: float = 0.6
    """Correlation of the region with the reference, 1 = the same up to brightness and contrast."""


class View(Section, frozen=True, kw_only=True):
    """Settings of one camera for this product."""

    exposure_us: float | None = None
    gain_db: float | None = None
    pixel_format: str | None = None
    """SFNC name, for example "Mono8"; None leaves the device as it is."""
    sensor_roi: tuple[int, int, int, int] | None = None
    """x, y, width, height that the camera itself reads out; None leaves the device as it is."""
    binning: int | None = None
    balance_red: float | None = None
    balance_blue: float | None = None
    """White balance: factors of red and blue against green."""
    handling: Literal["OldestFirst", "NewestOnly"] | None = None
    """Which of several waiting pictures comes first; "NewestOnly" loses the others, counted."""
    roi: tuple[int, int, int, int] | None = None
    """x, y, width, height in pixels of the camera's frame, cut by infer before the network."""
    fixture: Fixture | None = None
    """Where parts do not lie still; `roi` then says where the training images lie in the frame,
    with a margin on every side for what lies elsewhere."""
    bundle: str | msgspec.UnsetType = msgspec.UNSET
    """Of this view, with `bundle_dir` and `limits`, where it is not judged by the recipe's own."""
    bundle_dir: str | msgspec.UnsetType = msgspec.UNSET
    decides: Decides | msgspec.UnsetType = msgspec.UNSET
    """Of this view, with `limits`."""
    limits: Limits | msgspec.UnsetType = msgspec.UNSET
    """Of this view; without them those of the recipe hold."""


class Terms(NamedTuple):
    """What the picture of one camera is judged by."""

    bundle: str
    bundle_dir: str
    decides: Decides
    limits: Limits


class Recipe(Section, frozen=True, kw_only=True):
    """One version of one product's recipe."""

    id: str
    version: int
    bundle: str
    """SHA-256 of the bundle's manifest."""
    bundle_dir: str
    """Directory below `bundles/`."""
    decides: Decides
    limits: Limits
    camera: dict[str, View] = msgspec.field(default_factory=dict[str, View])

    def terms(self, camera: str) -> Terms:
        """Of this camera: its own where it has them, else the recipe's."""
        view = self.camera.get(camera, View())
        return Terms(
            view.bundle or self.bundle,
            view.bundle_dir or self.bundle_dir,
            view.decides or self.decides,
            view.limits or self.limits,
        )

    def bundles(self, cameras: Sequence[str]) -> dict[str, str]:
        """Every bundle that one of these cameras uses → its directory, in their order."""
        terms = [self.terms(camera) for camera in cameras]
        return {of_view.bundle: of_view.bundle_dir for of_view in terms}


class LoadedRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """A recipe with where it came from and its hashes."""

    recipe: Recipe
    path: str
    """Below the recipes directory: "ID/VERSION.toml"."""
    hash: str
    """SHA-256 of the file's bytes."""
    setup_hash: str

    @property
    def name(self) -> str:
        """ "ID/VERSION"."""
        return f"{self.recipe.id}/{self.recipe.version}"

    @property
    def hash32(self) -> int:
        """First four bytes of the hash, as the PLC sees it."""
        return int(self.hash[:8], 16)


class RecipeError(ArtefactError):
    """A recipe that cannot be used."""

    def __init__(self, where: str | Path, expected: str, got: str) -> None:
        super().__init__(where, expected, got, OfflineReason.NO_RECIPE)


def setup_hash(recipe: Recipe) -> str:
    """Covers everything but the limits, which score decides and the version number.

    The settings that the limits were approved for are the camera's business: they are covered.
    """
    views = {
        name: msgspec.structs.replace(view, limits=msgspec.UNSET, decides=msgspec.UNSET)
        for name, view in recipe.camera.items()
    }
    fixed: tuple[object, ...] = (recipe.id, recipe.bundle, views)
    if recipe.limits.settings:
        fixed = (*fixed, recipe.limits.settings)
    return hashlib.sha256(msgspec.json.encode(fixed, order="deterministic")).hexdigest()


def load_recipe(config: Config, name: str) -> LoadedRecipe:
    """The recipe "ID/VERSION". Raises RecipeError: file, key, expected, got."""
    identity, _, version = name.partition("/")
    is_name = identity == Path(identity).name and identity not in ("", "..")
    if not is_name or not version.isdecimal():
        raise RecipeError(config.recipes_dir, 'a recipe name like "cell/3"', repr(name))
    path = config.recipes_dir / identity / f"{version}.toml"
    recipe = read_toml(path, Recipe, RecipeError)
    if (recipe.id, str(recipe.version)) != (identity, version):
        raise RecipeError(path, f"id and version {name}", f"{recipe.id}/{recipe.version}")
    _check_limits(f"{path}: limits", recipe.limits)
    for where, cameras in (("camera", recipe.camera), ("limits.settings", recipe.limits.settings)):
        for camera in cameras:
            if camera not in config.cameras:
                raise RecipeError(f"{path}: {where}", "a camera of config.toml", repr(camera))
    for camera, view in recipe.camera.items():
        _check_view(f"{path}: camera.{camera}", view)
    return LoadedRecipe(
        recipe=recipe,
        path=f"{identity}/{version}.toml",
        hash=hashlib.sha256(path.read_bytes()).hexdigest(),
        setup_hash=setup_hash(recipe),
    )


def load_setup(config: Config, name: str, setup_hash: str) -> LoadedRecipe:
    """The same for a process that is asked to prepare it. Raises RecipeError, too, where the file
    holds another set-up than decide has read."""
    loaded = load_recipe(config, name)
    if loaded.setup_hash != setup_hash:
        expected, got = f"the set-up {setup_hash[:12]}…", f"{loaded.setup_hash[:12]}…"
        raise RecipeError(config.recipes_dir / loaded.path, expected, got)
    return loaded


def _check_limits(where: str, limits: Limits) -> None:
    if not -_LARGEST <= limits.t1 <= limits.t2 <= _LARGEST:
        raise RecipeError(where, "finite t1 <= t2 (float32)", f"t1 {limits.t1}, t2 {limits.t2}")


def _check_view(where: str, view: View) -> None:
    """Limits belong to one bundle and one score: another one's prove nothing."""
    if view.roi is not None and (min(view.roi) < 0 or min(view.roi[2:]) < 1):
        raise RecipeError(f"{where}.roi", "x, y >= 0; width, height > 0", f"{view.roi}")
    if bool(view.bundle) != bool(view.bundle_dir):
        got = "bundle" if view.bundle else "bundle_dir"
        raise RecipeError(where, "bundle and bundle_dir together", f"{got} alone")
    if view.limits and view.limits.settings:
        expected = "none: the settings of all cameras stand in the recipe's own limits"
        raise RecipeError(f"{where}.limits.settings", expected, ", ".join(view.limits.settings))
    if view.limits:
        _check_limits(f"{where}.limits", view.limits)
    elif view.bundle or view.decides:
        expected = "the view's own limits beside its own bundle or decides"
        raise RecipeError(f"{where}.limits", expected, "none")


def write_recipe(config: Config, recipe: Recipe) -> Path:
    """A new version on disk, atomically. Raises ConfigError where that version exists."""
    path = config.recipes_dir / recipe.id / f"{recipe.version}.toml"
    if path.exists():
        raise ConfigError(path, "a version that is not there yet", "an existing file")
    raw = msgspec.to_builtins(recipe)
    raw["camera"] = {
        name: {key: value for key, value in view.items() if value is not None}
        for name, view in raw["camera"].items()
    }
    write_atomically(path, tomli_w.dumps(raw).encode())
    return path
