"""A small installation with recordings that were made without a line, for tests of replay."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from appliance.config import load_config
from appliance.recipe import Limits, Recipe, load_recipe, write_recipe
from tests.networks import write_network_bundle
from tools.recorded_parts import record_parts

T1, T2 = 110.0, 130.0


def part(number: int) -> np.ndarray:
    """(64, 96) uint8: every tenth is one grey, the others hotter with the number, up to NG."""
    rng = np.random.default_rng(number)
    level = 60.0 + number * 47 % 110
    return np.clip(rng.normal(level, 3, (64, 96)), 30, 250).astype(np.uint8)


class Recorded:
    """`config.toml`, the recipes net/1 and net/2 (a lower T2), and what `record` makes."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.config_path = root / "config.toml"
        camera = {"name": "top", "kind": "files", "folder": "x", "record": "all"}
        everything = {
            "root": ".",
            "deadline_ms": 200,
            "camera": [camera],
            "engine": {"kind": "onnx", "threads": 1},
            **settings,
        }
        self.config_path.write_text(tomli_w.dumps(everything))
        self.config = load_config(self.config_path)
        bundle = write_network_bundle(self.config.bundles_dir / "net")
        for version, t2 in ((1, T2), (2, T2 - 10)):
            recipe = Recipe(
                id="net", version=version, bundle=bundle.id, bundle_dir="net",
                decides="map_max", limits=Limits(t1=T1, t2=t2),
            )  # fmt: skip
            write_recipe(self.config, recipe)

    def record(
        self, name: str, numbers: range, picture: Callable[[int], np.ndarray] = part
    ) -> Path:
        """A recording of one part per number."""
        recipe = load_recipe(self.config, "net/1")
        return record_parts(self.config, recipe, map(picture, numbers), name)
