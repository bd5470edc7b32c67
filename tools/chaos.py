"""`inspectd chaos`: the failure table, brought about for real, as the PLC saw it.

Real processes, a desk PLC that applies the acceptance rule, and every row the same questions: when
did the PLC know, what did it read, when were parts accepted again, how many were lost. A row passes
when no part was accepted that was not scored from its own picture, none stays without a verdict and
a row, `unaccounted` is 0, and both times are within their limits.
"""

import json
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from appliance.atomic import write_atomically
from appliance.codes import Reason, Word
from appliance.errors import ConfigError
from tools.bench import describe_machine
from tools.bench_row import NotMeasuredError
from tools.chaos_line import Scene
from tools.chaos_page import page
from tools.chaos_plays import NotHereError
from tools.chaos_rows import NOT_YET, ROWS, Row

_BUSY = frozenset({Reason.LATE, Reason.QUEUE_FULL})
"""What a loaded machine does to parts that no failure has struck: safe, and too slow."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One play of one row; figures that do not apply are None."""

    row: str
    failure: str
    detected_ms: float | None = None
    within_ms: float | None = None
    output: str = ""
    recovered_s: float | None = None
    recovers_s: float | None = None
    parts: int = 0
    parts_lost: int = 0
    """Rejected in the whole play, whatever for."""
    lies: int = 0
    """Accepted without having been scored from their own picture."""
    open_parts: int = 0
    """Without a verdict, or without a row in the archive."""
    unaccounted: int = 0
    verdict: str = "passed"
    """passed, late (safe, but slower than its limit), FAILED, or "not here"."""
    why: str = ""
    note: str = ""

    @property
    def is_safe(self) -> bool:
        """Everything but the two limits in time, which a loaded machine may miss."""
        return self.verdict in ("passed", "late")


