"""Work dealt out to many machines with Ray: the only room that knows it. Never on a line box.

Enters: a function, what it is to be called with, and where. Leaves: its answers in the order of the
calls, whoever gave them, so that adding them up gives what one process gives. A worker that dies is
replaced and its call made again. Nothing is reported to anybody: usage statistics are off.
"""
# Ray's decorators hide the types of what they wrap.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingImports=false, reportAttributeAccessIssue=false

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from appliance.errors import ConfigError

TRIES = 4
"""How often a call is made whose worker died."""
Call = TypeVar("Call")
Answer = TypeVar("Answer")


class _Wrong(NamedTuple):
    """A ConfigError on its way back."""

    where: str
    expected: str
    got: str


def deal(work: Callable[[Call], Answer], calls: Sequence[Call], address: str) -> Iterator[Answer]:
    """`work(call)` for every call, in their order. Progress goes to standard error.

    address: of a cluster; "local" for this machine, one worker per core; "local:N" for N. What
    `work` keeps in its module lives as long as its worker, which makes one call after the other.
    Paths must mean the same to every worker. Raises ConfigError: what `work` raised, or no Ray, no
    cluster, or workers that keep dying.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
    except ImportError as err:
        raise ConfigError("--ray", "the extra `cluster` installed", str(err)) from err
    quiet = {"include_dashboard": False, "log_to_driver": False, "configure_logging": False}
    try:
        ray.init(**_where(address), **quiet)
    except Exception as err:
        raise ConfigError("--ray", "a cluster that answers, or local", f"{address}: {err}") from err
    try:
        call = ray.remote(max_retries=TRIES - 1, num_cpus=1)(_guarded)
        waiting = [call.remote(work, one) for one in calls]
        for number, reference in enumerate(waiting, 1):
            try:
                answer: Any = ray.get(reference)
            except ray.exceptions.RayError as err:
                cause = f"{type(err).__name__}: {str(err).splitlines()[0]}"
                expected = f"a worker that lives to answer call {number} ({TRIES} tries)"
                raise ConfigError("--ray", expected, cause) from err
            waiting[number - 1] = None  # its answer may be large
            if isinstance(answer, _Wrong):
                raise ConfigError(*answer)
            sys.stderr.write(f"{number} of {len(calls)}\n")
            yield answer
    finally:
        ray.shutdown()


def _where(address: str) -> dict[str, Any]:
    kind, _, count = address.partition(":")
    if kind != "local":
        return {"address": address}
    if not count:
        return {}
    if not count.isdecimal() or not int(count):
        raise ConfigError("--ray", "local, local:N or an address", address)
    return {"num_cpus": int(count)}


def _guarded(work: Callable[[Any], Any], call: Any) -> Any:
    """In the worker: what a person has to mend comes back in words."""
    try:
        return work(call)
    except ConfigError as err:
        return _Wrong(err.where, err.expected, err.got)
