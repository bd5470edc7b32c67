"""Pictures worth keeping: from the ring to lossless PNGs, without delaying a row.

A part has one picture, `PART.png`; of several cameras it is that of the view that decided, and the
others lie beside it as `PART.CAMERA.png`, come and go with it, and are not counted.

A frame is copied out of the ring at once, because its slot will be given away; encoding and
writing happen in one thread with a bounded queue. Whatever is not kept is counted, with the cause.
A file is there whole or not at all. Keeps nothing while the disk is below its limit.

What earlier runs left is looked through in a thread of its own: of a million pictures on a slow
disk that takes minutes, in which rows and pictures go on.
"""

import contextlib
import shutil
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from appliance.atomic import write_atomically
from appliance.codes import Word
from appliance.config_record import Record
from appliance.errors import ConfigError, PartError
from appliance.frames import RingReader
from appliance.messages import Verdict

QUEUE_IMAGES = 64
QUEUE_BYTES = 256 << 20
_RESERVE = 2
"""Pictures of good parts may fill 1/_RESERVE of the queue: the others are kept before them."""
_DISK_CHECK_NS = 1_000_000_000
_COMPRESSION = 1
"""PNG level: higher ones take several times as long for a few per cent."""
_REMOVE = 50
"""Surplus pictures that go at once: rows wait meanwhile."""
_RECENT = 256
"""Files whose row may have missed their path in a crash; told again at start."""


def image_path(part_id: int, opened_utc_ns: int) -> str:
    """Where the picture of a part lies below the data directory."""
    day = datetime.fromtimestamp(opened_utc_ns / 1e9, timezone.utc).strftime("%Y-%m-%d")
    return f"images/{day}/{part_id}.png"


def view_path(path: str, camera: str) -> str:
    """Where the picture of another view lies, beside that of the one that decided."""
    return f"{path.removesuffix('.png')}.{camera}.png"


def read_image(path: Path) -> npt.NDArray[Any]:
    """(H, W) or (H, W, 3) RGB, uint8 or uint16, as the camera gave it. Raises OSError."""
    data = np.frombuffer(path.read_bytes(), np.uint8)
    array = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if array is None:
        raise OSError(f"{path}: expected a PNG, got something else")
    return array[:, :, ::-1] if array.ndim == 3 else array


def is_protected(path: Path) -> bool:
    """A person wants this file kept: `NAME.keep` beside it, or `keep` in its folder."""
    return path.with_name(f"{path.name}.keep").exists() or (path.parent / "keep").exists()


