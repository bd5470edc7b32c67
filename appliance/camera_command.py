"""`inspectd camera`: look at a device, set features, take and keep pictures. For commissioning.

The device is one of `config.toml`, set up as the line would, or the only one of a producer. A line
that runs owns its camera: stop it first.
"""

import importlib
import json
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from appliance.camera_record import kept_in, write_png
from appliance.config import load_config
from appliance.config_camera import Camera
from appliance.errors import ConfigError, DeviceError
from appliance.image_gates import Gates
from appliance.pixels import Pixels, to_8_bit
from appliance.recipe import View
from appliance.source import Frame, Incomplete, Mode
from appliance.wire import Wiring

if TYPE_CHECKING:
    from appliance.camera_genicam import GenicamSource

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, help="Commissioning of a camera.",
    no_args_is_help=True,
)  # fmt: skip

ConfigPath = Annotated[Path, typer.Option("--config", help="The integrator's config.toml.")]
CameraName = Annotated[
    str, typer.Option("--camera", help="Which camera of it; default: the first.")
]
Producer = Annotated[
    str, typer.Option(help='Without a configuration: a .cti file, or "viky" (simulated).')
]
Serial = Annotated[str, typer.Option(help="Serial number, where the producer has several devices.")]
Triggered = Annotated[
    bool, typer.Option("--triggered", help="By software trigger, as with trigger = plc.")
]
PixelFormat = Annotated[str, typer.Option(help="For these pictures.")]
ExposureUs = Annotated[float, typer.Option(min=0, help="For these pictures; 0 = as it is.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
_PATIENCE_S = 5.0


@app.callback()
def _group() -> None:
    """Commissioning of a camera."""


@app.command("list")
def list_(
    config: ConfigPath = Path("config.toml"),
    name: CameraName = "",
    producer: Producer = "",
    as_json: AsJson = False,
) -> None:
    """The devices that a producer finds; exit 1 where it finds none."""
    camera = _camera(config, name, producer, "", is_opened=False)
    _needs_packages()
    from appliance.camera_genicam_device import list_devices

    devices = list_devices(camera)
    if as_json:
        _say(json.dumps({"devices": msgspec.to_builtins(devices)}))
    for device in devices if not as_json else ():
        named = f' "{device.user_defined_name}"' if device.user_defined_name else ""
        _say(
            f"{device.vendor} {device.model}, serial_number {device.serial_number}{named}: "
            f"{device.access}"
        )
    if not devices:
        sys.stderr.write("inspectd: no device: power, cable, subnet, driver of the producer?\n")
    raise typer.Exit(0 if devices else 1)


@app.command()
def show(
    only: Annotated[str, typer.Argument(help="Features whose name or category holds this.")] = "",
    config: ConfigPath = Path("config.toml"),
    name: CameraName = "",
    producer: Producer = "",
    serial: Serial = "",
    as_json: AsJson = False,
) -> None:
    """Every feature with value, access, range and unit, as the line would set it up."""
    with _opened(_camera(config, name, producer, serial), "free") as source:
        from appliance.camera_genicam_tree import features

        found = [
            f for f in features(source.node_map) if only.lower() in f"{f.category}/{f.name}".lower()
        ]
    if as_json:
        _say(json.dumps({"features": msgspec.to_builtins(found)}))
        return
    category = None
    for feature in found:
        if feature.category != category:
            category = feature.category
            _say(category)
        value = "" if feature.value is None else f" = {feature.value}"
        unit = f" {feature.unit}" if feature.unit and value else ""
        _say(f"  {feature.name}{value}{unit}  [{feature.access}]  {feature.allowed()}".rstrip())


@app.command("set")
def set_(
    changes: Annotated[list[str], typer.Argument(help="FEATURE=VALUE, or COMMAND; in this order.")],
    config: ConfigPath = Path("config.toml"),
    name: CameraName = "",
    producer: Producer = "",
    serial: Serial = "",
    as_json: AsJson = False,
) -> None:
    """Write features and read each back. The line sets what config.toml and the recipe say."""
    done: list[Any] = []
    camera = _camera(config, name, producer, serial)
    with _opened(camera, "free") as source:
        from appliance.camera_genicam_tree import change

        for entry in changes:
            feature, _, value = entry.partition("=")
            done.append(change(source.node_map, feature, value, f"camera {camera.name}"))
    if as_json:
        _say(json.dumps({"features": msgspec.to_builtins(done)}))
    for feature in done if not as_json else ():
        _say(f"{feature.name} = {feature.value}" if feature.kind != "command" else feature.name)


@app.command()
def snap(
    out: Annotated[Path, typer.Argument(help="PNG file to write.")] = Path("snap.png"),
    frames: Annotated[int, typer.Option(min=1, help="Pictures to take; the last is kept.")] = 10,
    is_triggered: Triggered = False,
    pixel_format: PixelFormat = "",
    exposure_us: ExposureUs = 0,
    config: ConfigPath = Path("config.toml"),
    name: CameraName = "",
    producer: Producer = "",
    serial: Serial = "",
    as_json: AsJson = False,
) -> None:
    """Take pictures: size, brightness, saturation, focus, losses and rate; keep one as PNG."""
    if out.suffix.lower() != ".png":
        raise typer.BadParameter(f"expected a file name that ends in .png, got {out}")
    view = View(pixel_format=pixel_format or None, exposure_us=exposure_us or None)
    with _started(_camera(config, name, producer, serial), is_triggered, view) as source:
        pixels, bits, figures = _take(source, frames, is_triggered)
    write_png(out, pixels)
    _tell({"file": str(out), **_size(pixels, bits), **figures}, as_json)


@app.command()
def record(
    out: Annotated[Path, typer.Argument(help="A new folder, for the pictures.")],
    frames: Annotated[int, typer.Option(min=1, help="Whole pictures to keep.")] = 100,
    kind: Annotated[
        str,
        typer.Option(
            "--as", help="mcap: a recording, for a camera of kind files; png: for training."
        ),
    ] = "mcap",
    is_triggered: Triggered = False,
    pixel_format: PixelFormat = "",
    exposure_us: ExposureUs = 0,
    config: ConfigPath = Path("config.toml"),
    name: CameraName = "",
    producer: Producer = "",
    serial: Serial = "",
    as_json: AsJson = False,
) -> None:
    """Keep pictures with all their bits. What the disk is too slow for is counted as lost."""
    if kind not in ("mcap", "png"):
        raise typer.BadParameter(f"expected --as mcap or png, got {kind}")
    view = View(pixel_format=pixel_format or None, exposure_us=exposure_us or None)
    camera = _camera(config, name, producer, serial)
    with _started(camera, is_triggered, view) as source:
        with kept_in(out, kind, camera.name, source.is_simulated) as keep:
            pixels, bits, figures = _take(source, frames, is_triggered, keep)
    _tell({"folder": str(out), **_size(pixels, bits), **figures}, as_json)


def _size(pixels: Pixels, bits: int) -> dict[str, int]:
    return {"height_px": pixels.shape[0], "width_px": pixels.shape[1], "bits": bits}


def _tell(figures: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _say(json.dumps(figures))
    for key, value in figures.items() if not as_json else ():
        _say(f"{key} = {value:.4g}" if isinstance(value, float) else f"{key} = {value}")


def _take(
    source: "GenicamSource",
    count: int,
    is_triggered: bool,
    keep: Callable[[Frame, Pixels], None] | None = None,
) -> tuple[Pixels, int, dict[str, Any]]:
    """The last picture, its bits, and figures of all; every whole one is handed to `keep`."""
    gates, taken, waits_ns = Gates(), list[Frame](), list[int]()
    pixels: Pixels | None = None
    figures: dict[str, float] = {}
    end = time.monotonic() + _PATIENCE_S * count
    while len(taken) < count:
        asked_ns = time.monotonic_ns()
        if is_triggered:
            source.trigger(0)
        shot: Frame | Incomplete | None = None
        while shot is None:
            if time.monotonic() > end:
                raise DeviceError(
                    f"{len(taken)} of {count} pictures in {_PATIENCE_S * count:.0f} s"
                )
            shot = source.fetch(50)
        if isinstance(shot, Frame):
            picture: Pixels = shot.pixels.copy()
            pixels = picture
            shot.release()
            waits_ns.append(shot.arrived_ns - asked_ns)
            taken.append(shot)
            figures = gates.measure(to_8_bit(picture, shot.bits))
            if keep is not None:
                keep(shot, picture)
    assert pixels is not None
    first, last = taken[0], taken[-1]
    spent_s = (last.arrived_ns - first.arrived_ns) / 1e9
    return pixels, last.bits, {
        "frames": count,
        "incomplete": source.counts.incomplete,
        "lost": source.counts.lost,
        "rate_hz": (count - 1) / spent_s if spent_s else None,
        "trigger_to_picture_ms": sorted(waits_ns)[len(waits_ns) // 2] / 1e6
        if is_triggered else None,
        "frame_id": last.frame_id,
        "device_timestamp_ns": last.device_timestamp_ns,
        "is_simulated": source.is_simulated,
        **{key: value for key, value in figures.items() if key != "identical"},
    }  # fmt: skip


def _camera(path: Path, name: str, producer: str, serial: str, *, is_opened: bool = True) -> Camera:
    """The one of the configuration, or one made of a producer alone.

    is_opened: the command takes the device, so that no line may have it.
    """
    if producer:
        device = {"serial_number": serial} if serial else {}
        return Camera(name="camera", kind="genicam", producer=producer, device=device)
    config = load_config(path)
    cameras = config.camera
    names = [camera.name for camera in cameras]
    if name and name not in names:
        raise ConfigError("--camera", f"one of {', '.join(names)}", repr(name))
    camera = cameras[names.index(name) if name else 0]
    if camera.kind != "genicam":
        raise ConfigError(
            f"camera.{camera.name}.kind", '"genicam": a folder has no features', "files"
        )
    if is_opened and config.runtime_dir.is_dir():
        with Wiring(config.runtime_dir, config.wire.remote, config.keys_dir) as wiring:
            if wiring.is_served("trigger", camera.name):
                expected = "a line that is stopped: a running one owns its camera"
                raise ConfigError(f"camera.{camera.name}", expected, "its camera process")
    return camera


def _needs_packages() -> None:
    try:
        importlib.import_module("appliance.camera_genicam")
    except ImportError as err:  # not installed, or a library that it wants is not
        expected = "harvesters and genicam (extra camera, docs/install.md)"
        raise ConfigError("camera", expected, str(err)) from err


@contextmanager
def _opened(camera: Camera, mode: Mode) -> "Generator[GenicamSource]":
    """The device, set up; a DeviceError becomes one line and exit 1."""
    _needs_packages()
    from appliance.camera_genicam import GenicamSource

    source = GenicamSource(camera, mode, time.monotonic_ns)
    try:
        source.open()
        yield source
    except DeviceError as err:
        sys.stderr.write(f"inspectd: {err}\n")
        raise typer.Exit(1) from err
    finally:
        source.close()


@contextmanager
def _started(camera: Camera, is_triggered: bool, view: View) -> "Generator[GenicamSource]":
    """The device, taking pictures."""
    with _opened(camera, "plc" if is_triggered else "free") as source:
        source.configure(view)
        source.start()
        yield source


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
