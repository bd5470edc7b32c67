"""Health: where the time goes, what was counted, whether accepted parts drift."""

from collections.abc import Sequence

import numpy as np
from nicegui import ui

from appliance.codes import Word
from appliance.store import Margin, PartRow
from calibration import drift, texts
from calibration.desk import Desk
from calibration.frame import Visit, table

_PARTS = 2000
_SHARES = (0.5, 0.99, 0.999, 1.0)
_BASELINE = _RECENT = 500
_HISTORY = 20_000


async def build(desk: Desk, visit: Visit) -> None:
    """Three panels."""
    with ui.element("div").classes("columns"):
        with ui.element("section").classes("panel"):
            rows = await desk.run(lambda: desk.store().last(_PARTS))
            ui.label(texts.STAGES.format(count=len(rows))).classes("title")
            head = (texts.STAGE, texts.P50, texts.P99, texts.P999, texts.MAX)
            table(head, stages(rows), "numbers")
            share = deadline_share(rows)
            if share is not None:
                ui.label(texts.DEADLINE_SHARE.format(share=share)).classes(
                    "note" if share < 0.8 else "note is-warn"
                )
        with ui.element("section").classes("panel"):
            words = desk.words
            if words is None:
                ui.label(texts.SILENT).classes("note")
            for name, figures in (
                (texts.LEDGER, words.ledger if words else {}),
                (texts.DROPS, words.counters if words else {}),
            ):
                ui.label(name).classes("title")
                table((), [(key, f"{value}") for key, value in figures.items()], "numbers")
        with ui.element("section").classes("panel"):
            ui.label(texts.DRIFT).classes("title")
            if len(desk.config.camera) > 1:
                ui.label(texts.SEVERAL_CAMERAS).classes("note")
                return
            for recipe in (await desk.run(desk.in_force)).values():
                of = recipe.recipe.bundle, recipe.recipe.decides
                found = await desk.run(lambda of=of: desk.store().margins(*of, _HISTORY))
                ui.label(recipe.name).classes("caps")
                for line in drifting(found):
                    ui.label(line)


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


def drifting(newest_first: Sequence[Margin]) -> list[str]:
    """Findings in words, or why there are none."""
    accepted = np.array(
        [row.margin for row in newest_first if row.word == Word.OK.name], np.float64
    )
    needed = _BASELINE + _RECENT
    if len(accepted) < needed:
        return [texts.DRIFT_FEW.format(count=len(accepted), needed=needed)]
    baseline, recent = accepted[-_BASELINE:], accepted[:_RECENT]
    findings = list(drift.compare({"margins": baseline}, {"margins": recent}))
    first, last = newest_first[-_BASELINE:], newest_first[:_RECENT][::-1]
    rates = drift.Rates(
        *(sum(row.word == word.name for row in first) / len(first)
          for word in (Word.NG, Word.UNCERTAIN))
    )  # fmt: skip
    findings += drift.judge_rates(
        [row.word == Word.NG.name for row in last],
        [row.word == Word.UNCERTAIN.name for row in last],
        rates,
    )
    said = [texts.FINDING.format(**finding._asdict()) for finding in findings]
    note = texts.DRIFT_NOTE.format(recent=_RECENT, baseline=_BASELINE)
    return [note, *(said or [texts.DRIFT_CALM])]
