"""Plays the rest of the line for the page: real messages, real rings, real files."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from appliance.codes import OfflineReason, Reason, State, Status1, Status2, Word
from appliance.config import Config, load_config
from appliance.frames import RingWriter
from appliance.messages import Health, PixelRef, Verdict, Words
from appliance.recipe import Limits, Recipe, View, write_recipe
from appliance.wire import Wiring

T1, T2 = -1.0, 1.5
MAP_PX = 64
REASONS = {
    Word.OK: Reason.NONE,
    Word.NG: Reason.SEGAD,
    Word.UNCERTAIN: Reason.UNCERTAIN_BAND,
    Word.ERROR: Reason.LATE,
}
_REGIONS = (
    "segment busbar: q99.5 of supersimplenet is high",
    "segment rim: mean of supersimplenet is high",
)
MARGINS = {Word.OK: -3.2, Word.NG: 3.4, Word.UNCERTAIN: 0.3, Word.ERROR: None}


def write_root(port: int, roi: tuple[int, int, int, int] | None = None) -> Config:
    """An installation with one camera, a recipe and a segment map, on a short path."""
    root = Path(tempfile.mkdtemp(prefix="insp", dir="/tmp"))
    (root / "config.toml").write_text(
        f'root = "."\ndeadline_ms = 200\n[[camera]]\nname = "top"\nkind = "files"\nfolder = "x"\n'
        f"[hmi]\nport = {port}\n"
    )
    config = load_config(root / "config.toml")
    write_recipe(
        config,
        Recipe(
            id="cell",
            version=3,
            bundle="ab" * 32,
            bundle_dir="cell-0001",
            decides="segad",
            limits=Limits(t1=T1, t2=T2),
            camera={"top": View(roi=roi)},
        ),
    )
    labels = np.zeros((MAP_PX, MAP_PX), np.uint8)
    labels[:, 21:43] = 1
    labels[:, 43:] = 2
    labels[:4] = labels[-4:] = 255
    folder = config.bundles_dir / "cell-0001"
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "segments.png"), labels)
    return config


def remove_root(config: Config) -> None:
    shutil.rmtree(config.root_dir, ignore_errors=True)
    shutil.rmtree(config.rings_dir, ignore_errors=True)


def blob(x: float = 0.7, y: float = 0.3) -> npt.NDArray[np.float32]:
    """(1, H, W) raw logits: quiet, with one hot place."""
    rows, columns = np.mgrid[0:MAP_PX, 0:MAP_PX] / MAP_PX
    hot = 9 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 0.006)
    return (hot - 6).astype(np.float32)[None]


class Feed:
    """decide, camera, infer and record as the page sees them."""

    def __init__(self, config: Config, frame_bytes: int = 1 << 20) -> None:
        self.config = config
        self.wiring = Wiring(config.runtime_dir)
        self.live = self.wiring.sender("live")
        self.senders = {
            process: self.wiring.sender("health", process)
            for process in ("camera:top", "infer:0", "decide", "record")
        }
        self.frames = RingWriter(config.rings_dir, "frame-top", 32, frame_bytes)
        self.maps = RingWriter(config.rings_dir, "map-0", 32, MAP_PX * MAP_PX * 4)
        self.counts = dict.fromkeys(Word, 0)
        self.notes: tuple[str, ...] = ()
        self.offline = OfflineReason.NONE
        self.is_simulated = True
        self.unaccounted = 0
        self.health_notes: dict[str, str] = {}
        self.silent: set[str] = set()

    def verdict(
        self,
        part_id: int,
        word: Word,
        frame: npt.NDArray[Any] | None = None,
        amap: npt.NDArray[np.float32] | None = None,
        **changes: Any,
    ) -> Verdict:
        """Publish one verdict; `frame` and `amap` go into the rings."""
        pixels: PixelRef | None = None if frame is None else self.frames.put(frame)
        heat: PixelRef | None = None if amap is None else self.maps.put(amap)
        fields: dict[str, Any] = {
            "part_id": part_id,
            "acq_id": (part_id - 1) % 65535 + 1,
            "epoch": 4,
            "word": word,
            "reason": REASONS[word],
            "reasons": (
                "segment busbar: q99.5 of supersimplenet is high",
                "segment rim: mean of supersimplenet is high",
            )
            if word is Word.NG
            else (),
            "part_tag": part_id + 7000,
            "camera": "top",
            "decides": "segad",
            "margin": MARGINS[word],
            "t1": T1,
            "t2": T2,
            "opened_utc_ns": 1_790_000_000_000_000_000,
            "latency_ns": 18_000_000 + part_id % 13 * 700_000,
            "deadline_ns": 200_000_000,
            "pixels": pixels,
            "map": heat,
            "recipe": "cell/3",
            "bundle": "ab" * 32,
            "is_simulated": self.is_simulated,
        }
        message = Verdict(**{**fields, **changes})
        self.counts[word] += 1
        assert self.live.send(message)
        return message

    def words(self) -> None:
        """Publish the box's own view."""
        given = sum(self.counts.values())
        status1 = Status1.ONLINE
        if self.offline is OfflineReason.NONE:
            status1 |= Status1.TRIGGER_READY
        status2 = Status2.CAMERA_OK | (Status2.SIMULATED if self.is_simulated else Status2(0))
        self.live.send(
            Words(
                registers={
                    100: int(status1),
                    101: int(status2),
                    104: int(State.READY if status1 & Status1.TRIGGER_READY else State.INITIALIZED),
                    146: 4,
                },
                counters={
                    "triggers": given + 1,
                    "ok": self.counts[Word.OK],
                    "ng": self.counts[Word.NG],
                    "uncertain": self.counts[Word.UNCERTAIN],
                    "error_reject": self.counts[Word.ERROR],
                    "late": self.counts[Word.ERROR],
                    "missed_triggers": 0,
                },
                ledger={
                    "accepted": given + 1,
                    "verdicts": given,
                    "pending": 1,
                    "unaccounted": self.unaccounted,
                    "duplicates": self.unaccounted,
                    "rows_pending": 3,
                },
                offline=self.offline,
                notes=self.notes,
            )
        )

    def health(self) -> None:
        """Publish everyone's health but that of the silent."""
        for process, sender in self.senders.items():
            if process not in self.silent:
                note = self.health_notes.get(process, "")
                sender.send(Health(process=process, pid=1, is_serving=not note, note=note))

    def beat(self) -> None:
        """What comes every 100 ms."""
        self.words()
        self.health()

    def close(self) -> None:
        self.frames.close()
        self.maps.close()
        self.wiring.close()
