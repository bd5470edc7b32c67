"""The settings of a GenICam camera, by the names of the Standard Features Naming Convention (SFNC).

Everything that is written is read back and compared: a device that does not obey is refused by
the name of the node. SDK exceptions become ours here.
"""

import contextlib
from collections.abc import Callable, Generator
from typing import Any

from genicam import genapi, gentl

from appliance.errors import DeviceError

SDK_ERRORS = (gentl.GenericException, genapi.GenericException)
_LOST = (
    gentl.IoException,
    gentl.TimeoutException,
    gentl.InvalidHandleException,
    gentl.ClosedException,
    gentl.AbortException,
    gentl.NotInitializedException,
    genapi.TimeoutException,
)
"""Of a device that does not answer: what was written may be right all the same."""
_FLOAT_TOLERANCE = 0.01
"""Devices round exposure and gain to what they can do; beyond one percent they did not obey."""
_LATCHES = (
    ("TimestampLatch", "TimestampLatchValue", ""),
    ("GevTimestampControlLatch", "GevTimestampValue", "GevTimestampTickFrequency"),
)
"""Command, value, and the node that tells its ticks per second ("": it counts nanoseconds)."""
_PTP = (
    ("PtpEnable", "PtpStatus", "PtpDataSetLatch"),
    ("GevIEEE1588", "GevIEEE1588Status", "GevIEEE1588DataSetLatch"),
)
"""Switch, state, and the command that brings the state up to date, where there is one."""
PTP_LOCKED = ("Slave", "Master")
"""States in which a device's timestamps are those of the network's clock."""

Wrong = Callable[[str, str, str], Exception]
"""Makes the error that fits: (node, what was expected, what came)."""


@contextlib.contextmanager
def translated(label: str, doing: str) -> Generator[None, None, None]:
    """What GenTL or GenApi raises inside becomes a DeviceError that says what was being done."""
    try:
        yield
    except SDK_ERRORS as err:
        raise DeviceError(f"{label}: {doing}: {_sentence(err)}") from err


def read_field(module: Any, field: str) -> Any:
    """A field of device or buffer; None where the producer does not offer it."""
    try:
        return getattr(module, field)
    except (*SDK_ERRORS, AttributeError):
        return None


class Nodes:
    """The node map of one opened device."""

    def __init__(self, node_map: Any, label: str) -> None:
        self._map, self._label = node_map, label

    def has(self, name: str) -> bool:
        """The device has this node."""
        return hasattr(self._map, name)

    def offers(self, name: str, entry: str) -> bool:
        """The device has this enumeration, and `entry` in it."""
        return self.has(name) and entry in getattr(self._map, name).symbolics

    def entries(self, name: str) -> tuple[str, ...]:
        """Entries of an enumeration that is there."""
        with translated(self._label, f"reading {name}"):
            return tuple(getattr(self._map, name).symbolics)

    def try_write(self, name: str, value: Any) -> bool:
        """Set a node that need not take it; False where it does not."""
        try:
            getattr(self._map, name).value = value
        except (*SDK_ERRORS, AttributeError):
            return False
        return True

    def try_read(self, name: str) -> Any:
        """Value of a node; None where the device lacks it or does not tell just now."""
        return read_field(read_field(self._map, name), "value")

    def read(self, name: str) -> Any:
        """Value of a node that is there."""
        with translated(self._label, f"reading {name}"):
            return getattr(self._map, name).value

    def execute(self, name: str) -> None:
        """Run a command."""
        with translated(self._label, f"executing {name}"):
            getattr(self._map, name).execute()

    def write(self, name: str, value: Any, wrong: Wrong) -> None:
        """Set a node and see that the device took it. Raises what `wrong` makes, and DeviceError
        where the device is gone: a cable that was pulled makes no wrong configuration."""
        if not self.has(name):
            raise wrong(name, "a node of the device", "no such node")
        node = getattr(self._map, name)
        try:
            is_whole = isinstance(node, genapi.IInteger) and float(value).is_integer()
            node.value = int(value) if is_whole else value
            got = node.value
        except _LOST as err:
            raise DeviceError(f"{self._label}: writing {name}: {_sentence(err)}") from err
        except (*SDK_ERRORS, TypeError, ValueError) as err:
            raise wrong(name, f"{value!r} to be accepted", _sentence(err)) from err
        if not is_same(value, got):
            raise wrong(name, repr(value), repr(got))

    def latch_ns(self) -> int | None:
        """The device's own time now, in nanoseconds; None where it cannot tell."""
        for command, value, frequency in _LATCHES:
            if self.has(command) and self.has(value):
                self.execute(command)
                ticks = int(self.read(value))
                return ticks * 10**9 // int(self.read(frequency)) if frequency else ticks
        return None

    def enable_ptp(self, wrong: Wrong) -> None:
        """Switch the PTP clock on. Raises what `wrong` makes where a node is missing: without its
        state nobody knows whether the clock is locked."""
        enable, status, _ = self._ptp()
        self.write(enable, True, wrong)
        if not self.has(status):
            raise wrong(status, "a node that says whether the clock is locked", "no such node")

    def ptp_state(self) -> str:
        """State of the PTP clock now, in the words of SFNC; "" where the device does not tell."""
        _, status, latch = self._ptp()
        if self.has(latch):
            self.execute(latch)
        return str(self.try_read(status) or "")

    def _ptp(self) -> tuple[str, str, str]:
        return next((names for names in _PTP if self.has(names[0])), _PTP[0])

    def after_ns(self) -> int | None:
        """Device time now plus one exposure; None where the device cannot tell.

        A later timestamp proves a later exposure, whether it marks its begin or its end.
        """
        if not self.has("ExposureTime"):
            return None
        now_ns = self.latch_ns()
        return None if now_ns is None else now_ns + int(self.read("ExposureTime") * 1000)


def is_same(wanted: Any, got: Any) -> bool:
    """The device took what was written, rounded at most."""
    if isinstance(wanted, float) or isinstance(got, float):
        return abs(got - wanted) <= _FLOAT_TOLERANCE * abs(wanted)
    return wanted == got


def _sentence(err: Exception) -> str:
    """The first sentence: GenApi appends source file and line."""
    return str(err).partition(" : ")[0].partition("\n")[0] or type(err).__name__
