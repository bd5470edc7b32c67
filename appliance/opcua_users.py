"""Who may call methods over OPC UA: names and scrypt hashes in `root/keys/opcua-users`, mode 0600.

There is no default user and no blank password. `inspectd opcua-user` writes the file.
"""

import hashlib
import hmac
import os
import sys
from getpass import getpass
from pathlib import Path
from typing import Annotated

import typer

from appliance.atomic import write_atomically
from appliance.config import load_config
from appliance.errors import ConfigError

SHORTEST = 10
_COST = 1 << 14
_SALT_BYTES = 16
_MOST_BYTES = 256


def users_file(keys_dir: Path) -> Path:
    """Where they are kept."""
    return keys_dir / "opcua-users"


def read_users(path: Path) -> dict[str, tuple[bytes, bytes]]:
    """Name → salt, hash; empty where there is no file. Raises ConfigError naming the line."""
    users: dict[str, tuple[bytes, bytes]] = {}
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return users
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(path, "a readable file of users", str(err)) from err
    for number, line in enumerate(text.splitlines(), 1):
        try:
            name, salt, digest = line.split(":")
            users[name] = bytes.fromhex(salt), bytes.fromhex(digest)
        except ValueError as err:
            raise ConfigError(f"{path}: line {number}", "name:salt:hash", "another text") from err
    return users


def is_password(users: dict[str, tuple[bytes, bytes]], name: str, password: str) -> bool:
    """Whether this is the user's password; an unknown user takes as long as a known one."""
    salt, digest = users.get(name, (b"\0" * _SALT_BYTES, b""))
    given = password.encode()[:_MOST_BYTES]
    return hmac.compare_digest(_digest(given, salt), digest) and name in users


def put_user(path: Path, name: str, password: str | None) -> None:
    """Add a user, change the password, or with None take the user away. Raises ConfigError."""
    users = read_users(path)
    if not name.isidentifier():
        raise ConfigError("user name", "letters, digits and _", repr(name))
    if password is None:
        if users.pop(name, None) is None:
            raise ConfigError(path, f"the user {name}", "no such user")
    else:
        if len(password) < SHORTEST:
            expected = f"at least {SHORTEST} characters"
            raise ConfigError("password", expected, f"{len(password)}")
        salt = os.urandom(_SALT_BYTES)
        users[name] = salt, _digest(password.encode()[:_MOST_BYTES], salt)
    text = "".join(f"{n}:{s.hex()}:{d.hex()}\n" for n, (s, d) in sorted(users.items()))
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(path, text.encode(), mode=0o600)


def main(
    name: Annotated[str, typer.Argument(help="Name of the user.")],
    config: Annotated[Path, typer.Option("--config", help="The integrator's config.toml.")] = Path(
        "config.toml"
    ),
    remove: Annotated[bool, typer.Option("--remove", help="Take this user away.")] = False,
) -> None:
    """Set the password of an OPC UA user; it is asked for, or read from standard input.

    The process `bus` reads the file at every log-in: nothing needs to be restarted.
    """
    path = users_file(load_config(config).keys_dir)
    if remove:
        put_user(path, name, None)
        return
    password = getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    put_user(path, name, password)


def _digest(password: bytes, salt: bytes) -> bytes:
    return hashlib.scrypt(password, salt=salt, n=_COST, r=8, p=1, dklen=32)
