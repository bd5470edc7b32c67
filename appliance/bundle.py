"""A model on disk: one directory for one product that never changes once written.

`manifest.json` holds the SHA-256 of every other file; the bundle's id is the SHA-256 of the
manifest's bytes. `network.onnx` takes float32 NCHW with three channels, 0 to 255, at network size
and gives `map` (N, 1, H, W) and `score` (N,), raw logits. `head.py` puts the frame in front of it.
"""
# The stubs of OpenCV, ONNX and NumPy leave element types open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import hashlib
import io
import math
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from appliance.atomic import write_atomically
from appliance.errors import ArtefactError
from appliance.scores import Decides, Heard, Unit
from appliance.tiles import Grid, Tiles, grid_of
from appliance.toml_file import Section, explain


class InputContract(Section, frozen=True, kw_only=True):
    """What the network was trained on, and how a frame becomes that."""

    height_px: int
    width_px: int
    """Network input."""
    source_height_px: int
    source_width_px: int
    """Training images; a recipe's ROI may have another size."""
    channels: Literal[1, 3]
    """Channels of the source: 1 = grey, 3 = RGB in this order."""
    resize: Literal["area", "authors"] = "area"
    """"area": mean over whole cells, then bilinear; "authors": bilinear alone, as published."""
    smallest_defect_px: float
    """Side of the smallest defect, in source pixels, that still is 3 pixels at the network."""
    tiles: Tiles | None = None
    """How a large frame is cut before the network; None = it is seen as one."""

    @property
    def network_size(self) -> tuple[int, int]:
        """(H, W) of the network's input and of the map that one call gives."""
        return self.height_px, self.width_px

    @property
    def map_size(self) -> tuple[int, int]:
        """(H, W) of the map of a training image, put together from its tiles. Raises
        ArtefactError where tiles, network and training images do not fit."""
        grid = self.grid(self.source_height_px, self.source_width_px)
        return grid.map_size if grid else self.network_size

    def grid(self, height_px: int, width_px: int) -> Grid | None:
        """The tiles of frames of this size; None without tiles. Raises ArtefactError."""
        if self.tiles is None:
            return None
        return grid_of(self.tiles, self.network_size, (height_px, width_px))


class Golden(Section, frozen=True, kw_only=True):
    """A frame and what the network must answer to it."""

    image: str
    """PNG below the bundle, at source size."""
    outputs: str
    """NPZ with `map` (1, H, W) float32 and `score` () float32."""


class GateLimits(Section, frozen=True, kw_only=True):
    """Image health learnt from the good images: outside is ERROR 13, shift is ERROR 21."""

    mean: tuple[float, float]
    """Lowest and highest mean grey value, 0 to 255."""
    saturated: tuple[float, float]
    """Lowest and highest share of pixels at 0 or full scale."""
    focus: tuple[float, float]
    """Lowest and highest variance of the Laplacian."""
    noise: tuple[float, float] | None = None
    """Lowest and highest standard deviation of the sensor's noise, in grey values; None in bundles
    that were trained before it was measured."""
    shift_px: float | None
    """Largest shift against the mean image, in pixels of the source; None where parts are not
    aligned and the gate does not apply."""
    mean_image: str
    """PNG of the mean good image, grey, reduced."""


class Suggested(Section, frozen=True, kw_only=True):
    """What training proposes for the first recipe, and why; raw margins."""

    decides: Decides
    t1: float
    t2: float
    evidence: dict[str, float] = msgspec.field(default_factory=dict[str, float])
    why: str = ""
    """What the held-out gate compared and why it chose, in words."""
    is_forced: bool = False
    """A person chose, against the gate or without asking it."""


class Manifest(Section, frozen=True, kw_only=True):
    """`manifest.json`."""

    format: Literal[1] = 1
    kind: Literal["supersimplenet", "null"]
    product: str
    created_utc: str
    files: dict[str, str]
    """Every other file of the bundle → SHA-256."""
    input: InputContract
    detectors: tuple[str, ...] = ("supersimplenet",)
    """Names of the K maps, in order."""
    segments: tuple[str, ...]
    """Names of the labels 0, 1, 2 … in segments.png; label 255 is ignored."""
    columns: tuple[str, ...]
    """Names of the forest's features, in order; must equal appliance.segments.column_names."""
    forest: str = ""
    """File of the forest; "" = none, `segad` cannot decide."""
    units: dict[Heard, Unit] = msgspec.field(default_factory=dict[Heard, Unit])
    """What the scores count in where their average decides; {} = none, `average` cannot decide."""
    gates: GateLimits | None = None
    golden: tuple[Golden, ...] = ()
    tolerances: dict[str, float] = msgspec.field(
        default_factory=lambda: {"fp32": 1e-3, "bf16": 0.5, "fp16": 0.05, "int8": 1.0}
    )
    """Largest absolute difference of a golden map or score, in logits, by engine precision."""
    suggested: Suggested | None = None
    metrics: dict[str, float] = msgspec.field(default_factory=dict[str, float])
    provenance: dict[str, str] = msgspec.field(default_factory=dict[str, str])

    @property
    def scores(self) -> tuple[Decides, ...]:
        """Those that can decide."""
        has: dict[Decides, bool] = {
            "segad": bool(self.forest), "average": bool(self.units), "map_max": True,
            "classification": True,
        }  # fmt: skip
        return tuple(name for name, is_there in has.items() if is_there)


