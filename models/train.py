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
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt
import onnx

from appliance import image_gates
from appliance.bundle import (
    InputContract,
    Manifest,
    Suggested,
    finish_bundle,
    smallest_defect_px,
)
from appliance.errors import ArtefactError, ConfigError
from appliance.scores import average
from appliance.segments import column_names
from appliance.tiles import Tiles
from models import backbones, bundle_files, gate, progress, report, segad
from models.checkpoints import HEADS, save_heads
from models.classifier import Classifier, WithClassifier, fine_tune
from models.dataset import Dataset, Sample
from models.evaluate import Scorer, pixels
from models.export import Preprocessor, export_exact, save_other_graphs, to_onnx
from models.network_training import Trained, Wishes, train_network
from models.pictures import Shape
from models.targets import defect_sides
from models.tiles import tiled

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
    tiles: Tiles | None = None,
    classifier: bool = False,
    every_graph: bool = False,
    segments: tuple[npt.NDArray[np.uint8], tuple[str, ...]] | None = None,
    progress: progress.Report = progress.ignore,
) -> Path:
    """Train and write the bundle directory `out`; returns `out`.

    size: network input (H, W), at least 32 each. product: "" = the data's name. wishes: all that
    may be asked of the network's training, in place of backbone, epochs and seed. tiles: how large
    images are cut for the network, with `size` the input for one tile. classifier: fine-tune a
    backbone on good and bad images as the score, which the forest reads too. every_graph: see
    `other_graphs`. segments: the map (H, W) and its names; None = a grid of 3x3. A training that
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
    contract = contract_of(data, size, resize, tiles)
    if tiles is not None and classifier:
        raise ConfigError("--classifier", "images that are not cut into tiles", f"{tiles}")
    if every_graph and classifier:
        raise ConfigError("--every-graph", "a bundle without --classifier", "both")
    lost = small_defects(data, contract)
    if lost:
        sys.stderr.write(f"inspectd: {lost}\n")
    stages = Stages(progress)
    with workplace(out) as work:
        draft = work / "draft"
        draft.mkdir(mode=0o755)  # the bundle's mode from now on: the line runs as another user
        trained = train_network(
            *tiled(data, contract), wishes, checkpoint=work / "checkpoint.pt", progress=stages
        )
        supervised = _classifier(data, contract, wishes, trained, stages) if classifier else None
        manifest = write_draft(
            data, draft, contract, trained, product, stages, supervised, segments
        )
        if every_graph:
            save_other_graphs(trained.network, contract.network_size, draft)
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


def contract_of(
    data: Dataset, size: tuple[int, int], resize: Resize, tiles: Tiles | None = None
) -> InputContract:
    """How images of this data become inputs of `size`; says where small defects would be lost.

    Raises ConfigError where tiles, size and images do not fit.
    """
    height, width, channels = data.source
    seen = (height, width) if tiles is None else (tiles.height_px, tiles.width_px)
    contract = InputContract(
        height_px=size[0],
        width_px=size[1],
        source_height_px=height,
        source_width_px=width,
        channels=3 if channels == 3 else 1,
        resize=resize,
        smallest_defect_px=smallest_defect_px(size, seen),
        tiles=tiles,
    )
    contract.grid(height, width)
    return contract


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
        f"pixels of the network's input: a larger --size or --tile would show them"
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
    segments: tuple[npt.NDArray[np.uint8], tuple[str, ...]] | None = None,
) -> Manifest:
    """All files of a bundle but its manifest, which is returned; `draft` is an empty directory."""
    network, size = trained.network, contract.network_size
    stages("export", 0.0)
    if classifier is None:
        model = export_exact(network, size)
    else:
        model = to_onnx(WithClassifier(network, classifier, size), size)
    onnx.save(model, draft / "network.onnx")
    save_heads(network, draft / HEADS)
    stages("export", 1.0)

    labels, names = segments or segad.grid_segments(contract.map_size)
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
    forest, folds = None, None
    if int(truth.sum()) >= segad.FOLDS <= int((1 - truth).sum()):
        forest, margins["segad"], folds = segad.fit_with_margins(
            answers.rows(columns), truth, columns, trained.plan.seed,
            lambda done: stages("forest", 0.5 * len(known) / total + 0.3 * done),
        )  # fmt: skip
        forest.save(draft / "segad.ubj")
    provenance = bundle_files.provenance(data, trained)
    if classifier is not None:
        provenance["classifier"] = f"{trained.backbone}, focal loss"
    margins, units = segad.with_average(margins, truth)
    suggested = segad.suggest(margins, truth, folds=folds, usual=gate.usual_score(provenance))
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
        if units:
            scores["average"] = average(scores, units)
        metrics |= segad.held_out_metrics(scores, [s.label for s in data.held_out], suggested)
        metrics |= pixels(data, maps)
        scored = replace(scored, samples=data.held_out, margins=scores)
    stages("forest", 1.0)

    report.write_report(
        draft / "report.html", product or data.name, _facts(provenance, metrics, suggested),
        trained.history, scored, data, scorer,
    )  # fmt: skip
    frames = _frames(data, _thinned((*data.network_good, *data.limits_good), data.source))
    limits, mean_image = image_gates.learn(list(frames))
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
        units=units,
        gates=limits,
        golden=golden,
        suggested=suggested,
        metrics=metrics | {name: round(value, 2) for name, value in stages.seconds.items()},
        provenance=provenance,
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


def _frames(data: Dataset, samples: tuple[Sample, ...]) -> Iterator[npt.NDArray[np.uint8]]:
    for sample in samples:
        yield data.pixels([sample])[0]
