"""Sections `[[camera]]` of `config.toml`: a device through harvesters, or a folder of pictures."""

from collections.abc import Iterator
from typing import Literal

import msgspec

from appliance.toml_file import Section

_RANGES = (
    ("buffers", 1, 1000),
    ("frame_timeout_ms", 1, 600_000),
    ("rate_hz", 0.001, 100_000),
    ("width_px", 0, 1 << 16),
    ("height_px", 0, 1 << 16),
    ("backoff_max_s", 0, 3600),
    ("arrival_delay_ms", 0, 10_000),
    ("record_every", 1, 1_000_000),
    ("record_minutes", 0.01, 10_000),
    ("packet_size_bytes", 0, 65_535),
)


class Faults(Section, frozen=True, kw_only=True):
    """Faults that a folder camera plays, for rehearsal and tests; every n-th frame, 0 = never."""

    drop_every: int = 0
    double_every: int = 0
    delay_every: int = 0
    delay_ms: int = 0
    incomplete_every: int = 0
    lost_after: int = 0
    """The device is lost after so many frames."""


class TriggerLine(Section, frozen=True, kw_only=True):
    """The light barrier of a hardware trigger, by SFNC names."""

    source: str = "Line1"
    activation: Literal["RisingEdge", "FallingEdge", "AnyEdge", "LevelHigh", "LevelLow"] = (
        "RisingEdge"
    )
    debouncer_us: float | None = None
    """Pulses that are shorter are none; None leaves the device as it is."""
    delay_us: float | None = None
    """From the pulse to the exposure; None leaves the device as it is."""


class Strobe(Section, frozen=True, kw_only=True):
    """An output of the camera that switches the light."""

    line: str = "Line2"
    source: str = "ExposureActive"


class Camera(Section, frozen=True, kw_only=True):
    """One camera: a device through harvesters, or a folder of pictures."""

    name: str
    kind: Literal["genicam", "files"]
    producer: str = ""
    """Path of the vendor's GenTL producer (`.cti`); "viky" is the one that the genicam package
    ships, with three simulated cameras."""
    device: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    """Search keys of harvesters: serial_number, model, vendor, user_defined_name …"""
    nodes: dict[str, int | float | str | bool] = msgspec.field(
        default_factory=dict[str, int | float | str | bool]
    )
    """Further SFNC nodes, written in this order, each read back and compared."""
    user_set: str = ""
    """User set that is loaded first, for example "Default"; "" = none."""
    trigger: TriggerLine = TriggerLine()
    strobe: Strobe | None = None
    chunks: tuple[str, ...] = ()
    """Chunk data to be sent with each picture: Timestamp, FrameID, LineStatusAll …"""
    packet_size_bytes: int = 0
    """GigE: largest packet; 0 leaves the device as it is."""
    is_ptp: bool = False
    """Switch the device's PTP clock on; it takes some ten seconds to lock."""
    buffers: int = 4
    """Announced buffers: more of them means older pictures, not fewer losses."""
    blocks: int = 1
    """Line-scan: so many successive pictures of the device, one below the other, are one frame.
    With trigger "free" alone; otherwise the device's own `Height` is the frame."""
    frame_timeout_ms: int = 1000
    """Longest wait for a picture in free run before the device counts as lost."""
    folder: str = ""
    """Folder of a `files` camera; PNG, BMP, JPEG, TIFF; sorted by name. Or a recording."""
    order: Literal["sequence", "tag"] = "sequence"
    """"sequence": the next picture at every trigger; "tag": picture (tag - 1) mod n."""
    rate_hz: float = 10.0
    """Frames per second of a `files` camera in free run; for every camera the rate that the
    ring is sized for, and the closest that parts come."""
    width_px: int = 0
    height_px: int = 0
    """Largest frame, for the ring; 0 = ask the device or the first picture."""
    arrival_delay_ms: float = 0.0
    """From the end of exposure to the arrival of the whole picture: readout and transfer. A
    part's clock starts so much before the picture came, with hardware and free trigger."""
    faults: Faults = Faults()
    backoff_max_s: float = 30.0
    record: Literal["none", "ng", "sampled", "all", "ring"] = "none"
    """Whose pictures go into the recording, beside all messages: of no part (and no recording at
    all where every camera says so), of NG, UNCERTAIN and ERROR, of every `record_every`-th frame,
    of all, or of all for `record_minutes`, kept for good when a part ends as ERROR or the box
    has a fault."""
    record_every: int = 10
    record_minutes: float = 5.0


def camera_ranges(camera: Camera) -> Iterator[tuple[str, float, float, float]]:
    """Key, value, lowest and highest of every figure that has limits."""
    for key, low, high in _RANGES:
        yield f"camera.{camera.name}.{key}", getattr(camera, key), low, high


def camera_problem(camera: Camera, trigger: str) -> tuple[str, str, str] | None:
    """Key, what was expected and what came; None where the section can be used."""
    needs = "producer" if camera.kind == "genicam" else "folder"
    if not getattr(camera, needs):
        return f"camera.{camera.name}.{needs}", "a path", "nothing"
    if camera.blocks < 1 or (camera.blocks > 1 and trigger != "free"):
        expected = '1, or more with trigger "free" (else the Height of the device)'
        return f"camera.{camera.name}.blocks", expected, f"{camera.blocks} with {trigger}"
    return None
