"""Recordings played on many machines with Ray: one engine per worker, the reports added up.

The only room that knows Ray. Never on a line box. Merging is adding, in the order of the
recordings, so the answer is the one that a single process gives. A lost worker is tried again.
"""
# Ray's decorators hide the types of what they wrap.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingImports=false, reportUntypedFunctionDecorator=false

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.config import load_config
from appliance.errors import ConfigError
from appliance.replay_report import Report

if TYPE_CHECKING:
    from appliance.replay_command import Options

_TRIES = 3


def play_on_cluster(
    recordings: Sequence[Path], options: "Options", address: str
) -> Iterator[Report]:
    """A report per recording, in their order. address: of a cluster, or "local".

    Paths and config must be readable by every worker under the same names.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
    except ImportError as err:
        raise ConfigError("--ray", "the extra `cluster` installed", str(err)) from err
    where: dict[str, Any] = {} if address == "local" else {"address": address}
    ray.init(**where, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        play = ray.remote(max_retries=_TRIES, num_cpus=1)(_play)
        waiting = [play.remote(str(path.resolve()), options) for path in recordings]
        for number, path in enumerate(recordings):
            yield ray.get(waiting[number])
            sys.stderr.write(f"{number + 1} of {len(recordings)}: {path.name}\n")
    finally:
        ray.shutdown()


def _play(path: str, options: "Options") -> Report:
    from appliance.replay_command import play_one

    return play_one(Path(path), options, load_config(Path(options.config)))
