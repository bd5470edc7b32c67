"""`kill -9` of record at random moments of a running line: what was acknowledged must be there.

    python -m tools.kill_recorder --times 50

A line of real processes in free run, recording everything. After each kill, every part that record
acknowledged to decide (the journal says which) must have its row; at the end, every accepted part
has a row, every recording opens, and each of its messages and pictures can be read. Exit 1 where
anything is missing.
"""

import argparse
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from appliance.codes import Status2
from appliance.database import where
from appliance.errors import ConfigError
from appliance.journal_records import StoredIds, read
from appliance.messages import Verdict
from appliance.recording import Recording, unfinished
from appliance.store import Store
from appliance.wire import decode
from tools.bench_line import BenchLine, Ear, numbered
from tools.bench_row import NotMeasuredError

RATE_HZ = 40.0
_LONGEST_S = 1.5
_PATIENCE_S = 120.0


@dataclass
class Outcome:
    """What was found."""

    kills: int = 0
    acknowledged: int = 0
    """Parts whose row record said to be on the disk before one of the kills."""
    rows_missing: list[int] = field(default_factory=list[int])
    """Of those, without a row right after a kill."""
    accepted: int = 0
    rows: int = 0
    unaccounted: int = -1
    recordings: int = 0
    repaired: int = 0
    """Recordings with a segment that was cut off by a kill."""
    unreadable: list[str] = field(default_factory=list[str])
    unfinished: int = 0
    taped: int = 0
    """Verdicts that the recordings hold."""
    pictures: int = 0

    @property
    def is_good(self) -> bool:
        """Nothing that was acknowledged is missing, and everything can be read."""
        is_whole = self.rows == self.accepted > 0 and self.unaccounted == 0
        return is_whole and not (self.rows_missing or self.unreadable or self.unfinished)


def kill_recorder(times: int, seed: int = 0) -> Outcome:
    """See the module. Raises NotMeasuredError where the line does not run."""
    moments, found = random.Random(seed), Outcome()
    camera = {"rate_hz": RATE_HZ, "record": "all"}
    with BenchLine(numbered, 64, trigger="free", camera=camera) as line:
        line.start()
        with Ear(line) as ear:
            line.start_plc("--ring", "free", "--forever", "--scan-ms", "20")
            ear.await_ready(_PATIENCE_S)
            known: set[int] = set()
            for _ in range(times):
                pid = _serving_pid(line, ear)
                ear.sleep(moments.uniform(0.0, _LONGEST_S))
                os.kill(pid, signal.SIGKILL)
                found.kills += 1
                known |= _acknowledged(line)
                found.rows_missing += sorted(known - _rows(line, known))
            found.acknowledged = len(known)
            _serving_pid(line, ear)
            line.plc_report()
            ledger = _settled(ear)
            found.accepted, found.unaccounted = ledger["accepted"], ledger["unaccounted"]
        found.rows = len(_rows(line, set(range(1, found.accepted + 1))))
        line.stop()
        _read_recordings(line, found)
    return found


def _serving_pid(line: BenchLine, ear: Ear) -> int:
    """Of a recorder that has said that it serves, this life."""

    def is_serving() -> bool:
        health = ear.health.get("record")
        return health is not None and health.is_serving and health.pid == line.pids().get("record")

    _await("recorder that serves", ear, is_serving)
    return ear.health["record"].pid


def _settled(ear: Ear) -> dict[str, int]:
    """The ledger when nothing is owed any more. Without a PLC no frame becomes a part, but decide
    takes it for gone only when its heartbeat is overdue; until then parts go on."""
    ledger: dict[str, int] = {}

    def is_settled() -> bool:
        ear.listen()
        if ear.words is None or Status2.PLC_COMM_OK in Status2(ear.words.registers[101]):
            return False
        ledger.update(ear.words.ledger)
        return ledger["pending"] == ledger["rows_pending"] == 0

    _await("row for every part", ear, is_settled)
    return ledger


def _await(what: str, ear: Ear, check: Callable[[], bool]) -> None:
    end = time.monotonic() + _PATIENCE_S
    while not check():
        if time.monotonic() > end:
            raise NotMeasuredError(f"after {_PATIENCE_S:.0f} s still no {what}")
        ear.sleep(0.02)


def _acknowledged(line: BenchLine) -> set[int]:
    """Parts that decide believes to be stored; older acknowledgements leave with their file."""
    folder = line.config.state_dir
    records = [record for n in range(2) for record in read(folder / f"journal.{n}").records]
    return {n for record in records if isinstance(record, StoredIds) for n in record.part_ids}


def _rows(line: BenchLine, part_ids: set[int]) -> set[int]:
    """Those of the parts that have a row."""
    store = Store(where(line.config), is_reader=True)
    try:
        ordered = sorted(part_ids)
        blocks = (ordered[at : at + 500] for at in range(0, len(ordered), 500))
        return {part_id for block in blocks for part_id in store.words(block)}
    finally:
        store.close()


def _read_recordings(line: BenchLine, found: Outcome) -> None:
    """Every message and every picture of every recording."""
    found.unfinished = len(unfinished(line.config.recordings_dir))
    for folder in sorted(line.config.recordings_dir.iterdir()):
        if not any(folder.glob("*.mcap")):
            continue  # killed before the first message was flushed
        try:
            recording = Recording(folder)
            found.taped += sum(
                isinstance(decode(entry.data), Verdict)
                for entry in recording.entries("/tape/verdicts")
            )
            for key in recording.image_keys:
                recording.image(*key)
        except ConfigError as err:
            found.unreadable.append(str(err))
            continue
        found.recordings += 1
        found.repaired += recording.is_repaired
        found.pictures += len(recording.image_keys)


def main() -> int:
    """The command; 0 where nothing is missing."""
    parser = argparse.ArgumentParser(prog="python -m tools.kill_recorder", description=__doc__)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = kill_recorder(options.times, options.seed)
    sys.stdout.write(json.dumps({"good": found.is_good, **asdict(found)}) + "\n")
    return 0 if found.is_good else 1


if __name__ == "__main__":
    raise SystemExit(main())
