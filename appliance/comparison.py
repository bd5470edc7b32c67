"""Two verdicts of one part, and the words that the PLC got: what must be equal, and how nearly.

On the engine passport that judged the part every figure is equal bit for bit. Another passport may
move logits by the tolerance that the bundle states for its precision; a part whose margin lies that
close to a limit is undecidable, never equal.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from appliance.codes import Word
from appliance.messages import Verdict

How: TypeAlias = Literal["equal", "logits", "shown", "ignored"]
"""logits: within the tolerance. shown: made of logits for people, so compared on the same passport
alone."""
Outcome: TypeAlias = Literal["equal", "undecidable", "different"]

FIELDS: Mapping[str, How] = {
    # what went in, in the order in which it is made: the first difference names the stage
    "camera": "equal",
    "frame_id": "equal",
    "source": "equal",
    "part_tag": "equal",
    "part_text": "equal",
    "lot": "equal",
    "is_tag_known": "equal",
    "is_challenge": "equal",
    "expected_word": "equal",
    "is_simulated": "equal",
    "acq_id": "equal",
    "epoch": "equal",
    "deadline_ns": "equal",
    "bundle": "equal",
    "recipe": "equal",
    "recipe_hash": "equal",
    "setup_hash": "equal",
    "decides": "equal",
    "t1": "equal",
    "t2": "equal",
    "gates": "equal",
    "classification": "logits",
    "map_max": "logits",
    "features": "logits",
    "margin": "logits",
    "word": "equal",
    "reason": "equal",
    "latency_ns": "equal",  # virtual time: the recorded one
    "detail": "shown",
    "reasons": "shown",
    "region_px": "shown",
    "defects": "shown",
    # of this run, not of the part
    "part_id": "ignored",  # how the two were found
    "passport": "ignored",  # decides which tolerance holds
    "software": "ignored",  # an update is what is tried
    "stages_ns": "ignored",  # real time of another run
    "opened_utc_ns": "ignored",  # a label
    "pixels": "ignored",
    "map": "ignored",  # slots of rings; the map itself is compared where it was recorded
    "is_kept": "ignored",  # an order to the archive
    "is_rebuilt": "ignored",
    "views": "ignored",  # each is compared by itself
}
"""Every field of a Verdict."""

WORDS: Mapping[str, How] = {
    # the level words, HR 115–152
    "InspectionID": "equal",
    "Verdict": "equal",
    "Reason": "equal",
    "Score": "shown",
    "ScoreLimit": "equal",
    "LatencyMs": "equal",
    "DeadlineUsedMs": "equal",
    "PartTagEcho": "equal",
    "DefectCount": "shown",
    "WorstRegion": "shown",
    "ResultTear": "equal",
    "PartIdEcho": "equal",
    "Epoch": "equal",
    "Margin": "logits",
    "T1": "equal",
    "T2": "equal",
    # a slot of the ring
    "slot seq": "ignored",  # how many results came before it
    "slot verdict": "equal",
    "slot reason": "equal",
    "slot flags": "equal",
    "slot score": "shown",
    "slot latency_ms": "equal",
    "slot part_tag": "equal",
    "slot inspection_id": "equal",
    "slot seq_again": "ignored",
}
"""Every word of a result."""
_OF_THE_WORD = frozenset({"word", "reason", "Verdict", "Reason", "slot verdict", "slot reason"})
"""What another side of a limit changes."""
_OF_THE_VIEW = frozenset({"Margin", "T1", "T2", "ScoreLimit"})
"""What the level words say of the view that decided, and of no other."""


class Difference(NamedTuple):
    """One figure that differs."""

    field: str
    recorded: Any
    replayed: Any


class Compared(NamedTuple):
    """What became of one part."""

    part_id: int
    outcome: Outcome
    differences: tuple[Difference, ...]


def compare(recorded: Verdict, replayed: Verdict, tolerance: float) -> Compared:
    """tolerance: largest difference of a logit; 0 = the same passport, bit for bit.

    Of a part with several views each view is compared, and the word of the whole.
    """
    old, new = recorded.by_view(), replayed.by_view()
    if len(old) != len(new):
        views = Difference("views", len(old), len(new))
        return Compared(recorded.part_id, "different", (views,))
    differences = [
        Difference(f"{was.camera}.{field}" if recorded.views else field, *values)
        for was, now in zip(old, new, strict=True)
        for field, how in FIELDS.items()
        if not _is_same(how, *(values := (getattr(was, field), getattr(now, field))), tolerance)
    ]
    if recorded.views and recorded.word is not replayed.word:
        differences.append(Difference("word", recorded.word, replayed.word))
    outcome: Outcome = "different" if differences else "equal"
    is_near = (is_near_a_limit(*pair, tolerance) for pair in zip(old, new, strict=True))
    if tolerance and any(is_near) and is_of_the_word_alone(differences):
        outcome = "undecidable"
    return Compared(recorded.part_id, outcome, tuple(differences))


def compare_words(
    recorded: Verdict,
    replayed: Verdict,
    then: Mapping[str, Any],
    now: Mapping[str, Any],
    tolerance: float,
) -> Compared:
    """The words that the PLC was given for a part, and those of the replayed verdict, by name.

    A part that lies near a limit is undecidable already: its words say nothing more. Of several
    views another one may decide then, whose figures they show.
    """
    differences = [
        Difference(name, then.get(name), now.get(name))
        for name in {**then, **now}
        if name not in then
        or name not in now
        or not _is_same(WORDS[name], then[name], now[name], tolerance)
    ]
    old, new = recorded.by_view(), replayed.by_view()
    near = (is_near_a_limit(*pair, tolerance) for pair in zip(old, new, strict=False))
    is_of_another = recorded.camera != replayed.camera
    others = [d for d in differences if not (is_of_another and d.field in _OF_THE_VIEW)]
    outcome: Outcome = "different" if differences else "equal"
    if tolerance and any(near) and is_of_the_word_alone(others):
        outcome = "undecidable"
    return Compared(recorded.part_id, outcome, tuple(differences))


def is_of_the_word_alone(differences: Sequence[Difference]) -> bool:
    """Nothing differs but OK, UNCERTAIN or NG, and why."""
    return all(found.field.rpartition(".")[2] in _OF_THE_WORD for found in differences)


def is_of_the_word(differences: Sequence[Difference]) -> bool:
    """OK, UNCERTAIN or NG differs, or why."""
    return any(found.field.rpartition(".")[2] in _OF_THE_WORD for found in differences)


def is_near_a_limit(recorded: Verdict, replayed: Verdict, tolerance: float) -> bool:
    """Whether another rounding of the same logits could have given another word."""
    if recorded.word is Word.ERROR or replayed.word is Word.ERROR:
        return False
    return any(
        abs(margin - limit) <= tolerance
        for margin in (recorded.margin, replayed.margin)
        for limit in (recorded.t1, recorded.t2)
        if margin is not None and limit is not None
    )


def _is_same(how: How, old: Any, new: Any, tolerance: float) -> bool:
    if how == "ignored" or (how == "shown" and tolerance):
        return True
    if how == "equal" or tolerance == 0:
        return _is_equal(old, new)
    if old is None or new is None:
        return old is new
    if isinstance(old, int | float):
        return _is_close(old, new, tolerance)
    if all(isinstance(value, float) for value in (*old, *new)):
        return len(old) == len(new) and all(
            _is_close(a, b, tolerance) for a, b in zip(old, new, strict=True)
        )
    return False


def _is_equal(old: Any, new: Any) -> bool:
    """Equal, a NaN being equal to a NaN."""
    if isinstance(old, float) and isinstance(new, float):
        return old == new or (math.isnan(old) and math.isnan(new))
    if isinstance(old, tuple) and isinstance(new, tuple):
        return len(old) == len(new) and all(map(_is_equal, old, new))
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(_is_equal(old[key], new[key]) for key in old)
    return bool(old == new)


def _is_close(old: float, new: float, tolerance: float) -> bool:
    return abs(old - new) <= tolerance or _is_equal(float(old), float(new))
