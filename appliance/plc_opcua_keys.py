"""Key and certificate of the OPC UA server: made where there are none, else left alone.

Clients trust a certificate once. Another one, or one that ran out, is a connection that a person
has to mend: ours holds for ten years, and nothing that the plant put there is ever replaced.
"""

import datetime
import socket
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from appliance.atomic import write_atomically
from appliance.errors import CertificateError

_DAYS = 3650
_OURS = "inspectd"


def application_uri() -> str:
    """What the server calls itself; its certificate must say the same."""
    return f"urn:{socket.gethostname()}:inspectd"


def key_files(folder: Path) -> tuple[Path, Path]:
    """Key (PEM) and certificate (DER)."""
    return folder / "server.key.pem", folder / "server.der"


def make_keys(folder: Path) -> None:
    """Those of a first start, and a certificate of ours anew that ran out or names another box.

    Raises CertificateError, OSError.
    """
    key_file, file = key_files(folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not key_file.exists():
        key = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
        write_atomically(
            key_file,
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
            0o600,
        )
    if key_file.stat().st_mode & 0o077:
        key_file.chmod(0o600)
    if not file.exists() or _is_stale(_certificate(file)):
        made = _made(_key(key_file))
        write_atomically(file, made.public_bytes(serialization.Encoding.DER), 0o600)
    check_keys(folder)


def check_keys(folder: Path) -> None:
    """Raises CertificateError where what lies there could not be served; nothing may be there."""
    key_file, file = key_files(folder)
    key = _key(key_file) if key_file.exists() else None
    certificate = _certificate(file) if file.exists() else None
    if key and certificate and key.public_key() != certificate.public_key():
        raise CertificateError(file, f"the certificate of {key_file}", "that of another key")


def _made(key: rsa.RSAPrivateKey) -> x509.Certificate:
    """As OPC 10000-6 6.2.2 wants one."""
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, _OURS),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, _OURS),
        ]
    )
    number, now = x509.random_serial_number(), datetime.datetime.now(datetime.timezone.utc)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=True, key_encipherment=True,
        data_encipherment=True, key_agreement=False, key_cert_sign=True, crl_sign=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip
    names = [
        x509.UniformResourceIdentifier(application_uri()),
        x509.DNSName(socket.gethostname()),
    ]
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(number)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
        .add_extension(identifier, False)
        .add_extension(
            x509.AuthorityKeyIdentifier(identifier.digest, [x509.DirectoryName(name)], number),
            False,
        )
        .add_extension(x509.SubjectAlternativeName(names), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), False)
        .add_extension(usage, False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
        .sign(key, hashes.SHA256())
    )


def _is_stale(certificate: x509.Certificate) -> bool:
    """It is ours, and of no use any more."""
    owners = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    if certificate.issuer != certificate.subject or all(o.value != _OURS for o in owners):
        return False
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    known = names.get_values_for_type(x509.UniformResourceIdentifier)
    now = datetime.datetime.now(datetime.timezone.utc)
    is_valid = certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc
    return not (is_valid and application_uri() in known)


def _key(file: Path) -> rsa.RSAPrivateKey:
    try:
        key = serialization.load_pem_private_key(file.read_bytes(), None)
    except (OSError, ValueError, TypeError) as err:
        expected = "an RSA key in PEM without a passphrase"
        raise CertificateError(file, expected, str(err)) from err
    if not isinstance(key, rsa.RSAPrivateKey):
        raise CertificateError(file, "an RSA key in PEM", type(key).__name__)
    return key


def _certificate(file: Path) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(file.read_bytes())
    except (OSError, ValueError) as err:
        raise CertificateError(file, "a certificate in DER", str(err)) from err
