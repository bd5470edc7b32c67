"""The CURVE keys with which two boxes know each other: one pair for a box, made on first use.

A file of pyzmq's own format for each key. Whoever owns an address is known by `HOST.key` (or
`server.key`, for all hosts without one), whoever may connect by a file in `allowed/`.
"""

import os
from pathlib import Path

import zmq.auth

from appliance.errors import ConfigError


def curve_keys(folder: Path, name: str) -> tuple[bytes, bytes]:
    """Public and secret CURVE key of `name`, made on first use, the secret readable by us alone."""
    secret_file = folder / f"{name}.key_secret"
    if not secret_file.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        old_mask = os.umask(0o077)
        try:
            zmq.auth.create_certificates(folder, name)
        finally:
            os.umask(old_mask)
    expected = "a CURVE secret key"
    public, secret = _load_key(secret_file, expected)
    if secret is None:
        raise ConfigError(secret_file, expected, "a public key only")
    return public, secret


def key_of(folder: Path, host: str) -> Path:
    """File of the public key that whoever owns an address at `host` must show."""
    own = folder / f"{host}.key"
    return own if own.exists() else folder / "server.key"


def server_key(folder: Path, host: str) -> bytes:
    """That key itself. Raises ConfigError where there is none."""
    public, _ = _load_key(key_of(folder, host), f"the public CURVE key of {host}")
    return public


def _load_key(file: Path, expected: str) -> tuple[bytes, bytes | None]:
    try:
        return zmq.auth.load_certificate(file)
    except FileNotFoundError as err:
        raise ConfigError(file, expected, "no such file") from err
    except (OSError, ValueError) as err:
        raise ConfigError(file, expected, str(err)) from err
