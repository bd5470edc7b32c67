"""The one table of replay: what must be equal, and when a part is undecidable."""

import math
from typing import Any

import msgspec
import pytest

from appliance.codes import Reason, Word
from appliance.comparison import FIELDS, compare
from appliance.messages import Verdict


def verdict(margin: float | None = 1.0, word: Word = Word.OK, **changes: Any) -> Verdict:
    made = Verdict(
        part_id=7, acq_id=7, epoch=1, word=word, reason=Reason.NONE, margin=margin, t1=2.0, t2=3.0,
        passport="a", features=(1.0, math.nan), gates={"mean": 4.0},
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def test_the_table_names_every_field_of_a_verdict() -> None:
    assert set(FIELDS) == set(Verdict.__struct_fields__)


def test_equal_is_equal_nan_included() -> None:
    assert compare(verdict(), verdict(), 0.0).outcome == "equal"
    assert compare(verdict(math.nan), verdict(math.nan), 0.0).outcome == "equal"


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({"margin": 1.0000001}, "margin"),
        ({"word": Word.NG}, "word"),
        ({"features": (1.0, 2.0)}, "features"),
        ({"gates": {"mean": 4.1}, "margin": 1.5}, "gates"),
        ({"latency_ns": 1}, "latency_ns"),
        ({"detail": "other words"}, "detail"),
        ({"region_px": (0, 0, 1, 1)}, "region_px"),
    ],
)
def test_on_the_same_passport_the_last_bit_counts(changes: dict[str, Any], first: str) -> None:
    found = compare(verdict(), verdict(**changes), 0.0)
    assert found.outcome == "different"
    assert found.differences[0].field == first


def test_what_belongs_to_the_run_may_differ() -> None:
    other: dict[str, Any] = {
        "passport": "b",
        "software": "9",
        "stages_ns": {"engine": 5},
        "opened_utc_ns": 3,
    }
    assert compare(verdict(), verdict(**other), 0.0).outcome == "equal"


def test_another_passport_may_move_logits_by_the_tolerance() -> None:
    near: dict[str, Any] = {"passport": "b", "margin": 1.0 + 5e-4, "features": (1.0004, math.nan)}
    assert compare(verdict(), verdict(**near), 1e-3).outcome == "equal"
    far: dict[str, Any] = {"passport": "b", "margin": 1.1}
    assert compare(verdict(), verdict(**far), 1e-3).outcome == "different"


def test_near_a_limit_is_undecidable_whether_the_word_flipped_or_not() -> None:
    same = compare(verdict(1.9996), verdict(1.9998, passport="b"), 1e-3)
    assert same.outcome == "undecidable"
    flipped = verdict(2.0001, Word.UNCERTAIN, reason=Reason.UNCERTAIN_BAND, passport="b")
    assert compare(verdict(1.9998), flipped, 1e-3).outcome == "undecidable"
    other_part = msgspec.structs.replace(flipped, part_tag=5)
    assert compare(verdict(1.9998), other_part, 1e-3).outcome == "different"


def test_a_part_that_lost_its_score_differs_on_any_passport() -> None:
    error = verdict(None, Word.ERROR, reason=Reason.LATE, passport="b")
    assert compare(verdict(), error, 1e-3).outcome == "different"
