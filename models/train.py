"""`inspectd train`: labelled images → a bundle, whole or not at all.

The order of work: frozen features of the network's good images, training of the heads, export of
the exact graph; from here on the deployed path alone: features, forest and limits from images that
the network never saw, metrics on images that nothing saw, image gates, golden frames.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import torch
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
from models import backbones, bundle_files, progress, segad
from models.dataset import Dataset, Sample, open_dataset
from models.evaluate import Scorer
from models.export import Preprocessor, export_exact
from models.learn import Plan, cache_features, train_heads
from models.metrics import image_metrics
from models.supersimplenet import SuperSimpleNet, channels_last

DETECTORS = ("supersimplenet",)

BATCH = 16
"""Images per pass through the backbone; bounds the memory of a training on large sets."""

_STAGES = {"features": 0.08, "network": 0.68, "export": 0.07, "forest": 0.12, "bundle": 0.05}
"""Shares of the time on two cores, for the progress report alone."""


def train_bundle(
    data: Dataset,
    out: Path,
    *,
    backbone: str = "efficientnet_lite0",
    size: tuple[int, int] = (256, 256),
    epochs: int = Plan.epochs,
    seed: int = 0,
    product: str = "",
    progress: progress.Report = progress.ignore,
) -> Path:
    """Train and write the bundle directory `out`; returns `out`.

    size: network input (H, W), at least 32 each. product: "" = the data's name. Raises ConfigError
    on unusable images or settings, ArtefactError where `out` exists. Nothing is left behind when
    it fails.
    """
    plan = Plan(epochs=epochs, classification_epochs=min(epochs, Plan.classification_epochs),
                seed=seed)  # fmt: skip
    if out.exists():
        raise ArtefactError(out, "a bundle directory that is not there yet", "an existing one")
    if min(size) < 32 or epochs < 1:
        raise ConfigError("size and epochs", "32x32 or more, 1 or more", f"{size} and {epochs}")
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    draft.chmod(0o755)  # the bundle's mode from now on: the line runs as another user
    try:
        manifest = _write_draft(data, draft, backbone, size, plan, product, _Stages(progress))
        finish_bundle(draft, out, manifest)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    progress("done", 1.0)
    return out


class _Stages:
    """Turns progress within a stage into progress of the whole, and keeps what each has cost."""

    def __init__(self, report: progress.Report) -> None:
        self._report, self._names = report, list(_STAGES)
        self._began = (time.monotonic(), time.process_time())
        self.seconds: dict[str, float] = {}

    def __call__(self, stage: str, done: float) -> None:
        before = sum(_STAGES[name] for name in self._names[: self._names.index(stage)])
        self._report(stage, before + _STAGES[stage] * done)
        if done >= 1.0:
            now = (time.monotonic(), time.process_time())
            self.seconds[f"seconds_{stage}"] = now[0] - self._began[0]
            self.seconds[f"cpu_seconds_{stage}"] = now[1] - self._began[1]
            self._began = now


def _write_draft(
    data: Dataset,
    draft: Path,
    backbone: str,
    size: tuple[int, int],
    plan: Plan,
    product: str,
    stages: _Stages,
) -> Manifest:
    height, width, channels = data.source
    contract = InputContract(
        height_px=size[0],
        width_px=size[1],
        source_height_px=height,
        source_width_px=width,
        channels=3 if channels == 3 else 1,
        smallest_defect_px=smallest_defect_px(size, (height, width)),
    )
    network, weights = _trained(data, contract, backbone, plan, stages)
    stages("export", 0.0)
    model = export_exact(network, size)
    onnx.save(model, draft / "network.onnx")
    stages("export", 1.0)

    labels, names = segad.grid_segments(size)
    columns = column_names(names, DETECTORS)
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
            answers.features, truth, columns, plan.seed,
            lambda done: stages("forest", 0.5 * len(known) / total + 0.3 * done),
        )  # fmt: skip
        forest.save(draft / "segad.ubj")
    suggested = segad.suggest(margins, truth)
    bundle_files.write_features(draft, answers, truth, known, margins)

    metrics = {f"limits_{name}": value for name, value in suggested.evidence.items()}
    held_out = scorer.score(_frames(data, data.held_out)) if data.held_out else None
    if held_out is not None:
        scores = {"map_max": held_out.map_max, "classification": held_out.classification}
        if forest is not None:
            rows = [forest.margin(row) for row in held_out.features]
            scores["segad"] = np.array(rows, np.float32)
        metrics |= held_out_metrics(scores, [s.label for s in data.held_out], suggested)
    stages("forest", 1.0)

    limits, mean_image = gates.learn(list(_frames(data, (*data.network_good, *data.limits_good))))
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
        provenance=bundle_files.provenance(data, backbone, weights, plan),
    )


def _trained(
    data: Dataset, contract: InputContract, backbone: str, plan: Plan, stages: _Stages
) -> tuple[SuperSimpleNet, Path]:
    torch.manual_seed(plan.seed)
    weights = backbones.packaged_weights(backbone)
    network = SuperSimpleNet(backbones.build(backbone, weights), hidden=plan.hidden, grid=plan.grid)
    channels_last(network.backbone)
    preprocess = Preprocessor(contract)

    def batches() -> Iterator[npt.NDArray[np.float32]]:
        count = len(data.network_good)
        for start in range(0, count, BATCH):
            stages("features", start / count)
            yield preprocess(data.pixels(data.network_good[start : start + BATCH]))

    taps = cache_features(network, batches())
    stages("features", 1.0)
    train_heads(network, taps, plan, lambda done: stages("network", min(done, 0.999)))
    stages("network", 1.0)
    return network, weights


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
    backbone: Annotated[str, typer.Option(help="Frozen feature extractor.")] = "efficientnet_lite0",
    size: Annotated[str, typer.Option(help="Network input, HEIGHTxWIDTH.")] = "256x256",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the images.")] = Plan.epochs,
    seed: Annotated[int, typer.Option(help="Of the split and of the training.")] = 0,
    product: Annotated[str, typer.Option(help="Name of the product; default: the data's.")] = "",
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Train a bundle: SuperSimpleNet on good images, forest and limits on labelled ones."""
    height, sign, width = size.partition("x")
    if not (sign and height.isdecimal() and width.isdecimal()):
        raise ConfigError("--size", "HEIGHTxWIDTH such as 256x256", repr(size))
    dataset = open_dataset(data, seed)
    for note in dataset.notes:
        sys.stderr.write(f"{note}\n")
    with progress.shown() as report:
        train_bundle(
            dataset, out, backbone=backbone, size=(int(height), int(width)), epochs=epochs,
            seed=seed, product=product, progress=report,
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
