"""kill -9 of the camera process, again and again, while a PLC triggers parts.

`python -m tools.camera_kills --kills 100` starts a line of real processes and a desk PLC, kills the
camera at random moments of the handshake, and counts: every accepted part needs its verdict and its
row, none may be accepted without having been scored, and no shared memory may stay behind.
"""

import json
import random
import sys
import time
from typing import Annotated, Any

import typer

from tools.bench_row import NotMeasuredError
from tools.chaos_line import Scene

_BACKOFF_MAX_S = 0.2
_LONGEST_WAIT_S = 0.05
"""Before a kill: some come before the trigger, some while the picture is awaited, some after it."""


def main(
    kills: Annotated[int, typer.Option(min=1, help="How often.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 1,
) -> None:
    """One JSON object; exit 1 where a part is not accounted for or memory is left."""
    try:
        report = kill_camera(kills, seed)
    except NotMeasuredError as err:
        sys.stderr.write(f"inspectd: {err}\n")
        raise typer.Exit(1) from err
    sys.stdout.write(json.dumps(report) + "\n")
    raise typer.Exit(0 if report["passed"] else 1)


def kill_camera(kills: int, seed: int = 1) -> dict[str, Any]:
    """What came of it. Raises NotMeasuredError where the line does not come back."""
    draw = random.Random(seed)
    # More crashes than any budget allows are the point here.
    with Scene(camera={"backoff_max_s": _BACKOFF_MAX_S}, restart_limit=10 * kills) as scene:
        scene.begin()
        rings = scene.line.config.rings_dir
        before = len(list(rings.iterdir()))
        for number in range(kills):
            time.sleep(draw.uniform(0, _LONGEST_WAIT_S))
            scene.kill("camera")
            try:
                scene.await_accepted(1)
            except NotMeasuredError as err:
                said = scene.ear.words.ledger if scene.ear.words else {}
                broken = {name: count for name, count in said.items() if count}
                raise NotMeasuredError(f"{err}\nkill {number + 1}, ledger {broken}") from err
        scene.end()
        open_parts = scene.open_parts()
        ledger = scene.ear.words.ledger if scene.ear.words else {}
        after = len(list(rings.iterdir()))
        lies, parts = len(scene.lies()), list(scene.parts)
        scene.line.stop()
        left = after - before + len(list(rings.iterdir()))
    unaccounted = ledger.get("unaccounted", -1)
    return {
        "passed": not (open_parts or unaccounted or lies or left),
        "kills": kills,
        "parts": len(parts),
        "rejected": sum(not part.is_accepted for part in parts),
        "accepted_unscored": lies,
        "open_parts": open_parts,
        "unaccounted": unaccounted,
        "rings_left": left,
    }


if __name__ == "__main__":
    typer.run(main)
