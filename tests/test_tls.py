"""HTTPS of page, tool and metrics; certificates that cannot be used, in one line each."""

import ssl
import stat
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from typer.testing import CliRunner

from appliance.__main__ import app
from appliance.audit import AuditJournal
from appliance.certificate import describe, make
from appliance.config import Config, load_config
from appliance.doctor import installation
from appliance.errors import CertificateError
from appliance.tls import files_of
from calibration.people import People, Role
from tests.ports import free_port
from tests.rig import Rig
from tests.waiting import until

SECRET = "correct horse battery"


def installed(folder: Path, tls: str = "[tls]\n") -> Config:
    path = folder / "config.toml"
    path.write_text(
        'root = "."\ndeadline_ms = 200\n[[camera]]\nname = "top"\nkind = "files"\nfolder = "x"\n'
        + tls
    )
    return load_config(path)


def certify(folder: Path, *options: str) -> str:
    done = CliRunner().invoke(
        app, ["certificate", "--config", str(folder / "config.toml"), *options]
    )
    assert done.exit_code == 0, done.output
    return done.stderr


def test_a_first_certificate_is_made_once_and_its_key_is_ours_alone(tmp_path: Path) -> None:
    config = installed(tmp_path, "")
    assert "once" in certify(tmp_path) and files_of(config) is None
    config = installed(tmp_path)
    files = files_of(config)
    assert files is not None
    assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [0o600, 0o600]
    assert stat.S_IMODE(files.key.parent.stat().st_mode) == 0o700
    is_good, said = describe(files)
    assert is_good and "localhost" in said and "127.0.0.1" in said
    before = files.key.read_bytes()
    assert "stays" in certify(tmp_path)
    assert files.key.read_bytes() == before
    certify(tmp_path, "--replace", "--name", "10.0.0.5", "--name", "line1.plant", "--days", "5")
    is_good, said = describe(files)
    assert files.key.read_bytes() != before and "10.0.0.5" in said and "line1.plant" in said
    assert not is_good, "five days are no month"
    findings = {finding.what: finding for finding in installation(write_products(config))}
    assert findings["tls"].grade == "broken" and "until" in findings["tls"].detail


@pytest.mark.parametrize(("gone", "key"), [("crt", "tls.certificate"), ("key", "tls.key")])
def test_half_of_a_certificate_is_kept_and_the_other_half_named(
    tmp_path: Path, gone: str, key: str
) -> None:
    keys = installed(tmp_path).keys_dir
    certify(tmp_path)
    (keys / f"page.{gone}").unlink()
    (there,) = keys.glob("page.*")
    before = there.read_bytes()
    done = CliRunner().invoke(app, ["certificate", "--config", str(tmp_path / "config.toml")])
    with pytest.raises(CertificateError, match=rf"^{key}: .*page\.{gone}$"):
        raise done.exception or AssertionError(done.output)
    assert list(keys.glob("page.*")) == [there] and there.read_bytes() == before
    certify(tmp_path, "--replace")
    assert there.read_bytes() != before and files_of(load_config(tmp_path / "config.toml"))


def write_products(config: Config) -> Path:
    (config.root_dir / "products.toml").write_text("product = []\n")
    return config.root_dir / "config.toml"


def _foreign_key(keys: Path) -> None:
    (keys / "page.key").write_bytes(make(("other",), 5)[1])


