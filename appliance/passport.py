"""Who makes a map, and when that was last proved: the two small files beside every engine.

`passport.json` names all that a map depends on: bundle, network, runtime, precision, device,
driver, and the hash of every engine that was built. `proof.json` says when the golden frames were
last reproduced. Neither is trusted: a passport must have the id that its content gives, and a
proof from before this boot, or of another engine, counts for nothing.

A builder chooses by measuring, so two plans of one network may add in another order: a score bears
the passport with the plan that gave it. The folder is that of the passport without one, which is
known before anything is built.
"""

import contextlib
import hashlib
import platform
import time
from pathlib import Path
from typing import Literal

import msgspec

from appliance.atomic import write_atomically
from appliance.errors import ArtefactError
from appliance.toml_file import Section

DAY_NS = 24 * 3600 * 1_000_000_000


class Passport(Section, frozen=True, kw_only=True):
    """What makes a map: the same passport and the same frame give the same verdict."""

    bundle: str
    """Id of the bundle: the hash of its manifest, which holds the hashes of all its files."""
    network: str
    """SHA-256 of the network in the bundle that runs; "" = the null engine."""
    kind: str
    runtime: str
    precision: str
    threads: int
    device: str
    """Processor, or GPU with its compute capability."""
    driver: str = ""
    plan: str | msgspec.UnsetType = msgspec.UNSET
    """SHA-256 of what was built of the network, and runs. Unset, and no part of the id: nothing is
    built, or it is not known yet."""

    @property
    def id(self) -> str:
        """Short hash of all fields."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:16]

    def with_plan(self, plan: str) -> "Passport":
        """Of what is loaded. plan: as `Engine.plan`; "" = the network itself runs."""
        return msgspec.structs.replace(self, plan=plan or msgspec.UNSET)

    def folder(self, cache: Path) -> Path:
        """`engines/BUNDLE/PASSPORT`, for all plans. cache: `config.engines_dir`."""
        return cache / self.bundle / self.with_plan("").id


class Built(Section, frozen=True, kw_only=True):
    """An engine that was built on this device."""

    sha256: str
    passport: str = ""
    """Id of the passport with this plan: what its scores bear."""
    batch: int
    layers: dict[str, int]
    """Precision → layers that the inspector found in it."""
    built_utc: str


class Record(Section, frozen=True, kw_only=True):
    """`passport.json`."""

    id: str
    passport: Passport
    engines: dict[str, Built] = msgspec.field(default_factory=dict[str, Built])
    """File beside this one → what it is; none where the runtime builds nothing."""
    is_faster: bool = False
    """Measured here against the bundle's other graphs: this one is to run."""


class Proof(Section, frozen=True, kw_only=True):
    """`proof.json`: what was measured when a set-up was last proved with all golden frames."""

    setup_hash: str
    passport: str
    """Id of who reproduced them, its plan included."""
    boot: str
    """Identity of the boot; "" = unknown, which proves nothing to the next start."""
    at_s: float
    """Seconds since that boot."""
    checked_utc: str
    golden_frames: int
    golden_deviation: float
    tolerance: float
    warm_up_p99_ms: float
    hang_limit_ms: float


def cpu_name() -> str:
    """The processor's name; on ARM, where it has none, its part numbers."""
    fields: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    except OSError:
        return platform.machine()
    if "model name" in fields:
        return fields["model name"]
    parts = (fields.get(key, "") for key in ("CPU implementer", "CPU part", "CPU variant"))
    return f"{platform.machine()} {' '.join(parts)}".strip()


def read_record(folder: Path, passport: Passport) -> Record:
    """The passport in `folder`. Raises ArtefactError: none, damaged, or of another engine."""
    path = folder / "passport.json"
    try:
        record = msgspec.json.decode(path.read_bytes(), type=Record)
    except OSError as err:
        raise ArtefactError(path, "the passport of an engine", err.strerror or str(err)) from err
    except msgspec.DecodeError as err:
        raise ArtefactError(path, "the passport of an engine", str(err)) from err
    for name in Passport.__struct_fields__:
        wanted, got = getattr(passport, name), getattr(record.passport, name)
        if wanted != got:
            raise ArtefactError(path, f"{name} {wanted}", str(got))
    if record.id != passport.id:
        raise ArtefactError(path, f"the id {passport.id}", record.id)
    return record


def write_record(folder: Path, record: Record) -> None:
    """Raises OSError."""
    data = msgspec.json.format(msgspec.json.encode(record), indent=1)
    write_atomically(folder / "passport.json", data)


def boot_id() -> str:
    """Identity of this boot of the machine; "" where the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def seconds_since_boot() -> float:
    """Sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def golden_due(folder: Path, setup_hash: str, passport: str) -> Literal["all", "two"]:
    """How many golden frames a start must reproduce.

    Two where this very set-up was proved with all of them since this boot and less than a day ago,
    by the same engine: the process crashed or was restarted, and nothing else changed. Otherwise
    all. passport: the id of the engine that is loaded.
    """
    with contextlib.suppress(OSError, msgspec.DecodeError):
        proof = msgspec.json.decode((folder / "proof.json").read_bytes(), type=Proof)
        age_s = seconds_since_boot() - proof.at_s
        is_same = (proof.setup_hash, proof.passport) == (setup_hash, passport)
        is_this_boot = proof.boot and proof.boot == boot_id()
        if is_same and is_this_boot and 0 <= age_s < DAY_NS / 1e9:
            return "two"
    return "all"


def write_proof(folder: Path, proof: Proof) -> None:
    """Raises OSError."""
    data = msgspec.json.format(msgspec.json.encode(proof), indent=1)
    write_atomically(folder / "proof.json", data)
