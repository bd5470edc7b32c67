"""`inspectd evaluate --protocol`: a table of measured figures beside the published ones.

In: bundles of one benchmark, several seeds (or folds) of each category. Out: one row for each
category, mean ± standard deviation over its bundles, in percent as papers have it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypedDict

import numpy as np

from appliance.bundle import Bundle, load_bundle
from appliance.errors import ConfigError
from models.dataset import Dataset, open_dataset
from models.papers import TABLES, Published

MEASURED = {
    "classification_auroc": "jims",
    "map_max_auroc": "jims_map_max",
    "classification_ap": "ap",
    "pixel_auroc": "pixel_auroc",
    "aupro": "aupro",
    "pixel_ap": "pixel_ap",
}
"""Figure of ours → the published one that it stands beside."""

HEADINGS = {
    "classification_auroc": "I-AUROC class",
    "map_max_auroc": "I-AUROC map",
    "classification_ap": "AP-det",
    "pixel_auroc": "P-AUROC",
    "aupro": "AUPRO",
    "pixel_ap": "AP-loc",
}


class Figure(TypedDict):
    """In percent."""

    mean: float
    std: float | None
    """Of n - 1; None of one bundle."""
    n: int
    published: float | None


Judge = Callable[[Bundle, Dataset], Mapping[str, float]]


def bundles_below(folder: Path) -> list[Bundle]:
    """The bundle `folder`, or all bundles directly below it. Raises ConfigError for none."""
    if (folder / "manifest.json").is_file():
        return [load_bundle(folder)]
    found = sorted(path.parent for path in folder.glob("*/manifest.json"))
    if not found:
        raise ConfigError(folder, "a bundle, or a folder of bundles", "none")
    return [load_bundle(path) for path in found]


def measure(protocol: str, folder: Path, data: Path, judge: Judge) -> dict[str, dict[str, Figure]]:
    """Row → figure → {"mean", "std", "n", "published"}, in percent.

    data: the benchmark's root with a folder for each category, or one category. Every bundle is
    judged on the layout's own test set, which must be new to it (`inspectd train --official`).
    """
    if protocol not in TABLES:
        raise ConfigError("--protocol", f"one of {', '.join(TABLES)}", repr(protocol))
    rows: dict[str, dict[str, list[float]]] = {}
    for bundle in bundles_below(folder):
        category, dataset = _test_set(protocol, bundle, data)
        for name, value in judge(bundle, dataset).items():
            rows.setdefault(category, {}).setdefault(name, []).append(100 * value)
    if len(rows) > 1 and "mean" in TABLES[protocol]:
        names = set.intersection(*(set(figures) for figures in rows.values()))
        rows["mean"] = {
            name: [float(np.mean([np.mean(figures[name]) for figures in rows.values()]))]
            for name in names
        }
    table: dict[str, dict[str, Figure]] = {}
    for category, figures in rows.items():
        published = TABLES[protocol].get(category, Published())
        table[category] = {
            name: Figure(
                mean=float(np.mean(figures[name])),
                std=float(np.std(figures[name], ddof=1)) if len(figures[name]) > 1 else None,
                n=len(figures[name]),
                published=getattr(published, column),
            )
            for name, column in MEASURED.items()
            if name in figures
        }
    return table


def as_text(table: Mapping[str, Mapping[str, Figure]]) -> str:
    """Markdown: measured mean ± std, the published figure in brackets."""
    lines = [
        f"| | {' | '.join(HEADINGS.values())} |",
        f"|---|{'---:|' * len(HEADINGS)}",
    ]
    for category, figures in table.items():
        cells = [_cell(figures.get(name)) for name in HEADINGS]
        lines.append(f"| {category} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return "–"
    spread = "" if figure["std"] is None else f" ± {figure['std']:.1f}"
    published = "" if figure["published"] is None else f" ({figure['published']:g})"
    return f"{figure['mean']:.1f}{spread}{published}"


def _test_set(protocol: str, bundle: Bundle, data: Path) -> tuple[str, Dataset]:
    said = bundle.manifest.provenance
    name = said.get("data", "").removeprefix(f"{protocol}-").removeprefix("btad-")
    folder = data / name if (data / name).is_dir() else data
    try:
        seed, fold = int(said.get("plan_seed", "0")), int(said.get("fold", "0"))
    except ValueError as err:
        raise ConfigError(bundle.path("manifest.json"), "a seed in provenance", str(err)) from err
    dataset = open_dataset(
        folder, seed, official=True, fold=fold, stretch=said.get("stretch") == "True" or None
    )
    if dataset.name != said.get("data", dataset.name):
        raise ConfigError(folder, f"the images of {said.get('data')}", dataset.name)
    if protocol == "ksdd2":
        return said.get("regime", name), dataset
    row = (key for key in TABLES[protocol] if name.endswith((f"_{key}", f"-{key}")))
    return next(row, name), dataset
