"""`inspectd demo`: from nothing to a running line on real images.

Trains a small bundle once, writes a complete installation below one directory, starts every
process with a folder camera, drives the handshake with the desk PLC, and shows the page. With
`--parts N` it runs N parts without a browser and prints what the PLC read, joined with the labels.
"""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from appliance.atomic import write_atomically
from appliance.bundle import Bundle, Suggested, load_bundle
from appliance.config import load_config
from appliance.errors import ConfigError
from appliance.messages import Words
from appliance.recipe import Limits, Recipe, write_recipe
from appliance.service import start_logging
from appliance.supervise import Supervisor, check_addresses, stopped_by_signals
from appliance.wire import Receiver, Wiring
from models import progress
from models.dataset import Dataset, open_dataset
from models.train import train_bundle
from tools.demo_summary import summarise

DEADLINE_MS = 200
RATE_HZ = 5.0
BAD_SHARE = 0.35
_SETTLE_S = 8.0
_FREE_GB = 1.0


def main(
    parts: Annotated[
        int, typer.Option(min=0, help="Stop after so many parts; 0 = run until Ctrl-C.")
    ] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on stdout, no browser.")
    ] = False,
    data: Annotated[
        str, typer.Option(help="Folder of labelled images (MVTec layout or good/ bad/), or elpv.")
    ] = "elpv",
    root: Annotated[Path, typer.Option(help="Where the demo lives.")] = Path("var/demo"),
    seed: Annotated[int, typer.Option(help="Of the split and of the order of parts.")] = 0,
    host: Annotated[str, typer.Option(help="Address of page and PLC port.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Of the page.")] = 8080,
    plc_port: Annotated[int, typer.Option(help="Of the Modbus server.")] = 5020,
    tool_port: Annotated[
        int, typer.Option(help="Of the operator's tool, where limits are set; 0 = none.")
    ] = 0,
) -> None:
    """From nothing to a running line on real images, with a simulated camera and PLC."""
    if as_json and not parts:
        raise typer.BadParameter("--json needs --parts N")
    begun = time.monotonic()
    root = root.resolve()
    bundle = _bundle(root, data, seed)
    labels = _show_parts(root, bundle, data, seed, parts)
    config_path = _write_installation(root, bundle, host, port, plc_port, tool_port)
    config = load_config(config_path)
    check_addresses(config)
    start_logging()
    supervisor = Supervisor(config_path, config)
    plc = _Plc(root, config_path, parts)
    if not as_json:
        sys.stderr.write(f"inspectd: the page is http://{host}:{port}/ and Ctrl-C stops the line\n")
        if tool_port:
            sys.stderr.write(
                f"inspectd: the tool is http://{host}:{tool_port}/; who may log in: inspectd users "
                f"add NAME --role engineer --config {config_path}\n"
            )

    def stop(*_: object) -> None:
        plc.ask_to_stop()
        supervisor.stop()

    with Wiring(config.runtime_dir) as wiring, stopped_by_signals(stop):
        watch = _Watch(wiring.receiver("live"), plc, begun)
        code = supervisor.run(until=watch.is_over)
    plc.stop()
    if code:
        raise typer.Exit(code)
    if not parts:
        return
    summary = summarise(config, bundle, labels, plc.parts_file, watch.ledger, watch.counters)
    if as_json:
        sys.stdout.write(json.dumps(summary) + "\n")
    else:
        for key, value in summary.items():
            sys.stdout.write(f"{key:14} {value}\n")
    is_closed = summary["unaccounted"] == 0 and summary["verdicts"] == summary["parts"] == parts
    raise typer.Exit(0 if is_closed else 1)


def _bundle(root: Path, data: str, seed: int) -> Bundle:
    """The bundle of this data, trained on first use."""
    name = data if data == "elpv" else Path(data).resolve().name
    folder = root / "bundles" / f"{name}-{seed}"
    if folder.exists():
        return load_bundle(folder)
    dataset = open_dataset(data, seed)
    for note in dataset.notes:
        sys.stderr.write(f"inspectd: {note}\n")
    counts = ", ".join(f"{key} {len(samples)}" for key, samples in dataset.sets().items())
    sys.stderr.write(f"inspectd: training once on {dataset.name}: {counts}\n")
    with progress.shown() as report:
        train_bundle(dataset, folder, seed=seed, product=name, progress=report)
    return load_bundle(folder)


def _suggested(bundle: Bundle) -> Suggested:
    suggested = bundle.manifest.suggested
    if suggested is None:
        raise ConfigError(bundle.path("manifest.json"), "suggested limits", "none")
    return suggested


def _show_parts(root: Path, bundle: Bundle, data: str, seed: int, parts: int) -> dict[int, int]:
    """Lay the held-out images out for the folder camera; PartTag → label (1 = bad).

    The camera shows picture (tag - 1) mod n, so what lies under the camera depends on the part
    alone, never on how many triggers or frames there were before it.
    """
    dataset = open_dataset(data, seed)
    order = _order(dataset, seed, parts)
    folder = root / "shown"
    names = {f"{i:05d}-{s.kind}{s.path.suffix}": s for i, s in enumerate(order)}
    if folder.is_dir() and sorted(p.name for p in folder.iterdir()) == sorted(names):
        return {index + 1: sample.label for index, sample in enumerate(order)}
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, sample in names.items():
        shutil.copyfile(sample.path, folder / name)
    return {index + 1: sample.label for index, sample in enumerate(order)}


