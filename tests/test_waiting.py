"""Patience on a loaded machine: what gets a second try, and what never does."""

import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest

from tests.waiting import NotYet, until

HERE = Path(__file__).parent.parent
TESTS = """
from tests.waiting import NotYet

tries = {"patience": 0, "claim": 0}

def test_patience_that_ended_once():
    tries["patience"] += 1
    if tries["patience"] == 1:
        raise NotYet("after 5 s still no frame")

def test_a_claim_that_failed_once():
    tries["claim"] += 1
    assert tries["claim"] != 1
"""


def test_until_gives_the_first_true_answer() -> None:
    numbers = count()
    assert until("3", lambda: next(numbers) // 3, between=lambda: None) == 1
    with pytest.raises(NotYet, match=r"after 0\.01 s still no frame"):
        until("frame", lambda: None, seconds=0.01)


def test_only_ended_patience_gets_a_second_try(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-c", str(HERE / "pyproject.toml")]
    command += ["--rootdir", str(HERE), "-p", "no:cacheprovider", str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE).stdout
    assert "1 failed, 1 passed, 1 rerun" in said
    assert "RERUN" in said and "FAILED" in said and "test_a_claim_that_failed_once" in said
