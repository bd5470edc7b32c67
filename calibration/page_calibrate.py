"""Calibrate: see the margins, move the limits, know what is proved, ask for them, approve them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from nicegui import ui

from appliance.bundle import load_bundle
from appliance.errors import ConfigError
from appliance.recipe import LoadedRecipe, load_recipe
from calibration import texts
from calibration.bounds import CONFIDENCE
from calibration.cost import cost_svg
from calibration.desk import Desk
from calibration.frame import Visit, button, field
from calibration.limits import Target, outcome, propose, summary
from calibration.material import Material, gather, region_view
from calibration.proposal_panel import Proposals, lines
from calibration.publish import not_comparable, versions
from calibration.recipe_tabs import RecipeTabs
from calibration.region_view import RegionRow
from calibration.roc import roc_svg
from calibration.roll_back import roll_back
from calibration.tradeoff import Costs, flips

_BINS = 80
_GALLERY = 8
_LAST = 200
_DEAREST = 1e9


class LimitsChart(ui.element, component="limits_chart.js"):
    """Histograms with two limits to drag."""

    def __init__(
        self, material: Material, limits: tuple[float, float], moved: Callable[[Any], Any]
    ) -> None:
        super().__init__()
        groups = (
            (texts.GOOD_PARTS, "good", material.calibrate.good),
            (texts.BAD_PARTS, "bad", material.calibrate.bad),
            (texts.PRODUCTION, "production", material.margins),
        )
        known = [values for _, _, values in groups]
        everything = np.concatenate([*known, np.array(limits, np.float32)])
        low, high = (float(x) for x in np.quantile(everything, (0.001, 0.999)))
        low, high = min(low, limits[0]), max(high, limits[1])
        room = 0.06 * (high - low) or 1.0
        low, high = low - room, high + room
        self.props["groups"] = [
            {
                "name": f"{name}: {len(values)}",
                "tone": tone,
                "counts": np.histogram(np.clip(values, low, high), _BINS, (low, high))[0].tolist(),
            }
            for name, tone, values in groups
        ]
        self.props["low"], self.props["high"] = low, high
        self.props["limits"] = self.props["force"] = list(limits)
        self.on("limits", moved)

    def set(self, limits: tuple[float, float]) -> None:
        """Put the limits somewhere; the view widens where they lie outside."""
        self.props["low"] = min(self.props["low"], limits[0])
        self.props["high"] = max(self.props["high"], limits[1])
        self.props["limits"] = list(limits)


async def build(desk: Desk, visit: Visit) -> None:
    """The recipes in force; one is shown at a time."""
    tabs = RecipeTabs(desk, visit, "calibrate")

    async def show(recipe: LoadedRecipe) -> None:
        material = await desk.run(lambda: gather(desk.store(), desk.opinions, recipe))
        with tabs.of(recipe):
            _Calibrate(desk, visit, recipe, material)

    await tabs.begin(show)


class _Calibrate:
    """One recipe and what is known of its parts."""

    def __init__(self, desk: Desk, visit: Visit, recipe: LoadedRecipe, material: Material) -> None:
        self._desk, self._visit, self._recipe, self._material = desk, visit, recipe, material
        limits = recipe.recipe.limits
        self._limits = (limits.t1, limits.t2)
        with ui.element("section").classes("panel calibrate-left"):
            ui.label(
                texts.LIMITS_IN_FORCE.format(
                    recipe=recipe.name, t1=limits.t1, t2=limits.t2, by=limits.set_by or "–"
                )
            ).classes("title")
            self._chart = LimitsChart(material, self._limits, visit.tried_with(self._moved))
            with ui.element("div").classes("calibrate-below"):
                with ui.element("div"):
                    self._roc = ui.html("", sanitize=False).classes("roc")
                    self._cost = ui.html("", sanitize=False).classes("roc")
                with ui.element("div").classes("flips"):
                    self._flips = ui.label("").classes("caps")
                    self._gallery = ui.element("div").classes("gallery")
                    with ui.element("details") as regions, ui.element("summary").classes("caps"):
                        ui.label(texts.BY_REGION)
                    with regions:
                        self._regions = ui.element("div").classes("by-region")
                    regions.on("toggle", visit.tried(self._show_regions))
        with ui.element("div").classes("calibrate-right"):
            with ui.element("section").classes("panel"):
                self._target()
            with ui.element("section").classes("panel"):
                ui.label(texts.ESTIMATES).classes("caps is-warn")
                self._estimates = ui.element("div").classes("estimates")
                with ui.element("div").classes("bar"):
                    self._reason = field(texts.REASON)
                    button(texts.PROPOSE, visit.tried(self._propose), "is-main")
            bad = len(material.fresh.bad)
            self._proposals = Proposals(desk, visit, recipe, self._rate, bad)
            self._way_back()
        self._show_estimates()
        self._show_flips()

    def _target(self) -> None:
        ui.label(texts.TARGET).classes("title")
        ui.label(texts.TARGET_NOTE).classes("note")
        with ui.element("div").classes("target"):
            self._max_escape = _number(texts.MAX_ESCAPE, 5.0)
            self._max_overkill = _number(texts.MAX_OVERKILL, 5.0)
            self._defect_rate = _number(texts.DEFECT_RATE, 0.5)
            self._costs = [
                _number(texts.COST_OF.format(what=what), price, most=None)
                for what, price in zip(texts.COSTS, Costs(), strict=True)
            ]
        for box in (self._defect_rate, *self._costs):
            box.on_value_change(self._visit.tried(self._show_estimates))
        with ui.element("div").classes("bar"):
            button(texts.SUGGEST, self._visit.tried(self._suggest))
        self._advice = ui.element("div").classes("advice")

    def _suggest(self) -> None:
        target = Target(
            _percent(self._max_escape, texts.MAX_ESCAPE),
            _percent(self._max_overkill, texts.MAX_OVERKILL),
            CONFIDENCE,
        )
        found = propose(self._material.calibrate, target)
        self._advice.clear()
        with self._advice:
            for title, sentences in (
                (texts.PROVED, found.advice),
                (texts.ON_AVERAGE, found.on_average),
            ):
                if sentences:
                    ui.label(title).classes("caps")
                for sentence in sentences:
                    ui.label(sentence)
            if not found.is_proved:
                ui.label(texts.NOT_PROVED).classes("note is-warn")
        if found.t1 is not None and found.t2 is not None:
            self._limits = (found.t1, found.t2)
            self._chart.set(self._limits)
            self._show_estimates()
            self._show_flips()

    def _moved(self, event: Any) -> None:
        # What a browser sends is a wish: numbers in order, or nothing.
        t1, t2 = float(np.float32(event.args["t1"])), float(np.float32(event.args["t2"]))
        if not (np.isfinite([t1, t2]).all() and t1 <= t2):
            raise ConfigError("limits", "finite T1 <= T2", f"{t1}, {t2}")
        self._limits = (t1, t2)
        self._show_estimates()
        if event.args.get("done"):
            self._show_flips()

    def _rate(self) -> float:
        return _percent(self._defect_rate, texts.DEFECT_RATE)

    def _show_estimates(self) -> None:
        seen = outcome(self._material.calibrate, *self._limits, CONFIDENCE)
        self._estimates.clear()
        with self._estimates:
            for name, said, _ in lines(seen, self._rate()):
                ui.label(name)
                ui.label(said).classes("number")
        prices = [_price(box, what) for box, what in zip(self._costs, texts.COSTS, strict=True)]
        self._cost.content = cost_svg(
            self._material.calibrate, self._limits, self._rate(), Costs(*prices)
        )

    async def _show_regions(self) -> None:
        """Read when it is opened first: thousands of statistics."""
        if self._regions.default_slot.children:
            return
        recipe = self._recipe.recipe
        folder = self._desk.config.bundles_dir / recipe.bundle_dir

        def read() -> list[RegionRow]:
            manifest = load_bundle(folder, recipe.bundle).manifest
            return region_view(self._desk.store(), self._desk.opinions, self._recipe, manifest)

        rows = await self._desk.run(read)
        with self._regions:
            if not rows:
                ui.label(texts.NO_REGION_VIEW).classes("note")
            for row in rows:
                ui.label(row.name)
                ui.html(row.svg(), sanitize=False)
                ui.label("–" if row.auroc is None else f"{row.auroc:.2f}").classes("number")

    def _way_back(self) -> None:
        """The newest version of before whose limits fit."""
        config, current = self._desk.config, self._recipe
        for number in versions(config, current.recipe.id)[::-1]:
            if number >= current.recipe.version:
                continue
            try:
                older = load_recipe(config, f"{current.recipe.id}/{number}")
            except ConfigError:
                continue
            if not not_comparable(older, current):
                break
        else:
            return
        limits = older.recipe.limits
        with ui.element("section").classes("panel"):
            ui.label(texts.BACK_TO.format(recipe=older.name, t1=limits.t1, t2=limits.t2))
            with ui.element("div").classes("bar"):
                why = field(texts.REASON)
                call = partial(roll_back, self._desk, self._visit, older, current, why)
                button(texts.ROLL_BACK, self._visit.tried(call))

    def _show_flips(self) -> None:
        material = self._material
        self._roc.content = roc_svg(material.calibrate, self._limits)
        limits = self._recipe.recipe.limits
        last = material.production[:_LAST]
        changed = flips(material.margins[:_LAST], (limits.t1, limits.t2), self._limits)
        count = sum(len(places) for places in changed)
        self._flips.text = texts.FLIPS.format(total=len(last), count=count)
        self._gallery.clear()
        words = ("OK", "UNCERTAIN", "NG")
        shown = [
            (last[place], word)
            for places, word in zip(changed, words, strict=True)
            for place in places
        ]
        shown.sort(key=lambda one: not one[0].image)
        with self._gallery:
            for row, word in shown[:_GALLERY]:
                with ui.element("figure"):
                    if row.image:
                        ui.element("img").props(f'src="/part/{row.part_id}.jpg" alt=""')
                    else:
                        ui.label(texts.NO_PICTURE).classes("no-picture")
                    with ui.element("figcaption"):
                        ui.label(f"{row.part_id}  {texts.TO.format(old=row.word, new=word)}")

    async def _propose(self) -> None:
        user, limits = self._visit.user(), self._limits
        evidence = summary(outcome(self._material.calibrate, *limits, CONFIDENCE), self._rate())
        recipe = self._recipe.recipe
        reason = self._reason.value or ""

        def ask() -> None:
            self._desk.check_in_force(self._recipe)
            self._desk.opinions.propose(recipe.id, recipe.version, limits, reason, evidence, user)

        await self._desk.run(ask)
        ui.notify(texts.PROPOSED, type="positive")
        self._proposals.show()


def _number(name: str, value: float, most: float | None = 100) -> ui.number:
    field = ui.number(label=name, value=value, min=0, max=most, step=0.1)
    return field.props("dense outlined inputmode=decimal")  # which decimal_comma.js goes by


def _price(field: ui.number, name: str) -> float:
    value = field.value
    if value is None or not 0 <= float(value) < _DEAREST:
        raise ConfigError(name, f"a cost from 0 to {_DEAREST:g}", _got(value))
    return float(value)


def _percent(field: ui.number, name: str) -> float:
    value = field.value
    if value is None or not 0 < float(value) < 100:
        raise ConfigError(name, "more than 0 and less than 100", _got(value))
    return float(value) / 100


def _got(value: float | None) -> str:
    return "nothing" if value is None else f"{value:g}"
