"""`inspectd segad`: what may be asked of a refit on the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, cast

import msgspec
import typer

from appliance.bundle import load_bundle
from appliance.scores import Decides
from models import progress, segad
from models.dataset import open_dataset
from models.detectors import read_adapters
from models.refit import Wish, helps, refit


def main(
    bundle: Annotated[Path, typer.Argument(help="Bundle directory; it stays as it is.")],
    data: Annotated[str, typer.Argument(help="Folder of labelled images, or the word elpv.")],
    out: Annotated[Path, typer.Option(help="Directory of the new bundle; must not exist.")],
    segments: Annotated[
        Path | None,
        typer.Option(help="PNG of labels or colours, its JSON beside it; default: as it was."),
    ] = None,
    with_memory: Annotated[
        bool, typer.Option("--memory", help="Add the nearest-neighbour memory as a detector.")
    ] = False,
    detectors: Annotated[
        Path | None, typer.Option(help="TOML with [[detector]] tables: ONNX models to add.")
    ] = None,
    classification: Annotated[
        bool, typer.Option("--classification", help="The forest reads the classification logit.")
    ] = False,
    bad: Annotated[
        int | None, typer.Option(min=0, help="Use only so many labelled bad images (low-shot).")
    ] = None,
    generated: Annotated[
        bool, typer.Option("--generated", help="Make the bad images from good ones (one-class).")
    ] = False,
    force: Annotated[
        str | None,
        typer.Option(help=f"Let {', '.join(segad.SCORES)} decide whatever the gate says."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the split (that of the training) and more.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Fit the SegAD forest of a bundle into a new bundle, and ask the held-out gate about it.

    Exit code 1 where the gate says that the forest does not help: the new bundle is written all
    the same and suggests the better score.
    """
    if force is not None and force not in segad.SCORES:
        raise typer.BadParameter(f"--force: expected one of {', '.join(segad.SCORES)}, got {force}")
    loaded, dataset = load_bundle(bundle), open_dataset(data, seed)
    wish = Wish(
        segments=segments,
        memory=with_memory,
        detectors=() if detectors is None else read_adapters(detectors),
        classification=classification,
        bad=bad,
        generated=generated,
        force=cast("Decides | None", force),
        seed=seed,
    )
    with progress.shown() as report:
        made = refit(loaded, dataset, out, wish, report)
    suggested = made.manifest.suggested
    assert suggested is not None
    if as_json:
        answer = {"bundle": made.id, "suggested": suggested, "metrics": made.manifest.metrics}
        sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
    else:
        detectors_now = ", ".join(made.manifest.detectors)
        sys.stdout.write(f"{out}: bundle {made.id[:12]}, detectors {detectors_now}\n")
        sys.stdout.write(f"decides {suggested.decides}: {suggested.why}\n")
        sys.stdout.write(f"OK below {suggested.t1:.3f}, NG from {suggested.t2:.3f}\n")
        for name in ("image_auroc", "escapes", "overkill", "uncertain"):
            if name in made.manifest.metrics:
                sys.stdout.write(f"held out: {name} {made.manifest.metrics[name]:.3f}\n")
    raise typer.Exit(0 if helps(suggested) else 1)
