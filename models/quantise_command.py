"""`inspectd quantise`: a bundle → a new one with `network.int8.onnx`, or no, and why.

Calibrated on the good images that the network was trained on; layers are chosen on the good images
of the limits; the report is made on images that neither saw. What drifts, loses AUROC or flips
verdicts beyond the stated limits is refused: nothing is written.
"""

from __future__ import annotations

import math
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import typer

from appliance.bundle import Bundle, finish_bundle, golden_outputs, load_bundle
from appliance.errors import ArtefactError, ConfigError
from appliance.toml_file import Section
from models import progress
from models.dataset import Dataset, Sample, open_dataset, read_image
from models.evaluate import Scorer, margins_of, refuse_learnt
from models.export import Preprocessor
from models.metrics import image_metrics
from models.quantise import Quantiser, choose
from models.tiles import tiled

AUROC_DROP, MARGIN_SIGMAS, FLIPS = 0.01, 0.10, 0.01
"""Largest loss of AUROC; 99th percentile of the margin's change, in standard deviations of the good
images' margins; share of held-out parts with another verdict at the suggested limits."""

_CALIBRATION, _CHOICE = 64, 60
"""Good images, or tiles of them, that layers are fitted to; good and, where known, bad ones that
layers are chosen by. None of them is held out."""
_ROOM = 0.7
"""Share of the limit that the choice of layers may use up: other images drift a little more."""
_RUNS = 20
Margins = npt.NDArray[np.float32]


class Accuracy(Section, frozen=True, kw_only=True):
    """`int8.json`: what int8 costs, on held-out images; margins of the score that decides."""

    decides: str
    images: int
    auroc_fp32: float
    auroc_int8: float
    ap_fp32: float
    ap_int8: float
    margin_p99_sigmas: float
    flips: float
    left_out: tuple[str, ...]
    """Convolutions that stay float."""
    layers: int
    """Convolutions in all."""
    speed: float
    """Time of int8 ÷ time of float, ONNX Runtime, this machine, all cores."""
    golden_deviation: float
    """Largest difference on the golden frames, logits."""

    def objections(self) -> list[str]:
        """Which limits are broken, in words; none = it may be promoted."""
        checks = (
            ("AUROC drop", self.auroc_fp32 - self.auroc_int8, AUROC_DROP),
            ("p99 of the margin's change, in σ of the good", self.margin_p99_sigmas, MARGIN_SIGMAS),
            ("flipped verdicts", self.flips, FLIPS),
        )
        return [
            f"{what}: expected at most {limit:g}, got {value:.3g}"
            for what, value, limit in checks
            if not value <= limit
        ]


def compare(
    labels: Sequence[int], whole: Margins, small: Margins, limits: tuple[float, float]
) -> dict[str, float]:
    """AUROC and AP of both, the margin's change and the flips. Margins: (N,); limits: T1, T2."""
    truth = np.asarray(labels)
    before, after = image_metrics(truth, whole), image_metrics(truth, small)
    return {
        "auroc_fp32": before["auroc"],
        "auroc_int8": after["auroc"],
        "ap_fp32": before["ap"],
        "ap_int8": after["ap"],
        "margin_p99_sigmas": change(whole, small, whole[truth == 0]),
        "flips": float((np.digitize(whole, limits) != np.digitize(small, limits)).mean()),
    }


def change(whole: Margins, small: Margins, good: Margins) -> float:
    """99th percentile of |change|, in standard deviations of the good images' margins."""
    sigma = float(np.std(good))
    return float(np.quantile(np.abs(whole - small), 0.99)) / sigma if sigma > 0 else math.inf


def quantise_bundle(
    bundle: Bundle, data: Dataset, out: Path, report: progress.Report = progress.ignore
) -> Accuracy:
    """Write `out`: the bundle, its int8 network and the accuracy report.

    Raises ArtefactError where a limit is broken or `out` exists, ConfigError where the images are
    not those of the bundle or it has learnt from what shall be the proof; then nothing is written.
    """
    if out.exists():
        raise ArtefactError(out, "a bundle directory that is not there yet", "an existing one")
    manifest = bundle.manifest
    suggested = manifest.suggested
    if suggested is None or not data.held_out:
        raise ArtefactError(bundle.path("manifest.json"), "limits and held-out images", "none")
    contract = manifest.input
    source = (contract.source_height_px, contract.source_width_px, contract.channels)
    if data.source != source:
        raise ConfigError(data.name, f"images of {source} as in training", f"{data.source}")
    refuse_learnt(bundle, data)
    network = onnx.load(bundle.path("network.onnx"))
    report("calibration", 0.0)
    quantiser = Quantiser(network, _inputs(bundle, data))
    decides = suggested.decides

    def margins(model: onnx.ModelProto, samples: Sequence[Sample], score: str) -> Margins:
        scorer = Scorer(model, manifest.input, bundle.segment_map(), len(manifest.segments))
        return margins_of(bundle, scorer.score(_frames(data, samples)))[score]

    # The forest's margin jumps where a tree splits: layers are chosen by the map that it reads.
    chosen_by = "map_max" if decides in ("segad", "average") else decides
    seen = (*data.limits_good[:_CHOICE], *data.limits_bad[:_CHOICE])
    truth = margins(network, seen, chosen_by)
    good = truth[: len(data.limits_good[:_CHOICE])]
    small, left_out, _ = choose(
        quantiser,
        lambda model: change(truth, margins(model, seen, chosen_by), good),
        _ROOM * MARGIN_SIGMAS,
        lambda done: report("layers", 0.1 + 0.6 * done),
    )
    report("report", 0.7)
    held_out = data.held_out
    figures = compare(
        [sample.label for sample in held_out],
        margins(network, held_out, decides),
        margins(small, held_out, decides),
        (suggested.t1, suggested.t2),
    )
    deviation, speed = _golden_and_speed(bundle, network, small)
    accuracy = Accuracy(
        decides=decides,
        images=len(held_out),
        left_out=tuple(left_out),
        layers=len(quantiser.layers),
        golden_deviation=deviation,
        speed=speed,
        **figures,
    )
    if objections := accuracy.objections():
        raise ArtefactError("network.int8.onnx", "int8 within its limits", "; ".join(objections))
    _write(bundle, small, accuracy, out)
    report("done", 1.0)
    return accuracy


