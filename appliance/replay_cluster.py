"""Recordings played by many workers, each with one engine; their reports are added up."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from appliance.cluster import deal
from appliance.config import Config, load_config
from appliance.errors import AddressInUse, ConfigError
from appliance.replay_command import Options, play_one
from appliance.replay_infer import Engines
from appliance.replay_report import Report
from appliance.supervise import check_addresses


def play_on_cluster(
    recordings: Sequence[Path], options: Options, config: Config, address: str
) -> Iterator[Report]:
    """A report per recording, in their order. Raises ConfigError, on a box whose line runs, too."""
    try:
        check_addresses(config)
    except AddressInUse as err:
        raise ConfigError("--ray", "a machine that runs no line", str(err)) from err
    calls = [(str(path.resolve()), options) for path in recordings]
    return deal(_play, calls, address)


def _play(call: tuple[str, Options]) -> Report:
    path, options = call
    config, engines = _installation(options.config)
    return play_one(Path(path), options, config, engines)


@lru_cache(maxsize=1)
def _installation(path: str) -> tuple[Config, Engines]:
    """Of this worker, as long as it lives: one engine, proved once."""
    config = load_config(Path(path))
    return config, Engines(config)
