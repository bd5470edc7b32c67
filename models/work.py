"""`inspectd work`: the job that waits below `root/jobs`, at the lowest priority, then the end.

A job belongs to the tool's pages: maps of some parts to look at ("look"), another segment map with
the forest fitted anew ("regions"), a network trained anew ("teach"). Whatever is made is a bundle
that nothing uses: a person has to propose it and another one to approve it. Parts that verify have
no say in it; they are judged at the end, and what they say is sealed.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
import structlog
import typer

from appliance.archive import read_image
from appliance.atomic import write_atomically
from appliance.bundle import Bundle, hash_file, load_bundle
from appliance.config import Config, Engine, load_config
from appliance.errors import ConfigError, DeviceError, PartError
from appliance.jobs import Job, JobFolder, JobPart, Jobs, Result, Sealed, State, write
from appliance.pictures_judged import PictureJudge
from appliance.recipe import LoadedRecipe, load_recipe
from appliance.service import die_with_parent, start_logging
from models.dataset import Dataset, Sample
from models.pictures import shape_of

LEAST_GOOD = 5
"""Good parts of the limits: below that nothing can be said of a score."""
LEAST_TAUGHT = 20
"""Good pictures for a network."""
_NETWORK_SHARE = 300 / 440
"""Of the good pictures: for the network; the rest is for forest and limits."""
_SAY_S = 0.3
_THREADS = max(1, (os.cpu_count() or 1) // 2)

Report = Callable[[str, float], None]


class Stopped(Exception):
    """Somebody wants the job to end."""


def main(
    config: Annotated[Path, typer.Option("--config", help="The integrator's config.toml.")] = Path(
        "config.toml"
    ),
    supervised: Annotated[
        bool, typer.Option("--supervised", help="End when the parent process ends.")
    ] = False,
) -> None:
    """The job that waits for the operator's tool, at the lowest priority; exit 1 where it fails."""
    if supervised:
        die_with_parent()
    start_logging()
    os.nice(19)
    # Before any library that computes is imported: half of the cores at most.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, str(_THREADS))
    loaded = load_config(config)
    jobs = Jobs(loaded)
    with jobs.working():
        folder = jobs.take()
        if folder is None:
            sys.stderr.write(f"inspectd: no job waits in {jobs.root}\n")
            return
        state = work(loaded, jobs, folder)
        if (used := in_use(loaded)) is not None:
            jobs.tidy(used)
    raise typer.Exit(0 if state.state == "done" else 1)


def work(config: Config, jobs: Jobs, folder: JobFolder) -> State:
    """Do one job and say how it ended. Bugs are raised; the folder then tells of a lost process."""
    log = structlog.get_logger(process="work")
    said_s = 0.0
    state = State(state="running", stage="starting")
    folder.say(state)

    def report(stage: str, done: float) -> None:
        nonlocal said_s, state
        if jobs.is_stopping:
            raise Stopped
        state = State(state="running", stage=stage, done=min(1.0, max(0.0, done)))
        if time.monotonic() - said_s >= _SAY_S or done >= 1.0:
            said_s = time.monotonic()
            folder.say(state)

    def end(*_: object) -> None:
        raise Stopped

    old = signal.signal(signal.SIGTERM, end)
    try:
        job = folder.job
        log.info("job", id=job.id, kind=job.kind, recipe=job.recipe, by=job.by)
        report("starting", 0.0)
        _KINDS[job.kind](_Bench(config, job, folder), report)
        state = State(state="done", done=1.0)
    except Stopped:
        state = State(state="stopped", stage=state.stage, done=state.done)
    except (ConfigError, DeviceError, PartError, OSError, MemoryError) as err:
        log.warning("job failed", error=str(err))
        state = State(state="failed", stage=state.stage, done=state.done, error=str(err))
    finally:
        signal.signal(signal.SIGTERM, old)
    shutil.rmtree(folder.path / "parts", ignore_errors=True)
    for half_made in config.bundles_dir.glob(f".*-{folder.path.name}*"):
        shutil.rmtree(half_made, ignore_errors=True)
    folder.say(state)
    return state


def in_use(config: Config) -> set[str] | None:
    """Directories of bundles that any version of any recipe names; None where one of the recipes
    cannot be read just now, so that nobody knows."""
    found: set[str] = set()
    for path in config.recipes_dir.glob("*/*.toml"):
        name = path.relative_to(config.recipes_dir).with_suffix("").as_posix()
        try:
            recipe = load_recipe(config, name).recipe
        except ConfigError:
            return None
        found |= {recipe.bundle_dir, *recipe.bundles(config.cameras).values()}
    return found


class _Picture(NamedTuple):
    part: JobPart
    path: Path
    """PNG as the network of the recipe sees the part."""


