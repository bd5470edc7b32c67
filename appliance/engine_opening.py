"""From a bundle to an engine: which graph of it, by which runtime, and under which passport.

Here alone the kinds of `config.toml` become adapters. Nothing is built but the graph with its head
for one frame size, which is kept; a plan of TensorRT is there, as it was proved, or refused.
"""

import contextlib
import hashlib
import os
from pathlib import Path

import msgspec
import onnx
from google.protobuf.message import DecodeError

from appliance import config
from appliance.atomic import write_atomically
from appliance.bundle import Bundle
from appliance.codes import OfflineReason
from appliance.engine import Engine, Spec
from appliance.errors import ArtefactError
from appliance.head import Sums, head_model, merged_network
from appliance.passport import Passport, read_record

GRAPHS = ("network.onnx", "network.plain.onnx", "network.last.onnx", "network.winograd.onnx")
"""Of one network: the exact one, and where export wrote them, the published one and two other forms
of the exact one."""


def thread_count(settings: config.Engine) -> int:
    """Threads for one network: as configured, else its share of one less than there are cores."""
    return settings.threads or max(1, (len(os.sched_getaffinity(0)) - 1) // settings.workers)


def passport_of(settings: config.Engine, bundle: Bundle, cache: Path) -> Passport:
    """Who this bundle runs as on this box. Raises ArtefactError where no such engine is there.

    Of several graphs the one that `inspectd engine` found to be the fastest, else the exact one.
    cache: `config.engines_dir`.
    """
    exact, *others = passports_of(settings, bundle)
    for other in others:
        folder = other.folder(cache)
        if (folder / "passport.json").exists() and read_record(folder, other).is_faster:
            return other
    return exact


def passports_of(settings: config.Engine, bundle: Bundle) -> tuple[Passport, ...]:
    """The same of each graph that the bundle has for this precision, the exact one first."""
    adapter = _adapter(settings)
    adapter.require_precision(settings.precision)
    device, driver = adapter.device()
    files = _graphs(settings.precision)
    hashes = [bundle.manifest.files[name] for name in files if name in bundle.manifest.files]
    return tuple(
        Passport(
            bundle=bundle.id,
            network=network,
            kind=adapter.kind,
            runtime=adapter.runtime,
            precision=settings.precision,
            threads=thread_count(settings) if adapter.uses_threads else 0,
            device=device,
            driver=driver,
        )
        for network in hashes or [""]
    )


def open_engine(
    settings: config.Engine,
    bundle: Bundle,
    height_px: int,
    width_px: int,
    channels: int,
    cache: Path,
    passport: Passport | None = None,
) -> Engine:
    """An engine for frames of this size. Raises ArtefactError: what was expected, what came.

    cache: `config.engines_dir`; the graph with its head for this size is kept there. passport: None
    = what `passport_of` says.
    """
    manifest = bundle.manifest
    if (settings.kind == "null") != (manifest.kind == "null"):
        raise ArtefactError(
            bundle.path("manifest.json"),
            f"a bundle for the engine kind {settings.kind}",
            f"kind {manifest.kind}",
        )
    spec = spec_for(bundle, height_px, width_px, channels)
    engine = _opened(settings, bundle, spec, cache, passport)
    grid = manifest.input.grid(height_px, width_px)
    if grid is None:
        return engine
    from appliance.engine_tiled import TiledEngine

    whole = msgspec.structs.replace(
        spec,
        height_px=height_px,
        width_px=width_px,
        map_shape=(len(manifest.detectors), *manifest.input.map_size),
    )
    try:
        return TiledEngine(engine, whole, grid)
    except ArtefactError:
        engine.close()
        raise


def _opened(
    settings: config.Engine, bundle: Bundle, spec: Spec, cache: Path, passport: Passport | None
) -> Engine:
    """What calls the runtime: for whole frames, or for one tile of them."""
    if settings.kind == "null":
        from appliance.engine_null import NullEngine

        return NullEngine(spec, settings.null_delay_ms, settings.faults)
    adapter = _adapter(settings)
    passport = passport or passport_of(settings, bundle, cache)
    if settings.kind == "tensorrt":
        return adapter(spec, read_plan(passport, spec, cache), settings.precision, 0)
    model = _merged(bundle, network_file(bundle, passport), spec, adapter.sums, cache)
    return adapter(spec, model, settings.precision, thread_count(settings))


def spec_for(bundle: Bundle, height_px: int, width_px: int, channels: int) -> Spec:
    """What the runtime takes and gives for frames of this size: of one tile, where they are cut."""
    manifest = bundle.manifest
    tiles = manifest.input.tiles
    if tiles is not None:
        height_px, width_px = tiles.height_px, tiles.width_px
    return Spec(
        height_px=height_px,
        width_px=width_px,
        channels=channels,
        map_shape=(len(manifest.detectors), *manifest.input.network_size),
    )


def plan_name(spec: Spec) -> str:
    """File of the plan for frames of this size, beside its passport."""
    return f"{spec.height_px}x{spec.width_px}.plan"


def read_plan(passport: Passport, spec: Spec, cache: Path) -> bytes:
    """The engine that was built here under this passport. Raises ArtefactError.

    A line builds none: an hour of building is no way to start, and what was never proved is no
    engine.
    """
    folder = passport.folder(cache)
    path = folder / plan_name(spec)
    if not path.exists():
        command = f"inspectd engine --precision {passport.precision}"
        expected = f"an engine for {spec.frame_shape}, built here by `{command}`"
        raise ArtefactError(path, expected, "none")
    built = read_record(folder, passport).engines.get(path.name)
    if built is None:
        raise ArtefactError(folder / "passport.json", f"an entry for {path.name}", "none")
    try:
        data = path.read_bytes()
    except OSError as err:
        raise ArtefactError(path, "a readable engine", err.strerror or str(err)) from err
    digest = hashlib.sha256(data).hexdigest()
    if digest != built.sha256:
        raise ArtefactError(
            path, f"SHA-256 {built.sha256[:12]}…", f"{digest[:12]}…", OfflineReason.PASSPORT
        )
    return data


def _adapter(settings: config.Engine) -> type[Engine]:
    """The adapter, imported on first use: each drags in its SDK."""
    try:
        if settings.kind == "onnx":
            from appliance.engine_onnx import OnnxEngine as Adapter
        elif settings.kind == "onnx-cuda":
            from appliance.engine_onnx import OnnxCudaEngine as Adapter
        elif settings.kind == "openvino":
            from appliance.engine_openvino import OpenVinoEngine as Adapter
        elif settings.kind == "tensorrt":
            from appliance.engine_tensorrt_sdk import InstalledTensorRt as Adapter
        else:
            from appliance.engine_null import NullEngine as Adapter
    except ImportError as err:
        raise ArtefactError(
            "engine.kind", f"the extra `{settings.kind}` installed", str(err)
        ) from err
    return Adapter


def network_file(bundle: Bundle, passport: Passport) -> str:
    """The graph that runs under this passport. Raises ArtefactError where the bundle has none."""
    files = bundle.manifest.files
    names = _graphs(passport.precision)
    for name in names:
        if files.get(name, "") == passport.network != "":
            return name
    raise ArtefactError(bundle.path(names[0]), f"{names[0]} in the bundle", "none")


def _graphs(precision: str) -> tuple[str, ...]:
    """Files that may run in this precision, the first one of them wherever nothing was measured.

    The runtimes make other precisions of these graphs, but int8 needs a network that was
    calibrated, and Winograd's transforms multiply what a number of few bits was rounded by.
    """
    if precision == "int8":
        return ("network.int8.onnx",)
    return GRAPHS if precision == "fp32" else GRAPHS[:-1]


def _merged(bundle: Bundle, file: str, spec: Spec, sums: Sums, cache: Path) -> bytes:
    """The network with its head for this frame size, from the cache or built and kept there.

    The key covers all that goes into the graph; the file is used only while it has the hash that
    was noted beside it. A cache that cannot be written costs time at the next start, nothing else.
    """
    path = bundle.path(file)
    contract = bundle.manifest.input
    head = head_model(contract, *spec.frame_shape, sums).SerializeToString(deterministic=True)
    key = hashlib.sha256(bundle.manifest.files[file].encode() + head).hexdigest()[:16]
    kept = cache / bundle.id / f"{key}.onnx"
    noted = kept.with_suffix(".sha256")
    with contextlib.suppress(OSError):
        data = kept.read_bytes()
        if hashlib.sha256(data).hexdigest().encode() == noted.read_bytes():
            return data
    try:
        network = onnx.load(str(path))
    except (OSError, ValueError, DecodeError) as err:
        raise ArtefactError(path, "an ONNX network", str(err)) from err
    merged = merged_network(network, contract, *spec.frame_shape, sums)
    data = merged.SerializeToString()
    with contextlib.suppress(OSError):
        write_atomically(kept, data)
        write_atomically(noted, hashlib.sha256(data).hexdigest().encode())
    return data
