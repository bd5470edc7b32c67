"""From a map in a real ring to a margin: what decides, what is shown, what makes it an ERROR."""

import math
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from appliance.bundle import Bundle, finish_bundle, load_bundle
from appliance.codes import OfflineReason, Reason
from appliance.engine_null import write_null_bundle
from appliance.errors import ArtefactError, PartError
from appliance.forest import fit
from appliance.frames import FrameOverwritten, RingReader, RingWriter
from appliance.messages import PixelRef, Scored
from appliance.recipe import LoadedRecipe, View
from appliance.scores import Decides, Heard, Unit
from appliance.scoring import Scorer, worst_region
from tests.line_plans import loaded

SIDE = 64
FRAME = (480, 640)


@pytest.fixture(scope="module")
def bundle() -> Iterator[Bundle]:
    root = Path(tempfile.mkdtemp(prefix="insp", dir="/tmp"))
    made = write_null_bundle(root / "null", "null", *FRAME)
    yield load_bundle(root / "null", made.id)
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def scorer(bundle: Bundle) -> Scorer:
    return Scorer(bundle)


class Maps:
    """infer's ring and decide's reader of it."""

    def __init__(self, folder: Path) -> None:
        self.writer = RingWriter(folder, "map-0", 4, 4 * SIDE * SIDE)
        self.reader = RingReader(folder)

    def scored(self, amap: np.ndarray, classification: float = 0.0) -> Scored:
        return Scored(
            camera="top",
            part_id=1,
            frame_id=1,
            setup_hash="",
            map=self.writer.put(amap),
            classification=classification,
        )


@pytest.fixture
def maps() -> Iterator[Maps]:
    folder = Path(tempfile.mkdtemp(prefix="insp", dir="/dev/shm"))
    made = Maps(folder)
    yield made
    made.writer.close()
    shutil.rmtree(folder)


def recipe(decides: Decides, view: View | None = None) -> LoadedRecipe:
    """Limits 1 and 2."""
    base = loaded()
    changed = msgspec.structs.replace(
        base.recipe, decides=decides, camera={"top": view} if view else {}
    )
    return msgspec.structs.replace(base, recipe=changed)


def flat(value: float = 0.0) -> np.ndarray:
    """(1, 64, 64) float32 of one value."""
    return np.full((1, SIDE, SIDE), value, np.float32)


def with_spot(value: float = 3.0) -> np.ndarray:
    """A spot of 8 x 4 map pixels at x 16, y 32."""
    amap = flat()
    amap[0, 32:36, 16:24] = value
    return amap


@pytest.mark.parametrize(("decides", "margin"), [("map_max", 3.0), ("classification", 0.5)])
def test_the_recipe_says_which_score_decides(
    scorer: Scorer, maps: Maps, decides: Decides, margin: float
) -> None:
    made = scorer.score(maps.scored(with_spot(), 0.5), maps.reader, recipe(decides), FRAME)
    assert (made.margin, made.map_max) == (margin, 3.0)
    assert len(made.features) == len(scorer.bundle.manifest.columns)
    assert set(made.stages_ns) == {"features", "forest", "reasons"}


def test_what_reaches_the_limit_is_shown_where_it_is(scorer: Scorer, maps: Maps) -> None:
    made = scorer.score(maps.scored(with_spot()), maps.reader, recipe("map_max"), FRAME)
    assert made.region_px == (160, 240, 80, 30)
    assert made.defects == 1
    assert made.reasons == ("map maximum 3 (OK below 1, NG from 2)",)


def test_a_region_lies_inside_the_roi_that_the_network_saw(scorer: Scorer, maps: Maps) -> None:
    view = View(roi=(100, 50, 128, 64))
    made = scorer.score(maps.scored(with_spot()), maps.reader, recipe("map_max", view), FRAME)
    assert made.region_px == (132, 82, 16, 4)


def test_a_good_part_needs_no_reasons(scorer: Scorer, maps: Maps) -> None:
    made = scorer.score(maps.scored(flat(0.5)), maps.reader, recipe("map_max"), FRAME)
    assert (made.margin, made.region_px, made.defects, made.reasons) == (0.5, None, 0, ())


