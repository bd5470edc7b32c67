"""Siemens S7 as a client: the block of words into a data block (the only importer of snap7).

Needs PUT/GET allowed in the CPU's protection settings and a data block without optimised access.
"""

from typing import Any

from snap7 import Client
from snap7.error import S7Error

from appliance.config import Config
from appliance.config_bus import S7
from appliance.errors import DeviceError
from appliance.plc_image import ImageWriter, as_bytes
from appliance.projection import Ask


class S7Writer(ImageWriter):
    """A Projection onto one data block."""

    def __init__(self, settings: S7, config: Config, ask: Ask, log: Any) -> None:
        super().__init__("s7", _DataBlock(settings), settings.period_ms)


class _DataBlock:
    """A Controller."""

    def __init__(self, settings: S7) -> None:
        self._settings = settings
        self._client: Client | None = None

    def open(self) -> None:
        s = self._settings
        client = Client()
        try:
            client.connect(s.host, s.rack, s.slot, s.port)
        except (S7Error, OSError, RuntimeError) as err:
            raise DeviceError(f"{s.host}:{s.port}, rack {s.rack}, slot {s.slot}: {err}") from err
        self._client = client

    def write(self, words: list[int]) -> None:
        client = self._client
        if client is None:
            raise DeviceError("not connected")
        try:
            client.db_write(self._settings.db, 0, bytearray(as_bytes(words)))
        except (S7Error, OSError, RuntimeError) as err:
            raise DeviceError(f"DB{self._settings.db}: {err}") from err

    def close(self) -> None:
        if self._client is not None:
            try:
                self._client.disconnect()
            except (S7Error, OSError, RuntimeError):
                pass
            self._client = None
