"""Looks after every 500 parts whether accepted parts have moved, and tells the line how far.

Enters: rows of `parts.db`, the approved baseline of the recipe that made the newest part. Leaves:
a level for decide (warn → challenge due → hold), one step up with every window that alarms. It
never moves a limit. Without an approved baseline nothing is ordered: the page alone tells.
"""

import asyncio
from collections.abc import Sequence

from appliance.bundle import load_bundle
from appliance.codes import CommandError, Word
from appliance.errors import ArtefactError, ConfigError, DeviceError
from appliance.recipe import LoadedRecipe
from appliance.rows import PartRow
from calibration import drift, texts
from calibration.baselines import WINDOW, Baseline, Figures, figures_of
from calibration.desk import Desk
from calibration.drift import Finding, Level

LOOK_S = 2.0
_BY = "tool:drift"
_EPOCH = 146


def compare(
    figures: Figures, rates: drift.Rates, newest_first: Sequence[PartRow], columns: Sequence[str]
) -> list[Finding]:
    """One window against a baseline: distributions, the mean of margins, rates."""
    recent = figures_of(newest_first, columns)
    found = list(drift.compare(figures, recent))
    known = figures.get("margin")
    if known is not None and len(known) > 1 and (deviation := float(known.std(ddof=1))) > 0:
        mean = float(known.mean())
        charts = drift.Ewma(mean, deviation), drift.Cusum(mean, deviation)
        last: dict[str, Finding] = {}
        for margin in recent["margin"][::-1]:
            for chart in charts:
                if (alarm := chart.add(float(margin))) is not None:
                    last[alarm.what] = alarm
        # Each gives a false alarm every 500 parts or so: both together are a finding.
        found += last.values() if len(last) == len(charts) else ()
    words = [row.verdict.word for row in newest_first][::-1]
    found += drift.judge_rates(
        [word is Word.NG for word in words], [word is Word.UNCERTAIN for word in words], rates
    )
    return found


def window_of(desk: Desk, recipe: LoadedRecipe, count: int = WINDOW) -> tuple[PartRow, ...]:
    """The newest production parts of this bundle and score, newest first; in the thread."""
    of = recipe.recipe.bundle, recipe.recipe.decides
    rows = desk.store().find(count=count, is_challenge=False)
    return tuple(row for row in rows if (row.verdict.bundle, row.verdict.decides) == of)


def columns_of(desk: Desk, recipe: LoadedRecipe) -> tuple[str, ...]:
    """Names of the features of its bundle, read once. Raises ArtefactError where it cannot be read:
    without them no region would be compared, and nobody would know."""
    known = desk.columns.get(recipe.recipe.bundle)
    if known is None:
        folder = desk.config.bundles_dir / recipe.recipe.bundle_dir
        known = load_bundle(folder, recipe.recipe.bundle).manifest.columns
        desk.columns[recipe.recipe.bundle] = known
    return known


def recipe_of(desk: Desk, row: PartRow) -> LoadedRecipe | None:
    """The version in force of the recipe that made this part."""
    return desk.in_force().get(row.verdict.recipe.partition("/")[0])


class Watch:
    """The task of the tool's process."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._obeyed: tuple[int, Level] | None = None
        """Epoch and level that the line showed after it was told."""

    async def run(self) -> None:
        """For ever. What cannot be read now is read the next time."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self._tell(await self._desk.run(self.look))
            except (ConfigError, DeviceError, OSError):
                continue

    def look(self) -> Baseline | None:
        """The baseline that counts, after one more window where there is one; in the thread."""
        desk = self._desk
        if len(desk.config.camera) > 1:
            return None  # the margin of a part is that of its worst view, now of this, now of that
        newest = desk.store().find(count=1, is_challenge=False)
        recipe = recipe_of(desk, newest[0]) if newest else None
        if newest and recipe is None:
            # Nobody knows whether it has a baseline: a level that holds the line stays.
            raise ConfigError("recipe", f"{newest[0].verdict.recipe} as it judged", "none such")
        baseline = desk.baselines.of(recipe) if recipe is not None else None
        if recipe is None or baseline is None:
            return None
        if newest[0].verdict.part_id - baseline.looked_part_id < WINDOW:
            return baseline
        rows = window_of(desk, recipe)
        if len(rows) < WINDOW or rows[-1].verdict.part_id <= baseline.looked_part_id:
            return baseline
        try:
            columns = columns_of(desk, recipe)
        except ArtefactError:
            return baseline  # the level stays; the page says that nothing is compared
        found = compare(baseline.figures, baseline.rates, rows, columns)
        level = drift.escalate(baseline.level, bool(found))
        said = [texts.FINDING.format(**finding._asdict()) for finding in found]
        desk.baselines.looked(baseline, level, rows[0].verdict.part_id, said)
        return desk.baselines.of(recipe)

    async def _tell(self, baseline: Baseline | None) -> None:
        """The line must know the level; a challenge that passed has ended it there, and so here."""
        desk, words = self._desk, self._desk.words
        level = baseline.level if baseline is not None else Level.CALM
        if words is None or not desk.is_heard:
            return
        epoch = words.registers.get(_EPOCH, 0)
        if words.drift == level:
            self._obeyed = epoch, level
        elif words.drift == Level.CALM and self._obeyed == (epoch, level) and baseline is not None:
            await desk.run(lambda: desk.baselines.calm(baseline, "system", texts.DRIFT_ANSWERED))
        else:
            code, _ = await desk.order("drift", _BY, str(int(level)))
            if code == CommandError.DONE:
                self._obeyed = None
