"""One TOML file → a checked struct, or what was expected at which key and what came.

Whoever owns the file declares its sections; a key that no section has is an error.
"""

import re
import sys
from pathlib import Path
from typing import TypeVar

import msgspec

from appliance.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore

S = TypeVar("S")


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every section of a file that people write shares."""


def read_toml(path: Path, kind: type[S], error: type[ConfigError] = ConfigError) -> S:
    """One TOML file as a checked struct. Raises `error`: file, key, expected, got."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as err:
        raise error(path, "a TOML file", "no such file") from err
    except (OSError, UnicodeDecodeError) as err:
        raise error(path, "a readable TOML file in UTF-8", str(err)) from err
    try:
        return msgspec.convert(tomllib.loads(text), kind)
    except tomllib.TOMLDecodeError as err:
        raise error(path, "valid TOML", str(err)) from err
    except msgspec.ValidationError as err:
        raise explain(err, path, error, kind) from err


def explain(
    err: msgspec.ValidationError,
    path: Path,
    error: type[ConfigError] = ConfigError,
    kind: type | None = None,
) -> ConfigError:
    """msgspec's message as ours: the key, what was expected, what came.

    kind: the struct that was read; with it a word that is none of the allowed ones lists them.
    """
    problem, _, key = str(err).partition(" - at ")
    where = f"{path}: {key.strip('`').removeprefix('$.')}" if key else str(path)
    if problem.startswith("Expected ") and ", got " in problem:
        expected, _, got = problem.removeprefix("Expected ").partition(", got ")
        return error(where, expected, got)
    if problem.startswith("Object contains unknown field "):
        return error(where, "only known keys", problem.removeprefix("Object contains "))
    if problem.startswith("Object missing required field "):
        key = problem.removeprefix("Object missing required field ")
        return error(where, f"the key {key}", "no such key")
    if problem.startswith("Invalid enum value "):
        allowed = _allowed(kind, key.strip("`")) if kind else "a known word"
        return error(where, allowed, problem.removeprefix("Invalid enum value "))
    return error(where, problem[0].lower() + problem[1:], "another value")


def _allowed(kind: type, key: str) -> str:
    """The words that a key like `$.camera[0].kind` may hold."""
    info = msgspec.inspect.type_info(kind)
    for step in re.findall(r"[a-z]\w*|\[", key.removeprefix("$")):
        if isinstance(info, msgspec.inspect.UnionType):  # a section that need not be there
            info = next(t for t in info.types if isinstance(t, msgspec.inspect.StructType))
        if isinstance(info, msgspec.inspect.StructType):
            info = next(field.type for field in info.fields if field.encode_name == step)
        elif isinstance(info, msgspec.inspect.VarTupleType):
            info = info.item_type if step == "[" else info
    values = info.values if isinstance(info, msgspec.inspect.LiteralType) else ()
    return " or ".join(f"'{value}'" for value in values) or "a known word"
