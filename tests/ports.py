"""A TCP port of this machine for a process that a test is about to start."""

import itertools
import os
import random
import socket

_WORKERS, _EACH = 4, 3_000
_FIRST = 20_000
"""To below 32768, where Linux begins to give ports to whoever asks for any: none of these is taken
by chance between the question and the moment when the process listens."""

_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS
_next = itertools.count(random.randrange(_EACH))


def free_port(host: str = "127.0.0.1") -> int:
    """Nobody listens on it, and no other test of this run gets it."""
    for number in _next:
        port = _FIRST + _worker * _EACH + number % _EACH
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise AssertionError("there is always a next number")
