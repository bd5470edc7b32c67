"""`inspectd doctor`: what is installed, what is missing or broken, and why. Changes nothing.

Where pictures are recorded and no line runs it writes a file for two seconds and removes it: how
fast is the disk, and does the policy fit?

With `--bundle` it writes an archive for support: `support.py`.
"""

import contextlib
import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec
import typer

from appliance import supervise
from appliance.bundle import Bundle, load_bundle
from appliance.config import Config, load_config
from appliance.disk import wanted_bytes_per_s, written_bytes_per_s
from appliance.errors import ConfigError
from appliance.product_table import load_products
from appliance.recipe import Recipe, load_recipe
from appliance.recipe_check import check_recipe
from appliance.support import write_bundle
from appliance.tls import files_of

Grade = Literal["good", "missing", "broken"]

BASE = (
    "numpy",
    "cv2",
    "zmq",
    "msgspec",
    "onnx",
    "onnxruntime",
    "xgboost",
    "pymodbus",
    "sqlalchemy",
    "alembic",
    "mcap",
    "structlog",
)
OPTIONAL = {
    "harvesters": "camera",
    "genicam.gentl": "camera",
    "openvino": "openvino",
    "tensorrt": "tensorrt",
    "nicegui": "hmi",
    "torch": "train",
    "asyncua": "bus",
    "paho.mqtt": "bus",
    "snap7": "bus",
    "pycomm3": "bus",
    "gpiod": "io",
    "psycopg": "postgres",
    "ray": "cluster",
}
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_SHM = Path("/dev/shm")
_SHM_BYTES = 256 << 20


class Finding(NamedTuple):
    """One line of the report."""

    what: str
    grade: Grade
    detail: str


def machine() -> Iterator[Finding]:
    """Python, processor, shared memory."""
    version = platform.python_version()
    is_known = (3, 10) <= sys.version_info[:2] <= (3, 13)
    yield Finding("python", "good" if is_known else "broken", f"{version} (3.10 to 3.13)")
    yield Finding("cpu", "good", f"{os.cpu_count()} cores, {platform.machine()}")
    free = shutil.disk_usage(_SHM).free if _SHM.is_dir() else 0
    grade: Grade = "good" if free >= _SHM_BYTES else "broken"
    yield Finding("shared memory", grade, f"{free >> 20} MiB free in {_SHM} (256 wanted)")


def packages() -> Iterator[Finding]:
    """What the line needs, and what the extras add."""
    for name in BASE:
        yield _package(name, "broken", "docs/install.md")
    for name, extra in OPTIONAL.items():
        yield _package(name, "missing", f'the extra "{extra}", docs/install.md')


def _package(name: str, grade: Grade, remedy: str) -> Finding:
    try:
        module = importlib.import_module(name)
    except ImportError as err:
        return Finding(name, grade, f"{err}; {remedy}")
    return Finding(name, "good", str(getattr(module, "__version__", "installed")))


def installation(path: Path) -> Iterator[Finding]:
    """Configuration, products, recipes, bundles, addresses, disk."""
    try:
        config = load_config(path)
        products = load_products(config)
    except ConfigError as err:
        yield Finding("config", "broken", str(err))
        return
    yield Finding("config", "good", str(path))
    for number, name in sorted(products.items()):
        yield _checked(f"product {number}", lambda name=name: check_recipe(config, name))
    is_running = supervise.is_running(config)
    if is_running:
        yield Finding("addresses", "good", "held by the line that runs here")
    else:
        yield _checked("addresses", lambda: _addresses(config))
    yield _encryption(config)
    usage = shutil.disk_usage(config.root_dir)
    free_gb = usage.free / 1e9
    grade: Grade = "good" if free_gb >= config.record.min_free_gb else "broken"
    wanted = f"(record.min_free_gb {config.record.min_free_gb})"
    yield Finding("disk", grade, f"{free_gb:.1f} GB free {wanted}")
    if config.is_taped:
        if is_running:
            yield Finding("recording", "good", "not measured: a line runs here and needs the disk")
        else:
            yield _recording(config, products)


def _recording(config: Config, products: dict[int, str]) -> Finding:
    """Whether the disk takes what the cameras' policy wants."""
    judged: list[tuple[Recipe, Bundle]] = []
    for name in sorted(set(products.values())):
        with contextlib.suppress(ConfigError):  # said above already
            recipe = load_recipe(config, name).recipe
            bundle = load_bundle(config.bundles_dir / recipe.bundle_dir, recipe.bundle)
            judged.append((recipe, bundle))
    wanted_mb = wanted_bytes_per_s(config, judged) / 1e6
    free = shutil.disk_usage(config.root_dir).free
    room = free - int(config.record.min_free_gb * 1e9)
    try:
        disk_mb = written_bytes_per_s(config.recordings_dir, room) / 1e6
    except OSError as err:
        return Finding("recording", "broken", f"{config.recordings_dir}: cannot be written: {err}")
    said = f"{wanted_mb:.1f} MB/s at most at rate_hz, the disk writes {disk_mb:.0f} MB/s"
    if not judged:
        return Finding("recording", "missing", f"the disk writes {disk_mb:.0f} MB/s; no bundle yet")
    if disk_mb < wanted_mb:
        remedy = "record fewer pictures (camera.record), zstd, or a faster disk"
        return Finding("recording", "broken", f"the policy wants {said}: {remedy}")
    return Finding("recording", "good", f"the policy wants {said}")


def _encryption(config: Config) -> Finding:
    """Pages: encrypted, or reachable from this machine alone."""
    try:
        files = files_of(config)
        if files is not None:
            certificate = importlib.import_module("appliance.certificate")
            is_good, said = certificate.describe(files)
            return Finding("tls", "good" if is_good else "broken", said)
    except (ConfigError, ImportError) as err:
        return Finding("tls", "broken", str(err))
    open_to_all = [
        f"{host}:{port}"
        for key, host, port in supervise.ports(config)
        if key.startswith(("hmi.", "metrics.")) and host not in _LOOPBACK
    ]
    if open_to_all:
        said = f"plain HTTP on {', '.join(open_to_all)}: [tls], docs/security.md"
        return Finding("tls", "missing", said)
    return Finding("tls", "good", "none, and the pages are for this machine alone")


def _checked(what: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(what, "good", check())
    except ConfigError as err:
        return Finding(what, "broken", str(err))


def _addresses(config: Config) -> str:
    supervise.check_addresses(config)
    return "free: no line is running here"


def main(
    config: Annotated[
        Path | None, typer.Option(help="Check this config.toml and what hangs off it, too.")
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(help="Write a support archive (.tar.gz) without secrets; needs --config."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """What is installed, missing or broken, and why. Exit 1 where something is broken."""
    if bundle is not None and config is None:
        raise typer.BadParameter("--bundle needs --config")
    findings = [*machine(), *packages()]
    if config is not None:
        findings += installation(config)
    is_good = all(finding.grade != "broken" for finding in findings)
    report = msgspec.json.encode(
        {
            "version": importlib.metadata.version("inspectd"),
            "good": is_good,
            "findings": [finding._asdict() for finding in findings],
        }
    )
    if bundle is not None and config is not None:
        names = write_bundle(bundle, load_config(config), config, report)
        sys.stderr.write(f"inspectd: {bundle}: {len(names)} files, no secrets\n")
    if json:
        sys.stdout.write(report.decode() + "\n")
    else:
        for finding in findings:
            sys.stdout.write(f"{finding.grade:8} {finding.what:15} {finding.detail}\n")
    raise typer.Exit(0 if is_good else 1)
