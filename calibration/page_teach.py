"""Teach: good parts of this line, a network trained on them beside the line, compared, promoted."""

import importlib.util
import os
from typing import NamedTuple

from nicegui import ui

from appliance.codes import Word
from appliance.errors import ConfigError
from appliance.jobs import JobPart, State
from appliance.recipe import LoadedRecipe
from calibration import texts
from calibration.desk import Desk
from calibration.frame import Visit, button, whole
from calibration.job_panel import JobPanel
from calibration.lessons import Lesson, labelled, unjudged, warnings
from calibration.proposal_panel import DEFECT_RATE, Proposals
from calibration.recipe_tabs import RecipeTabs
from calibration.workers import LEAST_CORES, check_room, is_ready

_LEAST_TAUGHT = 20
_MOST_UNJUDGED = 2000
_MOST_EPOCHS = 10_000


class _Chosen(NamedTuple):
    lesson: Lesson
    unjudged: tuple[JobPart, ...]

    @property
    def parts(self) -> tuple[JobPart, ...]:
        return (*self.lesson.parts, *self.unjudged)


async def build(desk: Desk, visit: Visit) -> None:
    """The recipes in force; one is shown at a time."""
    tabs = RecipeTabs(desk, visit, "segments")

    async def show(recipe: LoadedRecipe) -> None:
        with tabs.of(recipe):
            await _Teach(desk, visit, recipe).count()

    await tabs.begin(show)


class _Teach:
    """One recipe and the parts that its next network would learn from."""

    def __init__(self, desk: Desk, visit: Visit, recipe: LoadedRecipe) -> None:
        self._desk, self._visit, self._recipe = desk, visit, recipe
        with ui.element("div").classes("segments-left"):
            with ui.element("section").classes("panel"):
                ui.label(texts.TEACH_PARTS.format(recipe=recipe.recipe.id)).classes("title")
                ui.label(texts.TEACH_NOTE).classes("note")
                with ui.element("div").classes("bar"):
                    self._unjudged = (
                        ui.number(
                            label=texts.TEACH_UNJUDGED, value=0, min=0, max=_MOST_UNJUDGED, step=10
                        )
                        .props("dense outlined")
                        .classes("teach-number")
                    )
                    self._unjudged.on_value_change(visit.tried(self.count))
                    button(texts.TEACH_COUNT, visit.tried(self.count))
                self._counts = ui.element("div")
                self._gallery = ui.element("div").classes("gallery teach-gallery")
        with ui.element("div").classes("calibrate-right"):
            with ui.element("section").classes("panel"):
                ui.label(texts.TRAIN).classes("title")
                ui.label(texts.TRAIN_NOTE).classes("note")
                self._epochs = ui.number(label=texts.EPOCHS, min=1, max=_MOST_EPOCHS, step=1).props(
                    "dense outlined clearable"
                )
                self._forced = ui.checkbox(texts.FORCE.format(cores=LEAST_CORES))
                if importlib.util.find_spec("torch") is None:
                    ui.label(texts.NO_TORCH).classes("note is-warn")
                button(texts.TRAIN, visit.tried(self._train), "is-main")
                self._job = JobPanel(desk, visit, recipe, "teach", self._over, self._proposed)
            self._proposals = Proposals(desk, visit, recipe, lambda: DEFECT_RATE)

    async def count(self) -> None:
        """What would teach, and what should be known of it before."""
        chosen = await self._desk.run(self._choose)
        lesson = chosen.lesson
        rows = [
            (texts.TEACH_GOOD, lesson.count("learn", True)),
            (texts.TEACH_BAD, lesson.count("learn", False)),
            (texts.TEACH_VERIFY_GOOD, lesson.count("verify", True)),
            (texts.TEACH_VERIFY_BAD, lesson.count("verify", False)),
            (texts.TEACH_TAKEN, len(chosen.unjudged)),
        ]
        self._counts.clear()
        with self._counts:
            with ui.element("div").classes("estimates"):
                for name, number in rows:
                    ui.label(name)
                    ui.label(str(number)).classes("number")
            said = list(warnings(lesson))
            if chosen.unjudged:
                said.insert(0, texts.NOBODY_LOOKED.format(count=len(chosen.unjudged)))
            if lesson.count("learn", True) + len(chosen.unjudged) < _LEAST_TAUGHT:
                said.insert(0, texts.FEW_TO_TEACH.format(needed=_LEAST_TAUGHT))
            words = self._desk.words
            if is_ready(words) and (os.cpu_count() or 1) < LEAST_CORES:
                said.insert(0, texts.LINE_IS_READY.format(cores=os.cpu_count()))
            for sentence in said:
                ui.label(sentence).classes("note is-warn")
        self._gallery.clear()
        with self._gallery:
            for part in chosen.unjudged[:12]:
                with ui.element("figure"):
                    ui.element("img").props(f'src="/part/{part.part_id}.jpg" alt=""')
                    with ui.element("figcaption"):
                        ui.label(str(part.part_id))
        await self._job.look()

    def _choose(self) -> _Chosen:
        store, opinions, recipe_id = self._desk.store(), self._desk.opinions, self._recipe.recipe.id
        count = whole(self._unjudged.value or 0, texts.TEACH_UNJUDGED)
        if not 0 <= count <= _MOST_UNJUDGED:
            raise ConfigError(texts.TEACH_UNJUDGED, f"0 to {_MOST_UNJUDGED}", str(count))
        taken = unjudged(store, opinions, recipe_id, count, (Word.OK,)) if count else ()
        return _Chosen(labelled(store, opinions, recipe_id), taken)

    async def _train(self) -> None:
        user, is_forced = self._visit.engineer(), bool(self._forced.value)
        check_room(self._desk.words, is_forced)
        epochs = self._epochs.value
        epochs = None if epochs is None else whole(epochs, texts.EPOCHS)
        if epochs is not None and not 1 <= epochs <= _MOST_EPOCHS:
            raise ConfigError("epochs", f"1 to {_MOST_EPOCHS}, or nothing", str(epochs))
        chosen = await self._desk.run(self._choose)
        lesson = chosen.lesson
        await self._desk.run(
            lambda: self._desk.journal.append(
                user.name, "network.taught", subject=self._recipe.name,
                new={"good": lesson.count("learn", True), "bad": lesson.count("learn", False),
                     "unjudged": len(chosen.unjudged), "forced": is_forced},
                role=user.role.name, source="page",
            )
        )  # fmt: skip
        self._desk.workers.start("teach", self._recipe, user.name, chosen.parts, epochs=epochs)
        await self._job.look()

    async def _over(self, state: State) -> None:
        await self.count()

    def _proposed(self) -> None:
        self._proposals.show()
