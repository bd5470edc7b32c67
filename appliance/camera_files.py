"""A folder of pictures, or a recording, as a camera: for rehearsal, demonstration and tests.

Shows PNG, BMP, JPEG and TIFF files in the order of their names, at a trigger or at `rate_hz`, and
plays the faults of `config.Faults`. Grey stays one channel, 16 bits stay 16. Pictures are decoded
once and kept up to a bound; whatever it shows is simulated and says so. A recipe's exposure, gain
and pixel format are accepted and change nothing: these pictures were taken long ago.
"""

import itertools
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from appliance.camera_recorded import RecordedPictures
from appliance.camera_settings import Feature, Settings
from appliance.config_camera import Camera
from appliance.errors import DeviceError
from appliance.pixels import Pixels
from appliance.recipe import View
from appliance.source import Counts, Frame, FrameIds, Incomplete, Mode

SUFFIXES = frozenset({".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff"})
_CACHE_BYTES = 512 << 20
_MS = 1_000_000


class Pictures:
    """The pictures of one folder, sorted by name; as many as fit stay decoded in memory.

    Raises DeviceError: the folder is missing or empty, or a file is not an image.
    """

    def __init__(self, folder: Path, cache_bytes: int = _CACHE_BYTES) -> None:
        try:
            files = sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES)
        except OSError as err:
            raise DeviceError(f"{folder}: expected a folder of pictures, got {err}") from err
        if not files:
            kinds = " ".join(sorted(SUFFIXES))
            raise DeviceError(f"{folder}: expected pictures ({kinds}), got none")
        self.files = files
        self._cached: dict[int, Pixels] = {}
        self.largest_bytes = 0
        used = 0
        with ThreadPoolExecutor(2) as pool:
            indices = iter(range(len(files)))
            # A few at a time, so that no more than the bound is ever decoded.
            while chunk := list(itertools.islice(indices, 8)):
                for index, picture in zip(
                    chunk, pool.map(read_picture, [files[i] for i in chunk]), strict=True
                ):
                    self.largest_bytes = max(self.largest_bytes, picture.nbytes)
                    used += picture.nbytes
                    self._cached[index] = picture
                if used > cache_bytes:
                    break
        for file in files[len(self._cached) :]:
            if not cv2.haveImageReader(str(file)):
                raise DeviceError(f"{file}: expected an image, got something else")

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        """Of the file."""
        return self.files[index].name

    def bits(self, index: int) -> int:
        """Significant bits of a channel: all."""
        return 8 * self[index].itemsize

    def __getitem__(self, index: int) -> Pixels:
        cached = self._cached.get(index)
        return read_picture(self.files[index]) if cached is None else cached


def read_picture(file: Path) -> Pixels:
    """(H, W) or (H, W, 3) RGB, uint8 or uint16, as in the file. Raises DeviceError, naming it."""
    try:
        data = np.fromfile(file, np.uint8)
    except OSError as err:
        raise DeviceError(f"{file}: expected an image, got {err}") from err
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if image is None:
        raise DeviceError(f"{file}: expected an image, got {data.size} bytes that are none")
    if image.dtype.name not in ("uint8", "uint16"):
        raise DeviceError(f"{file}: expected 8 or 16 bits per channel, got {image.dtype}")
    channels = 1 if image.ndim == 2 else image.shape[2]
    if channels == 3:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    elif channels == 4:
        image = cv2.cvtColor(image, cv2.COLOR_BGRA2RGB)
    elif channels != 1:
        raise DeviceError(f"{file}: expected grey or colour, got {channels} channels")
    image.setflags(write=False)  # it is shown again
    return image  # pyright: ignore[reportReturnType] - its type was checked above


def pictures_of(camera: Camera, cache_bytes: int = 0) -> Pictures | RecordedPictures:
    """What this camera shows. Raises DeviceError."""
    folder = Path(camera.folder)
    if folder.suffix == ".mcap" or any(folder.glob("*.mcap")):
        return RecordedPictures(folder, camera.name)
    return Pictures(folder, cache_bytes)


@dataclass(frozen=True, slots=True)
class _Shot:
    """One exposure on its way."""

    due_ns: int
    frame_id: int
    index: int
    is_whole: bool = True


