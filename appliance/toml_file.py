"""One TOML file → a checked struct, or what was expected at which key and what came.

Whoever owns the file declares its sections; a key that no section has is an error.
"""

import re
import sys
from difflib import get_close_matches
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

    kind: the struct that was read; with it a word that is none of the allowed ones lists them, and
    a key that nobody knows names the one that it resembles.
    """
    problem, _, key = str(err).partition(" - at ")
    where = f"{path}: {key.strip('`').removeprefix('$.')}" if key else str(path)
    if problem.startswith("Expected ") and ", got " in problem:
        expected, _, got = problem.removeprefix("Expected ").partition(", got ")
        return error(where, expected, got)
    if problem.startswith("Object contains unknown field "):
        alike = _alike(kind, key.strip("`"), problem.split("`")[1]) if kind else ""
        return error(where, f"only known keys{alike}", problem.removeprefix("Object contains "))
    if problem.startswith("Object missing required field "):
        key = problem.removeprefix("Object missing required field ")
        return error(where, f"the key {key}", "no such key")
    if problem.startswith("Invalid enum value "):
        allowed = _allowed(kind, key.strip("`")) if kind else "a known word"
        return error(where, allowed, problem.removeprefix("Invalid enum value "))
    return error(where, problem[0].lower() + problem[1:], "another value")


def _allowed(kind: type, key: str) -> str:
    """The words that a key like `$.camera[0].kind` may hold."""
    info = _at(kind, key)
    values = info.values if isinstance(info, msgspec.inspect.LiteralType) else ()
    return " or ".join(f"'{value}'" for value in values) or "a known word"


def _alike(kind: type, key: str, unknown: str) -> str:
    """Which key of the section at `key` was probably meant; "" where none is near."""
    info = _section(_at(kind, key))
    fields = info.fields if isinstance(info, msgspec.inspect.StructType) else ()
    near = get_close_matches(unknown, [field.encode_name for field in fields], 1)
    return f" (perhaps `{near[0]}`)" if near else ""


def _at(kind: type, key: str) -> msgspec.inspect.Type:
    """What stands at a key like `$.camera[0].kind`."""
    info = msgspec.inspect.type_info(kind)
    for step in re.findall(r"[a-z]\w*|\[", key.removeprefix("$")):
        info = _section(info)
        if isinstance(info, msgspec.inspect.StructType):
            info = next(field.type for field in info.fields if field.encode_name == step)
        elif isinstance(info, msgspec.inspect.VarTupleType):
            info = info.item_type if step == "[" else info
    return info


def _section(info: msgspec.inspect.Type) -> msgspec.inspect.Type:
    """The section itself where it need not be there."""
    if isinstance(info, msgspec.inspect.UnionType):
        return next((t for t in info.types if isinstance(t, msgspec.inspect.StructType)), info)
    return info