class Archive:
    """The archive images below `folder`, on behalf of one loop; not for several threads.

    free_bytes: room left on the file system of a path; replaced in tests. cameras: of a line with
    several. patience_s: how long to wait for what earlier runs left (None = as long as it takes).
    """

    def __init__(
        self,
        folder: Path,
        policy: Record,
        rings: RingReader,
        clock: Callable[[], int],
        free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
        cameras: Sequence[str] = (),
        patience_s: float | None = None,
    ) -> None:
        self._cameras = cameras if len(cameras) > 1 else ()
        self.folder, self.policy, self._rings = folder, policy, rings
        self._clock, self._free_bytes = clock, free_bytes
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="archive")
        self._queue: deque[tuple[int, str, int, Future[None]]] = deque()
        self._queued_bytes = 0
        self._checked_ns: int | None = None
        self.free_bytes = 0
        self.is_disk_low = False
        self.dropped_at_ns: int | None = None
        self.note = ""
        """The last failure in words; "" after a success."""
        self.counters: dict[str, int] = dict.fromkeys(
            (
                "archive_requested",
                "archived",
                "archive_dropped",
                "dropped_overwritten",
                "dropped_queue_full",
                "dropped_disk_low",
                "dropped_write_failed",
                "images_removed",
            ),
            0,
        )
        self._kept: OrderedDict[str, int] = OrderedDict()
        self._news: dict[int, str] = {}
        self._protected = 0
        self._is_ending = False
        self._touched: set[int] = set()
        """Parts whose files this life makes: none of them is a leftover."""
        stock = ThreadPoolExecutor(1, thread_name_prefix="stock")
        self._stock: Future[_Stock] | None = stock.submit(self._take_stock)
        stock.shutdown(wait=False)
        self._know_stock(patience_s)

    def wants(self, verdict: Verdict) -> bool:
        """Whether an order or the policy keeps the picture of this part."""
        if verdict.is_kept:
            return verdict.pixels is not None
        match self.policy.images:
            case "none":
                return False
            case "ng":
                return verdict.pixels is not None and verdict.word is not Word.OK
            case "all":
                return verdict.pixels is not None

    def offer(self, verdict: Verdict) -> None:
        """Keep the picture of this part if the policy asks for it. Never waits for the disk."""
        if verdict.pixels is None or not self.wants(verdict):
            return
        path = image_path(verdict.part_id, verdict.opened_utc_ns)
        if self._is_known(path):
            return
        self.counters["archive_requested"] += 1
        self.check_disk()
        if self.is_disk_low:
            self._drop("disk_low", f"less than {self.policy.min_free_gb:g} GB free")
            return
        share = _RESERVE if verdict.word is Word.OK else 1
        if len(self._queue) >= QUEUE_IMAGES // share or self._queued_bytes >= QUEUE_BYTES // share:
            self._drop("queue_full", "pictures come faster than the disk takes them")
            return
        others = {
            view_path(path, view.camera): view.pixels
            for view in verdict.views
            if view.camera != verdict.camera and view.pixels is not None
        }
        try:
            # The part's own last: where it is, the others are.
            refs = {**others, path: verdict.pixels}
            pictures = {self.folder / of: self._rings.copy(ref) for of, ref in refs.items()}
        except (PartError, ConfigError) as err:
            self._drop("overwritten", str(err))
            return
        if self._stock is not None:
            self._touched.add(verdict.part_id)
        nbytes = sum(pixels.nbytes for pixels in pictures.values())
        future = self._thread.submit(_write_all, pictures)
        self._queue.append((verdict.part_id, path, nbytes, future))
        self._queued_bytes += nbytes

    def collect(self) -> dict[int, str]:
        """Part → path of its image, "" where it was removed: everything since the last call.

        A bug in a thread is raised here.
        """
        self._know_stock(0)
        while self._queue and self._queue[0][3].done():
            part_id, path, nbytes, future = self._queue.popleft()
            self._queued_bytes -= nbytes
            try:
                future.result()
            except OSError as err:
                self._drop("write_failed", str(err))
                continue
            self.note = ""
            self.counters["archived"] += 1
            self._kept[path] = part_id
            self._news[part_id] = path
        if self.is_stocked:  # before, the oldest that is known is one of today
            self._remove_surplus()
        news, self._news = self._news, {}
        return news

    def _remove_surplus(self) -> None:
        surplus = min(len(self._kept) - self.policy.max_images, _REMOVE)
        if surplus <= 0:
            return
        for path in list(islice(self._kept, surplus + min(self._protected, _REMOVE))):
            if len(self._kept) <= self.policy.max_images:
                break
            if is_protected(self.folder / path):
                self._kept.move_to_end(path)  # not looked at again before all others
                self._protected += 1
            elif not self.remove(path):
                break

    @property
    def is_stocked(self) -> bool:
        """What earlier runs left is known."""
        return self._stock is None

    def kept(self) -> dict[str, int]:
        """Path below the data directory → part, the oldest first."""
        return dict(self._kept)

    def remove(self, path: str) -> bool:
        """This picture goes now; its row is told. False where the disk does not let it go."""
        if not self._remove(path):
            return False
        part_id = self._kept.pop(path, None)
        if part_id is not None:
            self._news[part_id] = ""
        return True

    def check_disk(self, is_now: bool = False) -> None:
        """Look at the free space, once a second at most unless it `is_now`."""
        now = self._clock()
        is_fresh = self._checked_ns is not None and now - self._checked_ns < _DISK_CHECK_NS
        if is_fresh and not is_now:
            return
        self._checked_ns = now
        try:
            self.free_bytes = self._free_bytes(self.folder)
        except OSError as err:
            self.free_bytes, self.note = 0, str(err)
        self.is_disk_low = self.free_bytes < self.policy.min_free_gb * 1e9

    @property
    def queued(self) -> int:
        """Pictures that wait for the disk."""
        return len(self._queue)

    def close(self, timeout_s: float = 1.5) -> None:
        """Finish the queue within `timeout_s`; what is left is counted. Call `collect` after."""
        self._is_ending = True
        self._thread.shutdown(wait=False)
        wait([future for *_, future in self._queue], timeout_s)
        for entry in [entry for entry in self._queue if entry[3].cancel()]:
            self._queue.remove(entry)
            self._drop("queue_full", "stopped before the picture was written")

    def _drop(self, cause: str, detail: str) -> None:
        self.counters["archive_dropped"] += 1
        self.counters[f"dropped_{cause}"] += 1
        self.dropped_at_ns = self._clock()
        self.note = f"picture not kept: {detail}"

    def _remove(self, path: str) -> bool:
        file = self.folder / path
        try:
            for camera in self._cameras:
                (self.folder / view_path(path, camera)).unlink(missing_ok=True)
            file.unlink(missing_ok=True)
        except OSError as err:
            self.note = str(err)
            return False
        self.counters["images_removed"] += 1
        with contextlib.suppress(OSError):  # the day's last picture takes the directory along
            file.parent.rmdir()
        return True

    def _is_known(self, path: str) -> bool:
        if path in self._kept or any(path == queued for _, queued, _, _ in self._queue):
            return True
        return self._stock is not None and (self.folder / path).exists()

    def _know_stock(self, patience_s: float | None) -> None:
        if self._stock is None or self._is_ending or not wait([self._stock], patience_s).done:
            return
        kept, note = self._stock.result()
        self._stock = None
        self._touched.clear()
        self.note = note or self.note
        for path, part_id in list(kept.items())[-_RECENT:]:
            self._news.setdefault(part_id, path)
        for path, part_id in self._kept.items():  # those of this life are the youngest
            kept.pop(path, None)
            kept[path] = part_id
        self._kept = kept

    def _take_stock(self) -> "_Stock":
        """What earlier runs left: pictures by age; half-written files go. In a thread."""
        found: list[tuple[int, str, int]] = []
        note = ""
        days: list[Path] = []
        try:
            days = list((self.folder / "images").glob("*"))
        except OSError as err:
            note = str(err)
        for day in days:
            try:
                for file in day.iterdir():
                    if self._is_ending:
                        break
                    with contextlib.suppress(FileNotFoundError):  # it went meanwhile
                        if file.suffix == ".png" and file.stem.isdecimal():
                            path = file.relative_to(self.folder).as_posix()
                            found.append((file.stat().st_mtime_ns, path, int(file.stem)))
                        elif self._is_leftover(file):
                            file.unlink()
            except (FileNotFoundError, NotADirectoryError):
                continue  # so did the day, or it is none: all others are there
            except OSError as err:
                note = str(err)
        return _Stock(OrderedDict((path, part_id) for _, path, part_id in sorted(found)), note)

    def _is_leftover(self, file: Path) -> bool:
        """Half a picture, or a view whose part was not written any more."""
        part_id = file.name.removeprefix(".").partition(".")[0]
        if part_id.isdecimal() and int(part_id) in self._touched:
            return False
        if file.name.startswith("."):
            return True
        is_view = len(file.suffixes) == 2 and file.suffix == ".png"
        return is_view and not file.with_name(f"{part_id}.png").exists()


class _Stock(NamedTuple):
    kept: OrderedDict[str, int]
    """Path → part, the oldest first."""
    note: str


def _write_all(pictures: Mapping[Path, npt.NDArray[Any]]) -> None:
    """Runs in the archive's thread. Raises OSError."""
    for path, pixels in pictures.items():
        _write(path, pixels)


def _write(path: Path, pixels: npt.NDArray[Any]) -> None:
    if pixels.ndim == 3 and pixels.shape[2] == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    try:
        _, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, _COMPRESSION])
    except cv2.error as err:
        shape, dtype = pixels.shape, pixels.dtype
        raise OSError(f"{path}: expected a picture, got {shape} of {dtype}: {err}") from err
    write_atomically(path, data.tobytes())
