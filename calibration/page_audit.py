"""Audit: whether the journal is whole, and its newest entries, of one person or thing too."""

import contextlib
import time
from collections import deque
from collections.abc import Iterator

import msgspec
from nicegui import ui

from appliance.audit import Entry, Finding
from appliance.errors import ConfigError
from calibration import texts
from calibration.desk import Desk
from calibration.frame import Visit, field, table

_MOST = 100
_LONGEST = 160


async def build(desk: Desk, visit: Visit) -> None:
    """The finding, then the entries, newest first."""
    finding = await desk.run(lambda: _verified(desk))
    with ui.element("section").classes("panel wide"):
        for problem in finding.problems:
            ui.label(texts.AUDIT_BAD.format(problem=problem)).classes("note is-ng")
        if not finding.problems:
            head = finding.head
            ui.label(texts.AUDIT_GOOD.format(count=head.number, hash=head.hash)).classes("note")
        with ui.element("div").classes("bar"):
            find = field(texts.FIND_ENTRY).props("clearable debounce=300")
        body = ui.element("div")

    async def show() -> None:
        wanted = (find.value or "").strip().lower()
        entries = await desk.run(lambda: _newest(desk, wanted))
        body.clear()
        with body:
            table(texts.ENTRY_COLUMNS, [_row(entry) for entry in entries], "audit")

    find.on_value_change(visit.tried(show))
    await show()


def _verified(desk: Desk) -> Finding:
    try:
        return desk.journal.verify()
    except OSError as err:
        raise ConfigError(desk.journal.path, "a readable journal", str(err)) from err


def _newest(desk: Desk, wanted: str) -> list[Entry]:
    """Newest first; wanted: a piece of who, what, subject or reason."""
    found = (
        entry
        for entry in _readable(desk)
        if wanted in f"{entry.who} {entry.what} {entry.subject} {entry.reason}".lower()
    )
    return list(deque(found, maxlen=_MOST))[::-1]


def _readable(desk: Desk) -> Iterator[Entry]:
    """What stands behind an altered entry cannot be trusted, and is not shown."""
    with contextlib.suppress(ConfigError):
        yield from desk.journal.entries()


def _row(entry: Entry) -> tuple[str, ...]:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.utc_ns / 1e9))
    old, new = (_short(value) for value in changed(entry.old, entry.new))
    return (str(entry.number), when, entry.who, entry.what, entry.subject, old, new, entry.reason)


def changed(old: object, new: object) -> tuple[object, object]:
    """Of two tables what differs; whatever else as it is."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return old, new
    same = {key for key, value in old.items() if key in new and new[key] == value}
    before, after = (
        {key: value for key, value in told.items() if key not in same} for told in (old, new)
    )
    return before, after


def _short(value: object) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
