"""Every part from its trigger to its one verdict. Pure but for the journal; time is an argument.

A part is opened by the PLC's trigger (or, in free run, by its frame), learns of its frame from
the camera and of its score from infer, in whichever order the two arrive, and is closed exactly
once: by its score, by a named failure, or by its deadline.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from appliance.codes import Reason, Word
from appliance.journal import Opened, acq_id, utc_ns
from appliance.ledger import Ledger
from appliance.messages import FrameReady, InferFailed, LateResult, NoFrame, Scored, Verdict
from appliance.recipe import LoadedRecipe
from appliance.verdict import judge

_REMEMBER_NS = 30_000_000_000
"""How long a closed part is remembered, so that a late or double answer is recognised."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What features and forest made of one score."""

    margin: float
    map_max: float
    features: tuple[float, ...] = ()
    reasons: tuple[str, ...] = ()
    region_px: tuple[int, int, int, int] | None = None
    defects: int = 0
    stages_ns: dict[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True)
class Ending:
    """How a part ends: the word, why, and what infer measured until then."""

    word: Word
    reason: Reason
    detail: str = ""
    gates: dict[str, float] = field(default_factory=dict[str, float])
    stages_ns: dict[str, int] = field(default_factory=dict[str, int])


@dataclass(slots=True)
class Part:
    """One part on its way."""

    part_id: int
    acq_id: int
    zero_ns: int
    """Receipt of the Trigger write, or the end of exposure."""
    deadline_ns: int
    recipe: LoadedRecipe
    bundle: str
    part_tag: int = 0
    part_text: str = ""
    lot: str = ""
    is_challenge: bool = False
    expected: Word = Word.NONE
    is_kept: bool = False
    """Its picture is kept whatever the policy says."""
    opened_utc_ns: int = 0
    is_paired: bool = True
    """False with a hardware trigger until both its frame and its step of TriggerCount are there:
    it can end before by its deadline or a lost association alone, for its tag is not known."""
    is_tag_known: bool = False
    """Hardware trigger: the step of TriggerCount that the tag came with is this part's."""
    held: Judgement | None = None
    """Of a part that is not paired yet."""
    held_failure: Ending | None = None
    """The first one of a part that is not paired yet; no score undoes it."""
    is_camera_done: bool = False
    """The camera gave its one answer: a frame or none."""
    is_infer_done: bool = False
    """infer gave its one answer: a score or none."""
    frame: FrameReady | None = None
    frame_at_ns: int = 0
    scored: Scored | None = None
    scored_at_ns: int = 0
    judgement: Judgement | None = None
    verdict: Verdict | None = None


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
        is_simulated: bool = False,
    ) -> None:
        self._journal, self._ledger = journal, ledger
        self._software = software
        self._on_verdict = on_verdict
        self._is_simulated = is_simulated
        self._open: dict[int, Part] = {}
        self._closed: dict[int, Part] = {}
        self._by_frame: dict[tuple[str, int], int] = {}
        self._early: dict[tuple[str, int], tuple[int, Scored | InferFailed]] = {}
        self._ignored: dict[tuple[str, int], int] = {}
        self._newest: FrameReady | None = None
        """Of the newest part that has a frame: part ids and frame ids grow together."""
        self.orphans = 0
        """Frames and answers that belong to no part of this life of the process."""
        self.no_image_in_a_row = 0

    def __len__(self) -> int:
        return len(self._open)

    @property
    def deadlines_ns(self) -> list[int]:
        """Of all open parts."""
        return [part.deadline_ns for part in self._open.values()]

    # ---- opening ---------------------------------------------------------------------------

    def open(
        self,
        zero_ns: int,
        deadline_ns: int,
        recipe: LoadedRecipe,
        bundle: str,
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
            bundle=bundle,
            part_tag=part_tag,
            part_text=part_text,
            lot=lot,
            is_challenge=is_challenge,
            expected=expected,
            opened_utc_ns=utc_ns(),
            is_paired=is_paired,
        )
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

    def asked_camera(self, part: Part) -> None:
        """The camera was asked for this part's frame: it owes exactly one answer."""
        self._ledger.owe("camera", part.part_id, part.deadline_ns)

    def is_double(self, message: FrameReady) -> bool:
        """This frame was announced before; counted, and it opens no part."""
        key = (message.camera, message.frame_id)
        if key not in self._by_frame and key not in self._ignored:
            return False
        self._ledger.duplicates += 1
        return True

    def opened_by_frame(self, message: FrameReady, part: Part, now_ns: int) -> Part | None:
        """Tie the frame to the part that it opened, or (hardware trigger) that its step opened.

        Returns it when it can be judged.
        """
        key = (message.camera, message.frame_id)
        self._by_frame[key] = part.part_id
        self._take_frame(part, message, now_ns)
        _, early = self._early.pop(key, (0, None))
        if isinstance(early, InferFailed):
            self.failed(early, now_ns)
        return self.scored(early, now_ns) if isinstance(early, Scored) else None

    def ignore(self, message: FrameReady, now_ns: int) -> None:
        """A frame that belongs to no part: counted, and so is known whose score will come."""
        key = (message.camera, message.frame_id)
        self.orphans += 1
        self._ignored[key] = now_ns
        self._early.pop(key, None)

    def is_ignored(self, message: FrameReady) -> bool:
        """This frame belongs to no part."""
        return (message.camera, message.frame_id) in self._ignored

    def camera_restarted(self) -> None:
        """A new life of the camera may number its frames anew; what the old one began is void."""
        self._newest = None
        self.orphans += len(self._early)
        self._early.clear()

    # ---- answers ---------------------------------------------------------------------------

    def frame(self, message: FrameReady, now_ns: int) -> Part | None:
        """A frame for a part. Returns the part when its score was there first."""
        part = self._known(message.part_id)
        if part is None:
            return None
        if part.is_camera_done:
            self._ledger.duplicates += 1
            if part.frame is None or part.frame.frame_id != message.frame_id:
                detail = "the camera answered one trigger twice"
                self.close(part, Word.ERROR, Reason.ASSOCIATION_LOST, now_ns, detail)
            return None
        is_in_order = self._is_in_order(part, message)
        self._take_frame(part, message, now_ns)
        if not is_in_order:
            detail = f"frame {message.frame_id} came out of the order of the triggers"
            self.close(part, Word.ERROR, Reason.ASSOCIATION_LOST, now_ns, detail)
        return self._matched(part, now_ns)

    def no_frame(self, message: NoFrame, now_ns: int) -> None:
        """A part without a usable picture."""
        part = self._known(message.part_id)
        if part is None:
            return
        if part.is_camera_done:
            self._ledger.duplicates += 1
        elif part.verdict is None and message.reason == Reason.NO_IMAGE:
            self.no_image_in_a_row += 1
        part.is_camera_done = True
        self._ledger.answered("camera", part.part_id)
        self.close(part, Word.ERROR, message.reason, now_ns, message.detail)

    def holds(self, message: FrameReady) -> bool:
        """This frame became the picture of its part."""
        part = self._open.get(message.part_id) or self._closed.get(message.part_id)
        return part is not None and part.frame is message

    def scored(self, message: Scored, now_ns: int) -> Part | None:
        """A score. Returns the part that is now to be judged (late ones too, for the archive)."""
        part = self._answer_of_infer(message, now_ns)
        if part is None:
            return None
        part.scored, part.scored_at_ns = message, now_ns
        return self._matched(part, now_ns)

    def failed(self, message: InferFailed, now_ns: int) -> None:
        """No score, for a named reason."""
        part = self._answer_of_infer(message, now_ns)
        if part is not None:
            if part.frame is not None and part.frame.frame_id != message.frame_id:
                self._ledger.foreign += 1
            self.close(
                part,
                Word.ERROR,
                message.reason,
                now_ns,
                message.detail,
                gates=message.gates,
                stages_ns=message.stages_ns,
            )

    def _answer_of_infer(self, message: Scored | InferFailed, now_ns: int) -> Part | None:
        key = (message.camera, message.frame_id)
        part_id = message.part_id or self._by_frame.get(key, 0)
        if not part_id:
            if key not in self._ignored:
                self._ledger.duplicates += key in self._early
                self._early[key] = (now_ns, message)
            return None
        part = self._known(part_id)
        if part is None:
            return None
        if part.is_infer_done:
            self._ledger.duplicates += 1
            return None
        part.is_infer_done = True
        self._ledger.answered("infer", part_id)
        return part

    def _known(self, part_id: int) -> Part | None:
        """The part of an answer; an answer for none is counted."""
        part = self._open.get(part_id) or self._closed.get(part_id)
        if part is None and part_id < self._journal.first_id:
            # Asked by an earlier life of this process, which ended that part as "restart".
            self.orphans += 1
        elif part is None:
            self._ledger.foreign += 1
        return part

    def _is_in_order(self, part: Part, message: FrameReady) -> bool:
        """Cameras answer in the order of their triggers, so both ids grow together."""
        newest = self._newest
        if newest is None or part.part_id > newest.part_id:
            self._newest = message
        if newest is not None and newest.camera == message.camera:
            is_newer = part.part_id > newest.part_id
            if is_newer != (message.frame_id > newest.frame_id):
                self._ledger.foreign += 1
                return False
        return not any(
            older.part_id < part.part_id and not older.is_camera_done
            for older in self._open.values()
        )

    def _take_frame(self, part: Part, message: FrameReady, now_ns: int) -> None:
        part.is_camera_done = True
        self._ledger.answered("camera", part.part_id)
        if not part.is_infer_done:
            self._ledger.owe("infer", part.part_id, part.deadline_ns)
        part.frame, part.frame_at_ns = message, now_ns
        self.no_image_in_a_row = 0
        if message.setup_hash != part.recipe.setup_hash:
            detail = "the frame was taken with another set-up"
            self.close(part, Word.ERROR, Reason.WRONG_RECIPE, now_ns, detail)

    def _matched(self, part: Part, now_ns: int) -> Part | None:
        """Frame and score are both here: are they of one picture and one set-up?"""
        frame, scored = part.frame, part.scored
        if frame is None or scored is None:
            return None
        if (frame.camera, frame.frame_id) != (scored.camera, scored.frame_id):
            self._ledger.foreign += 1
            detail = f"the score of frame {scored.frame_id} came for frame {frame.frame_id}"
            self.close(part, Word.ERROR, Reason.ASSOCIATION_LOST, now_ns, detail)
            return None
        if scored.setup_hash != part.recipe.setup_hash:
            detail = "the score was made with another set-up"
            self.close(part, Word.ERROR, Reason.WRONG_RECIPE, now_ns, detail)
            return None
        return part

    # ---- closing ---------------------------------------------------------------------------

    def judged(self, part: Part, result: Judgement, now_ns: int) -> LateResult | None:
        """The margin is known: the verdict, or what it would have been had it not been late."""
        if not part.is_paired and part.verdict is None:
            part.held = result
            return None
        recipe = part.recipe.recipe
        word, reason = judge(result.margin, recipe.limits, recipe.decides)
        if part.verdict is not None:
            return LateResult(part_id=part.part_id, word=word, margin=result.margin)
        part.judgement = result
        if now_ns > part.deadline_ns:
            self.close(part, Word.ERROR, Reason.LATE, now_ns, "scored after the deadline")
            return LateResult(part_id=part.part_id, word=word, margin=result.margin)
        self.close(part, word, reason, now_ns)
        return None

    def paired(self, part: Part, now_ns: int) -> LateResult | None:
        """Hardware trigger: frame and step are there; a failure or a score may have waited."""
        part.is_paired = True
        held, part.held = part.held, None
        if part.held_failure is not None:
            self._end(part, part.held_failure, now_ns)
        return None if held is None else self.judged(part, held, now_ns)

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
            if part.frame is None and part.scored is None:
                self.no_image_in_a_row += 1
                reason, detail = Reason.NO_IMAGE, "no picture before the deadline"
            else:
                reason, detail = Reason.LATE, "no score before the deadline"
            self._end(part, Ending(Word.ERROR, reason, detail), now_ns)
        horizon = now_ns - _REMEMBER_NS
        while self._closed:
            oldest = next(iter(self._closed.values()))
            if oldest.deadline_ns > horizon:
                break
            del self._closed[oldest.part_id]
            if oldest.frame is not None:
                self._by_frame.pop((oldest.frame.camera, oldest.frame.frame_id), None)
        while self._ignored and now_ns - next(iter(self._ignored.values())) > _REMEMBER_NS:
            del self._ignored[next(iter(self._ignored))]
        for key in [k for k, (at, _) in self._early.items() if now_ns - at > 5_000_000_000]:
            # A score for a frame that nobody saw: in free run this is a lost `FrameReady`.
            del self._early[key]
            self._ledger.foreign += 1

    def close_all(self, reason: Reason, detail: str, now_ns: int) -> None:
        """End every open part as ERROR."""
        for part in list(self._open.values()):
            self._end(part, Ending(Word.ERROR, reason, detail), now_ns)

    def close(
        self,
        part: Part,
        word: Word,
        reason: Reason,
        now_ns: int,
        detail: str = "",
        gates: dict[str, float] | None = None,
        stages_ns: dict[str, int] | None = None,
    ) -> None:
        """End the part; one that is not paired yet as soon as it is, at its deadline the latest."""
        if part.verdict is not None:
            return
        ending = Ending(word, reason, detail, gates or {}, stages_ns or {})
        if part.is_paired:
            self._end(part, ending, now_ns)
        elif part.held_failure is None:
            part.held_failure = ending

    def _end(self, part: Part, ending: Ending, now_ns: int) -> None:
        """Give the part its one verdict: journal first, then the world."""
        if part.verdict is not None:
            return
        verdict = self._verdict(part, part.held_failure or ending, now_ns)
        part.verdict = verdict
        self._open.pop(part.part_id, None)
        self._closed[part.part_id] = part
        self._journal.closed(verdict)
        self._ledger.verdicts += 1
        self._on_verdict(part, verdict)

    def _verdict(self, part: Part, ending: Ending, now_ns: int) -> Verdict:
        word = ending.word
        frame, scored, made, recipe = part.frame, part.scored, part.judgement, part.recipe.recipe
        stages = dict(scored.stages_ns if scored else ending.stages_ns)
        if frame is not None:
            stages["picture"] = part.frame_at_ns - part.zero_ns
            stages["copy"] = frame.copy_ns
        if scored is not None:
            stages["score"] = part.scored_at_ns - part.zero_ns
        if made is not None:
            stages |= made.stages_ns
        return Verdict(
            part_id=part.part_id,
            acq_id=part.acq_id,
            epoch=self._journal.epoch,
            word=word,
            reason=ending.reason,
            detail=ending.detail,
            reasons=made.reasons if made else (),
            part_tag=part.part_tag,
            part_text=part.part_text,
            lot=part.lot,
            camera=frame.camera if frame else "",
            region_px=made.region_px if made and word in (Word.NG, Word.UNCERTAIN) else None,
            defects=made.defects if made and word in (Word.NG, Word.UNCERTAIN) else 0,
            decides=recipe.decides,
            margin=made.margin if made else None,
            t1=recipe.limits.t1,
            t2=recipe.limits.t2,
            map_max=made.map_max if made else None,
            classification=scored.classification if scored else None,
            features=made.features if made else (),
            gates=scored.gates if scored else ending.gates,
            opened_utc_ns=part.opened_utc_ns,
            latency_ns=now_ns - part.zero_ns,
            deadline_ns=part.deadline_ns - part.zero_ns,
            stages_ns=stages,
            frame_id=frame.frame_id if frame else 0,
            pixels=frame.pixels if frame else None,
            map=scored.map if scored else None,
            source=frame.source if frame else "",
            bundle=part.bundle,
            recipe=part.recipe.name,
            recipe_hash=part.recipe.hash,
            setup_hash=part.recipe.setup_hash,
            passport=scored.passport if scored else "",
            software=self._software,
            is_simulated=self._is_simulated
            or bool(frame and frame.is_simulated)
            or bool(scored and scored.is_simulated),
            is_challenge=part.is_challenge,
            expected_word=part.expected,
            is_tag_known=part.is_tag_known,
            is_kept=part.is_kept,
        )


def restart_verdict(opened: Opened, epoch: int, software: str) -> Verdict:
    """The verdict of a part that was open when the decision process died."""
    return Verdict(
        part_id=opened.part_id,
        acq_id=acq_id(opened.part_id),
        epoch=epoch,
        word=Word.ERROR,
        is_rebuilt=True,
        reason=Reason.RESTART,
        detail="the decision process was restarted while this part was open",
        part_tag=opened.part_tag,
        part_text=opened.part_text,
        lot=opened.lot,
        opened_utc_ns=opened.opened_utc_ns,
        deadline_ns=opened.deadline_ns,
        recipe=opened.recipe,
        recipe_hash=opened.recipe_hash,
        software=software,
        is_challenge=opened.is_challenge,
    )
