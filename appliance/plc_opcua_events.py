"""Events of OPC 40100-1 with typed fields: what was opened, seen, decided, and what is wrong.

Times of an event are those of what happened, not of its sending. The generator leaves scalar fields
without a type and clients then receive None, so every field is given its type here.
"""
# asyncua annotates what travels, not what its functions take, and exports by star imports.
# pyright: reportArgumentType=false, reportPrivateImportUsage=false

from datetime import datetime, timezone
from typing import Any

from asyncua import Server, ua
from asyncua.common.ua_utils import data_type_to_variant_type
from asyncua.server.event_generator import EventGenerator

from appliance.codes import FaultCode, Status1, Status2
from appliance.messages import Verdict
from appliance.plc_opcua_model import Model
from appliance.plc_opcua_results import closed_at, content, opened_at, recipe_id, result
from appliance.words import Bank

_types: Any = ua
_NAMES = (
    "AcquisitionDone",
    "Error",
    "ErrorResolved",
    "JobStarted",
    "Ready",
    "RecipePrepared",
    "ResultReady",
    "StateChanged",
    "VisionDiagnosticInfo",
    "VisionInformation",
    "VisionSafety",
)
_CONDITIONS = {"VisionErrorCondition": 700, "VisionWarningCondition": 400}
"""Condition type → severity."""
_SEVERITY = {"Error": 700, "VisionInformation": 100}
_EMPTY: dict[ua.VariantType, Any] = {
    ua.VariantType.Boolean: False,
    ua.VariantType.String: "",
    ua.VariantType.DateTime: datetime(1970, 1, 1, tzinfo=timezone.utc),
}


