"""Result words: made of a verdict, read back by name, and made once more by replay."""

import math
from typing import Any

import msgspec
import pytest

from appliance.closing import as_whole
from appliance.codes import Reason, Word
from appliance.comparison import WORDS, compare_words
from appliance.messages import PlcTold, Verdict, ViewResult
from appliance.results import Ring, level_words, named, told_again, write_result
from appliance.words import Bank, WordOrder

ORDERS: tuple[WordOrder, ...] = ("high_first", "low_first")
VERDICT = Verdict(
    part_id=70_007, acq_id=4471, epoch=9, word=Word.NG, reason=Reason.ANOMALY_SCORE, margin=2.5,
    t1=1.0, t2=2.0, part_tag=0x12345678, part_text="A-7", latency_ns=21_900_000, defects=2,
    deadline_ns=200_000_000, region_px=(10, 20, 30, 40), is_challenge=True,
)  # fmt: skip


def told(verdict: Verdict, order: WordOrder, is_slot: bool, before: int = 0) -> PlcTold:
    """What decide tells of it, after so many other results."""
    bank = Bank(order)
    if not is_slot:
        bank.set("Epoch", verdict.epoch)
        write_result(bank, verdict)
        return level_words(bank, verdict.part_id)
    ring = Ring(bank, verdict.epoch, True)
    for _ in range(before + 1):
        ring.put(verdict)
    return ring.newest(verdict.part_id)


def differing(then: PlcTold, now: Verdict, order: WordOrder, tolerance: float = 0.0) -> list[str]:
    again = told_again(then, now, order, True)
    names = named(then, order), named(again, order)
    return [d.field for d in compare_words(VERDICT, now, *names, tolerance).differences]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("is_slot", [False, True])
def test_the_same_verdict_makes_the_same_words(order: WordOrder, is_slot: bool) -> None:
    words = told(VERDICT, order, is_slot, before=29)
    assert differing(words, VERDICT, order) == []
    without = msgspec.structs.replace(VERDICT, margin=None, t1=math.nan, region_px=None)
    assert differing(told(without, order, is_slot), without, order) == []


@pytest.mark.parametrize(
    ("change", "of_level", "of_slot"),
    [
        ({"word": Word.OK}, ["Verdict"], ["slot verdict"]),
        ({"reason": Reason.LATE}, ["Reason"], ["slot reason"]),
        ({"part_tag": 5}, ["PartTagEcho"], ["slot part_tag"]),
        ({"epoch": 10}, ["Epoch"], ["slot flags"]),
        ({"acq_id": 4472}, ["InspectionID", "ResultTear"], ["slot inspection_id"]),
        ({"margin": 3.5}, ["Score", "Margin"], ["slot score"]),
        ({"latency_ns": 23_000_000}, ["LatencyMs"], ["slot latency_ms"]),
        ({"is_challenge": False}, [], ["slot flags"]),
    ],
)
def test_each_word_of_another_verdict_is_named(
    change: dict[str, Any], of_level: list[str], of_slot: list[str]
) -> None:
    other = msgspec.structs.replace(VERDICT, **change)
    assert differing(told(VERDICT, "high_first", is_slot=False), other, "high_first") == of_level
    assert differing(told(VERDICT, "high_first", is_slot=True), other, "high_first") == of_slot


def test_words_on_another_engine_say_what_the_margin_says() -> None:
    """The score for people is made of a logit; a word near a limit is undecidable, once."""
    words = told(VERDICT, "high_first", is_slot=False)
    moved = msgspec.structs.replace(VERDICT, margin=2.5004, region_px=(10, 20, 31, 40))
    assert differing(words, moved, "high_first", tolerance=1e-3) == []
    near = msgspec.structs.replace(VERDICT, margin=2.0004)
    beside = msgspec.structs.replace(
        VERDICT, margin=1.9998, word=Word.UNCERTAIN, reason=Reason.UNCERTAIN_BAND
    )
    words = told(near, "high_first", is_slot=False)
    again = told_again(words, beside, "high_first", True)
    names = named(words, "high_first"), named(again, "high_first")
    found = compare_words(near, beside, *names, 1e-3)
    assert found.outcome == "undecidable"
    assert compare_words(near, beside, *names, 0.0).outcome == "different"


def of_views(*views: ViewResult) -> Verdict:
    """The whole of a part that several cameras see."""
    return msgspec.structs.replace(VERDICT, **msgspec.structs.asdict(as_whole(views)), views=views)


def test_another_view_may_decide_where_one_lies_near_its_limit() -> None:
    """Its margin and limits are then those of the words; they are as undecidable as the word."""

    def left(margin: float, word: Word) -> ViewResult:
        return ViewResult(
            camera="left", word=word, reason=Reason.ANOMALY_SCORE, margin=margin, t1=1.0, t2=2.0
        )

    right = ViewResult(
        camera="right", word=Word.NG, reason=Reason.ANOMALY_SCORE, margin=9.0, t1=4.0, t2=5.0
    )

    def compared(then: Verdict, now: Verdict, tolerance: float = 1e-3) -> tuple[str, set[str]]:
        words = told(then, "high_first", is_slot=False)
        again = told_again(words, now, "high_first", True)
        names = named(words, "high_first"), named(again, "high_first")
        found = compare_words(then, now, *names, tolerance)
        return found.outcome, {difference.field for difference in found.differences}

    near = of_views(left(2.0004, Word.NG), right)
    beside = of_views(left(1.9998, Word.UNCERTAIN), right)
    figures = {"Margin", "T1", "T2", "ScoreLimit"}
    assert compared(near, beside) == ("undecidable", figures)
    assert compared(near, beside, 0.0)[0] == "different"
    # Of the view that decides as before they have to be as before.
    of_the_same = of_views(msgspec.structs.replace(left(2.0004, Word.NG), t1=1.5), right)
    assert compared(near, of_the_same) == ("different", {"T1"})
    # And where no view lies near a limit, nothing explains another view.
    far = of_views(left(3.0, Word.NG), right), of_views(left(1.5, Word.UNCERTAIN), right)
    assert compared(*far) == ("different", figures)
    # Whatever else differs is no matter of the view.
    other_tag = msgspec.structs.replace(beside, part_tag=5)
    assert compared(near, other_tag) == ("different", figures | {"PartTagEcho"})


def test_the_table_names_every_word_of_a_result() -> None:
    level, slot = (told(VERDICT, "high_first", is_slot) for is_slot in (False, True))
    assert set(WORDS) == {*named(level, "high_first"), *named(slot, "high_first")}


def test_words_of_no_result_have_no_names() -> None:
    cut = PlcTold(part_id=1, address=115, words=(1, 2))
    then = named(cut, "high_first")
    assert then == {}
    now = named(told_again(cut, VERDICT, "high_first", True), "high_first")
    assert compare_words(VERDICT, VERDICT, then, now, 0.0).outcome == "different"
