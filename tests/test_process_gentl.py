"""A device that drops, cuts and is lost, as our GenTL producer plays it, under the real processes.

Every accepted part has its one verdict, nothing is OK but by its own picture, and the line comes
back to Ready by itself.
"""

from pathlib import Path

import pytest

from appliance.codes import Reason, Word
from tests.gentl import producer
from tests.rig import PICTURES, Rig, number_of, numbered
from tests.waiting import until

pytest.importorskip("harvesters")

PARTS, LIFE = 24, 14
"""Exposures of one life of the device: it is lost once on the way."""
DROP, CUT = 5, 4


def test_a_device_that_drops_cuts_and_is_lost(tmp_path: Path) -> None:
    path = producer(tmp_path, top=[numbered(number) for number in range(PICTURES)])
    nodes = {"SimDropEvery": DROP, "SimIncompleteEvery": CUT, "SimLostAfter": LIFE}
    camera = {"kind": "genicam", "producer": str(path), "nodes": nodes}
    with Rig({"deadline_ms": 600}, camera) as rig:
        rig.start()
        with rig.ear("camera:top") as ear:
            until("Ready", lambda: ear.is_ready, 40)
            first = rig.pid("camera")
            _, parts = rig.drive(parts=PARTS, patience_s=60.0)
            until("every row", lambda: ear.has_rows(LIFE), 20)
            until("Ready again", lambda: ear.is_ready, 40)
            accepted = ear.said.ledger["accepted"]
            assert ear.unaccounted == 0
            assert rig.pid("camera") != first
        rows = sorted((row.verdict for row in rig.rows()), key=lambda verdict: verdict.part_id)

    assert len(rows) == accepted
    words = {row.part_tag: row.word for row in rows}
    assert all(words[part.tag] == Word.OK for part in parts if part.is_accepted)
    shown = [number_of(row.margin) for row in rows if row.margin is not None]
    # Each picture is a later exposure than that of the part before; a new life begins with 0.
    lives = [0, *(place for place in range(1, len(shown)) if shown[place] <= shown[place - 1])]
    assert len(lives) == 2, shown
    assert all((number + 1) % DROP and (number + 1) % CUT for number in shown), shown
    reasons = [row.reason for row in rows if row.word == Word.ERROR]
    assert set(reasons) <= {Reason.NO_IMAGE, Reason.INCOMPLETE_IMAGE, Reason.LATE}
    assert {Reason.NO_IMAGE, Reason.INCOMPLETE_IMAGE} <= set(reasons)
