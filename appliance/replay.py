"""A recording through infer and decide once more, on the clock of the day it was made.

Enters: a recording; bundles, recipes and engine of this installation. Leaves: one pair of verdicts
per part, as recorded and as replayed. The same code judges that judges on the line: the look of
infer and its engine, the scorer, the book of parts. Time is the tape's: what came late comes late
again, what was missing stays missing. Nothing here compares or prints.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from appliance.bundle import load_bundle
from appliance.codes import Reason, Word
from appliance.config import Config, Section, tomllib
from appliance.errors import ArtefactError, PartError
from appliance.infer_setup import Setup, prove
from appliance.journal import Opened
from appliance.ledger import Ledger
from appliance.messages import (
    AllEnded,
    CameraRestarted,
    Expired,
    FrameReady,
    InferFailed,
    NoFrame,
    PartEnded,
    PartJudged,
    PartOpened,
    PartPaired,
    PartShown,
    PixelRef,
    Scored,
    UnpairedEnded,
    Verdict,
)
from appliance.parts import Part, PartBook
from appliance.recipe import LoadedRecipe, Recipe, load_recipe, setup_hash
from appliance.recording import CAMERA, MAP, TAPE, Entry, Recording
from appliance.scoring import Scorer
from appliance.verdict import judge
from appliance.wire import decode

_OF_THE_PICTURE = frozenset(
    {Reason.IMAGE_HEALTH, Reason.FIXTURE, Reason.INVALID_NUMBER, Reason.INFERENCE_ERROR}
)
"""Failures of infer that the same picture gives again; the others were accidents of the line."""


class Pair(NamedTuple):
    """One part, then and now."""

    recorded: Verdict
    replayed: Verdict | None
    """None where the recording does not hold what it takes."""
    why: str = ""
    """Why there is none: "no picture" (the policy kept none), "cut" (it begins or ends outside)."""
    map_difference: float | None = None
    """Largest difference of the recorded map and the new one, in logits."""
    picture: tuple[str, int] | None = None
    """Where its picture lies in the recording."""


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
    """Plays one recording. `losses` and `passport_ids` are known when `play` has ended.

    config: the installation whose bundles and engine judge. Raises ArtefactError where recipe,
    bundle or engine are not what the recording names.
    """

    def __init__(
        self,
        recording: Recording,
        config: Config,
        what_if: WhatIf | None = None,
        is_real_time: bool = False,
    ) -> None:
        self._recording, self._config, self._what_if = recording, config, what_if
        self._is_real_time = is_real_time
        self._engines = _Engines(config)
        self._recipes: dict[str, LoadedRecipe] = {}
        with_policies = recording.about.get("policies", "{}").encode()
        self._policies = msgspec.json.decode(with_policies, type=dict[str, _Policy])
        self.losses = Loss(0, 0)
        self.engine_ns = 0
        """Time spent in engines: what the throughput is measured against."""

    def play(self) -> Iterator[Pair]:
        """Every part with a recorded verdict, in the order of the verdicts."""
        stage = _Stage(self._recording, self._engines, self._recipe, self._what_if)
        ahead = _Ahead(self._recording.entries(), stage.announce)
        gaps = list(self._recording.gaps)
        begun: tuple[int, int] | None = None
        last = 0
        lost = [0, 0]
        frames = dict.fromkeys(self._policies, 0)
        try:
            for entry, message in ahead:
                if gaps and entry.log_ns >= gaps[0]:
                    gaps.pop(0)
                    stage.cut()
                    last = 0
                if last and entry.sequence != last + 1:
                    lost[0] += max(1, entry.sequence - last - 1)
                last = entry.sequence
                if self._is_real_time and entry.at_ns:
                    begun = begun or (entry.at_ns, time.monotonic_ns())
                    wait_ns = entry.at_ns - begun[0] - (time.monotonic_ns() - begun[1])
                    if wait_ns > 0:
                        time.sleep(wait_ns / 1e9)
                if isinstance(message, FrameReady):
                    frames[message.camera] = frames.get(message.camera, 0) + 1
                    policy = self._policies.get(message.camera, _Policy())
                    if policy.wants(frames[message.camera]):
                        topic = CAMERA + message.camera
                        lost[1] += not self._recording.has_image(topic, entry.log_ns)
                pair = stage.take(entry, message)
                if pair is not None:
                    policy = self._policies.get(pair.recorded.camera, _Policy())
                    if policy.record == "ng" and pair.recorded.word.name != "OK":
                        lost[1] += pair.why == "no picture"
                    yield pair
        finally:
            self.losses = Loss(lost[0], lost[1])
            self.engine_ns = stage.engine_ns
            self._engines.close()

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
    return LoadedRecipe(
        recipe=recipe,
        path=f"{name}.toml",
        hash=facts["hash"],
        setup_hash=setup_hash(recipe),
    )


class _Engines:
    """Set-ups and scorers by set-up hash, proved as on the line."""

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

    def scorer(self, recipe: LoadedRecipe) -> Scorer:
        """Raises ArtefactError, as on the line."""
        bundle = recipe.recipe.bundle
        if bundle not in self._scorers:
            folder = self._config.bundles_dir / recipe.recipe.bundle_dir
            self._scorers[bundle] = Scorer(load_bundle(folder, bundle))
        scorer = self._scorers[bundle]
        scorer.check(recipe)
        return scorer

    def close(self) -> None:
        for setup in self._setups.values():
            setup.close()


def _nothing() -> None:
    """Nobody waits for a sign of life."""


class _Keeper:
    """Ids and epoch as the tape says; nothing is written."""

    def __init__(self) -> None:
        self.epoch, self.first_id, self.next_id = 0, 1, 1

    def take_id(self) -> int:
        return self.next_id

    def opened(self, record: Opened) -> None:
        pass

    def closed(self, verdict: Verdict) -> None:
        pass


class Memory:
    """Maps of the parts in hand: what a ring is on the line."""

    def __init__(self) -> None:
        self._maps: dict[int, npt.NDArray[np.float32]] = {}

    def put(self, sequence: int, amap: npt.NDArray[np.float32]) -> PixelRef:
        """Keep it for a while, under a number of its own."""
        self._maps[sequence] = amap
        while len(self._maps) > 64:
            del self._maps[next(iter(self._maps))]
        return PixelRef(
            ring="memory", epoch=0, slot=0, sequence=sequence, shape=amap.shape, dtype="float32"
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


class _Ahead:
    """The tape, read a little ahead: decide hears of scores and frames on two sockets, so a score
    may stand before the frame that it belongs to.

    announce: called with every frame as soon as it is read.
    """

    _DEPTH = 512

    def __init__(
        self, entries: Iterator[Entry], announce: Callable[[FrameReady, Entry], None]
    ) -> None:
        self._entries, self._announce = entries, announce
        self._read: deque[tuple[Entry, object]] = deque()

    def __iter__(self) -> Iterator[tuple[Entry, object]]:
        for entry in self._entries:
            message = None if entry.topic == f"{TAPE}plc" else decode(entry.data)
            if isinstance(message, FrameReady):
                self._announce(message, entry)
            self._read.append((entry, message))
            if len(self._read) > self._DEPTH:
                yield self._read.popleft()
        while self._read:
            yield self._read.popleft()


class _Stage:
    """The book of parts with what surrounds it, told by the tape."""

    def __init__(
        self,
        recording: Recording,
        engines: _Engines,
        recipe: Callable[[PartOpened], LoadedRecipe],
        what_if: WhatIf | None,
    ) -> None:
        self._recording, self._engines = recording, engines
        self._recipe, self._what_if = recipe, what_if
        self._memory = Memory()
        self._maps_made = 0
        self._frames: dict[tuple[str, int], tuple[FrameReady, Entry]] = {}
        self._is_continuous = recording.about.get("trigger", "plc") != "plc"
        self._is_simulated = recording.about.get("simulated") == "true"
        self.engine_ns = 0
        self.cut()

    def announce(self, frame: FrameReady, entry: Entry) -> None:
        """A frame that is or will be heard of: where its picture is found."""
        self._frames[frame.camera, frame.frame_id] = frame, entry
        while len(self._frames) > 8192:
            del self._frames[next(iter(self._frames))]

    def cut(self) -> None:
        """A part of the recording was removed here: what was open is not known any more."""
        self._keeper = _Keeper()
        self._made: dict[int, Verdict] = {}
        self._parts: dict[int, Part] = {}
        self._old: dict[str, LoadedRecipe] = {}
        self._blind: set[tuple[str, int]] = set()
        """Frames whose picture the recording does not hold."""
        self._deviations: dict[tuple[str, int], float] = {}
        self._shown: Part | None = None
        self._book = PartBook(self._keeper, Ledger(), "replay", self._given, self._is_simulated)

    def take(self, entry: Entry, message: object) -> Pair | None:
        """One thing that decide heard; a pair where it was a verdict."""
        now_ns = entry.at_ns
        match entry.topic.removeprefix(TAPE), message:
            case "book", PartOpened():
                self._open(message)
            case "book", PartJudged():
                self._judge(message.part_id, now_ns)
            case "book", PartShown():
                self._shown = self._parts.get(message.part_id)
            case "book", PartPaired():
                self._paired(message, now_ns)
            case "book", UnpairedEnded():
                self._book.close_unpaired(message.doubtful, message.detail, now_ns)
            case "book", PartEnded():
                part = self._parts.get(message.part_id)
                if part is not None:
                    self._book.close(part, message.word, message.reason, now_ns, message.detail)
            case "book", AllEnded():
                self._book.close_all(message.reason, message.detail, now_ns)
            case "book", Expired():
                self._book.expire(now_ns, message.guard_ns)
            case "book", CameraRestarted():
                self._book.camera_restarted()
            case "seen" | "opened_by" | "ignored", FrameReady():
                self._frame(entry, message, now_ns)
            case "seen", NoFrame():
                self._book.no_frame(message, now_ns)
            case "scored", Scored() | InferFailed():
                self._answer(entry, message, now_ns)
            case "verdicts", Verdict():
                return self._pair(message)
            case _:
                pass
        return None

    def _given(self, part: Part, verdict: Verdict) -> None:
        self._made[part.part_id] = verdict

    def _open(self, opened: PartOpened) -> None:
        then = self._recipe(opened)
        now = self._what_if.recipe if self._what_if else then
        self._old[then.setup_hash] = now
        self._keeper.next_id, self._keeper.epoch = opened.part_id, opened.epoch
        part = self._book.open(
            opened.zero_ns,
            opened.deadline_ns,
            now,
            now.recipe.bundle,
            part_tag=opened.part_tag,
            part_text=opened.part_text,
            lot=opened.lot,
            is_challenge=opened.is_challenge,
            expected=opened.expected_word,
            is_paired=opened.is_paired,
        )
        part.is_tag_known = self._is_continuous and opened.part_tag != 0
        part.opened_utc_ns = opened.opened_utc_ns
        self._parts[part.part_id] = part

    def _paired(self, paired: PartPaired, now_ns: int) -> None:
        part = self._parts.get(paired.part_id)
        if part is not None:
            part.zero_ns, part.deadline_ns = paired.zero_ns, paired.deadline_ns
            part.part_tag, part.is_tag_known = paired.part_tag, paired.is_tag_known
            part.part_text, part.lot = paired.part_text, paired.lot
            self._book.paired(part, now_ns)

    def _translated(self, hash_then: str) -> str:
        """A set-up of the recording as the one that judges now; a wrong one stays wrong."""
        now = self._old.get(hash_then)
        return hash_then if now is None else now.setup_hash

    def _frame(self, entry: Entry, then: FrameReady, now_ns: int) -> None:
        frame = msgspec.structs.replace(then, setup_hash=self._translated(then.setup_hash))
        match entry.topic.removeprefix(TAPE):
            case "ignored":
                self._book.ignore(frame, now_ns)
            case "opened_by":
                if self._shown is not None:
                    self._book.opened_by_frame(frame, self._shown, now_ns)
            case _:
                self._book.frame(frame, now_ns)

    def _answer(self, entry: Entry, then: Scored | InferFailed, now_ns: int) -> None:
        """What infer says to this picture today, where it can say anything."""
        key = then.camera, then.frame_id
        frame, seen = self._frames.get(key, (None, None))
        recipe = self._old.get(then.setup_hash)
        is_accident = isinstance(then, InferFailed) and then.reason not in _OF_THE_PICTURE
        has_picture = seen is not None and self._recording.has_image(
            CAMERA + then.camera, seen.log_ns
        )
        if is_accident or frame is None or seen is None or recipe is None or not has_picture:
            # What infer said then is all that there is.
            now = msgspec.structs.replace(then, setup_hash=self._translated(then.setup_hash))
            if not is_accident:
                self._blind.add(key)
            if isinstance(now, InferFailed):
                self._book.failed(now, now_ns)
            else:
                self._book.scored(now, now_ns)
            return
        answer = self._look(frame, seen, then, recipe, entry)
        if isinstance(answer, InferFailed):
            self._book.failed(answer, now_ns)
            return
        part = self._book.scored(answer, now_ns)
        if part is not None and isinstance(then, InferFailed):
            self._judge(part.part_id, now_ns)  # the tape knows of no judgement

    def _look(
        self,
        frame: FrameReady,
        seen: Entry,
        then: Scored | InferFailed,
        recipe: LoadedRecipe,
        entry: Entry,
    ) -> Scored | InferFailed:
        _, pixels = self._recording.image(CAMERA + frame.camera, seen.log_ns)
        setup = self._engines.setup(recipe)
        camera = setup.cameras[frame.camera]
        gates: dict[str, float] = {}
        stages_ns: dict[str, int] = {}
        amap = np.empty(setup.map_shape, np.float32)
        try:
            picture = camera.look(pixels, frame, setup.gate_limits, gates, stages_ns)
            begun = time.monotonic_ns()
            classification = camera.engine.infer(picture, amap)
            stages_ns["engine"] = time.monotonic_ns() - begun
            self.engine_ns += stages_ns["engine"]
        except PartError as err:
            return InferFailed(
                camera=frame.camera,
                part_id=then.part_id,
                frame_id=frame.frame_id,
                setup_hash=setup.setup_hash,
                reason=err.reason,
                detail=err.detail,
                gates=gates,
                stages_ns=stages_ns,
            )
        self._maps_made += 1
        if self._recording.has_image(MAP + frame.camera, entry.log_ns):
            _, old = self._recording.image(MAP + frame.camera, entry.log_ns)
            if old.size == amap.size:
                difference = float(np.abs(old.reshape(amap.shape) - amap).max())
                self._deviations[then.camera, then.frame_id] = difference
        return Scored(
            camera=frame.camera,
            part_id=then.part_id,
            frame_id=frame.frame_id,
            setup_hash=setup.setup_hash,
            map=self._memory.put(self._maps_made, amap),
            classification=classification,
            gates=gates,
            stages_ns=stages_ns,
            passport=setup.passport.id,
            is_simulated=setup.is_simulated or frame.is_simulated,
        )

    def _judge(self, part_id: int, now_ns: int) -> None:
        part = self._parts.get(part_id)
        if part is None or part.scored is None or part.frame is None:
            return
        if (part.frame.camera, part.frame.frame_id) in self._blind:
            return
        size = part.frame.pixels.shape[0], part.frame.pixels.shape[1]
        try:
            scorer = self._engines.scorer(part.recipe)
            result = scorer.score(part.scored, self._memory, part.recipe, size)
        except PartError as err:
            self._book.close(part, Word.ERROR, err.reason, now_ns, err.detail)
        else:
            self._book.judged(part, result, now_ns)

    def _pair(self, recorded: Verdict) -> Pair:
        part_id = recorded.part_id
        part = self._parts.pop(part_id, None)
        replayed = self._made.pop(part_id, None)
        key = recorded.camera, recorded.frame_id
        deviation = self._deviations.pop(key, None)
        seen = self._frames[key][1] if key in self._frames else None
        picture = None
        if seen is not None and self._recording.has_image(CAMERA + recorded.camera, seen.log_ns):
            picture = CAMERA + recorded.camera, seen.log_ns
        if part is None:
            return Pair(recorded, None, "cut", None, picture)
        if key in self._blind:
            self._blind.discard(key)
            by_score = self._by_recorded_score(recorded, part)
            return Pair(recorded, by_score, "no picture", None, picture)
        if replayed is None:
            return Pair(recorded, None, "no verdict", deviation, picture)
        return Pair(recorded, replayed, "", deviation, picture)

    def _by_recorded_score(self, recorded: Verdict, part: Part) -> Verdict | None:
        """Other limits on the same set-up need no picture: the recorded margin is enough."""
        recipe = part.recipe
        is_same = recipe.setup_hash == recorded.setup_hash
        if not self._what_if or not is_same or recorded.margin is None:
            return None
        if recipe.recipe.decides != recorded.decides or recorded.word.name == "ERROR":
            return None
        limits = recipe.recipe.limits
        word, reason = judge(recorded.margin, limits, recipe.recipe.decides)
        return msgspec.structs.replace(
            recorded,
            word=word,
            reason=reason,
            t1=limits.t1,
            t2=limits.t2,
            recipe=recipe.name,
            recipe_hash=recipe.hash,
        )
