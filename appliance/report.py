"""`inspectd report`: what a shift made, as a table, as CSV or as one object.

Counts as an OEE sheet wants them (good, rejected, to be looked at, not inspected), a Pareto of
reasons and of regions, latency percentiles against the deadline. Reads the store, changes nothing.
"""

import csv
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from appliance.codes import Reason, Word
from appliance.config import load_config
from appliance.database import where
from appliance.errors import ConfigError, DeviceError
from appliance.service import EXIT_NO
from appliance.shifts import earlier, shift_at
from appliance.store import Store

_PLACES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
_SHIFT = timedelta(hours=8)


def main(
    config: Annotated[Path, typer.Option(help="The integrator's config.toml.")] = Path(
        "config.toml"
    ),
    begin: Annotated[
        str,
        typer.Option("--from", help="ISO time, local without a zone. Default: 8 h before --to."),
    ] = "",
    end: Annotated[str, typer.Option("--to", help="ISO time. Default: now.")] = "",
    shift: Annotated[
        int | None,
        typer.Option(
            min=0, max=10_000, help="0 = the shift that runs, 1 = the one before, instead of times."
        ),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Rows of section, name, value.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One object.")] = False,
) -> None:
    """What was made between two times: counts, reasons, regions, latencies."""
    if as_csv and as_json:
        raise typer.BadParameter("expected --csv or --json, got both")
    loaded = load_config(config)
    until = _time(end, "--to") if end else datetime.now().astimezone()
    since = _time(begin, "--from") if begin else until - _SHIFT
    if shift is not None:
        if begin or end:
            raise typer.BadParameter("expected --shift or times, got both")
        starts = loaded.challenge.shift_starts
        since, until = earlier(shift_at(datetime.now().astimezone(), starts), shift, starts)
    if since >= until:
        raise ConfigError("--from", f"a time before {until.isoformat()}", since.isoformat())
    try:
        store = Store(where(loaded), is_reader=True)
        try:
            report = shift_report(store, since, until, loaded.deadline_ms)
        finally:
            store.close()
    except DeviceError as err:
        sys.stderr.write(f"inspectd: {err}\n")
        raise typer.Exit(EXIT_NO) from err
    if as_json:
        sys.stdout.write(json.dumps(report, indent=1) + "\n")
    elif as_csv:
        writer = csv.writer(sys.stdout)
        writer.writerow(("section", "name", "value"))
        writer.writerows(rows(report))
    else:
        for section, name, value in rows(report):
            sys.stdout.write(f"{section:<12}{name:<28}{'' if value is None else value}\n")


def shift_report(
    store: Store, since: datetime, until: datetime, deadline_ms: int
) -> dict[str, Any]:
    """Parts opened in [since, until). Figures that do not apply are None. Raises DeviceError."""
    span = _utc_ns(since), _utc_ns(until)
    words: Counter[Word] = Counter()
    reasons: Counter[Reason] = Counter()
    for word, reason, count in store.tallied(*span):
        words[word] += count
        if word is not Word.OK:
            reasons[reason] += count
    total = sum(words.values())
    inspected = total - words[Word.ERROR]
    hours = (until - since).total_seconds() / 3600
    regions = Counter(map(region_of, store.strongest_reasons(*span)))
    latencies = np.asarray(store.latencies_ns(*span), np.float64) / 1e6
    return {
        "from": since.isoformat(timespec="seconds"),
        "to": until.isoformat(timespec="seconds"),
        "counts": {
            "parts": total,
            "good": words[Word.OK],
            "rejected": words[Word.NG],
            "uncertain": words[Word.UNCERTAIN],
            "error": words[Word.ERROR],
            "parts_per_hour": round(total / hours, 1),
            "quality": words[Word.OK] / inspected if inspected else None,
            "inspected": inspected / total if total else None,
        },
        "reasons": {reason.name: count for reason, count in reasons.most_common()},
        "regions": dict(regions.most_common()),
        "latency_ms": {
            name: round(float(np.quantile(latencies, at)), 2) if latencies.size else None
            for name, at in _PLACES.items()
        }
        | {"deadline": deadline_ms},
    }


def region_of(reason: str) -> str:
    """The region that a sentence like "segment busbar: q99.5 of supersimplenet is high" is about;
    of any other sentence what stands before its first number."""
    where, colon, _ = reason.partition(": ")
    if colon:
        return where.removeprefix("segment ")
    return re.split(r" (?=[-+]?\d)", reason, maxsplit=1)[0]


def rows(report: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Flat, for CSV and people."""
    yield "shift", "from", report["from"]
    yield "shift", "to", report["to"]
    for section in ("counts", "reasons", "regions", "latency_ms"):
        for name, value in report[section].items():
            yield section, name, value


def _time(text: str, option: str) -> datetime:
    try:
        time = datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError) as err:
        raise ConfigError(option, "an ISO time like 2026-11-27T06:00", repr(text)) from err
    if not 1970 < time.year < 2200:
        raise ConfigError(option, "a year from 1971 to 2199", repr(text))
    return time


def _utc_ns(time: datetime) -> int:
    return int(time.timestamp() * 1e6) * 1000
