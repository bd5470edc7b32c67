"""Verdicts for a store: a short one, one with every field, and the store itself."""

from pathlib import Path

import pytest

from appliance.codes import Reason, Word
from appliance.messages import PixelRef, Verdict, ViewResult
from appliance.store import Store


def verdict(part_id: int, word: Word = Word.OK, **changes: object) -> Verdict:
    fields: dict[str, object] = {
        "part_id": part_id,
        "acq_id": part_id % 65535 + 1,
        "epoch": 3,
        "word": word,
        "reason": Reason.SEGAD if word is Word.NG else Reason.NONE,
    }
    return Verdict(**{**fields, **changes})  # pyright: ignore[reportArgumentType]


def full(part_id: int) -> Verdict:
    """A verdict with no field left at its default."""
    ref = PixelRef(
        ring="frame-top.1.ring", epoch=1, slot=2, sequence=3, shape=(4, 4), dtype="uint8"
    )
    return Verdict(
        part_id=part_id,
        acq_id=7,
        epoch=4,
        word=Word.NG,
        reason=Reason.SEGAD,
        detail="cell: p99 4.2 > 3.1",
        reasons=("cell p99 +2.10", "<b>rim</b> max +0.40"),
        part_tag=0xFFFFFFFF,
        part_text='SN-1 "<script>alert(1)</script>" ü',
        lot="L7",
        camera="top",
        region_px=(1, 2, 30, 40),
        defects=2,
        decides="segad",
        margin=2.5,
        t1=-1.0,
        t2=1.25,
        map_max=3.75,
        classification=-0.5,
        features=(0.5, 1.5, -2.0),
        gates={"mean": 101.5, "focus": 12.0},
        opened_utc_ns=1_790_000_000_123_456_789,
        latency_ns=12_345_678,
        deadline_ns=200_000_000,
        stages_ns={"infer": 7_000_000, "score": 300_000},
        frame_id=99,
        pixels=ref,
        map=ref,
        source="cell0001.png",
        bundle="b" * 64,
        recipe="cell/3",
        recipe_hash="c" * 64,
        setup_hash="d" * 64,
        passport="onnx-1",
        software="0.1.0",
        is_simulated=True,
        is_challenge=True,
        is_tag_known=True,
        is_kept=True,
        expected_word=Word.NG,
        is_rebuilt=False,
        views=(
            ViewResult(
                camera="top",
                word=Word.NG,
                reason=Reason.SEGAD,
                reasons=("cell p99 +2.10",),
                region_px=(1, 2, 30, 40),
                margin=2.5,
                features=(0.5, 1.5, -2.0),
                gates={"mean": 101.5},
            ),
            ViewResult(camera="side", word=Word.ERROR, reason=Reason.LATE, detail="no score"),
        ),
    )


@pytest.fixture
def store(tmp_path: Path):
    opened = Store(tmp_path / "data" / "parts.db")
    yield opened
    opened.close()
