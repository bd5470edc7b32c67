"""Damaged input over the network for a line that judges parts meanwhile: Modbus TCP and OPC UA.

A real line with numbered pictures and the desk PLC; beside it somebody sends noise, near-misses and
changed requests for as long as wanted:

    python -m tests.fuzz_buses modbus --seconds 600
    python -m tests.fuzz_buses opcua --seconds 600

Printed: inputs, how many were answered, processes that ended, parts with another verdict than their
picture's, and how the memory of the process grew. Exit 1 where any of this is not as it must be.
"""

import argparse
import asyncio
import json
import logging
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.fuzz_counts import Counts
from tests.fuzz_modbus import STRANGER, fuzz_modbus, write_modbus
from tests.fuzz_opcua import fuzz_opcua
from tools.bench_line import BenchLine, Ear, free_port, number_of, numbered
from tools.bench_memory import private_bytes, slope

PICTURES = 16
_RATE_HZ = 5
_FILL_S = 240.0
"""What is remembered on purpose fills up first: 1000 results in the process `bus`."""


class Watch:
    """Who lives, and how much memory it has, looked at once a second."""

    def __init__(self, line: BenchLine, process: str) -> None:
        self._line, self._process = line, process
        self._pids = line.pids()
        self.ended: list[str] = []
        """Names of processes that another one took the place of."""
        self.samples: list[tuple[float, int]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        begun = time.monotonic()
        while not self._stop.wait(1.0):
            pids = self._line.pids()
            self.ended += [name for name, pid in pids.items() if self._pids.get(name) != pid]
            self._pids = {**self._pids, **pids}
            with suppress(OSError, KeyError):  # it may have ended just now
                size = private_bytes(self._pids[self._process])
                self.samples.append((time.monotonic() - begun, size))

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


def lies(path: Path) -> tuple[int, int]:
    """Parts that the desk PLC judged, and those whose result was another picture's."""
    parts = [json.loads(line) for line in path.read_text().splitlines()]
    wrong = 0
    for part in parts:
        if part["word"] and part["margin"] is not None:
            expected = (part["tag"] - 1) % PICTURES
            wrong += number_of(part["margin"]) != expected or part["word"] != 0xA5C3
        wrong += part["is_accepted"] and part["margin"] is None
    return len(parts), wrong


def campaign(bus: str, seconds: float, seed: int) -> dict[str, Any]:
    """One bus under noise for so long; the object that is printed."""
    changes: dict[str, Any] = {"camera": {"order": "tag"}, "plc": {"allow": ["127.0.0.1"]}}
    port = free_port()
    if bus == "opcua":
        changes["bus"] = {"opcua": {"port": port, "anonymous": "read_only"}}
    process = {"modbus": "decide", "opcua": "bus"}[bus]
    with BenchLine(numbered, PICTURES, **changes) as line, Ear(line) as ear:
        line.start()
        ear.await_ready(120)
        parts_file = line.root / "parts.jsonl"
        line.start_plc("--forever", "--rate", str(_RATE_HZ), "--parts-file", str(parts_file))
        ear.await_parts(5, 120)
        if bus == "opcua":
            _await_port(port)
        watch = Watch(line, process)
        written = Counts()
        try:
            if bus == "modbus":
                counts = fuzz_modbus(("127.0.0.1", line.port), seconds, seed, STRANGER)
            else:
                counts = asyncio.run(fuzz_opcua(("127.0.0.1", port), seconds, seed))
        finally:
            watch.close()
        report = line.plc_report()
        if bus == "modbus":
            written = write_modbus(("127.0.0.1", line.port), seconds / 10, seed)
            ear.await_rows(60)
            ear.sleep(12)  # until whatever is owed came due
        parts, wrong = lies(parts_file)
        if watch.ended:
            sys.stderr.write((line.root / "log").read_text(errors="replace"))
        unaccounted = ear.figure("unaccounted")
    filled_s = min(_FILL_S, watch.samples[-1][0] / 2)
    kept = [sample for sample in watch.samples if sample[0] >= filled_s]
    per_second, bound = slope([s[0] for s in kept], [s[1] for s in kept])
    return {
        "bus": bus,
        "seconds": seconds,
        "seed": seed,
        **asdict(counts),
        "inputs_of_the_writer": written.inputs,
        "processes_ended": watch.ended,
        "parts": parts,
        "accepted": report["accepted"],
        "rejected_why": report["rejected_why"],
        "verdicts_changed": wrong,
        "unaccounted": unaccounted,
        "memory_mb": [round(kept[0][1] / 1e6, 1), round(kept[-1][1] / 1e6, 1)],
        "memory_bytes_per_s": round(per_second, 1),
        "memory_bytes_per_s_95": round(bound, 1),
    }


def _await_port(port: int) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise RuntimeError("the OPC UA server does not listen")


def main() -> int:
    """One campaign, its object on standard output."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("bus", choices=("modbus", "opcua"))
    options.add_argument("--seconds", type=float, default=600)
    options.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    given = options.parse_args()
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)  # what our own client thinks of it
    found = campaign(given.bus, given.seconds, given.seed)
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    is_well = (
        not found["processes_ended"]
        and not found["verdicts_changed"]
        and not found["unaccounted"]
        and found["good_answers"] == found["good_requests"]
        and found["accepted"] > 0
    )
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
