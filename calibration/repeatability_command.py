"""`inspectd repeatability`: a study of parts that went past the line again and again.

Enters: what the command line says. Leaves: what `studies.py` makes of it, on paper and in print.
"""

import csv
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from appliance.atomic import write_atomically
from appliance.config import load_config
from appliance.errors import ConfigError
from calibration.limits import GOOD
from calibration.studies import Study, make_study


def main(
    first: Annotated[int, typer.Option(min=1, help="Id of the first part of the study.")],
    last: Annotated[int, typer.Option(min=1, help="Id of the last one.")],
    out: Annotated[Path, typer.Option(help="Report to write, HTML.")],
    config: Annotated[Path, typer.Option(help="config.toml.")] = Path("config.toml"),
    truth: Annotated[
        Path | None, typer.Option(help="CSV without a head: part, then good or bad.")
    ] = None,
    by: Annotated[str, typer.Option(help="Who did the study; stands in the report.")] = "",
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Score repeatability, guard band and attribute agreement from parts shown again and again.

    A part is known by the PLC's PartText, else by its PartTag. Every showing must be a new picture,
    so the line must keep them all: [record] images = "all". Exit code 1: T2 - T1 is narrower than
    six sigma, or AIAG calls a figure unacceptable.
    """
    loaded = load_config(config)
    made = make_study(loaded, first, last, read_truth(truth) if truth is not None else {}, by)
    write_atomically(out, made.page.encode())
    answer = made.told
    if json:
        sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
    else:
        _print(made, out)
    raise typer.Exit(0 if answer["is_acceptable"] else 1)


def read_truth(path: Path) -> dict[str, bool]:
    """Part → whether it is bad."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(path, "a readable CSV", str(err)) from err
    truth: dict[str, bool] = {}
    for row in rows:
        if len(row) != 2 or row[1].strip().lower() not in (GOOD, "bad"):
            raise ConfigError(path, "lines PART,good or PART,bad", ",".join(row)[:80])
        truth[row[0].strip()] = row[1].strip().lower() == "bad"
    return truth


def _print(made: Study, out: Path) -> None:
    write, answer = sys.stdout.write, made.told
    if answer["is_simulated"]:
        write("SIMULATED PICTURES: this study proves nothing about a camera\n")
    write(f"{answer['parts']} parts, {answer['presentations']} presentations\n")
    write(f"sigma       {answer['sigma']:.4g}, at most {answer['sigma_upper']:.4g} (95 %)\n")
    says = "wide enough" if answer["is_wide_enough"] else "TOO NARROW"
    t1, t2 = answer["limits"]
    write(f"guard band  {answer['guard_band']:.4g}, T2 - T1 {t2 - t1:.4g}: {says}\n")
    write(f"flips       {', '.join(answer['flips']) or 'none'}\n")
    for note in answer["notes"]:
        write(f"note        {note}\n")
    for one in made.agreements:
        seen = one.decisions
        write(f"{one.name:13} {seen.cases} of {seen.total} decisions: {one.rating} (AIAG)\n")
        write(f"{'':13} the parts prove with 95 %: {one.proof}\n")
    write(f"report      {out}\n")
