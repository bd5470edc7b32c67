"""Several cameras on one box: one trigger of the desk PLC, 5 MP from each camera, one verdict.

The null engine reads every pixel, so what is measured is all but the network; the views pass it
one after the other. Times are those that the rows carry.
"""

import time
from collections import Counter

from appliance.codes import Word
from tools.bench_line import BenchLine, Ear
from tools.bench_row import NotMeasuredError, Row, figure, quantiles
from tools.bench_stream import five_megapixel_picture

CAMERAS = ("front", "back", "left", "right")
_PLC = ("--forever", "--scan-ms", "5")


def views(seconds: float) -> list[Row]:
    """As fast as the level handshake goes."""
    settings = {"rate_hz": 20.0}
    with BenchLine(five_megapixel_picture, 4, cameras=CAMERAS, camera=settings) as line:
        line.start()
        with Ear(line) as ear:
            ear.await_ready()
            line.start_plc(*_PLC)
            ear.await_parts(5)
            before, begun = ear.figure("verdicts"), time.monotonic()
            ear.sleep(seconds)
            after, spent = ear.figure("verdicts"), time.monotonic() - begun
            line.plc_report()
            ear.await_rows()
            # The ledger looks once a second whether what was owed came.
            ear.sleep(1.5)
            verdicts = line.verdicts(ear.figure("verdicts"))[before:after]
            unaccounted = ear.figure("unaccounted")
    good = [verdict for verdict in verdicts if verdict.word is not Word.ERROR]
    failed = Counter(v.reason.name for v in verdicts if v.word is Word.ERROR)
    if not good:
        raise NotMeasuredError(f"no part of {len(verdicts)} was judged: {dict(failed)}")
    latency = quantiles([verdict.latency_ns / 1e6 for verdict in good])
    slowest = [max(view.stages_ns["picture"] for view in verdict.views) / 1e6 for verdict in good]
    pictures = {f"last picture {name}": value for name, value in quantiles(slowest).items()}
    name = f"{len(CAMERAS)} cameras of 5 MP"
    return [
        Row(
            bench="views",
            what=f"{name}: trigger → verdict on the bus, p99",
            value=latency["p99"],
            unit="ms",
            spread={**latency, **pictures},
            note="folder cameras, null engine that reads every pixel",
        ),
        Row(bench="views", what=f"{name}: parts", value=figure(len(good) / spent), unit="1/s"),
        Row(
            bench="views",
            what=f"{name}: parts without all their views",
            value=len(verdicts) - len(good),
            unit="parts",
            must=0.0,
            spread={"parts": len(verdicts), **failed},
        ),
        Row(
            bench="views",
            what=f"{name}: parts unaccounted for",
            value=unaccounted,
            unit="parts",
            must=0.0,
        ),
    ]
