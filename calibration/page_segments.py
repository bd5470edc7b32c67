"""Segments: paint and name regions over the mean part, see what they say, fit, propose, approve."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from nicegui import ui

from appliance.bundle import Bundle, load_bundle
from appliance.errors import ConfigError
from appliance.jobs import JobFolder, State
from appliance.recipe import LoadedRecipe
from calibration import texts
from calibration.desk import Desk
from calibration.frame import Visit, button
from calibration.job_panel import JobPanel
from calibration.lessons import LOOKED_AT, labelled, looked_at, warnings
from calibration.proposal_panel import DEFECT_RATE, Proposals
from calibration.recipe_tabs import RecipeTabs
from calibration.region_map import (
    RegionMap,
    apart,
    coloured,
    data_url,
    hidden,
    painted,
    received,
    region_scores,
)


class Painter(ui.element, component="segment_painter.js"):
    """Regions over a picture; tells of every stroke."""

    def __init__(self, made: RegionMap, force: RegionMap, told: Any) -> None:
        super().__init__()
        height, width = made.labels.shape
        self.props["width"], self.props["height"] = width, height
        self.props["image"] = ""
        self.props["runs"], self.props["regions"] = made.runs(), made.regions()
        self.props["force"] = force.runs(made)
        self.props["texts"] = texts.PAINT
        self.on("painted", told)

    def show(self, picture: bytes) -> None:
        """What lies below the regions."""
        self.props["image"] = data_url(picture) if picture else ""


async def build(desk: Desk, visit: Visit) -> None:
    """The recipes in force; one is shown at a time."""
    tabs = RecipeTabs(desk, visit, "segments")

    async def show(recipe: LoadedRecipe) -> None:
        folder = desk.config.bundles_dir / recipe.recipe.bundle_dir
        bundle = await desk.run(lambda: load_bundle(folder, recipe.recipe.bundle))
        with tabs.of(recipe):
            if bundle.manifest.kind == "null":
                ui.label(texts.NULL_BUNDLE.format(recipe=recipe.name)).classes("note")
            else:
                await _Segments(desk, visit, recipe, bundle).load()

    await tabs.begin(show)


class _Segments:
    """One recipe, its bundle's map, and the one that is painted."""

    def __init__(self, desk: Desk, visit: Visit, recipe: LoadedRecipe, bundle: Bundle) -> None:
        self._desk, self._visit, self._recipe, self._bundle = desk, visit, recipe, bundle
        self._old = coloured(bundle.segment_map(), bundle.manifest.segments)
        self._last = self._desk.workers.jobs.newest("regions", self._recipe.recipe.id)
        self._made = self._fitted_last()
        self._parts: list[tuple[int, str]] = []
        self._maps: npt.NDArray[np.float32] | None = None
        with ui.element("div").classes("segments-left"):
            with ui.element("section").classes("panel"):
                self._painter = Painter(self._made, self._old, visit.tried_with(self._painted))
                self._ignored = ui.label("").classes("caps")
                ui.label(texts.PAINT_NOTE).classes("note")
            with ui.element("section").classes("panel"):
                self._caption = ui.label(texts.NO_PREVIEW).classes("caps")
                with ui.element("div").classes("bar"):
                    button(texts.SCORE_PARTS.format(count=LOOKED_AT), visit.tried(self._score))
                    self._looking = JobPanel(desk, visit, recipe, "look", self._looked)
                self._table = ui.element("div").classes("region-scores")
        with ui.element("div").classes("calibrate-right"):
            with ui.element("section").classes("panel"):
                ui.label(texts.REFIT).classes("title")
                self._warnings = ui.element("div")
                button(texts.REFIT, visit.tried(self._refit), "is-main")
                self._fitting = JobPanel(
                    desk, visit, recipe, "regions", self._fitted, self._proposed
                )
            self._proposals = Proposals(desk, visit, recipe, lambda: DEFECT_RATE)

    async def load(self) -> None:
        """What is on the disk: the mean picture, maps of an earlier look, jobs."""
        look = await self._desk.run(self._last_look)
        self._painter.show(await self._desk.run(lambda: self._picture(look)))
        await self._take(look)
        await self._warn()
        await self._looking.look()
        await self._fitting.look()

    def _fitted_last(self) -> RegionMap:
        """What was painted last over this bundle, else its own map."""
        folder = self._last
        if folder is None or folder.job.bundle != self._bundle.id:
            return self._old
        return painted(folder.path)

    async def _painted(self, event: Any) -> None:
        self._made = received(event.args, self._old.labels.shape)
        await self._show_scores()

    async def _show_scores(self) -> None:
        made, maps = self._made, self._maps
        self._ignored.text = texts.IGNORED_NOW.format(
            new=100 * made.ignored, old=100 * self._old.ignored
        )
        if maps is None:
            return
        kinds = [kind for _, kind in self._parts]
        scores = await self._desk.run(lambda: region_scores(maps, made))
        low, high = float(scores.min()), float(scores.max())
        self._table.clear()
        with self._table, ui.element("table").classes("rows"):
            with ui.element("thead"):
                _row(texts.PREVIEW_PART, made.names, "th")
                shares = ["–" if one is None else f"{one:.2f}" for one in apart(scores, kinds)]
                _row(texts.PREVIEW_APART, shares, "th")
            with ui.element("tbody"):
                for (part_id, kind), row in zip(self._parts, scores, strict=True):
                    cells = [f"{value:.2f}" for value in row]
                    heat = [(value - low) / (high - low or 1) for value in row]
                    _row(f"{part_id}  {kind}", cells, "td", heat, kind not in ("good", ""))
        if gone := [self._parts[place][0] for place in hidden(maps, made)]:
            numbers = ", ".join(map(str, gone[:8]))
            with self._table:
                ui.label(texts.PREVIEW_HIDDEN.format(count=len(gone), parts=numbers)).classes(
                    "note is-warn"
                )

    async def _score(self) -> None:
        user = self._visit.engineer()
        lesson = await self._desk.run(
            lambda: looked_at(self._desk.store(), self._desk.opinions, self._recipe.recipe.id)
        )
        await self._desk.run(
            lambda: self._desk.journal.append(
                user.name, "parts.scored", subject=self._recipe.name,
                new={"parts": len(lesson.parts)}, role=user.role.name, source="page",
            )
        )  # fmt: skip
        self._desk.workers.start("look", self._recipe, user.name, lesson.parts)
        await self._looking.look()

    async def _looked(self, state: State) -> None:
        look = await self._desk.run(self._last_look)
        if state.state == "done" and look is not None:
            self._painter.show(await self._desk.run(lambda: self._picture(look)))
            await self._take(look)

    def _last_look(self) -> JobFolder | None:
        """The newest finished one by this bundle."""
        for folder in self._desk.workers.jobs.all():
            job = folder.job
            if job.kind == "look" and job.recipe_id == self._recipe.recipe.id:
                is_ours = job.bundle == self._bundle.id
                return folder if is_ours and (folder.path / "maps.npz").is_file() else None
        return None

    async def _take(self, look: JobFolder | None) -> None:
        if look is not None:
            kinds = {part.part_id: part.kind for part in look.job.parts}
            ids, self._maps = await self._desk.run(lambda: _maps_of(look.path / "maps.npz"))
            self._parts = [(part_id, kinds[part_id]) for part_id in ids]
            self._caption.text = texts.PREVIEW.format(count=len(ids))
        await self._show_scores()

    def _picture(self, look: JobFolder | None) -> bytes:
        """The mean of good parts where there is one, else a good golden frame of the bundle."""
        mean = look.path / "mean.png" if look is not None else None
        if mean is not None and mean.is_file():
            return mean.read_bytes()
        golden = self._bundle.manifest.golden
        image = cv2.imread(str(self._bundle.path(golden[0].image))) if golden else None
        if image is None:
            return b""
        size = self._old.labels.shape[::-1]
        return cv2.imencode(".png", cv2.resize(image, size, interpolation=cv2.INTER_AREA))[
            1
        ].tobytes()

    async def _warn(self) -> None:
        lesson = await self._desk.run(self._lesson)
        self._warnings.clear()
        with self._warnings:
            for sentence in warnings(lesson):
                ui.label(sentence).classes("note is-warn")

    def _lesson(self) -> Any:
        return labelled(self._desk.store(), self._desk.opinions, self._recipe.recipe.id)

    async def _refit(self) -> None:
        user, made, old = self._visit.engineer(), self._made, self._old
        made.check_painted()
        if made.equals(old):
            raise ConfigError("map", texts.NOTHING_PAINTED, "the same")
        self._check_last()
        lesson = await self._desk.run(self._lesson)
        await self._desk.run(
            lambda: self._desk.journal.append(
                user.name, "regions.painted", subject=self._recipe.name,
                old={"regions": list(old.names), "ignored": round(old.ignored, 4)},
                new={"regions": list(made.names), "ignored": round(made.ignored, 4),
                     "parts": len(lesson.parts)},
                role=user.role.name, source="page",
            )
        )  # fmt: skip
        self._last = self._desk.workers.start(
            "regions", self._recipe, user.name, lesson.parts, made.names, made.files(),
            ignored=(old.ignored, made.ignored),
        )  # fmt: skip
        await self._fitting.look()

    def _check_last(self) -> None:
        """Raises ConfigError once where somebody else fitted another map since this page was
        loaded: the next one to open it would see one of them alone."""
        last = self._desk.workers.jobs.newest("regions", self._recipe.recipe.id)
        if last is None or (self._last is not None and last.path == self._last.path):
            return
        self._last = last
        raise ConfigError("map", texts.FITTED_LAST, texts.FITTED_MEANWHILE.format(by=last.job.by))

    async def _fitted(self, state: State) -> None:
        await self._warn()

    def _proposed(self) -> None:
        self._proposals.show()


def _maps_of(path: Path) -> tuple[list[int], npt.NDArray[np.float32]]:
    with np.load(path) as stored:
        return stored["part_ids"].tolist(), stored["maps"]


def _row(
    name: str,
    cells: Any,
    tag: str,
    heat: list[float] | None = None,
    is_bad: bool = False,
) -> None:
    with ui.element("tr").classes("is-bad" if is_bad else ""):
        with ui.element(tag):
            ui.label(name)
        for place, cell in enumerate(cells):
            with ui.element(tag) as box:
                ui.label(cell)
            if heat is not None:
                box.style(f"--heat: {heat[place]:.2f}")
