"""Why a person changes something: what every page, program and command asks for.

Enters: what somebody wrote. Leaves: the same without blanks around it, fit for the audit journal.
"""

from appliance.errors import ConfigError

LEAST = 8
MOST = 500
"""Letters. A field of a page takes no more; a program could send a book."""


def checked(reason: str) -> str:
    """Raises ConfigError."""
    told = reason.strip()
    if len(told) < LEAST:
        raise ConfigError("reason", f"at least {LEAST} letters", repr(told))
    if len(told) > MOST:
        raise ConfigError("reason", f"at most {MOST} letters", f"{len(told)} of them")
    return told
