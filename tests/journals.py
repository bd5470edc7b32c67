"""Journals in memory: some parts for them, and what the next start finds after a kill."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.codes import Reason, Word
from appliance.journal import Journal, acq_id
from appliance.journal_records import Opened
from appliance.messages import Verdict

SIZE = 1 << 16
MEMORY = "/dev/shm"
"""Hundreds of starts, each with its fsyncs: in memory they cost nothing."""


def opened(part_id: int) -> Opened:
    return Opened(
        part_id=part_id,
        part_tag=part_id + 1000,
        part_text="",
        lot="L1",
        opened_utc_ns=5,
        deadline_ns=200_000_000,
        recipe="cell/1",
        recipe_hash="ab",
    )


def closed(part_id: int, detail: str = "") -> Verdict:
    return Verdict(
        part_id=part_id,
        acq_id=acq_id(part_id),
        epoch=1,
        word=Word.NG,
        reason=Reason.ANOMALY_SCORE,
        detail=detail,
    )


def after_kill(folder: Path, size: int = SIZE) -> Journal:
    """The journal as the next start finds it while the old one still holds its files."""
    copy = Path(tempfile.mkdtemp(prefix="insp", dir=folder.parent)) / "state"
    shutil.copytree(folder, copy)
    return Journal(copy, size)


@pytest.fixture
def folder() -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(prefix="insp", dir=MEMORY))
    yield root / "state"
    shutil.rmtree(root)


@pytest.fixture
def journal(folder: Path) -> Iterator[Journal]:
    made = Journal(folder, SIZE)
    yield made
    made.close()
