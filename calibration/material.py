"""What a box knows about its own parts, made ready for limits: labelled ones and production.

Enters: rows of `parts.db` of one bundle and one score, labels of people. Leaves: calibrate parts,
verify parts and unlabelled production margins. Views of one part (equal `part_text`) are one part.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from appliance.errors import ConfigError
from appliance.recipe import LoadedRecipe
from appliance.store import Margin, Store
from calibration.limits import Parts, parts_of
from calibration.opinions import Label, Opinions, is_fresh

PRODUCTION = 20_000
"""Newest parts that the histogram of production shows."""
_CHUNK = 500


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
