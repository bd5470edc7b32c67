"""The methods of OPC 40100-1, answered from what this process knows or asked of decide.

Error 0 is done; a positive Error is a CommandError, the same number that a PLC reads in HR 113.
"""
# asyncua annotates what travels, not what its functions take, and exports by star imports.
# pyright: reportArgumentType=false, reportPrivateImportUsage=false

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import Any, TypeAlias

from asyncua import ua

from appliance.codes import CommandError
from appliance.errors import ArtefactError, ConfigError
from appliance.messages import CommandResult, Verdict
from appliance.plc_opcua_model import Model
from appliance.plc_opcua_results import recipe_id, result, result_state
from appliance.words import Bank

KEPT_RESULTS = 1000
_types: Any = ua
_HANDLE = ua.Variant(0, ua.VariantType.UInt32)
"""Nothing is held for a client: every list and result is given as a whole."""

AskAs: TypeAlias = Callable[[str, str], Awaitable[CommandResult]]
"""Name and argument of a command, in the name of the user who called."""


def _number(value: int) -> ua.Variant:
    return ua.Variant(int(value), ua.VariantType.Int32)


def _structure(value: Any) -> ua.Variant:
    return ua.Variant(value, ua.VariantType.ExtensionObject)


def _text(value: Any) -> str:
    """The Id of an id structure; "" where a client sent none."""
    return str(getattr(value, "Id", "") or "")