class _Bench:
    """What every kind of job works with."""

    def __init__(self, settings: Config, job: Job, folder: JobFolder) -> None:
        self.config, self.job, self.folder = settings, job, folder
        self.recipe: LoadedRecipe = load_recipe(settings, job.recipe)
        recipe = self.recipe.recipe
        self.bundle = load_bundle(settings.bundles_dir / recipe.bundle_dir, recipe.bundle)
        self.counts: Counter[str] = Counter()
        if not job.parts:
            raise ConfigError("job", "at least one part with a picture", "none")

    def judge(self, bundle: Bundle, camera: str) -> PictureJudge:
        """For parts of this camera: the engine of the line where it runs on the processor, with
        fewer threads; else ONNX Runtime in fp32, since a job has no GPU and builds no engine."""
        settings = msgspec.structs.replace(self.config.engine, threads=_THREADS)
        if settings.kind in ("tensorrt", "onnx-cuda"):
            settings = Engine(kind="onnx", threads=_THREADS)
        view = self.recipe.recipe.camera.get(camera)
        where = f"recipe {self.recipe.name}: camera.{camera}"
        return PictureJudge(bundle, settings, self.config.engines_dir, view, where)

    def collect(self, report: Report, share: float) -> list[_Picture]:
        """Pictures out of the archive into the job's folder, cut and placed as on the line.

        What is gone, or would not be judged by the line, is left out and counted.
        """
        target = self.folder.path / "parts"
        target.mkdir(exist_ok=True)
        found: list[_Picture] = []
        judge = self.judge(self.bundle, self.camera)
        try:
            for number, part in enumerate(self.job.parts):
                report("pictures", share * number / len(self.job.parts))
                try:
                    frame = judge.picture(read_image(self.config.data_dir / part.image))
                except OSError:
                    self.counts["picture gone"] += 1
                    continue
                except PartError:
                    self.counts["not found by its fixture"] += 1
                    continue
                if not judge.is_healthy(frame):
                    self.counts["not a healthy picture"] += 1
                    continue
                path = target / f"{part.part_id}.png"
                data = cv2.imencode(".png", frame[..., ::-1] if frame.ndim == 3 else frame)[1]
                write_atomically(path, data.tobytes())
                found.append(_Picture(part, path))
        finally:
            judge.close()
        return found

    @property
    def camera(self) -> str:
        """Whose parts these are. Raises ConfigError where they are of several."""
        cameras = {part.camera for part in self.job.parts}
        if len(cameras) != 1:
            raise ConfigError("parts", "parts of one camera", ", ".join(sorted(cameras)))
        return cameras.pop()


def frame_of(path: Path) -> npt.NDArray[np.uint8]:
    """(H, W) or (H, W, 3) RGB as `collect` wrote it."""
    return np.asarray(read_image(path), np.uint8)


def _look(bench: _Bench, report: Report) -> None:
    """Maps of the parts, and the mean of the good ones at the size of the network's input."""
    contract = bench.bundle.manifest.input
    size = contract.map_size[::-1]
    pictures = bench.collect(report, 0.3)
    maps: list[npt.NDArray[np.float32]] = []
    total, good = np.zeros((size[1], size[0], 3)), 0
    judge = bench.judge(bench.bundle, bench.camera)
    try:
        for number, (part, path) in enumerate(pictures):
            report("maps", 0.3 + 0.7 * number / len(pictures))
            frame = frame_of(path)
            maps.append(judge.maps(frame)[0])
            if part.kind == "good":
                small = np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA))
                total += small if small.ndim == 3 else small[..., None]
                good += 1
    finally:
        judge.close()
    if not maps:
        raise ConfigError("parts", "pictures that the line would judge", str(dict(bench.counts)))
    if good:
        mean = np.asarray((total / good).round(), np.uint8)
        data = cv2.imencode(".png", mean[..., ::-1])[1]
        write_atomically(bench.folder.path / "mean.png", data.tobytes())
    with (bench.folder.path / "maps.npz").open("wb") as file:
        ids = np.array([picture.part.part_id for picture in pictures], np.int64)
        np.savez(file, maps=np.stack(maps), part_ids=ids)


def _regions(bench: _Bench, report: Report) -> None:
    """Another segment map in a new bundle, its forest fitted on the learn parts."""
    from models.refit import Wish, refit

    pictures = bench.collect(report, 0.1)
    learn = [one for one in pictures if one.part.role == "learn"]
    contract = bench.bundle.manifest.input
    data = Dataset(
        name=f"parts of {bench.recipe.name}",
        network_good=(),
        limits_good=_samples([one for one in learn if one.part.kind == "good"]),
        limits_bad=_samples([one for one in learn if one.part.kind not in ("good", "")]),
        held_out=(),
        source=(contract.source_height_px, contract.source_width_px, contract.channels),
    )
    bench.counts["good"], bench.counts["bad"] = len(data.limits_good), len(data.limits_bad)
    _expect_good(len(data.limits_good), LEAST_GOOD, bench)
    labels = bench.folder.path / "segments.png"
    made = refit(
        bench.bundle, data, bench.config.bundles_dir / _name(bench.job), Wish(segments=labels),
        lambda stage, done: report(stage, 0.1 + 0.8 * done),
    )  # fmt: skip
    _finish(bench, made, pictures, report)


