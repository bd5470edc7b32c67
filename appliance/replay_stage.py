"""The book of parts once more, told by the tape of a recording, with the answers of today's infer.

Enters: the tape with its answers, in order. Leaves: one pair of verdicts per part, as recorded and
as replayed, and one pair of the words that the PLC was given. Time is the tape's: what came late
comes late again, what was missing stays missing. Nothing is written and nothing compared here.
"""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import numpy as np

from appliance.closing import as_whole
from appliance.codes import Word
from appliance.errors import PartError
from appliance.journal_records import Opened
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
    PlcTold,
    Scored,
    UnpairedEnded,
    Verdict,
    ViewResult,
)
from appliance.part import Part, Sight
from appliance.parts import PartBook
from appliance.recording import CAMERA, TAPE, Recording
from appliance.replay_infer import Answer, Engines, Mapped, Memory, Recipes
from appliance.replay_tape import Seen
from appliance.results import named, told_again
from appliance.verdict import judge
from appliance.words import Value, WordOrder

_UNREAD = 64
"""Results that wait for the PLC to fetch the ones before them; the handshake holds fewer."""


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


class Told(NamedTuple):
    """The words that the PLC was given for one part, and those of today's verdict."""

    pair: Pair
    then: Mapping[str, Value]
    now: Mapping[str, Value]


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


