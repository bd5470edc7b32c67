"""The product that a line judges: which number the PLC calls it by, and how the next one comes.

Enters: recipes whose files were read and checked. Leaves: a change of recipe, which setups.py
makes; RecipeId, RecipeHash32 and ModelId; the number for the journal. Pure; time is an argument.
"""

from collections.abc import Callable, Mapping

from appliance.alarms import Alarms
from appliance.box import Box
from appliance.codes import CommandError
from appliance.handshake import Handshake
from appliance.recipe import LoadedRecipe
from appliance.setups import Answer, Setups
from appliance.words import Bank

_KEPT = "recipe.product"


class Product:
    """Of one line. first_camera: ModelId is of its bundle. restored: the counters of the journal.
    keep: writes them, now."""

    def __init__(
        self,
        bank: Bank,
        handshake: Handshake,
        box: Box,
        setups: Setups,
        alarms: Alarms,
        first_camera: str,
        restored: Mapping[str, int],
        keep: Callable[[], None],
    ) -> None:
        self._bank, self._handshake, self._box = bank, handshake, box
        self._setups, self._alarms, self._first_camera = setups, alarms, first_camera
        self._keep = keep
        self.number = 0
        self.last = restored.get(_KEPT, 0)
        """In force, or before the last stop; 0 = none ever was."""

    @property
    def persistent(self) -> dict[str, int]:
        """For the journal: a restart must not go on with the product before."""
        return {_KEPT: self.last}

    def ordered(self, answer: Answer) -> Answer:
        """TriggerReady is 0 until the returned answer is given, while files are read, too: the next
        part is another product's already."""
        conditions = self._handshake.conditions
        conditions.recipe_orders += 1

        def answered(code: CommandError, detail: str) -> None:
            conditions.recipe_orders -= 1
            answer(code, detail)

        return answered

    def change(
        self, target: LoadedRecipe, number: int, asked_ns: int, now_ns: int, done: Answer
    ) -> None:
        """Begin the change to this recipe, which was ordered at `asked_ns`."""

        def finished(code: CommandError, detail: str) -> None:
            if code == CommandError.DONE:
                self._show(target, number)
                self._alarms.restart()
            done(code, detail)

        self._setups.begin(target, asked_ns, finished)
        self._box.follow(now_ns)
        self._handshake.refresh(now_ns)

    def adopt(self, target: LoadedRecipe, number: int) -> None:
        """The first recipe after a start: camera and infer are asked for it until they take it."""
        self._setups.current = target
        self._show(target, number)

    def _show(self, recipe: LoadedRecipe, number: int) -> None:
        self.number = self.last = number
        self._keep()
        bundle = recipe.recipe.terms(self._first_camera).bundle
        self._bank.set("RecipeId", number)
        self._bank.set("RecipeHash32", recipe.hash32)
        self._bank.set("ModelId", int(bundle[:4], 16))
