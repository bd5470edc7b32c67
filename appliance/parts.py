"""Every part from its trigger to its one verdict. Pure but for the journal; time is an argument.

A part is opened by the PLC's trigger (or, in free run, by its frame) and closed exactly once: when
all its views have ended, or at its deadline, when those that have not are ERROR. What is known of
it until then is part.py, what its views come to closing.py. All ways from open to closed stand in
this one file, so that "exactly once" can be seen.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from appliance.closing import late_result, verdict_of
from appliance.codes import Reason, Word
from appliance.frame_ids import FrameIds
from appliance.journal import acq_id, utc_ns
from appliance.journal_records import Opened
from appliance.ledger import Ledger
from appliance.messages import (
    INFER,
    FrameReady,
    InferFailed,
    LateResult,
    NoFrame,
    Scored,
    Verdict,
    camera_label,
)
from appliance.part import Ending, Judgement, Part, Sight
from appliance.recipe import LoadedRecipe
from appliance.verdict import judge

_REMEMBER_NS = 30_000_000_000
"""How long a closed part is remembered, so that a late or double answer is recognised."""


class Keeper(Protocol):
    """What a book asks of the journal."""

    epoch: int
    first_id: int

    def take_id(self) -> int:
        """The next part's id."""
        ...

    def opened(self, record: Opened) -> None:
        """Kept before the part is acknowledged."""
        ...

    def closed(self, verdict: Verdict) -> None:
        """Kept before the verdict is published."""
        ...


