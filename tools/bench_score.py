"""From anomaly map to margin: features, forest, and both as the decision process calls them.

Maps are noise in eight segments on 256 x 256; the forest is fitted on random features with the
paper's parameters: 2000 trees cost the same whatever they learnt.
"""

import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timezone
from functools import cache, partial
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from scipy import stats

from appliance.bundle import Bundle, InputContract, Manifest, finish_bundle, hash_file
from appliance.forest import Forest, fit
from appliance.frames import RingReader, RingWriter
from appliance.messages import Scored
from appliance.recipe import Limits, LoadedRecipe, Recipe, setup_hash
from appliance.scoring import Scorer
from appliance.segments import SegmentIndex, column_names
from tools.bench_row import Row, figure, quantiles

_SIDE_PX = 256
_SEGMENTS = tuple(f"s{number}" for number in range(8))
_DETECTORS = ("noise",)
_COLUMNS = column_names(_SEGMENTS, _DETECTORS)
_PARTS = 600
_LONGEST_S = 5.0


def features(seconds: float) -> list[Row]:
    """Statistics of one map, ours and the plain SciPy way."""
    index, maps = SegmentIndex(_labels(), len(_SEGMENTS)), _maps(0)
    ours = time_ms(lambda: index.features(maps), seconds)
    labels = _labels()
    plain = time_ms(lambda: _plain(maps[0], labels), seconds)
    ratio = float(np.median(ours) / np.median(plain))
    found = quantiles(ours)
    return [
        Row(
            bench="features",
            what="SegAD features, 8 segments on 256², median",
            value=found["p50"],
            unit="ms",
            must=2.0,
            ambition=0.5,
            spread=found,
        ),
        Row(
            bench="features",
            what="the same ÷ plain SciPy, medians",
            value=figure(ratio),
            unit="ratio",
            spread={"SciPy p50 ms": figure(float(np.median(plain)))},
        ),
    ]


def forest(seconds: float) -> list[Row]:
    """The margin of one part."""
    with tempfile.TemporaryDirectory(prefix="insp") as folder:
        path = Path(folder, "segad.ubj")
        _fitted().save(path)
        judge = Forest.load(path, _COLUMNS, hash_file(path))
    part = _features(1)[0]
    found = quantiles(time_ms(lambda: judge.margin(part), seconds))
    return [
        Row(
            bench="forest",
            what="forest, one part, median",
            value=found["p50"],
            unit="ms",
            must=1.0,
            ambition=0.2,
            spread={**found, "trees": 2000},
        )
    ]


def scoring(seconds: float) -> list[Row]:
    """Map in a ring → judgement, as in the scoring thread of decide."""
    root = Path(tempfile.mkdtemp(prefix="insp", dir="/tmp"))
    rings = Path(tempfile.mkdtemp(prefix="insp", dir="/dev/shm"))
    try:
        scorer = Scorer(_bundle(root))
        ring = RingWriter(rings, "map-0", 8, 4 * _SIDE_PX * _SIDE_PX)
        reader = RingReader(rings)
        scored = Scored(
            camera="top",
            part_id=1,
            frame_id=1,
            setup_hash="",
            map=ring.put(_maps(0)),
            classification=0.0,
        )
        rows: list[Row] = []
        for what, limit, must in (
            ("verdicts, 8 segments on 256² and forest", 1e6, 250.0),
            ("the same with reasons (all NG)", -1e6, None),
        ):
            recipe = _recipe(scorer.bundle, limit)
            judge = partial(scorer.score, scored, reader, recipe, (_SIDE_PX, _SIDE_PX))
            times = time_ms(judge, seconds)
            rows.append(
                Row(
                    bench="scoring",
                    what=what,
                    value=figure(1e3 / float(np.mean(times))),
                    unit="1/s",
                    must=must,
                    ambition=500.0 if must else None,
                    is_floor=True,
                    spread={f"{name} ms": value for name, value in quantiles(times).items()},
                    note="in the scoring thread, without the line around it",
                )
            )
        ring.close()
        return rows
    finally:
        shutil.rmtree(root, ignore_errors=True)
        shutil.rmtree(rings, ignore_errors=True)


def time_ms(call: Callable[[], object], seconds: float) -> npt.NDArray[np.float64]:
    """Milliseconds of each call, repeated for `seconds` (at most 5) after three that warm up."""
    for _ in range(3):
        call()
    times: list[float] = []
    end = time.perf_counter() + min(seconds, _LONGEST_S)
    while len(times) < 3 or time.perf_counter() < end:
        begun = time.perf_counter()
        call()
        times.append((time.perf_counter() - begun) * 1e3)
    return np.array(times)


def _plain(amap: npt.NDArray[np.float32], labels: npt.NDArray[np.uint8]) -> list[float]:
    """The statistics as the paper's code takes them."""
    table: list[float] = []
    for segment in range(len(_SEGMENTS)):
        pixels = amap[labels == segment]
        table += [
            float(np.quantile(pixels, 0.995)),
            float(stats.skew(pixels)),
            float(stats.kurtosis(pixels)),
            float(pixels.mean()),
        ]
    return [*table, float(amap.max())]


def _labels() -> npt.NDArray[np.uint8]:
    """Two rows of four segments."""
    quarter = np.arange(_SIDE_PX) // (_SIDE_PX // 4)
    half = np.arange(_SIDE_PX) // (_SIDE_PX // 2)
    return (4 * half[:, None] + quarter[None]).astype(np.uint8)


def _maps(seed: int) -> npt.NDArray[np.float32]:
    noise = np.random.default_rng(seed).normal(-4.0, 1.0, (1, _SIDE_PX, _SIDE_PX))
    return noise.astype(np.float32)


def _features(parts: int) -> npt.NDArray[np.float32]:
    drawn = np.random.default_rng(0).normal(size=(parts, len(_COLUMNS)))
    return drawn.astype(np.float32)


@cache
def _fitted() -> Forest:
    labels = np.random.default_rng(1).integers(0, 2, _PARTS)
    return fit(_features(_PARTS), labels, _COLUMNS, seed=0, threads=1)


def _bundle(root: Path) -> Bundle:
    draft = root / "draft"
    draft.mkdir()
    cv2.imwrite(str(draft / "segments.png"), _labels())
    _fitted().save(draft / "segad.ubj")
    manifest = Manifest(
        kind="null",
        product="bench",
        created_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        files={},
        input=InputContract(
            height_px=_SIDE_PX,
            width_px=_SIDE_PX,
            source_height_px=_SIDE_PX,
            source_width_px=_SIDE_PX,
            channels=1,
            smallest_defect_px=3.0,
        ),
        detectors=_DETECTORS,
        segments=_SEGMENTS,
        columns=_COLUMNS,
        forest="segad.ubj",
    )
    return finish_bundle(draft, root / "bundle", manifest)


def _recipe(bundle: Bundle, limit: float) -> LoadedRecipe:
    recipe = Recipe(
        id="bench",
        version=1,
        bundle=bundle.id,
        bundle_dir="bundle",
        decides="segad",
        limits=Limits(t1=limit, t2=limit),
    )
    digest = hashlib.sha256(repr(limit).encode()).hexdigest()
    return LoadedRecipe(
        recipe=recipe, path="bench/1.toml", hash=digest, setup_hash=setup_hash(recipe)
    )
