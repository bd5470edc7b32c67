"""The features of an opened GenICam camera as a tree, and one of them written: for commissioning.

Reads what the device says of itself: categories, values, access, range, unit, entries. SDK
exceptions become ours here.
"""
# genicam has no type stubs.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from collections.abc import Iterator
from typing import Any

from genicam import genapi

from appliance.camera_genicam_nodes import SDK_ERRORS, Nodes
from appliance.camera_settings import Feature
from appliance.errors import ConfigError

_ACCESS = {
    genapi.EAccessMode.RW: "RW",
    genapi.EAccessMode.RO: "RO",
    genapi.EAccessMode.WO: "WO",
}


_KINDS = {
    genapi.IInteger: "integer",
    genapi.IFloat: "float",
    genapi.IEnumeration: "enumeration",
    genapi.IBoolean: "boolean",
    genapi.IString: "string",
    genapi.ICommand: "command",
    genapi.IRegister: "register",
}


def features(node_map: Any) -> Iterator[Feature]:
    """All features below Root, category by category, each once."""
    yield from _walk(node_map.Root, "", set())


def _walk(category: Any, path: str, seen: set[str]) -> Iterator[Feature]:
    for node in category.features:
        name = str(node.node.name)
        if isinstance(node, genapi.ICategory):
            yield from _walk(node, f"{path}/{name}".strip("/"), seen)
        elif name not in seen:
            seen.add(name)
            yield describe(node, path)


def describe(node: Any, path: str = "") -> Feature:
    """One node."""
    kind = next((name for type_, name in _KINDS.items() if isinstance(node, type_)), "register")
    access = _ACCESS.get(_asked(node.node, "get_access_mode"), "NA")
    is_readable = access in ("RW", "RO") and kind not in ("command", "register")
    has_range = kind in ("integer", "float")
    return Feature(
        category=path,
        name=str(node.node.name),
        kind=kind,
        access=access,
        value=_read(node, "value") if is_readable else None,
        least=_read(node, "min") if has_range and access != "NA" else None,
        most=_read(node, "max") if has_range and access != "NA" else None,
        step=_read(node, "inc") if kind == "integer" and access != "NA" else None,
        unit=str(_read(node, "unit") or "") if has_range else "",
        entries=tuple(_read(node, "symbolics") or ()) if kind == "enumeration" else (),
        tooltip=str(_read(node.node, "tooltip") or ""),
    )


def change(node_map: Any, name: str, text: str, label: str) -> Feature:
    """Write a value given as text, or run a command; returns the feature as it is then.

    Raises ConfigError: no such feature, not writable, out of range, or read back as another value.
    """
    nodes = Nodes(node_map, label)
    where = f"{label}: {name}"
    if not nodes.has(name):
        raise ConfigError(where, "a feature of the device (inspectd camera show)", "no such node")
    node = getattr(node_map, name)
    before = describe(node)
    if before.kind == "command":
        nodes.execute(name)
        return describe(node)
    if before.access not in ("RW", "WO"):
        raise ConfigError(where, "a feature that can be written now", f"access {before.access}")

    def wrong(_: str, expected: str, got: str) -> ConfigError:
        allowed = _allowed(before)
        return ConfigError(where, f"{expected}{f' ({allowed})' if allowed else ''}", got)

    nodes.write(name, _parsed(before, text, wrong), wrong)
    return describe(node)


def _parsed(feature: Feature, text: str, wrong: Any) -> int | float | bool | str:
    try:
        if feature.kind == "integer":
            return int(text, 0)
        if feature.kind == "float":
            return float(text)
    except ValueError as err:
        raise wrong(feature.name, f"a value of kind {feature.kind}", repr(text)) from err
    if feature.kind == "boolean":
        words = {"true": True, "1": True, "on": True, "false": False, "0": False, "off": False}
        if text.lower() not in words:
            raise wrong(feature.name, "true or false", repr(text))
        return words[text.lower()]
    return text


def _allowed(feature: Feature) -> str:
    if feature.entries:
        return "one of " + ", ".join(feature.entries)
    if feature.least is not None and feature.most is not None:
        unit = f" {feature.unit}" if feature.unit else ""
        return f"{feature.least:g} to {feature.most:g}{unit}"
    return ""


def _read(module: Any, field: str) -> Any:
    """A field of a node; None where the device does not tell."""
    try:
        return getattr(module, field)
    except (*SDK_ERRORS, AttributeError):
        return None


def _asked(module: Any, method: str) -> Any:
    try:
        return getattr(module, method)()
    except (*SDK_ERRORS, AttributeError):
        return None
