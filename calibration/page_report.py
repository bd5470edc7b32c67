"""Report: what one shift made, why parts were rejected, how long it took; the same as CSV."""

import csv
import io
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from nicegui import ui

from appliance.codes import Reason
from appliance.errors import ConfigError
from appliance.hmi_texts import REASONS
from appliance.report import rows, shift_report
from appliance.shifts import Shift, earlier, shift_at
from calibration import texts
from calibration.bounds import percent
from calibration.desk import Desk
from calibration.frame import Visit, button, field, table
from calibration.quarantine import as_cell

_BARS = 12
"""Reasons and regions that are shown; the CSV has all."""


async def build(desk: Desk, visit: Visit) -> None:
    """Which shift, then its figures."""
    starts = desk.config.challenge.shift_starts
    page = _Page(desk, shift_at(datetime.now().astimezone(), starts))
    with ui.element("section").classes("panel wide bar"):
        button(texts.EARLIER, visit.tried(lambda: page.step(1)))
        button(texts.LATER, visit.tried(lambda: page.step(-1)))
        when = field(texts.SHIFT_AT).classes("shift-when")
        go = visit.tried(lambda: page.jump(when.value or ""))
        when.on("keydown.enter", go)
        button(texts.SHOW, go)
        button(texts.CSV, visit.tried(page.download), "is-main")
    page.place = ui.element("div")
    await page.show()


class _Page:
    """One browser's choice."""

    def __init__(self, desk: Desk, shift: Shift) -> None:
        self._desk, self._shift = desk, shift
        self._report: dict[str, Any] = {}
        self.place: ui.element

    async def step(self, count: int) -> None:
        shift = earlier(self._shift, count, self._desk.config.challenge.shift_starts)
        check_year(shift.begin)
        self._shift = shift
        await self.show()

    async def jump(self, text: str) -> None:
        try:
            moment = datetime.fromisoformat(text.strip())
        except ValueError as err:
            expected = "a date or time like 2026-11-27 or 2026-11-27T06:00"
            raise ConfigError(texts.SHIFT_AT, expected, repr(text[:80])) from err
        check_year(moment)
        self._shift = shift_at(moment.astimezone(), self._desk.config.challenge.shift_starts)
        await self.show()

    def download(self) -> None:
        begin = self._shift.begin.strftime("%Y%m%dT%H%M")
        ui.download.content(as_csv(self._report), f"shift-{begin}.csv", "text/csv")

    async def show(self) -> None:
        desk, shift = self._desk, self._shift
        self._report = report = await desk.run(
            lambda: shift_report(desk.store(), *shift, desk.config.deadline_ms)
        )
        self.place.clear()
        with self.place:
            span = texts.SHIFT.format(begin=shift.begin, end=shift.end)
            ui.label(span).classes("title shift-span")
            if not report["counts"]["parts"]:
                ui.label(texts.NO_PARTS_THEN).classes("note")
                return
            with ui.element("div").classes("columns shift"):
                with ui.element("section").classes("panel"):
                    ui.label(texts.COUNTS).classes("title")
                    table((), counts(report["counts"]), "numbers")
                    ui.label(texts.LATENCIES).classes("title")
                    table((), latencies(report["latency_ms"]), "numbers")
                reasons = {REASONS[Reason[name]]: n for name, n in report["reasons"].items()}
                for name, found in ((texts.REASONS, reasons), (texts.REGIONS, report["regions"])):
                    with ui.element("section").classes("panel"):
                        ui.label(name).classes("title")
                        _pareto(found)


def check_year(moment: datetime) -> None:
    """Raises ConfigError where no part can have been seen; years at the ends know no neighbour."""
    if not 1970 < moment.year < 2200:
        raise ConfigError(texts.SHIFT_AT, "a year from 1971 to 2199", str(moment.year))


def _pareto(found: Mapping[str, int]) -> None:
    """Bars by count, and the share of all that they reach together."""
    total, so_far = sum(found.values()), 0
    if not total:
        ui.label(texts.NONE_THEN).classes("note")
    for name, count in list(found.items())[:_BARS]:
        so_far += count
        with ui.element("div").classes("pareto"):
            ui.label(name).classes("pareto-name")
            with ui.element("div").classes("pareto-track"):
                ui.element("div").classes("pareto-bar").style(f"width: {count / total:.1%}")
            ui.label(f"{count}").classes("pareto-count")
            ui.label(percent(so_far / total)).classes("pareto-share")
    if len(found) > _BARS:
        ui.label(texts.MORE.format(count=len(found) - _BARS)).classes("note")


def counts(found: Mapping[str, float | None]) -> list[tuple[str, ...]]:
    """Name and figure; shares as per cent."""
    return [
        (texts.COUNT_NAMES[name], _figure(value, name in texts.SHARES))
        for name, value in found.items()
    ]


def latencies(found: Mapping[str, float | None]) -> list[tuple[str, ...]]:
    """Name and milliseconds."""
    return [(texts.LATENCY_NAMES.get(name, name), _figure(value)) for name, value in found.items()]


def as_csv(report: dict[str, Any]) -> bytes:
    """As `inspectd report --csv` prints it, with no cell that a spreadsheet takes for a formula."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("section", "name", "value"))
    writer.writerows(map(as_cell, row) for row in rows(report))
    return text.getvalue().encode()


def _figure(value: float | None, is_share: bool = False) -> str:
    if value is None:
        return texts.NO_FIGURE
    return percent(value) if is_share else f"{value:g}"
