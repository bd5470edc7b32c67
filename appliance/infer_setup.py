"""A recipe made ready for infer: bundles checked, engines warm, golden frames reproduced.

Nothing of a set-up is used before all of it is proved; whatever fails is an ArtefactError that
names the file, what was expected and what came. The set-up in force is not touched meanwhile.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timezone

import msgspec

from appliance.bundle import Bundle, GateLimits, load_bundle
from appliance.codes import Reason
from appliance.config import Config
from appliance.engine import Engine, Frame, figures_of
from appliance.engine_opening import open_engine, passport_of
from appliance.errors import ArtefactError, PartError
from appliance.fixture import Finder, finder_of
from appliance.golden import GoldenFrames
from appliance.image_gates import Gates, gates_of, judge
from appliance.messages import FrameReady, PixelRef, Scored
from appliance.passport import (
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
from appliance.recipe import LoadedRecipe, load_setup

HANG_LIMIT_NS = 500_000_000
"""Shortest limit of one call into an engine; a slow engine gets three times its warm-up p99."""

Roi = tuple[int, int, int, int]


class CameraSetup(msgspec.Struct, frozen=True):
    """What infer does with the frames of one camera."""

    engine: Engine
    gates: Gates
    roi: Roi | None
    finder: Finder | None = None
    gate_limits: GateLimits | None = None
    """None: the bundle has learnt none. That a device is frozen shows without them."""
    passport: str = ""
    """Its id."""

    @property
    def map_shape(self) -> tuple[int, int, int]:
        """Detectors, height and width of its maps."""
        return self.engine.spec.map_shape

    def look(
        self,
        pixels: Pixels,
        frame: FrameReady,
        gates: dict[str, float],
        stages_ns: dict[str, int],
    ) -> Frame:
        """What the network will see, its image gates passed.

        Fills `gates` and `stages_ns` as far as it gets. Raises PartError. The one way of the line
        and of replay.
        """
        begun = time.monotonic_ns()
        channels, wanted = pixels.shape[2] if pixels.ndim == 3 else 1, self.engine.spec.channels
        if channels != wanted:  # OpenCV ends a process over such pictures
            expected = f"expected a frame of {wanted} channel(s)"
            raise PartError(Reason.INFERENCE_ERROR, f"{expected}, got {pixels.shape}")
        picture = self.picture(pixels, frame.bits, gates)
        if self.finder is not None:
            stages_ns["fixture"] = time.monotonic_ns() - begun
        limits = self.gate_limits
        if limits is None and frame.is_simulated:
            return picture  # there is nothing to judge it by
        gates.update((self.gates.compare if limits is None else self.gates.measure)(picture))
        gates["identical"] = max(gates["identical"], float(frame.is_repeat))
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
    cameras: dict[str, CameraSetup]
    goldens: tuple[GoldenFrames, ...]
    """Of each of its bundles; none of the null engine, which proves nothing."""
    hang_limit_ns: int
    is_simulated: bool

    @property
    def passports(self) -> str:
        """Ids: one for each bundle, or for each plan of it."""
        return " ".join(dict.fromkeys(camera.passport for camera in self.cameras.values()))

    def figures(self) -> dict[str, float]:
        """Of its engines, for health; see `figures_of`."""
        return figures_of(dict.fromkeys(camera.engine for camera in self.cameras.values()))

    def score_of(
        self,
        frame: FrameReady,
        amap: PixelRef,
        classification: float,
        gates: dict[str, float],
        stages_ns: dict[str, int],
        worker: str = "",
    ) -> Scored:
        """What the engine of this frame's camera said. worker: "" in a replay."""
        return Scored(
            camera=frame.camera,
            part_id=frame.part_id,
            frame_id=frame.frame_id,
            setup_hash=self.setup_hash,
            map=amap,
            classification=classification,
            gates=gates,
            stages_ns=stages_ns,
            worker=worker,
            passport=self.cameras[frame.camera].passport,
            is_simulated=self.is_simulated or frame.is_simulated,
        )

    def close(self) -> None:
        """Release the engines."""
        for camera in self.cameras.values():
            camera.engine.close()
        for golden in self.goldens:
            golden.engine.close()


def prepare(config: Config, recipe: str, setup_hash: str, beat: Callable[[], None]) -> Setup:
    """Load and prove the recipe "ID/VERSION". Raises ArtefactError.

    beat: called between the steps, each of which may take seconds.
    """
    return prove(config, load_setup(config, recipe, setup_hash), beat)


def prove(config: Config, loaded: LoadedRecipe, beat: Callable[[], None]) -> Setup:
    """See `prepare`: the same for a recipe that is read already."""
    try:
        return _proved(config, loaded, beat)
    except MemoryError as err:  # a region of interest with some zeros too many
        told = str(err) or "none left"
        path = config.recipes_dir / loaded.path
        raise ArtefactError(path, "room in memory for its engines and pictures", told) from err


