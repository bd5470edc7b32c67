"""Which settings a camera's limits were set with: kept with the limits, compared at every set-up.

Settings are what the device read back, by the names of its features. Limits judge what a camera
shows with its settings; with others, or another camera, nobody has shown that they hold. So a
recipe whose limits were approved for other settings is refused until a person approves it anew.
"""

import hashlib
from collections.abc import Mapping

import msgspec

from appliance.codes import OfflineReason
from appliance.config import Config, write_atomically
from appliance.errors import ArtefactError

Settings = Mapping[str, str]
"""Feature → value as text; empty for a source that has none (a folder of pictures)."""
_SHOWN = 3


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a camera last read back, for people who approve it: `run/camera-NAME.json`."""

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
    path = config.runtime_dir / f"camera-{camera}.json"
    write_atomically(path, msgspec.json.encode(found, order="sorted"), 0o600)


def read_found(config: Config, camera: str) -> Found:
    """What the camera process last left. Raises ArtefactError where there is nothing of it."""
    path = config.runtime_dir / f"camera-{camera}.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Found)
    except OSError as err:
        expected = "settings of a camera that was set up for a recipe since the box was started"
        raise ArtefactError(path, expected, err.strerror or str(err)) from err
    except (msgspec.DecodeError, UnicodeDecodeError) as err:
        raise ArtefactError(path, "settings of a camera", str(err)) from err


def _told(names: list[str], settings: Settings) -> str:
    return ", ".join(f"{name} {settings.get(name, 'not there')}" for name in names[:_SHOWN])
