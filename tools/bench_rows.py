"""A million rows in SQLite: how long a page, a report, a write and a step of retention take.

Takes minutes and about 700 MB below the temporary directory, so it runs only where it is named.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from itertools import count, islice
from pathlib import Path

from appliance.archive import Archive, image_path
from appliance.codes import Reason, Word
from appliance.config_record import Record
from appliance.frames import RingReader
from appliance.messages import Verdict
from appliance.report import shift_report
from appliance.retention import STEP, Retention
from appliance.store import Store
from tools.bench_row import Row, quantiles
from tools.bench_score import time_ms

ROWS = 1_000_000
_BATCH = 5000
_SHIFT_PARTS = 57_600
_IMAGES = 20_000
_PERIOD_NS = 500_000_000
_WORDS = (Word.OK,) * 95 + (Word.NG,) * 3 + (Word.UNCERTAIN, Word.ERROR)


def rows(seconds: float) -> list[Row]:
    """The figures. seconds: of each that can be repeated."""
    folder = Path(tempfile.mkdtemp(prefix="insp", dir="/tmp"))
    try:
        store = Store(folder / "parts.db")
        for first in range(1, ROWS, _BATCH):
            store.add([_verdict(part_id) for part_id in range(first, first + _BATCH)])
        size_mb = (folder / "parts.db").stat().st_size / 1e6
        begin = datetime.fromtimestamp((ROWS - _SHIFT_PARTS) * _PERIOD_NS / 1e9, timezone.utc)
        end = begin + timedelta(days=1)
        new = count(ROWS + 1)
        calls: dict[str, Callable[[], object]] = {
            "one part": lambda: store.part(ROWS // 2),
            "the newest 50": lambda: store.last(50),
            "the newest 50 NG": lambda: store.last(50, [Word.NG]),
            "64 rows written, on the disk": lambda: store.add(
                [_verdict(part_id) for part_id in islice(new, 64)]
            ),
            f"report of a shift of {_SHIFT_PARTS} parts": lambda: shift_report(
                store, begin, end, 200
            ),
        }
        found = [
            _row(what, quantiles(time_ms(call, seconds)), size_mb) for what, call in calls.items()
        ]
        found += _retention(folder, store, size_mb)
        store.close()
        return found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _retention(folder: Path, store: Store, size_mb: float) -> Iterator[Row]:
    """On a disk that is full: the step that looks at everything, and those that only remove."""
    for part_id in range(ROWS - _IMAGES, ROWS):
        path = folder / image_path(part_id, part_id * _PERIOD_NS)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    policy = Record(min_free_gb=1.0)
    archive = Archive(folder, policy, RingReader(folder), time.monotonic_ns, lambda _: 0)
    archive.check_disk()
    retention = Retention(folder, policy, archive, store.words, time.monotonic_ns)
    looking: list[float] = []
    removing: list[float] = []
    while len(removing) < 50:
        begun = time.perf_counter()
        removed = retention.step()
        took_ms = (time.perf_counter() - begun) * 1e3
        (removing if removed == STEP else looking).append(took_ms)
    archive.close()
    what = f"retention: one of the steps that look at {_IMAGES} pictures"
    yield _row(what, quantiles(looking), size_mb)
    yield _row(f"retention: {STEP} files removed", quantiles(removing), size_mb)


def _row(what: str, found: dict[str, float | int | None], size_mb: float) -> Row:
    return Row(
        bench="rows",
        what=f"{ROWS:,} rows, {what}, median",
        value=found["p50"],
        unit="ms",
        spread={**found, "database MB": round(size_mb)},
    )


def _verdict(part_id: int) -> Verdict:
    word = _WORDS[part_id * 37 % len(_WORDS)]
    reasons = () if word is Word.OK else ("busbar q99.5 +2.41", "cell mean +0.63")
    return Verdict(
        part_id=part_id,
        acq_id=(part_id - 1) % 65_535 + 1,
        epoch=1,
        word=word,
        reason=Reason.NONE if word is Word.OK else Reason.SEGAD,
        reasons=reasons,
        part_tag=part_id,
        camera="top",
        decides="segad",
        margin=float(part_id % 997) / 100,
        features=tuple(float(part_id % (n + 2)) for n in range(8)),
        t1=-1.0,
        t2=1.5,
        opened_utc_ns=part_id * _PERIOD_NS,
        deadline_ns=200_000_000,
        latency_ns=20_000_000 + part_id % 9_000_000,
        stages_ns={"exposure": 2_000_000, "engine": 12_000_000, "features": 400_000},
        bundle="ab" * 32,
        recipe="cell/1",
        recipe_hash="cd" * 32,
        software="0.1.0",
    )
