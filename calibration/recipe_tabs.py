"""The recipes in force on one page, one shown at a time."""

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from functools import partial

from nicegui import ui

from appliance.recipe import LoadedRecipe
from calibration import texts
from calibration.desk import Desk
from calibration.frame import Visit, button

Show = Callable[[LoadedRecipe], Awaitable[None]]
"""Reads what it takes, which may be refused, and only then draws it with `RecipeTabs.of`."""


class RecipeTabs:
    """classes: of the element that holds tabs and page."""

    def __init__(self, desk: Desk, visit: Visit, classes: str) -> None:
        self._desk, self._visit, self._classes = desk, visit, classes

    async def begin(self, show: Show) -> None:
        """With the first recipe; a note where there is none, or where a part has several views."""
        self._recipes = await self._desk.run(self._desk.in_force)
        if not self._recipes or len(self._desk.config.camera) > 1:
            ui.label(texts.SEVERAL_CAMERAS if self._recipes else texts.NO_RECIPE).classes("note")
            return
        self._show = show
        self._body = ui.element("div").classes(self._classes)
        await show(next(iter(self._recipes.values())))

    @contextmanager
    def of(self, recipe: LoadedRecipe) -> Generator[None]:
        """What is drawn here takes the place of the recipe that was shown before."""
        self._body.clear()
        with self._body:
            with ui.element("div").classes("bar calibrate-tabs"):
                for name, other in self._recipes.items():
                    tone = "is-on" if other is recipe else ""
                    button(name, self._visit.tried(partial(self._show, other)), tone)
            yield
