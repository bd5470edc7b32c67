"""`inspectd evaluate`: how well a bundle separates good from bad, through the deployed path.

Merged ONNX graph in ONNX Runtime, then statistics and forest of `appliance`; no torch anywhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple, cast

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import typer

from appliance.bundle import Bundle, InputContract, load_bundle
from appliance.errors import ConfigError
from appliance.forest import Forest
from appliance.head import merged_network
from appliance.scores import average
from appliance.segments import CLASSIFICATION, SegmentIndex
from models import progress, protocols
from models.dataset import Dataset, open_dataset
from models.export import session
from models.metrics import ap_of, auroc_of, image_metrics, interval, pixel_metrics
from models.papers import TABLES
from models.segad import SCORES

Frames = npt.NDArray[np.uint8]


class Answers(NamedTuple):
    """What the network and the statistics say about N frames."""

    features: npt.NDArray[np.float32]
    """(N, n), statistics of the maps in the order of the manifest's columns."""
    map_max: npt.NDArray[np.float32]
    """(N,) largest raw value of the first detector's map outside ignored pixels."""
    classification: npt.NDArray[np.float32]
    """(N,) raw logit."""

    def rows(self, columns: Sequence[str]) -> npt.NDArray[np.float32]:
        """(N, n) what a forest with these columns reads."""
        if CLASSIFICATION not in columns:
            return self.features
        return np.column_stack([self.features, self.classification]).astype(np.float32)


class Scorer:
    """The merged graph and a segment map, ready to score frames of one size."""

    def __init__(
        self,
        network: onnx.ModelProto,
        contract: InputContract,
        segments: npt.NDArray[np.uint8],
        n_segments: int,
    ) -> None:
        size = contract.source_height_px, contract.source_width_px
        self._grid = contract.grid(*size)
        seen = self._grid.tile if self._grid else size
        self._session: onnxruntime.InferenceSession = session(
            merged_network(network, contract, *seen, contract.channels)
        )
        self._index = SegmentIndex(segments, n_segments)
        self._shape = (*size, contract.channels)
        self._map_size = contract.map_size

    def answer(self, frame: Frames) -> tuple[npt.NDArray[np.float32], np.float32]:
        """One frame (H, W, C) uint8 → map (K, h, w) and score, raw logits."""
        if frame.shape != self._shape or frame.dtype != np.uint8:
            raise ConfigError(
                "frame", f"{self._shape} uint8 as in training", f"{frame.shape} {frame.dtype}"
            )
        if self._grid is None:
            return self._answer(frame)
        whole = np.empty((self._detectors(), *self._map_size), np.float32)

        def answer(tiles: Sequence[Frames], maps: Sequence[npt.NDArray[np.float32]]) -> list[float]:
            maps[0][:], score = self._answer(tiles[0])
            return [float(score)]

        return whole, np.float32(self._grid.run(frame, whole, answer))

    def _answer(self, frame: Frames) -> tuple[npt.NDArray[np.float32], np.float32]:
        answers = self._session.run(["map", "score"], {"frame": frame[None]})
        maps, scores = cast("list[npt.NDArray[np.float32]]", answers)
        return maps[0], scores[0]

    def _detectors(self) -> int:
        """Maps that the graph gives."""
        return int(self._session.get_outputs()[0].shape[1])

    def score(
        self,
        frames: Iterable[Frames],
        report: Callable[[int], None] = lambda count: None,
        keep: Callable[[npt.NDArray[np.float32]], None] = lambda amap: None,
    ) -> Answers:
        """All frames, one at a time as on the line; `report` is told how many are done.

        keep: is given each map of the first detector, (h, w).
        """
        rows: list[npt.NDArray[np.float32]] = []
        largest: list[np.float32] = []
        scores: list[np.float32] = []
        for frame in frames:
            amap, score = self.answer(frame)
            keep(amap[0])
            rows.append(self._index.features(amap))
            largest.append(rows[-1][-len(amap)])
            scores.append(score)
            report(len(rows))
        return Answers(np.stack(rows), np.array(largest, np.float32), np.array(scores, np.float32))


def scorer_of(bundle: Bundle) -> Scorer:
    """The deployed path of a loaded bundle."""
    manifest = bundle.manifest
    return Scorer(
        onnx.load(bundle.path("network.onnx")),
        manifest.input,
        bundle.segment_map(),
        len(manifest.segments),
    )


