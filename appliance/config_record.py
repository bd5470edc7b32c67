"""Section `[record]` of `config.toml`: what is kept, where, and for how long."""

from collections.abc import Iterator
from typing import Literal

from appliance.toml_file import Section


class Record(Section, frozen=True, kw_only=True):
    """What is kept."""

    database: str = ""
    """"" = SQLite, `data/parts.db`; or "postgresql+psycopg://user@host/database"."""
    central: str = ""
    """Another PostgreSQL that gets every row of this box, too, and may be away for days."""
    central_rows: Literal["all", "new"] = "all"
    """"all": rows that were there before `central` was set are sent, too; at each start what the
    central database lacks. "new": where it lets old rows go by itself."""
    images: Literal["none", "ng", "all"] = "ng"
    """"ng" keeps NG, UNCERTAIN and ERROR."""
    min_free_gb: float = 2.0
    max_age_days: float = 0.0
    """Images and recordings go when they are older; 0 = by free space alone. From 1.5 times
    `min_free_gb` down the oldest go as well, OK before UNCERTAIN before ERROR before NG."""
    stop_when_lossy: bool = False
    """True: no part (OfflineReason 12) while rows or pictures cannot be kept, for sites that must
    keep them; it ends by itself. False: inspection goes on, and ArchiveLossy says so."""
    max_images: int = 20000
    """Oldest images go first beyond this number."""
    grace_ms: int = 2000
    """How long after its deadline a frame stays in the ring for the recorder."""
    compression: Literal["none", "zstd"] = "none"
    """Of recordings; zstd is lossless, takes less disk and more of a core."""
    maps: bool = True
    """Whether recordings keep the anomaly map of each picture that they keep."""


def record_ranges(record: Record) -> Iterator[tuple[str, float, float, float]]:
    """Key, value, lowest and highest of every figure that has limits."""
    yield "record.min_free_gb", record.min_free_gb, 0, 1_000_000
    yield "record.max_images", record.max_images, 0, 1_000_000_000
    yield "record.max_age_days", record.max_age_days, 0, 100_000
    yield "record.grace_ms", record.grace_ms, 0, 60_000
