"""An engine for frames that are cut into tiles: another engine, called once per tile."""

from appliance.engine import Engine, Frame, Map, Spec
from appliance.errors import ArtefactError
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
        self.is_simulated = inner.is_simulated
        super().__init__(whole, b"", inner.precision, inner.threads)

    def warm_up(self) -> int:
        """The inner engine first, by itself; then whole frames."""
        self._inner.warm_up()
        return super().warm_up()

    def health(self) -> dict[str, float]:
        """Of whole frames, and what is particular to the engine inside."""
        return self._inner.health() | super().health()

    def _load(self, model: bytes) -> None:
        """It is loaded already."""

    def _run(self, frame: Frame, out: Map) -> float:
        return self._grid.run(frame[0], out[0], self._inner.infer)

    def _release(self) -> None:
        self._inner.close()
