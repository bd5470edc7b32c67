"""The mutation check finds what a test does not notice, and nothing that it does."""

import os
import subprocess
import sys
from pathlib import Path

from tools.mutate import mutants

ROOT = Path(__file__).parent.parent
RULE = "def is_ok(margin):\n    return margin < 1\n"
TEST = "from little.rule import is_ok\n\ndef test_rule():\n    assert is_ok(0) and not is_ok(5)\n"


def changes(source: str) -> set[tuple[str, str]]:
    return {(mutant.was, mutant.now) for mutant in mutants(source)}


def test_every_place_that_decides_is_changed_once_for_each_way() -> None:
    assert changes("def f(a: int = 3) -> int:\n    '''Words.'''\n    return a < 1 and a") == {
        ("3", "4"), ("3", "2"), ("1", "2"), ("1", "0"),
        ("a < 1", "a <= 1"), ("a < 1", "a > 1"),
        ("a < 1 and a", "a < 1 or a"), ("a < 1 and a", "a"), ("a < 1 and a", "a < 1"),
        ("return a < 1 and a", "return None"),
    }  # fmt: skip
    assert ("'x'", "(left out of the table)") in changes("TABLE = {'x': run, 'y': run}")
    assert changes("def f():\n    return None") == set()


def mutate(root: Path, *options: str) -> tuple[int, list[str]]:
    (root / "little").mkdir(exist_ok=True)
    (root / "little" / "__init__.py").touch()
    (root / "little" / "rule.py").write_text(RULE)
    (root / "test_rule.py").write_text(TEST)
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-m", "tools.mutate", *options, "little/rule.py", "test_rule.py"],
        cwd=root, env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout.splitlines() or done.stderr.splitlines()


def test_survivors_are_named_and_nothing_else(tmp_path: Path) -> None:
    assert mutate(tmp_path) == (
        1,
        [
            "little/rule.py:2: 'margin < 1' → 'margin <= 1'",
            "little/rule.py:2: '1' → '2'",
            "little/rule.py: 5 changes, 2 unnoticed",
        ],
    )


def test_a_long_run_is_made_in_pieces(tmp_path: Path) -> None:
    assert mutate(tmp_path, "--seconds", "0") == (
        0,
        ["little/rule.py: go on with --first 1", "little/rule.py: 0 changes, 0 unnoticed"],
    )
    assert mutate(tmp_path, "--first", "5") == (0, ["little/rule.py: 1 changes, 0 unnoticed"])
