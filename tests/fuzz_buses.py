"""Damaged input over the network for a line that judges parts meanwhile: Modbus TCP and OPC UA.

A real line with numbered pictures and the desk PLC; beside it somebody sends noise, near-misses and
changed requests for as long as wanted:

    python -m tests.fuzz_buses modbus --seconds 600
    python -m tests.fuzz_buses opcua --seconds 600

Printed: inputs, how many were answered, processes that ended, parts with another verdict than their
picture's, and how the memory of the process grew. Exit 1 where any of this is not as it must be.
"""
# asyncua annotates what travels, not what its functions take, and exports by star imports.
# pyright: reportArgumentType=false, reportPrivateImportUsage=false

import argparse
import asyncio
import json
import logging
import os
import random
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz import changed
from tools.bench_line import BenchLine, Ear, free_port, number_of, numbered
from tools.bench_memory import private_bytes, slope

PICTURES = 16
STRANGER = "127.0.0.2"
"""The address that the noise comes from: the PLC's is 127.0.0.1, and no other may write."""
_PATIENCE_S = 30.0
"""For the answer to a good request, also on a machine that does other things."""
_RATE_HZ = 5
_FILL_S = 240.0
"""What is remembered on purpose fills up first: 1000 results in the process `bus`."""
CHECK_EVERY = 200
"""Inputs between two good requests, each of which must be answered."""


@dataclass
class Counts:
    """What was sent, and what came of it."""

    inputs: int = 0
    answers: int = 0
    """Inputs after which at least one byte came back."""
    good_requests: int = 0
    good_answers: int = 0


# ---- Modbus TCP ------------------------------------------------------------------------------

_GOOD = struct.pack(">HHHBBHH", 1, 0, 6, 1, 3, 100, 53)
_CODES = (1, 2, 3, 4, 5, 6, 7, 8, 15, 16, 17, 20, 21, 22, 23, 24, 43, 90, 100, 128, 131, 255)


def modbus_seeds() -> tuple[bytes, ...]:
    """Good requests of every function that there is."""
    words = bytes(range(32))
    pdus = (
        struct.pack(">BHH", 3, 100, 53),
        struct.pack(">BHH", 4, 205, 125),
        struct.pack(">BHH", 6, 0, 1),
        struct.pack(">BHHB", 16, 0, 16, 32) + words,
        struct.pack(">BHHHHB", 23, 100, 53, 0, 16, 32) + words,
    )
    return tuple(struct.pack(">HHHB", 7, 0, len(pdu) + 1, 1) + pdu for pdu in pdus)


def modbus_input(draw: random.Random, seeds: tuple[bytes, ...]) -> bytes:
    """Noise, a wrong function, a wrong length, or a good request that was changed."""
    kind = draw.randrange(10)
    if kind == 0:
        return draw.randbytes(draw.randrange(1, 300))
    if kind < 4:
        pdu = bytes((draw.choice(_CODES),)) + draw.randbytes(draw.choice((0, 1, 4, 9, 12, 250)))
        length = len(pdu) + 1 if draw.random() < 0.7 else draw.randrange(1 << 16)
        return struct.pack(">HHHB", draw.randrange(1 << 16), 0, length, draw.randrange(256)) + pdu
    return changed(draw, draw.choice(seeds))


def fuzz_modbus(
    address: tuple[str, int], seconds: float, seed: int, source: str, least: int = 0
) -> Counts:
    """For so long, and until `least` inputs were sent; some connections are kept for many inputs,
    some hang up in the middle."""
    draw, seeds, counts = random.Random(seed), modbus_seeds(), Counts()
    end = time.monotonic() + seconds
    while time.monotonic() < end or counts.inputs < least:
        with suppress(OSError), socket.create_connection(address, 5, (source, 0)) as line:
            line.settimeout(draw.choice((0.0, 0.002, 0.02)))
            for _ in range(draw.choice((1, 1, 5, 50))):
                counts.inputs += 1
                line.sendall(modbus_input(draw, seeds))
                with suppress(TimeoutError, BlockingIOError):
                    if not (answer := line.recv(4096)):
                        break
                    counts.answers += bool(answer)
                if counts.inputs % CHECK_EVERY == 0:
                    _check_modbus(address, source, counts)
    _check_modbus(address, source, counts)
    return counts


def _check_modbus(address: tuple[str, int], source: str, counts: Counts) -> None:
    counts.good_requests += 1
    with suppress(OSError), socket.create_connection(address, _PATIENCE_S, (source, 0)) as line:
        line.sendall(_GOOD)
        counts.good_answers += line.recv(300)[7:9] == b"\x03\x6a"


def write_modbus(address: tuple[str, int], seconds: float, seed: int) -> Counts:
    """From the PLC's own address: good requests with random words, commands and triggers among
    them, at any speed; what a PLC with a broken program would write."""
    draw, counts = random.Random(seed), Counts()
    end = time.monotonic() + seconds
    with socket.create_connection(address, _PATIENCE_S) as line:
        while time.monotonic() < end:
            words = [draw.randrange(1 << 16) for _ in range(16)]
            words[0] = draw.randrange(256) & ~0x20  # SetOffline would end it at once
            words[3] = draw.choice((1, 2, 10, 11, 12, 20, 21, 30, 31, 40, draw.randrange(1 << 16)))
            words[8] = draw.randrange(4)
            pdu = struct.pack(">BHHHHB16H", 23, 100, 53, 0, 16, 32, *words)
            counts.inputs += 1
            line.sendall(struct.pack(">HHHB", counts.inputs & 0xFFFF, 0, len(pdu) + 1, 1) + pdu)
            counts.answers += len(line.recv(300)) > 100
            time.sleep(draw.choice((0.0, 0.0, 0.001, 0.02)))
    return counts


# ---- OPC UA ----------------------------------------------------------------------------------


@dataclass
class Relay:
    """Between a client and the server; what the client sends may be changed on its way."""

    target: tuple[str, int]
    change: Callable[[bytes], bytes]
    answered: int = 0
    sent: list[bytes] = field(default_factory=list[bytes])
    """Of the newest connection, as the client sent it."""

    async def serve(self) -> tuple[asyncio.Server, int]:
        """The server and its port."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return server, server.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.sent = []
        try:
            there, back = await asyncio.open_connection(*self.target)
        except OSError:
            writer.close()
            return
        tasks = [
            asyncio.ensure_future(self._pump(reader, back, self._changed)),
            asyncio.ensure_future(self._pump(there, writer, self._counted)),
        ]
        with suppress(asyncio.CancelledError):  # the relay itself ends
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for end in (back, writer):
            end.close()

    def _changed(self, data: bytes) -> bytes:
        self.sent.append(data)
        return self.change(data)

    def _counted(self, data: bytes) -> bytes:
        self.answered += 1
        return data

    @staticmethod
    async def _pump(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, see: Callable[[bytes], bytes]
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(see(data))
                await writer.drain()


async def _session(port: int, timeout_s: float) -> None:
    """What an anonymous client does: log in, browse, read, call, subscribe, hang up."""
    from asyncua import Client, ua

    client = Client(f"opc.tcp://127.0.0.1:{port}/inspectd", timeout=timeout_s)
    await client.connect_socket()
    try:
        await client.send_hello()
        await client.open_secure_channel()
        await client.create_session()
        await client.activate_session()
        server: Any = client.nodes.server
        await client.nodes.objects.get_children()
        await client.nodes.namespace_array.read_value()
        with suppress(ua.UaError):
            method = ua.NodeId(ua.ObjectIds.Server_GetMonitoredItems)
            await server.call_method(method, ua.Variant(1, ua.VariantType.UInt32))
        subscription = await client.create_subscription(100, _Deaf())
        await subscription.subscribe_events()
        await subscription.subscribe_data_change(client.nodes.server_state)
        await subscription.delete()
        await client.close_session()
    finally:
        client.disconnect_socket()


class _Deaf:
    """Takes what comes."""

    def event_notification(self, event: Any) -> None:
        """An event."""

    def datachange_notification(self, node: Any, value: Any, data: Any) -> None:
        """A value."""


async def fuzz_opcua(address: tuple[str, int], seconds: float, seed: int, least: int = 0) -> Counts:
    """For so long, and until `least` inputs were sent: whole sessions with some messages changed on
    their way, and pieces of such sessions thrown at the port; needs the endpoint of anonymous
    readers, which is in clear."""
    draw, counts = random.Random(seed), Counts()
    damage = [0.0]

    def change(data: bytes) -> bytes:
        if draw.random() >= damage[0]:
            return data
        counts.inputs += 1
        head = 8 if draw.random() < 0.7 else 0  # mostly: a header that is believed
        body = data[:head] + changed(draw, data[head:])
        if head and len(body) >= 8 and draw.random() < 0.8:
            body = body[:4] + struct.pack("<I", len(body)) + body[8:]
        return body

    relay = Relay(address, change)
    server, port = await relay.serve()
    end = time.monotonic() + seconds
    async with server:
        await _session(port, _PATIENCE_S)
        seeds = tuple(relay.sent)
        checked = 0
        while time.monotonic() < end or counts.inputs < least:
            damage[0] = draw.choice((0.05, 0.2, 0.5))
            # The client gets answers to what it never said: whatever it makes of them is its own.
            sessions = [asyncio.wait_for(_session(port, 1), 3) for _ in range(4)]
            throws = [_throw(address, draw, seeds, counts) for _ in range(20)]
            await asyncio.gather(*sessions, *throws, return_exceptions=True)
            if counts.inputs - checked >= CHECK_EVERY:
                checked = counts.inputs
                damage[0] = 0.0
                await _check_opcua(port, counts)
        damage[0] = 0.0
        await _check_opcua(port, counts)
    counts.answers += relay.answered
    return counts


async def _throw(
    address: tuple[str, int], draw: random.Random, seeds: tuple[bytes, ...], counts: Counts
) -> None:
    with suppress(OSError, asyncio.TimeoutError):
        reader, writer = await asyncio.open_connection(*address)
        try:
            # As a session begins, up to a message that is wrong; or wrong from the first on.
            good = draw.randrange(min(3, len(seeds))) if draw.random() < 0.6 else 0
            for data in seeds[:good]:
                writer.write(data)
                await asyncio.wait_for(reader.read(4096), 1)
            for _ in range(draw.choice((1, 2, 5))):
                counts.inputs += 1
                is_noise = draw.random() < 0.2
                data = draw.randbytes(draw.randrange(1, 300)) if is_noise else b""
                writer.write(data or changed(draw, draw.choice((seeds[good], *seeds))))
                await writer.drain()
            with suppress(asyncio.TimeoutError):
                counts.answers += bool(await asyncio.wait_for(reader.read(4096), 0.05))
        finally:
            writer.close()


async def _check_opcua(port: int, counts: Counts) -> None:
    counts.good_requests += 1
    for _ in range(5):  # noise may hold every place for a moment
        with suppress(Exception):
            await _session(port, _PATIENCE_S)
            counts.good_answers += 1
            return
        await asyncio.sleep(0.5)


# ---- the line --------------------------------------------------------------------------------


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
