"""What a recorder is given: the configuration of one camera, and verdicts."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.codes import Reason, Word
from appliance.config import Config, load_config
from appliance.messages import Verdict

UTC_NS = 1_790_000_000_000_000_000


def verdict(part_id: int, word: Word = Word.OK, **changes: object) -> Verdict:
    fields: dict[str, object] = {
        "part_id": part_id,
        "acq_id": part_id,
        "epoch": 1,
        "word": word,
        "reason": Reason.NONE,
        "opened_utc_ns": UTC_NS,
    }
    return Verdict(**{**fields, **changes})  # pyright: ignore[reportArgumentType]


@pytest.fixture
def config() -> Iterator[Config]:
    root = Path(tempfile.mkdtemp(prefix="insp", dir="/tmp"))
    (root / "config.toml").write_text(
        'root = "."\ndeadline_ms = 200\n[[camera]]\nname = "top"\nkind = "files"\nfolder = "x"\n'
        "[record]\nmin_free_gb = 0.0\n"
    )
    loaded = load_config(root / "config.toml")
    yield loaded
    shutil.rmtree(root)
    shutil.rmtree(loaded.rings_dir, ignore_errors=True)
