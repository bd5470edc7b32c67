"""What the live page is made of: words, numbers and addresses, and nothing that has to be decided.

`hmi_view` fills these, `hmi_page` lays them out. Frozen, so that all clients share them.
"""

import msgspec

Box = tuple[float, float, float, float]
"""Left, top, width, height in per cent of the picture."""


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """Which images of a part can be fetched, and how they lie on each other."""

    size_px: tuple[int, int]
    """Width and height of the frame."""
    roi_px: tuple[int, int, int, int]
    """What the network saw: x, y, width, height in the frame."""
    has_heat: bool = False
    regions: str = ""
    """Name of the outline image of the segment map; "" = none."""


class ImageView(msgspec.Struct, frozen=True, kw_only=True):
    """Addresses of the images of one part, or of one view; equal for all clients."""

    part_id: int
    caption: str
    width_px: int
    height_px: int
    base: str
    heat: str
    regions: str
    roi: Box
    worst: Box | None


class PartView(msgspec.Struct, frozen=True, kw_only=True):
    """One part in words."""

    part_id: int
    word: str
    sign: str
    tone: str
    title: str
    tag: str
    reason: str
    detail: str
    reasons: tuple[str, ...]
    decides: str
    margin: str
    place: float | None
    """0 to 1 on the scale of the limits."""
    t1: str
    t2: str
    latency: str
    recipe: str
    is_challenge: bool
    image: ImageView | None
    camera: str = ""
    """Of a view."""
    views: "tuple[PartView, ...]" = ()
    """Of several cameras."""


class Tile(msgspec.Struct, frozen=True, kw_only=True):
    """A number with a name."""

    label: str
    value: str
    tone: str = ""


class ProcessView(msgspec.Struct, frozen=True, kw_only=True):
    """How one process is."""

    name: str
    tone: str
    state: str
    note: str


class Screen(msgspec.Struct, frozen=True, kw_only=True):
    """Everything on the page. `tone` is "ok", "ng", "uncertain", "error", "warn" or "" (calm)."""

    is_silent: bool
    silent_detail: str
    state: str
    state_tone: str
    is_ready: bool
    notice: str
    is_simulated: bool
    part: PartView | None
    is_aged: bool
    age: str
    strip: tuple[PartView, ...]
    unaccounted: str
    unaccounted_tone: str
    ledger: tuple[str, ...]
    counters: tuple[Tile, ...]
    latency_title: str
    latency: tuple[Tile, ...]
    processes: tuple[ProcessView, ...]
    plc_words: str
    """Bits that the PLC reads, each with a lamp."""
    skipped: str
