"""An engine for frames that are cut into tiles: another engine, asked about all of them."""

from collections.abc import Sequence

from appliance.engine import Engine, Frame, Map, Spec
from appliance.errors import ArtefactError, PartError
from appliance.tiles import Grid


class TiledEngine(Engine):
    """Whole frames in, whole maps out, as every engine; what runs is `inner`, opened for one tile.

    whole: of the frames. grid: their tiles. Raises ArtefactError where frames of this size have
    another map than the training images had: the regions of the part would not fit it.
    """

    kind = "tiled"
    runtime = ""
    precisions = ("fp32", "bf16", "fp16", "int8")

    def __init__(self, inner: Engine, whole: Spec, grid: Grid) -> None:
        if grid.map_size != whole.map_shape[1:]:
            expected = f"the size of the training images, with a map of {whole.map_shape[1:]}"
            got = f"{whole.width_px}x{whole.height_px} pixels, with {grid.map_size}"
            raise ArtefactError("region of a tiled bundle", expected, got)
        self._inner, self._grid = inner, grid
        self.is_simulated, self.plan = inner.is_simulated, inner.plan
        super().__init__(whole, b"", inner.precision, inner.threads)

    def warm_up(self, together: int = 1) -> int:
        """The inner engine first, by itself, with all tiles of a frame; then whole frames."""
        del together  # frames of several cameras: the tiles of one are as many as a call takes
        self._inner.warm_up(self._grid.size)
        return super().warm_up()

    def traits(self) -> dict[str, float]:
        """Of the engine inside, with tiles in the place of frames."""
        return self._inner.traits()

    def _load(self, model: bytes) -> None:
        """It is loaded already."""

    def _run(self, frames: Sequence[Frame], outs: Sequence[Map]) -> Sequence[float]:
        at_once = max(self._inner.batch_ns)
        return [
            self._grid.run(frame, out, self._tiles, at_once)
            for frame, out in zip(frames, outs, strict=True)
        ]

    def _tiles(self, tiles: Sequence[Frame], maps: Sequence[Map]) -> list[float]:
        scores: list[float] = []
        for answer in self._inner.infer_many(tiles, maps):
            if isinstance(answer, PartError):
                raise answer
            scores.append(answer)
        return scores

    def _release(self) -> None:
        self._inner.close()