def _write(bundle: Bundle, small: onnx.ModelProto, accuracy: Accuracy, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    draft.chmod(0o755)
    try:
        for name in bundle.manifest.files:
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.path(name), draft / name)
        onnx.save(small, draft / "network.int8.onnx")
        told = msgspec.json.format(msgspec.json.encode(accuracy), indent=1)
        (draft / "int8.json").write_bytes(told)
        # Twice what this machine showed: another runtime rounds int8 in other places.
        tolerance = max(1e-3, 2 * accuracy.golden_deviation)
        manifest = msgspec.structs.replace(
            bundle.manifest,
            tolerances={**bundle.manifest.tolerances, "int8": tolerance},
            provenance={**bundle.manifest.provenance, "int8_from_bundle": bundle.id},
        )
        finish_bundle(draft, out, manifest)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _inputs(bundle: Bundle, data: Dataset) -> Iterator[npt.NDArray[np.float32]]:
    seen, contract = tiled(data, bundle.manifest.input)
    good = seen.network_good
    if seen is not data:  # tiles of one image lie side by side
        good = [good[index] for index in np.random.default_rng(0).permutation(len(good))]
    preprocess = Preprocessor(contract)
    for frame in _frames(seen, good[:_CALIBRATION]):
        yield preprocess(frame[None])


def _frames(data: Dataset, samples: Sequence[Sample]) -> Iterator[npt.NDArray[np.uint8]]:
    for sample in samples:
        yield data.pixels([sample])[0]


def _golden_and_speed(
    bundle: Bundle, network: onnx.ModelProto, small: onnx.ModelProto
) -> tuple[float, float]:
    """Largest difference of int8 on the golden frames; its time ÷ that of float, in turn."""
    manifest = bundle.manifest
    contract = manifest.input
    source = (contract.source_height_px, contract.source_width_px, contract.channels)
    scorers = [
        Scorer(model, contract, bundle.segment_map(), len(manifest.segments))
        for model in (network, small)
    ]
    frame = np.zeros(source, np.uint8)
    deviation = 0.0
    for golden in manifest.golden:
        frame = read_image(bundle.path(golden.image)).reshape(source)
        stored = golden_outputs(bundle.path(golden.outputs))
        amap, score = scorers[1].answer(frame)
        deviation = max(
            deviation,
            float(np.abs(amap - stored["map"]).max()),
            abs(float(score) - float(stored["score"].reshape(-1)[0])),
        )
    ratios: list[float] = []
    for _ in range(_RUNS):
        times: list[float] = []
        for scorer in scorers:
            begun = time.perf_counter()
            scorer.answer(frame)
            times.append(time.perf_counter() - begun)
        ratios.append(times[1] / times[0])
    return deviation, round(float(np.median(ratios)), 3)


def main(
    bundle: Annotated[Path, typer.Argument(help="Bundle directory; it stays as it is.")],
    data: Annotated[str, typer.Argument(help="The images that it was trained on, or elpv.")],
    out: Annotated[Path, typer.Option("--out", help="Bundle directory to write.")],
    seed: Annotated[int, typer.Option(help="Seed of the split; that of the training.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Add an int8 network to a copy of a bundle, with an accuracy report; exit 1 if refused."""
    loaded = load_bundle(bundle)
    stretch = loaded.manifest.provenance.get("stretch") == "True"
    dataset = open_dataset(data, seed, stretch=stretch or None)
    try:
        with progress.shown() as report:
            accuracy = quantise_bundle(loaded, dataset, out, report)
    except ArtefactError as err:
        if err.where != "network.int8.onnx":
            raise
        sys.stderr.write(f"inspectd: refused: {err.got}\n")
        raise typer.Exit(1) from err
    if accuracy.speed >= 1:
        sys.stderr.write(
            f"inspectd: in ONNX Runtime int8 takes {accuracy.speed:.2f} of float's time here: "
            "it is for OpenVINO and TensorRT\n"
        )
    if json:
        sys.stdout.write(msgspec.json.encode(accuracy).decode() + "\n")
        return
    for name, value in msgspec.structs.asdict(accuracy).items():
        sys.stdout.write(f"{name:20} {value}\n")
