"""Pictures of a camera on disk, for commissioning: a recording, or a folder for training.

Enters: whole frames, one by one. Leaves: segments that `kind = "files"` shows again with all their
bits, or PNG files. Whatever is there already is never written over.
"""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import cv2

from appliance.errors import ConfigError
from appliance.frames import inline_ref
from appliance.messages import FrameReady
from appliance.pixels import Pixels
from appliance.recording import CAMERA, TAPE, Entry, SegmentWriter
from appliance.source import Frame
from appliance.wire import encode

Keep = Callable[[Frame, Pixels], None]
"""A frame and a copy of its pixels. Raises ConfigError where they cannot be written."""
_SEGMENT_BYTES = 64_000_000


def write_png(path: Path, pixels: Pixels) -> None:
    """(H, W) or (H, W, 3) RGB, 8 or 16 bits. Raises ConfigError."""
    picture = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
    if not cv2.imwrite(str(path), picture):
        raise ConfigError(path, "a file that can be written", "an error of the file system")


@contextmanager
def kept_in(
    folder: Path, kind: Literal["mcap", "png"], camera: str, is_simulated: bool
) -> Generator[Keep, None, None]:
    """What keeps pictures in `folder`. Raises ConfigError: there is something in it, no room."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ConfigError(folder, "a new or an empty folder", "one with files in it")
    except OSError as err:
        raise ConfigError(folder, "a folder that can be written", err.strerror or str(err)) from err
    if kind == "png":
        yield lambda frame, pixels: write_png(folder / f"{frame.frame_id:08d}.png", pixels)
        return
    recorder = _Recorder(folder, camera, is_simulated)
    try:
        yield recorder.keep
    finally:
        recorder.finish()


class _Recorder:
    """Segments of a recording that holds nothing but pictures and what announced them."""

    def __init__(self, folder: Path, camera: str, is_simulated: bool) -> None:
        self._folder, self._camera, self._is_simulated = folder, camera, is_simulated
        begun = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._about = {"begun": begun, "camera": camera, "made_by": "inspectd camera record"}
        self._segment: SegmentWriter | None = None
        self._segments = self._frames = 0

    def keep(self, frame: Frame, pixels: Pixels) -> None:
        """Write one."""
        self._frames += 1
        message = FrameReady(
            camera=self._camera, part_id=0, frame_id=frame.frame_id, setup_hash="",
            pixels=inline_ref(pixels, self._frames), bits=frame.bits, age_ns=0,
            device_timestamp_ns=frame.device_timestamp_ns, source=frame.source,
            is_simulated=self._is_simulated, lost_before=frame.lost_before,
        )  # fmt: skip
        now_ns = time.time_ns()
        entry = Entry(f"{TAPE}seen", now_ns, frame.arrived_ns, self._frames, encode(message))
        try:
            if self._segment is not None and self._segment.bytes > _SEGMENT_BYTES:
                self.finish()
            if self._segment is None:
                self._segments += 1
                path = self._folder / f"{self._segments:06d}.ok.mcap"
                self._segment = SegmentWriter(path, self._about, {})
            self._segment.add(entry)
            topic = f"{CAMERA}{self._camera}"
            self._segment.add_image(entry._replace(topic=topic), pixels, f"{frame.frame_id}")
        except OSError as err:
            raise ConfigError(self._folder, "room for the pictures", str(err)) from err

    def finish(self) -> None:
        """The last segment can be read after that."""
        if self._segment is not None:
            self._segment.finish()
            self._segment = None
