"""TLS of page, tool, API and metrics: can the certificate be used?

Never: a key that others can read, a key with a passphrase (nobody is there to type it after a power
cut). `certificate.py` makes a first one.
"""

import ssl
import stat
from pathlib import Path
from typing import NamedTuple

from appliance.config import Config, Tls
from appliance.errors import CertificateError


class Files(NamedTuple):
    """What a server needs."""

    certificate: Path
    """PEM, the chain of its authorities after it."""
    key: Path
    """PEM."""


def files_of(config: Config) -> Files | None:
    """Certificate and key, proved to be usable; None without a section `[tls]`.

    Raises CertificateError naming the key of config.toml.
    """
    if config.tls is None:
        return None
    files = paths(config.root_dir, config.tls)
    certificate = _read("tls.certificate", files.certificate)
    if b"-----BEGIN CERTIFICATE-----" not in certificate:
        raise CertificateError(
            "tls.certificate", f"a PEM certificate in {files.certificate}", "none"
        )
    key = _read("tls.key", files.key)
    mode = stat.S_IMODE(files.key.stat().st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise CertificateError("tls.key", f"{files.key} with mode 0600", f"mode {mode:04o}")
    if b"PRIVATE KEY-----" not in key or b"ENCRYPTED" in key:
        got = "one with a passphrase" if b"ENCRYPTED" in key else "none"
        raise CertificateError("tls.key", f"a PEM key without a passphrase in {files.key}", got)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*files, password=lambda: b"")
    except (ssl.SSLError, ValueError) as err:
        expected = f"{files.certificate} and the key that belongs to it in {files.key}"
        got = str(getattr(err, "reason", None) or "damaged ones").replace("_", " ").lower()
        raise CertificateError("tls.certificate", expected, got) from err
    return files


def _read(key: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as err:
        expected = f"a PEM file at {path} (`inspectd certificate` makes one)"
        raise CertificateError(key, expected, err.strerror or str(err)) from err


def paths(root: Path, tls: Tls) -> Files:
    """Where they lie. root: of the installation."""
    return Files(root / tls.certificate, root / tls.key)
