"""Power cut at every write: the process is killed at each system call that changes a file.

The kernel's cache outlives a kill, so the order of calls is looked at as well: data are on the disk
before their name is, and the name is on the disk before anybody is told.
"""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from appliance.audit import AuditJournal
from appliance.config import Config, load_config
from appliance.recipe import Limits, Recipe, load_recipe, write_recipe

CALLS = "write,pwrite64,fsync,fdatasync,ftruncate,rename,renameat,renameat2,unlink,unlinkat"
CONFIG = 'root = "."\ndeadline_ms = 200\n[[camera]]\nname = "top"\nkind = "files"\nfolder = "f"\n'
COMMON = """
import sys
from pathlib import Path
from appliance.config import load_config
from appliance.atomic import write_atomically
config = load_config(Path(sys.argv[1]) / "config.toml")
"""
REPLACE = COMMON + 'write_atomically(config.root_dir / "products.toml", b"new" * 1000)'
RECIPE = (
    COMMON
    + """
from appliance.recipe import load_recipe, write_recipe
import msgspec
old = load_recipe(config, "cell/1").recipe
write_recipe(config, msgspec.structs.replace(old, version=2))
"""
)
APPEND = (
    COMMON
    + """
import structlog
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
from appliance.audit import AuditJournal
AuditJournal(config).append("ada", "limits.approved", new=2)
"""
)


@cache
def why_not() -> str:
    """What is missing to kill between system calls; "" for nothing."""
    if not shutil.which("strace"):
        return "strace is not installed"
    done = subprocess.run(["strace", "true"], capture_output=True, text=True)
    return f"no tracing here: {done.stderr.strip()}" if done.returncode else ""


pytestmark = pytest.mark.skipif("why_not()")


def trace(program: str, root: Path, *options: str) -> tuple[int, list[str]]:
    """Exit status and all calls, in their order."""
    log = root.parent / "trace"
    command = ["strace", "-f", "-y", "-o", str(log), "-e", f"trace={CALLS}", *options]
    command += [sys.executable, "-B", "-c", program, str(root)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(command, capture_output=True, env=environment, timeout=60)
    return done.returncode, log.read_text().splitlines()


def installation(root: Path) -> Config:
    root.mkdir()
    (root / "config.toml").write_text(CONFIG)
    (root / "products.toml").write_bytes(b"old")
    config = load_config(root / "config.toml")
    limits = Limits(t1=1.0, t2=2.0)
    write_recipe(config, Recipe(id="cell", version=1, bundle="ab" * 32, bundle_dir="x",
                                decides="map_max", limits=limits))  # fmt: skip
    AuditJournal(config).append("ada", "limits.approved", new=1)
    return config


def name_of(call: str) -> str:
    match = re.match(r"\d+\s+(\w+)\(", call)
    return match[1] if match else ""


def cuts(program: str, tmp_path: Path) -> Iterator[Config]:
    """One installation for every call on a file of it, killed as it entered that call."""
    whole = tmp_path / "whole"
    installation(whole)
    code, calls = trace(program, whole)
    assert code == 0
    seen: Counter[str] = Counter()
    count = 0
    for call in calls:
        name = name_of(call)
        seen[name] += 1
        if str(whole) not in call:
            continue
        root = tmp_path / f"cut-{count}"
        count += 1
        config = installation(root)
        kill = f"inject={name}:signal=SIGKILL:when={seen[name]}"
        code, _ = trace(program, root, "-e", kill)
        assert code != 0, f"{call} was not cut"
        yield config
    assert count >= 4


def test_data_are_on_the_disk_before_their_name_and_the_name_before_the_answer(
    tmp_path: Path,
) -> None:
    installation(tmp_path / "whole")
    _, calls = trace(REPLACE, tmp_path / "whole")
    done = [name_of(call) for call in calls if str(tmp_path / "whole") in call]
    assert done == ["write", "fsync", "rename", "fsync"]


def test_a_file_that_is_replaced_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    found: set[bytes] = set()
    for config in cuts(REPLACE, tmp_path):
        found.add((config.root_dir / "products.toml").read_bytes())
    assert found == {b"old", b"new" * 1000}


def test_a_recipe_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    there: set[bool] = set()
    for config in cuts(RECIPE, tmp_path):
        assert load_recipe(config, "cell/1").recipe.version == 1
        is_there = (config.recipes_dir / "cell" / "2.toml").exists()
        there.add(is_there)
        if is_there:
            assert load_recipe(config, "cell/2").recipe.version == 2
    assert there == {True, False}


def test_the_audit_journal_stays_whole_and_goes_on(tmp_path: Path) -> None:
    for config in cuts(APPEND, tmp_path):
        journal = AuditJournal(config)
        assert journal.verify().problems == ()
        journal.append("bob", "after")
        assert journal.verify().problems == ()
        assert next(journal.entries()).new == 1
