"""The order in which a GenICam camera is set up, by SFNC names; nothing while it acquires.

User set first, because it overwrites everything; then what the integrator wrote by node name, then
trigger, lines, chunks and clock. A selector is always written before what it selects. Whatever the
device lacks is named; whatever it takes is read back and compared.
"""

from collections.abc import Sequence
from typing import Any

from appliance.camera_genicam_nodes import Nodes, Wrong
from appliance.config_camera import Camera
from appliance.recipe import View
from appliance.source import Mode

_FRAME_TRIGGERS = ("FrameStart", "ExposureStart", "FrameBurstStart", "AcquisitionStart")
"""The trigger that begins a picture, and what older cameras have in its place."""
_PICTURES = {
    "FrameBurstStart": "AcquisitionBurstFrameCount",
    "AcquisitionStart": "AcquisitionFrameCount",
}
"""How many pictures one such trigger gives: the second one would be taken for the next part's."""
_PACKET_SIZE = ("GevSCPSPacketSize", "DeviceStreamChannelPacketSize")
_HEARTBEATS = {"GevHeartbeatTimeout": 1000, "DeviceLinkHeartbeatTimeout": 1e6}
"""Milliseconds, and microseconds since SFNC 2.0: a GigE camera whose program was killed is free
again after one second, not after the usual three."""
_ALTERNATIVES = {
    "ExposureTime": ("ExposureTime", "ExposureTimeAbs"),
    "TriggerDelay": ("TriggerDelay", "TriggerDelayAbs"),
    "LineDebouncerTime": ("LineDebouncerTime", "LineDebouncerTimeAbs"),
}
"""SFNC name → the names that it had before SFNC 2.0, too."""
_SHAPING = (
    "PixelFormat", "Width", "Height", "OffsetX", "OffsetY", "ReverseX", "ReverseY",
    "BinningHorizontal", "BinningVertical", "BinningHorizontalMode", "BinningVerticalMode",
    "DecimationHorizontal", "DecimationVertical", "SensorShutterMode", "SensorTaps",
    "ExposureMode", "ExposureAuto", "ExposureTime", "ExposureTimeAbs", "MultiExposureMode",
    "Gain", "GainRaw", "GainAuto", "BlackLevel", "BlackLevelRaw", "BlackLevelAuto",
    "Gamma", "GammaEnable", "LUTEnable", "Sharpness", "SharpnessEnable", "NoiseReduction",
    "BalanceWhiteAuto", "ColorTransformationEnable", "TestPattern", "TestImageSelector",
    "AcquisitionLineRate", "AcquisitionLineRateEnable",
)  # fmt: skip
"""What shapes a picture, by the names of SFNC and of many vendors."""
_MOVED_BY = {
    "ExposureTime": "ExposureAuto",
    "ExposureTimeAbs": "ExposureAuto",
    "Gain": "GainAuto",
    "GainRaw": "GainAuto",
    "BlackLevel": "BlackLevelAuto",
    "BlackLevelRaw": "BlackLevelAuto",
    "BalanceRatio": "BalanceWhiteAuto",
}
"""A value that the device itself moves is no setting while its automatic function is on."""


def set_up(nodes: Nodes, camera: Camera, mode: Mode, wrong: Wrong) -> bool:
    """Everything of `config.toml`; True where pictures are asked for by software trigger.

    wrong: makes the error of a node, what was expected and what came.
    """
    if camera.user_set:
        nodes.write("UserSetSelector", camera.user_set, wrong)
        nodes.execute("UserSetLoad")
    for name, value in camera.nodes.items():
        nodes.write(name, value, wrong)
    if not _HEARTBEATS.keys() & camera.nodes.keys():  # two names of one setting, on many devices
        for name, value in _HEARTBEATS.items():
            # Nobody asked for it: a device that has other limits keeps its own.
            nodes.try_write(name, value)
    if camera.packet_size_bytes:
        nodes.write(_first(nodes, _PACKET_SIZE), camera.packet_size_bytes, wrong)
    if camera.is_ptp:
        nodes.enable_ptp(wrong)
    if camera.strobe is not None:
        nodes.write("LineSelector", camera.strobe.line, wrong)
        _write_where_open(nodes, "LineMode", "Output", wrong)
        nodes.write("LineSource", camera.strobe.source, wrong)
    if camera.chunks:
        nodes.write("ChunkModeActive", True, wrong)
        for chunk in camera.chunks:
            nodes.write("ChunkSelector", chunk, wrong)
            nodes.write("ChunkEnable", True, wrong)
    return _set_trigger(nodes, camera, mode, wrong)


def settings_of(nodes: Nodes, camera: Camera) -> dict[str, str]:
    """What shapes this camera's pictures, and what `config.toml` writes by name, as read back.

    Numbers with four digits, which is finer than any device keeps a setting over a restart. What
    the device lacks or does not tell is not in it. Writes a selector: not while it acquires.
    """
    found: dict[str, str] = {}

    def note(key: str, name: str) -> None:
        auto = _MOVED_BY.get(name, "")
        if auto and nodes.try_read(auto) not in (None, "Off"):
            return
        value = nodes.try_read(name)
        if value is not None:
            found[key] = f"{value:.4g}" if isinstance(value, float) else str(value)

    for name in dict.fromkeys((*_SHAPING, *camera.nodes)):
        note(name, name)
    for color in ("Red", "Green", "Blue"):
        if nodes.offers("BalanceRatioSelector", color):
            if nodes.try_write("BalanceRatioSelector", color):
                note(f"BalanceRatio {color}", "BalanceRatio")
    return found