class Events:
    """Generators by name, and what was last told."""

    def __init__(self, model: Model, configuration: Any) -> None:
        self._model, self._configuration = model, configuration
        self._generators: dict[str, EventGenerator] = {}
        self._sources: tuple[ua.NodeId, ...] = ()
        self._fault = FaultCode.NONE
        self._is_warning = False
        self._recipe: tuple[int, int] | None = None
        self._state: str | None = None
        self._notes: tuple[str, ...] = ()
        self._names: dict[int, tuple[str, str]] = {}

    async def prepare(self, server: Server) -> None:
        """One generator per type; each event goes out at the Server object and at VisionSystem."""
        self._sources = (server.nodes.server.nodeid, self._model.system.nodeid)
        types = {name: f"{name}EventType" for name in _NAMES}
        types |= {name: f"{name}Type" for name in _CONDITIONS}
        for name, kind in types.items():
            node = await _event_type(server, kind)
            generator = await server.get_event_generator(node, self._model.system.nodeid)
            await _give_types(generator.event, server, node)
            event = generator.event
            event.Severity = _CONDITIONS.get(name, _SEVERITY.get(name, 1))
            self._generators[name] = generator

    async def verdict(self, verdict: Verdict) -> None:
        """JobStarted, AcquisitionDone, Ready and ResultReady of one part, each with its time."""
        job = _types.JobIdDataType(Id=str(verdict.part_id))
        await self._tell("JobStarted", opened_at(verdict), f"part {verdict.part_id}", JobId=job)
        if verdict.frame_id:
            seen = f"frame {verdict.frame_id}"
            await self._tell("AcquisitionDone", opened_at(verdict), seen, JobId=job)
        made = result(verdict, self._configuration)
        fields = {
            name: getattr(made, name)
            for name in (
                "ResultId", "IsPartial", "IsSimulated", "ResultState", "MeasId", "PartId",
                "ExternalRecipeId", "InternalRecipeId", "ProductId", "ExternalConfigurationId",
                "InternalConfigurationId", "JobId", "CreationTime", "ProcessingTimes",
            )
        }  # fmt: skip
        text = f"{verdict.word.name} {verdict.reason.name.lower()}"
        fields["ResultContent"] = content(verdict)
        await self._tell("ResultReady", closed_at(verdict), text, **fields)
        await self._tell("Ready", closed_at(verdict), "the next part may come", JobId=job)

    async def words(
        self, image: Bank, notes: tuple[str, ...], state: str, recipes: dict[int, tuple[str, str]]
    ) -> None:
        """What changed since the last words: state, fault, warning, recipe, notes."""
        now = datetime.now(timezone.utc)
        if state != self._state:
            old, self._state = self._state, state
            if old is not None:
                await self._state_changed(old, state, now)
        await self._faults(image, now)
        recipe = image.number("RecipeId"), image.number("RecipeHash32")
        if recipe != self._recipe:
            was_known, self._recipe = self._recipe is not None, recipe
            name, digest = recipes.get(recipe[0], (str(recipe[0]), ""))
            if was_known:
                identity = recipe_id(name, digest)
                external = _types.RecipeIdExternalDataType(Id=name)
                product = _types.ProductIdDataType(Id=str(recipe[0]))
                await self._tell(
                    "RecipePrepared", now, name,
                    ExternalId=external, InternalId=identity, ProductId=product,
                )  # fmt: skip
        for note in set(notes) - set(self._notes):
            await self._tell("VisionDiagnosticInfo", now, note, CausePath="")
        self._notes = notes

    async def silence(self, is_silent: bool) -> None:
        """decide died or came back."""
        now = datetime.now(timezone.utc)
        text = "the decision process is silent"
        if is_silent:
            await self._tell("Error", now, text)
        else:
            await self._tell("ErrorResolved", now, "the decision process speaks")

    async def safety(self, is_triggered: bool, information: str) -> None:
        """A client reported the state of a safety device; told on, and acted on by nobody."""
        await self._tell(
            "VisionSafety", datetime.now(timezone.utc), information or "safety state",
            VisionSafetyTriggered=is_triggered, VisionSafetyInformation=information,
        )  # fmt: skip

    async def _state_changed(self, old: str, new: str, now: datetime) -> None:
        model = self._model
        await self._tell(
            "StateChanged", now, f"{old} → {new}",
            **{
                "FromState": ua.LocalizedText(old),
                "FromState/Id": model.state_id(old),
                "ToState": ua.LocalizedText(new),
                "ToState/Id": model.state_id(new),
                "Transition": ua.LocalizedText(f"{old}To{new}"),
            },
        )  # fmt: skip

    async def _faults(self, image: Bank, now: datetime) -> None:
        bits = Status1(image.number("Status1"))
        fault = FaultCode(image.number("FaultCode")) if Status1.FAULT in bits else FaultCode.NONE
        if fault != self._fault:
            old, self._fault = self._fault, fault
            text = fault.name.replace("_", " ").lower()
            if fault:
                await self._tell("Error", now, text)
            else:
                await self._tell("ErrorResolved", now, old.name.replace("_", " ").lower())
            await self._condition("VisionErrorCondition", fault or old, bool(fault), text, now)
        is_warning = Status1.WARNING in bits
        if is_warning != self._is_warning:
            self._is_warning = is_warning
            text = "warning" if is_warning else "no warning"
            await self._tell("VisionInformation", now, text, CausePath="")
            code = image.number("Status2") & int(Status2.ARCHIVE_LOSSY | Status2.DISK_LOW)
            await self._condition("VisionWarningCondition", code, is_warning, text, now)

    async def _condition(
        self, name: str, code: int, is_active: bool, text: str, now: datetime
    ) -> None:
        fields = {
            "ConditionName": name,
            "Retain": is_active,
            "ErrorCode": int(code),
            "ErrorString": text,
            "StopReaction": is_active and name == "VisionErrorCondition",
            "BlockReaction": False,
            "CausePath": "",
        }
        await self._tell(name, now, text, **fields)

    async def _tell(self, name: str, when: datetime, text: str, **fields: Any) -> None:
        generator = self._generators[name]
        event = generator.event
        for field, value in fields.items():
            if field in event.data_types:
                setattr(event, field, value)
        for source in self._sources:
            event.emitting_node = source
            await generator.trigger(time_attr=when, message=text)


async def _event_type(server: Server, name: str) -> Any:
    async def search(parent: Any) -> Any:
        for node in await parent.get_children(refs=ua.ObjectIds.HasSubtype):
            if (await node.read_browse_name()).Name == name:
                return node
            if (found := await search(node)) is not None:
                return found
        return None

    found = await search(server.nodes.base_event_type)
    if found is None:
        raise ua.UaError(f"the nodeset has no event type {name}")
    return found


async def _give_types(event: Any, server: Server, node: Any) -> None:
    """A type and an empty value for every field that the generator left without."""
    while node is not None and node.nodeid.NamespaceIndex:
        for field in [*await node.get_properties(), *await node.get_variables()]:
            name = (await field.read_browse_name()).Name
            kind = await data_type_to_variant_type(server.get_node(await field.read_data_type()))
            if kind == ua.VariantType.Null:  # ResultContent: the nodeset names no data type
                kind = ua.VariantType.Variant
            event.data_types[name] = kind
            if getattr(event, name, None) is None:
                setattr(event, name, _EMPTY.get(kind))
        parents = await node.get_referenced_nodes(
            refs=ua.ObjectIds.HasSubtype, direction=ua.BrowseDirection.Inverse
        )
        node = parents[0] if parents else None
