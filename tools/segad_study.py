"""What regions, labelled bad images and a second detector are worth on one set of images.

The protocol of SegAD's paper on bundles that were trained with several seeds: the network's good
images, those of forest and limits, and the held-out ones are never shared; the n labelled bad
images are drawn from those of the limits; every figure is of held-out images. One JSON line per
seed, number of bad images and variant, written as it is found; `summary` makes the table.
The seed is that of the training, from the bundle.

    .venv/bin/python -m tools.segad_study run elpv --bundle b0 --bundle b1 --out study.jsonl
    .venv/bin/python -m tools.segad_study summary study.jsonl
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from appliance import forest
from appliance.bundle import Bundle, load_bundle
from appliance.errors import ConfigError
from appliance.scores import average
from appliance.segments import SegmentIndex, column_names
from models import gate, regions, segad
from models.dataset import Dataset, open_dataset
from models.evaluate import scorer_of
from models.export import Preprocessor
from models.metrics import image_metrics
from models.refit import unknown_to

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Scored:
    """All images that the network did not learn from, scored once."""

    detectors: tuple[str, ...]
    maps: Floats
    """(N, K, H, W): first the good and bad ones of the limits, then the held-out ones."""
    classification: Floats
    labels: npt.NDArray[np.int64]
    limits: int
    """How many of them belong to forest and limits."""
    look: regions.GoodLook
    """Of the good images of the limits alone."""
    usual: gate.Usual = "average"
    """As `gate.usual_score` says of the bundle."""


def scored_by(bundle: Bundle, data: Dataset) -> Scored:
    """Maps and logits of a bundle, through the deployed path, of what its network has not seen."""
    data = unknown_to(bundle, data)
    scorer, preprocess = scorer_of(bundle), Preprocessor(bundle.manifest.input)
    known = (*data.limits_good, *data.limits_bad)
    samples = (*known, *data.held_out)
    answers = [scorer.answer(data.pixels([sample])[0]) for sample in samples]
    return Scored(
        bundle.manifest.detectors,
        np.stack([amap for amap, _ in answers]),
        np.array([score for _, score in answers], np.float32),
        np.array([sample.label for sample in samples], np.int64),
        len(known),
        regions.look_of(preprocess(data.pixels([s]))[0] for s in data.limits_good),
        gate.usual_score(bundle.manifest.provenance),
    )


def seed_of(bundle: Bundle) -> int:
    """Of the split that its network was trained on. Raises ConfigError where none is said."""
    said = bundle.manifest.provenance.get("plan_seed", "")
    try:
        return int(said)
    except ValueError as err:
        where = bundle.path("manifest.json")
        raise ConfigError(where, "a plan_seed in provenance", said or "none") from err


def study(
    scored: Scored,
    seed: int,
    numbers: Sequence[int],
    drawn: npt.NDArray[np.uint8] | None = None,
    splits: int = 1,
) -> Iterator[dict[str, Any]]:
    """The rows of one seed. drawn: a segment map that a person has painted, or None. splits: on so
    many splits of the images the gate is asked; all else is of the first.
    """
    size = scored.maps.shape[2:]
    good = np.flatnonzero(scored.labels[: scored.limits] == 0)
    bad = np.flatnonzero(scored.labels[: scored.limits] == 1)
    test = np.arange(scored.limits, len(scored.labels))
    truth = scored.labels[test]
    order = np.random.default_rng(seed).permutation(bad)

    baselines = {f"{d} map maximum": scored.maps[:, k].max(axis=(1, 2))
                 for k, d in enumerate(scored.detectors)}  # fmt: skip
    baselines["classification"] = scored.classification
    for name, scores in baselines.items():
        yield {"seed": seed, "bad": 0, "variant": name, **image_metrics(truth, scores[test])}

    levels = scored.maps[good]
    proposed = regions.propose(
        scored.look, np.concatenate([levels.mean(axis=0), levels.std(axis=0)]), 6, seed
    )[0]
    maps = {"one segment": np.zeros(size, np.uint8), "proposed map": proposed}
    if drawn is not None:
        maps["drawn map"] = drawn
    every = tuple(range(len(scored.detectors)))
    wanted = [(name, (0,)) for name in maps] + [(name, every) for name in maps]
    wanted += [("proposed map", (k,)) for k in every[1:]]
    features: dict[tuple[str, tuple[int, ...]], tuple[Floats, tuple[str, ...]]] = {}
    for name, ks in dict.fromkeys(wanted):
        count = int(maps[name][maps[name] != 255].max()) + 1
        index = SegmentIndex(maps[name], count)
        names = [f"s{segment}" for segment in range(count)]
        rows = np.stack([index.features(each[list(ks)]) for each in scored.maps])
        features[name, ks] = rows, column_names(names, [scored.detectors[k] for k in ks])
    for n in numbers:
        if n > len(bad):
            continue
        known = np.concatenate([good, order[:n]])
        for (name, ks), (rows, columns) in features.items():
            told = {"seed": seed, "bad": n, "variant": f"{_named(scored, ks)}, {name}"}
            yield told | _fitted(rows, columns, scored.labels, known, test, seed)
        if n < segad.FOLDS:
            continue
        for ks in dict.fromkeys(((0,), every)):
            for split, (seen, unseen) in enumerate(_splits(scored.labels, known, test, splits)):
                figures, choice = _chosen(
                    scored, features["proposed map", ks], seen, unseen, seed + split, ks
                )
                told = {"seed": seed, "bad": n}
                if not split:
                    variant = f"{_named(scored, ks)}, proposed map, average"
                    yield told | {"variant": variant} | figures
                yield told | {"split": split, "gate": _named(scored, ks)} | choice
    n = min(max(numbers), len(bad))
    known = np.concatenate([good, order[:n]])
    rows, columns = features["proposed map", every]
    maxima = [p for p, column in enumerate(columns) if column.endswith(("/q99.5", "/max"))]
    told = {"seed": seed, "bad": n}
    for kind in ("boosted_trees", "random_forest", "segad"):
        yield (
            told
            | {"ablation": kind}
            | _fitted(rows, columns, scored.labels, known, test, seed, kind)
        )
    only = (rows[:, maxima], tuple(columns[place] for place in maxima))
    yield (
        told
        | {"ablation": "q99.5 and maximum only"}
        | _fitted(*only, scored.labels, known, test, seed)
    )
    one = features["one segment", every]
    yield told | {"ablation": "one segment"} | _fitted(*one, scored.labels, known, test, seed)


def _splits(
    labels: npt.NDArray[np.int64],
    known: npt.NDArray[np.intp],
    test: npt.NDArray[np.intp],
    count: int,
) -> Iterator[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
    """This split of the images that the network has not seen, and more with as many known ones.

    They share images: so many of one network prove less than their number says.
    """
    yield known, test
    good, bad = np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)
    taken = int(labels[known].sum())
    for split in range(1, count):
        rng = np.random.default_rng([split, 77])
        goods, bads = rng.permutation(good), rng.permutation(bad)
        left = len(known) - taken
        yield (
            np.concatenate([goods[:left], bads[:taken]]),
            np.concatenate([goods[left:], bads[taken:]]),
        )


def _named(scored: Scored, ks: tuple[int, ...]) -> str:
    return " + ".join(scored.detectors[k] for k in ks)


def _fitted(
    rows: Floats,
    columns: Sequence[str],
    labels: npt.NDArray[np.int64],
    known: npt.NDArray[np.intp],
    test: npt.NDArray[np.intp],
    seed: int,
    kind: forest.Kind = "segad",
) -> dict[str, float]:
    fitted = forest.fit(rows[known], labels[known], columns, seed, kind=kind)
    return image_metrics(labels[test], [fitted.margin(row) for row in rows[test]])


def _chosen(
    scored: Scored,
    table: tuple[Floats, tuple[str, ...]],
    known: npt.NDArray[np.intp],
    test: npt.NDArray[np.intp],
    seed: int,
    ks: tuple[int, ...],
) -> tuple[dict[str, float], dict[str, Any]]:
    """How good the average is on the test images; what the gate takes without them, and how good
    each score is there.

    The map maximum is that of the detector that is best on the images of the gate, as in a bundle.
    loss: AUROC of the best of the three single scores minus that of what decides; below 0 where the
    average beats them all.
    """
    rows, columns = table
    labels = scored.labels
    maxima = {k: scored.maps[:, k].max(axis=(1, 2)) for k in ks}
    lead = max(ks, key=lambda k: gate.auroc(maxima[k][known], labels[known]))
    fitted, out_of_fold, folds = segad.fit_with_margins(rows[known], labels[known], columns, seed)
    seen = {"segad": out_of_fold, "map_max": maxima[lead][known],
            "classification": scored.classification[known]}  # fmt: skip
    seen, units = segad.with_average(seen, labels[known])
    choice = gate.choose(seen, labels[known], seed, scored.usual, folds)
    unseen = {"segad": np.array([fitted.margin(row) for row in rows[test]], np.float32),
              "map_max": maxima[lead][test],
              "classification": scored.classification[test]}  # fmt: skip
    best = max(gate.auroc(each, labels[test]) for each in unseen.values())
    unseen["average"] = average(unseen, units)
    aurocs = {name: gate.auroc(each, labels[test]) for name, each in unseen.items()}
    return image_metrics(labels[test], unseen["average"]), {
        "decides": choice.decides,
        "loss": best - aurocs[choice.decides],
        "aurocs": aurocs,
        "estimates": {name: row._asdict() for name, row in choice.rows.items()},
    }


app = typer.Typer(no_args_is_help=True)


@app.command()
def run(
    data: Annotated[str, typer.Argument(help="Folder of labelled images, or the word elpv.")],
    bundle: Annotated[list[Path], typer.Option(help="One per seed, any seeds in any order.")],
    out: Annotated[Path, typer.Option(help="JSON lines, appended to.")],
    bad: Annotated[str, typer.Option(help="Numbers of labelled bad images.")] = "1,10,50,150",
    drawn: Annotated[Path | None, typer.Option(help="A painted segment map.")] = None,
    splits: Annotated[int, typer.Option(min=1, help="On which the gate is asked.")] = 1,
) -> None:
    """Every bundle on the images of its seed."""
    for each in [load_bundle(folder) for folder in bundle]:
        seed = seed_of(each)
        scored = scored_by(each, open_dataset(data, seed))
        painted = None
        if drawn is not None:
            painted = regions.read_segments(drawn, (scored.maps.shape[2], scored.maps.shape[3]))[0]
        numbers = [int(number) for number in bad.split(",")]
        keep(study(scored, seed, numbers, painted, splits), out)


def keep(rows: Iterator[dict[str, Any]], out: Path) -> None:
    """Each row is on the disk before the next one is worked out."""
    for row in rows:
        with out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        sys.stderr.write(f"{row}\n")


@app.command()
def summary(where: Annotated[Path, typer.Argument(help="JSON lines of `run`.")]) -> None:
    """AUROC and FPR at 95 % recall, mean ± sample deviation over the seeds, as Markdown."""
    rows = [json.loads(line) for line in where.read_text().splitlines()]
    table: dict[str, dict[int, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for kind in ("variant", "ablation"):
            if kind in row:
                name = row[kind] if kind == "variant" else f"ablation: {row[kind]}"
                table[name][row["bad"]].append((row["auroc"], row["fpr95"]))
    numbers = sorted({row["bad"] for row in rows} - {0})
    sys.stdout.write("| | " + " | ".join(f"{n} bad" for n in numbers) + " | seeds |\n")
    sys.stdout.write("|---|" + "---:|" * (len(numbers) + 1) + "\n")
    for name, by_number in table.items():
        cells = [_cell(by_number.get(n, by_number.get(0, []))) for n in numbers]
        seeds = max(len(found) for found in by_number.values())
        sys.stdout.write(f"| {name} | {' | '.join(cells)} | {seeds} |\n")
    gates = [row for row in rows if "gate" in row]
    if not gates:
        return
    sys.stdout.write("\nwithin 0.01 AUROC of the best single score, beyond 0.02, the worst:\n\n")
    sys.stdout.write("| decides | " + " | ".join(f"{n} bad" for n in numbers) + " | all |\n")
    sys.stdout.write("|---|" + "---:|" * (len(numbers) + 1) + "\n")
    for name in ("", *gate.SCORES):
        cells = [
            _losses(name, [row for row in gates if number in (None, row["bad"])])
            for number in (*numbers, None)
        ]
        sys.stdout.write(f"| {name or 'as the gate says'} | {' | '.join(cells)} |\n")


def _losses(name: str, rows: Sequence[dict[str, Any]]) -> str:
    """Of one score, or of what the gate takes ("")."""
    if not rows:
        return ""
    losses = np.array(
        [row["loss"] + row["aurocs"][row["decides"]] - row["aurocs"][name or row["decides"]]
         for row in rows]
    )  # fmt: skip
    close, far = int((losses <= 0.01).sum()), int((losses > 0.02).sum())
    return f"{close} of {len(losses)}, {far}, {losses.max():.3f}"


def _cell(found: Sequence[tuple[float, float]]) -> str:
    if not found:
        return ""
    aurocs, fprs = np.array(found).T * 100
    spread = f" ± {aurocs.std(ddof=1):.1f}" if len(aurocs) > 1 else ""
    return f"{aurocs.mean():.1f}{spread} ({fprs.mean():.0f})"


if __name__ == "__main__":
    app()
