"""A recipe made ready for infer: bundle checked, engines warm, golden frames reproduced.

Nothing of a set-up is used before all of it is proved; whatever fails is an ArtefactError that
names the file, what was expected and what came. The set-up in force is not touched meanwhile.
"""

import contextlib
from collections.abc import Callable
from datetime import datetime, timezone

import cv2
import msgspec
import numpy as np

from appliance.bundle import Bundle, GateLimits, Golden, golden_outputs, load_bundle
from appliance.codes import OfflineReason, Reason
from appliance.config import Config, write_atomically
from appliance.engine import Engine, Passport, open_engine, passport_folder, passport_of
from appliance.errors import ArtefactError, PartError
from appliance.gates import Gates, gates_of
from appliance.pixels import Pixels
from appliance.recipe import load_recipe

HANG_LIMIT_NS = 500_000_000
"""Shortest limit of one call into an engine; a slow engine gets three times its warm-up p99."""

Roi = tuple[int, int, int, int]


class CameraSetup(msgspec.Struct, frozen=True):
    """What infer does with the frames of one camera."""

    engine: Engine
    gates: Gates | None
    roi: Roi | None

    def cut(self, frame: Pixels) -> Pixels:
        """The region of interest, a view. Raises PartError where the frame does not hold it."""
        if self.roi is None:
            return frame
        x, y, width, height = self.roi
        if x + width > frame.shape[1] or y + height > frame.shape[0]:
            raise PartError(
                Reason.INFERENCE_ERROR,
                f"expected a frame of at least {x + width}x{y + height} pixels (ROI {self.roi}), "
                f"got {frame.shape[1]}x{frame.shape[0]}",
            )
        return frame[y : y + height, x : x + width]


class Setup(msgspec.Struct, frozen=True):
    """One recipe, ready."""

    setup_hash: str
    passport: Passport
    cameras: dict[str, CameraSetup]
    gate_limits: GateLimits | None
    map_shape: tuple[int, int, int]
    hang_limit_ns: int
    is_simulated: bool

    def close(self) -> None:
        """Release the engines."""
        for camera in self.cameras.values():
            camera.engine.close()


def prepare(config: Config, recipe: str, setup_hash: str, beat: Callable[[], None]) -> Setup:
    """Load and prove the recipe "ID/VERSION". Raises ArtefactError.

    beat: called between the steps, each of which may take seconds.
    """
    loaded = load_recipe(config, recipe)
    if loaded.setup_hash != setup_hash:
        raise ArtefactError(
            config.recipes_dir / loaded.path,
            f"the set-up {setup_hash[:12]}…",
            f"{loaded.setup_hash[:12]}…",
            OfflineReason.NO_RECIPE,
        )
    bundle = load_bundle(config.bundles_dir / loaded.recipe.bundle_dir, loaded.recipe.bundle)
    beat()
    contract = bundle.manifest.input
    source = (contract.source_height_px, contract.source_width_px)
    passport = passport_of(config.engine, bundle)
    engines: dict[tuple[int, int], Engine] = {}
    times_ns: list[int] = []

    def engine_for(size: tuple[int, int]) -> Engine:
        if size not in engines:
            engine = open_engine(
                config.engine, bundle, *size, contract.channels, config.engines_dir
            )
            engines[size] = engine
            beat()
            times_ns.append(_warm_up(engine, bundle))
            beat()
        return engines[size]

    try:
        cameras: dict[str, CameraSetup] = {}
        for camera in config.camera:
            view = loaded.recipe.camera.get(camera.name)
            roi = view.roi if view else None
            if roi is not None and (min(roi) < 0 or min(roi[2:]) < 1):
                where = f"{config.recipes_dir / loaded.path}: camera.{camera.name}.roi"
                raise ArtefactError(
                    where, "x, y >= 0; width, height > 0", f"{roi}", OfflineReason.NO_RECIPE
                )
            engine = engine_for((roi[3], roi[2]) if roi else source)
            cameras[camera.name] = CameraSetup(engine, gates_of(bundle), roi)
        deviation = 0.0
        if bundle.manifest.kind != "null":
            deviation = _check_golden(engine_for(source), bundle, passport.precision, beat)
    except BaseException:
        for engine in engines.values():
            engine.close()
        raise
    in_use = {id(camera.engine) for camera in cameras.values()}
    for engine in engines.values():
        if id(engine) not in in_use:
            engine.close()
    setup = Setup(
        setup_hash=setup_hash,
        passport=passport,
        cameras=cameras,
        gate_limits=bundle.manifest.gates,
        map_shape=next(iter(engines.values())).spec.map_shape,
        hang_limit_ns=max(HANG_LIMIT_NS, 3 * max(times_ns)),
        is_simulated=any(engine.is_simulated for engine in engines.values()),
    )
    _write_passport(config, setup, max(times_ns), deviation, len(bundle.manifest.golden))
    return setup