def _teach(bench: _Bench, report: Report) -> None:
    """A network trained anew on this box's parts, with the segment map that is in force."""
    if importlib.util.find_spec("torch") is None:
        raise ConfigError("training", "the extra `train` (torch) on this box", "none")
    import torch

    from models.backbones import BACKBONES
    from models.network_training import Wishes
    from models.train import train_bundle

    torch.set_num_threads(_THREADS)
    pictures = bench.collect(report, 0.05)
    learn = [one for one in pictures if one.part.role == "learn"]
    good = _samples([one for one in learn if one.part.kind == "good"])
    order = np.random.default_rng(0).permutation(len(good))
    cut = round(len(good) * _NETWORK_SHARE)
    taught = [good[index] for index in order[:cut]]
    limits = tuple(good[index] for index in order[cut:])
    unjudged = _samples([one for one in pictures if one.part.role == "unjudged"])
    _expect_good(len(limits), LEAST_GOOD, bench)
    _expect_good(len(taught) + len(unjudged), LEAST_TAUGHT, bench)
    old = bench.bundle.manifest
    data = Dataset(
        name=f"parts of {bench.recipe.name}",
        network_good=(*taught, *unjudged),
        limits_good=limits,
        limits_bad=_samples([one for one in learn if one.part.kind not in ("good", "")]),
        held_out=(),
        source=shape_of(frame_of(taught[0].path)),
    )
    bench.counts |= Counter(
        {"network": len(data.network_good), "good": len(limits), "bad": len(data.limits_bad)}
    )
    backbone = old.provenance.get("backbone", "")
    wishes = Wishes(epochs=bench.job.epochs)
    if backbone in BACKBONES:
        wishes = Wishes(backbone=backbone, epochs=bench.job.epochs)
    out = bench.config.bundles_dir / _name(bench.job)
    train_bundle(
        data, out, size=old.input.network_size, tiles=old.input.tiles, product=old.product,
        wishes=wishes, segments=(bench.bundle.segment_map(), old.segments),
        progress=lambda stage, done: report(stage, 0.05 + 0.85 * done),
    )  # fmt: skip
    _finish(bench, load_bundle(out), pictures, report)


_KINDS: dict[str, Callable[[_Bench, Report], None]] = {
    "look": _look, "regions": _regions, "teach": _teach,
}  # fmt: skip


def _name(job: Job) -> str:
    """Directory of the bundle that a job makes."""
    return f"{job.recipe_id}-{job.id}"


def _expect_good(count: int, least: int, bench: _Bench) -> None:
    if count < least:
        left_out = ", ".join(f"{n} {cause}" for cause, n in bench.counts.items())
        raise ConfigError("good parts with a picture", f"{least} or more", f"{count} ({left_out})")


def _samples(pictures: Sequence[_Picture]) -> tuple[Sample, ...]:
    return tuple(
        Sample(
            one.path, 0 if one.part.kind in ("good", "") else 1, one.part.kind or "unjudged",
            hash_file(one.path), part=one.part.name,
        )
        for one in pictures
    )  # fmt: skip


def _finish(bench: _Bench, made: Bundle, pictures: list[_Picture], report: Report) -> None:
    """Judge the verify parts by both bundles, seal that, and tell what the gate says."""
    from models.refit import helps

    suggested = made.manifest.suggested
    assert suggested is not None
    fresh = [one for one in pictures if one.part.role == "verify"]
    bench.counts["verify"] = len(fresh)
    sealed: list[Sealed] = []
    judges = [bench.judge(bundle, bench.camera) for bundle in (made, bench.bundle)]
    try:
        for number, (part, path) in enumerate(fresh):
            report("verify parts", 0.9 + 0.1 * number / len(fresh))
            new, old = (judge.margins(frame_of(path)) for judge in judges)
            sealed.append(
                Sealed(
                    name=part.name,
                    kind=part.kind,
                    margin=new[suggested.decides],
                    current=old[bench.recipe.recipe.decides],
                )
            )
    finally:
        for judge in judges:
            judge.close()
    write(bench.folder.path / "sealed.json", sealed)
    write(
        bench.folder.path / "result.json",
        Result(
            bundle=made.id,
            bundle_dir=made.folder.name,
            decides=suggested.decides,
            t1=suggested.t1,
            t2=suggested.t2,
            why=suggested.why,
            helps=helps(suggested),
            evidence=suggested.evidence,
            counts=dict(bench.counts),
        ),
    )
