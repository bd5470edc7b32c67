"""`inspectd users`: the first user of a box, and what an admin does without a page."""

import getpass
import sys
from pathlib import Path
from typing import Annotated

import typer

from appliance.audit import AuditJournal
from appliance.config import load_config
from appliance.errors import ConfigError, DeviceError
from appliance.service import start_logging
from calibration.people import People, Role

ConfigPath = Annotated[Path, typer.Option("--config", help="The integrator's config.toml.")]
RoleName = Annotated[str, typer.Option(help="operator, technician, engineer or admin.")]
FromInput = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from standard input.")
]
main = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, help="Who may log in."
)


@main.callback()
def _group() -> None:
    """Who may log in."""


@main.command()
def add(
    name: Annotated[str, typer.Argument(help="Letters, digits, - . _")],
    role: RoleName,
    config: ConfigPath = Path("config.toml"),
    from_input: FromInput = False,
) -> None:
    """A new user. Asks for the password; there is no default one."""
    people = _open(config)
    user = people.add(name, _role(role), _password(from_input), _me())
    sys.stdout.write(f"{user.name}: {user.role.name.lower()}\n")


@main.command()
def change(
    name: Annotated[str, typer.Argument(help="Who.")],
    config: ConfigPath = Path("config.toml"),
    role: RoleName = "",
    password: Annotated[bool, typer.Option("--password", help="Ask for a new password.")] = False,
    from_input: FromInput = False,
    enable: Annotated[bool | None, typer.Option("--enable/--disable", help="May log in.")] = None,
    unlock: Annotated[bool, typer.Option("--unlock", help="After wrong passwords.")] = False,
) -> None:
    """Another role or password; lock out, let in again."""
    people = _open(config)
    user = people.change(
        name,
        _me(),
        role=_role(role) if role else None,
        password=_password(from_input) if password or from_input else None,
        is_enabled=enable,
        unlock=unlock,
    )
    sys.stdout.write(f"{user.name}: {user.role.name.lower()}{_notes(user.is_enabled)}\n")


@main.command("list")
def list_users(config: ConfigPath = Path("config.toml")) -> None:
    """All users."""
    users = _open(config).users()
    if not users:
        sys.stderr.write("no user yet: inspectd users add NAME --role admin\n")
    for user in users:
        locked = ", locked" if user.is_locked else ""
        role = user.role.name.lower()
        sys.stdout.write(f"{user.name}: {role}{_notes(user.is_enabled)}{locked}\n")


def _notes(is_enabled: bool) -> str:
    return "" if is_enabled else ", disabled"


def _open(path: Path) -> People:
    start_logging()
    config = load_config(path)
    try:
        return People(config, AuditJournal(config))
    except DeviceError as err:
        raise ConfigError(config.data_dir / "people.db", "a usable database", str(err)) from err


def _role(name: str) -> Role:
    try:
        return Role[name.upper()]
    except KeyError as err:
        known = ", ".join(role.name.lower() for role in Role)
        raise ConfigError("--role", f"one of {known}", repr(name)) from err


def _password(from_input: bool) -> str:
    if from_input:
        return sys.stdin.readline().rstrip("\n")
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))


def _me() -> str:
    """Whoever holds this shell: a user of the system, not of the pages."""
    return f"{getpass.getuser()}@shell"
