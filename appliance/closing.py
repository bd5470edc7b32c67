"""What the views of a part come to: its one verdict. Pure.

Enters: a part whose views have all ended. Leaves: the verdict of its worst view, with the others.
"""

from collections.abc import Sequence

import msgspec

from appliance.codes import Reason, Word
from appliance.journal import acq_id
from appliance.journal_records import Opened
from appliance.messages import LateResult, Verdict, ViewResult
from appliance.part import Part, Sight
from appliance.verdict import worst


def verdict_of(part: Part, now_ns: int, epoch: int, software: str, is_simulated: bool) -> Verdict:
    """The verdict of the worst view; is_simulated: whatever frames and scores say."""
    views = tuple(view_result(sight) for sight in part.sights.values())
    of_view = as_whole(views)
    is_of_one = any(
        bool(sight.frame and sight.frame.is_simulated)
        or bool(sight.scored and sight.scored.is_simulated)
        for sight in part.sights.values()
    )
    return Verdict(
        **msgspec.structs.asdict(of_view),
        part_id=part.part_id,
        acq_id=part.acq_id,
        epoch=epoch,
        part_tag=part.part_tag,
        part_text=part.part_text,
        lot=part.lot,
        opened_utc_ns=part.opened_utc_ns,
        latency_ns=now_ns - part.zero_ns,
        deadline_ns=part.deadline_ns - part.zero_ns,
        recipe=part.recipe.name,
        recipe_hash=part.recipe.hash,
        setup_hash=part.recipe.setup_hash,
        software=software,
        is_simulated=is_simulated or is_of_one,
        is_challenge=part.is_challenge,
        expected_word=part.expected,
        is_tag_known=part.is_tag_known,
        is_kept=part.is_kept,
        views=views if len(views) > 1 else (),
    )


def view_result(sight: Sight) -> ViewResult:
    """How one camera's view ended."""
    part, ending = sight.part, sight.ending
    if ending is None:
        raise RuntimeError(f"a verdict while camera {sight.camera} is still awaited")
    frame, scored, made = sight.frame, sight.scored, sight.judgement
    terms = part.recipe.recipe.terms(sight.camera)
    is_shown = ending.word in (Word.NG, Word.UNCERTAIN)
    stages = dict(scored.stages_ns if scored else ending.stages_ns)
    if frame is not None:
        stages["picture"] = sight.frame_at_ns - part.zero_ns
        stages["copy"] = frame.copy_ns
    if scored is not None:
        stages["score"] = sight.scored_at_ns - part.zero_ns
    if made is not None:
        stages |= made.stages_ns
    return ViewResult(
        camera=sight.camera if frame or len(part.sights) > 1 else "",
        word=ending.word,
        reason=ending.reason,
        detail=ending.detail,
        reasons=made.reasons if made else (),
        region_px=made.region_px if made and is_shown else None,
        defects=made.defects if made and is_shown else 0,
        decides=terms.decides,
        margin=made.margin if made else None,
        t1=terms.limits.t1,
        t2=terms.limits.t2,
        map_max=made.map_max if made else None,
        classification=scored.classification if scored else None,
        features=made.features if made else (),
        gates=scored.gates if scored else ending.gates,
        stages_ns=stages,
        frame_id=frame.frame_id if frame else 0,
        pixels=frame.pixels if frame else None,
        map=scored.map if scored else None,
        source=frame.source if frame else "",
        bundle=terms.bundle,
        passport=scored.passport if scored else "",
    )


def as_whole(views: Sequence[ViewResult]) -> ViewResult:
    """The view that decides; of several, with what the others say against the part."""
    of_view = views[worst([view.word for view in views])]
    if len(views) == 1:
        return of_view
    against = [view for view in views if view.word != Word.OK]
    against.sort(key=lambda view: view is not of_view)
    is_missing = of_view.reason in (Reason.LATE, Reason.NO_IMAGE)
    return msgspec.structs.replace(
        of_view,
        reason=Reason.VIEW_MISSING if is_missing else of_view.reason,
        detail="; ".join(
            f"{view.camera} {view.word.name}" + f" ({view.detail})" * bool(view.detail)
            for view in against
        ),
        reasons=tuple(f"{view.camera}: {reason}" for view in against for reason in view.reasons),
    )


def late_result(part: Part) -> LateResult | None:
    """What a closed part would have been, once the last view that was late is judged."""
    sights = list(part.sights.values())
    words = [
        sight.late_word or (sight.ending.word if sight.judgement and sight.ending else Word.NONE)
        for sight in sights
    ]
    if Word.NONE in words:
        return None
    index = worst(words)
    made = sights[index].judgement
    return LateResult(part_id=part.part_id, word=words[index], margin=made.margin if made else 0.0)


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
