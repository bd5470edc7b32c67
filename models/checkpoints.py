"""Weights of the heads in files: the authors' checkpoints, our own, and a training in progress.

A checkpoint of the authors holds every parameter but the frozen backbone's, under the names that
`SuperSimpleNet` gives them (`weights.pt`). Ours is the same as an NPZ without any pickle, with the
standardisation beside it. Torch files are read with `weights_only`.
"""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from appliance.atomic import write_atomically
from appliance.errors import ConfigError
from models.sampling import Sampler
from models.supersimplenet import SuperSimpleNet

HEADS = "heads.npz"
"""Name of the weights within a bundle."""

_HEADS = ("feature_adaptor.", "discriminator.")
_STANDARDISATION = ("standardise_fine.", "standardise_coarse.")


def read_heads(path: Path) -> dict[str, Tensor]:
    """Parameters of adaptor and heads by name, from the authors' file, our NPZ or a bundle.

    Raises ConfigError naming the file and what is missing in it.
    """
    path = path / HEADS if path.is_dir() else path
    try:
        if path.suffix == ".npz":
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as data:
                stored: Any = {name: torch.from_numpy(data[name]) for name in data.files}
        else:
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as err:
        raise ConfigError(path, "weights of the heads", err.strerror or str(err)) from err
    except Exception as err:  # torch and zipfile raise half a dozen types for a bad file
        raise ConfigError(path, "a torch state dict of tensors, or heads.npz", str(err)) from err
    if not isinstance(stored, dict) or not all(isinstance(v, Tensor) for v in stored.values()):
        raise ConfigError(path, "a torch state dict of tensors", type(stored).__name__)
    heads = {
        str(name): value
        for name, value in stored.items()
        if str(name).startswith(_HEADS + _STANDARDISATION)
    }
    for name in ("feature_adaptor.projection.weight", "discriminator.seg.0.weight"):
        if name not in heads or heads[name].dim() != 4:
            raise ConfigError(
                path, f"the parameter {name} of SuperSimpleNet", _first_names(list(stored))
            )
    return heads


def hidden_of(heads: dict[str, Tensor]) -> int:
    """Channels of the segmentation head that a checkpoint was trained with."""
    return len(heads["discriminator.seg.0.weight"])


def put_heads(network: SuperSimpleNet, heads: dict[str, Tensor], path: Path) -> None:
    """Load the weights into `network`. Raises ConfigError where one is missing or misshapen."""
    wanted = _heads_of(network)
    # The adaptor first: its shape tells best that a checkpoint belongs to another backbone.
    for name in ("feature_adaptor.projection.weight", *wanted):
        value = wanted[name]
        if name not in heads:
            if name.startswith(_STANDARDISATION) or name.endswith("num_batches_tracked"):
                continue  # the authors' features are as the backbone gives them
            raise ConfigError(path, f"the parameter {name}", _first_names(list(heads)))
        if heads[name].shape != value.shape:
            hint = ""
            if name.startswith("feature_adaptor."):
                hint = f" ({len(heads[name])} feature channels; is it another backbone?)"
            raise ConfigError(
                path, f"{name} of {tuple(value.shape)}", f"{tuple(heads[name].shape)}{hint}"
            )
    unknown = sorted(set(heads) - set(wanted))
    if unknown:
        raise ConfigError(path, "parameters of SuperSimpleNet alone", _first_names(unknown))
    network.load_state_dict({name: heads[name] for name in wanted if name in heads}, strict=False)


def save_heads(network: SuperSimpleNet, path: Path) -> None:
    """Adaptor, heads and standardisation as an NPZ."""
    arrays = {name: value.cpu().numpy() for name, value in _heads_of(network).items()}
    np.savez(path, allow_pickle=False, **arrays)


def _heads_of(network: SuperSimpleNet) -> dict[str, Tensor]:
    return {
        name: value
        for name, value in network.state_dict().items()
        if name.startswith(_HEADS + _STANDARDISATION)
    }


def _first_names(names: list[str]) -> str:
    return ", ".join(map(str, names[:3])) + (" …" if len(names) > 3 else "") or "no parameters"


@dataclass(frozen=True)
class Progress:
    """What a training has to remember to go on: all of it changes in place."""

    network: SuperSimpleNet
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    sampler: Sampler
    identity: str
    """What is trained, on what and how; a checkpoint of anything else is not continued."""


def save_progress(path: Path, state: Progress, history: list[Any]) -> None:
    """All of it or nothing, through a power cut too."""
    held = io.BytesIO()
    torch.save(
        {
            "identity": state.identity,
            "history": [dict(epoch) for epoch in history],
            "heads": _heads_of(state.network),
            "optimiser": state.optimiser.state_dict(),
            "schedule": state.schedule.state_dict(),
            "seen": torch.from_numpy(state.sampler.seen),
        },
        held,
    )
    write_atomically(path, held.getvalue())


def load_progress(path: Path, state: Progress) -> list[Any]:
    """Put everything back and return the history; an empty one where there is nothing to go on."""
    if not path.is_file():
        return []
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        identity = stored["identity"]
    except Exception as err:  # noqa: BLE001 - torch raises half a dozen types for a bad file
        sys.stderr.write(f"inspectd: {path} cannot be read ({err}): training starts again\n")
        return []
    if identity != state.identity:
        sys.stderr.write(f"inspectd: {path} is of another training: this one starts at epoch 1\n")
        return []
    state.network.load_state_dict(stored["heads"], strict=False)
    state.optimiser.load_state_dict(stored["optimiser"])
    state.schedule.load_state_dict(stored["schedule"])
    state.sampler.seen[:] = stored["seen"].numpy()
    sys.stderr.write(f"inspectd: training goes on after epoch {len(stored['history'])}\n")
    return stored["history"]
