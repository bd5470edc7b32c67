"""`config.toml` → frozen structs. Unknown keys are errors; loaded once.

The integrator owns this file: which cameras, addresses, wiring, PLC, storage, deadline. What an
engineer tunes per product is `recipe.py`, what training learnt is `bundle.py`. Durations are in the
unit that the key names.
"""

import hashlib
from pathlib import Path
from typing import Literal

import msgspec

from appliance.config_bus import Bus, ranges
from appliance.config_camera import Camera, camera_problem, camera_ranges
from appliance.config_challenge import ChallengePlan, challenge_problem
from appliance.config_io import Io, io_problem
from appliance.config_record import Record, record_ranges
from appliance.errors import ConfigError
from appliance.messages import camera_label
from appliance.toml_file import Section, read_toml

_WINDOW_SHARE = 0.4


class EngineFaults(Section, frozen=True, kw_only=True):
    """Faults that the null engine plays, for rehearsal and tests; every n-th frame, 0 = never."""

    nan_every: int = 0
    """One number of the map is NaN."""
    fail_every: int = 0
    """The runtime raises an error."""
    slow_every: int = 0
    slow_ms: int = 0
    hang_every: int = 0
    """The call never returns."""
    is_stuck_at_end: bool = False
    """The engine cannot be closed: that call never returns, either. No frame strikes it."""
    hoard_every: int = 0
    """Takes memory until it is refused, 1 GB at most."""


class Engine(Section, frozen=True, kw_only=True):
    """What runs the network on this box."""

    kind: Literal["onnx", "onnx-cuda", "openvino", "tensorrt", "null"] = "onnx"
    precision: Literal["fp32", "bf16", "fp16", "int8"] = "fp32"
    threads: int = 0
    """Of each worker; 0 = a worker's share of one less than the machine has cores, at least one."""
    workers: int = 1
    """infer processes, each with an engine of its own: they share the frames of every camera."""
    null_delay_ms: float = 0.0
    """Null engine only: pretends to work for so long, for one frame or several at once."""
    faults: EngineFaults = EngineFaults()
    """Null engine only."""


class Plc(Section, frozen=True, kw_only=True):
    """The Modbus TCP server that the PLC talks to."""

    host: str = "127.0.0.1"
    port: int = 5020
    allow: tuple[str, ...] = ()
    """Addresses that may write; empty = the first client that writes."""
    word_order: Literal["high_first", "low_first"] = "high_first"
    results: Literal["", "level", "ring"] = ""
    """"" = level with trigger "plc", ring with "hardware" and "free"."""
    heartbeat_timeout_ms: int = 500
    acknowledge_timeout_ms: int = 2000
    gate_timeout_ms: int = 2000
    """From NG or ERROR to the confirmed reject, where the PLC says that it has a sensor for it."""


class Hmi(Section, frozen=True, kw_only=True):
    """The web page."""

    is_enabled: bool = True
    host: str = "127.0.0.1"
    port: int = 8080
    tool_port: int = 0
    """Of the operator's tool, where limits are set after log-in; 0 = there is none."""


class Tls(Section, frozen=True, kw_only=True):
    """HTTPS: page, tool, API, metrics. Paths below root; `inspectd certificate` fills them."""

    certificate: str = "keys/page.crt"
    """PEM, the chain of its authorities after it."""
    key: str = "keys/page.key"
    """PEM without a passphrase, mode 0600."""


class Metrics(Section, frozen=True, kw_only=True):
    """Figures for Prometheus, on a port of their own."""

    host: str = "127.0.0.1"
    """There is no password: whoever reaches it may read."""
    port: int = 0
    """0 = off."""


class Alarms(Section, frozen=True, kw_only=True):
    """Raised while more than so many of the last 1000 parts are …; 1000 = never."""

    late: int = 1
    incomplete: int = 10
    """Without a whole picture: reasons 11 and 12."""
    image_health: int = 10
    """Reasons 13 and 21."""
    rejects: int = 13
    """NG, UNCERTAIN and ERROR: RejectRateAlarm. By chance once in 1000 windows at 0.5 % rejects."""


class Wire(Section, frozen=True, kw_only=True):
    """Channels that leave this box: "channel" or "channel-peer" → "tcp://host:port" with CURVE."""

    remote: dict[str, str] = msgspec.field(default_factory=dict[str, str])


