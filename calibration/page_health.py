"""Health: where the time goes, what was lost, disk and temperatures, whether parts drift."""

import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from nicegui import ui

from appliance.errors import ArtefactError
from appliance.recipe import LoadedRecipe
from appliance.rows import PartRow
from calibration import control, texts
from calibration.baselines import WINDOW, Baseline, figures_of, rates_of
from calibration.desk import Desk
from calibration.drift import Level
from calibration.drift_watch import columns_of, compare, window_of
from calibration.frame import Visit, button, field, table
from calibration.machine import disk, temperatures
from calibration.people import Role

_PARTS = 2000
_SHARES = (0.5, 0.99, 0.999, 1.0)
_LOSSES = (
    "lost", "dropped", "failed", "foreign", "skipped", "incomplete", "gaps", "overwritten",
    "refused", "bad_requests",
)  # fmt: skip


async def build(desk: Desk, visit: Visit) -> None:
    """Time and drift on the left, what was lost and the machine on the right."""
    with ui.element("div").classes("columns"):
        with ui.element("div").classes("stack"):
            with ui.element("section").classes("panel"):
                rows = await desk.run(lambda: desk.store().last(_PARTS))
                ui.label(texts.STAGES.format(count=len(rows))).classes("title")
                head = (texts.STAGE, texts.P50, texts.P99, texts.P999, texts.MAX)
                table(head, stages(rows), "numbers")
                share = deadline_share(rows)
                if share is not None:
                    ui.label(texts.DEADLINE_SHARE.format(share=100 * share)).classes(
                        "note" if share < 0.8 else "note is-warn"
                    )
            with ui.element("section").classes("panel"):
                ui.label(texts.DRIFT).classes("title")
                if len(desk.config.camera) > 1:
                    ui.label(texts.SEVERAL_CAMERAS).classes("note")
                else:
                    for recipe in (await desk.run(desk.in_force)).values():
                        await _drift(desk, visit, recipe)
        with ui.element("section").classes("panel"):
            words = desk.words
            if words is None or not desk.is_heard:
                ui.label(texts.SILENT).classes("note is-ng")
            elif words.notes:
                ui.label(texts.NOTES).classes("title")
                for note in words.notes:
                    ui.label(note).classes("note is-warn")
            for name, figures in (
                (texts.LEDGER, words.ledger if words else {}),
                (texts.DROPS, words.counters if words else {}),
            ):
                ui.label(name).classes("title")
                table((), [(key, f"{value}") for key, value in figures.items()], "numbers")
        with ui.element("section").classes("panel"):
            _machine(desk)


class Seen(NamedTuple):
    """What the page says of one recipe."""

    baseline: Baseline | None
    lines: list[str]
    is_alarm: bool


async def _drift(desk: Desk, visit: Visit, recipe: LoadedRecipe) -> None:
    seen = await desk.run(lambda: drifting(desk, recipe))
    level = seen.baseline.level if seen.baseline else Level.CALM
    ui.label(f"{recipe.name} · {texts.LEVELS[int(level)]}").classes(
        "caps is-warn" if level else "caps"
    )
    for line in seen.lines:
        ui.label(line).classes("note is-warn" if seen.is_alarm else "")
    if visit.user().role < Role.TECHNICIAN:
        return
    with ui.element("div").classes("bar"):
        why = field(texts.BASELINE_REASON)

        async def approve() -> None:
            user, reason = visit.user(), why.value or ""

            def keep() -> None:
                rows = window_of(desk, recipe)
                desk.baselines.approve(recipe, rows, columns_of(desk, recipe), reason, user)

            await desk.run(keep)
            ui.navigate.reload()

        async def calm(baseline: Baseline) -> None:
            user, reason = visit.user(), why.value or ""
            control.check(user, reason)
            await desk.run(lambda: desk.baselines.calm(baseline, user.name, reason, user.role.name))
            ui.navigate.reload()

        if visit.user().role >= Role.ENGINEER:
            button(texts.APPROVE_BASELINE.format(count=WINDOW), visit.tried(approve))
        if seen.baseline is not None and level:
            button(texts.CALM_DOWN, visit.tried(partial(calm, seen.baseline)))


