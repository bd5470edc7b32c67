"""The anomaly map of a part that went by: out of the recordings, where they still hold it.

Enters: a verdict as its row tells it. Leaves: (h, w) float32 raw logits of the first detector, or
None where no segment kept it. Reads the summaries of the few segments of that minute, no others.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from appliance.errors import ArtefactError
from appliance.messages import Verdict
from appliance.recording import MAP, Recording

_SEGMENT_S = 90.0
"""A segment is finished within 30 s; the rest is for a disk that is slow."""
_AFTER_S = 5.0
"""After its opening a part is scored within this time, or never."""


def recorded_map(folder: Path, verdict: Verdict) -> npt.NDArray[np.float32] | None:
    """Of this part. folder: where all recordings lie."""
    begins_ns = verdict.opened_utc_ns - 1_000_000_000
    ends_ns = verdict.opened_utc_ns + verdict.deadline_ns + int(_AFTER_S * 1e9)
    topic, key = f"{MAP}{verdict.camera}", f"{verdict.camera}/{verdict.frame_id}"
    for path in _candidates(folder, begins_ns):
        try:
            recording = Recording(path)
            for name, log_ns in recording.image_keys:
                if name != topic or not begins_ns <= log_ns <= ends_ns:
                    continue
                found, pixels = recording.image(name, log_ns)
                if found == key:
                    return np.asarray(pixels, np.float32)
        except ArtefactError:
            continue  # damaged, or removed by retention meanwhile
    return None


def _candidates(folder: Path, begins_ns: int) -> list[Path]:
    """Segments that were finished when or soon after the part was seen, by their file's time."""
    found: list[tuple[int, Path]] = []
    for path in folder.glob("*/*.mcap"):
        try:
            finished_ns = path.stat().st_mtime_ns
        except OSError:
            continue
        if begins_ns <= finished_ns <= begins_ns + int(_SEGMENT_S * 1e9):
            found.append((finished_ns, path))
    return [path for _, path in sorted(found)]
