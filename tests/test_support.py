"""The support archive: what helps is in it, what is secret is not."""

import json
import stat
import tarfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from appliance.__main__ import app
from appliance.database import place
from appliance.support import without_secrets
from tests.rig import Rig
from tests.waiting import until


def unpack(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        members = {m.name.removeprefix("inspectd-support/"): m for m in archive.getmembers()}
        return {name: archive.extractfile(m).read() for name, m in members.items()}  # type: ignore


def test_a_running_line_is_described_without_its_secrets() -> None:
    with Rig() as rig:
        secret = "hunter2-" * 3
        for name in ("keys/decide.key_secret", "keys/tls.pem", "data/people.db", "mqtt-password"):
            path = rig.root / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(secret)
        rig.start()
        with rig.ear() as ear:
            until("Ready", lambda: ear.is_ready, 30)
            rig.drive(parts=3)
            target = rig.root / "support.tar.gz"
            arguments = ["doctor", "--config", str(rig.config_path), "--bundle", str(target)]
            CliRunner().invoke(app, arguments)
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
        content = unpack(target)
    assert {"doctor.json", "config.toml", "recipes/cell/1.toml", "log.txt"} <= set(content)
    assert "bundles/null/manifest.json" in content
    assert json.loads(content["live/words.json"])["ledger"]["unaccounted"] == 0
    assert json.loads(content["live/health-infer-0.json"])["is_serving"] is True
    assert not any(secret.encode() in data for data in content.values())
    assert not any("keys/" in name or name.endswith((".db", ".png")) for name in content)


@pytest.mark.parametrize(
    "line",
    [
        'password = "hunter2"',
        '  "api_token": "hunter2",',
        "smtp-passwd: hunter2",
        'broker = "mqtt://ada:hunter2@10.0.0.1"',
        'client_secret="hunter2"',
        'database = "postgresql+psycopg://ada:hunter2/x@host/db"',
        'database = "postgresql+psycopg://ada:x/@hunter2@host/db"',
        'database = "postgresql+psycopg://ada@host/db?password=hunter2&x=1"',
        'database = "postgresql+psycopg://ada@host/db?x=1&sslpassword=hunter2"',
        "mqtt = { host = 'h', password = 'hunter2', port = 1 }",
        'mqtt = { host = "h", password = "a\\"hunter2", port = 1 }',
        'password = """\nhunter2\n"""',
        "password = 'x' 'hunter2'",
        "Nov 27 box inspectd[7]: cannot connect: host=h password=hunter2 dbname=x",
    ],
)
def test_what_sounds_secret_is_taken_out(line: str) -> None:
    shown = without_secrets(f"deadline_ms = 200\n{line}\nport = 502\n")
    assert "hunter2" not in shown
    assert "deadline_ms = 200" in shown and "port = 502" in shown


def test_what_is_said_of_a_database_holds_no_password() -> None:
    login, options = "postgresql+psycopg://ada:hunter2@h/db", "postgresql+psycopg://ada@h/db"
    for where in (login, f"{options}?password=hunter2", f"{options}?sslpassword=hunter2"):
        assert "hunter2" not in place(where)
        assert "h/db" in place(where)


def test_an_archive_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with Rig() as rig:
        target = rig.config_path / "no" / "folder.tar.gz"
        arguments = ["doctor", "--config", str(rig.config_path), "--bundle", str(target)]
        done = CliRunner().invoke(app, arguments)
        assert done.exception is not None and "a file that can be written" in str(done.exception)
    done = CliRunner().invoke(app, ["doctor", "--bundle", str(tmp_path / "x.tar.gz")])
    assert done.exit_code == 2
