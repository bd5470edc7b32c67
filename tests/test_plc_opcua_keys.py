"""Key and certificate of the OPC UA server: made once, for long, and never in another's place."""

import datetime
from pathlib import Path

import pytest

pytest.importorskip("cryptography")

from cryptography import x509

from appliance import plc_opcua_keys as keys
from appliance.errors import CertificateError
from appliance.plc_opcua_keys import application_uri, check_keys, key_files, make_keys


def certificate(folder: Path) -> x509.Certificate:
    return x509.load_der_x509_certificate(key_files(folder)[1].read_bytes())


def test_they_are_made_once_and_hold_for_ten_years(tmp_path: Path) -> None:
    folder = tmp_path / "keys" / "opcua"
    make_keys(folder)
    key, made = (file.read_bytes() for file in key_files(folder))
    assert key_files(folder)[0].stat().st_mode & 0o077 == 0
    in_nine_years = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=9 * 365)
    assert certificate(folder).not_valid_after_utc > in_nine_years
    names = certificate(folder).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.UniformResourceIdentifier) == [application_uri()]
    make_keys(folder)
    assert [key, made] == [file.read_bytes() for file in key_files(folder)]


def test_ours_that_ran_out_is_made_anew_with_the_same_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as short:
        short.setattr(keys, "_DAYS", 0)
        make_keys(tmp_path)
    old = certificate(tmp_path)
    make_keys(tmp_path)
    assert certificate(tmp_path).serial_number != old.serial_number
    assert certificate(tmp_path).public_key() == old.public_key()


def test_what_the_plant_put_there_is_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it ran out, or names another box: a person will say what comes next."""
    with monkeypatch.context() as plant:
        plant.setattr(keys, "_OURS", "plant")
        plant.setattr(keys, "_DAYS", 0)
        make_keys(tmp_path)
    old = certificate(tmp_path)
    make_keys(tmp_path)
    assert certificate(tmp_path) == old


def test_what_could_not_be_served_is_named(tmp_path: Path) -> None:
    check_keys(tmp_path / "none")
    one, other = tmp_path / "one", tmp_path / "other"
    make_keys(one)
    make_keys(other)
    key, file = key_files(one)
    file.write_bytes(key_files(other)[1].read_bytes())
    for check in (check_keys, make_keys):
        with pytest.raises(CertificateError, match=r"server\.der: expected the certificate of "):
            check(one)
    file.write_bytes(b"")
    with pytest.raises(CertificateError, match=r"server\.der: expected a certificate in DER"):
        make_keys(one)
    key.write_bytes(b"")
    with pytest.raises(CertificateError, match=r"key\.pem: expected an RSA key in PEM without"):
        check_keys(one)
