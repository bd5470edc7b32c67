"""Damaged and random bytes into every decoder: refused with a word, or read; nothing else."""

import logging

import pytest

from appliance.config import Plc
from tests.fuzz import Bench, modbus, run
from tests.fuzz_modbus import STRANGER, fuzz_modbus, write_modbus
from tests.modbus_clients import HOST, serving

INPUTS = 300
with Bench() as _bench:
    NAMES = tuple(_bench.targets())


@pytest.mark.parametrize("name", NAMES)
def test_a_decoder_refuses_or_reads(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    with Bench() as bench:
        inputs, refused = run(bench.targets()[name], INPUTS, seed=20)
    assert inputs == INPUTS
    assert refused > INPUTS // 10 or name in ("torn recording", "journal", "audit journal")


def test_the_modbus_server_outlives_noise() -> None:
    """And answers a good request after each piece of it."""
    with serving() as server:
        assert modbus((HOST, server.number), 150, seed=20) == (150, 150)


def test_a_stranger_who_sends_anything_writes_nothing() -> None:
    """Many inputs on one connection, changed good requests among them; and the PLC is still served,
    whatever it writes itself."""
    with serving(Plc(host=HOST, port=0, allow=(HOST,))) as server:
        address = (HOST, server.number)
        counts = fuzz_modbus(address, 1, seed=20, source=STRANGER, least=300)
        assert counts.inputs >= 300
        assert counts.good_answers == counts.good_requests > 0
        assert server.inputs == []
        written = write_modbus(address, 0.5, seed=20)
        assert written.inputs == written.answers == len(server.inputs) > 0
