"""A folder or a video of pictures, judged as if each were a part: no line, no deadline.

A folder may lie in the MVTec layout: what is below a folder called `good` is good, below any other
folder bad; pictures that lie loose are of unknown worth.
"""

from collections.abc import Iterator
from pathlib import Path

import cv2
import msgspec
import numpy as np

from appliance.bundle import load_bundle
from appliance.camera_files import SUFFIXES, read_picture
from appliance.codes import Reason, Word
from appliance.config import Config
from appliance.errors import ArtefactError, DeviceError, PartError
from appliance.frames import inline_ref
from appliance.infer_setup import Setup, prove
from appliance.journal import acq_id
from appliance.messages import FrameReady, InferFailed, Verdict
from appliance.pixels import Pixels
from appliance.recipe import LoadedRecipe
from appliance.replay_infer import Memory, answer
from appliance.scoring import Scorer
from appliance.verdict import judge

_VIDEOS = frozenset({".mp4", ".avi", ".mkv", ".mov"})


def has_pictures(path: Path) -> bool:
    """Whether this is a video, or a folder of pictures and not a recording."""
    if path.is_file():
        return path.suffix.lower() in _VIDEOS
    return path.is_dir() and not any(path.glob("*.mcap*")) and any(_files(path))


def play_pictures(
    config: Config, recipe: LoadedRecipe, paths: list[Path]
) -> tuple[list[Verdict], dict[int, bool]]:
    """A verdict per picture, and part id → is it bad, where the folder tells.

    Raises ArtefactError: recipe or bundle cannot be used. A picture that cannot be read or fails
    the gates ends as ERROR, as on the line.
    """
    camera = config.cameras[0]
    bundle, bundle_dir, _, _ = recipe.recipe.terms(camera)
    scorer = Scorer(load_bundle(config.bundles_dir / bundle_dir, bundle))
    scorer.check(recipe, camera)
    setup = prove(config, recipe, lambda: None)
    is_grey = scorer.bundle.manifest.input.channels == 1
    verdicts: list[Verdict] = []
    truth: dict[int, bool] = {}
    try:
        for part_id, (source, is_bad, pixels) in enumerate(_pictures(paths, is_grey), 1):
            if is_bad is not None:
                truth[part_id] = is_bad
            verdicts.append(_judged(part_id, source, pixels, setup, scorer, recipe))
    finally:
        setup.close()
    return verdicts, truth


def _judged(
    part_id: int, source: str, pixels: Pixels, setup: Setup, scorer: Scorer, recipe: LoadedRecipe
) -> Verdict:
    name = next(iter(setup.cameras))
    frame = FrameReady(
        camera=name,
        part_id=part_id,
        frame_id=part_id,
        setup_hash=setup.setup_hash,
        pixels=inline_ref(pixels, part_id),
        bits=8 * pixels.itemsize,
        age_ns=0,
        source=source,
        is_simulated=True,
    )
    bundle, _, decides, limits = recipe.recipe.terms(name)
    verdict = Verdict(
        part_id=part_id,
        acq_id=acq_id(part_id),
        epoch=0,
        word=Word.ERROR,
        reason=Reason.INTERNAL,
        camera=name,
        decides=decides,
        t1=limits.t1,
        t2=limits.t2,
        frame_id=part_id,
        source=source,
        bundle=bundle,
        recipe=recipe.name,
        recipe_hash=recipe.hash,
        setup_hash=recipe.setup_hash,
        passport=setup.cameras[name].passport,
        software="replay",
        is_simulated=True,
    )
    said = answer(setup, frame, pixels)
    heard = said if isinstance(said, InferFailed) else said.scored
    verdict = msgspec.structs.replace(verdict, gates=heard.gates, stages_ns=heard.stages_ns)
    if isinstance(said, InferFailed):
        return msgspec.structs.replace(verdict, reason=said.reason, detail=said.detail)
    memory = Memory()
    scored = msgspec.structs.replace(said.scored, map=memory.put(said.map))
    try:
        made = scorer.score(scored, memory, recipe, (pixels.shape[0], pixels.shape[1]))
    except PartError as err:
        return msgspec.structs.replace(verdict, reason=err.reason, detail=err.detail)
    word, reason = judge(made.margin, limits, decides)
    return msgspec.structs.replace(
        verdict,
        word=word,
        reason=reason,
        reasons=made.reasons,
        region_px=made.region_px,
        defects=made.defects,
        margin=made.margin,
        map_max=made.map_max,
        classification=scored.classification,
        features=made.features,
        stages_ns=scored.stages_ns | made.stages_ns,
    )


def _pictures(paths: list[Path], is_grey: bool) -> Iterator[tuple[str, bool | None, Pixels]]:
    for path in paths:
        if path.is_file():
            yield from _video(path, is_grey)
            continue
        for file in _files(path):
            folder = file.parent
            is_bad = None if folder == path else folder.name != "good"
            try:
                yield file.relative_to(path).as_posix(), is_bad, read_picture(file)
            except DeviceError as err:
                raise ArtefactError(file, "a picture", str(err)) from err


def _files(folder: Path) -> Iterator[Path]:
    files = (file for file in folder.rglob("*") if "ground_truth" not in file.parts)
    yield from sorted(file for file in files if file.suffix.lower() in SUFFIXES)


def _video(path: Path, is_grey: bool) -> Iterator[tuple[str, None, Pixels]]:
    """is_grey: the network wants one channel; a decoder gives three whatever was filmed."""
    order = cv2.COLOR_BGR2GRAY if is_grey else cv2.COLOR_BGR2RGB
    video = cv2.VideoCapture(str(path))
    try:
        number = 0
        while True:
            is_there, frame = video.read()
            if not is_there:
                break
            number += 1
            yield f"{path.name}#{number}", None, np.asarray(cv2.cvtColor(frame, order), np.uint8)
        if number == 0:
            raise ArtefactError(path, "a video", "nothing that can be read")
    finally:
        video.release()
