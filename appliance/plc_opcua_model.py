"""The address space: the VisionSystem of OPC 40100-1 and, beside it, our own numbers.

Built once from the official NodeSet2 file; after that values are only written where they changed.
Node ids are readable and stay the same: "VisionSystem.RecipeManagement.PrepareRecipe".
"""
# asyncua annotates what travels, not what its functions take, and exports by star imports.
# pyright: reportArgumentType=false, reportPrivateImportUsage=false

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asyncua import Node, Server, ua
from asyncua.common.instantiate_util import instantiate

from appliance.codes import OfflineReason, State, Status1
from appliance.messages import Words
from appliance.registers import FROM_VISION, Register
from appliance.words import Bank

NODESET = Path(__file__).parent / "nodesets" / "Opc.Ua.MachineVision.NodeSet2.xml"
URI = "http://opcfoundation.org/UA/MachineVision"
VENDOR_URI = "urn:inspectd:line"
PRODUCTIVE, STANDBY, ENGINEERING, SCHEDULED_DOWN, UNSCHEDULED_DOWN = 1, 2, 3, 4, 5
"""SystemState: SEMI E10."""
_E10 = {
    OfflineReason.NONE: STANDBY,
    OfflineReason.STARTING: STANDBY,
    OfflineReason.NO_RECIPE: STANDBY,
    OfflineReason.RECIPE_CHANGING: STANDBY,
    OfflineReason.PLC_COMMUNICATION: STANDBY,
    OfflineReason.MAINTENANCE: ENGINEERING,
    OfflineReason.STOPPED_BY_PERSON: SCHEDULED_DOWN,
}
_E10_NAMES = {1: "PRD", 2: "SBY", 3: "ENG", 4: "SDT", 5: "UDT"}
_OUTER = {
    State.PREOPERATIONAL: "Preoperational",
    State.HALTED: "Halted",
    State.ERROR: "Error",
}
"""All others are Operational."""
_INNER = {
    State.OPERATIONAL: "Initialized",
    State.INITIALIZED: "Initialized",
    State.READY: "Ready",
    State.SINGLE_EXECUTION: "SingleExecution",
    State.CONTINUOUS_EXECUTION: "ContinuousExecution",
}
_KINDS = {
    "u16": ua.VariantType.UInt16,
    "u32": ua.VariantType.UInt32,
    "f32": ua.VariantType.Float,
    "ascii": ua.VariantType.String,
}
_types: Any = ua


def e10_state(offline: OfflineReason, is_busy: bool) -> int:
    """The SEMI E10 state that an OEE calculation wants."""
    if offline == OfflineReason.NONE and is_busy:
        return PRODUCTIVE
    return _E10.get(offline, UNSCHEDULED_DOWN)


