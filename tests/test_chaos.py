"""Rows of the failure table as `inspectd chaos` plays them. No timed asserts: safety alone."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from appliance.__main__ import app
from tools.chaos import Outcome, play, summary
from tools.chaos_page import page
from tools.chaos_rows import NOT_YET, ROWS


@pytest.mark.parametrize(
    "row",
    [
        "sick-picture",
        "out-of-memory",
        "plc-lost",
        "disk-full",
        "power-loss",
        "clock-step",
        "thermal-throttle",
    ],
)
def test_the_row_is_safe(row: str) -> None:
    """Nothing accepted that was not scored, nothing without verdict and row, and it comes back."""
    outcome = play(row)
    if outcome.verdict == "not here":
        pytest.skip(outcome.why)
    assert outcome.is_safe, outcome
    assert (outcome.lies, outcome.open_parts, outcome.unaccounted) == (0, 0, 0)
    assert outcome.parts > outcome.parts_lost
    if row != "clock-step":
        assert outcome.detected_ms is not None and outcome.output
    if row in ("clock-step", "thermal-throttle"):
        assert outcome.parts_lost == 0


def test_the_list_names_every_row() -> None:
    done = CliRunner().invoke(app, ["chaos", "list", "--json"])
    assert done.exit_code == 0
    listed = json.loads(done.stdout)
    assert set(listed["rows"]) == set(ROWS)
    assert set(listed["not_yet"]) == set(NOT_YET)
    assert CliRunner().invoke(app, ["chaos", "no-such"]).exit_code == 2


def test_evidence_is_one_page_without_anything_to_load() -> None:
    outcomes = [
        Outcome(row="a", failure="a <b>", detected_ms=3.5, output="1 × ERROR 10", parts=5),
        Outcome(row="c", failure="c", verdict="FAILED", why="2 parts accepted", lies=2),
    ]
    report = summary(outcomes, is_all=True)
    assert report["passed"] is False
    assert report["ok_for_unscored"] == 2
    text = page(report)
    assert "a &lt;b&gt;" in text and "3.5 ms" in text
    assert "FAILED" in text and "not yet" not in text
    assert not any(word in text for word in ("<script", "http:", "https:", "src="))
    assert all(name in text for name in NOT_YET)


def test_a_row_that_fails_is_exit_1(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = Outcome(row="late", failure="x", verdict="FAILED", why="the PLC never saw it")
    monkeypatch.setattr("tools.chaos.play", lambda _: failed)
    done = CliRunner().invoke(app, ["chaos", "late", "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["rows"][0]["why"] == "the PLC never saw it"


def test_nothing_of_it_is_loaded_by_the_line() -> None:
    code = "import sys, appliance.decide; print([m for m in sys.modules if m.startswith('tools')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]"
