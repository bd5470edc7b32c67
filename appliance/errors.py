"""The error taxonomy: every class is named by who has to act and what happens next.

    ConfigError             a human        exit 78, systemd leaves the process down
    ├─ AddressInUse         a human        as above; a supervised process: exit 1, retried
    ├─ ChipAway             a human        as above; a supervised process: exit 1, retried
    ├─ CertificateError     a human        as above; a supervised process: exit 1, retried
    └─ ArtefactError        a human        one-shot command: exit 78; line process: `Refused`
    DeviceError             the process    close, back off, reopen; parts meanwhile end as ERROR
    └─ DeviceTimeout        the process    as above, after waiting for a named time
    PartError               nobody         this part ends as ERROR with a reason; the line goes on

Anything else is a bug: traceback, exit 1, restart.
"""

from pathlib import Path

from appliance.codes import OfflineReason, Reason


class ConfigError(Exception):
    """`config.toml`, `products.toml` or a command's input is wrong; only a human can mend it.

    For example: an unknown key, a value out of its range, a folder of pictures that is empty.
    """

    def __init__(self, where: str | Path, expected: str, got: str) -> None:
        super().__init__(f"{where}: expected {expected}, got {got}")
        self.where, self.expected, self.got = str(where), expected, got


class AddressInUse(ConfigError):
    """Somebody else serves this address, perhaps a process of ours that is still ending."""


class ChipAway(ConfigError):
    """The GPIO chip is not there: never was, or an expander that comes back in a moment."""


class CertificateError(ConfigError):
    """A certificate or its key is missing, damaged or readable by others: it is being renewed, or
    never came. The page is away until it is mended; the line never is."""


class ArtefactError(ConfigError):
    """A recipe, bundle, segment map or engine is missing, damaged, uncalibrated or foreign.

    For example: a hash that differs, a recipe without limits, an engine built on another GPU.
    """

    def __init__(
        self,
        where: str | Path,
        expected: str,
        got: str,
        offline: OfflineReason = OfflineReason.ENGINE,
    ) -> None:
        super().__init__(where, expected, got)
        self.offline = offline


class DeviceError(Exception):
    """A camera, engine or bus failed; the owning process closes it, backs off and reopens it.

    For example: a camera without its cable, a CUDA call that says no, a database that is locked.
    """


class DeviceTimeout(DeviceError, TimeoutError):
    """A device gave no answer within the named time."""


class PartError(Exception):
    """This part cannot be judged: it ends as ERROR with `reason`; the line goes on.

    For example: a map that is not finite, a frame that was overwritten, a fixture not found.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail
