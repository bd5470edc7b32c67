"""Damaged Modbus TCP: noise, near-misses, changed requests, and a PLC with a broken program."""

import random
import socket
import struct
import time
from contextlib import suppress

from tests.fuzz import changed
from tests.fuzz_counts import CHECK_EVERY, PATIENCE_S, Counts

STRANGER = "127.0.0.2"
"""The address that the noise comes from: the PLC's is 127.0.0.1, and no other may write."""
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
    with suppress(OSError), socket.create_connection(address, PATIENCE_S, (source, 0)) as line:
        line.sendall(_GOOD)
        counts.good_answers += line.recv(300)[7:9] == b"\x03\x6a"


def write_modbus(address: tuple[str, int], seconds: float, seed: int) -> Counts:
    """From the PLC's own address: good requests with random words, commands and triggers among
    them, at any speed; what a PLC with a broken program would write."""
    draw, counts = random.Random(seed), Counts()
    end = time.monotonic() + seconds
    with socket.create_connection(address, PATIENCE_S) as line:
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