def _warm_up(engine: Engine, bundle: Bundle) -> int:
    try:
        return engine.warm_up()
    except PartError as err:
        raise ArtefactError(
            bundle.path("network.onnx"), f"finite maps {engine.spec.map_shape}", err.detail
        ) from err


def _check_golden(
    engine: Engine, bundle: Bundle, precision: str, beat: Callable[[], None]
) -> float:
    """Largest difference to the stored answers, in logits. Raises ArtefactError beyond it."""
    manifest = bundle.path("manifest.json")
    if not bundle.manifest.golden:
        raise ArtefactError(
            f"{manifest}: golden", "at least one golden frame", "none", OfflineReason.PASSPORT
        )
    tolerance = bundle.manifest.tolerances.get(precision)
    if tolerance is None:
        raise ArtefactError(
            f"{manifest}: tolerances",
            f"a tolerance for {precision}",
            f"{sorted(bundle.manifest.tolerances)}",
            OfflineReason.PASSPORT,
        )
    largest = 0.0
    for golden in bundle.manifest.golden:
        deviation = _deviation(engine, bundle, golden)
        if not deviation <= tolerance:
            raise ArtefactError(
                bundle.path(golden.image),
                f"the stored map and score within {tolerance:g} logits ({precision})",
                f"a difference of {deviation:.3g}",
                OfflineReason.PASSPORT,
            )
        largest = max(largest, deviation)
        beat()
    return largest


def _deviation(engine: Engine, bundle: Bundle, golden: Golden) -> float:
    path = bundle.path(golden.image)
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ArtefactError(path, "a PNG image", "something else", OfflineReason.PASSPORT)
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    stored = golden_outputs(bundle.path(golden.outputs))
    out = np.empty(engine.spec.map_shape, np.float32)
    if stored["map"].shape != out.shape:
        raise ArtefactError(
            bundle.path(golden.outputs),
            f"a map {out.shape}",
            f"{stored['map'].shape}",
            OfflineReason.PASSPORT,
        )
    try:
        score = engine.infer(np.asarray(image, np.uint8), out)
    except PartError as err:
        raise ArtefactError(path, "a map and a score", err.detail, OfflineReason.PASSPORT) from err
    return max(
        float(np.abs(out - stored["map"]).max()), abs(score - float(stored["score"].reshape(-1)[0]))
    )


def _write_passport(
    config: Config, setup: Setup, p99_ns: int, deviation: float, golden: int
) -> None:
    """For people and support: what was measured when this set-up was proved."""
    record = {
        "id": setup.passport.id,
        **msgspec.structs.asdict(setup.passport),
        "setup_hash": setup.setup_hash,
        "warm_up_p99_ms": round(p99_ns / 1e6, 3),
        "hang_limit_ms": round(setup.hang_limit_ns / 1e6, 3),
        "golden_frames": golden,
        "golden_deviation": deviation,
        "checked_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    folder = passport_folder(setup.passport, config.engines_dir)
    # A full or read-only disk must not keep a proved engine from running.
    with contextlib.suppress(OSError):
        write_atomically(
            folder / "passport.json", msgspec.json.format(msgspec.json.encode(record), indent=1)
        )