def drifting(desk: Desk, recipe: LoadedRecipe) -> Seen:
    """The newest window against the approved baseline, else against the first parts of the bundle;
    in the thread."""
    baseline = desk.baselines.of(recipe)
    rows = window_of(desk, recipe)
    try:
        columns = columns_of(desk, recipe)
    except ArtefactError as err:
        return Seen(baseline, [texts.NOT_COMPARED.format(error=err)], is_alarm=True)
    if baseline is not None:
        figures, rates = baseline.figures, baseline.rates
        note = texts.DRIFT_APPROVED.format(
            baseline=WINDOW, by=baseline.by, reason=baseline.reason,
            when=time.strftime("%Y-%m-%d", time.localtime(baseline.utc_ns / 1e9)),
        )  # fmt: skip
        needed = WINDOW
    else:
        first = desk.store().first(recipe.recipe.bundle, recipe.recipe.decides, WINDOW)
        figures, rates = figures_of(first, columns), rates_of(first or rows)
        note = texts.DRIFT_FIRST.format(recent=WINDOW, baseline=WINDOW)
        is_apart = bool(first and rows) and first[-1].verdict.part_id < rows[-1].verdict.part_id
        needed = WINDOW if is_apart else 2 * WINDOW
    if len(rows) < WINDOW or needed > WINDOW:
        few = texts.DRIFT_FEW.format(count=len(rows), needed=needed)
        return Seen(baseline, [note, few], is_alarm=False)
    found = compare(figures, rates, rows, columns)
    said = [texts.FINDING.format(**finding._asdict()) for finding in found]
    return Seen(baseline, [note, *(said or [texts.DRIFT_CALM])], is_alarm=bool(found))


def _machine(desk: Desk) -> None:
    ui.label(texts.MACHINE).classes("title")
    room, least = disk(desk.config.data_dir), desk.config.record.min_free_gb
    ui.label(texts.FREE.format(free=room.free_gb, total=room.total_gb))
    if room.free_gb < least:
        ui.label(texts.DISK_LOW.format(least=least)).classes("note is-ng")
    warm = [
        (name, texts.NOT_READABLE if value is None else texts.CELSIUS.format(value=value))
        for name, value in temperatures()
    ]
    table((), warm, "numbers") if warm else ui.label(texts.NO_SENSORS).classes("note")
    ui.label(texts.LOST).classes("title")
    lost = losses(desk)
    table((), lost, "numbers") if lost else ui.label(texts.NOTHING_LOST).classes("note")
    gauges = [
        (f"{process} {name}", f"{value:.3g}")
        for process, health in sorted(desk.health.items())
        for name, value in health.gauges.items()
    ]
    if gauges:
        ui.label(texts.PROCESSES).classes("title")
        table((), gauges, "numbers")


def losses(desk: Desk) -> list[tuple[str, ...]]:
    """Counters of all processes that say that something went missing, where they are not 0."""
    return [
        (f"{process} {name}", str(count))
        for process, health in sorted(desk.health.items())
        for name, count in health.counters.items()
        if count and any(word in name for word in _LOSSES)
    ]


def stages(rows: Sequence[PartRow]) -> list[tuple[str, ...]]:
    """Name and quantiles in ms of every stage, the whole first."""
    times: dict[str, list[float]] = {texts.TOTAL: []}
    for row in rows:
        times[texts.TOTAL].append(row.verdict.latency_ns / 1e6)
        for name, value in row.verdict.stages_ns.items():
            times.setdefault(name, []).append(value / 1e6)
    return [
        (name, *(f"{np.quantile(values, share):.2f}" for share in _SHARES))
        for name, values in times.items()
        if values
    ]


def deadline_share(rows: Sequence[PartRow]) -> float | None:
    """p99.9 of the latency as a share of the deadline; None without parts."""
    judged = [row.verdict for row in rows if row.verdict.deadline_ns]
    if not judged:
        return None
    return float(np.quantile([v.latency_ns / v.deadline_ns for v in judged], 0.999))
