"""Lines of a real GPIO chip, by libgpiod 2 (the only importer of gpiod).

The kernel stamps every edge with its monotonic clock, so a part's deadline runs from the edge and
not from the turn of the loop that saw it.
"""

import asyncio
import errno
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta

import gpiod
from gpiod.line import Clock, Direction, Edge, Value

from appliance.errors import AddressInUse, ChipAway, ConfigError

_AWAY = (errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.EIO)
"""Of an expander on USB or I2C that is reset or plugged in again."""


class GpiodLines:
    """`Lines` on a character device."""

    def __init__(
        self, chip: str, outputs: Mapping[int, bool], inputs: Sequence[int], debounce_us: int
    ) -> None:
        """Raises ChipAway, AddressInUse (somebody drives a line), ConfigError (all else)."""
        config: dict[Iterable[int | str] | int | str, gpiod.LineSettings | None] = {
            offset: gpiod.LineSettings(
                direction=Direction.OUTPUT, output_value=Value.ACTIVE if level else Value.INACTIVE
            )
            for offset, level in outputs.items()
        }
        for offset in inputs:
            config[offset] = gpiod.LineSettings(
                direction=Direction.INPUT,
                edge_detection=Edge.BOTH,
                debounce_period=timedelta(microseconds=debounce_us),
                event_clock=Clock.MONOTONIC,
            )
        try:
            self._request = gpiod.request_lines(chip, config, consumer="inspectd")
        except (OSError, ValueError) as err:
            expected = f"a GPIO chip with the lines {sorted([*outputs, *inputs])}"
            if isinstance(err, OSError) and err.errno == errno.EBUSY:
                raise AddressInUse(f"[io] chip = {chip}", expected, "a line in use") from err
            if isinstance(err, OSError) and err.errno in _AWAY:
                raise ChipAway(f"[io] chip = {chip}", expected, str(err)) from err
            raise ConfigError(f"[io] chip = {chip}", expected, str(err)) from err
        self._is_listening = False

    def write(self, offset: int, level: bool) -> None:
        """Raises OSError."""
        self._request.set_value(offset, Value.ACTIVE if level else Value.INACTIVE)

    def read(self, offset: int) -> bool:
        """The level just now."""
        return self._request.get_value(offset) == Value.ACTIVE

    def listen(self, edge: Callable[[int, bool, int], None]) -> None:
        """By the kernel's events."""

        def events() -> None:
            for event in self._request.read_edge_events():
                is_rising = event.event_type == event.Type.RISING_EDGE
                edge(event.line_offset, is_rising, event.timestamp_ns)

        asyncio.get_running_loop().add_reader(self._request.fd, events)
        self._is_listening = True

    def close(self) -> None:
        """The kernel keeps or drops the levels, as the chip's driver does."""
        if self._is_listening:
            asyncio.get_running_loop().remove_reader(self._request.fd)
        self._request.release()