def main(
    rows: Annotated[
        list[str] | None,
        typer.Argument(help="Rows, `all`, or `list` for their names."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Play each row so often.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    html: Annotated[
        Path | None, typer.Option(help="Write the evidence as a page that prints.")
    ] = None,
) -> None:
    """Bring failures about, for real, on a line of simulated devices. Exit 1 where a row fails."""
    names = rows or ["list"]
    if names == ["list"]:
        _list(as_json)
        return
    for name in names:
        if name not in ROWS and name != "all":
            raise typer.BadParameter(f"expected all, list, {', '.join(ROWS)}; got {name!r}")
    chosen = list(ROWS) if "all" in names else list(dict.fromkeys(names))
    outcomes: list[Outcome] = []
    for name in chosen:
        for number in range(count):
            sys.stderr.write(f"inspectd: {name}" + (f", {number + 1} of {count}" * (count > 1)))
            outcome = play(name)
            outcomes.append(outcome)
            sys.stderr.write(f": {outcome.verdict}{': ' * bool(outcome.why)}{outcome.why}\n")
    report = summary(outcomes, is_all="all" in names)
    if html is not None:
        try:
            write_atomically(html, page(report).encode())
        except OSError as err:
            raise ConfigError(html, "a file that can be written", str(err)) from err
    if as_json:
        sys.stdout.write(json.dumps(report) + "\n")
    else:
        _show(outcomes)
    raise typer.Exit(0 if report["passed"] else 1)


def play(name: str) -> Outcome:
    """One row once, on a line of its own."""
    row = ROWS[name]
    try:
        row.needs()
        with row.scene() as scene:
            scene.begin()
            begun_ns = time.monotonic_ns()
            row.play(scene)
            scene.end()
            return judge(name, row, scene, begun_ns)
    except NotHereError as err:
        return Outcome(row=name, failure=row.failure, verdict="not here", why=str(err))
    except NotMeasuredError as err:
        why = str(err).splitlines()[0]
        return Outcome(row=name, failure=row.failure, verdict="FAILED", why=why)


def judge(name: str, row: Row, scene: Scene, begun_ns: int) -> Outcome:
    """What the PLC saw, held against the row."""
    open_parts = scene.open_parts()
    detected_ms, recovered_s = _times(row, scene, begun_ns)
    lost = [part for part in scene.parts if not part.is_accepted]
    unaccounted = scene.ear.figure("unaccounted")
    lies = len(scene.lies())
    strange = {
        part.reason
        for part in lost
        if part.word == Word.ERROR and row.reasons and part.reason not in row.reasons
    }
    complaints = [
        *([f"{lies} parts accepted that were not scored"] * bool(lies)),
        *([f"{open_parts} parts without a verdict or a row"] * bool(open_parts)),
        *([f"unaccounted is {unaccounted}"] * (unaccounted != 0)),
        *(f"reason {reason}" for reason in sorted(strange - _BUSY)),
    ]
    is_expected = row.shown is not None or bool(row.reasons)
    if is_expected and detected_ms is None:
        complaints.append("the PLC never saw it")
    slow = [
        f"{figure:.2f} {unit} > {limit:g} {unit}"
        for figure, limit, unit in (
            (detected_ms, row.within_ms, "ms"),
            (recovered_s, row.recovers_s, "s"),
        )
        if figure is not None and limit and figure > limit
    ]
    slow += [f"reason {reason}" for reason in sorted(strange & _BUSY)]
    return Outcome(
        row=name,
        failure=row.failure,
        detected_ms=None if detected_ms is None else round(detected_ms, 1),
        within_ms=row.within_ms if is_expected else None,
        output=_output(row, scene, begun_ns),
        recovered_s=None if recovered_s is None else round(recovered_s, 2),
        recovers_s=row.recovers_s or None,
        parts=len(scene.parts),
        parts_lost=len(lost),
        lies=lies,
        open_parts=open_parts,
        unaccounted=unaccounted,
        verdict="FAILED" if complaints else "late" if slow else "passed",
        why="; ".join([*complaints, *slow]),
        note=row.note,
    )


def _times(row: Row, scene: Scene, begun_ns: int) -> tuple[float | None, float | None]:
    """Milliseconds until the PLC knew, seconds until parts were accepted again."""
    from_ns = scene.injected_ns or begun_ns
    struck = [
        part
        for part in scene.parts
        if not part.is_accepted and part.decided_ns > from_ns and part.triggered_ns
    ]
    shown = [s.at_ns for s in scene.plc.sights if row.shown and row.shown(s) and s.at_ns > from_ns]
    known = [part.decided_ns for part in struck if part.reason in row.reasons or not part.reason]
    if not shown and not known:
        return None, None
    if scene.injected_ns:
        first_ns = min([*shown, *known])
        detected_ms = (first_ns - scene.injected_ns) / 1e6
    else:
        # It strikes by itself: of the struck part that took longest, from its own trigger.
        latencies = [part.latency_ms for part in struck if part.reason in row.reasons]
        detected_ms = max(latencies) if latencies else None
        first_ns = min([*known, *shown])
    gaps = [
        next((p.decided_ns for p in scene.parts if p.is_accepted and p.triggered_ns > at), at) - at
        for at in [*known, first_ns]
    ]
    return detected_ms, max(gaps) / 1e9


def _output(row: Row, scene: Scene, begun_ns: int) -> str:
    """What the PLC read: verdicts of the lost parts, and states of the box."""
    from_ns = scene.injected_ns or begun_ns
    words = Counter(
        f"{Word(part.word).name} {Reason(part.reason).value}" if part.word else part.why[0]
        for part in scene.parts
        if not part.is_accepted and part.decided_ns > from_ns
    )
    shown = [s for s in scene.plc.sights if s.at_ns > from_ns and row.shown and row.shown(s)]
    said = [f"{count} × {word}" for word, count in words.most_common(4)]
    return "; ".join([*said, *dict.fromkeys(str(s) for s in shown[:2])])


def summary(outcomes: list[Outcome], is_all: bool) -> dict[str, Any]:
    """The object of `--json`."""
    return {
        "machine": describe_machine(),
        "passed": all(outcome.verdict in ("passed", "not here") for outcome in outcomes),
        "plays": len(outcomes),
        "parts": sum(outcome.parts for outcome in outcomes),
        "ok_for_unscored": sum(outcome.lies for outcome in outcomes),
        "without_verdict": sum(outcome.open_parts for outcome in outcomes),
        "rows": [asdict(outcome) for outcome in outcomes],
        "not_yet": dict(NOT_YET) if is_all else {},
    }


def _list(as_json: bool) -> None:
    if as_json:
        names = {name: row.failure for name, row in ROWS.items()}
        sys.stdout.write(json.dumps({"rows": names, "not_yet": dict(NOT_YET)}) + "\n")
        return
    for name, row in ROWS.items():
        sys.stdout.write(f"{name:16} {row.failure}\n")
    for name, why in NOT_YET.items():
        sys.stdout.write(f"{name:16} not yet: {why}\n")


def _show(outcomes: list[Outcome]) -> None:
    table = Table()
    for name in ("failure", "detected after", "output", "recovered after", "lost", "verdict"):
        table.add_column(name)
    for o in outcomes:
        style = {"passed": "green", "late": "yellow", "not here": ""}.get(o.verdict, "red")
        detected = "–" if o.detected_ms is None else f"{o.detected_ms:g} ms"
        recovered = "–" if o.recovered_s is None else f"{o.recovered_s:g} s"
        lost = f"{o.parts_lost} of {o.parts}"
        verdict = f"{o.verdict}: {o.why}" if o.why else o.verdict
        table.add_row(o.failure, detected, o.output, recovered, lost, verdict, style=style)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
