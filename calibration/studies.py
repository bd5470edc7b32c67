"""A study of parts that went past the line again and again, for the command and for the page.

Enters: rows and pictures of `parts.db`, the truth of the parts if somebody knows it. Leaves: the
figures of `repeatability.py` and a page that prints.
"""

import hashlib
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from appliance.archive import read_image
from appliance.config import Config
from appliance.database import where
from appliance.errors import ConfigError
from appliance.rows import PartRow
from appliance.store import Store
from calibration.quarantine import name_of
from calibration.repeatability import Agreement, Presentation, Repeatability, agreement, study
from calibration.repeatability_report import html

MOST = 5000
"""Parts of one study."""


class Study(NamedTuple):
    """One study, done."""

    found: Repeatability
    agreements: tuple[Agreement, ...]
    page: str
    """HTML, whole."""
    told: dict[str, Any]
    """The figures as plain numbers."""


def make_study(
    config: Config,
    first: int,
    last: int,
    truth: Mapping[str, bool],
    by: str = "",
    is_strict: bool = True,
) -> Study:
    """Of the parts from one id to another, both included; takes seconds where there are many.

    truth: part → whether it is bad; empty = nobody knows. is_strict: a truth must tell of every
    part; else one that does not gives no attribute agreement. Raises ConfigError on parts that are
    no study: of several recipes, without a name or a picture, the same picture twice; DeviceError
    where the rows cannot be read.
    """
    rows = _rows(config, first, last)
    known = {(r.verdict.recipe_hash, r.verdict.t1, r.verdict.t2) for r in rows}
    if len(known) != 1:
        raise ConfigError("parts of the study", "one recipe for all of them", f"{len(known)}")
    verdict = rows[0].verdict
    if verdict.t1 is None or verdict.t2 is None:
        raise ConfigError("parts of the study", "judged by two limits", "no limits")
    found = study((_presentation(config, row) for row in rows), (verdict.t1, verdict.t2))
    is_known = bool(truth) and (is_strict or all(part.part in truth for part in found.parts))
    agreements = agreement(found.parts, truth) if is_known else ()
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
    return Study(found, agreements, page, told(found, agreements))


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
    if not first < last < first + MOST:
        raise ConfigError("--first, --last", f"2 to {MOST} parts", f"{first} to {last}")
    store = Store(where(config), is_reader=True)
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
    name = name_of(verdict)
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