class Model:
    """Nodes by their path below VisionSystem, and the values that were last written."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.index = 0
        """Namespace of OPC 40100-1."""
        self.vendor = 0
        self.system: Node
        self._shown: dict[ua.NodeId, object] = {}
        self._states: dict[str, ua.NodeId] = {}
        self._registers: list[tuple[Register, Node]] = []
        self._figures: dict[str, Node] = {}
        self.is_silent = True
        self.was_shown = False

    async def build(self) -> None:
        """Import the nodeset (about a second) and make the instances."""
        server = self.server
        await server.import_xml(NODESET)
        await _define_heirs(server)
        await server.load_data_type_definitions()
        self.index = await server.get_namespace_index(URI)
        self.vendor = await server.register_namespace(VENDOR_URI)
        objects = server.nodes.objects
        self.system = await self._make(objects, "VisionSystemType", "VisionSystem")
        machine = await self.child("VisionStateMachine")
        await self._make(
            machine, "VisionAutomaticModeStateMachineType", "AutomaticModeStateMachine"
        )
        for name in ("ConfigurationManagement", "RecipeManagement", "ResultManagement"):
            await self._make(self.system, f"{name}Type", name)
        await self._make(self.system, "SafetyStateManagementType", "SafetyStateManagement")
        for name in ("ConfirmAll", "SelectModeAutomatic"):
            member = await (await self._type("VisionStateMachineType")).get_child(
                f"{self.index}:{name}"
            )
            await self._instantiate(machine, member, name)
        await self._read_states("VisionStateMachineType", {*_OUTER.values(), "Operational"})
        await self._read_states("VisionAutomaticModeStateMachineType", set(_INNER.values()))
        await self._add_system_values()
        await self._add_vendor_values()

    async def child(self, *names: str) -> Node:
        """Below VisionSystem, names of OPC 40100-1."""
        return await self.system.get_child([f"{self.index}:{name}" for name in names])

    async def current_state(self, *names: str) -> Node:
        """The CurrentState variable of a state machine."""
        return await (await self.child(*names)).get_child("0:CurrentState")

    async def show(self, image: Bank, words: Words) -> None:
        """Everything that decide says; only what changed is written."""
        self.is_silent, self.was_shown = False, True
        state = State(image.number("State"))
        await self._show_state(("VisionStateMachine",), _OUTER.get(state, "Operational"))
        inner = _INNER.get(state, "")
        machine = ("VisionStateMachine", "AutomaticModeStateMachine")
        await self._show_state(machine, inner)
        offline = OfflineReason(image.number("OfflineReason"))
        e10 = e10_state(offline, Status1.BUSY in Status1(image.number("Status1")))
        await self._show_e10(e10, offline.name.lower())
        for register, node in self._registers:
            value = image.get(register.name)
            value = list(value) if isinstance(value, tuple) else value
            await self.write(node, value, _KINDS[register.kind])
        figures = {f"Counters.{k}": v for k, v in words.counters.items()}
        figures |= {f"Ledger.{k}": v for k, v in words.ledger.items()}
        for name, value in figures.items():
            await self._show_figure(name, value)
        await self.write(self._figures["Notes"], list(words.notes), ua.VariantType.String)
        await self.write(self._figures["Owner"], words.owner, ua.VariantType.String)

    async def silence(self) -> None:
        """decide is silent: no number may be believed."""
        self.is_silent = True
        self.was_shown = False
        bad = ua.DataValue(StatusCode=ua.StatusCode(ua.StatusCodes.BadNoCommunication))
        nodes = [node for _, node in self._registers] + list(self._figures.values())
        nodes.append(await self.current_state("VisionStateMachine"))
        nodes.append(await self.current_state("VisionStateMachine", "AutomaticModeStateMachine"))
        for node in nodes:
            self._shown.pop(node.nodeid, None)
            await self.server.write_attribute_value(node.nodeid, bad)
        await self._show_e10(UNSCHEDULED_DOWN, "the decision process is silent")

    async def write(self, node: Node, value: Any, kind: ua.VariantType) -> None:
        """One value, if it is another than before."""
        key = repr(value)  # NaN equals itself here
        if self._shown.get(node.nodeid) == key:
            return
        self._shown[node.nodeid] = key
        is_array = isinstance(value, list)
        variant = ua.Variant(value, kind, is_array=is_array)
        await self.server.write_attribute_value(node.nodeid, ua.DataValue(variant))

    async def _show_state(self, machine: Sequence[str], name: str) -> None:
        current = await self.current_state(*machine)
        if self._shown.get(current.nodeid) == name:
            return
        self._shown[current.nodeid] = name
        identity = await current.get_child("0:Id")
        if not name:  # not operational: this machine is not active
            bad = ua.DataValue(StatusCode=ua.StatusCode(ua.StatusCodes.BadStateNotActive))
            await self.server.write_attribute_value(current.nodeid, bad)
            return
        await current.write_value(ua.LocalizedText(name))
        await identity.write_value(self._states[name], ua.VariantType.NodeId)

    @staticmethod
    def state_name(state: State) -> str:
        """As the state machines call it."""
        return _OUTER.get(state) or _INNER[state]

    def state_id(self, name: str) -> ua.NodeId:
        """Node of a state of either machine; the null id for a name that is none."""
        return self._states.get(name, ua.NodeId())

    async def _show_e10(self, state: int, text: str) -> None:
        node = self._figures["SystemState"]
        if self._shown.get(node.nodeid) == (state, text):
            return
        self._shown[node.nodeid] = (state, text)
        value = _types.SystemStateDescriptionDataType(
            State=_types.SystemStateDataType(state),
            StateDescription=f"{_E10_NAMES[state]}: {text}",
        )
        await node.write_value(value)

    async def _show_figure(self, name: str, value: int) -> None:
        node = self._figures.get(name)
        if node is None:
            group, _, last = name.partition(".")
            node = await self._add(self._figures[group], last, 0, ua.VariantType.Int64)
            self._figures[name] = node
        await self.write(node, value, ua.VariantType.Int64)

    async def _add_system_values(self) -> None:
        state = _types.SystemStateDescriptionDataType(
            State=_types.SystemStateDataType(UNSCHEDULED_DOWN), StateDescription="UDT: no word yet"
        )
        self._figures["SystemState"] = await self.system.add_variable(
            ua.NodeId("VisionSystem.SystemState", self.vendor),
            ua.QualifiedName("SystemState", self.index),
            state,
        )
        await self.system.add_variable(
            ua.NodeId("VisionSystem.DiagnosticLevel", self.vendor),
            ua.QualifiedName("DiagnosticLevel", self.index),
            ua.Variant(1, ua.VariantType.UInt16),
        )

    async def _add_vendor_values(self) -> None:
        root = await self._folder(self.system, "Inspectd")
        registers = await self._folder(root, "Registers")
        for register in FROM_VISION:
            empty: Any = {"ascii": "", "f32": 0.0}.get(register.kind, 0)
            is_array = register.kind != "ascii" and register.count > 1
            value = [0] * register.count if is_array else empty
            node = await self._add(registers, register.name, value, _KINDS[register.kind])
            await node.write_attribute(
                ua.AttributeIds.Description,
                ua.DataValue(
                    ua.Variant(
                        ua.LocalizedText(f"HR {register.address}: {register.meaning}"),
                        ua.VariantType.LocalizedText,
                    )
                ),
            )
            self._registers.append((register, node))
        for group in ("Counters", "Ledger"):
            self._figures[group] = await self._folder(root, group)
        notes: list[str] = []
        self._figures["Notes"] = await self._add(root, "Notes", notes, ua.VariantType.String)
        self._figures["Owner"] = await self._add(root, "Owner", "", ua.VariantType.String)

    async def _add(self, parent: Node, name: str, value: Any, kind: ua.VariantType) -> Node:
        variant = ua.Variant(value, kind, is_array=isinstance(value, list))
        identity = f"{parent.nodeid.Identifier}.{name}"
        return await parent.add_variable(ua.NodeId(identity, self.vendor), name, variant)

    async def _folder(self, parent: Node, name: str) -> Node:
        identity = ua.NodeId(f"{parent.nodeid.Identifier}.{name}", self.vendor)
        return await parent.add_folder(identity, ua.QualifiedName(name, self.vendor))

    async def _make(self, parent: Node, kind: str, name: str) -> Node:
        return await self._instantiate(parent, await self._type(kind), name)

    async def _instantiate(self, parent: Node, member: Node, name: str) -> Node:
        above = parent.nodeid.Identifier
        identity = f"{above}.{name}" if isinstance(above, str) else name
        made = await instantiate(
            parent,
            member,
            ua.NodeId(identity, self.vendor),
            ua.QualifiedName(name, self.index),
            idx=self.vendor,
            instantiate_optional=False,
        )
        return made[0]

    async def _type(self, name: str) -> Node:
        """An object type of OPC 40100-1, wherever it stands in the hierarchy."""
        found = await _find(self.server.nodes.base_object_type, name)
        if found is None:
            raise ua.UaError(f"the nodeset has no type {name}")
        return found

    async def _read_states(self, kind: str, names: set[str]) -> None:
        machine = await self._type(kind)
        for name in names:
            state = await machine.get_child(f"{self.index}:{name}")
            self._states[name] = state.nodeid


async def _define_heirs(server: Server) -> None:
    """Definitions for structures that add nothing to their parent (recipe and configuration id).

    The nodeset gives them an empty one, which the importer drops: they would travel as their parent
    and a client could not decode them.
    """
    parent = await _find(server.nodes.base_structure_type, "BinaryIdBaseDataType")
    if parent is None:
        raise ua.UaError("the nodeset has no type BinaryIdBaseDataType")
    above: Any = await parent.read_data_type_definition()
    for node in await parent.get_children(refs=ua.ObjectIds.HasSubtype):
        for encoding in await node.get_referenced_nodes(ua.ObjectIds.HasEncoding):
            if (await encoding.read_browse_name()).Name != "Default Binary":
                continue
            definition = ua.StructureDefinition(
                DefaultEncodingId=encoding.nodeid,
                BaseDataType=parent.nodeid,
                StructureType=ua.StructureType.StructureWithOptionalFields,
                Fields=list(above.Fields),
            )
            value = ua.DataValue(ua.Variant(definition, ua.VariantType.ExtensionObject))
            await node.write_attribute(ua.AttributeIds.DataTypeDefinition, value)
            delattr(ua, (await node.read_browse_name()).Name)


async def _find(parent: Node, name: str) -> Node | None:
    for node in await parent.get_children(refs=ua.ObjectIds.HasSubtype):
        if (await node.read_browse_name()).Name == name:
            return node
        if (found := await _find(node, name)) is not None:
            return found
    return None