class PartBook:
    """All open parts and the recently closed ones.

    on_verdict is called exactly once for each part, after the journal has the verdict.
    """

    def __init__(
        self,
        journal: Keeper,
        ledger: Ledger,
        software: str,
        on_verdict: Callable[[Part, Verdict], None],
        cameras: Sequence[str],
        is_simulated: bool = False,
    ) -> None:
        self._cameras = tuple(cameras)
        self._journal, self._ledger = journal, ledger
        self._software = software
        self._on_verdict = on_verdict
        self._is_simulated = is_simulated
        self._open: dict[int, Part] = {}
        self._closed: dict[int, Part] = {}
        self._frames = FrameIds()
        self._newest: dict[str, FrameReady] = {}
        """By camera, of the newest part that has a frame: part ids and frame ids grow together."""
        self._forgotten_to = journal.first_id - 1
        """Up to this part id nothing is known of a part that is not here: of an earlier life, or
        closed long ago."""
        self._without_image = dict.fromkeys(self._cameras, 0)
        self.orphans = 0
        """Frames and answers that belong to no part of this life of the process."""

    def __len__(self) -> int:
        return len(self._open)

    @property
    def no_image_in_a_row(self) -> int:
        """Parts without a picture, of the camera that gave the most."""
        return max(self._without_image.values())

    def forgive(self, camera: str) -> None:
        """Its pictures may come again: the next part will tell."""
        self._without_image[camera] = 0

    @property
    def deadlines_ns(self) -> list[int]:
        """Of all open parts."""
        return [part.deadline_ns for part in self._open.values()]

    def open(
        self,
        zero_ns: int,
        deadline_ns: int,
        recipe: LoadedRecipe,
        *,
        part_tag: int = 0,
        part_text: str = "",
        lot: str = "",
        is_challenge: bool = False,
        expected: Word = Word.NONE,
        is_paired: bool = True,
    ) -> Part:
        """A new part with the next id; in the journal before this returns."""
        part_id = self._journal.take_id()
        part = Part(
            part_id=part_id,
            acq_id=acq_id(part_id),
            zero_ns=zero_ns,
            deadline_ns=deadline_ns,
            recipe=recipe,
            part_tag=part_tag,
            part_text=part_text,
            lot=lot,
            is_challenge=is_challenge,
            expected=expected,
            opened_utc_ns=utc_ns(),
            is_paired=is_paired,
        )
        part.sights = {camera: Sight(part, camera) for camera in self._cameras}
        self._journal.opened(
            Opened(
                part_id=part_id,
                part_tag=part_tag,
                part_text=part_text,
                lot=lot,
                opened_utc_ns=part.opened_utc_ns,
                deadline_ns=deadline_ns - zero_ns,
                recipe=recipe.name,
                recipe_hash=recipe.hash,
                is_challenge=is_challenge,
            )
        )
        self._open[part_id] = part
        self._ledger.accepted += 1
        return part

    def asked_camera(self, sight: Sight) -> None:
        """The camera was asked for this part's frame: it owes exactly one answer."""
        part = sight.part
        self._ledger.owe(camera_label(sight.camera), part.part_id, part.deadline_ns)

    def trigger_refused(self, sight: Sight, now_ns: int) -> None:
        """The camera was not there to be asked."""
        self._ledger.answered(camera_label(sight.camera), sight.part.part_id)
        sight.is_camera_done = True
        detail = "the camera process takes no trigger"
        self.close(sight, Word.ERROR, Reason.NO_IMAGE, now_ns, detail)

    def is_double(self, message: FrameReady) -> bool:
        """This frame was announced before; counted, and it opens no part."""
        if not self._frames.is_known(message):
            return False
        self._ledger.duplicates += 1
        return True

    def opened_by_frame(self, message: FrameReady, part: Part, now_ns: int) -> Sight | None:
        """Tie the frame to the part that it opened, or (hardware trigger) that its step opened.

        Returns its view when that can be judged.
        """
        early = self._frames.tie(message, part.part_id)
        self._take_frame(part.sights[message.camera], message, now_ns)
        if isinstance(early, InferFailed):
            self.failed(early, now_ns)
        return self.scored(early, now_ns) if isinstance(early, Scored) else None

    def ignore(self, message: FrameReady, now_ns: int) -> None:
        """A frame that belongs to no part: counted, and so is known whose score will come."""
        self.orphans += 1
        self._frames.ignore(message, now_ns)

    def shown(self, message: FrameReady) -> Part | None:
        """The part that this frame opened or was paired with."""
        return self.part(self._frames.part_of(message))

    def is_ignored(self, message: FrameReady) -> bool:
        """This frame belongs to no part."""
        return self._frames.is_ignored(message)

    def camera_restarted(self, camera: str) -> None:
        """A new life of the camera may number its frames anew; what the old one began is void."""
        self._newest.pop(camera, None)
        self.orphans += self._frames.camera_restarted(camera)

    def frame(self, message: FrameReady, now_ns: int) -> Sight | None:
        """A frame for a part. Returns the view when its score was there first."""
        sight = self._known(message.part_id, message.camera)
        if sight is None:
            return None
        if sight.is_camera_done:
            self._ledger.duplicates += 1
            if sight.frame is None or sight.frame.frame_id != message.frame_id:
                detail = "the camera answered one trigger twice"
                self._doubt(sight, detail, now_ns)
            return None
        is_in_order = self._is_in_order(sight, message)
        self._take_frame(sight, message, now_ns)
        if not is_in_order:
            detail = f"frame {message.frame_id} came out of the order of the triggers"
            self.close(sight, Word.ERROR, Reason.ASSOCIATION_LOST, now_ns, detail)
        return self._matched(sight, now_ns)

    def no_frame(self, message: NoFrame, now_ns: int) -> None:
        """A part without a usable picture."""
        sight = self._known(message.part_id, message.camera)
        if sight is None:
            return
        if sight.is_camera_done:
            self._ledger.duplicates += 1
        elif sight.part.verdict is None and message.reason == Reason.NO_IMAGE:
            self._without_image[sight.camera] += 1
        sight.is_camera_done = True
        self._ledger.answered(camera_label(sight.camera), message.part_id)
        self.close(sight, Word.ERROR, message.reason, now_ns, message.detail)

    def holds(self, message: FrameReady) -> bool:
        """This frame became the picture of its part."""
        part = self.part(message.part_id)
        sight = part.sights.get(message.camera) if part else None
        return sight is not None and sight.frame is message

    def scored(self, message: Scored, now_ns: int) -> Sight | None:
        """A score. Returns the view that is now to be judged (late ones too, for the archive)."""
        sight = self._answer_of_infer(message, now_ns)
        if sight is None:
            return None
        sight.scored, sight.scored_at_ns = message, now_ns
        return self._matched(sight, now_ns)

    def failed(self, message: InferFailed, now_ns: int) -> None:
        """No score, for a named reason."""
        sight = self._answer_of_infer(message, now_ns)
        if sight is not None:
            if sight.frame is not None and sight.frame.frame_id != message.frame_id:
                self._ledger.foreign += 1
            self.close(
                sight,
                Word.ERROR,
                message.reason,
                now_ns,
                message.detail,
                gates=message.gates,
                stages_ns=message.stages_ns,
            )

    def _answer_of_infer(self, message: Scored | InferFailed, now_ns: int) -> Sight | None:
        part_id = message.part_id or self._frames.part_of(message)
        if not part_id:
            if not self._frames.is_ignored(message):
                self._ledger.duplicates += self._frames.keep(message, now_ns)
            return None
        sight = self._known(part_id, message.camera)
        if sight is None:
            return None
        if sight.is_infer_done:
            self._ledger.duplicates += 1
            return None
        sight.is_infer_done = True
        self._ledger.answered(INFER, part_id, message.camera)
        return sight

    def _known(self, part_id: int, camera: str) -> Sight | None:
        """The view that an answer is about; an answer for none is counted."""
        part = self.part(part_id)
        sight = part.sights.get(camera) if part else None
        if part is None and part_id <= self._forgotten_to:
            # Of an earlier life, which ended that part as "restart"; or it waited for half a minute
            # while infer prepared a set-up.
            self.orphans += 1
        elif sight is None:
            self._ledger.foreign += 1
        return sight

    def _is_in_order(self, sight: Sight, message: FrameReady) -> bool:
        """A camera answers in the order of its triggers, so both ids grow together."""
        part, newest = sight.part, self._newest.get(sight.camera)
        if newest is None or part.part_id > newest.part_id:
            self._newest[sight.camera] = message
        if newest is not None:
            is_newer = part.part_id > newest.part_id
            if is_newer != (message.frame_id > newest.frame_id):
                self._ledger.foreign += 1
                return False
        return not any(
            older.part_id < part.part_id and not older.sights[sight.camera].is_camera_done
            for older in self._open.values()
        )

    def _take_frame(self, sight: Sight, message: FrameReady, now_ns: int) -> None:
        part = sight.part
        sight.is_camera_done = True
        self._ledger.answered(camera_label(sight.camera), part.part_id)
        if not sight.is_infer_done:
            self._ledger.owe(INFER, part.part_id, part.deadline_ns, sight.camera)
        sight.frame, sight.frame_at_ns = message, now_ns
        self.forgive(sight.camera)
        if message.setup_hash != part.recipe.setup_hash:
            detail = "the frame was taken with another set-up"
            self.close(sight, Word.ERROR, Reason.WRONG_RECIPE, now_ns, detail)

    def _matched(self, sight: Sight, now_ns: int) -> Sight | None:
        """Frame and score are both here: are they of one picture and one set-up?"""
        frame, scored = sight.frame, sight.scored
        if frame is None or scored is None:
            return None
        if frame.frame_id != scored.frame_id:
            self._ledger.foreign += 1
            detail = f"the score of frame {scored.frame_id} came for frame {frame.frame_id}"
            self.close(sight, Word.ERROR, Reason.ASSOCIATION_LOST, now_ns, detail)
            return None
        if scored.setup_hash != sight.part.recipe.setup_hash:
            detail = "the score was made with another set-up"
            self.close(sight, Word.ERROR, Reason.WRONG_RECIPE, now_ns, detail)
            return None
        return sight

    def judged(self, sight: Sight, result: Judgement, now_ns: int) -> LateResult | None:
        """The margin is known: the verdict, or what it would have been had it not been late."""
        part = sight.part
        if not part.is_paired and part.verdict is None:
            sight.held = result
            return None
        terms = part.recipe.recipe.terms(sight.camera)
        word, reason = judge(result.margin, terms.limits, terms.decides)
        is_late = part.verdict is not None
        if not is_late and sight.ending is not None:
            return None  # it failed already, and the part waits for its other views
        sight.judgement = result
        if not is_late:
            is_late = now_ns > part.deadline_ns
            if not is_late:
                self.close(sight, word, reason, now_ns)
                return None
            self.close(sight, Word.ERROR, Reason.LATE, now_ns, "scored after the deadline")
        sight.late_word = word
        return late_result(part)

    def paired(self, part: Part, now_ns: int, is_whole: bool = True) -> LateResult | None:
        """Hardware trigger: a frame or the step came to a part, and may have changed tag and clock.

        is_whole: frames and step are all there; failures or scores may have waited for that.
        """
        if not is_whole:
            return None
        part.is_paired = True
        self._settle(part, now_ns)
        late = None
        for sight in part.sights.values():
            held, sight.held = sight.held, None
            if held is not None:
                late = self.judged(sight, held, now_ns) or late
        return late

    def part(self, part_id: int) -> Part | None:
        """An open or lately closed part."""
        return self._open.get(part_id) or self._closed.get(part_id)

    def close_unpaired(self, doubtful: tuple[int, ...], detail: str, now_ns: int) -> None:
        """The association is lost: what cannot be proved to belong together ends as ERROR."""
        for part in list(self._open.values()):
            if not part.is_paired or part.part_id in doubtful:
                self._end(part, Ending(Word.ERROR, Reason.ASSOCIATION_LOST, detail), now_ns)

    def expire(self, now_ns: int, guard_ns: int = 0) -> None:
        """Close what reaches its deadline within `guard_ns`, forget what is long closed."""
        for part in [p for p in self._open.values() if p.deadline_ns <= now_ns + guard_ns]:
            for sight in part.sights.values():
                if sight.ending is not None:
                    continue
                if sight.frame is None and sight.scored is None:
                    self._without_image[sight.camera] += 1
                    reason, detail = Reason.NO_IMAGE, "no picture before the deadline"
                else:
                    reason, detail = Reason.LATE, "no score before the deadline"
                sight.ending = Ending(Word.ERROR, reason, detail)
            self._give(part, now_ns)
        horizon = now_ns - _REMEMBER_NS
        while self._closed:
            oldest = next(iter(self._closed.values()))
            if oldest.deadline_ns > horizon:
                break
            del self._closed[oldest.part_id]
            self._forgotten_to = max(self._forgotten_to, oldest.part_id)
            for sight in oldest.sights.values():
                # What is owed still is owed by who was silent all the time, or had other work.
                for debtor, camera in ((camera_label(sight.camera), ""), (INFER, sight.camera)):
                    self._ledger.answered(debtor, oldest.part_id, camera)
                if sight.frame is not None:
                    self._frames.forget(sight.frame)
        lost, before = self._frames.expire(now_ns, _REMEMBER_NS)
        self._ledger.foreign += lost
        self.orphans += before

    def close_all(self, reason: Reason, detail: str, now_ns: int) -> None:
        """End every open part as ERROR."""
        for part in list(self._open.values()):
            self._end(part, Ending(Word.ERROR, reason, detail), now_ns)

    def close(
        self,
        sight: Sight,
        word: Word,
        reason: Reason,
        now_ns: int,
        detail: str = "",
        gates: dict[str, float] | None = None,
        stages_ns: dict[str, int] | None = None,
    ) -> None:
        """End one view, and the part with its last one; a part that is not paired yet as soon as
        it is, at its deadline the latest."""
        if sight.ending is None and sight.part.verdict is None:
            sight.ending = Ending(word, reason, detail, gates or {}, stages_ns or {})
            self._settle(sight.part, now_ns)

    def _doubt(self, sight: Sight, detail: str, now_ns: int) -> None:
        """Whose picture it was is not known after all, whatever came of it."""
        if sight.part.verdict is None:
            sight.ending = Ending(Word.ERROR, Reason.ASSOCIATION_LOST, detail)
            self._settle(sight.part, now_ns)

    def _settle(self, part: Part, now_ns: int) -> None:
        """Its verdict, as soon as the last view has ended."""
        is_whole = all(sight.ending is not None for sight in part.sights.values())
        if part.is_paired and is_whole:
            self._give(part, now_ns)

    def _end(self, part: Part, ending: Ending, now_ns: int) -> None:
        """End all views that have not ended by themselves."""
        for sight in part.sights.values():
            sight.ending = sight.ending or ending
        self._give(part, now_ns)

    def _give(self, part: Part, now_ns: int) -> None:
        """The part's one verdict: journal first, then the world. Every view has ended."""
        if part.verdict is not None:
            return
        verdict = verdict_of(part, now_ns, self._journal.epoch, self._software, self._is_simulated)
        part.verdict = verdict
        self._open.pop(part.part_id, None)
        self._closed[part.part_id] = part
        self._journal.closed(verdict)
        self._ledger.verdicts += 1
        self._on_verdict(part, verdict)
