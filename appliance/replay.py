"""A recording through infer and decide once more, on the clock of the day it was made.

Enters: a recording; bundles, recipes and engine of this installation. Leaves: one pair of verdicts
per part, as recorded and as replayed. The same code judges that judges on the line: the look of
infer and its engine (replay_infer.py), the scorer and the book of parts (replay_stage.py). As on
the line they work side by side: one thread reads ahead, one keeps the book, and the engine, which
is what takes long, waits for neither. Nothing here compares or prints.
"""

import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import msgspec

from appliance.codes import Word
from appliance.config import Config
from appliance.errors import ArtefactError
from appliance.messages import FrameReady, PartOpened
from appliance.recipe import LoadedRecipe, Recipe, load_recipe, setup_hash
from appliance.recording import CAMERA, Recording
from appliance.replay_infer import Answer, Engines, Infer, Recipes
from appliance.replay_stage import Pair, Stage, Told
from appliance.replay_tape import Heard, read
from appliance.toml_file import Section, tomllib

_SWITCH_S = 0.0005
"""What comes back from the engine would wait ten times as long for the thread that reads."""
_BEHIND = 24
"""Answers that wait for the book; each may hold a map."""


class WhatIf(NamedTuple):
    """Judge by this recipe, whatever was in force."""

    recipe: LoadedRecipe


class Loss(NamedTuple):
    """What the recording lacks though its policy wanted it."""

    messages: int
    pictures: int

    def __bool__(self) -> bool:
        return any(self)


class Player:
    """Plays one recording. `losses` and `engine_ns` are known when `play` has ended.

    engines: of the installation that judges; they stay open. Raises ArtefactError where recipe,
    bundle or engine are not what the recording names.
    """

    def __init__(
        self,
        recording: Recording,
        config: Config,
        engines: Engines,
        what_if: WhatIf | None = None,
        is_real_time: bool = False,
    ) -> None:
        self._recording, self._config, self._what_if = recording, config, what_if
        self._engines = engines
        self._is_real_time = is_real_time
        self._recipes: dict[str, LoadedRecipe] = {}
        self.losses = Loss(0, 0)
        self.engine_ns = 0
        """Time spent in engines: what the throughput is measured against."""

    def play(self) -> Iterator[Pair | Told]:
        """Every part with a recorded verdict, in the order of the verdicts; after it the words that
        the PLC was given, where the recording holds them."""
        count = _Losses(self._recording)
        cameras = count.cameras or self._config.cameras
        stage = Stage(self._recording, cameras, self._engines, self._what_if is not None)
        infer = Infer(self._engines, self._recipes_of)
        tape = read(self._recording)
        heard = _in_real_time(tape) if self._is_real_time else tape
        patience_s = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_S)
        try:
            yield from _behind(stage, count, infer.answers(heard))
        finally:
            sys.setswitchinterval(patience_s)
            tape.close()
            self.losses, self.engine_ns = count.losses, infer.engine_ns

    def _recipes_of(self, opened: PartOpened) -> Recipes:
        then = self._recipe(opened)
        return Recipes(then, self._what_if.recipe if self._what_if else then)

    def _recipe(self, opened: PartOpened) -> LoadedRecipe:
        """As it was then: from the recording, else from this installation, by its hash."""
        loaded = self._recipes.get(opened.recipe_hash)
        if loaded is None:
            facts = self._recording.notes.get(f"recipe:{opened.recipe}")
            if facts is not None and facts["hash"] == opened.recipe_hash:
                loaded = recorded_recipe(opened.recipe, facts)
            else:
                loaded = load_recipe(self._config, opened.recipe)
            if loaded.hash != opened.recipe_hash:
                where = self._config.recipes_dir / loaded.path
                expected = f"the recipe of the recording ({opened.recipe_hash[:12]}…)"
                raise ArtefactError(where, expected, f"{loaded.hash[:12]}…")
            self._recipes[opened.recipe_hash] = loaded
        return loaded


