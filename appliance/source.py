"""Where pictures come from: the interface of `camera_genicam` and `camera_files`, and its accounts.

A source is opened once, told how to take pictures (`configure`) and to begin (`start`), asked for
them (`trigger`, where the mode is "plc") and emptied (`fetch`). It counts what was whole, what
was incomplete and what never came. It knows nothing of parts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from appliance.camera_settings import Feature, Settings
from appliance.pixels import Pixels
from appliance.recipe import View

Mode = Literal["plc", "hardware", "free"]


def _nothing() -> None:
    """Nothing to give back."""


@dataclass(slots=True)
class Frame:
    """One whole picture. Its pixels may lie in the device's own buffer: copy, then `release`."""

    pixels: Pixels
    """(H, W) or (H, W, 3) RGB; not valid after `release`."""
    bits: int
    """Significant bits of a channel."""
    frame_id: int
    """The device's number for it; starts anywhere with each acquisition."""
    arrived_ns: int
    """Our clock when the picture was there: the end of exposure as well as it is known."""
    device_timestamp_ns: int | None = None
    lost_before: int = 0
    """Frames that the device counted and nobody received, between this one and the last."""
    source: str = ""
    """Name of the file; "" for a device."""
    release: Callable[[], None] = _nothing


@dataclass(slots=True)
class Incomplete:
    """A picture of which parts are missing: never used."""

    detail: str


@dataclass(slots=True)
class Counts:
    """What a source saw since it was opened."""

    whole: int = 0
    incomplete: int = 0
    lost: int = 0
    """Counted by the device, received by nobody."""
    orphans: int = 0
    """Whole frames that nobody had asked for."""


class Source(Protocol):
    """A camera, whatever its kind.

    Every method may raise DeviceError: the device is gone or does what it must not; the owner
    ends its process. `configure` may raise ArtefactError: these settings cannot be used.
    """

    @property
    def is_simulated(self) -> bool:
        """The pixels do not come from a real device."""
        ...

    @property
    def is_streaming(self) -> bool:
        """Pictures come without being asked for: silence means that the device is lost."""
        ...

    @property
    def counts(self) -> Counts:
        """Live figures."""
        ...

    @property
    def settings(self) -> Settings:
        """What shapes a picture, as the device read it back after the last `configure`; empty
        where there is no device."""
        ...

    @property
    def remark(self) -> str:
        """What people should know though pictures come, as of a clock that is not locked."""
        ...

    def features(self) -> list[Feature]:
        """All that the device says of itself, for people; of a slow one what takes a second.

        Not while it acquires. Empty where there is no device.
        """
        ...

    def open(self) -> None:
        """Find and open the device. Raises ConfigError where `config.toml` cannot be right."""
        ...

    def configure(self, view: View) -> int:
        """End what runs and write the settings; returns the bytes of the largest frame to come."""
        ...

    def start(self) -> None:
        """Begin a new acquisition with the settings as they are.

        A running one is ended first and what it still held is discarded, so nothing that was
        exposed before can be fetched after.
        """
        ...

    def trigger(self, part_tag: int) -> None:
        """Take one picture now; whatever waited to be fetched becomes an orphan first."""
        ...

    def fetch(self, timeout_ms: int) -> Frame | Incomplete | None:
        """The next picture, or None when none came in time; 0 only looks."""
        ...

    def close(self) -> None:
        """Let the device go. Not after a DeviceError of an opened device."""
        ...


class FrameIds:
    """Losses within one acquisition, by gaps of the device's frame ids.

    Ids of GigE Vision 1 have 16 bits and skip 0: 65535 is followed by 1. Where an acquisition has
    shown an id 0, 0 is taken to be used at the wrap too. Some producers give ids only to frames
    that found a buffer and count the others as underruns: the larger account is believed.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """A new acquisition: its first id may be any number and proves no loss."""
        self._last: int | None = None
        self._has_zero = False
        self._incomplete = 0
        self._gaps = 0
        self._told = 0

    def incomplete(self) -> None:
        """A frame came incomplete: it took an id, but it was not lost without a trace."""
        self._incomplete += 1

    def step(self, frame_id: int, underruns: int = 0) -> int | None:
        """Frames lost before this one; None where it is not newer than the last: never use it.

        underruns: what the producer counted since the acquisition began.
        """
        self._has_zero |= frame_id == 0
        last, self._last = self._last, frame_id
        gap = 0 if last is None else frame_id - last - 1
        if last is not None and gap < 0:
            gap = self._wrapped(last, frame_id)
        if gap < 0:
            self._last = last
            return None
        self._gaps += max(0, gap - self._incomplete)
        self._incomplete = 0
        lost = max(self._gaps, underruns) - self._told
        self._told += lost
        return lost

    def _wrapped(self, last: int, frame_id: int) -> int:
        for highest in (0xFFFF, 0xFFFFFFFF):
            gap = highest - last + frame_id - (0 if self._has_zero else 1)
            # A step back by less than half the range is no wrap but an old frame.
            if last <= highest and gap < highest // 2:
                return max(gap, 0)
        return -1


class Choice:
    """Which frame of a free-running device was exposed after we asked for one.

    With timestamps: the first that is later than the moment we asked, as told by the device's own
    clock. Without: the third to arrive, because one may be on the wire and one being exposed.
    """

    _THIRD = 3

    def __init__(self) -> None:
        self._after_ns: int | None = None
        self._arrived = self._THIRD

    def ask(self, after_ns: int | None) -> None:
        """We want a frame now; later than the device timestamp `after_ns`, where there is one."""
        self._after_ns, self._arrived = after_ns, 0

    @property
    def is_waiting(self) -> bool:
        """Somebody asked and no frame has qualified yet."""
        return self._arrived < self._THIRD

    def arrived(self, timestamp_ns: int | None) -> bool:
        """A frame (whole or not) arrived: is it the one?"""
        if not self.is_waiting:
            return False
        if self._after_ns is not None and timestamp_ns is not None:
            if timestamp_ns > self._after_ns:
                self._arrived = self._THIRD
                return True
            return False
        self._arrived += 1
        return self._arrived == self._THIRD
