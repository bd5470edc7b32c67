"""`inspectd engine`: the engine of a bundle on this device, built where one is built, and proved.

ONNX Runtime and OpenVINO take the network as it is; TensorRT takes a plan that only this device,
driver and version can run. Nothing is kept before it was loaded, warmed up, and has reproduced all
golden frames; what fails leaves no file behind. Where the bundle has other graphs beside the exact
one, they are measured against it, and the fastest is noted in its passport as what the line shall
run. The line itself never builds and never chooses.
"""

import contextlib
import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
import onnx
import typer

from appliance import config as settings_of
from appliance.atomic import write_atomically
from appliance.bundle import Bundle, load_bundle
from appliance.config import load_config
from appliance.engine import Engine, Spec
from appliance.engine_opening import (
    network_file,
    open_engine,
    passport_of,
    passports_of,
    plan_name,
    spec_for,
)
from appliance.errors import ArtefactError, ConfigError, PartError
from appliance.golden import GoldenFrames
from appliance.half import to_half
from appliance.head import merged_network
from appliance.passport import Built, Passport, Record, read_record, write_record

Precision = Literal["fp32", "bf16", "fp16", "int8"]
Kind = Literal["onnx", "onnx-cuda", "openvino", "tensorrt"]
Report = Callable[[str], None]
_CHOOSING_S, _CHOOSING_ROUNDS = 2.0, 5
_WORTH = 0.97
"""A graph other than the exact one must take less of its time: what is nearer is noise."""


class Plan(NamedTuple):
    """What a builder makes."""

    data: bytes
    layers: dict[str, int]


class Toolchain(NamedTuple):
    """How plans are built and opened: TensorRT's, or a test's."""

    build: Callable[[onnx.ModelProto, str, int], Plan]
    """Graph, precision, batch → plan. Raises ArtefactError."""
    open: Callable[[Spec, bytes, str], Engine]