def _proved(config: Config, loaded: LoadedRecipe, beat: Callable[[], None]) -> Setup:
    provers: dict[str, _Prover] = {}
    try:
        for bundle, bundle_dir in loaded.recipe.bundles(config.cameras).items():
            provers[bundle] = _Prover(
                config, load_bundle(config.bundles_dir / bundle_dir, bundle), beat
            )
            beat()
        cameras = {
            name: provers[loaded.recipe.terms(name).bundle].camera(loaded, name)
            for name in config.cameras
        }
        for prover in provers.values():
            prover.prove(loaded.setup_hash)
    except BaseException:
        for prover in provers.values():
            prover.close()
        raise
    return Setup(
        setup_hash=loaded.setup_hash,
        cameras=cameras,
        goldens=tuple(prover.golden for prover in provers.values() if prover.golden is not None),
        hang_limit_ns=max(prover.hang_limit_ns for prover in provers.values()),
        is_simulated=any(camera.engine.is_simulated for camera in cameras.values()),
    )


class _Prover:
    """One bundle on its way into a set-up: an engine for each size of picture, warm.

    Raises ArtefactError.
    """

    def __init__(self, config: Config, bundle: Bundle, beat: Callable[[], None]) -> None:
        self._config, self._bundle, self._beat = config, bundle, beat
        self._engines: dict[tuple[int, int], Engine] = {}
        self._cameras = Counter[Engine]()
        self._times_ns: list[int] = []
        self._passport = passport_of(config.engine, bundle, config.engines_dir)
        self.golden: GoldenFrames | None = None

    def camera(self, loaded: LoadedRecipe, name: str) -> CameraSetup:
        """What is done with this camera's frames."""
        where = f"{self._config.recipes_dir / loaded.path}: camera.{name}"
        view = loaded.recipe.camera.get(name)
        roi = view.roi if view else None
        finder = None
        if view is not None and view.fixture is not None:
            finder = finder_of(view.fixture, self._bundle, roi, f"{where}.fixture")
        engine = self._engine((roi[3], roi[2]) if roi else self._source)
        self._cameras[engine] += 1
        limits = self._bundle.manifest.gates
        passport = self._passport.with_plan(engine.plan).id
        return CameraSetup(engine, gates_of(self._bundle), roi, finder, limits, passport)

    @property
    def hang_limit_ns(self) -> int:
        """Of one call into one of its engines."""
        return max(HANG_LIMIT_NS, 3 * max(self._times_ns))

    @property
    def _source(self) -> tuple[int, int]:
        """Height and width of the pictures that the bundle was trained on."""
        contract = self._bundle.manifest.input
        return contract.source_height_px, contract.source_width_px

    def prove(self, setup_hash: str) -> None:
        """All are warm, and the golden frames give their stored answers; noted beside the engine
        where all did."""
        is_null = self._bundle.manifest.kind == "null"
        if not is_null:
            self._engine(self._source)  # the size of the golden frames
        for engine in self._engines.values():
            self._times_ns.append(_warm_up(engine, self._bundle, self._cameras[engine]))
            self._beat()
        if is_null:
            return
        passport = self._passport
        engine = self._engine(self._source)
        golden = GoldenFrames(engine, self._bundle, passport.precision)
        self.golden = golden
        proved = passport.with_plan(engine.plan).id
        how_many = golden_due(passport.folder(self._config.engines_dir), setup_hash, proved)
        deviation = golden.check(how_many, self._beat)
        if how_many == "all":
            proof = Proof(
                setup_hash=setup_hash,
                passport=proved,
                boot=boot_id(),
                at_s=round(seconds_since_boot(), 3),
                checked_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
                golden_frames=len(golden.frames),
                golden_deviation=deviation,
                tolerance=golden.tolerance,
                warm_up_p99_ms=round(max(self._times_ns) / 1e6, 3),
                hang_limit_ms=round(self.hang_limit_ns / 1e6, 3),
            )
            _note(self._config, passport, proof)

    def close(self) -> None:
        """Nothing of it is used."""
        for engine in self._engines.values():
            engine.close()

    def _engine(self, size: tuple[int, int]) -> Engine:
        if size not in self._engines:
            channels = self._bundle.manifest.input.channels
            cache = self._config.engines_dir
            engine = open_engine(
                self._config.engine, self._bundle, *size, channels, cache, self._passport
            )
            self._engines[size] = engine
            self._beat()
        return self._engines[size]


def _warm_up(engine: Engine, bundle: Bundle, cameras: int) -> int:
    try:
        return engine.warm_up(max(1, cameras))
    except PartError as err:
        raise ArtefactError(
            bundle.path("network.onnx"), f"finite maps {engine.spec.map_shape}", err.detail
        ) from err


def _note(config: Config, passport: Passport, proof: Proof) -> None:
    """Passport and proof beside the engine: for people, support, and the next start."""
    folder = passport.folder(config.engines_dir)
    # A full or read-only disk must not keep a proved engine from running.
    with contextlib.suppress(OSError):
        if not (folder / "passport.json").exists():  # what was built here has its own already
            write_record(folder, Record(id=passport.id, passport=passport))
        write_proof(folder, proof)