def margins_of(bundle: Bundle, answers: Answers) -> dict[str, npt.NDArray[np.float32]]:
    """Every score that the bundle has → (N,) raw margins."""
    margins = {"map_max": answers.map_max, "classification": answers.classification}
    if bundle.manifest.forest:
        file, hashes = bundle.manifest.forest, bundle.manifest.files
        forest = Forest.load(bundle.path(file), bundle.manifest.columns, hashes[file])
        rows = answers.rows(bundle.manifest.columns)
        margins["segad"] = np.array([forest.margin(row) for row in rows], np.float32)
    if bundle.manifest.units:
        margins["average"] = average(margins, bundle.manifest.units)
    return margins


def evaluate(
    bundle_dir: Path,
    images: Iterable[Frames],
    labels: Sequence[int],
    report: Callable[[int], None] = lambda count: None,
) -> dict[str, dict[str, float]]:
    """Score → `auroc`, `ap`, `fpr95`, for every score that the bundle has.

    images: (H, W, C) uint8 each, of the size that the bundle was trained on. Raises ArtefactError
    on a bundle that cannot be used, ConfigError on unusable images or labels.
    """
    bundle = load_bundle(bundle_dir)
    margins = margins_of(bundle, scorer_of(bundle).score(images, report))
    return {name: image_metrics(labels, margins[name]) for name in SCORES if name in margins}


Scored = tuple[Answers, list[npt.NDArray[np.float32]]]
"""Answers to the held-out images, and the first detector's map of each, (h, w)."""


def score_here(bundle: Bundle, data: Dataset, report: Callable[[int], None]) -> Scored:
    """The held-out images, one after the other in this process."""
    return score_with(scorer_of(bundle), data, report)


def score_with(
    scorer: Scorer, data: Dataset, report: Callable[[int], None] = lambda count: None
) -> Scored:
    """The same with a session that is open already."""
    maps: list[npt.NDArray[np.float32]] = []
    frames = (data.pixels([sample])[0] for sample in data.held_out)
    return scorer.score(frames, report, maps.append), maps


def refuse_learnt(bundle: Bundle, data: Dataset) -> None:
    """Raises ConfigError where the bundle has learnt from an image that is held out here."""
    learnt = set(_split_of(bundle.folder))
    leaked = [sample for sample in data.held_out if sample.sha256 in learnt]
    if leaked:
        raise ConfigError(
            leaked[0].path,
            "held-out images that the bundle has not learnt from",
            f"{len(leaked)} that it has; were seed and split those of the training?",
        )


def judge(
    bundle: Bundle,
    data: Dataset,
    report: Callable[[int], None] = lambda count: None,
    score: Callable[[Bundle, Dataset, Callable[[int], None]], Scored] = score_here,
) -> Judgement:
    """All figures of a bundle on the held-out images. Raises ConfigError where it knows any.

    score: who does the work; the figures are made here.
    """
    refuse_learnt(bundle, data)
    held_out = data.held_out
    answers, maps = score(bundle, data, report)
    margins = margins_of(bundle, answers)
    labels = np.array([sample.label for sample in held_out])
    parts = [sample.part or str(sample.path) for sample in held_out]
    kinds = np.array([sample.kind for sample in held_out])
    scores = {name: image_metrics(labels, margins[name]) for name in SCORES if name in margins}
    return Judgement(
        scores=scores,
        intervals={
            name: {
                figure: interval(metric, labels, margins[name], parts)[1:]
                for figure, metric in (("auroc", auroc_of), ("ap", ap_of))
            }
            for name in scores
        },
        kinds={
            name: {
                str(kind): auroc_of(
                    labels[(labels == 0) | (kinds == kind)],
                    margins[name][(labels == 0) | (kinds == kind)].astype(np.float64),
                )
                for kind in sorted(set(kinds[labels == 1]))
            }
            for name in scores
        },
        pixels=pixels(data, maps),
    )


