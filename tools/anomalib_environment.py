"""A throw-away environment with anomalib, for comparisons; nothing of ours is in it."""

import subprocess
import venv
from pathlib import Path

VERSION = "2.6.0"

# torchvision of the package index is built for CUDA: beside a CPU build of torch its import fails
# until two operators that it looks for are declared. Weights are random, so none are fetched.
PRELUDE = """
import sys, torch
library = torch.library.Library("torchvision", "DEF")
for schema in (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
):
    try:
        library.define(schema)
    except RuntimeError:
        pass
import timm
create_model = timm.create_model
timm.create_model = lambda *args, **kwargs: create_model(*args, **{**kwargs, "pretrained": False})
torch.manual_seed(0)
"""
"""Beginning of a script that is run there."""


def build(folder: Path, version: str = VERSION) -> Path:
    """Make it; its interpreter. Needs the package index and some gigabytes of disk; minutes.

    Raises subprocess.CalledProcessError where pip fails.
    """
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    wanted = ["torch==2.13.0", "torchvision", f"anomalib=={version}", "onnx", "onnxscript"]
    subprocess.run([python, "-m", "pip", "install", "-q", *wanted], check=True)
    return python


def export(python: Path, script: str, name: str, folder: Path) -> Path:
    """Run PRELUDE and `script` there with the arguments `name` and a new folder: what it exported.

    Raises RuntimeError with its last words where it wrote no ONNX file.
    """
    file, out = folder / "export.py", folder / name
    file.write_text(PRELUDE + script)
    done = subprocess.run(
        [python, file, name, out], capture_output=True, text=True, check=False, cwd=folder
    )
    found = sorted(out.rglob("*.onnx"))
    if not found:
        raise RuntimeError((done.stderr.strip().splitlines() or ["nothing said"])[-1])
    return found[0]
