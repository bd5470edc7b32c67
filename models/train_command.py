"""`inspectd train`: what may be asked of a training on the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, cast

import msgspec
import typer

from appliance.bundle import load_bundle
from appliance.errors import ConfigError
from appliance.tiles import Tiles
from models import progress
from models.dataset import ENOUGH_BAD, open_dataset
from models.learn import PLANS
from models.network_training import Wishes
from models.supersimplenet import Wiring
from models.targets import REGIMES, Regime
from models.train import Resize, train_bundle


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
    tile: Annotated[
        int,
        typer.Option(
            min=0, help="Cut large images into square tiles of so many pixels; 0 = see them whole."
        ),
    ] = 0,
    overlap: Annotated[int, typer.Option(min=0, help="Of two tiles, in pixels, at least.")] = 64,
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
    every_graph: Annotated[
        bool,
        typer.Option(
            "--every-graph", help="Keep other forms of the network, too; see inspectd engine."
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the split and of the training.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, or cuda.")] = "cpu",
    mixed: Annotated[
        bool | None,
        typer.Option(
            "--mixed/--full",
            help="Convolutions of the heads in bfloat16; default: on a GPU that has it.",
        ),
    ] = None,
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
        backbone=one_of("--backbone", backbone, tuple(PLANS)),
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
        mixed=mixed,
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
            tiles=Tiles(height_px=tile, width_px=tile, overlap_px=overlap) if tile else None,
            classifier=classifier, every_graph=every_graph, progress=shown,
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