class Bundle:
    """A bundle whose every file was read and hashed. Loading is the only way to get one."""

    def __init__(self, folder: Path, manifest: Manifest, identity: str) -> None:
        self.folder, self.manifest, self.id = folder, manifest, identity

    def path(self, name: str) -> Path:
        """A file of this bundle."""
        return self.folder / name

    def segment_map(self) -> npt.NDArray[np.uint8]:
        """(H, W) uint8 labels at network size; 255 is ignored."""
        return _read_segments(self.folder, self.manifest)


def load_bundles(folder: Path, wanted: Mapping[str, str]) -> list[Bundle]:
    """Those of a recipe: id → directory below `folder`. Raises as `load_bundle`."""
    return [load_bundle(folder / name, identity) for identity, name in wanted.items()]


def load_bundle(folder: Path, expected_id: str | None = None) -> Bundle:
    """Read the manifest, hash every file, check what belongs together.

    Raises ArtefactError naming the file, what was expected and what came.
    """
    path = folder / "manifest.json"
    try:
        data = path.read_bytes()
    except OSError as err:
        raise ArtefactError(path, "a bundle manifest", err.strerror or str(err)) from err
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.ValidationError as err:
        raise explain(err, path, ArtefactError) from err
    except (msgspec.DecodeError, UnicodeDecodeError) as err:
        raise ArtefactError(path, "JSON", str(err)) from err
    identity = hashlib.sha256(data).hexdigest()
    if expected_id is not None and identity != expected_id:
        raise ArtefactError(path, f"the bundle {expected_id[:12]}…", f"{identity[:12]}…")
    for name, digest in manifest.files.items():
        if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
            raise ArtefactError(path, "file names inside the bundle", repr(name))
        try:
            got = hash_file(folder / name)
        except OSError as err:
            raise ArtefactError(
                folder / name, f"SHA-256 {digest[:12]}…", err.strerror or str(err)
            ) from err
        if got != digest:
            raise ArtefactError(folder / name, f"SHA-256 {digest[:12]}…", f"{got[:12]}…")
    needed = ["segments.png"]
    if manifest.kind != "null":
        needed.append("network.onnx")
    if manifest.forest:
        needed.append(manifest.forest)
    if manifest.gates:
        needed.append(manifest.gates.mean_image)
    for golden in manifest.golden:
        needed += [golden.image, golden.outputs]
    for name in needed:
        if name not in manifest.files:
            raise ArtefactError(path, f"a hash for {name}", "none")
    if manifest.units and not (manifest.forest and manifest.units.keys() == set(get_args(Heard))):
        heard = ", ".join(manifest.units) + (" and a forest" if manifest.forest else ", no forest")
        raise ArtefactError(path, f"units of {' and '.join(get_args(Heard))}, and a forest", heard)
    _read_segments(folder, manifest)
    return Bundle(folder, manifest, identity)


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def finish_bundle(draft: Path, target: Path, manifest: Manifest) -> Bundle:
    """Hash all files below `draft`, write the manifest, move the whole to `target` at once.

    `manifest.files` is filled in here. Raises ArtefactError where `target` exists.
    """
    files = {
        path.relative_to(draft).as_posix(): hash_file(path)
        for path in sorted(draft.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }
    manifest = msgspec.structs.replace(manifest, files=files)
    data = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    write_atomically(draft / "manifest.json", data)
    if target.exists():
        raise ArtefactError(target, "a bundle directory that is not there yet", "an existing one")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(draft, target)
    return load_bundle(target)


def _read_segments(folder: Path, manifest: Manifest) -> npt.NDArray[np.uint8]:
    path = folder / "segments.png"
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    size = manifest.input.map_size
    if labels is None or labels.dtype != np.uint8 or labels.ndim != 2:
        raise ArtefactError(path, "an 8-bit one-channel PNG", "something else")
    if labels.shape != size:
        raise ArtefactError(
            path, f"{size[1]}x{size[0]} labels", f"{labels.shape[1]}x{labels.shape[0]}"
        )
    used = labels[labels != 255]
    if used.size and int(used.max()) >= len(manifest.segments):
        raise ArtefactError(
            path, f"labels below {len(manifest.segments)} or 255", f"label {int(used.max())}"
        )
    return labels.astype(np.uint8, copy=False)


def smallest_defect_px(contract_size: tuple[int, int], source: tuple[int, int]) -> float:
    """Side, in source pixels, of a defect that is 3 pixels wide at the network."""
    scale = max(s / n for s, n in zip(source, contract_size, strict=True))
    return float(math.ceil(3 * max(1.0, scale)))


def golden_outputs(path: Path) -> Mapping[str, npt.NDArray[np.float32]]:
    """`map` and `score` of one golden frame. Raises ArtefactError."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as data:
            return {name: data[name].astype(np.float32) for name in ("map", "score")}
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as err:
        raise ArtefactError(path, "arrays `map` and `score`", str(err)) from err
