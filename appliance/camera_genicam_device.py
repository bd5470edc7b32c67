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

from appliance.camera_genicam_nodes import read_field
from appliance.config import Camera
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
