"""What infer says today to the pictures of a recording: its look, its gates, its engine.

Enters: the tape with its pictures. Leaves: the same, each score with the answer of this
installation beside it. Where a picture was not kept, or infer failed for no fault of the picture,
there is none: what was said then is all that there is. No sockets, no rings, no clock.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from appliance.bundle import load_bundle
from appliance.codes import Reason
from appliance.config import Config
from appliance.errors import PartError
from appliance.infer_setup import Setup, prove
from appliance.messages import FrameReady, InferFailed, PartOpened, PixelRef, Scored
from appliance.recipe import LoadedRecipe
from appliance.replay_tape import Heard
from appliance.scoring import Scorer

_AHEAD = 64
"""How far the first part of a set-up is looked for. decide hears of scores and frames on two
sockets: where a frame opens its part, the first score of all may stand before it."""
_OF_THE_PICTURE = frozenset(
    {Reason.IMAGE_HEALTH, Reason.FIXTURE, Reason.INVALID_NUMBER, Reason.INFERENCE_ERROR}
)
"""Failures of infer that the same picture gives again; the others were accidents of the line."""


class Memory:
    """Maps of the parts in hand: what a ring is on the line."""

    def __init__(self) -> None:
        self._maps: dict[int, npt.NDArray[np.float32]] = {}
        self._made = 0

    def put(self, amap: npt.NDArray[np.float32]) -> PixelRef:
        """Keep it for a while."""
        self._made += 1
        self._maps[self._made] = amap
        if len(self._maps) > 64:
            del self._maps[next(iter(self._maps))]
        return PixelRef(
            ring="memory", epoch=0, slot=0, sequence=self._made, shape=amap.shape, dtype="float32"
        )

    def view(self, ref: PixelRef) -> npt.NDArray[Any]:
        """Raises PartError where it is gone."""
        amap = self._maps.get(ref.sequence)
        if amap is None:
            raise PartError(Reason.FRAME_OVERWRITTEN, "more maps wait than replay keeps")
        return amap

    def check(self, ref: PixelRef) -> None:
        """Raises PartError where it is gone."""
        self.view(ref)


_NOWHERE = PixelRef(ring="", epoch=0, slot=0, sequence=0, shape=(), dtype="float32")


class Engines:
    """Set-ups and scorers of one installation, proved as on the line and kept between recordings.

    Engines belong to the thread that asks for them first. Call `close` at the end.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._setups: dict[str, Setup] = {}
        self._scorers: dict[str, Scorer] = {}

    def setup(self, recipe: LoadedRecipe) -> Setup:
        """Raises ArtefactError: the bundle is not the one that the recipe names, or damaged."""
        setup = self._setups.get(recipe.setup_hash)
        if setup is None:
            setup = prove(self._config, recipe, _nothing)
            self._setups[recipe.setup_hash] = setup
        return setup

    def scorer(self, recipe: LoadedRecipe, camera: str) -> Scorer:
        """Raises ArtefactError, as on the line."""
        bundle, bundle_dir, _, _ = recipe.recipe.terms(camera)
        if bundle not in self._scorers:
            folder = self._config.bundles_dir / bundle_dir
            self._scorers[bundle] = Scorer(load_bundle(folder, bundle))
        scorer = self._scorers[bundle]
        scorer.check(recipe, camera)
        return scorer

    def begin(self) -> None:
        """Another recording: no picture of it is the same as the last one of the one before."""
        for setup in self._setups.values():
            for camera in setup.cameras.values():
                camera.gates.forget()

    def close(self) -> None:
        """Release the engines."""
        for setup in self._setups.values():
            setup.close()


def _nothing() -> None:
    """Nobody waits for a sign of life."""


class Recipes(NamedTuple):
    """What judged a part, and what judges it now: the same, but for a what-if."""

    then: LoadedRecipe
    now: LoadedRecipe


class Mapped(NamedTuple):
    """A score and its map; no ring holds it, so `scored.map` says nothing."""

    scored: Scored
    map: npt.NDArray[np.float32]
    """(K, H, W) raw logits."""


