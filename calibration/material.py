"""What a box knows about its own parts, made ready for limits: labelled ones and production.

Enters: rows of `parts.db` of one bundle and one score, labels of people. Leaves: calibrate parts,
verify parts and unlabelled production margins. Views of one part (equal `part_text`) are one part.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from appliance.bundle import Manifest
from appliance.errors import ConfigError
from appliance.recipe import LoadedRecipe
from appliance.store import Margin, Store
from calibration.limits import Parts, parts_of
from calibration.opinions import Label, Opinions, is_fresh
from calibration.region_view import RegionRow, region_rows

PRODUCTION = 20_000
"""Newest parts that the histogram of production shows."""
_CHUNK = 500
_MOST_VIEWED = 2000
"""Newest labelled parts whose regions are shown."""


@dataclass(frozen=True)
class Material:
    """Of one recipe."""

    calibrate: Parts
    fresh: Parts
    """The verify parts: opened once per proposal, never shown before."""
    production: tuple[Margin, ...]
    """Newest first, labelled or not."""
    margins: npt.NDArray[np.float32]
    """(N,) of `production`."""


def gather(store: Store, opinions: Opinions, recipe: LoadedRecipe) -> Material:
    """Everything at once; 100,000 rows take about a second. Raises ConfigError where two views of
    a part carry different labels, DeviceError where the database cannot be read."""
    of = recipe.recipe.bundle, recipe.recipe.decides
    labels = opinions.labels()
    ids = sorted(labels)
    labelled: list[Margin] = []
    for start in range(0, len(ids), _CHUNK):
        labelled += store.margins(*of, _CHUNK, ids[start : start + _CHUNK])
    fresh = [row for row in labelled if is_fresh(recipe.recipe.id, _name(row))]
    known = [row for row in labelled if not is_fresh(recipe.recipe.id, _name(row))]
    production = store.margins(*of, PRODUCTION)
    return Material(
        calibrate=_parts(known, labels),
        fresh=_parts(fresh, labels),
        production=production,
        margins=np.array([row.margin for row in production], np.float32),
    )


def region_view(
    store: Store, opinions: Opinions, recipe: LoadedRecipe, bundle: Manifest
) -> list[RegionRow]:
    """What each region says of the calibrate parts; the verify parts stay closed."""
    labels = opinions.labels()
    ids = sorted(labels)[-_MOST_VIEWED:]
    known: dict[int, tuple[float, ...]] = {}
    fresh: set[int] = set()
    for start in range(0, len(ids), _CHUNK):
        chunk = ids[start : start + _CHUNK]
        rows = store.margins(recipe.recipe.bundle, recipe.recipe.decides, _CHUNK, chunk)
        fresh |= {row.part_id for row in rows if is_fresh(recipe.recipe.id, _name(row))}
        found = store.features(recipe.recipe.bundle, [row.part_id for row in rows])
        known |= {n: row for n, row in found.items() if len(row) == len(bundle.columns)}
    chosen = [n for n in known if n not in fresh and np.isfinite(known[n]).all()]
    features = np.array([known[n] for n in chosen], np.float32).reshape(len(chosen), -1)
    kinds = [labels[n].kind for n in chosen]
    return region_rows(bundle.columns, bundle.detectors[0], features, kinds)


def _name(row: Margin) -> str:
    return row.part_text or str(row.part_id)


def _parts(rows: list[Margin], labels: dict[int, Label]) -> Parts:
    try:
        return parts_of(
            [_name(row) for row in rows],
            [labels[row.part_id].kind for row in rows],
            [row.margin for row in rows],
        )
    except ValueError as err:
        raise ConfigError("labels", "one verdict for all views of a part", str(err)) from err
