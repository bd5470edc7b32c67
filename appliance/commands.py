"""Commands of the line itself: run, one process, check the configuration."""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from appliance import supervise
from appliance.config import load_config
from appliance.product_table import load_products
from appliance.service import run_process

PROCESSES = ("camera", "infer", "decide", "bus", "record", "hmi", "tool", "metrics")

ConfigPath = Annotated[Path, typer.Option("--config", help="The integrator's config.toml.")]


def run(config: ConfigPath = Path("config.toml")) -> None:
    """The whole line in the foreground from config.toml; Ctrl-C stops it."""
    raise typer.Exit(supervise.run(config))


def process(
    which: Annotated[str, typer.Argument(help=", ".join(PROCESSES))],
    config: ConfigPath = Path("config.toml"),
    name: Annotated[str, typer.Option(help="Which camera, or which of several infer.")] = "",
    supervised: Annotated[
        bool, typer.Option("--supervised", help="End when the parent process ends.")
    ] = False,
) -> None:
    """One process of the line, as systemd and `inspectd run` start it.

    `camera-top` is `camera --name top`: what systemd calls the instance.
    """
    said = which
    which, _, instance = which.partition("-")
    name = name or instance
    if which not in PROCESSES:
        raise typer.BadParameter(f"expected one of {', '.join(PROCESSES)}, got {said!r}")
    if which == "infer" and not name:
        name = "0"
    # By name: what runs on the line never imports calibration/.
    where = "calibration" if which == "tool" else "appliance"
    module = importlib.import_module(f"{where}.{which}")
    raise typer.Exit(run_process(module.main, which, config, name, supervised))


def reset_failed(config: ConfigPath = Path("config.toml")) -> None:
    """Try again at once what systemd gave up: after a repair, as root. Exit 1 where it cannot."""
    names = [unit_name(*row) for row in supervise.process_table(load_config(config))]
    for command in (
        ("stop", *(name.replace("inspectd@", "inspectd-retry@") for name in names)),
        ("reset-failed", *names),
        ("start", *names),
    ):
        try:
            done = subprocess.run(["systemctl", *command], check=False)
        except FileNotFoundError:
            sys.stderr.write("inspectd: no systemd here; `inspectd run` tries once a minute\n")
            raise typer.Exit(1) from None
        if done.returncode:
            raise typer.Exit(1)


def unit_name(process: str, name: str) -> str:
    """What systemd calls one row of the process table."""
    return f"inspectd@{process}-{name}.service" if name else f"inspectd@{process}.service"


config = typer.Typer(add_completion=False, rich_markup_mode=None, help="The configuration.")


@config.callback()
def _group() -> None:
    """The configuration."""


@config.command()
def units(config: ConfigPath = Path("config.toml")) -> None:
    """Print the units that this configuration needs, one a line: the instances of
    inspectd@.service, and what starts the jobs of the tool where there is one."""
    loaded = load_config(config)
    for row in supervise.process_table(loaded):
        sys.stdout.write(f"{unit_name(*row)}\n")
    if loaded.hmi.tool_port:
        sys.stdout.write("inspectd-work.path\n")


@config.command()
def check(config: ConfigPath = Path("config.toml")) -> None:
    """Check every key, file, port and hash without starting anything."""
    # Here: every process of the line comes through this file, and few of them need all of this.
    from appliance import config_check
    from appliance.recipe_check import check_recipe

    loaded = load_config(config)
    products = load_products(loaded)
    for number, name in sorted(products.items()):
        sys.stdout.write(f"product {number}: {check_recipe(loaded, name)}\n")
    config_check.check(loaded)
    if supervise.is_running(loaded):
        sys.stderr.write("the line runs: whether its ports are free was not looked at\n")
    else:
        supervise.check_addresses(loaded)
    sys.stdout.write(f"{config}: good\n")
