"""Train the network again and again, over regimes and seeds, and measure each on held-out images.

`python -m tools.bench_models DATA --out DIR`. Every training is one JSON line in `DIR/rows.jsonl`
and one NPZ with its scores, written as soon as it is known; what is there is not trained again.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import numpy.typing as npt
import typer

from models import progress
from models.dataset import Dataset, open_dataset
from models.evaluate import Scorer, pixels
from models.export import export_exact
from models.metrics import ap_of, auroc_of, fpr95_of, image_metrics, interval
from models.network_training import Wishes, train_network
from models.targets import REGIMES, Regime
from models.train import contract_of
from models.train_command import one_of


def main(
    data: Annotated[str, typer.Argument(help="Folder of labelled images, or the word elpv.")],
    out: Annotated[Path, typer.Option("--out", help="Directory for rows and scores.")],
    regimes: Annotated[str, typer.Option(help="Separated by commas.")] = "unsupervised",
    seeds: Annotated[str, typer.Option(help="Separated by commas.")] = "0,1,2",
    epochs: Annotated[str, typer.Option(help="One figure, or one per regime.")] = "18",
    size: Annotated[tuple[int, int], typer.Option(help="Height width.")] = (256, 256),
    official: Annotated[bool, typer.Option(help="The layout's own split.")] = False,
    stretch: Annotated[bool, typer.Option(help="Bring images to one size.")] = False,
    mixed: Annotated[bool | None, typer.Option("--mixed/--full", help="As of train.")] = None,
) -> None:
    """Rows of regime x seed on one set of images."""
    out.mkdir(parents=True, exist_ok=True)
    wanted: list[Regime] = [
        cast("Regime", one_of("--regimes", name, REGIMES)) for name in regimes.split(",")
    ]
    counts = [int(count) for count in epochs.split(",")]
    counts = counts * len(wanted) if len(counts) == 1 else counts
    for seed in (int(seed) for seed in seeds.split(",")):
        for number, count in enumerate(counts):
            regime = wanted[number]
            name = f"{regime}-{seed}-{count}-{size[0]}x{size[1]}"
            if (out / f"{name}.npz").exists():
                continue
            dataset = open_dataset(
                data, seed, learn_bad=regime != "unsupervised", official=official,
                stretch=stretch or None,
            )  # fmt: skip
            if regime == "supervised":  # what has no mask does not belong to this regime
                masked = tuple(s for s in dataset.network_bad if s.mask is not None)
                dataset = replace(dataset, network_bad=masked)
            with progress.shown() as report:
                row = measure(
                    dataset,
                    Wishes(epochs=count, seed=seed, regime=regime, mixed=mixed),
                    size,
                    out / name,
                    report,
                )
            with (out / "rows.jsonl").open("a") as file:
                file.write(json.dumps({"name": name} | row) + "\n")
            sys.stderr.write(json.dumps({"name": name} | row) + "\n")
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    sys.stdout.write(table(rows))


FIGURES = {
    "map_max_auroc": "AUROC map",
    "classification_auroc": "AUROC class",
    "map_max_ap": "AP map",
    "classification_ap": "AP class",
    "map_max_fpr95": "FPR95 map",
    "classification_fpr95": "FPR95 class",
    "pixel_auroc": "pixel AUROC",
    "aupro": "AUPRO",
    "pixel_ap": "AP-loc",
}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one line for each regime, mean ± deviation over seeds; of one seed its interval."""
    lines = [f"| | seeds | {' | '.join(FIGURES.values())} |", f"|---|---:|{'---:|' * len(FIGURES)}"]
    for regime in dict.fromkeys(row["regime"] for row in rows):
        of_it = [row for row in rows if row["regime"] == regime]
        cells: list[str] = []
        for name in FIGURES:
            values = [row[name] for row in of_it if name in row]
            cell = f"{np.mean(values):.3f}" if values else "–"
            if len(values) > 1:
                cell += f" ± {np.std(values, ddof=1):.3f}"
            elif values and f"{name}_95" in of_it[0]:
                low, high = of_it[0][f"{name}_95"]
                cell += f" ({low:.3f} to {high:.3f})"
            cells.append(cell)
        lines.append(f"| {regime} | {len(of_it)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def measure(
    data: Dataset, wishes: Wishes, size: tuple[int, int], name: Path, report: progress.Report
) -> dict[str, Any]:
    """One training and its figures; scores go to NAME.npz."""
    began = (time.monotonic(), time.process_time())
    contract = contract_of(data, size, "area")
    trained = train_network(
        data,
        contract,
        wishes,
        checkpoint=name.with_suffix(".checkpoint"),
        progress=lambda stage, done, detail: report(f"{stage} {detail}", done),
    )
    spent = (time.monotonic() - began[0], time.process_time() - began[1])
    model = export_exact(trained.network, size)
    scorer = Scorer(model, contract, np.zeros(size, np.uint8), 1)
    held = data.held_out
    maps, scores = _answers(scorer, data, size)
    labels = [sample.label for sample in held]
    parts = [sample.part or str(sample.path) for sample in held]
    row: dict[str, Any] = {
        "regime": trained.plan.regime,
        "seed": wishes.seed,
        "epochs": trained.plan.epochs,
        "learnt_bad": len(data.network_bad),
        "learnt_good": len(data.network_good),
        "held_out": len(held),
        "held_out_bad": sum(labels),
        "seconds": round(spent[0]),
        "cpu_seconds": round(spent[1]),
        "warnings": trained.warnings,
    }
    margins = {"map_max": maps.max(axis=(1, 2)), "classification": scores}
    for score, values in margins.items():
        row |= {f"{score}_{key}": value for key, value in image_metrics(labels, values).items()}
        for key, metric in (("auroc", auroc_of), ("ap", ap_of), ("fpr95", fpr95_of)):
            row[f"{score}_{key}_95"] = interval(metric, labels, values, parts)[1:]
    row |= pixels(data, list(maps))
    np.savez_compressed(
        name.with_suffix(".npz"),
        labels=labels,
        parts=parts,
        kinds=[s.kind for s in held],
        **margins,
    )
    name.with_suffix(".checkpoint").unlink(missing_ok=True)
    return row


def _answers(
    scorer: Scorer, data: Dataset, size: tuple[int, int]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    maps = np.empty((len(data.held_out), *size), np.float32)
    scores = np.empty(len(data.held_out), np.float32)
    for index, sample in enumerate(data.held_out):
        amap, scores[index] = scorer.answer(data.pixels([sample])[0])
        maps[index] = amap[0]
    return maps, scores


if __name__ == "__main__":
    typer.run(main)