class Answer(NamedTuple):
    """One entry of the tape, and what is said to it today."""

    heard: Heard
    recipes: Recipes | None = None
    """Of a part that is opened."""
    said: Mapped | InferFailed | None = None
    """Of a score; None where what was said then must do."""
    is_blind: bool = False
    """A score without the picture that it takes to say it again."""


class Infer:
    """The answers. `engine_ns`: time spent in engines, what the throughput is measured against.

    recipes_of: of a part that is opened; raises ArtefactError.
    """

    def __init__(self, engines: Engines, recipes_of: Callable[[PartOpened], Recipes]) -> None:
        self._engines, self._recipes_of = engines, recipes_of
        self._judges: dict[str, LoadedRecipe] = {}
        """Set-up of that day → the recipe that judges now."""
        self.engine_ns = 0

    def answers(self, tape: Iterable[Heard]) -> Iterator[Answer]:
        """One per entry, in their order. Raises ArtefactError."""
        self._engines.begin()
        rest, waiting = iter(tape), deque[Heard]()
        while True:
            if not waiting and (following := next(rest, None)) is not None:
                waiting.append(following)
            if not waiting:
                return
            heard = waiting.popleft()
            if heard.is_after_gap:
                self._judges = {}
            match heard.message:
                case PartOpened() as opened:
                    recipes = self._recipes_of(opened)
                    self._judges[recipes.then.setup_hash] = recipes.now
                    yield Answer(heard, recipes)
                case Scored() | InferFailed() as then:
                    if then.setup_hash not in self._judges:
                        self._look_ahead(then.setup_hash, rest, waiting)
                    yield self._answer(heard, then)
                case _:
                    yield Answer(heard)

    def _look_ahead(self, setup_hash: str, rest: Iterator[Heard], waiting: deque[Heard]) -> None:
        """Find the part that this set-up opens with; what is passed over waits for its turn."""
        looked = 0
        while looked < _AHEAD:
            if looked == len(waiting):
                following = next(rest, None)
                if following is None:
                    return
                waiting.append(following)
            message = waiting[looked].message
            looked += 1
            if isinstance(message, PartOpened):
                recipes = self._recipes_of(message)
                if recipes.then.setup_hash == setup_hash:
                    self._judges[setup_hash] = recipes.now
                    return

    def _answer(self, heard: Heard, then: Scored | InferFailed) -> Answer:
        if isinstance(then, InferFailed) and then.reason not in _OF_THE_PICTURE:
            return Answer(heard)
        recipe = self._judges.get(then.setup_hash)
        if heard.seen is None or heard.pixels is None or recipe is None:
            return Answer(heard, is_blind=True)
        setup = self._engines.setup(recipe)
        setup.cameras[then.camera].gates.look_as(then.worker)
        said = answer(setup, heard.seen.frame, heard.pixels)
        if isinstance(said, Mapped):
            self.engine_ns += said.scored.stages_ns["engine"]
        return Answer(heard, said=said)


def answer(setup: Setup, frame: FrameReady, pixels: npt.NDArray[Any]) -> Mapped | InferFailed:
    """What infer says to a picture."""
    camera = setup.cameras[frame.camera]
    gates: dict[str, float] = {}
    stages_ns: dict[str, int] = {}
    amap = np.empty(camera.map_shape, np.float32)
    try:
        picture = camera.look(pixels, frame, gates, stages_ns)
        begun = time.monotonic_ns()
        classification = camera.engine.infer(picture, amap)
        stages_ns["engine"] = time.monotonic_ns() - begun
    except PartError as err:
        return InferFailed(
            camera=frame.camera,
            part_id=frame.part_id,
            frame_id=frame.frame_id,
            setup_hash=setup.setup_hash,
            reason=err.reason,
            detail=err.detail,
            gates=gates,
            stages_ns=stages_ns,
        )
    return Mapped(setup.score_of(frame, _NOWHERE, classification, gates, stages_ns), amap)
