"""A recipe made ready for infer: bundle checked, engines warm, golden frames reproduced.

Nothing of a set-up is used before all of it is proved; whatever fails is an ArtefactError that
names the file, what was expected and what came. The set-up in force is not touched meanwhile.
"""

import contextlib
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Literal

import cv2
import msgspec
import numpy as np

from appliance.bundle import Bundle, GateLimits, Golden, golden_outputs, load_bundle
from appliance.codes import OfflineReason, Reason
from appliance.config import Config
from appliance.engine import Engine, Frame, open_engine, passport_of
from appliance.errors import ArtefactError, PartError
from appliance.fixture import Finder, finder_of
from appliance.gates import Gates, gates_of, judge
from appliance.messages import FrameReady
from appliance.passport import (
    DAY_NS,
    Passport,
    Proof,
    Record,
    boot_id,
    golden_due,
    seconds_since_boot,
    write_proof,
    write_record,
)
from appliance.pixels import Pixels, to_8_bit
from appliance.recipe import LoadedRecipe, load_recipe

HANG_LIMIT_NS = 500_000_000
"""Shortest limit of one call into an engine; a slow engine gets three times its warm-up p99."""

Roi = tuple[int, int, int, int]


class CameraSetup(msgspec.Struct, frozen=True):
    """What infer does with the frames of one camera."""

    engine: Engine
    gates: Gates | None
    roi: Roi | None
    finder: Finder | None = None

    def look(
        self,
        pixels: Pixels,
        frame: FrameReady,
        limits: GateLimits | None,
        gates: dict[str, float],
        stages_ns: dict[str, int],
    ) -> Frame:
        """What the network will see, its image gates passed.

        Fills `gates` and `stages_ns` as far as it gets. Raises PartError. The one way of the line
        and of replay.
        """
        begun = time.monotonic_ns()
        picture = self.picture(pixels, frame.bits, gates)
        if self.finder is not None:
            stages_ns["fixture"] = time.monotonic_ns() - begun
        if self.gates is not None and limits is not None:
            gates.update(self.gates.measure(picture))
            fault = judge(gates, limits, may_repeat=frame.is_simulated)
            stages_ns["gates"] = time.monotonic_ns() - begun
            if fault is not None:
                raise PartError(*fault)
        return picture

    def picture(self, frame: Pixels, bits: int, figures: dict[str, float]) -> Frame:
        """What the network sees: 8 bits, the region of interest, the part where it belongs.

        Fills `figures` with where the part lay. Raises PartError where the frame does not hold the
        region of interest, the fixture is not found or the part lies in part beyond the frame.
        """
        if self.finder is None:
            return to_8_bit(self._cut(frame), bits)
        whole = to_8_bit(frame, bits)
        found = self.finder.locate(whole)
        figures.update(found.figures())
        return self.finder.placed(whole, found)

    def _cut(self, frame: Pixels) -> Pixels:
        """The region of interest, a view."""
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
    golden: "GoldenFrames | None"
    """None: the null engine, which proves nothing."""

    def close(self) -> None:
        """Release the engines."""
        for camera in self.cameras.values():
            camera.engine.close()
        if self.golden is not None:
            self.golden.engine.close()


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
    return prove(config, loaded, beat)


def prove(config: Config, loaded: LoadedRecipe, beat: Callable[[], None]) -> Setup:
    """See `prepare`: the same for a recipe that is read already."""
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
            where = f"{config.recipes_dir / loaded.path}: camera.{camera.name}.fixture"
            finder = None
            if view is not None and view.fixture is not None:
                finder = finder_of(view.fixture, bundle, roi, where)
            engine = engine_for((roi[3], roi[2]) if roi else source)
            cameras[camera.name] = CameraSetup(engine, gates_of(bundle), roi, finder)
        golden, deviation, how_many = None, 0.0, "all"
        if bundle.manifest.kind != "null":
            golden = GoldenFrames(engine_for(source), bundle, passport.precision)
            how_many = golden_due(passport.folder(config.engines_dir), loaded.setup_hash)
            deviation = golden.check(how_many, beat)
    except BaseException:
        for engine in engines.values():
            engine.close()
        raise
    setup = Setup(
        setup_hash=loaded.setup_hash,
        passport=passport,
        cameras=cameras,
        gate_limits=bundle.manifest.gates,
        map_shape=next(iter(engines.values())).spec.map_shape,
        hang_limit_ns=max(HANG_LIMIT_NS, 3 * max(times_ns)),
        is_simulated=any(engine.is_simulated for engine in engines.values()),
        golden=golden,
    )
    if golden is not None and how_many == "all":
        _note(config, setup, golden, deviation, max(times_ns))
    return setup


def _warm_up(engine: Engine, bundle: Bundle) -> int:
    try:
        return engine.warm_up()
    except PartError as err:
        raise ArtefactError(
            bundle.path("network.onnx"), f"finite maps {engine.spec.map_shape}", err.detail
        ) from err


