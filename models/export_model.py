"""`inspectd export-model`: trained weights, the authors' checkpoints included → a bundle.

With labelled images the bundle is as whole as one from `inspectd train`: forest, limits, image
gates, metrics. Without any it holds the network, one segment and drawn golden frames; limits are
then a person's business.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, cast

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import typer

from appliance.bundle import (
    Golden,
    InputContract,
    Manifest,
    finish_bundle,
    load_bundle,
    smallest_defect_px,
)
from appliance.errors import ArtefactError, ConfigError
from appliance.segments import column_names
from models import backbones, bundle_files, progress
from models.checkpoints import HEADS, hidden_of, put_heads, read_heads, save_heads
from models.dataset import open_dataset
from models.evaluate import Scorer
from models.export import export_exact, save_other_graphs
from models.learn import PLANS
from models.network_training import Trained
from models.supersimplenet import SuperSimpleNet, Wiring
from models.train import (
    DETECTORS,
    Resize,
    Stages,
    contract_of,
    workplace,
    write_draft,
)
from models.train_command import one_of
from models.weights import find_weights

DRAWN_GOLDEN = 6


def load_network(
    weights: Path,
    backbone: str,
    backbone_weights: Path | None = None,
    *,
    wiring: Wiring = "jims",
    grid: int = 2,
    download: bool = False,
) -> Trained:
    """A trained network from the heads' weights and the backbone's. Raises ConfigError."""
    heads = read_heads(weights)
    found = find_weights(backbone, backbone_weights, download=download)
    plan = replace(PLANS[backbone], wiring=wiring, grid=grid, hidden=hidden_of(heads))
    network = SuperSimpleNet(
        backbones.build(backbone, found.path), wiring=wiring, grid=grid, hidden=plan.hidden
    )
    put_heads(network, heads, weights)
    notes: tuple[str, ...] = ()
    if backbone != "efficientnet_lite0" and not found.is_reference:
        notes = (f"{found.path.name} is not torchvision's V1 file: is it the one of the training?",)
    return Trained(network.eval(), backbone, plan, found, [], 0.0, notes)


def write_without_data(draft: Path, contract: InputContract, trained: Trained) -> Manifest:
    """All files of a bundle but its manifest, which is returned, from the network alone."""
    size = (contract.height_px, contract.width_px)
    model = export_exact(trained.network, size)
    onnx.save(model, draft / "network.onnx")
    save_heads(trained.network, draft / HEADS)
    names = ("part",)
    bundle_files.write_segments(draft, np.zeros(size, np.uint8), names)
    scorer = Scorer(model, contract, np.zeros(size, np.uint8), len(names))
    (draft / "golden").mkdir()
    golden: list[Golden] = []
    for number, frame in enumerate(drawn_frames(contract, DRAWN_GOLDEN)):
        golden.append(bundle_files.write_golden_frame(draft, number, frame, scorer))
    return Manifest(
        kind="supersimplenet",
        product=trained.backbone,
        created_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        files={},  # filled in when the bundle is finished
        input=contract,
        detectors=DETECTORS,
        segments=names,
        columns=column_names(names, DETECTORS),
        golden=tuple(golden),
        provenance=bundle_files.described(trained),
    )


def drawn_frames(contract: InputContract, count: int) -> list[npt.NDArray[np.uint8]]:
    """Frames of the source size, (H, W, C) uint8: noise at several scales, the same every time.

    They hold the runtimes of a line to one another; they say nothing about a product.
    """
    rng = np.random.default_rng(0)
    height, width = contract.source_height_px, contract.source_width_px
    frames: list[npt.NDArray[np.uint8]] = []
    for number in range(count):
        cell = 1 << (number + 1)
        coarse = rng.integers(0, 256, (-(-height // cell), -(-width // cell), contract.channels))
        fine = coarse.repeat(cell, axis=0).repeat(cell, axis=1)[:height, :width]
        frames.append(fine.astype(np.uint8))
    return frames


def main(
    weights: Annotated[
        Path, typer.Argument(help="weights.pt of the authors' code, heads.npz, or a bundle.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Bundle directory to write.")],
    backbone: Annotated[
        str, typer.Option(help=f"Frozen feature extractor: {', '.join(PLANS)}.")
    ] = "wide_resnet50_2",
    backbone_weights: Annotated[
        Path | None, typer.Option(help="Its ImageNet weights, V1, as torchvision has them.")
    ] = None,
    download_weights: Annotated[
        bool, typer.Option(help="Fetch those weights once, into the user's cache.")
    ] = False,
    wiring: Annotated[
        str, typer.Option(help="jims (2025) or icpr (2024): which code trained the weights.")
    ] = "jims",
    size: Annotated[tuple[int, int], typer.Option(help="Network input, height width.")] = (
        256,
        256,
    ),
    grid: Annotated[
        int, typer.Option(min=1, max=2, help="Feature grid per 8 pixels; the authors' is 2.")
    ] = 2,
    source: Annotated[
        tuple[int, int] | None, typer.Option(help="Size of the frames; default: that of --size.")
    ] = None,
    channels: Annotated[int, typer.Option(help="Of the frames: 1 grey, 3 RGB.")] = 3,
    resize: Annotated[
        str, typer.Option(help="authors = bilinear alone, as the weights were trained; or area.")
    ] = "authors",
    data: Annotated[
        str, typer.Option(help="Labelled images for limits, forest, gates and metrics.")
    ] = "",
    every_graph: Annotated[
        bool,
        typer.Option(
            "--every-graph", help="Keep other forms of the network, too; see inspectd engine."
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the split of --data.")] = 0,
    product: Annotated[str, typer.Option(help="Name of the product.")] = "",
) -> None:
    """A bundle from trained weights, the authors' checkpoints included."""
    if backbone not in PLANS:
        raise ConfigError("--backbone", f"one of {', '.join(PLANS)}", repr(backbone))
    if min(size) < 32 or channels not in (1, 3):
        raise ConfigError("--size, --channels", "32 32 or more, 1 or 3", f"{size}, {channels}")
    if out.exists():
        raise ArtefactError(out, "a bundle directory that is not there yet", "an existing one")
    resizing = cast("Resize", one_of("--resize", resize, ("area", "authors")))
    trained = load_network(
        weights, backbone, backbone_weights,
        wiring=cast("Wiring", one_of("--wiring", wiring, ("jims", "icpr"))),
        grid=grid, download=download_weights,
    )  # fmt: skip
    for note in trained.warnings:
        sys.stderr.write(f"inspectd: {note}\n")
    with workplace(out) as work:
        draft = work / "draft"
        draft.mkdir(mode=0o755)
        if data:
            dataset = open_dataset(data, seed)
            contract = contract_of(dataset, size, resizing)
            with progress.shown() as report:
                manifest = write_draft(dataset, draft, contract, trained, product, Stages(report))
        else:
            height, width = source or size
            contract = InputContract(
                height_px=size[0],
                width_px=size[1],
                source_height_px=height,
                source_width_px=width,
                channels=1 if channels == 1 else 3,
                resize=resizing,
                smallest_defect_px=smallest_defect_px(size, (height, width)),
            )
            manifest = write_without_data(draft, contract, trained)
        if every_graph:
            save_other_graphs(trained.network, contract.network_size, draft)
        manifest = msgspec.structs.replace(manifest, product=product or manifest.product)
        finish_bundle(draft, out, manifest)
    sys.stdout.write(f"{out}: bundle {load_bundle(out).id[:12]}\n")
