"""From a configured camera to one device of one GenTL producer.

harvesters is silent about a producer that is none, crashes on a foreign library, finds devices
whose fields it cannot read, and takes the SIGINT handler: all of that is dealt with here.
"""

import contextlib
import ctypes
import signal
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import genicam
import msgspec
from harvesters.core import Harvester

from appliance.camera_genicam_nodes import read_field
from appliance.config_camera import Camera
from appliance.errors import ConfigError, DeviceError

_SEARCH_KEYS = frozenset(
    {"id_", "vendor", "model", "tl_type", "user_defined_name", "serial_number", "version"}
)


def producer_path(producer: str) -> Path:
    """The `.cti` file; "viky" is the one inside the genicam package."""
    return Path(genicam.__file__).parent / "viky.cti" if producer == "viky" else Path(producer)


def load_producer(harvester: Any, camera: Camera) -> None:
    """Load the camera's producer and list its devices. Raises ConfigError, naming the file."""
    where, path = f"camera.{camera.name}.producer", producer_path(camera.producer)
    if not path.is_file():
        raise ConfigError(where, "a GenTL producer (.cti)", f"no file {path}")
    try:
        library = ctypes.CDLL(str(path))
    except OSError as err:
        raise ConfigError(where, "a GenTL producer that loads", str(err)) from err
    for function in ("GCInitLib", "TLOpen"):
        if not hasattr(library, function):
            got = f"{path}, a library without {function}"
            raise ConfigError(where, "a GenTL producer (.cti)", got)
    harvester.add_file(str(path))
    harvester.update()


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A device as its producer lists it; "" where it does not tell."""

    vendor: str
    model: str
    serial_number: str
    user_defined_name: str
    id: str
    interface: str
    access: str
    """"free", "in use", "not reachable" or "unknown"."""


_ACCESS = {1: "free", 2: "free", 3: "not reachable", 4: "in use", 5: "in use", 6: "in use"}


def list_devices(camera: Camera) -> list[Device]:
    """What the camera's producer finds now. Raises ConfigError (a producer that cannot be)."""
    harvester = Harvester()
    try:
        load_producer(harvester, camera)
        return [
            Device(
                vendor=str(read_field(info, "vendor") or ""),
                model=str(read_field(info, "model") or ""),
                serial_number=str(read_field(info, "serial_number") or ""),
                user_defined_name=str(read_field(info, "user_defined_name") or ""),
                id=str(read_field(info, "id_") or ""),
                interface=str(read_field(info, "tl_type") or ""),
                access=_ACCESS.get(int(read_field(info, "access_status") or 0), "unknown"),
            )
            for info in harvester.device_info_list
        ]
    finally:
        harvester.reset()


def find_device(infos: list[Any], camera: Camera) -> int:
    """Index of the one device that the search keys fit, each of them exactly.

    Raises ConfigError (a key that does not exist) and DeviceError (no device, or several).
    """
    wanted = camera.device
    for key in wanted:
        if key not in _SEARCH_KEYS:
            known = f"only {', '.join(sorted(_SEARCH_KEYS))}"
            raise ConfigError(f"camera.{camera.name}.device", known, key)
    hits = [
        index
        for index, info in enumerate(infos)
        if all(read_field(info, key) == value for key, value in wanted.items())
    ]
    if len(hits) != 1:
        key = ", ".join(f"{key} {value}" for key, value in wanted.items()) or "any"
        seen = [f"{read_field(i, 'model')} {read_field(i, 'serial_number')}" for i in infos]
        got = f"{len(hits)} among {'; '.join(seen)}" if seen else "no device at all"
        raise DeviceError(f"camera {camera.name}: expected one device ({key}), got {got}")
    return hits[0]


@contextlib.contextmanager
def keep_sigint() -> Generator[None, None, None]:
    """harvesters takes the SIGINT handler of the main thread: put ours back."""
    ours = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, ours)