def _set_trigger(nodes: Nodes, camera: Camera, mode: Mode, wrong: Wrong) -> bool:
    """Software trigger in mode "plc" where there is one, the line in mode "hardware"."""
    if not nodes.has("TriggerMode"):
        if mode == "hardware":
            raise wrong("TriggerMode", "a device that can be triggered", "no such node")
        return False
    is_software = (
        mode == "plc" and nodes.has("TriggerSoftware") and nodes.offers("TriggerSource", "Software")
    )
    if nodes.has("TriggerSelector"):
        offered = nodes.entries("TriggerSelector")
        wanted = next((name for name in _FRAME_TRIGGERS if name in offered), _FRAME_TRIGGERS[0])
        # A trigger of another kind that was left on would hold back every picture.
        for other in offered:
            if other != wanted and nodes.try_write("TriggerSelector", other):
                nodes.try_write("TriggerMode", "Off")
        nodes.write("TriggerSelector", wanted, wrong)
        count = _PICTURES.get(wanted, "")
        # Where it is 1 already, or is none in this mode, many devices let nobody write it.
        if mode != "free" and nodes.try_read(count) not in (None, 1):
            nodes.write(count, 1, wrong)
    if mode == "hardware":
        _set_line(nodes, camera, wrong)
    elif is_software:
        nodes.write("TriggerMode", "On", wrong)
        nodes.write("TriggerSource", "Software", wrong)
    else:
        nodes.write("TriggerMode", "Off", wrong)
    return is_software


def _set_line(nodes: Nodes, camera: Camera, wrong: Wrong) -> None:
    line = camera.trigger
    nodes.write("TriggerMode", "On", wrong)
    nodes.write("TriggerSource", line.source, wrong)
    if nodes.has("TriggerActivation"):
        nodes.write("TriggerActivation", line.activation, wrong)
    elif line.activation != "RisingEdge":
        raise wrong("TriggerActivation", repr(line.activation), "no such node")
    if line.delay_us is not None:
        nodes.write(_first(nodes, _ALTERNATIVES["TriggerDelay"]), line.delay_us, wrong)
    if nodes.has("LineSelector") and line.source in nodes.entries("LineSelector"):
        nodes.write("LineSelector", line.source, wrong)
        _write_where_open(nodes, "LineMode", "Input", wrong)
    if line.debouncer_us is not None:
        nodes.write(_first(nodes, _ALTERNATIVES["LineDebouncerTime"]), line.debouncer_us, wrong)


def _write_where_open(nodes: Nodes, name: str, value: str, wrong: Wrong) -> None:
    """Lines of many cameras are inputs or outputs by their wiring, and the node cannot be set."""
    if nodes.has(name) and str(nodes.read(name)) != value:
        nodes.write(name, value, wrong)


def _first(nodes: Nodes, names: Sequence[str]) -> str:
    """The first of these that the device has; the first of all where it has none."""
    return next((name for name in names if nodes.has(name)), names[0])


def _plan(nodes: Nodes, view: View, is_moved: bool) -> list[tuple[str, str, Any]]:
    """Selector and its entry ("" without one), node and value of a recipe's view, in order.

    None as a value: the recipe leaves it as it was found. is_moved: the region is another one, or
    was by an earlier recipe.
    """
    left, top, width, height = view.sensor_roi or (None, None, None, None)
    exposure = _first(nodes, _ALTERNATIVES["ExposureTime"])
    plan: list[tuple[str, str, Any]] = [
        ("", "PixelFormat", view.pixel_format),
        ("", "BinningHorizontal", view.binning),
        ("", "BinningVertical", view.binning),
    ]
    if is_moved:
        # Offsets to 0 first: a larger region might not fit behind the old ones.
        plan += [("", "OffsetX", 0), ("", "OffsetY", 0)]
    plan += [
        ("", "Width", width),
        ("", "Height", height),
        ("", "OffsetX", left),
        ("", "OffsetY", top),
        ("", exposure, view.exposure_us),
        ("", "Gain", view.gain_db),
        ("BalanceRatioSelector Red", "BalanceRatio", view.balance_red),
        ("BalanceRatioSelector Blue", "BalanceRatio", view.balance_blue),
    ]
    return plan


def apply(nodes: Nodes, view: View, found: dict[tuple[str, str], Any], wrong: Wrong) -> None:
    """Write the view, each value read back; what it leaves open goes back to what was found.

    found: values before any recipe touched them, by selector and node; filled in here.
    """
    is_moved = view.sensor_roi is not None or ("", "OffsetX") in found
    for selector, name, value in _plan(nodes, view, is_moved):
        key = selector, name
        is_known = key in found
        if value is None and not is_known:
            continue
        if selector:
            chosen, _, entry = selector.partition(" ")
            nodes.write(chosen, entry, wrong)
        if value is not None and not is_known and nodes.has(name):
            found[key] = nodes.read(name)
        nodes.write(name, found[key] if value is None else value, wrong)
