"""What the recording policy writes, and what the disk takes: measured, for `inspectd doctor`.

Enters: the configuration and the bundles of its recipes. Leaves: bytes per second wanted, and bytes
per second that this disk wrote and synced. The measurement writes one file and removes it.
"""

import math
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from appliance.bundle import Bundle
from appliance.config import Config
from appliance.config_camera import Camera
from appliance.recipe import Recipe

BLOCK_BYTES = 8 << 20
"""About a picture of a 5-megapixel camera with its map."""
_LONGEST_S = 2.0
_MOST_BYTES = 256 << 20


def wanted_bytes_per_s(config: Config, products: Sequence[tuple[Recipe, Bundle]]) -> float:
    """What goes to the recording while parts come as close as `rate_hz` says.

    Before compression; of "ng" as if every part were rejected. The product that takes most counts.
    """
    return sum(
        camera.rate_hz
        * _share(camera)
        * max((_frame_bytes(config, camera, *product) for product in products), default=0)
        for camera in config.camera
    )


def written_bytes_per_s(folder: Path, room_bytes: int) -> float:
    """Blocks written and synced one after the other, as the recorder does, for two seconds.

    room_bytes: write no more than this. Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    block = os.urandom(BLOCK_BYTES)  # what a disk that compresses cannot make smaller
    written = 0
    with tempfile.TemporaryFile(dir=folder) as file:
        begun = time.monotonic()
        while True:
            file.write(block)
            file.flush()
            os.fdatasync(file.fileno())
            written += BLOCK_BYTES
            seconds = time.monotonic() - begun
            if seconds > _LONGEST_S or written + BLOCK_BYTES > min(_MOST_BYTES, room_bytes):
                return written / seconds


def _share(camera: Camera) -> float:
    match camera.record:
        case "none":
            return 0.0
        case "sampled":
            return 1 / camera.record_every
        case "ng" | "all" | "ring":
            return 1.0


def _frame_bytes(config: Config, camera: Camera, recipe: Recipe, bundle: Bundle) -> int:
    """One frame and its map. A size in the configuration wins over what the bundle learnt from."""
    contract = bundle.manifest.input
    view = recipe.camera.get(camera.name)
    pixels = camera.width_px * camera.height_px
    pixels = pixels or contract.source_height_px * contract.source_width_px
    stated = (view.pixel_format if view else None) or ""
    is_deep = any(bits in stated for bits in ("10", "12", "14", "16"))
    maps = 4 * math.prod(contract.map_size) if config.record.maps else 0
    return pixels * contract.channels * (2 if is_deep else 1) + maps