def test_the_margin_is_float32_as_it_will_be_compared(scorer: Scorer, maps: Maps) -> None:
    made = scorer.score(maps.scored(flat(), 0.1), maps.reader, recipe("classification"), FRAME)
    assert made.margin == float(np.float32(0.1))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("decides", ["map_max", "classification"])
def test_one_pixel_that_is_no_number_spoils_the_part(
    scorer: Scorer, maps: Maps, value: float, decides: Decides
) -> None:
    amap = flat()
    amap[0, 5, 5] = value
    with pytest.raises(PartError) as caught:
        scorer.score(maps.scored(amap), maps.reader, recipe(decides), FRAME)
    assert caught.value.reason == Reason.INVALID_NUMBER


def test_a_score_that_is_no_number_is_handed_on_as_it_is(scorer: Scorer, maps: Maps) -> None:
    """The verdict makes ERROR of it; nothing here may turn it into a number."""
    scored = maps.scored(flat(), math.nan)
    made = scorer.score(scored, maps.reader, recipe("classification"), FRAME)
    assert math.isnan(made.margin)


@pytest.mark.parametrize("shape", [(1, 32, 64), (1, SIDE, SIDE - 1), (SIDE, SIDE), (2, 32, 32)])
def test_a_map_of_another_shape(scorer: Scorer, maps: Maps, shape: tuple[int, ...]) -> None:
    with pytest.raises(PartError) as caught:
        amap = np.zeros(shape, np.float32)
        scorer.score(maps.scored(amap), maps.reader, recipe("map_max"), FRAME)
    assert caught.value.reason == Reason.INFERENCE_ERROR


def test_a_map_that_was_overwritten_before(scorer: Scorer, maps: Maps) -> None:
    scored = maps.scored(flat())
    for _ in range(4):
        maps.writer.put(flat(9.0))
    with pytest.raises(FrameOverwritten):
        scorer.score(scored, maps.reader, recipe("map_max"), FRAME)


def test_a_map_that_is_overwritten_while_it_is_used(scorer: Scorer, maps: Maps) -> None:
    """What was computed from half of one map and half of another is no margin."""
    scored = maps.scored(flat())

    class Slow(RingReader):
        def view(self, ref: PixelRef) -> Any:
            seen = super().view(ref).copy()
            for _ in range(4):
                maps.writer.put(flat(9.0))
            return seen

    with pytest.raises(FrameOverwritten):
        scorer.score(scored, Slow(maps.writer.path.parent), recipe("map_max"), FRAME)


def test_a_ring_that_is_gone(scorer: Scorer, maps: Maps) -> None:
    scored = maps.scored(flat())
    maps.writer.path.unlink()
    with pytest.raises(FrameOverwritten):
        scorer.score(scored, maps.reader, recipe("map_max"), FRAME)


@pytest.mark.parametrize("decides", ["segad", "average"])
def test_a_recipe_that_wants_a_score_of_a_bundle_without_it(
    scorer: Scorer, maps: Maps, decides: Decides
) -> None:
    with pytest.raises(ArtefactError, match="expected map_max or classification") as caught:
        scorer.check(recipe(decides))
    assert caught.value.offline == OfflineReason.NO_RECIPE
    scorer.check(recipe("map_max"))
    with pytest.raises(PartError):
        scorer.score(maps.scored(flat()), maps.reader, recipe(decides), FRAME)


def test_columns_of_another_software_are_refused(bundle: Bundle) -> None:
    manifest = msgspec.structs.replace(bundle.manifest, columns=("one", "two"))
    with pytest.raises(ArtefactError, match=r"manifest\.json: columns: expected the"):
        Scorer(Bundle(bundle.folder, manifest, bundle.id))


def test_worst_region_is_the_one_with_the_peak() -> None:
    amap = np.zeros((SIDE, SIDE), np.float32)
    amap[10:12, 10:14] = 4.0
    amap[50:60, 50:60] = 3.0
    amap[0, 63] = 1.0
    box, count = worst_region(amap, np.ones((SIDE, SIDE), bool), (0, 0, SIDE, SIDE))
    assert box == (10, 10, 4, 2)
    assert count == 2