class Stage:
    """The book of parts with what surrounds it.

    is_what_if: words may differ, so a part without its picture is judged by its recorded margin.
    """

    def __init__(
        self,
        recording: Recording,
        cameras: tuple[str, ...],
        engines: Engines,
        is_what_if: bool,
    ) -> None:
        self._cameras = cameras
        self._engines, self._is_what_if = engines, is_what_if
        self._memory = Memory()
        self._is_continuous = recording.about.get("trigger", "plc") != "plc"
        self._is_simulated = recording.about.get("simulated") == "true"
        order = recording.about.get("word_order")
        self._order: WordOrder = "low_first" if order == "low_first" else "high_first"
        self._cut()

    def _cut(self) -> None:
        """A part of the recording was removed here: what was open is not known any more."""
        self._keeper = _Keeper()
        self._made: dict[int, Verdict] = {}
        self._parts: dict[int, Part] = {}
        self._old: dict[str, str] = {}
        """Set-up of that day → the one that judges now."""
        self._blind: set[tuple[str, int]] = set()
        """Frames whose picture the recording does not hold."""
        self._deviations: dict[tuple[str, int], float] = {}
        self._shown: Part | None = None
        self._untold: dict[int, Pair] = {}
        """Whose words come after their verdict."""
        self._book = PartBook(
            self._keeper, Ledger(), "replay", self._given, self._cameras, self._is_simulated
        )

    def take(self, answer: Answer) -> Pair | Told | None:
        """One thing that decide heard or did; a pair where it was a verdict or its words."""
        entry, message = answer.heard.entry, answer.heard.message
        if answer.heard.is_after_gap:
            self._cut()
        topic, now_ns = entry.topic.removeprefix(TAPE), entry.at_ns
        match topic, message:
            case "book", PartOpened() if answer.recipes is not None:
                self._open(message, answer.recipes)
            case "book", PartJudged():
                self._judge(self._sight(message.part_id, message.camera), now_ns)
            case "book", PartShown():
                self._shown = self._parts.get(message.part_id)
            case "book", PartPaired():
                self._paired(message, now_ns)
            case "book", UnpairedEnded():
                self._book.close_unpaired(message.doubtful, message.detail, now_ns)
            case "book", PartEnded():
                sight = self._sight(message.part_id, message.camera)
                if sight is not None:
                    self._book.close(sight, message.word, message.reason, now_ns, message.detail)
            case "book", AllEnded():
                self._book.close_all(message.reason, message.detail, now_ns)
            case "book", Expired():
                self._book.expire(now_ns, message.guard_ns)
            case "book", CameraRestarted():
                self._book.camera_restarted(message.camera or self._cameras[0])
            case "seen" | "opened_by" | "ignored", FrameReady():
                self._frame(topic, message, now_ns)
            case "seen", NoFrame():
                self._book.no_frame(message, now_ns)
            case "scored", Scored() | InferFailed():
                self._answered(answer, message, now_ns)
            case "verdicts", Verdict():
                return self._remembered(self._pair(message, answer.heard.seen))
            case "words", PlcTold():
                return self._told(message)
            case _:
                pass
        return None

    def _given(self, part: Part, verdict: Verdict) -> None:
        self._made[part.part_id] = verdict

    def _open(self, opened: PartOpened, recipes: Recipes) -> None:
        now = recipes.now
        self._old[recipes.then.setup_hash] = now.setup_hash
        self._keeper.next_id, self._keeper.epoch = opened.part_id, opened.epoch
        part = self._book.open(
            opened.zero_ns,
            opened.deadline_ns,
            now,
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
            self._book.paired(part, now_ns, paired.is_whole)

    def _translated(self, hash_then: str) -> str:
        """A set-up of the recording as the one that judges now; a wrong one stays wrong."""
        return self._old.get(hash_then, hash_then)

    def _frame(self, topic: str, then: FrameReady, now_ns: int) -> None:
        frame = msgspec.structs.replace(then, setup_hash=self._translated(then.setup_hash))
        match topic:
            case "ignored":
                self._book.ignore(frame, now_ns)
            case "opened_by":
                if self._shown is not None:
                    self._book.opened_by_frame(frame, self._shown, now_ns)
            case _:
                self._book.frame(frame, now_ns)

    def _answered(self, answer: Answer, then: Scored | InferFailed, now_ns: int) -> None:
        key = then.camera, then.frame_id
        if answer.is_blind:
            self._blind.add(key)
        said = answer.said
        if said is None:  # what infer said then is all that there is
            said = msgspec.structs.replace(then, setup_hash=self._translated(then.setup_hash))
        elif isinstance(said, Mapped):
            old = answer.heard.map
            if old is not None and old.size == said.map.size:
                self._deviations[key] = float(np.abs(old.reshape(said.map.shape) - said.map).max())
            said = msgspec.structs.replace(said.scored, map=self._memory.put(said.map))
        if isinstance(said, InferFailed):
            self._book.failed(said, now_ns)
            return
        sight = self._book.scored(said, now_ns)
        if sight is not None and isinstance(then, InferFailed):
            self._judge(sight, now_ns)  # the tape knows of no judgement

    def _sight(self, part_id: int, camera: str) -> Sight | None:
        """The view that the tape tells of."""
        part = self._parts.get(part_id)
        return None if part is None else part.sights.get(camera) if camera else part.only

    def _judge(self, sight: Sight | None, now_ns: int) -> None:
        if sight is None or sight.scored is None or sight.frame is None:
            return
        if (sight.camera, sight.frame.frame_id) in self._blind:
            return
        recipe, size = sight.part.recipe, sight.frame.pixels.shape[:2]
        try:
            scorer = self._engines.scorer(recipe, sight.camera)
            result = scorer.score(sight.scored, self._memory, recipe, (size[0], size[1]))
        except PartError as err:
            self._book.close(sight, Word.ERROR, err.reason, now_ns, err.detail)
        else:
            self._book.judged(sight, result, now_ns)

    def _pair(self, recorded: Verdict, seen: Seen | None) -> Pair:
        part_id = recorded.part_id
        part = self._parts.pop(part_id, None)
        replayed = self._made.pop(part_id, None)
        keys = [(view.camera, view.frame_id) for view in recorded.by_view()]
        found = [self._deviations.pop(key) for key in keys if key in self._deviations]
        deviation = max(found, default=None)
        picture = None
        if seen is not None and seen.has_picture:
            picture = CAMERA + recorded.camera, seen.log_ns
        if part is None:
            return Pair(recorded, None, "cut", None, picture)
        if not self._blind.isdisjoint(keys):
            self._blind.difference_update(keys)
            by_score = self._by_recorded_score(recorded, part)
            return Pair(recorded, by_score, "no picture", None, picture)
        if replayed is None:
            return Pair(recorded, None, "no verdict", deviation, picture)
        return Pair(recorded, replayed, "", deviation, picture)

    def _remembered(self, pair: Pair) -> Pair:
        if pair.replayed is not None and not pair.why:
            self._untold[pair.recorded.part_id] = pair
            if len(self._untold) > _UNREAD:
                del self._untold[next(iter(self._untold))]
        return pair

    def _told(self, told: PlcTold) -> Told | None:
        pair = self._untold.pop(told.part_id, None)
        if pair is None or pair.replayed is None:
            return None
        again = told_again(told, pair.replayed, self._order, not self._is_continuous)
        return Told(pair, named(told, self._order), named(again, self._order))

    def _by_recorded_score(self, recorded: Verdict, part: Part) -> Verdict | None:
        """Other limits on the same set-up need no picture: the recorded margins are enough."""
        recipe = part.recipe
        if not self._is_what_if or recipe.setup_hash != recorded.setup_hash:
            return None
        views: list[ViewResult] = []
        for view in recorded.views or (recorded,):
            _, _, decides, limits = recipe.recipe.terms(view.camera)
            if view.margin is None or decides != view.decides or view.word is Word.ERROR:
                return None
            word, reason = judge(view.margin, limits, decides)
            judged = msgspec.structs.replace(
                view, word=word, reason=reason, t1=limits.t1, t2=limits.t2
            )
            views.append(judged)
        whole = as_whole(views)
        of_view = {name: getattr(whole, name) for name in ViewResult.__struct_fields__}
        return msgspec.structs.replace(
            recorded,
            **of_view,
            views=tuple(views) if recorded.views else (),
            recipe=recipe.name,
            recipe_hash=recipe.hash,
        )
