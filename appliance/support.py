"""`inspectd doctor --bundle FILE`: what support needs to know of a box, and no secret, in one file.

Enters: configuration and recipes as text, manifests, passports, the newest health and words of a
running line, log and state of the units, figures of the machine. Leaves: one .tar.gz, mode 0600.
Never: keys, certificates, passwords, people, pictures, parts, weights. Only files of known names
are read, and values of keys that sound secret are taken out of those, too.
"""

import io
import os
import re
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from appliance.atomic import write_atomically
from appliance.audit import AuditJournal
from appliance.config import Config
from appliance.errors import ConfigError
from appliance.messages import Health, Words
from appliance.wire import Wiring

_LISTEN_S = 1.0
_COMMAND_S = 10.0
_TEXT_BYTES = 1 << 20
_KEY = r"(?:pass(?:word|wd|phrase)|secret|token|credential|private)[\w.-]{0,40}[\"']?\s*[=:]\s*"
_VALUE = (
    r"(?:\"{3}.*?\"{3}|'{3}.*?'{3}"  # TOML's, over many lines
    r'|(?P<quote>["\'])(?:\\.|(?!(?P=quote))[^\\\n])*(?P=quote)'
    r'|[^\s&"]+)'
)
_SECRET = re.compile(f"({_KEY}){_VALUE}", re.IGNORECASE | re.DOTALL)
_SECRET_LINE = re.compile(rf"^([ \t]*\"?[\w.-]{{0,40}}{_KEY}).*$", re.IGNORECASE | re.MULTILINE)
"""A line that begins with such a key: nothing of its value stays, whatever its quotes are."""
_COMMANDS = {
    "log.txt": ("journalctl", "--no-pager", "--lines=5000", "--unit=inspectd*"),
    "units.txt": ("systemctl", "--no-pager", "--full", "status", "inspectd*"),
    "kernel.txt": ("journalctl", "--no-pager", "--dmesg", "--lines=1000"),
    "disks.txt": ("df", "--human-readable", "--print-type"),
    "interfaces.txt": ("ip", "-statistics", "link"),
    "usb.txt": ("lsusb",),
    "gpu.txt": ("nvidia-smi", "-q"),
}
_MACHINE = (
    "/etc/os-release",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/loadavg",
    "/proc/uptime",
    "/proc/interrupts",
)


def write_bundle(path: Path, config: Config, config_path: Path, report: bytes) -> list[str]:
    """The archive at `path`; returns the names in it. Raises ConfigError: it cannot be written.

    report: what doctor found, as JSON.
    """
    names: list[str] = []
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name, content in (("doctor.json", report), *_contents(config, config_path)):
            entry = tarfile.TarInfo(f"inspectd-support/{name}")
            entry.size, entry.mtime, entry.mode = len(content), int(time.time()), 0o600
            archive.addfile(entry, io.BytesIO(content))
            names.append(name)
    try:
        write_atomically(path, data.getvalue(), mode=0o600)
    except OSError as err:
        raise ConfigError(path, "a file that can be written", str(err)) from err
    return names


def without_secrets(text: str) -> str:
    """Values of keys that sound secret, anywhere in a line, and logins in addresses, are gone."""
    text = re.sub(r"\S+", _without_login, text)
    return _SECRET_LINE.sub(r"\1…", _SECRET.sub(r"\1…", text))


def _without_login(word: re.Match[str]) -> str:
    """A password may hold a slash or an @, too: all up to the last @ goes."""
    before, slashes, login = word[0].partition("://")
    return f"{before}://…@{login.rpartition('@')[2]}" if slashes and "@" in login else word[0]


def _contents(config: Config, config_path: Path) -> Iterator[tuple[str, bytes]]:
    root = config.root_dir
    known = [
        ("config.toml", config_path),
        ("products.toml", root / "products.toml"),
        ("last_recipe", config.state_dir / "last_recipe"),
        *_below(root, config.recipes_dir, "*/*.toml"),
        *_below(root, config.bundles_dir, "*/manifest.json"),
        *_below(root, config.engines_dir, "*/*/passport.json"),
        *((f"machine{path}", Path(path)) for path in _MACHINE),
        *((f"machine{path}", path) for path in _sensors()),
    ]
    for name, path in known:
        yield name, _text(lambda path=path: path.read_text(errors="replace"))
    for name, command in _COMMANDS.items():
        yield name, _text(lambda command=command: _output(command))
    yield "audit.txt", _text(lambda: _audit(config))
    yield "files.txt", _text(lambda: _sizes(root))
    yield from _live(config)


def _text(read: Callable[[], str]) -> bytes:
    """The end of it without secrets; an error is worth knowing, too."""
    try:
        text = read()
    except (OSError, subprocess.SubprocessError) as err:
        text = f"not there: {err}\n"
    return without_secrets(text).encode(errors="replace")[-_TEXT_BYTES:]


def _below(root: Path, folder: Path, pattern: str) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.glob(pattern)):
        yield path.relative_to(root).as_posix(), path


def _sensors() -> Iterator[Path]:
    """Temperatures, throttling, link speeds and errors, as the kernel has them."""
    for folder, patterns in (
        ("/sys/class/thermal", ("thermal_zone*/type", "thermal_zone*/temp")),
        ("/sys/devices/system/cpu", ("cpu*/thermal_throttle/*count",)),
        ("/sys/class/net", ("*/speed", "*/mtu", "*/statistics/rx_*", "*/statistics/tx_errors")),
    ):
        for pattern in patterns:
            yield from sorted(Path(folder).glob(pattern))


def _output(command: tuple[str, ...]) -> str:
    if shutil.which(command[0]) is None:
        return f"{command[0]} is not installed\n"
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=_COMMAND_S, check=False
    )
    return done.stdout + done.stderr


def _audit(config: Config) -> str:
    finding = AuditJournal(config).verify()
    problems = "".join(f"{problem}\n" for problem in finding.problems)
    return f"{problems}{finding.head.number} entries, head {finding.head.hash}\n"


def _sizes(root: Path) -> str:
    """Names and sizes alone, pictures and keys left out."""
    lines: list[str] = []
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if name not in ("images", "keys", "recordings")]
        for file in files:
            path = Path(folder, file)
            lines.append(f"{path.lstat().st_size:12} {path.relative_to(root)}\n")
    return "".join(sorted(lines, key=lambda line: line[13:]))


def _live(config: Config) -> Iterator[tuple[str, bytes]]:
    """The newest words and health of a line that runs here."""
    heard: dict[str, Health | Words] = {}
    if not config.runtime_dir.is_dir():
        return
    with Wiring(config.runtime_dir) as wiring:
        processes = (*config.processes, *config.companions)
        live, health = wiring.receiver("live"), wiring.receiver("health", *processes)
        end = time.monotonic() + _LISTEN_S
        while time.monotonic() < end:
            for receiver in (live, health):
                while (message := receiver.receive()) is not None:
                    if isinstance(message, Words):
                        heard["words"] = message
                    elif isinstance(message, Health):
                        heard[f"health-{message.process.replace(':', '-')}"] = message
            time.sleep(0.02)
    for name, message in sorted(heard.items()):
        text = msgspec.json.format(msgspec.json.encode(message)).decode()
        yield f"live/{name}.json", without_secrets(text).encode()