class Judgement(NamedTuple):
    """Figures of one bundle on images that nothing of it has seen."""

    scores: dict[str, dict[str, float]]
    """Score → figures of `image_metrics`."""
    intervals: dict[str, dict[str, tuple[float, ...]]]
    """Score → AUROC and AP → 95 % interval over parts."""
    kinds: dict[str, dict[str, float]]
    """Score → kind of defect → AUROC of that kind against all good images."""
    pixels: dict[str, float]
    """Figures of `pixel_metrics`; empty where no mask is known."""

    def flat(self) -> dict[str, float]:
        """`SCORE_FIGURE` and the pixels' figures."""
        named = {
            f"{score}_{figure}": value
            for score, figures in self.scores.items()
            for figure, value in figures.items()
        }
        return named | self.pixels


def pixels(data: Dataset, maps: Sequence[npt.NDArray[np.float32]]) -> dict[str, float]:
    """Of the good images and the bad ones with a mask, at network size, masks nearest."""
    chosen: list[npt.NDArray[np.float32]] = []
    masks: list[npt.NDArray[np.uint8]] = []
    for sample, amap in zip(data.held_out, maps, strict=True):
        mask = data.mask(sample)
        if mask is not None:
            size = (amap.shape[1], amap.shape[0])
            masks.append(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST).astype(np.uint8))
            chosen.append(amap)
    if not any(mask.any() for mask in masks):
        return {}
    return pixel_metrics(np.stack(chosen), np.stack(masks))


def main(
    bundle: Annotated[
        Path, typer.Argument(help="Bundle directory; with --protocol a folder of bundles.")
    ],
    data: Annotated[str, typer.Argument(help="Folder of labelled images, or the word elpv.")],
    seed: Annotated[int, typer.Option(help="Seed of the split; that of the training.")] = 0,
    official: Annotated[bool, typer.Option(help="The layout's own test set.")] = False,
    stretch: Annotated[bool, typer.Option(help="Bring images of other sizes to one.")] = False,
    protocol: Annotated[
        str, typer.Option(help=f"Table beside the papers': {', '.join(TABLES)}.")
    ] = "",
    ray: Annotated[
        str, typer.Option(help="Score on a Ray cluster: its address, local or local:N (workers).")
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """How well a bundle separates good from bad held-out images, and finds the defects."""
    score = score_here
    if ray:
        from models.evaluate_cluster import score_on

        score = score_on(ray)
    if protocol:
        with progress.shown() as report:
            table = protocols.measure(
                protocol, bundle, Path(data),
                lambda one, images: judge(
                    one, images,
                    lambda count: report(one.folder.name, count / len(images.held_out)),
                    score,
                ).flat(),
            )  # fmt: skip
        text = msgspec.json.encode(table).decode() + "\n" if json else protocols.as_text(table)
        sys.stdout.write(text)
        return
    loaded = load_bundle(bundle)
    dataset = open_dataset(data, seed, official=official, stretch=stretch or None)
    held_out = dataset.held_out
    with progress.shown() as report:
        judged = judge(
            loaded, dataset, lambda count: report("scoring", count / len(held_out)), score
        )
    manifest = loaded.manifest
    decides = manifest.suggested.decides if manifest.suggested else None
    answer = {
        "product": manifest.product,
        "images": len(held_out),
        "bad": sum(sample.label for sample in held_out),
        "suggested": decides,
        **judged._asdict(),
    }
    if json:
        sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
        return
    sys.stdout.write(f"{answer['product']}: {answer['images']} held out, {answer['bad']} bad\n")
    for name, values in judged.scores.items():
        figures = "  ".join(f"{metric} {value:.3f}" for metric, value in values.items())
        low, high = judged.intervals[name]["auroc"]
        sys.stdout.write(f"{name:15} {figures}  auroc 95 % {low:.3f} to {high:.3f}")
        sys.stdout.write(f"{'  (suggested)' if name == decides else ''}\n")
    for kind, value in judged.kinds[decides or "map_max"].items():
        sys.stdout.write(f"  {kind:13} auroc {value:.3f}\n")
    if judged.pixels:
        figures = "  ".join(f"{metric} {value:.3f}" for metric, value in judged.pixels.items())
        sys.stdout.write(f"{'pixels':15} {figures}\n")


def _split_of(bundle: Path) -> list[str]:
    """Hashes of the images that the network, the forest or the limits have seen."""
    path = bundle / "split.json"
    try:
        sets = msgspec.json.decode(path.read_bytes(), type=dict[str, list[str]])
    except OSError:
        return []
    return [digest for name, digests in sets.items() if name != "held_out" for digest in digests]
