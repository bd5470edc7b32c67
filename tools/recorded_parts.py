"""A recording made without a line: pictures through the code that judges, on a clock of its own.

For benches and tests of replay, which need a recording of a known length and no processes: the
set-up of infer, the scorer and the book of decide do their work, the tape and every picture go into
segments as the recorder writes them.
"""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from appliance.bundle import load_bundle
from appliance.config import Config, is_simulated
from appliance.deck import SCHEMAS
from appliance.deck_writer import SEGMENT_BYTES, about_recording
from appliance.frames import inline_ref
from appliance.infer_setup import prove
from appliance.journal_records import Opened
from appliance.ledger import Ledger
from appliance.messages import FrameReady, InferFailed, Taped, Verdict
from appliance.part import Part
from appliance.pixels import Pixels
from appliance.recipe import LoadedRecipe
from appliance.recording import CAMERA, MAP, TAPE, Entry, SegmentWriter
from appliance.replay_infer import Memory, answer
from appliance.scoring import Scorer
from appliance.tape import Tape, TapedBook

_PERIOD_NS = 50_000_000
_DEADLINE_NS = 200_000_000


def record_parts(
    config: Config, recipe: LoadedRecipe, pictures: Iterable[Pixels], name: str
) -> Path:
    """One part per picture, as the first camera saw it. Returns the recording's directory.

    pictures: (H, W) or (H, W, 3) as the camera gives them. Raises ArtefactError.
    """
    folder = config.recordings_dir / name
    reel = _Reel(config, recipe, folder)
    bundle = load_bundle(config.bundles_dir / recipe.recipe.bundle_dir, recipe.recipe.bundle)
    memory, scorer = Memory(), Scorer(bundle)
    setup = prove(config, recipe, lambda: None)
    tape, is_of_files = Tape(reel.take), is_simulated(config)
    book = TapedBook(_Ids(), Ledger(), "recorded", _nothing, config.cameras[:1], is_of_files, tape)
    try:
        for number, pixels in enumerate(pictures, 1):
            now_ns = number * _PERIOD_NS
            part = book.open(now_ns, now_ns + _DEADLINE_NS, recipe)
            frame = FrameReady(
                camera=config.camera[0].name,
                part_id=part.part_id,
                frame_id=number,
                setup_hash=recipe.setup_hash,
                pixels=inline_ref(pixels, number),
                bits=8 * pixels.itemsize,
                age_ns=0,
                is_simulated=is_of_files,
            )
            reel.pixels = pixels
            book.frame(frame, now_ns + 5_000_000)
            said = answer(setup, frame, pixels)
            if isinstance(said, InferFailed):
                book.failed(said, now_ns + 20_000_000)
                continue
            scored = msgspec.structs.replace(said.scored, map=memory.put(said.map))
            reel.pixels = said.map[0]
            sight = book.scored(scored, now_ns + 20_000_000)
            if sight is not None:
                size = pixels.shape[0], pixels.shape[1]
                result = scorer.score(scored, memory, recipe, size)
                book.judged(sight, result, now_ns + 25_000_000)
    finally:
        setup.close()
    reel.finish()
    return folder


class _Reel:
    """The tape's other end: segments. `pixels`: of the message that is told next."""

    def __init__(self, config: Config, recipe: LoadedRecipe, folder: Path) -> None:
        self._about, self._camera = about_recording(config), config.camera[0].name
        self._folder, self._name = folder, f"recipe:{recipe.name}"
        self._facts = {
            "toml": (config.recipes_dir / recipe.path).read_text(encoding="utf-8"),
            "hash": recipe.hash,
            "setup_hash": recipe.setup_hash,
            "bundle": recipe.recipe.bundle,
            "bundle_dir": recipe.recipe.bundle_dir,
        }
        self._segments = 0
        self._log_ns = time.time_ns()
        self.pixels: Any = None
        self._segment = self._begin()

    def take(self, taped: Taped) -> bool:
        """One record of the tape."""
        self._log_ns += 1000
        entry = Entry(TAPE + taped.topic, self._log_ns, taped.at_ns, taped.sequence, taped.data)
        self._segment.add(entry)
        topic = {"seen": CAMERA, "scored": MAP}.get(taped.topic)
        if topic is not None and self.pixels is not None:
            image = entry._replace(topic=topic + self._camera)
            self._segment.add_image(image, self.pixels, self._camera)
            self.pixels = None
        if self._segment.bytes > SEGMENT_BYTES:
            self._segment.finish()
            self._segment = self._begin()
        return True

    def finish(self) -> None:
        """The last segment is whole."""
        self._segment.finish()

    def _begin(self) -> SegmentWriter:
        self._segments += 1
        path = self._folder / f"{self._segments:06d}.ok.mcap"
        segment = SegmentWriter(path, self._about, SCHEMAS)
        segment.note(self._name, self._facts)
        return segment


class _Ids:
    """What a book asks of the journal; nothing is kept."""

    epoch, first_id = 1, 1

    def __init__(self) -> None:
        self._last = 0

    def take_id(self) -> int:
        self._last += 1
        return self._last

    def opened(self, record: Opened) -> None:
        pass

    def closed(self, verdict: Verdict) -> None:
        pass


def _nothing(part: Part, verdict: Verdict) -> None:
    """Nobody waits for it: the tape has it."""
