"""Mutation check: would the tests notice if the code said something else?

    python -m tools.mutate appliance/verdict.py tests/test_verdict.py      # module, then its tests

Changes the module in one place at a time (a comparison, a number, a branch, a statement, a row of a
table), runs the tests on that, and prints every change after which they still pass. A survivor is a
hole in the tests, or a change that means the same: a person has to look. What was found last time:
docs/decisions/0004-mutation-check.md. A long run can be made in pieces: `--seconds 600`, and then
`--first N` with the number that it printed.

mutmut leaves module-level tables alone, and the state machine is one; cosmic-ray starts pytest anew
for each change. Here every change runs in a fork of a process that has the libraries loaded.
"""

import argparse
import ast
import contextlib
import copy
import importlib.abc
import importlib.machinery
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

_COMPARED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.Pow: ast.Mult,
}


class Mutant(NamedTuple):
    """One change."""

    line: int
    was: str
    now: str
    tree: ast.Module


class _Loader(importlib.abc.InspectLoader, importlib.abc.MetaPathFinder):
    """Gives the changed module to whoever imports it."""

    def __init__(self, name: str, path: Path, tree: ast.Module) -> None:
        self._name, self._path, self._tree = name, path, tree

    def find_spec(self, fullname: str, *_: Any) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, origin=str(self._path))

    def get_source(self, fullname: str) -> str:
        return self._path.read_text(encoding="utf-8")

    def exec_module(self, module: ModuleType) -> None:
        module.__file__ = str(self._path)
        code = compile(self._tree, str(self._path), "exec", dont_inherit=True)
        exec(code, module.__dict__)


def mutants(source: str) -> Iterator[Mutant]:
    """Every change of the module, one place at a time. Docstrings and types are left alone."""
    tree = ast.parse(source)
    count = sum(1 for _ in _places(tree))
    for index in range(count):
        changed = copy.deepcopy(tree)
        holder, field, position, node = next(islice(_places(changed), index, None))
        for now in _instead(node):
            _put(holder, field, position, now)
            yield Mutant(
                getattr(node, "lineno", 0),
                *_told(node, now),
                ast.fix_missing_locations(copy.deepcopy(changed)),
            )
            _put(holder, field, position, node)


def _places(tree: ast.Module) -> Iterator[tuple[ast.AST, str, int | None, ast.AST]]:
    """Every node that decides something, with where it hangs."""
    for holder in ast.walk(tree):
        for field, value in ast.iter_fields(holder):
            if field in ("annotation", "returns", "decorator_list", "type_params"):
                continue
            if isinstance(value, list):
                for position, node in enumerate(value):
                    if isinstance(node, ast.AST):
                        yield holder, field, position, node
            elif isinstance(value, ast.AST):
                yield holder, field, None, value


def _told(was: ast.AST, now: ast.AST) -> tuple[str, str]:
    """Both sides of a change, short enough for one line."""
    if isinstance(was, ast.Dict) and isinstance(now, ast.Dict):
        gone = next(k for k in (*was.keys, *was.values) if k and k not in (*now.keys, *now.values))
        return ast.unparse(gone), "(left out of the table)"
    if isinstance(was, ast.Tuple) and isinstance(now, ast.Tuple):
        return ast.unparse(next(e for e in was.elts if e not in now.elts)), "(left out)"
    left_out = isinstance(now, ast.Pass)
    return ast.unparse(was)[:80], "(left out)" if left_out else ast.unparse(now)[:80]


def _put(holder: ast.AST, field: str, position: int | None, node: ast.AST) -> None:
    if position is None:
        setattr(holder, field, node)
    else:
        getattr(holder, field)[position] = node