class GoldenFrames:
    """The frames of a bundle with their stored answers, and the engine that must give them.

    Raises ArtefactError, OfflineReason PASSPORT, where there are none or no tolerance is stated.
    """

    def __init__(self, engine: Engine, bundle: Bundle, precision: str) -> None:
        self.engine, self._bundle, self._precision = engine, bundle, precision
        manifest = bundle.path("manifest.json")
        self.frames = bundle.manifest.golden
        if not self.frames:
            raise ArtefactError(
                f"{manifest}: golden", "at least one golden frame", "none", OfflineReason.PASSPORT
            )
        if precision not in bundle.manifest.tolerances:
            raise ArtefactError(
                f"{manifest}: tolerances",
                f"a tolerance for {precision}",
                f"{sorted(bundle.manifest.tolerances)}",
                OfflineReason.PASSPORT,
            )
        self.tolerance = bundle.manifest.tolerances[precision]

    def check(self, how_many: Literal["all", "two"], beat: Callable[[], None]) -> float:
        """Largest difference to the stored answers, in logits. Raises ArtefactError beyond it.

        "two": the first, a good one, and the last, a bad one where there are any.
        """
        chosen = self.frames
        if how_many == "two" and len(chosen) > 2:
            chosen = (chosen[0], chosen[-1])
        largest = 0.0
        for golden in chosen:
            largest = max(largest, self.prove(golden))
            beat()
        return largest

    def prove(self, golden: Golden) -> float:
        """Difference of one frame's answer, in logits. Raises ArtefactError beyond tolerance."""
        deviation = self._deviation(golden)
        if not deviation <= self.tolerance:
            raise ArtefactError(
                self._bundle.path(golden.image),
                f"the stored map and score within {self.tolerance:g} logits ({self._precision})",
                f"a difference of {deviation:.3g}",
                OfflineReason.PASSPORT,
            )
        return deviation

    def _deviation(self, golden: Golden) -> float:
        path = self._bundle.path(golden.image)
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if image is None:
            raise ArtefactError(path, "a PNG image", "something else", OfflineReason.PASSPORT)
        if image.ndim == 3:
            image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        stored = golden_outputs(self._bundle.path(golden.outputs))
        out = np.empty(self.engine.spec.map_shape, np.float32)
        if stored["map"].shape != out.shape:
            raise ArtefactError(
                self._bundle.path(golden.outputs),
                f"a map {out.shape}",
                f"{stored['map'].shape}",
                OfflineReason.PASSPORT,
            )
        try:
            score = self.engine.infer(np.asarray(image, np.uint8), out)
        except PartError as err:
            raise ArtefactError(
                path, "a map and a score", err.detail, OfflineReason.PASSPORT
            ) from err
        return max(
            float(np.abs(out - stored["map"]).max()),
            abs(score - float(stored["score"].reshape(-1)[0])),
        )


class DailyProof:
    """All golden frames once a day, one at a time while no frame waits.

    A frame that comes meanwhile waits for one inference at most, so that this runs whenever the
    line is quiet and Ready need not fall for it. On a line that is never quiet it does not run;
    there every start, and every change of recipe, is the proof.
    """

    def __init__(self, golden: GoldenFrames, now_ns: int) -> None:
        self._golden = golden
        self._proved_ns = now_ns
        self._left: list[Golden] = []

    def is_due(self, now_ns: int) -> bool:
        """A frame is to be proved now, or as soon as the line is quiet."""
        return bool(self._left) or now_ns - self._proved_ns >= DAY_NS

    def step(self, now_ns: int) -> None:
        """Prove one frame. Raises ArtefactError where the engine no longer answers as stored."""
        if not self._left:
            self._left = list(self._golden.frames)
        self._golden.prove(self._left.pop())
        if not self._left:
            self._proved_ns = now_ns


def _note(
    config: Config, setup: Setup, golden: GoldenFrames, deviation: float, p99_ns: int
) -> None:
    """Passport and proof beside the engine: for people, support, and the next start."""
    passport = setup.passport
    folder = passport.folder(config.engines_dir)
    proof = Proof(
        setup_hash=setup.setup_hash,
        boot=boot_id(),
        at_s=round(seconds_since_boot(), 3),
        checked_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        golden_frames=len(golden.frames),
        golden_deviation=deviation,
        tolerance=golden.tolerance,
        warm_up_p99_ms=round(p99_ns / 1e6, 3),
        hang_limit_ms=round(setup.hang_limit_ns / 1e6, 3),
    )
    # A full or read-only disk must not keep a proved engine from running.
    with contextlib.suppress(OSError):
        if not (folder / "passport.json").exists():  # what was built here has its own already
            write_record(folder, Record(id=passport.id, passport=passport))
        write_proof(folder, proof)
