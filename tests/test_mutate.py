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


def test_survivors_are_named_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "little").mkdir()
    (tmp_path / "little" / "__init__.py").touch()
    (tmp_path / "little" / "rule.py").write_text(RULE)
    (tmp_path / "test_rule.py").write_text(TEST)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-m", "tools.mutate", "little/rule.py", "test_rule.py"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines() == [
        "little/rule.py:2: 'margin < 1' → 'margin <= 1'",
        "little/rule.py:2: '1' → '2'",
        "little/rule.py: 5 changes, 2 unnoticed",
    ]
