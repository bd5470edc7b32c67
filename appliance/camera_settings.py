"""What a camera's process says of its device, and whether limits were approved for just that.

Settings are what the device read back, by the names of its features. Limits judge what a camera
shows with its settings; with others, or another camera, nobody has shown that they hold. So a
recipe whose limits were approved for other settings is refused until a person approves it anew.
"""

import hashlib
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from appliance.atomic import write_atomically
from appliance.codes import OfflineReason
from appliance.config import Config
from appliance.errors import ArtefactError

T = TypeVar("T")
Settings = Mapping[str, str]
"""Feature → value as text; empty for a source that has none (a folder of pictures)."""
_SHOWN = 3


class Feature(msgspec.Struct, frozen=True, kw_only=True):
    """One feature as the device describes it."""

    category: str
    """Path of categories from the root, with "/"."""
    name: str
    kind: str
    """integer, float, enumeration, boolean, string, command or register."""
    access: str
    """RW, RO or WO just now; "NA" where it is not available."""
    value: int | float | bool | str | None = None
    """None where it cannot be read."""
    least: int | float | None = None
    most: int | float | None = None
    step: int | float | None = None
    unit: str = ""
    entries: tuple[str, ...] = ()
    tooltip: str = ""

    def allowed(self) -> str:
        """Range or entries in words; "" where the device tells none, or takes nothing now."""
        if self.entries:
            return " | ".join(self.entries)
        if self.least is None or self.most is None or self.access != "RW":
            return ""
        step = f" step {self.step}" if self.step not in (None, 1) else ""
        return f"{self.least:g} … {self.most:g}{step}"


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a camera last read back, for people who approve it: `run/NAME.settings.json`."""

    recipe: str
    """"ID/VERSION" that was tried on."""
    settings: dict[str, str]


def hash_of(settings: Settings) -> str:
    """SHA-256; "" for a source without settings."""
    if not settings:
        return ""
    return hashlib.sha256(msgspec.json.encode(dict(settings), order="sorted")).hexdigest()


def check_approved(where: str, camera: str, approved: Settings, found: Settings) -> None:
    """Raises ArtefactError where the limits were approved for other settings than the device has.

    Limits that were never approved for any (`approved` is empty) and sources without settings pass.
    """
    if not approved or not found:
        return
    names = [n for n in sorted(approved.keys() | found.keys()) if approved.get(n) != found.get(n)]
    if not names:
        return
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    raise ArtefactError(
        f"{where}: limits.settings.{camera}",
        f"the camera as the limits were approved ({_told(names, approved)}{more})",
        f"{_told(names, found)}{more}: set it back, or approve the limits anew",
        OfflineReason.PASSPORT,
    )


def write_found(config: Config, camera: str, found: Found) -> None:
    """Leave word of what the device has. Raises OSError."""
    _leave(config, f"{camera}.settings.json", found)


def read_found(config: Config, camera: str) -> Found:
    """What the camera process last left. Raises ArtefactError where there is nothing of it."""
    return _left(config, f"{camera}.settings.json", Found)


def write_features(config: Config, camera: str, features: list[Feature]) -> None:
    """Leave word of all that the device says of itself. Raises OSError."""
    _leave(config, f"{camera}.features.json", features)


def read_features(config: Config, camera: str) -> list[Feature]:
    """As the camera process last left it. Raises ArtefactError where there is nothing of it."""
    return _left(config, f"{camera}.features.json", list[Feature])


def _leave(config: Config, name: str, word: Found | list[Feature]) -> None:
    path = config.runtime_dir / f"camera-{name}"
    write_atomically(path, msgspec.json.encode(word, order="sorted"), 0o600)


def _left(config: Config, name: str, kind: type[T]) -> T:
    path = config.runtime_dir / f"camera-{name}"
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as err:
        expected = "the word of a camera process that has opened its device"
        raise ArtefactError(path, expected, err.strerror or str(err)) from err
    except (msgspec.DecodeError, UnicodeDecodeError) as err:
        raise ArtefactError(path, "the word of a camera process", str(err)) from err


def _told(names: list[str], settings: Settings) -> str:
    return ", ".join(f"{name} {settings.get(name, 'not there')}" for name in names[:_SHOWN])
