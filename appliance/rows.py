"""A verdict as the columns of its row, and back. Pure.

What one database keeps and the other does not (a NUL in a text, a NaN in a number) is changed on
the way in, so that both give back the same.
"""

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from appliance.codes import Reason, Word
from appliance.messages import Verdict, ViewResult

TRANSIENT = frozenset({"pixels", "map", "is_tag_known", "is_kept"})
"""Fields of a Verdict that no row keeps: slots of rings, gone when the row is read, a flag for the
PLC alone, and an order to the archive."""
LATER: Mapping[str, Any] = {"late_word": "NONE", "late_margin": None, "image": ""}
"""Columns that arrive later than the verdict, if they do, and what they hold until then."""


class PartRow(msgspec.Struct, frozen=True, kw_only=True):
    """One part as stored."""

    verdict: Verdict
    """Without `pixels` and `map`; numbers that were not finite come back as None or NaN."""
    late_word: Word
    """What a part that was closed as late would have been; NONE = not late, or never scored."""
    late_margin: float | None
    image: str
    """Path of the archived PNG below the data directory; "" = none."""
    stored_utc_ns: int


def to_row(verdict: Verdict, now_utc_ns: int) -> dict[str, Any]:
    """Its columns, stored now."""
    row = _plain(verdict) | dict(LATER) | {"stored_utc_ns": now_utc_ns}
    row["expected_word"] = verdict.expected_word.name
    row["views"] = [_plain(view) for view in verdict.views] or None
    return row


def _plain(of: ViewResult) -> dict[str, Any]:
    """The fields that a row keeps, of a part or of one view of it."""
    fields = msgspec.structs.asdict(of)
    row = {name: value for name, value in fields.items() if name not in TRANSIENT}
    row.update({name: fields[name].name for name in ("word", "reason")})
    for name, value in row.items():
        if isinstance(value, str):
            row[name] = value.replace("\0", "\ufffd")
        elif isinstance(value, float) and math.isnan(value):
            row[name] = None
    return row


def from_row(row: Mapping[Any, Any]) -> PartRow:
    """Columns by name, as one part."""
    fields = {name: row[name] for name in Verdict.__struct_fields__ if name not in TRANSIENT}
    fields["expected_word"] = Word[row["expected_word"]]
    fields["views"] = tuple(ViewResult(**_read_back(view)) for view in row["views"] or ())
    return PartRow(
        verdict=Verdict(**_read_back(fields)),
        late_word=Word[row["late_word"]],
        late_margin=row["late_margin"],
        image=row["image"],
        stored_utc_ns=row["stored_utc_ns"],
    )


def _read_back(row: Mapping[str, Any]) -> dict[str, Any]:
    """What `_plain` made, as fields again."""
    return dict(row) | {
        "reason": Reason[row["reason"]],
        "word": Word[row["word"]],
        "reasons": tuple(row["reasons"]),
        "region_px": tuple(row["region_px"]) if row["region_px"] else None,
        # JSON has no NaN: it is kept as null.
        "features": tuple(math.nan if x is None else x for x in row["features"]),
        "gates": {name: math.nan if x is None else x for name, x in row["gates"].items()},
    }


def agrees(verdict: Verdict, word: str, opened_utc_ns: int) -> bool:
    """A verdict and the row that is there: of one part, and of one opinion.

    A power cut may cost the journal a verdict whose row was stored already. What is rebuilt then
    says "restart"; the row knows better and stays.
    """
    is_one_part = verdict.opened_utc_ns == opened_utc_ns
    return is_one_part and (verdict.is_rebuilt or verdict.word.name == word)
