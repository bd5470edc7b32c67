"""The benches run on real processes and give finite figures; none of them is compared with time."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tools import bench
from tools.bench_line import NUMBERS, number_of, numbered
from tools.bench_plot import svg
from tools.bench_row import NotMeasuredError, Row, quantiles

KEYS = {
    "bench", "what", "value", "unit", "must", "ambition", "is_floor", "is_met", "spread", "note",
}  # fmt: skip


def run(*options: str) -> tuple[int, dict[str, Any]]:
    """`inspectd bench --json` as a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "appliance", "bench", "--json", *options],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.stdout.count("\n") == 1, done.stderr
    return done.returncode, json.loads(done.stdout)


def only(*names: str) -> list[str]:
    """Options that name these benches."""
    return [word for name in names for word in ("--only", name)]


def check(row: dict[str, Any]) -> None:
    """The schema of one row, and figures that are figures."""
    assert set(row) == KEYS
    assert row["bench"] in bench.BENCHES and row["what"]
    assert isinstance(row["value"], int | float) and math.isfinite(row["value"])
    assert row["value"] >= 0 and row["unit"]
    assert (row["is_met"] is None) == (row["must"] is None)
    for value in row["spread"].values():
        assert value is None or math.isfinite(value)


def test_figures_of_the_scoring_the_resize_and_the_replay() -> None:
    code, found = run(
        *only("features", "forest", "scoring", "resize", "replay"), "--seconds", "0.2", "--no-fail"
    )
    assert code == 0
    assert set(found) == {"seconds", "machine", "rows", "missed"}
    assert found["machine"]["cores"] >= 1 and found["machine"]["libraries"]["numpy"]
    for row in found["rows"]:
        check(row)
    benches = {row["bench"] for row in found["rows"]}
    assert benches == {"features", "forest", "scoring", "resize", "replay"}
    assert all(row["value"] > 0 for row in found["rows"])


def test_a_line_in_free_run_loses_nothing_untold() -> None:
    code, found = run(*only("free-run"), "--seconds", "1", "--no-fail")
    assert code == 0
    rate, unaccounted = found["rows"]
    check(rate)
    check(unaccounted)
    assert rate["value"] > 0
    assert unaccounted["value"] == 0
    assert unaccounted["spread"]["verdicts"] > 0


def test_a_measurement_that_is_ended_ends_its_line() -> None:
    code = (
        "import time\n"
        "from tools.bench_line import BenchLine, numbered\n"
        "with BenchLine(numbered, 1) as line:\n"
        "    line.start()\n"
        "    while len(line.pids()) < 4: time.sleep(0.05)\n"
        "    print(*line.pids().values(), flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pids = process.stdout.readline().split()
        assert len(pids) == 4
        process.terminate()
    assert process.returncode == 128 + 15
    assert not any(Path(f"/proc/{pid.decode()}").exists() for pid in pids)


def test_the_handshake_takes_every_part() -> None:
    code, found = run(*only("handshake"), "--seconds", "1", "--no-fail")
    assert code == 0
    for row in found["rows"]:
        check(row)
        assert row["spread"]["accepted"] <= row["spread"]["parts"]
        assert row["spread"]["accepted"] > 0


def test_the_ring_tells_what_it_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the loads; the figures are those of a machine that does other things as well."""
    monkeypatch.setattr("tools.bench_plc._RING_LOADS", ((20, 20),))
    lost, latency = bench.measure("ring", 1.0)
    assert lost.spread["parts"] == 20
    assert lost.value == sum(
        lost.spread[name] or 0 for name in ("slots missed", "overruns", "frames lost")
    )
    assert lost.must == 0.0
    assert latency.value is not None and latency.value > 0


def test_numbered_pictures_are_read_back() -> None:
    margins = [numbered(number).mean() for number in range(NUMBERS)]
    assert [number_of(margin) for margin in margins] == list(range(NUMBERS))


@pytest.mark.parametrize(
    ("value", "must", "is_floor", "is_met"),
    [
        (1.0, 2.0, False, True),
        (2.0, 2.0, False, True),
        (3.0, 2.0, False, False),
        (3.0, 2.0, True, True),
        (1.0, 2.0, True, False),
        (None, 2.0, True, False),
        (1.0, None, False, None),
    ],
)
def test_a_budget_is_met_or_not(
    value: float | None, must: float | None, is_floor: bool, is_met: bool | None
) -> None:
    row = Row(bench="b", what="w", value=value, unit="ms", must=must, is_floor=is_floor)
    assert row.is_met is is_met


def test_the_plot_shows_shares_of_budgets_that_there_are() -> None:
    def bar(**row: Any) -> list[float]:
        drawn = svg([Row(**{"bench": "b", "what": "w", "unit": "ms", **row})])
        return [float(width) for width in re.findall(r'<rect class="m.*width="([\d.]+)"', drawn)]

    assert bar(value=3.0, must=None) == bar(value=None, must=2.0) == []
    within, just, beyond = (
        bar(value=1.0, must=2.0),
        bar(value=2.0, must=2.0),
        bar(value=3, must=2.0),
    )
    assert within < just < beyond
    assert (
        bar(value=1000.0, must=500.0, is_floor=True) == within
    )  # twice the floor, half the ceiling
    assert bar(value=1e9, must=1.0) == bar(value=1e6, must=1.0)  # the axis ends somewhere


def test_no_values_are_no_figures() -> None:
    assert quantiles([]) == {"p50": None, "p99": None, "max": None}
    assert quantiles(np.arange(101.0)) == {"p50": 50.0, "p99": 99.0, "max": 100.0}


def test_a_row_is_an_object_with_every_key() -> None:
    row = Row(bench="b", what="w", value=3.0, unit="ms", must=2.0, spread={"p50": 1.0}, note="n")
    assert row.as_object() == {
        "bench": "b", "what": "w", "value": 3.0, "unit": "ms", "must": 2.0, "ambition": None,
        "is_floor": False, "is_met": False, "spread": {"p50": 1.0}, "note": "n",
    }  # fmt: skip


def test_what_cannot_be_measured_is_a_row_that_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(seconds: float) -> list[Row]:
        raise NotMeasuredError(f"nothing in {seconds} s\nand a log")

    monkeypatch.setattr("tools.bench_score.features", fails)
    (row,) = bench.measure("features", 2.0)
    assert row.value is None and row.note == "not measured: nothing in 2.0 s"


@pytest.mark.parametrize(("no_fail", "code"), [((), 1), (("--no-fail",), 0)])
def test_a_missed_budget_is_exit_1_unless_told_otherwise(
    no_fail: tuple[str, ...],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    missed = Row(bench="features", what="slow", value=3.0, unit="ms", must=2.0)
    monkeypatch.setattr("tools.bench_score.features", lambda seconds: [missed])
    document = tmp_path / "benchmarks.md"
    from appliance.__main__ import main

    with pytest.raises(SystemExit) as ended:
        main(["bench", "--only", "features", "--write", str(document), *no_fail])
    assert ended.value.code == code
    assert "slow" in capsys.readouterr().out
    text = document.read_text()
    assert "| slow | 3 ms | ≤ 2 |  | NO |  |" in text
    assert str(tmp_path) not in text
    assert "](benchmarks.svg)" in text
    plot = document.with_suffix(".svg").read_text()
    assert plot.count('<rect class="missed"') == 1 and "3 ms" in plot


def test_an_unknown_name_is_wrong_usage() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "appliance", "bench", "--only", "speed"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "features" in done.stderr
