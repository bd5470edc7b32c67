"""Section `[io]` of `config.toml`: 24 V lines, driven by the decision process."""

from typing import Literal

from appliance.toml_file import Section

VIRTUAL = "virtual"


class Io(Section, frozen=True, kw_only=True):
    """Lines of one GPIO chip, by their offset; -1 = not wired."""

    chip: str
    """Device such as "/dev/gpiochip0", or "virtual": a file in the runtime directory, for the desk.
    Only the virtual chip raises OK for simulated parts."""
    watchdog: Literal["external"]
    """Required: a relay, one-shot or remote I/O that cuts OK when HEALTHY stops toggling. The level
    of an output after the end of a process is not guaranteed."""
    ok: int
    """High only in the window of a part that is OK."""
    ng: int = -1
    """The opposite of OK at all times: reject unless OK."""
    healthy: int
    """Toggles every 100 ms, by the decision loop alone, while the line is Online."""
    ready: int = -1
    """TriggerReady."""
    trigger: int = -1
    """Input: a rising edge is a part. Then the PLC is at these lines, and Modbus only reads."""
    enable: int = -1
    """Input, required with `trigger`: high = the PLC is alive and wants parts."""
    pulse_ms: int = 50
    """Length of the OK window; shorter than the distance of two parts."""
    debounce_us: int = 0
    """Of the inputs, by the kernel."""


def io_problem(io: Io, rate_hz: float) -> tuple[str, str, str] | None:
    """Key, what was expected and what came; None where the section can be used.

    rate_hz: the closest that parts come, by the camera's section.
    """
    lines = {
        name: getattr(io, name) for name in ("ok", "ng", "healthy", "ready", "trigger", "enable")
    }
    for name, offset in lines.items():
        lowest = 0 if name in ("ok", "healthy") else -1
        if not lowest <= offset <= 1023:
            return f"io.{name}", f"{lowest} to 1023", str(offset)
        twice = [other for other, used in lines.items() if used == offset >= 0 and other != name]
        if twice:
            return f"io.{name}", "a line of its own", f"{offset}, as io.{twice[0]}"
    if not 5 <= io.pulse_ms <= 10_000:
        return "io.pulse_ms", "5 to 10000", str(io.pulse_ms)
    apart_ms = 1000 / rate_hz
    if io.pulse_ms >= apart_ms:
        expected = f"less than {apart_ms:g}, the distance of parts at camera rate_hz = {rate_hz:g}"
        return "io.pulse_ms", expected, str(io.pulse_ms)
    if not 0 <= io.debounce_us <= 1_000_000:
        return "io.debounce_us", "0 to 1000000", str(io.debounce_us)
    if io.trigger >= 0 and io.enable < 0:
        return "io.enable", "a line, with io.trigger", "-1"
    return None