def _instead(node: ast.AST) -> Iterator[ast.AST]:
    """What could stand in the place of a node."""
    match node:
        case ast.Compare(ops=[op], left=left, comparators=right):
            for other in _COMPARED[type(op)]:
                yield ast.Compare(left=left, ops=[other()], comparators=right)
        case ast.Compare(ops=ops, left=left, comparators=right):
            for n, op in enumerate(ops):
                for other in _COMPARED[type(op)]:
                    yield ast.Compare(left, [*ops[:n], other(), *ops[n + 1 :]], right)
        case ast.BoolOp(op=op, values=values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
            for n in range(len(values)):
                kept = [*values[:n], *values[n + 1 :]]
                yield kept[0] if len(kept) == 1 else ast.BoolOp(op, kept)
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _COMPUTED:
            yield ast.BinOp(left, _COMPUTED[type(op)](), right)
        case ast.AugAssign(target=target, op=op, value=value):
            yield ast.AugAssign(target, _COMPUTED[type(op)](), value)
            yield ast.Pass()
        case ast.Constant(value=bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(value=int() | float() as value):
            yield ast.Constant(value + 1)
            yield ast.Constant(value - 1)
        case ast.IfExp(test=_, body=body, orelse=orelse):
            yield body
            yield orelse
        case ast.If(test=test, body=body, orelse=orelse):
            yield ast.If(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.Return(value=ast.AST() as value) if getattr(value, "value", 0) is not None:
            yield ast.Return(ast.Constant(None))
        case ast.Assign() | ast.Raise() | ast.Delete():
            yield ast.Pass()
        case ast.Expr(value=ast.Call() | ast.Yield() | ast.Await()):
            yield ast.Pass()
        case ast.Dict(keys=keys, values=values):
            for n in range(len(keys)):
                yield ast.Dict([*keys[:n], *keys[n + 1 :]], [*values[:n], *values[n + 1 :]])
        case ast.Tuple(elts=elements) if isinstance(getattr(node, "ctx", None), ast.Load):
            for n in range(len(elements) if len(elements) > 2 else 0):
                yield ast.Tuple([*elements[:n], *elements[n + 1 :]], ast.Load())
        case _:
            return


def survives(
    name: str, path: Path, mutant: ast.Module, tests: list[str], patience_s: float
) -> bool:
    """Whether all tests pass with the change; a run beyond patience_s counts as noticed."""
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):  # a child of a fork must never return
            os.setsid()
            for number in (0, 1, 2):
                os.dup2(os.open(os.devnull, os.O_RDWR), number)
            code = _run(name, path, mutant, tests)
        os._exit(code)
    end_s = time.monotonic() + patience_s
    while time.monotonic() < end_s:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def _run(name: str, path: Path, tree: ast.Module, tests: list[str]) -> int:
    import pytest

    sys.meta_path.insert(0, _Loader(name, path, tree))
    # Plain asserts: what is loaded before pytest cannot be rewritten, and nobody reads the report.
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:rerunfailures", "-o", "addopts="]
    return int(pytest.main([*options, "--import-mode=importlib", "--assert=plain", *tests]))


def main() -> int:
    """Print survivors and a count; 0 where none survived, 2 where the tests fail unchanged."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--first", type=int, default=1, help="number of the change to begin with")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after so many")
    parser.add_argument("module", type=Path, help="file, relative to the root of the checkout")
    parser.add_argument("tests", nargs=argparse.REMAINDER, help="arguments of pytest")
    arguments = parser.parse_args()
    path: Path = arguments.module
    name = ".".join(path.with_suffix("").parts)
    for library in ("numpy", "scipy.special", "scipy.stats", "hypothesis", "pytest"):
        importlib.import_module(library)  # loaded once; ours are loaded in each fork
    source = path.read_text(encoding="utf-8")
    begun_s = time.monotonic()
    if not survives(name, path, ast.parse(source), arguments.tests, 600):
        sys.stderr.write(f"{path}: expected tests that pass unchanged, got a failure\n")
        return 2
    patience_s = 10 + 5 * (time.monotonic() - begun_s)
    total = left = 0
    for number, mutant in enumerate(mutants(source), 1):
        if number < arguments.first:
            continue
        if time.monotonic() - begun_s > arguments.seconds:
            sys.stdout.write(f"{path}: go on with --first {number}\n")
            break
        total += 1
        if survives(name, path, mutant.tree, arguments.tests, patience_s):
            left += 1
            sys.stdout.write(f"{path}:{mutant.line}: {mutant.was!r} → {mutant.now!r}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{path}: {total} changes, {left} unnoticed\n")
    return int(left > 0)


if __name__ == "__main__":
    sys.exit(main())
