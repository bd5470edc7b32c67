"""A small installation with recordings that were made without a line, for tests of replay."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from typer.testing import CliRunner

from appliance.__main__ import app
from appliance.config import Config, load_config
from appliance.errors import ConfigError
from appliance.recipe import Limits, Recipe, load_recipe, write_recipe
from appliance.service import EXIT_CONFIG, EXIT_DONE
from tests.networks import write_network_bundle
from tools.recorded_parts import record_parts

T1, T2 = 110.0, 130.0


def part(number: int) -> np.ndarray:
    """(64, 96) uint8: every tenth is one grey, the others hotter with the number, up to NG."""
    rng = np.random.default_rng(number)
    level = 60.0 + number * 47 % 110
    return np.clip(rng.normal(level, 3, (64, 96)), 30, 250).astype(np.uint8)


def replayed(config: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """`inspectd replay … --json`: exit code, object, standard error."""
    done = CliRunner().invoke(app, ["replay", *arguments, "--json", "--config", str(config)])
    if isinstance(done.exception, ConfigError):
        return EXIT_CONFIG, {}, f"{done.stderr}{done.exception}"
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    return done.exit_code, json.loads(done.stdout) if done.stdout else {}, done.stderr


def check_replay(config: Config, parts: int) -> None:
    """All recordings of an installation give their verdicts again, figure by figure."""
    recordings = [str(path) for path in sorted(config.recordings_dir.iterdir())]
    config_path = str(config.root_dir / "config.toml")
    code, answer, errors = replayed(Path(config_path), *recordings)
    assert code == EXIT_DONE, errors
    found = answer["replay"]
    assert found["compared"] == found["equal"] == parts, errors
    assert found["lost_messages"] == found["lost_pictures"] == 0
    assert found["not_compared"] == {}


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
