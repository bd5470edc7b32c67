"""A box in one file: all of it, checked before anything is touched."""

import errno
import sqlite3
import tarfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from appliance.__main__ import app
from appliance.config import load_config
from appliance.engine_null import write_null_bundle
from appliance.errors import ArtefactError, ConfigError
from appliance.journal import Journal
from appliance.recipe import Limits, Recipe, write_recipe
from appliance.store import Store
from tests.verdicts import verdict


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(done.exception, ConfigError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def box(tmp_path: Path) -> Path:
    root = tmp_path / "box"
    root.mkdir()
    (root / "config.toml").write_text(
        'root = "."\ndeadline_ms = 200\n[[camera]]\nname = "top"\nkind = "files"\nfolder = "x"\n'
        '[engine]\nkind = "null"\n'
    )
    (root / "products.toml").write_text('[[product]]\nnumber = 1\nrecipe = "cell/1"\n')
    config = load_config(root / "config.toml")
    bundle = write_null_bundle(config.bundles_dir / "null")
    write_recipe(
        config,
        Recipe(
            id="cell", version=1, bundle=bundle.id, bundle_dir="null", decides="map_max",
            limits=Limits(t1=1.0, t2=2.0),
        ),
    )  # fmt: skip
    (root / "keys").mkdir(mode=0o700)
    (root / "keys" / "box.key_secret").write_text("secret")
    (root / "keys" / "box.key_secret").chmod(0o600)
    (root / "data" / "images").mkdir(parents=True)
    (root / "data" / "images" / "1.png").write_text("a picture")
    Journal(config.state_dir).close()
    return root


def test_a_box_comes_back_while_its_database_is_in_use(box: Path, tmp_path: Path) -> None:
    store = Store(box / "data" / "parts.db")
    store.add([verdict(n) for n in range(1, 51)])
    file, new = tmp_path / "b.tar", tmp_path / "new"
    run("backup", file, "--config", box / "config.toml")
    store.add([verdict(51)])
    store.close()
    (box / "data" / "parts.db").chmod(0o600)
    run("backup", tmp_path / "private.tar", "--config", box / "config.toml")
    run("restore", tmp_path / "private.tar", "--root", tmp_path / "private")
    assert (tmp_path / "private" / "data" / "parts.db").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o700
    assert file.stat().st_mode & 0o777 == 0o600
    run("restore", file, "--root", new)
    assert "cell/1" in run("config", "check", "--config", new / "config.toml")
    copy = Store(new / "data" / "parts.db", is_reader=True)
    assert sum(copy.counts().values()) == 50
    copy.close()
    assert (new / "keys" / "box.key_secret").stat().st_mode & 0o777 == 0o600
    assert (new / "keys").stat().st_mode & 0o777 == 0o700
    assert not (new / "data" / "images").exists()
    old, restored = Journal(box / "state"), Journal(new / "state")
    assert restored.epoch == old.epoch
    assert restored.first_id == old.first_id
    old.close()
    restored.close()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("where", ["head", "middle", "end", "cut", "nothing"])
def test_a_damaged_backup_is_refused_before_anything_is_touched(
    box: Path, tmp_path: Path, where: str
) -> None:
    with sqlite3.connect(box / "data" / "parts.db") as plain:
        plain.execute("CREATE TABLE x (y)")
    plain.close()
    file = tmp_path / "b.tar"
    run("backup", file, "--config", box / "config.toml")
    data = bytearray(file.read_bytes())
    with tarfile.open(file) as archive:
        members = [m for m in archive.getmembers() if m.size]
    at = {"head": members[0], "middle": members[len(members) // 2], "end": members[-1]}
    if where in at:
        data[at[where].offset_data + at[where].size // 2] ^= 0x20
    file.write_bytes(
        data[: len(data) // 2] if where == "cut" else b"" if where == "nothing" else data
    )
    before = sorted(box.rglob("*"))
    with pytest.raises(ArtefactError, match=r"b\.tar"):
        run("restore", file, "--root", box, "--replace")
    assert sorted(box.rglob("*")) == before


def test_a_root_that_is_in_use_is_moved_aside_only_when_asked(box: Path, tmp_path: Path) -> None:
    file = tmp_path / "b.tar"
    run("backup", file, "--config", box / "config.toml")
    with pytest.raises(ConfigError, match="--replace"):
        run("restore", file, "--root", box)
    run("restore", file, "--root", box, "--replace")
    (aside,) = tmp_path.glob("box.before-*")
    assert (aside / "data" / "images" / "1.png").exists()
    assert (box / "products.toml").exists()


def test_a_running_line_is_not_replaced(box: Path, tmp_path: Path) -> None:
    file = tmp_path / "b.tar"
    run("backup", file, "--config", box / "config.toml")
    journal = Journal(box / "state")
    before = sorted(box.rglob("*"))
    with pytest.raises(ConfigError, match="a line that is stopped"):
        run("restore", file, "--root", box, "--replace")
    journal.close()
    assert sorted(box.rglob("*")) == before
    run("restore", file, "--root", box, "--replace")


def test_a_move_that_fails_leaves_everything_where_it_was(
    box: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "b.tar"
    run("backup", file, "--config", box / "config.toml")
    before, rename = sorted(box.rglob("*")), Path.rename

    def fail_at_recipes(path: Path, target: Path) -> Path:
        if path == box / "recipes":
            raise OSError(errno.EXDEV, "another disk")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_at_recipes)
    with pytest.raises(ConfigError, match="another disk; everything is back"):
        run("restore", file, "--root", box, "--replace")
    assert sorted(box.rglob("*")) == before


def test_a_disk_of_its_own_below_root_is_named_before_anything_moves(
    box: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "b.tar"
    run("backup", file, "--config", box / "config.toml")
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "data")
    before = sorted(box.rglob("*"))
    with pytest.raises(ConfigError, match=r"data: expected .* got a mount point"):
        run("restore", file, "--root", box, "--replace")
    assert sorted(box.rglob("*")) == before


def test_a_member_that_would_lie_outside_is_refused(box: Path, tmp_path: Path) -> None:
    file, evil = tmp_path / "b.tar", tmp_path / "evil.tar"
    run("backup", file, "--config", box / "config.toml")
    with tarfile.open(file) as source, tarfile.open(evil, "w") as sink:
        for member in source.getmembers():
            data = source.extractfile(member)
            if member.name == "products.toml":
                member.name = "../products.toml"
            sink.addfile(member, data)
    with pytest.raises(ArtefactError, match="files of its list"):
        run("restore", evil, "--root", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_existing_backup_is_not_overwritten(box: Path, tmp_path: Path) -> None:
    (tmp_path / "b.tar").write_text("mine")
    with pytest.raises(ConfigError, match="not there yet"):
        run("backup", tmp_path / "b.tar", "--config", box / "config.toml")
    assert (tmp_path / "b.tar").read_text() == "mine"