def test_worst_region_looks_only_where_the_segments_do() -> None:
    amap = np.zeros((SIDE, SIDE), np.float32)
    amap[10:12, 10:14] = 9.0
    amap[50:52, 50:52] = 3.0
    seen = np.ones((SIDE, SIDE), bool)
    seen[:30] = False
    box, count = worst_region(amap, seen, (0, 0, SIDE, SIDE))
    assert (box, count) == ((50, 50, 2, 2), 1)


def test_worst_region_of_a_flat_map_is_all_of_it() -> None:
    amap = np.full((SIDE, SIDE), 2.0, np.float32)
    box, count = worst_region(amap, np.ones((SIDE, SIDE), bool), (8, 4, 32, 16))
    assert (box, count) == ((8, 4, 32, 16), 1)


def test_worst_region_where_nothing_is_seen() -> None:
    amap = np.zeros((SIDE, SIDE), np.float32)
    box, count = worst_region(amap, np.zeros((SIDE, SIDE), bool), (0, 0, 10, 10))
    assert (box, count) == ((0, 0, 10, 10), 0)


def with_forest(bundle: Bundle, tmp_path: Path, units: dict[Heard, Unit]) -> Bundle:
    """The bundle of the null engine, with a forest that takes the maximum of a map for bad."""
    columns = bundle.manifest.columns
    rng = np.random.default_rng(0)
    features = rng.normal(0, 0.1, (80, len(columns))).astype(np.float32)
    labels = np.arange(80) % 2
    features[labels == 1] += 3
    path = tmp_path / "segad.ubj"
    fit(features, labels, columns, seed=0).save(path)
    manifest = msgspec.structs.replace(bundle.manifest, forest=path.name, units=units, files={})
    draft = tmp_path / "draft"
    shutil.copytree(bundle.folder, draft)
    shutil.copy(path, draft)
    return finish_bundle(draft, tmp_path / "bundle", manifest)


def test_the_forest_decides_where_the_recipe_says_so_and_gives_its_reasons(
    bundle: Bundle, maps: Maps, tmp_path: Path
) -> None:
    scorer = Scorer(with_forest(bundle, tmp_path, {}))
    good = scorer.score(maps.scored(flat()), maps.reader, recipe("segad"), FRAME)
    bad = scorer.score(maps.scored(flat(3.0)), maps.reader, recipe("segad"), FRAME)
    assert good.margin < 0 < bad.margin and good.reasons == ()
    assert bad.map_max == 3.0 and bad.reasons == (), "below T1 nobody asks why"
    limits = msgspec.structs.replace(recipe("segad").recipe.limits, t1=0.0, t2=bad.margin)
    strict = msgspec.structs.replace(
        recipe("segad"), recipe=msgspec.structs.replace(recipe("segad").recipe, limits=limits)
    )
    told = scorer.score(maps.scored(flat(3.0)), maps.reader, strict, FRAME)
    assert told.margin == bad.margin and told.region_px is not None
    assert "segment all: q99.5 of null is high" in "; ".join(told.reasons)


def test_the_average_hears_every_score_in_its_unit_and_says_what_each_says(
    bundle: Bundle, maps: Maps, tmp_path: Path
) -> None:
    units: dict[Heard, Unit] = {
        "segad": Unit(middle=-1.0, spread=2.0),
        "map_max": Unit(middle=1.0, spread=0.5),
    }
    made = with_forest(bundle, tmp_path, units)
    assert made.manifest.scores == ("segad", "average", "map_max", "classification")
    scorer, scored = Scorer(made), maps.scored(flat(3.0), 2.0)
    forest = scorer.score(scored, maps.reader, recipe("segad"), FRAME)
    told = scorer.score(scored, maps.reader, recipe("average"), FRAME)
    each = ((forest.margin + 1) / 2, (3 - 1) / 0.5)
    assert told.margin == pytest.approx(sum(each) / 2, rel=1e-6)
    assert told.margin > 1 and told.region_px is not None
    *regions, last = told.reasons
    assert last.startswith(f"average {told.margin:.3g} (OK below 1, NG from 2) of ")
    assert last.endswith(f"region forest {each[0]:.3g}, map maximum 4")
    assert "segment all: q99.5 of null is high" in "; ".join(regions)