class Methods:
    """Callbacks of one server."""

    def __init__(
        self,
        model: Model,
        ask: AskAs,
        recipes: Callable[[], dict[int, tuple[str, str]]],
        configuration: Any,
        started_at: datetime,
        tell_safety: Callable[[bool, str], Awaitable[None]],
    ) -> None:
        """recipes: product number → name and hash of the recipe; reads files, raises ConfigError.

        configuration: the one ConfigurationIdDataType of this box, read at `started_at`.
        tell_safety: what a client reported of a safety device goes to everyone.
        """
        self._model, self._ask, self._recipes = model, ask, recipes
        self.configuration, self._started_at = configuration, started_at
        self._tell_safety = tell_safety
        self._results: OrderedDict[str, Verdict] = OrderedDict()
        self.image = Bank()

    def keep(self, verdict: Verdict) -> None:
        """The newest results can be asked for."""
        self._results[str(verdict.part_id)] = verdict
        if len(self._results) > KEPT_RESULTS:
            self._results.popitem(last=False)

    async def link(self) -> None:
        """Every method of the instances gets its callback."""
        machine = ("VisionStateMachine",)
        automatic = (*machine, "AutomaticModeStateMachine")
        table: Iterable[tuple[tuple[str, ...], str, Callable[..., Awaitable[Any]]]] = (
            (machine, "Halt", self._plain("halt")),
            (machine, "Reset", self._plain("reset")),
            (machine, "ConfirmAll", self._confirm_all),
            (machine, "SelectModeAutomatic", self._select_automatic),
            (automatic, "StartSingleJob", self._start_single_job),
            (automatic, "StartContinuous", self._start_continuous),
            (automatic, "Stop", self._plain("stop")),
            (automatic, "Abort", self._plain("stop")),
            (("RecipeManagement",), "PrepareRecipe", self._prepare_recipe),
            (("RecipeManagement",), "UnprepareRecipe", self._unprepare_recipe),
            (("RecipeManagement",), "GetRecipeListFiltered", self._recipe_list),
            (("ResultManagement",), "GetResultById", self._result_by_id),
            (("ResultManagement",), "GetResultComponentsById", self._result_components),
            (("ResultManagement",), "GetResultListFiltered", self._result_list),
            (("ConfigurationManagement",), "ActivateConfiguration", self._activate),
            (("ConfigurationManagement",), "GetConfigurationById", self._configuration_by_id),
            (("ConfigurationManagement",), "GetConfigurationList", self._configuration_list),
            (("SafetyStateManagement",), "ReportSafetyState", self._report_safety),
        )
        for path, name, callback in table:
            self._model.server.link_method(await self._model.child(*path, name), callback)
        active = await self._model.child("ConfigurationManagement", "ActiveConfiguration")
        await active.write_value(self._configuration())

    def _plain(self, command: str) -> Callable[..., Awaitable[list[ua.Variant]]]:
        async def call(parent: ua.NodeId, *_: ua.Variant) -> list[ua.Variant]:
            return [_number((await self._ask(command, "")).code)]

        return call

    async def _confirm_all(self, parent: ua.NodeId, *_: ua.Variant) -> list[ua.Variant]:
        await self._ask("clear_error", "")
        return []

    async def _select_automatic(self, parent: ua.NodeId, *_: ua.Variant) -> list[ua.Variant]:
        return [_number(CommandError.DONE)]  # there is no other mode

    async def _start_single_job(
        self, parent: ua.NodeId, meas: ua.Variant, part: ua.Variant, recipe: ua.Variant, *_: Any
    ) -> list[ua.Variant]:
        """MeasId is the part tag, a number. A recipe id must be that of the recipe in force."""
        answer = await self._wrong_recipe(recipe.Value)
        if answer is None:
            answer = await self._ask("start_job", _text(meas.Value) or "0")
        job = answer.detail if answer.code == CommandError.DONE else ""
        return [_structure(_types.JobIdDataType(Id=job)), _number(answer.code)]

    async def _start_continuous(
        self, parent: ua.NodeId, meas: ua.Variant, part: ua.Variant, recipe: ua.Variant, *_: Any
    ) -> list[ua.Variant]:
        answer = await self._wrong_recipe(recipe.Value)
        if answer is None:
            answer = await self._ask("start_continuous", "")
        return [_structure(_types.JobIdDataType(Id="")), _number(answer.code)]

    async def _wrong_recipe(self, asked: Any) -> CommandResult | None:
        if not _text(asked):
            return None
        number = self._product(asked)
        if number and number == self.image.number("RecipeId"):
            return None
        code = CommandError.WRONG_STATE if number else CommandError.UNKNOWN_PRODUCT
        return CommandResult(id="", code=code, detail="another recipe is in force")

    def _listed(self) -> dict[int, tuple[str, str]]:
        try:
            return self._recipes()
        except (ArtefactError, ConfigError):
            return {}

    def _product(self, asked: Any) -> int:
        """Product number of a recipe id: "ID/VERSION", Id and Version, or the number itself."""
        identity, version = _text(asked), str(getattr(asked, "Version", "") or "")
        name = identity if "/" in identity or not version else f"{identity}/{version}"
        for number, (listed, _) in self._listed().items():
            if name in (listed, str(number)) or (not version and name == listed.partition("/")[0]):
                return number
        return 0

    async def _prepare_recipe(
        self, parent: ua.NodeId, external: ua.Variant, internal: ua.Variant
    ) -> list[ua.Variant]:
        asked = internal.Value if _text(internal.Value) else external.Value
        number = self._product(asked)
        code = CommandError.UNKNOWN_PRODUCT
        name, digest = _text(asked), ""
        if number:
            name, digest = self._listed()[number]
            code = (await self._ask("load_recipe", str(number))).code
        is_done = ua.Variant(code == CommandError.DONE, ua.VariantType.Boolean)
        return [_structure(recipe_id(name, digest)), is_done, _number(code)]

    async def _unprepare_recipe(
        self, parent: ua.NodeId, external: ua.Variant, internal: ua.Variant
    ) -> list[ua.Variant]:
        """One recipe is always in force; it goes when another one is prepared."""
        asked = internal.Value if _text(internal.Value) else external.Value
        return [_structure(recipe_id(_text(asked), "")), _number(CommandError.NOT_SUPPORTED)]

    async def _recipe_list(
        self,
        parent: ua.NodeId,
        external: ua.Variant,
        product: ua.Variant,
        prepared: ua.Variant,
        most: ua.Variant,
        start: ua.Variant,
        _timeout: ua.Variant,
    ) -> list[ua.Variant]:
        current = self.image.number("RecipeId")
        wanted, of_product = _text(external.Value), _text(product.Value)
        is_prepared = prepared.Value
        found = [
            recipe_id(name, digest)
            for number, (name, digest) in sorted(self._listed().items())
            if wanted in ("", name, name.partition("/")[0])
            and of_product in ("", str(number), name.partition("/")[0])
            and is_prepared in (None, 2, int(number == current))
        ]
        return [*_page(found, most.Value, start.Value), _number(CommandError.DONE)]

    async def _result_by_id(
        self, parent: ua.NodeId, identity: ua.Variant, _timeout: ua.Variant
    ) -> list[ua.Variant]:
        verdict = self._results.get(_text(identity.Value))
        if verdict is None:
            return [_HANDLE, _structure(_types.ResultDataType()), _number(CommandError.WRONG_STATE)]
        made = result(verdict, self.configuration)
        return [_HANDLE, _structure(made), _number(CommandError.DONE)]

    async def _result_components(
        self, parent: ua.NodeId, identity: ua.Variant, _timeout: ua.Variant
    ) -> list[ua.Variant]:
        verdict = self._results.get(_text(identity.Value))
        code = CommandError.WRONG_STATE if verdict is None else CommandError.DONE
        r = _types.ResultDataType() if verdict is None else result(verdict, self.configuration)
        kind = ua.VariantType

        def known(value: Any, empty: Any) -> ua.Variant:
            return _structure(empty() if value is None else value)

        return [
            ua.Variant(bool(r.HasTransferableDataOnFile), kind.Boolean),
            _HANDLE,
            ua.Variant(bool(r.IsPartial), kind.Boolean),
            ua.Variant(bool(r.IsSimulated), kind.Boolean),
            _number(r.ResultState or 0),
            known(r.MeasId, _types.MeasIdDataType),
            known(r.PartId, _types.PartIdDataType),
            known(r.ExternalRecipeId, _types.RecipeIdExternalDataType),
            known(r.InternalRecipeId, _types.RecipeIdInternalDataType),
            known(r.ProductId, _types.ProductIdDataType),
            known(r.ExternalConfigurationId, _types.ConfigurationIdDataType),
            known(r.InternalConfigurationId, _types.ConfigurationIdDataType),
            known(r.JobId, _types.JobIdDataType),
            ua.Variant(r.CreationTime, kind.DateTime),
            known(r.ProcessingTimes, _types.ProcessingTimesDataType),
            ua.Variant(r.ResultContent or [], kind.Variant, is_array=True),
            _number(code),
        ]

    async def _result_list(self, parent: ua.NodeId, *inputs: ua.Variant) -> list[ua.Variant]:
        state, meas, part, external, internal, _, _, product, job, most, start, _ = (
            argument.Value for argument in inputs
        )
        recipes = {_text(external), _text(internal)} - {""}
        found = [
            result(verdict, self.configuration)
            for verdict in reversed(self._results.values())
            if state in (None, 0, result_state(verdict))
            and _text(meas) in ("", str(verdict.acq_id))
            and _text(part) in ("", verdict.part_text, str(verdict.part_tag))
            and recipes <= {verdict.recipe, verdict.recipe.partition("/")[0]}
            and _text(product) in ("", verdict.recipe.partition("/")[0])
            and _text(job) in ("", str(verdict.part_id))
        ]
        return [*_page(found, most, start), _number(CommandError.DONE)]

    async def _activate(self, parent: ua.NodeId, identity: ua.Variant) -> list[ua.Variant]:
        is_ours = _text(identity.Value) == self.configuration.Id
        return [_number(CommandError.DONE if is_ours else CommandError.NOT_SUPPORTED)]

    def _configuration(self) -> Any:
        return _types.ConfigurationDataType(
            HasTransferableDataOnFile=False,
            ExternalId=self.configuration,
            InternalId=self.configuration,
            LastModified=self._started_at,
        )

    async def _configuration_by_id(
        self, parent: ua.NodeId, identity: ua.Variant, _timeout: ua.Variant
    ) -> list[ua.Variant]:
        is_ours = _text(identity.Value) == self.configuration.Id
        code = CommandError.DONE if is_ours else CommandError.WRONG_STATE
        return [_HANDLE, _structure(self._configuration()), _number(code)]

    async def _configuration_list(
        self, parent: ua.NodeId, most: ua.Variant, start: ua.Variant, _timeout: ua.Variant
    ) -> list[ua.Variant]:
        page = _page([self._configuration()], most.Value, start.Value)
        return [*page, _number(CommandError.DONE)]

    async def _report_safety(
        self, parent: ua.NodeId, triggered: ua.Variant, information: ua.Variant
    ) -> list[ua.Variant]:
        """Shown to everyone, acted on by nobody: inspectd guards no people."""
        folder = ("SafetyStateManagement",)
        is_triggered, text = bool(triggered.Value), str(information.Value or "")
        node = await self._model.child(*folder, "VisionSafetyTriggered")
        await self._model.write(node, is_triggered, ua.VariantType.Boolean)
        node = await self._model.child(*folder, "VisionSafetyInformation")
        await self._model.write(node, text, ua.VariantType.String)
        await self._tell_safety(is_triggered, text)
        return [_number(CommandError.DONE)]


def _page(found: list[Any], most: int | None, start: int | None) -> list[ua.Variant]:
    """IsComplete, ResultCount, handle and the list itself; 0 means no limit."""
    begin = int(start or 0)
    end = begin + int(most) if most else len(found)
    shown = found[begin:end]
    return [
        ua.Variant(end >= len(found), ua.VariantType.Boolean),
        ua.Variant(len(shown), ua.VariantType.UInt32),
        _HANDLE,
        ua.Variant(shown, ua.VariantType.ExtensionObject, is_array=True),
    ]
