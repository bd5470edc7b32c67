"""What a replay showed: counts, deviations, flips. Pure but for the text it makes."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from appliance.codes import Word
from appliance.comparison import (
    Compared,
    Difference,
    compare,
    compare_words,
    is_of_the_word,
)
from appliance.messages import Verdict
from appliance.replay import Loss
from appliance.replay_stage import Pair, Told
from appliance.summary import summarise_verdicts

SHOWN = 20
"""Deviations and flips that the text lists; the JSON lists all."""


@dataclass
class Flip:
    """A part that another recipe or bundle judges otherwise."""

    part_id: int
    was: Word
    now: Word
    recorded_margin: float | None
    margin: float | None
    picture: tuple[str, int] | None
    recording: str


@dataclass
class Report:
    """Of one recording, or of several merged: adding up is all that merging does.

    tolerance: see comparison.compare. is_what_if: words are expected to differ.
    """

    is_what_if: bool = False
    is_golden: bool = False
    compared: int = 0
    equal: int = 0
    undecidable: list[Compared] = field(default_factory=list[Compared])
    different: list[Compared] = field(default_factory=list[Compared])
    words_compared: int = 0
    """Parts whose result words the recording holds, and that have a verdict today."""
    words_different: list[Compared] = field(default_factory=list[Compared])
    not_compared: Counter[str] = field(default_factory=Counter[str])
    flips: list[Flip] = field(default_factory=list[Flip])
    from_to: Counter[tuple[Word, Word]] = field(default_factory=Counter[tuple[Word, Word]])
    verdicts: list[Verdict] = field(default_factory=list[Verdict])
    recorded: list[Verdict] = field(default_factory=list[Verdict])
    largest_map_difference: float | None = None
    largest_margin_difference: float | None = None
    lost_messages: int = 0
    lost_pictures: int = 0
    recordings: int = 0
    seconds: float = 0.0
    engine_seconds: float = 0.0

    def take(self, pair: Pair, tolerance: float, recording: str) -> None:
        """One part. tolerance: 0 = replayed on the passport that recorded it."""
        new, old = pair.replayed, pair.recorded
        if pair.map_difference is not None:
            self.largest_map_difference = _larger(self.largest_map_difference, pair.map_difference)
        if new is None or (pair.why and not self.is_what_if):
            self.not_compared[pair.why or "no verdict"] += 1
            return
        self.compared += 1
        self.verdicts.append(_slim(new))
        self.recorded.append(_slim(old))
        if old.margin is not None and new.margin is not None:
            difference = abs(old.margin - new.margin)
            self.largest_margin_difference = _larger(self.largest_margin_difference, difference)
        self.from_to[old.word, new.word] += 1
        if self.is_what_if:
            if old.word is not new.word:
                margins = old.margin, new.margin
                self.flips.append(
                    Flip(old.part_id, old.word, new.word, *margins, pair.picture, recording)
                )
            return
        compared = compare(old, new, tolerance)
        match self._accepted(compared).outcome:
            case "equal":
                self.equal += 1
            case "undecidable":
                self.undecidable.append(compared)
            case "different":
                self.different.append(compared)

    def take_words(self, told: Told, tolerance: float) -> None:
        """What the PLC was given for a part. Not for a what-if."""
        new = told.pair.replayed
        if self.is_what_if or new is None:
            return
        self.words_compared += 1
        found = compare_words(told.pair.recorded, new, told.then, told.now, tolerance)
        if self._accepted(found).outcome == "different":
            self.words_different.append(found)

    def _accepted(self, compared: Compared) -> Compared:
        """An update may move figures; what a customer accepts are the words."""
        if self.is_golden and not is_of_the_word(compared.differences):
            is_moved = compared.outcome == "different"
            return compared._replace(outcome="equal", differences=()) if is_moved else compared
        return compared

    def ended(self, losses: Loss, seconds: float, engine_seconds: float) -> None:
        """The recording was played to its end."""
        self.lost_messages += losses.messages
        self.lost_pictures += losses.pictures
        self.recordings += 1
        self.seconds += seconds
        self.engine_seconds += engine_seconds

    def merge(self, other: "Report") -> None:
        """Add the report of another recording."""
        for name in (
            "compared", "equal", "words_compared", "lost_messages", "lost_pictures", "recordings",
        ):  # fmt: skip
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.seconds += other.seconds
        self.engine_seconds += other.engine_seconds
        lists = "undecidable", "different", "words_different", "flips", "verdicts", "recorded"
        for name in lists:
            getattr(self, name).extend(getattr(other, name))
        self.not_compared.update(other.not_compared)
        self.from_to.update(other.from_to)
        for name in ("largest_map_difference", "largest_margin_difference"):
            value = getattr(other, name)
            if value is not None:
                setattr(self, name, _larger(getattr(self, name), value))

    @property
    def is_lossy(self) -> bool:
        """The recording lacks what its policy wanted."""
        return bool(self.lost_messages or self.lost_pictures)

    @property
    def is_good(self) -> bool:
        """The answer is yes: exit 0."""
        if self.is_what_if:
            return True
        is_sure = not (self.is_golden and self.undecidable)
        is_equal = not self.different and not self.words_different
        return is_equal and self.compared > 0 and is_sure

    def as_object(
        self, truth: Mapping[int, bool], deadline_ms: int | None, engine: str
    ) -> dict[str, Any]:
        """The summary object, with `replay` beside its keys."""
        now = summarise_verdicts(self.verdicts, truth, deadline_ms, engine)
        replay: dict[str, Any] = {
            "recordings": self.recordings,
            "compared": self.compared,
            "equal": None if self.is_what_if else self.equal,
            "undecidable": [c.part_id for c in self.undecidable],
            "different": [_deviation(compared) for compared in self.different],
            "words_compared": self.words_compared,
            "words_different": [_deviation(compared) for compared in self.words_different],
            "not_compared": dict(self.not_compared),
            "lost_messages": self.lost_messages,
            "lost_pictures": self.lost_pictures,
            "largest_map_difference": self.largest_map_difference,
            "largest_margin_difference": self.largest_margin_difference,
            "seconds": round(self.seconds, 3),
            "parts_per_s": round(self.compared / self.seconds, 1) if self.seconds else None,
            "engine_share": round(self.engine_seconds / self.seconds, 3) if self.seconds else None,
        }
        if self.is_what_if:
            then = summarise_verdicts(self.recorded, truth, deadline_ms, engine)
            keys = ("ok", "ng", "uncertain", "error", "escapes", "overkill")
            replay["recorded"] = {key: then[key] for key in keys}
            replay["from_to"] = {f"{a.name} → {b.name}": n for (a, b), n in self.from_to.items()}
            replay["flips"] = [
                {
                    "part_id": flip.part_id,
                    "was": flip.was.name,
                    "now": flip.now.name,
                    "recorded_margin": flip.recorded_margin,
                    "margin": flip.margin,
                    "recording": flip.recording,
                }
                for flip in self.flips
            ]
        return {**now, "replay": replay}

    def lines(self, truth: Mapping[int, bool]) -> Iterator[str]:
        """For people."""
        if self.is_lossy:
            yield (
                f"LOSSY: the recording lacks {self.lost_messages} messages and "
                f"{self.lost_pictures} pictures that its policy wanted"
            )
        for why, count in sorted(self.not_compared.items()):
            yield f"{count} parts not compared: {why}"
        if self.is_what_if:
            yield from self._what_if_lines(truth)
            return
        yield (
            f"{self.compared} parts compared: {self.equal} equal, "
            f"{len(self.undecidable)} undecidable, {len(self.different)} different"
        )
        if self.largest_margin_difference is not None:
            yield f"largest difference of a margin: {self.largest_margin_difference:.3g}"
        for compared in self.undecidable[:SHOWN]:
            yield f"part {compared.part_id}: undecidable, a margin within tolerance of a limit"
        for compared in self.different[:SHOWN]:
            first = compared.differences[0]
            yield f"part {compared.part_id}: first at {_sentence(first)}"
            for difference in compared.differences[1:]:
                if difference.field in ("margin", "word", "reason"):
                    yield f"    {_sentence(difference)}"
        if len(self.different) > SHOWN:
            yield f"… and {len(self.different) - SHOWN} more"
        yield from self._lines_of_words()

    def _lines_of_words(self) -> Iterator[str]:
        different = len(self.words_different)
        yield f"words for the PLC of {self.words_compared} parts compared: {different} different"
        for compared in self.words_different[:SHOWN]:
            found = "; ".join(map(_sentence, compared.differences))
            yield f"part {compared.part_id}: words for the PLC: {found}"
        if different > SHOWN:
            yield f"… and {different - SHOWN} more"

    def _what_if_lines(self, truth: Mapping[int, bool]) -> Iterator[str]:
        yield f"{self.compared} parts judged again, {len(self.flips)} verdicts flip"
        for (was, now), count in sorted(self.from_to.items(), key=lambda item: -item[1]):
            if was is not now:
                yield f"    {was.name} → {now.name}: {count}"
        if truth:
            for name, word, is_bad in (("escapes", Word.OK, True), ("overkill", Word.NG, False)):
                then, now = (
                    sum(v.word is word and truth.get(v.part_id) is is_bad for v in verdicts)
                    for verdicts in (self.recorded, self.verdicts)
                )
                yield f"{name} among {len(truth)} labelled parts: {then} → {now}"
        for flip in self.flips[:SHOWN]:
            yield (
                f"part {flip.part_id}: {flip.was.name} → {flip.now.name}, margin "
                f"{_figure(flip.recorded_margin)} → {_figure(flip.margin)}"
            )
        if len(self.flips) > SHOWN:
            yield f"… and {len(self.flips) - SHOWN} more"


def _larger(old: float | None, new: float) -> float:
    return new if old is None else max(old, new)


def _slim(verdict: Verdict) -> Verdict:
    """What the summary needs: a long replay keeps one of these per part."""
    return msgspec.structs.replace(
        verdict, features=(), reasons=(), gates={}, pixels=None, map=None, detail="", views=()
    )


def _sentence(difference: Difference) -> str:
    return f"{difference.field}: recorded {difference.recorded}, replayed {difference.replayed}"


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def _deviation(compared: Compared) -> dict[str, Any]:
    return {
        "part_id": compared.part_id,
        "differences": [_plain(difference) for difference in compared.differences],
    }


def _plain(difference: Difference) -> dict[str, Any]:
    return {
        "field": difference.field,
        "recorded": _json(difference.recorded),
        "replayed": _json(difference.replayed),
    }


def _json(value: Any) -> Any:
    return value.name if isinstance(value, Word) else value
