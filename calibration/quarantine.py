"""Which parts nobody can vouch for: delivered as good since the last test that was passed.

Enters: rows of challenge parts, tests, the list of challenge parts. Leaves: the last good test, the
parts since then, as CSV and as a page that prints. Every name goes through `escape`.
"""

import csv
import io
import time
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from appliance.codes import Word
from appliance.messages import Verdict
from appliance.rows import PartRow
from appliance.store import Delivered, Store
from calibration import texts
from calibration.challenge_rules import Shown, last_good
from calibration.challenges import Challenges, Known
from calibration.paper import page

_ROWS = 500
"""Newest challenge parts in which a challenge of the PLC is looked for."""
_PRINTED = 2000
_FORMULA = ("=", "+", "-", "@")
_COLUMNS = ("part", "tag", "text", "lot", "recipe", "seen")


class LastGood(NamedTuple):
    """The last test that was passed."""

    after_part_id: int
    """Parts above this id came after it; 0 = there never was one."""
    said: str


def name_of(verdict: Verdict) -> str:
    """What the PLC calls a part: its text, else its tag; "" = neither."""
    return verdict.part_text or (str(verdict.part_tag) if verdict.part_tag else "")


def shown_of(rows: Sequence[PartRow], known: Sequence[Known]) -> list[Shown]:
    """Challenge parts with what they must be: by the list, else by the PLC."""
    expected: Mapping[str, Word] = {part.name: part.expected for part in known}
    return [
        Shown(
            row.verdict.part_id,
            name_of(row.verdict),
            expected.get(name_of(row.verdict), row.verdict.expected_word),
            row.verdict.word,
        )
        for row in rows
    ]


def find_last_good(store: Store, challenges: Challenges) -> LastGood:
    """A test of a page, or a challenge that the PLC ran by itself: the newer one."""
    test = challenges.last_passed()
    rows = store.find(count=_ROWS, is_challenge=True)
    of_plc = last_good(shown_of(rows, ()))
    if test is None and of_plc is None:
        return LastGood(0, texts.NEVER_PASSED)
    if test is not None and (of_plc is None or test.last_part_id >= of_plc):
        said = texts.PASSED_TEST.format(
            id=test.id, kind=test.kind, by=test.ended_by, when=when(test.ended_utc_ns)
        )
        return LastGood(test.last_part_id, said)
    assert of_plc is not None
    row = next(row for row in rows if row.verdict.part_id == of_plc)
    return LastGood(of_plc, texts.PASSED_PLC.format(when=when(row.verdict.opened_utc_ns)))


def as_csv(parts: Sequence[Delivered]) -> str:
    """One line a part."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    writer.writerows(map(as_cell, _row(part)) for part in parts)
    return text.getvalue()


def as_cell(value: object) -> object:
    """For CSV: a text that a spreadsheet would take for a formula gets an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def as_page(parts: Sequence[Delivered], good: LastGood) -> str:
    """For the printer: the first 2,000, and that there are more; the CSV has them all."""
    head = "".join(f"<th>{escape(name)}</th>" for name in _COLUMNS)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in _row(part)) + "</tr>"
        for part in parts[:_PRINTED]
    )
    said = escape(texts.QUARANTINE_COUNT.format(count=len(parts), good=good.said))
    if len(parts) > _PRINTED:
        said += f"</p><p>{escape(texts.QUARANTINE_MORE.format(count=_PRINTED))}"
    return page(texts.QUARANTINE, f"<p>{said}</p><table><tr>{head}</tr>{rows}</table>")


def when(utc_ns: int) -> str:
    """Local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(utc_ns / 1e9))


def _row(part: Delivered) -> tuple[object, ...]:
    return (
        part.part_id, part.part_tag, part.part_text, part.lot, part.recipe,
        when(part.opened_utc_ns),
    )  # fmt: skip
