"""Whether somebody keeps this machine's wall clock: asked of the kernel, decides no part."""

import ctypes

_TIME_ERROR = 5
"""adjtimex(2): the clock is not synchronised."""
_TIMEX_BYTES = 512
"""More than any struct timex; its first field, `modes`, is 0: read only."""


def is_clock_synced() -> bool:
    """True where NTP or PTP disciplines the system clock."""
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)
    state = ctypes.CDLL(None).adjtimex(buffer)
    return 0 <= state < _TIME_ERROR
