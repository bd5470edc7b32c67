"""`inspectd certificate`: a first certificate for `[tls]`, and what is to be said of one.

It signs itself: a browser asks once whether it is the right one. A plant with an authority of its
own puts its files in the same place.
"""

import datetime
import ipaddress
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from appliance.atomic import write_atomically
from appliance.config import Tls, load_config
from appliance.errors import CertificateError, ConfigError
from appliance.tls import Files, paths

_DAYS = 3650
_SOON_DAYS = 30


def describe(files: Files) -> tuple[bool, str]:
    """Whether it holds for a month more, and whom it names. Raises CertificateError."""
    try:
        certificate = x509.load_pem_x509_certificates(files.certificate.read_bytes())[0]
    except (OSError, ValueError, IndexError) as err:
        raise CertificateError("tls.certificate", "a PEM certificate", str(err)) from err
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        said = ", ".join(str(name.value) for name in names)
    except x509.ExtensionNotFound:
        said = "nobody: browsers will refuse it"
    now = datetime.datetime.now(datetime.timezone.utc)
    until = certificate.not_valid_after_utc
    is_young = certificate.not_valid_before_utc <= now
    is_good = is_young and until > now + datetime.timedelta(days=_SOON_DAYS)
    return is_good, f"for {said}; until {until:%Y-%m-%d}" + ("" if is_young else ", not yet valid")


def main(
    config: Annotated[Path, typer.Option(help="The integrator's config.toml.")] = Path(
        "config.toml"
    ),
    name: Annotated[
        list[str] | None,
        typer.Option(help="Further names or addresses of this box, as browsers will call it."),
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=36_500, help="How long it holds.")] = _DAYS,
    replace: Annotated[bool, typer.Option("--replace", help="Instead of one that is there.")] = (
        False
    ),
) -> None:
    """A certificate that signs itself, for `[tls]`; one that is there stays unless --replace."""
    loaded = load_config(config)
    files = paths(loaded.root_dir, loaded.tls or Tls())
    missing = [path for path in files if not path.exists()]
    if not missing and not replace:
        sys.stderr.write(f"inspectd: {files.certificate} is there and stays\n")
        return
    if len(missing) == 1 and not replace:
        there = next(path for path in files if path not in missing)
        expected = f"certificate and key, or neither: {there} is there (--replace makes both anew)"
        key = "tls.certificate" if missing == [files.certificate] else "tls.key"
        raise CertificateError(key, expected, f"no {missing[0]}")
    names = [socket.gethostname(), "localhost", "127.0.0.1", "::1", *(name or [])]
    certificate, key = make(tuple(dict.fromkeys(names)), days)
    try:
        files.key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(files.key, key, 0o600)
        write_atomically(files.certificate, certificate, 0o600)
    except OSError as err:
        raise ConfigError(files.key.parent, "a folder that can be written", str(err)) from err
    said = "" if loaded.tls else f"; it is used once {config} has a section [tls]"
    sys.stderr.write(f"inspectd: {files.certificate}: for {', '.join(names)}{said}\n")


def make(names: tuple[str, ...], days: int) -> tuple[bytes, bytes]:
    """Certificate and key, PEM. names: host names and addresses, the first one is its subject."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    begin = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=days + 1))
        .add_extension(x509.SubjectAlternativeName([_named(name) for name in names]), False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return certificate.public_bytes(serialization.Encoding.PEM), secret


def _named(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError as err:
        raise ConfigError("--name", "a host name in ASCII or an address", repr(name)) from err
