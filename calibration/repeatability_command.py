"""`inspectd repeatability`: a study of parts that went past the line again and again.

Enters: rows and pictures of `parts.db`, the truth of the parts if somebody knows it. Leaves: the
figures of `repeatability.py` and a page that prints.
"""

import csv
import hashlib
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from appliance.archive import read_image
from appliance.config import Config, load_config, write_atomically
from appliance.errors import ConfigError, DeviceError
from appliance.store import PartRow, Store, where
from calibration.bounds import percent
from calibration.limits import GOOD
from calibration.repeatability import Agreement, Presentation, Repeatability, agreement, study
from calibration.repeatability_report import html

_MOST = 5000


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
    rows = _rows(loaded, first, last)
    known = {(r.verdict.recipe_hash, r.verdict.t1, r.verdict.t2) for r in rows}
    if len(known) != 1:
        raise ConfigError("parts of the study", "one recipe for all of them", f"{len(known)}")
    verdict = rows[0].verdict
    if verdict.t1 is None or verdict.t2 is None:
        raise ConfigError("parts of the study", "judged by two limits", "no limits")
    found = study((_presentation(loaded, row) for row in rows), (verdict.t1, verdict.t2))
    agreements = agreement(found.parts, read_truth(truth)) if truth is not None else ()
    facts = {
        "Recipe": f"{verdict.recipe} ({verdict.recipe_hash[:12]})",
        "Bundle": verdict.bundle[:12],
        "Score": verdict.decides,
        "Engine": verdict.passport,
        "Software": verdict.software,
        "Parts": f"{len(found.parts)}, ids {first} to {last}",
        "Report of": time.strftime("%Y-%m-%d %H:%M"),
        "By": by or "–",
    }
    page = html(found, agreements, f"Repeatability of {verdict.recipe}", facts)
    write_atomically(out, page.encode())
    answer = told(found, agreements)
    if json:
        sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
    else:
        _print(answer, out)
    raise typer.Exit(0 if answer["is_acceptable"] else 1)


def told(found: Repeatability, agreements: tuple[Agreement, ...]) -> dict[str, Any]:
    """The figures as plain numbers."""
    return {
        "parts": len(found.parts),
        "presentations": sum(len(part.margins) for part in found.parts),
        "sigma": found.sigma,
        "sigma_upper": found.sigma_upper,
        "guard_band": found.guard_band,
        "limits": found.limits,
        "is_wide_enough": found.is_wide_enough,
        "flips": [part.part for part in found.parts if part.flips],
        "notes": found.notes,
        "is_simulated": found.is_simulated,
        "agreement": {
            one.name: {
                "decisions": one.decisions._asdict(),
                "parts": one.parts._asdict(),
                "rating": one.rating,
            }
            for one in agreements
        },
        "is_acceptable": found.is_wide_enough
        and all(one.rating != "unacceptable" for one in agreements),
    }


def _rows(config: Config, first: int, last: int) -> list[PartRow]:
    if not first < last < first + _MOST:
        raise ConfigError("--first, --last", f"2 to {_MOST} parts", f"{first} to {last}")
    try:
        store = Store(where(config), is_reader=True)
    except DeviceError as err:
        raise ConfigError("parts of the study", "a readable database", str(err)) from err
    try:
        rows = [store.part(part_id) for part_id in range(first, last + 1)]
    finally:
        store.close()
    found = [row for row in rows if row is not None]
    if len(found) < 2:
        raise ConfigError("parts of the study", f"rows from {first} to {last}", f"{len(found)}")
    return found


def _presentation(config: Config, row: PartRow) -> Presentation:
    verdict = row.verdict
    name = verdict.part_text or (str(verdict.part_tag) if verdict.part_tag else "")
    if not name:
        raise ConfigError(f"part {verdict.part_id}", "a PartText or PartTag", "neither")
    if verdict.views:
        expected = "a part of a line with one camera: of several, the margin is the worst view's"
        raise ConfigError(f"part {verdict.part_id}", expected, f"{len(verdict.views)} views")
    if verdict.margin is None:
        raise ConfigError(f"part {verdict.part_id}", "a margin", verdict.reason.name)
    path = config.data_dir / row.image
    try:
        if not row.image:
            raise OSError("none was kept")
        pixels = read_image(path)
    except OSError as err:
        expected = 'its picture: [record] images = "all"'
        raise ConfigError(f"part {verdict.part_id}", expected, str(err)) from err
    digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
    return Presentation(name, digest, verdict.margin, verdict.word, verdict.is_simulated)


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


def _print(answer: dict[str, Any], out: Path) -> None:
    write = sys.stdout.write
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
    for name, one in answer["agreement"].items():
        bound = one["parts"]["lower" if name == "effectiveness" else "upper"]
        sign = "at least" if name == "effectiveness" else "at most"
        decisions = one["decisions"]
        write(
            f"{name:11} {decisions['cases']} of {decisions['total']} decisions, by parts {sign} "
            f"{percent(bound)}: {one['rating']}\n"
        )
    write(f"report      {out}\n")