class FolderSource:
    """See `source.Source`. In mode "plc" a picture per trigger, else one every 1 / rate_hz."""

    def __init__(
        self, camera: Camera, mode: Mode, clock: Callable[[], int], cache_bytes: int = _CACHE_BYTES
    ) -> None:
        self._camera, self._mode, self._clock = camera, mode, clock
        self._cache_bytes = cache_bytes
        self._pictures: Pictures | RecordedPictures | None = None
        self._counts = Counts()
        self._ids = FrameIds()
        self._queue: deque[_Shot] = deque()
        self._next = 0
        self._exposed = 0
        self._frame_id = 0
        self._begun_ns: int | None = None
        self._due = 0
        self._is_lost = False

    @property
    def is_simulated(self) -> bool:
        """Always: no folder is a camera."""
        return True

    @property
    def is_streaming(self) -> bool:
        """Pictures come by themselves."""
        return self._mode != "plc"

    @property
    def counts(self) -> Counts:
        """Live figures."""
        return self._counts

    @property
    def settings(self) -> Settings:
        """A folder has none."""
        return {}

    @property
    def remark(self) -> str:
        """Nothing."""
        return ""

    def features(self) -> list[Feature]:
        """A folder has none."""
        return []

    def open(self) -> None:
        """Read the pictures. Raises DeviceError, naming the file that is none."""
        self._pictures = pictures_of(self._camera, self._cache_bytes)

    def configure(self, view: View) -> int:
        """Nothing to set; the bytes of the largest picture that is known."""
        pictures = self._opened()
        self._begun_ns = None
        channels = 1 if pictures[0].ndim == 2 else 3
        configured = self._camera.width_px * self._camera.height_px
        return max(pictures.largest_bytes, configured * channels * pictures[0].itemsize)

    def start(self) -> None:
        """Begin again with frame id 1; the order of the pictures goes on."""
        self._opened()
        self._queue.clear()
        self._ids.begin()
        self._frame_id = 0
        self._begun_ns, self._due = self._clock(), 0

    def trigger(self, part_tag: int) -> None:
        """Expose the next picture, or the one of this tag."""
        pictures = self._opened()
        while (shot := self.fetch(0)) is not None:
            self._counts.orphans += isinstance(shot, Frame)
        if self._camera.order == "tag":
            self._next = (part_tag - 1) % len(pictures)
        self._expose(self._clock())

    def fetch(self, timeout_ms: int) -> Frame | Incomplete | None:
        """The next picture that is due."""
        pictures = self._opened()
        until_ns = self._clock() + timeout_ms * _MS
        while True:
            now_ns = self._clock()
            wake_ns = min(until_ns, self._run_on(now_ns))
            if self._queue and self._queue[0].due_ns <= now_ns:
                return self._deliver(self._queue.popleft(), pictures)
            if self._is_lost:
                raise DeviceError(f"camera {self._camera.name}: lost, as its faults ask for")
            if wake_ns <= now_ns:
                return None
            time.sleep((wake_ns - now_ns) / 1e9)

    def close(self) -> None:
        """Forget the pictures."""
        self._pictures, self._begun_ns = None, None
        self._queue.clear()

    def _opened(self) -> Pictures | RecordedPictures:
        if self._pictures is None:
            raise DeviceError(f"camera {self._camera.name}: its folder is not open")
        return self._pictures

    def _run_on(self, now_ns: int) -> int:
        """Expose what fell due in free run; returns when something happens next."""
        happens_ns = self._queue[0].due_ns if self._queue else now_ns + 3600_000 * _MS
        if not self.is_streaming or self._begun_ns is None:
            return happens_ns
        period_ns = int(1e9 / self._camera.rate_hz)
        while (due_ns := self._begun_ns + self._due * period_ns) <= now_ns:
            self._due += 1
            self._expose(due_ns)
        return min(due_ns, self._queue[0].due_ns) if self._queue else due_ns

    def _expose(self, due_ns: int) -> None:
        """One exposure, with what the faults make of it."""
        faults, index = self._camera.faults, self._next
        self._next = (index + 1) % len(self._opened())
        self._exposed += 1
        self._frame_id += 1
        if faults.lost_after and self._exposed > faults.lost_after:
            self._is_lost = True
        elif self._strikes(faults.drop_every) or len(self._queue) >= self._camera.buffers:
            # Dropped, or no free buffer: the id was taken, and the gap will show it.
            return
        else:
            if self._strikes(faults.delay_every):
                due_ns += faults.delay_ms * _MS
            is_whole = not self._strikes(faults.incomplete_every)
            shot = _Shot(due_ns, self._frame_id, index, is_whole)
            self._queue.append(shot)
            if self._strikes(faults.double_every):
                self._frame_id += 1
                self._queue.append(replace(shot, frame_id=self._frame_id))

    def _strikes(self, every: int) -> bool:
        return every > 0 and self._exposed % every == 0

    def _deliver(self, shot: _Shot, pictures: Pictures | RecordedPictures) -> Frame | Incomplete:
        if not shot.is_whole:
            self._counts.incomplete += 1
            self._ids.incomplete()
            return Incomplete(f"frame {shot.frame_id} is incomplete, as the faults ask for")
        pixels = pictures[shot.index]
        # Ids of a folder only grow, so every step is one.
        lost = self._ids.step(shot.frame_id) or 0
        self._counts.whole += 1
        self._counts.lost += lost
        return Frame(
            pixels=pixels,
            bits=pictures.bits(shot.index),
            frame_id=shot.frame_id,
            arrived_ns=shot.due_ns,
            lost_before=lost,
            source=pictures.name(shot.index),
        )
