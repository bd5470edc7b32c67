"""Logix controllers as an EtherNet/IP client: the words into an INT array, by pycomm3.

Explicit messages, not a class-1 connection: the controller cannot ask for a packet interval, and a
write takes milliseconds. `open_driver` exists because a simulator has no tag list to upload.
"""

from collections.abc import Callable
from typing import Any

from pycomm3 import LogixDriver
from pycomm3.exceptions import PycommError

from appliance.config import Config
from appliance.config_bus import Logix
from appliance.errors import DeviceError
from appliance.plc_image import WORDS, ImageWriter, as_signed
from appliance.projection import Ask

_HALF = WORDS // 2


def connect(path: str) -> LogixDriver:
    """A driver that knows the controller's tags; raises PycommError."""
    driver = LogixDriver(path, init_program_tags=False)
    try:
        driver.open()
    except PycommError:
        _drop(driver)
        raise
    return driver


def _drop(driver: Any) -> None:
    """Close the socket, which the library leaves open when a connection fails half-way."""
    line = driver._sock
    if line is not None:
        line.sock.close()


class LogixWriter(ImageWriter):
    """A Projection onto one tag."""

    def __init__(
        self,
        settings: Logix,
        config: Config,
        ask: Ask,
        log: Any,
        open_driver: Callable[[str], LogixDriver] = connect,
    ) -> None:
        super().__init__("logix", _Tag(settings, open_driver), settings.period_ms)


class _Tag:
    """A Controller."""

    def __init__(self, settings: Logix, open_driver: Callable[[str], LogixDriver]) -> None:
        self._settings, self._open_driver = settings, open_driver
        self._driver: LogixDriver | None = None

    def open(self) -> None:
        try:
            self._driver = self._open_driver(self._settings.path)
        except (PycommError, OSError, ValueError) as err:
            raise DeviceError(f"{self._settings.path}: {err}") from err

    def write(self, words: list[int]) -> None:
        if self._driver is None:
            raise DeviceError("not connected")
        tag, signed = self._settings.tag, as_signed(words)
        halves: Any = [
            (f"{tag}[{at}]{{{_HALF}}}", signed[at : at + _HALF]) for at in range(0, WORDS, _HALF)
        ]
        try:
            answers: Any = self._driver.write(*halves)  # one packet
        except (PycommError, OSError) as err:
            raise DeviceError(f"{tag}: {err}") from err
        for answer in answers:
            if answer.error:
                expected = f"an INT[{WORDS}] that may be written"
                raise DeviceError(f"{tag}: expected {expected}, got {answer.error}")

    def close(self) -> None:
        if self._driver is not None:
            line: Any = self._driver
            try:
                line.close()
            except (PycommError, OSError):
                _drop(line)
            self._driver = None
