"""Disk and temperatures, as the kernel has them."""

import shutil
from pathlib import Path
from typing import NamedTuple

_SENSORS = Path("/sys/class")


class Disk(NamedTuple):
    """Where pictures and rows lie."""

    free_gb: float
    total_gb: float


def disk(folder: Path) -> Disk:
    """Of this folder, or of the nearest one above that is there."""
    while not folder.exists():
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    return Disk(usage.free / 1e9, usage.total / 1e9)


def temperatures(sensors: Path = _SENSORS) -> list[tuple[str, float | None]]:
    """Name and degrees Celsius of every sensor; None = it cannot be read now."""
    found: list[tuple[str, float | None]] = []
    for name, value in (
        *((zone / "type", zone / "temp") for zone in sensors.glob("thermal/thermal_zone*")),
        *((place.with_name("name"), place) for place in sensors.glob("hwmon/hwmon*/temp*_input")),
    ):
        try:
            label = f"{name.read_text().strip()} {value.parent.name}".strip()
        except OSError:  # the device went away
            continue
        try:
            degrees = int(value.read_text()) / 1000
        except (OSError, ValueError):
            degrees = None
        found.append((label, degrees))
    return sorted(found, key=lambda one: one[0])
