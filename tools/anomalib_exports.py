"""Are anomalib's own ONNX exports usable as detectors? Tried with the real library.

Installs anomalib in a throw-away virtual environment, builds PatchCore, FastFlow, Reverse
Distillation and EfficientAD with random weights (only shape, order and loading are looked at),
exports each with anomalib's own code, and writes each into a small network's graph with
`models.detectors`. Needs the package index and some gigabytes of disk; minutes. Not part of the
tests, which use graphs in the same layout.

    .venv/bin/python -m tools.anomalib_exports
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from appliance.errors import ConfigError
from models.detectors import Adapter, with_detector
from models.export import export_exact, session
from models.graphs import map_count
from tools import anomalib_environment

SIZE = (256, 256)

MODELS = ("patchcore", "fastflow", "reverse_distillation", "efficient_ad")

# Runs inside the other environment, where nothing of ours is installed.
_EXPORT = """
name, out = sys.argv[1], sys.argv[2]
from anomalib.models import EfficientAd, Fastflow, Patchcore, ReverseDistillation
make = {
    "patchcore": lambda: Patchcore(pre_trained=False),
    "fastflow": lambda: Fastflow(pre_trained=False),
    "reverse_distillation": lambda: ReverseDistillation(pre_trained=False),
    "efficient_ad": EfficientAd,
}[name]
model = make()
if name == "patchcore":  # an empty memory has no nearest neighbour
    with torch.no_grad():
        features = model.model.eval().feature_extractor(torch.zeros(1, 3, 256, 256))
        channels = sum(each.shape[1] for each in features.values())
    model.model.memory_bank = torch.rand(64, channels)
model.eval()
print(model.to_onnx(out, input_size=(256, 256)))
"""


def main(
    python: Annotated[
        Path | None, typer.Option(help="Interpreter that has anomalib; default: a new environment.")
    ] = None,
    version: Annotated[str, typer.Option(help="Of anomalib.")] = anomalib_environment.VERSION,
    only: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(MODELS)}.")] = None,
) -> None:
    """One line per model; exit code 1 where one of them cannot be a detector."""
    failed = False
    with tempfile.TemporaryDirectory(prefix="insp") as folder:
        root = Path(folder)
        interpreter = python or anomalib_environment.build(root / "venv", version)
        for name in only or MODELS:
            begun = time.monotonic()
            said = _tried(interpreter, root, name)
            failed = failed or not said.startswith("works")
            sys.stdout.write(f"{name:22} {time.monotonic() - begun:6.0f} s  {said}\n")
            sys.stdout.flush()
    raise typer.Exit(1 if failed else 0)


def _tried(python: Path, root: Path, name: str) -> str:
    try:
        found = anomalib_environment.export(python, _EXPORT, name, root)
    except RuntimeError as err:
        return f"anomalib did not export it: {err}"
    from models.backbones import untrained
    from models.supersimplenet import SuperSimpleNet

    network = export_exact(
        SuperSimpleNet(untrained("efficientnet_lite0"), hidden=16, grid=1).eval(), SIZE
    )
    adapter = Adapter(name=name, file=str(found), normalised=True)
    try:
        joined = with_detector(network, adapter, SIZE)
    except ConfigError as err:
        return f"refused: {err}"
    image = np.random.default_rng(0).uniform(0, 255, (1, 3, *SIZE)).astype(np.float32)
    amap = np.asarray(session(joined).run(["map"], {joined.graph.input[0].name: image})[0])
    low, high = float(amap[:, 1].min()), float(amap[:, 1].max())
    return f"works: {map_count(joined)} maps {amap.shape[2:]}, its own from {low:.3g} to {high:.3g}"


if __name__ == "__main__":
    typer.run(main)