class Config(Section, frozen=True, kw_only=True):
    """`config.toml`."""

    root: str
    """Everything below hangs off this directory; relative to the file's own directory."""
    deadline_ms: int
    """Travel time camera → gate, minus gate actuation, minus two PLC scans. Required."""
    trigger: Literal["plc", "hardware", "free"] = "plc"
    trigger_window_ms: float = 0.0
    """Hardware trigger: the furthest that a frame's exposure and its step of TriggerCount may lie
    apart; at most half the distance of two parts. 0 = 0.4 of that distance, 1 / rate_hz."""
    camera: tuple[Camera, ...]
    engine: Engine = Engine()
    plc: Plc = Plc()
    bus: Bus = Bus()
    io: Io | None = None
    challenge: ChallengePlan = ChallengePlan()
    alarms: Alarms = Alarms()
    record: Record = Record()
    hmi: Hmi = Hmi()
    tls: Tls | None = None
    """Without this section all of them are plain HTTP."""
    metrics: Metrics = Metrics()
    wire: Wire = Wire()
    runtime: str = "run"
    """Sockets and locks, mode 0700, below root or absolute."""
    rings: str = ""
    """Frame rings, mode 0700; "" = a directory in /dev/shm named after the root."""
    sysfs: str = "/sys"
    """Where the kernel shows what is throttled; another folder is for rehearsal."""
    procfs: str = "/proc"
    """Where it shows how much memory is left; another folder is for rehearsal."""
    restart_limit: int = 5
    """Crashes in 60 s before a process is a Fault and retried every 60 s; cameras twice that."""

    @property
    def cameras(self) -> tuple[str, ...]:
        """Their names, in the order of the file."""
        return tuple(camera.name for camera in self.camera)

    @property
    def workers(self) -> tuple[str, ...]:
        """Labels of the infer processes in health and set-ups."""
        return tuple(f"infer:{number}" for number in range(self.engine.workers))

    @property
    def peers(self) -> tuple[str, ...]:
        """Labels of all that a set-up is prepared in: a process for each camera, and infer."""
        return (*(camera_label(name) for name in self.cameras), *self.workers)

    @property
    def processes(self) -> tuple[str, ...]:
        """Labels of all without which no part has a verdict and a row, in the order of the line."""
        return (*self.peers, "decide", "record")

    @property
    def companions(self) -> tuple[str, ...]:
        """Processes beside the line that report health and judge nothing."""
        return (
            *(("bus",) if self.bus.is_used else ()),
            *(("hmi",) if self.hmi.is_enabled else ()),
            *(("metrics",) if self.metrics.port else ()),
        )

    def stale_ms(self, camera: Camera) -> int:
        """How late a trigger may be fired: one period of the line later another part may be in the
        picture."""
        return min(max(20, round(1000 / camera.rate_hz)), self.deadline_ms // 2)

    def is_elsewhere(self, label: str) -> bool:
        """This camera or infer process runs on another box: what prepares it goes there."""
        return f"prepare-{label.replace(':', '-')}" in self.wire.remote

    @property
    def results(self) -> Literal["level", "ring"]:
        """How the PLC fetches results."""
        if self.plc.results == "":
            return "level" if self.trigger == "plc" else "ring"
        return self.plc.results

    @property
    def rate_hz(self) -> float:
        """The closest that parts come, by the camera that expects them closest."""
        return max(camera.rate_hz for camera in self.camera)

    @property
    def window_ms(self) -> float:
        """Of a hardware trigger: see `trigger_window_ms`."""
        return self.trigger_window_ms or _WINDOW_SHARE * 1000 / self.rate_hz

    @property
    def root_dir(self) -> Path:
        """Absolute."""
        return Path(self.root)

    @property
    def runtime_dir(self) -> Path:
        """Absolute."""
        return self.root_dir / self.runtime

    @property
    def rings_dir(self) -> Path:
        """Absolute, in shared memory."""
        if self.rings:
            return self.root_dir / self.rings
        tag = hashlib.sha256(self.root.encode()).hexdigest()[:12]
        return Path(f"/dev/shm/inspectd-{tag}")

    @property
    def state_dir(self) -> Path:
        """Journal, last recipe: what must survive a crash."""
        return self.root_dir / "state"

    @property
    def recipes_dir(self) -> Path:
        """`ID/VERSION.toml`."""
        return self.root_dir / "recipes"

    @property
    def bundles_dir(self) -> Path:
        """One directory per bundle, by name."""
        return self.root_dir / "bundles"

    @property
    def engines_dir(self) -> Path:
        """`BUNDLE/KEY/`: what was built on this device."""
        return self.root_dir / "engines"

    @property
    def data_dir(self) -> Path:
        """Database, images, recordings."""
        return self.root_dir / "data"

    @property
    def recordings_dir(self) -> Path:
        """One directory per recording."""
        return self.data_dir / "recordings"

    @property
    def is_taped(self) -> bool:
        """Some camera is recorded."""
        return any(camera.record != "none" for camera in self.camera)

    @property
    def keys_dir(self) -> Path:
        """CURVE keys."""
        return self.root_dir / "keys"


def load_config(path: Path) -> Config:
    """`config.toml`, its root made absolute. Raises ConfigError."""
    config = read_toml(path, Config)
    if not config.camera:
        raise ConfigError(f"{path}: camera", "at least one [[camera]]", "none")
    if len(config.camera) > 1:
        _check_views(config, path)
    names = config.cameras
    for name in names:
        if not name.isidentifier():
            raise ConfigError(f"{path}: camera.name", "letters, digits and _", repr(name))
        if names.count(name) > 1:
            raise ConfigError(f"{path}: camera.name", "each name once", f"{name!r} twice")
    for camera in config.camera:
        if (problem := camera_problem(camera, config.trigger)) is not None:
            key, expected, got = problem
            raise ConfigError(f"{path}: {key}", expected, got)
    for key, value, low, high in (
        ("deadline_ms", config.deadline_ms, 1, 60_000),
        ("restart_limit", config.restart_limit, 0, 1000),
        ("trigger_window_ms", config.trigger_window_ms, 0, 60_000),
        ("engine.threads", config.engine.threads, 0, 1024),
        ("engine.workers", config.engine.workers, 1, 16),
        ("engine.null_delay_ms", config.engine.null_delay_ms, 0, 60_000),
        ("plc.port", config.plc.port, 1, 65_535),
        ("plc.heartbeat_timeout_ms", config.plc.heartbeat_timeout_ms, 100, 60_000),
        ("plc.gate_timeout_ms", config.plc.gate_timeout_ms, 1, 60_000),
        ("plc.acknowledge_timeout_ms", config.plc.acknowledge_timeout_ms, 1, 60_000),
        ("alarms.late", config.alarms.late, 0, 1000),
        ("alarms.incomplete", config.alarms.incomplete, 0, 1000),
        ("alarms.image_health", config.alarms.image_health, 0, 1000),
        ("alarms.rejects", config.alarms.rejects, 0, 1000),
        ("hmi.port", config.hmi.port, 1, 65_535),
        *record_ranges(config.record),
        *ranges(config.bus),
        ("metrics.port", config.metrics.port, 0, 65_535),
        ("hmi.tool_port", config.hmi.tool_port, 0, 65_535),
        *(row for camera in config.camera for row in camera_ranges(camera)),
    ):
        if not low <= value <= high:  # NaN is in no range
            raise ConfigError(f"{path}: {key}", f"{low} to {high}", str(value))
    if config.hmi.is_enabled and config.hmi.port == config.plc.port:
        expected = f"another port than plc.port = {config.plc.port}"
        raise ConfigError(f"{path}: hmi.port", expected, str(config.hmi.port))
    if config.trigger == "hardware":
        _check_hardware(config, path)
    io = config.io
    if io is not None and (problem := io_problem(io, config.rate_hz)) is not None:
        key, expected, got = problem
        raise ConfigError(f"{path}: {key}", expected, got)
    if (problem := challenge_problem(config.challenge, config.trigger)) is not None:
        key, expected, got = problem
        raise ConfigError(f"{path}: {key}", expected, got)
    if io is not None and io.trigger >= 0 and config.results != "level":
        expected = 'trigger "plc" and results "level" with io.trigger'
        raise ConfigError(f"{path}: io.trigger", expected, f"{config.trigger}, {config.results}")
    if config.hmi.tool_port in (config.plc.port, config.hmi.port):
        expected = "another port than plc.port and hmi.port"
        raise ConfigError(f"{path}: hmi.tool_port", expected, str(config.hmi.tool_port))
    if config.trigger != "plc" and config.results == "level":
        expected = f'"ring" with trigger "{config.trigger}"'
        raise ConfigError(f"{path}: plc.results", expected, '"level"')
    return msgspec.structs.replace(config, root=str((path.parent / config.root).resolve()))


def _check_views(config: Config, path: Path) -> None:
    """What it takes that the views of one part are known to be of one part."""
    if config.trigger == "free":
        expected = '"plc" or "hardware": in free run nothing says which pictures are of one part'
        raise ConfigError(f"{path}: trigger", f"with several cameras {expected}", '"free"')
    for channel in ("trigger", "frames"):
        if channel in config.wire.remote:
            expected = f"an address for each camera, {channel}-{config.cameras[0]} …"
            raise ConfigError(f"{path}: wire.remote", expected, f"{channel} for all of them")


def _check_hardware(config: Config, path: Path) -> None:
    """What a hardware trigger needs so that no frame can be taken for its neighbour's."""
    for camera in config.camera:
        if camera.kind == "files":
            where = f"{path}: camera.{camera.name}.kind"
            raise ConfigError(where, 'a device with a trigger input: "genicam"', '"files"')
        longest_ms = 500 / camera.rate_hz
        if config.window_ms > longest_ms:
            where = f"{path}: trigger_window_ms"
            expected = f"at most {longest_ms:g}, half the distance of parts at {camera.rate_hz:g}/s"
            raise ConfigError(where, expected, f"{config.window_ms:g}")


def is_simulated(config: Config) -> bool:
    """No verdict of this line may be believed: its pictures or its engine are none."""
    is_shown = any(camera.kind == "files" for camera in config.camera)
    return is_shown or config.engine.kind == "null"
