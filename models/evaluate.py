"""`inspectd evaluate`: how well a bundle separates good from bad, through the deployed path.

Merged ONNX graph in ONNX Runtime, then statistics and forest of `appliance`; no torch anywhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple, cast

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import typer

from appliance.bundle import Bundle, InputContract, load_bundle, merged_network
from appliance.errors import ConfigError
from appliance.forest import Forest
from appliance.segments import CLASSIFICATION, SegmentIndex
from models import progress
from models.dataset import open_dataset
from models.export import session
from models.metrics import image_metrics
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
        self._session: onnxruntime.InferenceSession = session(
            merged_network(
                network,
                contract,
                contract.source_height_px,
                contract.source_width_px,
                contract.channels,
            )
        )
        self._index = SegmentIndex(segments, n_segments)
        self._shape = (contract.source_height_px, contract.source_width_px, contract.channels)

    def answer(self, frame: Frames) -> tuple[npt.NDArray[np.float32], np.float32]:
        """One frame (H, W, C) uint8 → map (K, h, w) and score, raw logits."""
        if frame.shape != self._shape or frame.dtype != np.uint8:
            raise ConfigError(
                "frame", f"{self._shape} uint8 as in training", f"{frame.shape} {frame.dtype}"
            )
        answers = self._session.run(["map", "score"], {"frame": frame[None]})
        maps, scores = cast("list[npt.NDArray[np.float32]]", answers)
        return maps[0], scores[0]

    def score(
        self, frames: Iterable[Frames], report: Callable[[int], None] = lambda count: None
    ) -> Answers:
        """All frames, one at a time as on the line; `report` is told how many are done."""
        rows: list[npt.NDArray[np.float32]] = []
        largest: list[np.float32] = []
        scores: list[np.float32] = []
        for frame in frames:
            amap, score = self.answer(frame)
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


def main(
    bundle: Annotated[Path, typer.Argument(help="Bundle directory.")],
    data: Annotated[str, typer.Argument(help="Folder of labelled images, or the word elpv.")],
    seed: Annotated[int, typer.Option(help="Seed of the split; that of the training.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Image AUROC, AP and FPR at 95 % recall of a bundle on the held-out images."""
    manifest = load_bundle(bundle).manifest
    dataset = open_dataset(data, seed)
    held_out = dataset.held_out
    learnt = set(_split_of(bundle))
    leaked = [sample for sample in held_out if sample.sha256 in learnt]
    if leaked:
        raise ConfigError(
            leaked[0].path,
            "held-out images that the bundle has not learnt from",
            f"{len(leaked)} that it has; was the seed {seed} that of the training?",
        )
    with progress.shown() as report:
        frames = (dataset.pixels([sample])[0] for sample in held_out)
        scores = evaluate(
            bundle,
            frames,
            [sample.label for sample in held_out],
            lambda count: report("scoring", count / len(held_out)),
        )
    decides = manifest.suggested.decides if manifest.suggested else None
    answer = {
        "product": manifest.product,
        "images": len(held_out),
        "bad": sum(sample.label for sample in held_out),
        "suggested": decides,
        "scores": scores,
    }
    if json:
        sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
        return
    sys.stdout.write(f"{answer['product']}: {answer['images']} held out, {answer['bad']} bad\n")
    for name, values in scores.items():
        figures = "  ".join(f"{metric} {value:.3f}" for metric, value in values.items())
        sys.stdout.write(f"{name:15} {figures}{'  (suggested)' if name == decides else ''}\n")


def _split_of(bundle: Path) -> list[str]:
    """Hashes of the images that the network, the forest or the limits have seen."""
    path = bundle / "split.json"
    try:
        sets = msgspec.json.decode(path.read_bytes(), type=dict[str, list[str]])
    except OSError:
        return []
    return [digest for name, digests in sets.items() if name != "held_out" for digest in digests]
