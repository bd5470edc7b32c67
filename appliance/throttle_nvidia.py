"""Whether heat or its supply slows an NVIDIA card down: asked of NVML, the driver's own library.

NVML comes with the driver, so nothing has to be installed; without one (a Jetson shows its clocks
in /sys) there is nothing to say. Constants: nvml.h, nvmlClocksEventReasons.
"""

import ctypes
from typing import Any

_REASONS = {
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
"""Clocks below their cap for its own sake (0x04) are how a card works under load."""


class NvidiaThrottle:
    """Every card that the driver shows."""

    def __init__(self, library: str = "libnvidia-ml.so.1") -> None:
        self._cards: list[ctypes.c_void_p] = []
        self._nvml: Any = None
        self.lost = ""
        """Which cards the last look could not ask any more; "" = none."""
        self._answered: set[int] = set()
        try:
            nvml = ctypes.CDLL(library)
        except OSError:
            return
        count = ctypes.c_uint()
        if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)):
            return
        self._nvml = nvml
        for index in range(count.value):
            card = ctypes.c_void_p()
            if not nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(card)):
                self._cards.append(card)

    @property
    def cards(self) -> int:
        """How many are asked."""
        return len(self._cards)

    def look(self) -> str:
        """What slows one down, in words; "" = nothing does, or nothing is known (`lost`)."""
        hot: list[str] = []
        lost: list[str] = []
        for number, card in enumerate(self._cards):
            reasons = ctypes.c_ulonglong()
            if self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons(card, ctypes.byref(reasons)):
                if number in self._answered:
                    lost.append(f"GPU {number}")
                continue
            self._answered.add(number)
            said = ", ".join(word for bit, word in _REASONS.items() if reasons.value & bit)
            if said:
                hot.append(f"GPU {number}: {said}")
        self.lost = ", ".join(lost)
        return hot[0] if hot else ""