def build_plan(
    bundle: Bundle,
    spec: Spec,
    passport: Passport,
    batch: int,
    cache: Path,
    tools: Toolchain,
) -> dict[str, Any]:
    """Build, prove and keep the plan for frames of this size; returns the id of the passport that
    its scores will bear, and what was measured.

    cache: `config.engines_dir`. Raises ArtefactError; then nothing was written.
    """
    network = onnx.load(str(bundle.path(network_file(bundle, passport))))
    if passport.precision == "fp16":
        network = to_half(network)
    graph = merged_network(network, bundle.manifest.input, *spec.frame_shape, "float")
    plan = tools.build(graph, passport.precision, batch)
    engine = tools.open(spec, plan.data, passport.precision)
    try:
        measured = prove(engine, bundle, passport.precision, batch)
    finally:
        engine.close()
    folder = passport.folder(cache)
    sha256 = hashlib.sha256(plan.data).hexdigest()
    built = Built(
        sha256=sha256,
        passport=passport.with_plan(sha256).id,
        batch=batch,
        layers=plan.layers,
        built_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    try:
        others = read_record(folder, passport).engines
    except ArtefactError:  # none yet, or one that proves nothing: its engines are no loss
        others = {}
    # The plan first: a passport that names a plan which is not there yet would be refused.
    write_atomically(folder / plan_name(spec), plan.data)
    engines = {**others, plan_name(spec): built}
    write_record(folder, Record(id=passport.id, passport=passport, engines=engines))
    return {"passport": built.passport, **measured}


def prove(engine: Engine, bundle: Bundle, precision: str, batch: int) -> dict[str, float]:
    """Warm up and, at the size of the golden frames, reproduce them all. Raises ArtefactError.

    batch: what is gained by so many frames at once is measured.
    """
    try:
        p99_ms = engine.warm_up(batch) / 1e6
    except PartError as err:
        raise ArtefactError("engine", "finite maps", err.detail) from err
    measured = {"warm_up_p99_ms": round(p99_ms, 3)}
    if batch > 1:
        measured |= {name: round(value, 3) for name, value in engine.traits().items()}
    contract = bundle.manifest.input
    source = (contract.source_height_px, contract.source_width_px)
    if engine.spec.frame_shape[:2] == source:
        golden = GoldenFrames(engine, bundle, precision)
        measured["golden_deviation"] = golden.check("all", lambda: None)
        measured["golden_tolerance"] = golden.tolerance
        measured["golden_frames"] = len(golden.frames)
    return measured


def times_in_turn(engines: Sequence[Engine]) -> list[float]:
    """Time of a frame in ms: of each graph of one network, in turn. Raises PartError."""
    shape, room = engines[0].spec.frame_shape, engines[0].spec.map_shape
    frame = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    out = np.empty(room, np.float32)
    times: list[list[int]] = [[] for _ in engines]
    end = time.monotonic() + _CHOOSING_S
    while time.monotonic() < end or len(times[0]) < _CHOOSING_ROUNDS:
        for engine, own in zip(engines, times, strict=True):
            engine.infer(frame, out)
            own.append(engine.last_ns)
    return [round(float(np.median(own)) / 1e6, 3) for own in times]


def keep_choice(passport: Passport, cache: Path, *, is_faster: bool) -> None:
    """For the line: this graph is to run here, or not."""
    folder = passport.folder(cache)
    record = Record(id=passport.id, passport=passport)
    with contextlib.suppress(ArtefactError):  # none yet, or one that says nothing
        record = read_record(folder, passport)
    write_record(folder, msgspec.structs.replace(record, is_faster=is_faster))


def tensorrt_tools(cache: Path, report: Report) -> Toolchain:
    """The installed TensorRT and the first GPU. Raises ArtefactError where there is none."""
    try:
        from appliance.engine_tensorrt_sdk import InstalledTensorRt, build
    except ImportError as err:
        expected = "TensorRT 10.3 or later (extra `tensorrt`, or the system's on a Jetson)"
        raise ArtefactError("engine.kind", expected, str(err)) from err

    def make(graph: onnx.ModelProto, precision: str, batch: int) -> Plan:
        return Plan(*build(graph, precision, batch, cache / "timing.cache", report))

    def open_plan(spec: Spec, plan: bytes, precision: str) -> Engine:
        return InstalledTensorRt(spec, plan, precision, 0)

    return Toolchain(make, open_plan)


def _say(line: str) -> None:
    sys.stderr.write(f"inspectd: {line}\n")


def _sizes(bundle: Bundle, asked: list[str]) -> list[tuple[int, int]]:
    contract = bundle.manifest.input
    sizes = [(contract.source_height_px, contract.source_width_px)]
    for word in asked:
        height, sign, width = word.partition("x")
        if not (sign and height.isdecimal() and width.isdecimal()):
            raise ConfigError("--size", "HEIGHTxWIDTH such as 480x640", repr(word))
        sizes.append((int(height), int(width)))
    return list(dict.fromkeys(sizes))


def main(
    bundle: Annotated[Path, typer.Argument(help="Bundle directory.")],
    config: Annotated[Path, typer.Option("--config", help="The integrator's config.toml.")] = Path(
        "config.toml"
    ),
    kind: Annotated[
        Kind | None, typer.Option(help="Runtime; default: engine.kind of config.toml.")
    ] = None,
    precision: Annotated[
        Precision | None, typer.Option(help="Default: engine.precision of config.toml.")
    ] = None,
    batch: Annotated[
        int,
        typer.Option(min=1, max=64, help="Frames at once, 1 to this; the gain is measured."),
    ] = 1,
    size: Annotated[
        list[str] | None,
        typer.Option(help="Also for regions of interest of HEIGHTxWIDTH; may be repeated."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Build the engine of a bundle for this device, prove it with the golden frames, keep it."""
    loaded = load_config(config)
    engine = msgspec.structs.replace(
        loaded.engine,
        kind=kind or loaded.engine.kind,
        precision=precision or loaded.engine.precision,
    )
    found = load_bundle(bundle)
    exact, *others = passports_of(engine, found)
    sizes = _sizes(found, size or [])
    rows = _rows(engine, found, exact, sizes, batch, loaded)
    fastest, share = exact, _WORTH
    for other in others:
        try:
            more = _rows(engine, found, other, sizes, batch, loaded)
            exact_ms, ms = _times(engine, found, (exact, other), sizes[0], loaded)
        except ArtefactError as err:
            _say(f"{network_file(found, other)} is left out: {err}")
            continue
        rows[0]["ms"] = exact_ms
        more[0] |= {"ms": ms, "of_exact": round(ms / exact_ms, 3)}
        rows += more
        if ms < share * exact_ms:
            fastest, share = other, ms / exact_ms
    for other in others:
        keep_choice(other, loaded.engines_dir, is_faster=other is fastest)
    passport = passport_of(engine, found, loaded.engines_dir)
    graph = network_file(found, passport)
    if json:
        chosen = next(row["passport"] for row in rows if row["graph"] == graph)
        answer = {"bundle": found.id, "passport": chosen, "graph": graph, "engines": rows}
        sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
        return
    sys.stdout.write(f"{bundle}: {passport.runtime}, {passport.precision}, {passport.device}\n")
    for row in rows:
        figures = ", ".join(f"{name} {value}" for name, value in row.items())
        sys.stdout.write(f"{figures}\n")
    sys.stdout.write(f"{graph} is what a line runs here\n")


def _rows(
    engine: settings_of.Engine,
    bundle: Bundle,
    passport: Passport,
    sizes: list[tuple[int, int]],
    batch: int,
    config: settings_of.Config,
) -> list[dict[str, Any]]:
    """One graph, made and proved: a row for each size. Raises ArtefactError."""
    return [
        {
            "size": f"{size[0]}x{size[1]}",
            "graph": network_file(bundle, passport),
            **_one(engine, bundle, passport, size, batch, config),
        }
        for size in sizes
    ]


def _times(
    engine: settings_of.Engine,
    bundle: Bundle,
    passports: Sequence[Passport],
    size: tuple[int, int],
    config: settings_of.Config,
) -> list[float]:
    """Of a frame in ms, by each graph. Raises ArtefactError."""
    channels, cache = bundle.manifest.input.channels, config.engines_dir
    opened: list[Engine] = []
    try:
        for passport in passports:
            opened.append(open_engine(engine, bundle, *size, channels, cache, passport))
            opened[-1].warm_up()
        return times_in_turn(opened)
    except PartError as err:
        raise ArtefactError("engine", "finite maps", err.detail) from err
    finally:
        for one in opened:
            one.close()


def _one(
    engine: settings_of.Engine,
    bundle: Bundle,
    passport: Passport,
    size: tuple[int, int],
    batch: int,
    config: settings_of.Config,
) -> dict[str, Any]:
    channels, cache = bundle.manifest.input.channels, config.engines_dir
    if engine.kind == "tensorrt":
        tools = tensorrt_tools(cache, _say)
        return build_plan(bundle, spec_for(bundle, *size, channels), passport, batch, cache, tools)
    opened = open_engine(engine, bundle, *size, channels, cache, passport)
    try:
        return {"passport": passport.id, **prove(opened, bundle, passport.precision, batch)}
    finally:
        opened.close()
