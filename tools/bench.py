"""`inspectd bench`: the budgets, measured on this machine in one run, beside what they must be.

Every figure comes from real processes or from the code that runs on the line. Nothing is compared
with another machine or with an earlier run.
"""

import importlib
import importlib.metadata
import json
import os
import platform
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from appliance.atomic import write_atomically
from appliance.errors import ConfigError
from appliance.passport import cpu_name
from appliance.service import start_logging
from tools.bench_plot import svg
from tools.bench_row import Bench, NotMeasuredError, Row

BENCHES: dict[str, str] = {
    "line-30": "tools.bench_stream:line_30",
    "line-60": "tools.bench_stream:line_60",
    "free-run": "tools.bench_stream:free_run",
    "features": "tools.bench_score:features",
    "forest": "tools.bench_score:forest",
    "scoring": "tools.bench_score:scoring",
    "fixture": "tools.bench_fixture:fixture",
    "kill": "tools.bench_plc:kill",
    "handshake": "tools.bench_plc:handshake",
    "ring": "tools.bench_plc:ring",
    "views": "tools.bench_views:views",
    "gentl": "tools.bench_gentl:gentl",
    "pixels": "tools.bench_pixels:pixels",
    "start": "tools.bench_start:start",
    "resize": "tools.bench_graph:resize",
    "replay": "tools.bench_replay:replay",
    "rows": "tools.bench_rows:rows",
    "memory": "tools.bench_memory:memory",
    "page": "tools.bench_pages:page",
    "tool": "tools.bench_pages:tool",
    "model": "tools.bench_graph:model",
    "graphs": "tools.bench_graph:graphs",
    "engine-memory": "tools.bench_engine:memory",
    "peers": "tools.bench_peers:peers",
}
"""Name → "module:function"; each is a `bench_row.Bench`."""
_ASKED_FOR = frozenset({"graphs", "model", "engine-memory", "peers", "rows", "page", "tool"})
"""Minutes each, and torch, the pages or the package index is needed: only where they are named."""
_LIBRARIES = ("numpy", "opencv-python-headless", "onnxruntime", "pyzmq", "xgboost-cpu", "pymodbus")


def main(
    only: Annotated[
        list[str] | None,
        typer.Option(help=f"One of {', '.join(BENCHES)}; may be repeated."),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Length of each run whose length is free.")
    ] = 20.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    peers: Annotated[
        bool, typer.Option("--peers", help="Also against anomalib, which is installed for it.")
    ] = False,
    write: Annotated[
        Path | None,
        typer.Option(help="Write a Markdown table to this file and a plot, .svg, beside it."),
    ] = None,
    no_fail: Annotated[
        bool, typer.Option("--no-fail", help="Exit 0 also where a budget was missed.")
    ] = False,
) -> None:
    """Measure the budgets on this machine; exit 1 where one was missed or could not be measured."""
    for name in only or []:
        if name not in BENCHES:
            raise typer.BadParameter(f"--only: expected one of {', '.join(BENCHES)}, got {name!r}")
    start_logging()
    names = only or [name for name in BENCHES if name not in _ASKED_FOR]
    names += ["peers"] if peers and "peers" not in names else []
    machine = describe_machine()
    rows: list[Row] = []
    for name in names:
        sys.stderr.write(f"inspectd: measuring {name}\n")
        rows += measure(name, seconds)
    if write is not None:
        try:
            plot = write.with_suffix(".svg")
            write_atomically(plot, svg(rows).encode())
            write_atomically(write, markdown(machine, names, seconds, rows, plot.name).encode())
        except OSError as err:
            raise ConfigError(write, "a file that can be written", str(err)) from err
    if as_json:
        summary = {
            "seconds": seconds,
            "machine": machine,
            "rows": [row.as_object() for row in rows],
            "missed": [row.what for row in rows if row.is_met is False],
        }
        sys.stdout.write(json.dumps(summary) + "\n")
    else:
        show(machine, rows)
    is_unmeasured = any(row.value is None for row in rows)
    is_missed = any(row.is_met is False for row in rows)
    raise typer.Exit(1 if is_unmeasured or (is_missed and not no_fail) else 0)


def measure(name: str, seconds: float) -> list[Row]:
    """The rows of one bench; one row that says why, where it could not be measured."""
    module, _, function = BENCHES[name].partition(":")
    bench: Bench = getattr(importlib.import_module(module), function)
    try:
        return bench(seconds)
    except NotMeasuredError as err:
        sys.stderr.write(f"inspectd: {name}: {err}\n")
        reason = str(err).splitlines()[0]
        return [Row(bench=name, what=name, value=None, unit="", note=f"not measured: {reason}")]


def describe_machine() -> dict[str, Any]:
    """What the figures belong to: no names of hosts, people or paths."""
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "inspectd": importlib.metadata.version("inspectd"),
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "load_before": round(os.getloadavg()[0], 2),
        "date_utc": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def show(machine: dict[str, Any], rows: list[Row]) -> None:
    """On the terminal."""
    table = Table(title=_machine_line(machine))
    for name in _HEADINGS:
        table.add_column(name, justify="left" if name in ("what", "more") else "right")
    for row in rows:
        style = {None: "", True: "green", False: "red"}[row.is_met]
        table.add_row(*_cells(row), style=style)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def markdown(
    machine: dict[str, Any], names: list[str], seconds: float, rows: list[Row], plot: str
) -> str:
    """The same as a document. plot: file name of the picture beside it."""
    benches = " ".join(f"--only {name}" for name in names)
    lines = [
        "# Benchmarks",
        "",
        f"<!-- Written by `inspectd bench {benches} --seconds {seconds:g} --write FILE`. -->",
        "",
        f"![Figures as shares of their budgets]({plot})",
        "",
        f"{_machine_line(machine)}.",
        "",
        "Libraries: " + ", ".join(f"{k} {v}" for k, v in machine["libraries"].items() if v) + ".",
        "",
        "| " + " | ".join(_HEADINGS) + " |",
        "|---|" + "---:|" * (len(_HEADINGS) - 2) + "---|",
        *("| " + " | ".join(_cells(row)) + " |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


_HEADINGS = ("what", "measured", "must", "ambition", "met", "more")


def _machine_line(machine: dict[str, Any]) -> str:
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, "
        f"{machine['system']}, Python {machine['python']}, inspectd {machine['inspectd']}, "
        f"load {machine['load_before']} before, {machine['date_utc']}"
    )


def _cells(row: Row) -> tuple[str, ...]:
    sign = "≥" if row.is_floor else "≤"
    more = [f"{name} {_short(value)}" for name, value in row.spread.items()]
    return (
        row.what,
        f"{_short(row.value)} {row.unit}".strip(),
        "" if row.must is None else f"{sign} {_short(row.must)}",
        "" if row.ambition is None else f"{sign} {_short(row.ambition)}",
        {None: "", True: "yes", False: "NO"}[row.is_met],
        "; ".join([", ".join(more)] * bool(more) + [row.note] * bool(row.note)),
    )


def _short(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