def _behind(stage: Stage, count: "_Losses", answers: Iterable[Answer]) -> Iterator[Pair | Told]:
    """The book is kept by a thread of its own, in the order of the answers."""

    def take(answer: Answer) -> Pair | Told | None:
        count.heard(answer.heard)
        pair = stage.take(answer)
        if isinstance(pair, Pair):
            count.paired(pair)
        return pair

    taken: deque[Future[Pair | Told | None]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="book") as book:
        for answer in answers:
            taken.append(book.submit(take, answer))
            while len(taken) > _BEHIND or (taken and taken[0].done()):
                pair = taken.popleft().result()
                if pair is not None:
                    yield pair
        for future in taken:
            pair = future.result()
            if pair is not None:
                yield pair


def _in_real_time(tape: Iterable[Heard]) -> Iterator[Heard]:
    """As fast as it happened."""
    begun: tuple[int, int] | None = None
    for heard in tape:
        at_ns = heard.entry.at_ns
        if at_ns:
            begun = begun or (at_ns, time.monotonic_ns())
            wait_ns = at_ns - begun[0] - (time.monotonic_ns() - begun[1])
            if wait_ns > 0:
                time.sleep(wait_ns / 1e9)
        yield heard


class _Losses:
    """Counts what the policies of a recording wanted and it does not hold."""

    def __init__(self, recording: Recording) -> None:
        with_policies = recording.about.get("policies", "{}").encode()
        self._policies = msgspec.json.decode(with_policies, type=dict[str, _Policy])
        self._recording = recording
        self._frames = dict.fromkeys(self._policies, 0)
        self._last = 0
        self._messages = self._pictures = 0

    @property
    def cameras(self) -> tuple[str, ...]:
        """Of the line that was recorded; () where the recording does not say."""
        return tuple(self._policies)

    @property
    def losses(self) -> Loss:
        return Loss(self._messages, self._pictures)

    def heard(self, heard: Heard) -> None:
        """One entry, in the order of the tape."""
        entry, message = heard.entry, heard.message
        if heard.is_after_gap:
            self._last = 0
        if self._last and entry.sequence != self._last + 1:
            self._messages += max(1, entry.sequence - self._last - 1)
        self._last = entry.sequence
        if isinstance(message, FrameReady):
            self._frames[message.camera] = self._frames.get(message.camera, 0) + 1
            if self._policy(message.camera).wants(self._frames[message.camera]):
                topic = CAMERA + message.camera
                self._pictures += not self._recording.has_image(topic, entry.log_ns)

    def paired(self, pair: Pair) -> None:
        """The verdict of a part: under "ng" it is what says whether its picture was wanted."""
        recorded = pair.recorded
        if self._policy(recorded.camera).record == "ng" and recorded.word is not Word.OK:
            self._pictures += pair.why == "no picture"

    def _policy(self, camera: str) -> "_Policy":
        return self._policies.get(camera, _Policy())


class _Policy(Section, frozen=True, kw_only=True):
    """Of one camera, as the recorder noted it."""

    record: str = "none"
    record_every: int = 10

    def wants(self, count: int) -> bool:
        """Whether the picture of the count-th frame was to be kept, whatever its verdict."""
        is_sampled = self.record == "sampled" and self.record_every == 1
        return self.record in ("all", "ring") or is_sampled


def recorded_recipe(name: str, facts: dict[str, str]) -> LoadedRecipe:
    """The recipe whose text lies in the recording. Raises ArtefactError."""
    try:
        recipe = msgspec.convert(tomllib.loads(facts["toml"]), Recipe)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as err:
        raise ArtefactError(f"recording: recipe {name}", "a recipe", str(err)) from err
    for folder in (recipe.bundle_dir, *(view.bundle_dir for view in recipe.camera.values())):
        if folder and (folder == ".." or "/" in folder):
            raise ArtefactError(f"recording: recipe {name}: bundle_dir", "a name", repr(folder))
    return LoadedRecipe(
        recipe=recipe,
        path=f"{name}.toml",
        hash=facts["hash"],
        setup_hash=setup_hash(recipe),
    )