def _order(dataset: Dataset, seed: int, parts: int) -> list[Any]:
    """Held-out samples in a drawn order with a known share of bad ones."""
    rng = np.random.default_rng(seed)
    good = [s for s in dataset.held_out if not s.label]
    bad = [s for s in dataset.held_out if s.label]
    wanted = min(parts or 200, len(good) + len(bad))
    n_bad = min(len(bad), max(round(BAD_SHARE * wanted), wanted - len(good)))
    chosen = [bad[i] for i in rng.permutation(len(bad))[:n_bad]]
    chosen += [good[i] for i in rng.permutation(len(good))[: wanted - n_bad]]
    return [chosen[i] for i in rng.permutation(len(chosen))]


def _write_installation(
    root: Path, bundle: Bundle, host: str, port: int, plc_port: int, tool_port: int
) -> Path:
    """config.toml, products.toml and two recipes, as an integrator would write them."""
    suggested = _suggested(bundle)
    product = bundle.manifest.product
    shutil.rmtree(root / "recipes", ignore_errors=True)
    config_path = root / "config.toml"
    write_atomically(config_path, _CONFIG.format(
        deadline_ms=DEADLINE_MS, host=host, port=port, plc_port=plc_port,
        tool_port=tool_port, free_gb=_FREE_GB,
        images="all" if tool_port else "ng",  # people judge good parts, too
    ).encode())  # fmt: skip
    config = load_config(config_path)
    rows: list[str] = []
    for number, (name, t2) in enumerate(
        ((product, suggested.t2), (f"{product}_strict", suggested.t1)), 1
    ):
        recipe = Recipe(
            id=name,
            version=1,
            bundle=bundle.id,
            bundle_dir=bundle.folder.name,
            decides=suggested.decides,
            limits=Limits(t1=suggested.t1, t2=t2, set_by="training", reason="demo"),
        )
        write_recipe(config, recipe)
        rows.append(f'[[product]]\nnumber = {number}\nrecipe = "{name}/1"\n')
    write_atomically(root / "products.toml", "\n".join(rows).encode())
    return config_path


_CONFIG = """\
root = "."
deadline_ms = {deadline_ms}
trigger = "plc"

[[camera]]
name = "top"
kind = "files"
folder = "shown"
order = "tag"

[plc]
host = "{host}"
port = {plc_port}

[hmi]
host = "{host}"
port = {port}
tool_port = {tool_port}

[alarms]
rejects = 1000  # a third of its parts is bad on purpose

[record]
images = "{images}"
min_free_gb = {free_gb}
max_images = 2000
"""


class _Plc:
    """The desk PLC as a process of its own, started when the line's port answers."""

    def __init__(self, root: Path, config_path: Path, parts: int) -> None:
        config = load_config(config_path)
        self._address = (config.plc.host, config.plc.port)
        self.parts_file = root / "plc-parts.jsonl"
        self.parts_file.unlink(missing_ok=True)
        self._log = (root / "plc.log").open("wb")
        self._handle: subprocess.Popen[bytes] | None = None
        self._command = [sys.executable, "-m", "appliance", "plc-sim", "--accept-simulated"]
        self._command += ["--host", config.plc.host, "--port", str(config.plc.port)]
        self._command += ["--rate", str(RATE_HZ), "--deadline-ms", str(DEADLINE_MS)]
        self._command += ["--parts-file", str(self.parts_file)]
        self._command += ["--parts", str(parts)] if parts else ["--forever"]

    def has_ended(self) -> bool:
        """Starts it when it can be started; True once it is done."""
        if self._handle is None:
            with socket.socket() as probe:
                if probe.connect_ex(self._address):
                    return False
            self._handle = subprocess.Popen(
                self._command, stdout=self._log, stderr=self._log, start_new_session=True
            )
        return self._handle.poll() is not None

    def ask_to_stop(self) -> None:
        """It ends while the line ends."""
        if self._handle is not None and self._handle.poll() is None:
            self._handle.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """End it, if it still runs."""
        self.ask_to_stop()
        if self._handle is not None:
            try:
                self._handle.wait(1)
            except subprocess.TimeoutExpired:
                self._handle.kill()
                self._handle.wait()
        self._log.close()


class _Watch:
    """Follows `live` until the PLC is done and the last row is stored."""

    def __init__(self, live: Receiver, plc: _Plc, begun: float) -> None:
        self._live, self._plc, self._begun = live, plc, begun
        self._settled_by = 0.0
        self._is_up = False
        self.ledger: dict[str, int] = {}
        self.counters: dict[str, int] = {}

    def is_over(self) -> bool:
        """Called every turn of the supervisor."""
        while (message := self._live.receive()) is not None:
            if isinstance(message, Words):
                self.ledger, self.counters = message.ledger, message.counters
                if not self._is_up and message.registers[100] & 1:
                    self._is_up = True
                    seconds = time.monotonic() - self._begun
                    sys.stderr.write(f"inspectd: line up after {seconds:.1f} s\n")
        if not self._plc.has_ended():
            return False
        if not self._settled_by:
            self._settled_by = time.monotonic() + _SETTLE_S
        is_settled = self.ledger.get("rows_pending") == 0 and self.ledger.get("pending") == 0
        return is_settled or time.monotonic() > self._settled_by
