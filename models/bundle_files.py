"""What a bundle holds beside the network and the forest: segments, features, golden frames, origin.

Files are written into a draft directory; `train.py` turns it into a bundle or drops it.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from appliance.bundle import Golden
from appliance.errors import ConfigError
from models import segad
from models.dataset import Dataset, Sample
from models.evaluate import Scorer
from models.network_training import Trained

_BUILT = ("plan_grid", "plan_hidden")
"""What the network looks like, whoever trained it."""

GOLDEN_FRAMES = 24
"""Half good, half bad where there are that many; from the images of the limits, which the network
has not learnt from."""


def write_segments(draft: Path, labels: npt.NDArray[np.uint8], names: tuple[str, ...]) -> None:
    """segments.png and segments.json: (H, W) uint8 labels, and their names in order."""
    write_png(draft / "segments.png", labels)
    colours = msgspec.json.encode(segad.segment_colours(names))
    (draft / "segments.json").write_bytes(msgspec.json.format(colours, indent=1))


def write_features(
    draft: Path,
    features: npt.NDArray[np.float32],
    truth: npt.NDArray[np.int64],
    known: tuple[Sample, ...],
    margins: dict[str, npt.NDArray[np.float32]],
) -> None:
    """What the forest learnt from, and the good images' margins as the reference for drift."""
    (draft / "features").mkdir()
    np.savez_compressed(
        draft / "features" / "limits.npz",
        features=features,
        labels=truth.astype(np.uint8),
        sha256=np.array([sample.sha256 for sample in known]),
    )
    good = {name: values[truth == 0] for name, values in margins.items()}
    np.savez_compressed(draft / "baseline.npz", allow_pickle=False, **good)


def write_golden(draft: Path, data: Dataset, scorer: Scorer) -> tuple[Golden, ...]:
    """Frames with the answers of the merged graph in ONNX Runtime."""
    (draft / "golden").mkdir()
    bad = data.limits_bad[: GOLDEN_FRAMES // 2]
    good = data.limits_good[: GOLDEN_FRAMES - len(bad)]
    golden: list[Golden] = []
    for number, sample in enumerate((*good, *bad)):
        golden.append(write_golden_frame(draft, number, data.pixels([sample])[0], scorer))
    return tuple(golden)


def write_golden_frame(
    draft: Path, number: int, frame: npt.NDArray[np.uint8], scorer: Scorer
) -> Golden:
    """One frame (H, W, C) uint8 and what the network answers to it."""
    amap, score = scorer.answer(frame)
    name = f"golden/{number:02d}"
    write_png(draft / f"{name}.png", frame)
    np.savez_compressed(draft / f"{name}.npz", map=amap, score=score)
    return Golden(image=f"{name}.png", outputs=f"{name}.npz")


def write_png(path: Path, image: npt.NDArray[np.uint8]) -> None:
    """(H, W) or (H, W, 1) grey, (H, W, 3) RGB, uint8. Raises ConfigError where it cannot."""
    is_colour = image.ndim == 3 and image.shape[2] == 3
    stored = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if is_colour else image
    if not cv2.imwrite(str(path), stored):
        raise ConfigError(path, "a place to write an image", "no file could be written")


def learnt_by_network(folder: Path) -> frozenset[str]:
    """SHA-256 of the images that a bundle's network has learnt from; empty where none are told."""
    path = folder / "split.json"
    if not path.exists():
        return frozenset()
    sets = msgspec.json.decode(path.read_bytes(), type=dict[str, list[str]])
    return frozenset(d for name, each in sets.items() if name.startswith("network") for d in each)


def provenance(data: Dataset, trained: Trained) -> dict[str, str]:
    """Where a bundle comes from: data, weights, settings, versions."""
    counts = {f"images_{name}": str(len(samples)) for name, samples in data.sets().items()}
    return {
        "data": data.name,
        "notes": "; ".join(data.notes),
        "regime": trained.plan.regime,
        "fold": str(data.fold),
        "stretch": str(data.stretch),
        **described(trained),
        **counts,
    }


def described(trained: Trained) -> dict[str, str]:
    """The network's own part of it."""
    plan = {f"plan_{name}": str(value) for name, value in vars(trained.plan).items()}
    versions = {
        f"version_{name}": importlib.metadata.version(name)
        for name in ("torch", "onnx", "onnxruntime", "xgboost-cpu", "numpy")
    }
    return {
        "wiring": trained.plan.wiring,
        "backbone": trained.backbone,
        "backbone_sha256": trained.weights.sha256,
        "feature_spread": f"{trained.spread:.4f}",
        "warnings": "; ".join(trained.warnings),
        **{name: value for name, value in plan.items() if trained.history or name in _BUILT},
        **versions,
    }