def _locked_key(keys: Path) -> None:
    key = serialization.load_pem_private_key((keys / "page.key").read_bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    (keys / "page.key").write_bytes(locked)


@pytest.mark.parametrize(
    ("spoil", "key", "said"),
    [
        (lambda keys: (keys / "page.crt").unlink(), "tls.certificate", "No such file"),
        (lambda keys: (keys / "page.key").unlink(), "tls.key", "No such file"),
        (lambda keys: (keys / "page.key").chmod(0o640), "tls.key", "mode 0640"),
        (lambda keys: (keys / "page.crt").write_text("x"), "tls.certificate", "none"),
        (_foreign_key, "tls.certificate", "key values mismatch"),
        (_locked_key, "tls.key", "one with a passphrase"),
        (lambda keys: (keys / "page.key").write_text("x"), "tls.key", "none"),
    ],
)
def test_what_cannot_be_used_is_named(
    tmp_path: Path, spoil: Callable[[Path], object], key: str, said: str
) -> None:
    config = installed(tmp_path)
    certify(tmp_path)
    spoil(config.keys_dir)
    with pytest.raises(CertificateError, match=rf"^{key}: expected ") as caught:
        files_of(config)
    assert "\n" not in str(caught.value)
    assert said in caught.value.got
    done = CliRunner().invoke(app, ["config", "check", "--config", str(write_products(config))])
    assert isinstance(done.exception, CertificateError)


@pytest.mark.parametrize(
    ("hosts", "grade"),
    [
        ("", "good"),
        ('[hmi]\nhost = "0.0.0.0"\n', "missing"),
        ('[hmi]\nis_enabled = false\nhost = "0.0.0.0"\n', "good"),
        ('[hmi]\nis_enabled = false\nhost = "0.0.0.0"\ntool_port = 8081\n', "missing"),
        ('[metrics]\nhost = "0.0.0.0"\n', "good"),
        ('[hmi]\nis_enabled = false\n[metrics]\nhost = "0.0.0.0"\nport = 9108\n', "missing"),
    ],
)
def test_doctor_says_who_could_listen_in(tmp_path: Path, hosts: str, grade: str) -> None:
    config = installed(tmp_path, hosts)
    findings = {finding.what: finding for finding in installation(write_products(config))}
    assert findings["tls"].grade == grade


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any):
        return None


def test_page_tool_and_metrics_answer_over_tls_alone() -> None:
    ports = {"page": free_port(), "tool": free_port(), "metrics": free_port()}
    changes = {
        "hmi": {"is_enabled": True, "port": ports["page"], "tool_port": ports["tool"]},
        "metrics": {"port": ports["metrics"]},
        "tls": {},
    }
    with Rig(changes) as rig:
        certify(rig.root)
        people = People(rig.config, AuditJournal(rig.config))
        people.add("eva", Role.ENGINEER, SECRET, "root@shell")
        people.close()
        trust = ssl.create_default_context(cafile=str(rig.root / "keys" / "page.crt"))
        secure = urllib.request.build_opener(urllib.request.HTTPSHandler(context=trust), _Stay())
        rig.start()

        def answer(name: str, path: str) -> int:
            try:
                with secure.open(f"https://localhost:{ports[name]}{path}", timeout=5) as got:
                    return got.status
            except OSError:
                return 0

        for name, path in (("page", "/"), ("tool", "/login"), ("metrics", "/metrics")):
            until(f"{name} over TLS", lambda n=name, p=path: answer(n, p) == 200, 60)
            with pytest.raises((urllib.error.URLError, OSError)):
                urllib.request.urlopen(f"http://127.0.0.1:{ports[name]}{path}", timeout=5)
        form = urllib.parse.urlencode({"name": "eva", "password": SECRET}).encode()
        with pytest.raises(urllib.error.HTTPError) as gone:
            secure.open(f"https://localhost:{ports['tool']}/login", form, timeout=10)
        with gone.value as moved:
            assert moved.code == 303
            cookie = moved.headers["set-cookie"]
        assert all(word in cookie for word in ("Secure", "HttpOnly", "SameSite=strict"))
        certificate, away = rig.root / "keys" / "page.crt", rig.root / "keys" / "away.crt"
        certificate.replace(away)
        rig.kill("hmi")
        until("the reason", lambda: b"tls.certificate" in rig.log.read_bytes(), 30)
        away.replace(certificate)
        until("the page again", lambda: answer("page", "/") == 200, 60)
        assert rig.stop() == 0
