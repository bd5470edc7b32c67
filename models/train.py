"""`inspectd train`: labelled images → a bundle, whole or not at all.

The order of work: frozen features of the network's good images, training of the heads, export of
the exact graph; from here on the deployed path alone: features, forest and limits from images that
the network never saw, metrics on images that nothing saw, image gates, golden frames.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Literal, cast

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import typer

from appliance import gates
from appliance.bundle import (
    InputContract,
    Manifest,
    Suggested,
    finish_bundle,
    load_bundle,
    smallest_defect_px,
)
from appliance.errors import ArtefactError, ConfigError
from appliance.segments import column_names
from models import backbones, bundle_files, progress, report, segad
from models.checkpoints import HEADS, save_heads
from models.classifier import Classifier, WithClassifier, fine_tune
from models.dataset import ENOUGH_BAD, Dataset, Sample, open_dataset
from models.evaluate import Scorer, pixels
from models.export import Preprocessor, export_exact, to_onnx
from models.learn import PLANS
from models.metrics import image_metrics
from models.network_training import Trained, Wishes, train_network
from models.pictures import Shape
from models.supersimplenet import Wiring
from models.targets import REGIMES, Regime, defect_sides

Resize = Literal["area", "authors"]
DETECTORS = ("supersimplenet",)

_GATE_BYTES = 1 << 30
"""Most memory for the good frames that the image gates learn from."""

_STAGES = {"features": 0.08, "network": 0.68, "export": 0.07, "forest": 0.12, "bundle": 0.05}
"""Shares of the time on two cores, for the progress report alone."""


def train_bundle(
    data: Dataset,
    out: Path,
    *,
    backbone: str = "efficientnet_lite0",
    size: tuple[int, int] = (256, 256),
    epochs: int | None = None,
    seed: int = 0,
    product: str = "",
    wishes: Wishes | None = None,
    resize: Resize = "area",
    classifier: bool = False,
    progress: progress.Report = progress.ignore,
) -> Path:
    """Train and write the bundle directory `out`; returns `out`.

    size: network input (H, W), at least 32 each. product: "" = the data's name. wishes: all that
    may be asked of the network's training, in place of backbone, epochs and seed. classifier: fine-
    tune a backbone on good and bad images as the score, which the forest reads too. A training that
    was killed goes on where it was, from `.NAME.training` beside `out`. Raises ConfigError on
    unusable images or settings, ArtefactError where `out` exists.
    """
    wishes = wishes or Wishes(backbone=backbone, epochs=epochs, seed=seed)
    if out.exists():
        raise ArtefactError(out, "a bundle directory that is not there yet", "an existing one")
    if min(size) < 32 or (wishes.epochs is not None and wishes.epochs < 1):
        raise ConfigError(
            "size and epochs", "32x32 or more, 1 or more", f"{size} and {wishes.epochs}"
        )
    contract = contract_of(data, size, resize)
    lost = small_defects(data, contract)
    if lost:
        sys.stderr.write(f"inspectd: {lost}\n")
    stages = Stages(progress)
    with workplace(out) as work:
        draft = work / "draft"
        draft.mkdir(mode=0o755)  # the bundle's mode from now on: the line runs as another user
        trained = train_network(
            data, contract, wishes, checkpoint=work / "checkpoint.pt", progress=stages
        )
        supervised = _classifier(data, contract, wishes, trained, stages) if classifier else None
        manifest = write_draft(data, draft, contract, trained, product, stages, supervised)
        finish_bundle(draft, out, manifest)
        (work / "checkpoint.pt").unlink(missing_ok=True)
    progress("done", 1.0)
    return out


@contextmanager
def workplace(out: Path) -> Iterator[Path]:
    """`.NAME.training` beside the bundle: draft, checkpoint, and a lock against a second training.

    Without a checkpoint it is gone afterwards; with one it stays, for the next try.
    """
    work = out.parent / f".{out.name}.training"
    work.mkdir(parents=True, exist_ok=True)
    lock = os.open(work, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            raise ConfigError(out, "one training at a time", "another one writes it now") from err
        shutil.rmtree(work / "draft", ignore_errors=True)
        try:
            yield work
        finally:
            shutil.rmtree(work / "draft", ignore_errors=True)
            if (work / "checkpoint.pt").exists():
                sys.stderr.write(f"inspectd: the epochs so far are kept in {work}\n")
            else:
                shutil.rmtree(work, ignore_errors=True)
    finally:
        os.close(lock)


def contract_of(data: Dataset, size: tuple[int, int], resize: Resize) -> InputContract:
    """How images of this data become inputs of `size`; says where small defects would be lost."""
    height, width, channels = data.source
    return InputContract(
        height_px=size[0],
        width_px=size[1],
        source_height_px=height,
        source_width_px=width,
        channels=3 if channels == 3 else 1,
        resize=resize,
        smallest_defect_px=smallest_defect_px(size, (height, width)),
    )


class Stages:
    """Turns progress within a stage into progress of the whole, and keeps what each has cost."""

    def __init__(self, report: progress.Report) -> None:
        self._report, self._names = report, list(_STAGES)
        self._began = (time.monotonic(), time.process_time())
        self.seconds: dict[str, float] = {}

    def __call__(self, stage: str, done: float, detail: str = "") -> None:
        """Stage: a name of `_STAGES`; done: 0 to 1 of it; detail: shown beside its name."""
        before = sum(_STAGES[name] for name in self._names[: self._names.index(stage)])
        self._report(f"{stage} {detail}".rstrip(), before + _STAGES[stage] * done)
        if done >= 1.0:
            now = (time.monotonic(), time.process_time())
            self.seconds[f"seconds_{stage}"] = now[0] - self._began[0]
            self.seconds[f"cpu_seconds_{stage}"] = now[1] - self._began[1]
            self._began = now


def small_defects(data: Dataset, contract: InputContract) -> str:
    """Where known defects are smaller than what survives the resize: a warning; else ""."""
    sides = [
        side
        for sample in (*data.network_bad, *data.limits_bad)
        if sample.mask is not None and (mask := data.mask(sample)) is not None
        for side in defect_sides(mask)
    ]
    small = [side for side in sides if side < contract.smallest_defect_px]
    if not small:
        return ""
    return (
        f"{len(small)} of {len(sides)} known defects are smaller than "
        f"{contract.smallest_defect_px:.0f} pixels (the smallest {min(small):.0f}), which is 3 "
        f"pixels of the network's input: a larger --size would show them"
    )


def _classifier(
    data: Dataset, contract: InputContract, wishes: Wishes, trained: Trained, stages: Stages
) -> Classifier:
    """Fine-tuned on what the network may learn from, and on nothing else."""
    samples = (*data.network_good, *data.network_bad)
    labels = np.array([sample.label for sample in samples], np.int64)
    if not labels.any():
        raise ConfigError("--classifier", "bad images that the network may learn from", "none")
    preprocess = Preprocessor(contract)
    model = Classifier(backbones.build(wishes.backbone, trained.weights.path))
    fine_tune(
        model, lambda numbers: preprocess(data.pixels([samples[n] for n in numbers])), labels,
        seed=wishes.seed, progress=lambda done: stages("export", 0.5 * done),
    )  # fmt: skip
    return model


def write_draft(
    data: Dataset,
    draft: Path,
    contract: InputContract,
    trained: Trained,
    product: str,
    stages: Stages,
    classifier: Classifier | None = None,
) -> Manifest:
    """All files of a bundle but its manifest, which is returned; `draft` is an empty directory."""
    network, size = trained.network, (contract.height_px, contract.width_px)
    stages("export", 0.0)
    if classifier is None:
        model = export_exact(network, size)
    else:
        model = to_onnx(WithClassifier(network, classifier, size), size)
    onnx.save(model, draft / "network.onnx")
    save_heads(network, draft / HEADS)
    stages("export", 1.0)

    labels, names = segad.grid_segments(size)
    columns = column_names(names, DETECTORS, classification=classifier is not None)
    bundle_files.write_segments(draft, labels, names)
    scorer = Scorer(model, contract, labels, len(names))
    known = (*data.limits_good, *data.limits_bad)
    truth = np.array([sample.label for sample in known], np.int64)
    total = len(known) + len(data.held_out)
    answers = scorer.score(
        _frames(data, known), lambda count: stages("forest", 0.5 * count / total)
    )
    margins = {"map_max": answers.map_max, "classification": answers.classification}
    forest = None
    if int(truth.sum()) >= segad.FOLDS <= int((1 - truth).sum()):
        forest, margins["segad"] = segad.fit_with_margins(
            answers.rows(columns), truth, columns, trained.plan.seed,
            lambda done: stages("forest", 0.5 * len(known) / total + 0.3 * done),
        )  # fmt: skip
        forest.save(draft / "segad.ubj")
    suggested = segad.suggest(margins, truth)
    bundle_files.write_features(draft, answers.rows(columns), truth, known, margins)

    metrics = {f"limits_{name}": value for name, value in suggested.evidence.items()}
    scored = report.Scored(known, margins, suggested.decides, suggested.t1, suggested.t2)
    if data.held_out:
        maps: list[npt.NDArray[np.float32]] = []
        held_out = scorer.score(_frames(data, data.held_out), keep=maps.append)
        scores = {"map_max": held_out.map_max, "classification": held_out.classification}
        if forest is not None:
            rows = [forest.margin(row) for row in held_out.rows(columns)]
            scores["segad"] = np.array(rows, np.float32)
        metrics |= held_out_metrics(scores, [s.label for s in data.held_out], suggested)
        metrics |= pixels(data, maps)
        scored = replace(scored, samples=data.held_out, margins=scores)
    stages("forest", 1.0)

    provenance = bundle_files.provenance(data, trained)
    report.write_report(
        draft / "report.html", product or data.name, _facts(provenance, metrics, suggested),
        trained.history, scored, data, scorer,
    )  # fmt: skip
    frames = _frames(data, _thinned((*data.network_good, *data.limits_good), data.source))
    limits, mean_image = gates.learn(list(frames))
    bundle_files.write_png(draft / limits.mean_image, mean_image)
    golden = bundle_files.write_golden(draft, data, scorer)
    (draft / "split.json").write_bytes(
        msgspec.json.format(msgspec.json.encode(data.hashes()), indent=1)
    )
    stages("bundle", 1.0)
    return Manifest(
        kind="supersimplenet",
        product=product or data.name,
        created_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        files={},  # filled in when the bundle is finished
        input=contract,
        detectors=DETECTORS,
        segments=names,
        columns=columns,
        forest="segad.ubj" if forest is not None else "",
        gates=limits,
        golden=golden,
        suggested=suggested,
        metrics=metrics | {name: round(value, 2) for name, value in stages.seconds.items()},
        provenance=provenance
        | ({} if classifier is None else {"classifier": f"{trained.backbone}, focal loss"}),
    )


def _facts(
    provenance: dict[str, str], metrics: dict[str, float], suggested: Suggested
) -> dict[str, str]:
    """What stands at the top of the report."""
    told = ("data", "notes", "regime", "warnings", "backbone", "wiring", "feature_spread",
            "plan_epochs", "plan_noise", "images_network_good", "images_network_bad",
            "images_limits_good", "images_limits_bad", "images_held_out")  # fmt: skip
    facts = {name.replace("_", " "): provenance.get(name, "") for name in told}
    facts["decides"] = f"{suggested.decides}, OK below {suggested.t1:.3f}, NG from "
    facts["decides"] += f"{suggested.t2:.3f}"
    return facts | {
        name.replace("_", " "): f"{value:.4f}"
        for name, value in metrics.items()
        if not name.startswith("limits_")
    }


def _thinned(samples: tuple[Sample, ...], source: Shape) -> tuple[Sample, ...]:
    """So many of them, evenly, that their frames stay below `_GATE_BYTES`."""
    fit = max(2, _GATE_BYTES // (source[0] * source[1] * source[2]))
    return samples[:: -(-len(samples) // fit)]


def held_out_metrics(
    scores: dict[str, npt.NDArray[np.float32]], labels: list[int], suggested: Suggested
) -> dict[str, float]:
    """Metrics on images that nothing has seen; empty where a class is missing among them.

    `SCORE_auroc`, `SCORE_ap`, `SCORE_fpr95`; `image_auroc`, `escapes`, `overkill` and `uncertain`
    of the suggested score and limits.
    """
    truth = np.array(labels)
    if len(set(labels)) < 2:
        return {}
    metrics: dict[str, float] = {}
    for name, margins in scores.items():
        for metric, value in image_metrics(truth, margins).items():
            metrics[f"{name}_{metric}"] = value
    deciding = scores[suggested.decides]
    metrics["image_auroc"] = metrics[f"{suggested.decides}_auroc"]
    metrics["escapes"] = float((deciding[truth == 1] < suggested.t1).mean())
    metrics["overkill"] = float((deciding[truth == 0] >= suggested.t2).mean())
    uncertain = (deciding >= suggested.t1) & (deciding < suggested.t2)
    metrics["uncertain"] = float(uncertain.mean())
    return metrics


def suggested_limits(bundle_dir: Path) -> Suggested:
    """Which score should decide, T1 and T2 for the first recipe, with the gate's evidence.

    Raises ArtefactError on a bundle that cannot be used or that proposes nothing.
    """
    suggested = load_bundle(bundle_dir).manifest.suggested
    if suggested is None:
        raise ArtefactError(bundle_dir / "manifest.json", "suggested limits", "none")
    return suggested


def _frames(data: Dataset, samples: tuple[Sample, ...]) -> Iterator[npt.NDArray[np.uint8]]:
    for sample in samples:
        yield data.pixels([sample])[0]


def main(
    data: Annotated[str, typer.Argument(help="Folder of labelled images, or the word elpv.")],
    out: Annotated[Path, typer.Option("--out", help="Bundle directory to write.")],
    backbone: Annotated[
        str, typer.Option(help=f"Frozen feature extractor: {', '.join(PLANS)}.")
    ] = "efficientnet_lite0",
    backbone_weights: Annotated[
        Path | None, typer.Option(help="Its ImageNet weights (V1); lite0 needs none.")
    ] = None,
    download_weights: Annotated[
        bool, typer.Option(help="Fetch those weights once, into the user's cache.")
    ] = False,
    size: Annotated[tuple[int, int], typer.Option(help="Network input, height width.")] = (
        256,
        256,
    ),
    grid: Annotated[
        int | None,
        typer.Option(min=1, max=2, help="Feature grid per 8 pixels; 2 = the papers', 4x the cost."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the images; default: the backbone's.")
    ] = None,
    regime: Annotated[
        str,
        typer.Option(
            help=f"auto, {', '.join(REGIMES)}. auto: what the labels allow; half of the bad images "
            f"teach the network from {ENOUGH_BAD} up."
        ),
    ] = "auto",
    wiring: Annotated[
        str, typer.Option(help="jims (2025) or icpr (2024): what the classification head sees.")
    ] = "jims",
    resize: Annotated[
        str, typer.Option(help="area keeps small defects; authors = bilinear alone, as published.")
    ] = "area",
    init: Annotated[
        Path | None, typer.Option(help="Start from these heads: weights.pt, heads.npz or a bundle.")
    ] = None,
    official: Annotated[
        bool, typer.Option(help="The layout's own split: nothing of test/ is used for training.")
    ] = False,
    fold: Annotated[int, typer.Option(min=0, max=2, help="Of SensumSODF.")] = 0,
    stretch: Annotated[
        bool, typer.Option(help="Bring images of other sizes to the median size.")
    ] = False,
    classifier: Annotated[
        bool, typer.Option("--classifier", help="Fine-tune a classifier on bad images, too.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the split and of the training.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, or cuda.")] = "cpu",
    cache_gb: Annotated[
        float, typer.Option(min=0, help="Memory for features; beyond it they are recomputed.")
    ] = 4.0,
    product: Annotated[str, typer.Option(help="Name of the product; default: the data's.")] = "",
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Train a bundle: SuperSimpleNet on good images, and on bad ones where there are enough of
    them; forest and limits on labelled images that the network has not seen."""
    wanted = one_of("--regime", regime, ("auto", *REGIMES))
    learn_bad = None if wanted == "auto" else wanted != "unsupervised"
    if classifier:
        learn_bad = True
    wishes = Wishes(
        backbone=backbone,
        backbone_weights=backbone_weights,
        download=download_weights,
        epochs=epochs,
        grid=grid,
        seed=seed,
        regime=None if wanted == "auto" else cast("Regime", wanted),
        wiring=cast("Wiring", one_of("--wiring", wiring, ("jims", "icpr"))),
        init=init,
        cache_bytes=int(cache_gb * (1 << 30)),
        device=one_of("--device", device, ("cpu", "cuda")),
    )
    resizing = cast("Resize", one_of("--resize", resize, ("area", "authors")))
    dataset = open_dataset(
        data, seed, learn_bad=learn_bad, official=official, stretch=stretch or None, fold=fold
    )
    for note in dataset.notes:
        sys.stderr.write(f"{note}\n")
    with progress.shown() as shown:
        train_bundle(
            dataset, out, size=size, product=product, wishes=wishes, resize=resizing,
            classifier=classifier, progress=shown,
        )  # fmt: skip
    bundle = load_bundle(out)
    manifest = bundle.manifest
    if json:
        answer = {
            "bundle": bundle.id,
            "metrics": manifest.metrics,
            "suggested": manifest.suggested,
        }
        sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
        return
    sys.stdout.write(f"{out}: bundle {bundle.id[:12]}\n")
    if manifest.suggested is not None:
        decides, t1, t2 = (
            manifest.suggested.decides, manifest.suggested.t1, manifest.suggested.t2
        )  # fmt: skip
        sys.stdout.write(f"decides {decides}, OK below {t1:.3f}, NG from {t2:.3f}\n")
    for name in ("image_auroc", "escapes", "overkill", "uncertain"):
        if name in manifest.metrics:
            sys.stdout.write(f"held out: {name} {manifest.metrics[name]:.3f}\n")


def one_of(option: str, value: str, allowed: tuple[str, ...]) -> str:
    """The value of an option if it is one of the words. Raises ConfigError."""
    if value not in allowed:
        raise ConfigError(option, f"one of {', '.join(allowed)}", repr(value))
    return value
