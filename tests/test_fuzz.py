"""Damaged and random bytes into every decoder: refused with a word, or read; nothing else."""

import logging

import pytest

from tests.fuzz import Bench, modbus, run
from tests.test_contract_modbus import HOST, serving

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
