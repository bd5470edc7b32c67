"""The command line: one table, every command imported when it is called.

Exit codes: 0 done, 1 the answer is no, 2 wrong usage, 78 wrong configuration.
"""

import errno
import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import typer
from typer.core import TyperGroup

from appliance.errors import ConfigError, DeviceError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NO_WAY = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
)  # fmt: skip


class Entry(NamedTuple):
    """Where a command lives and what it does, in one line."""

    target: str
    help: str


COMMANDS: Mapping[str, Entry] = {
    "demo": Entry("tools.demo:main", "From nothing to a running line on real images."),
    "run": Entry("appliance.commands:run", "The whole line in the foreground from config.toml."),
    "process": Entry("appliance.commands:process", "One process: camera, infer, decide, …"),
    "config": Entry("appliance.commands:config", "Check every key, file, port and hash."),
    "train": Entry("models.train_command:main", "Train a bundle on a folder of images."),
    "export-model": Entry(
        "models.export_model:main", "A bundle from trained weights, the authors' included."
    ),
    "segments": Entry("models.regions:app", "Propose or show a map of the part's regions."),
    "segad": Entry("models.refit_command:main", "Regions, detectors and forest into a new bundle."),
    "evaluate": Entry("models.evaluate:main", "AUROC and its kin of a bundle on labelled images."),
    "calibrate": Entry("calibration.calibrate:main", "Limits from evidence, and what it proves."),
    "repeatability": Entry(
        "calibration.repeatability_command:main", "Do the same parts get the same answer?"
    ),
    "work": Entry("models.work:main", "The job that waits for the operator's tool."),
    "certificate": Entry(
        "appliance.certificate:main", "A certificate for the pages, signed by itself."
    ),
    "users": Entry("calibration.users:main", "Who may log in to the operator's tool."),
    "replay": Entry("appliance.replay_command:main", "Judge recorded frames once more; compare."),
    "quantise": Entry("models.quantise_command:main", "An int8 network, proved, in a new bundle."),
    "engine": Entry(
        "appliance.engine_command:main", "Build and prove the engine of a bundle on this device."
    ),
    "report": Entry("appliance.report:main", "What a shift made: counts, reasons, latencies; CSV."),
    "camera": Entry(
        "appliance.camera_command:app", "Commissioning: list, show, set, snap, record."
    ),
    "approve-camera": Entry(
        "calibration.approve:main", "Limits hold for the settings that the cameras have now."
    ),
    "export-dataset": Entry(
        "calibration.export_dataset:main", "Labelled pictures for the next training."
    ),
    "backup": Entry("appliance.backup:backup", "The whole box into one checksummed file."),
    "restore": Entry("appliance.backup:restore", "A backup onto a new box, checked first."),
    "plc-sim": Entry("tools.plc_sim:main", "A PLC on the desk that drives the handshake."),
    "opcua-user": Entry("appliance.opcua_users:main", "Add, change or remove an OPC UA user."),
    "plc-conformance": Entry("tools.plc_conformance:main", "Check a box against the PLC contract."),
    "chaos": Entry("tools.chaos:main", "The failure table, brought about for real."),
    "soak": Entry("tools.soak:main", "A long run with random faults; the ledger must close."),
    "bench": Entry("tools.bench:main", "Measure the budgets on this machine."),
    "audit": Entry("appliance.audit:main", "Who changed what, and whether anybody altered that."),
    "reset-failed": Entry("appliance.commands:reset_failed", "Try again what systemd gave up."),
    "doctor": Entry("appliance.doctor:main", "What is installed, missing or broken, and why."),
}


class LazyGroup(TyperGroup):
    """Imports a command's module only when that command is called: `--help` stays fast.

    Newer typer brings its own copy of click, older typer imports click: hence `Any`.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command itself, imported now."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, name = entry.target.partition(":")
        target: Any = getattr(importlib.import_module(module), name)
        if isinstance(target, typer.Typer):
            return typer.main.get_command(target)
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(name=cmd_name, help=target.__doc__ or entry.help)(target)
        return typer.main.get_command(app)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """From the table, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])


app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(value: bool) -> None:
    if value:
        import importlib.metadata

        sys.stdout.write(f"inspectd {importlib.metadata.version('inspectd')}\n")
        raise typer.Exit


@app.callback()
def inspectd(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Edge appliance for visual inspection: camera, anomaly model, verdict, PLC."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. ConfigError: one clear line and exit 78, and so are a disk without room and
    a file that may not be read or written; DeviceError: the same, exit 1."""
    try:
        app(args=arguments, prog_name="inspectd", standalone_mode=True)
    except (ConfigError, DeviceError) as err:
        _refuse(err)
    except OSError as err:
        if (wrong := mendable(err)) is None:
            raise
        _refuse(wrong)
    return 0


def mendable(err: OSError) -> ConfigError | None:
    """What whoever gave the command can put right: a disk without room, a path or a right. None:
    it is a bug, or a matter of other machines."""
    said = (err.strerror or str(err)).lower()
    if err.errno in _NO_ROOM:
        return ConfigError(err.filename or "disk", "room for the files", said)
    if err.errno in _NO_WAY and err.filename:
        return ConfigError(err.filename, "a path that can be used", said)
    return None


def _refuse(err: ConfigError | DeviceError) -> NoReturn:
    # Brings the logging library: half of `--help`.
    from appliance.service import EXIT_CONFIG, EXIT_NO

    sys.stderr.write(f"inspectd: {err}\n")
    sys.exit(EXIT_CONFIG if isinstance(err, ConfigError) else EXIT_NO)


if __name__ == "__main__":
    main()
