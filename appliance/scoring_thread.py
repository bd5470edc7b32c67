"""The one thread beside decide's loop: features and forest, and maps of another box that land.

Enters: a view whose frame and score are there, or a `Scored` whose map came behind the message.
What comes of it is told on the loop, to the line or to whoever asked.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias

from appliance.codes import Reason
from appliance.config import Config
from appliance.errors import PartError
from appliance.frames import RingReader, size_px
from appliance.landing import Landing, failed
from appliance.line import Line
from appliance.messages import InferFailed, Scored
from appliance.part import Judgement, Sight
from appliance.recipe_in_force import RecipeInForce
from appliance.service import Service

Then: TypeAlias = Callable[[Scored | InferFailed], None]


class ScoringThread:
    """Call `close` at the end; what is not done then is given up."""

    def __init__(self, service: Service, config: Config, recipes: RecipeInForce) -> None:
        self._service, self._config, self._log = service, config, service.log
        self._recipes = recipes
        self._rings = RingReader(config.rings_dir)
        self._landing = Landing(config)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="score")

    def serve(self, line: Line) -> None:
        """For this line, from now on."""
        self._line = line

    def close(self) -> None:
        """Remove the rings of maps that came from elsewhere."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._landing.close()

    def land(self, message: Scored, inline: bytes | None, then: Then) -> None:
        """Its map into a ring of this box; `then` gets the score, or why there is none."""
        loop = asyncio.get_running_loop()
        shape = self._map_shape(message.camera)
        done = self._thread.submit(self._landing.take, message, inline, shape)
        done.add_done_callback(lambda d: loop.call_soon_threadsafe(self._landed, message, d, then))

    def _landed(self, message: Scored, done: "Future[Scored | InferFailed]", then: Then) -> None:
        """A bug costs its part alone: what another box sends must not end the line."""
        if done.cancelled():
            return
        error = done.exception()
        if error is not None:
            self._log.error("a map did not land", error=str(error), part_id=message.part_id)
        then(done.result() if error is None else failed(message, error))

    def _map_shape(self, camera: str) -> tuple[int, ...] | None:
        """Of the maps of this camera; None where the recipe in force judges no such camera."""
        current = self._line.setups.current
        if current is None or camera not in self._config.cameras:
            return None
        scorer = self._recipes.scorers.get(current.recipe.terms(camera).bundle)
        return None if scorer is None else scorer.map_shape

    def score(self, sight: Sight) -> None:
        """Features and forest, and what comes of them to the line."""
        recipe, scored, frame = sight.part.recipe, sight.scored, sight.frame
        scorer = self._recipes.scorers.get(recipe.recipe.terms(sight.camera).bundle)
        if scorer is None or scored is None or frame is None:
            detail = "a score without the bundle it belongs to"
            self._line.part_failed(sight, Reason.INTERNAL, detail, self._service.clock())
            return
        try:
            size = size_px(frame.pixels)
        except PartError as error:
            self._line.part_failed(sight, error.reason, error.detail, self._service.clock())
            return
        loop = asyncio.get_running_loop()
        future = self._thread.submit(scorer.score, scored, self._rings, recipe, size)
        future.add_done_callback(lambda done: loop.call_soon_threadsafe(self._judged, sight, done))

    def _judged(self, sight: Sight, done: "Future[Judgement]") -> None:
        now_ns = self._service.clock()
        error = None if done.cancelled() else done.exception()
        if error is None and not done.cancelled():
            self._line.judged(sight, done.result(), now_ns)
        elif isinstance(error, PartError):
            self._line.part_failed(sight, error.reason, error.detail, now_ns)
        else:
            self._line.part_failed(sight, Reason.INTERNAL, f"scoring: {error}", now_ns)
            self._log.error("scoring failed", error=str(error), part_id=sight.part.part_id)
