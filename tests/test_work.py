"""Jobs beside the line: what is asked for, what comes of it, and that a lost worker is told of."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from appliance.bundle import load_bundle
from appliance.codes import State as LineState
from appliance.codes import Word
from appliance.errors import ConfigError
from appliance.jobs import KEPT, JobFolder, JobPart, Jobs, Kind, State, new_id
from appliance.messages import Words
from appliance.recipe import load_recipe
from calibration.lessons import Lesson, labelled, looked_at, unjudged, warnings
from calibration.workers import Workers, check_room
from models.work import in_use, work
from tests.lesson_world import NET, School, part_picture
from tests.waiting import until

KINDS = ("good", "spot", "", "good") * 20


@pytest.fixture(scope="module")
def school(tmp_path_factory: pytest.TempPathFactory) -> Iterator[School]:
    school = School(tmp_path_factory.mktemp("box"), KINDS)
    yield school
    school.people.close()


def ask(
    school: School,
    kind: Kind,
    parts: tuple[JobPart, ...],
    files: dict[str, bytes] | None = None,
    epochs: int | None = None,
) -> tuple[Jobs, JobFolder]:
    """As the tool does, without starting anybody."""
    workers = Workers(school.config, school.root / "config.toml")
    workers._start_child = lambda: None  # pyright: ignore[reportPrivateUsage]
    recipe = load_recipe(school.config, "cell/1")
    return workers.jobs, workers.start(kind, recipe, "eva", parts, files=files, epochs=epochs)


def worked(
    school: School,
    kind: Kind,
    parts: tuple[JobPart, ...],
    files: dict[str, bytes] | None = None,
    epochs: int | None = None,
) -> State:
    """Asked for and done."""
    jobs, _ = ask(school, kind, parts, files, epochs)
    folder = jobs.take()
    assert folder is not None
    return work(school.config, jobs, folder)


def lesson(school: School) -> Lesson:
    store = school.store()
    try:
        return labelled(store, school.opinions, "cell")
    finally:
        store.close()


def painted(labels: np.ndarray) -> dict[str, bytes]:
    """What the page hands over beside the request."""
    names = b'[{"name": "spot here", "colour": "#e6194b"}, {"name": "rest", "colour": "#3cb44b"}]'
    return {
        "segments.png": cv2.imencode(".png", labels)[1].tobytes(),
        "segments.json": names,
    }


def regions() -> np.ndarray:
    labels = np.ones(NET, np.uint8)
    labels[2:5, 2:8] = 0
    labels[15:] = 255
    return labels


def test_labelled_parts_keep_their_side_and_unjudged_ones_have_none(school: School) -> None:
    store = school.store()
    try:
        known = labelled(store, school.opinions, "cell")
        again = labelled(store, school.opinions, "cell")
        assert known == again
        assert {part.kind for part in known.parts} == {"good", "spot"}
        assert known.count("learn") + known.count("verify") == 60
        assert min(known.count("learn", False), known.count("verify", False)) >= 4
        assert labelled(store, school.opinions, "other").parts == ()
        rest = unjudged(store, school.opinions, "cell", 7, ())
        assert [part.part_id for part in rest] == [79, 75, 71, 67, 63, 59, 55]
        seen = looked_at(store, school.opinions, "cell")
        assert "verify" not in {part.role for part in seen.parts}
        assert len(seen.parts) == 24
    finally:
        store.close()


def test_what_is_missing_is_said_before_anything_is_started(school: School) -> None:
    parts = lesson(school).parts
    few = Lesson(tuple(p for p in parts if p.kind == "good")[:20], 7)
    said = " ".join(warnings(few))
    assert "0 bad parts" in said and "Of 7 labelled parts no picture is kept" in said
    assert "0 bad verify parts: 72 could prove" in said


def test_training_beside_a_ready_line_on_few_cores_has_to_be_forced() -> None:
    ready = Words(registers={104: int(LineState.READY)})
    with pytest.raises(ConfigError, match="4 cores, or a line that is not Ready, got 2 cores"):
        check_room(ready, is_forced=False, cores=2)
    check_room(ready, is_forced=True, cores=2)
    check_room(ready, is_forced=False, cores=4)
    check_room(Words(registers={104: int(LineState.INITIALIZED)}), is_forced=False, cores=2)
    check_room(None, is_forced=False, cores=2)


def test_a_look_gives_the_maps_and_the_mean_of_the_good(school: School) -> None:
    store = school.store()
    parts = looked_at(store, school.opinions, "cell").parts
    store.close()
    assert worked(school, "look", parts).state == "done"
    folder = Jobs(school.config).newest("look", "cell")
    assert folder is not None
    with np.load(folder.path / "maps.npz") as stored:
        assert stored["maps"].shape == (24, 1, *NET)
        assert set(stored["part_ids"]) == {part.part_id for part in parts}
    mean = cv2.imread(str(folder.path / "mean.png"))
    assert mean is not None and mean.shape[:2] == NET
    assert mean[12].mean() > mean[3].mean() + 60
    assert not (folder.path / "parts").exists()


def test_another_map_makes_a_bundle_whose_forest_sees_what_the_maximum_cannot(
    school: School,
) -> None:
    parts = lesson(school).parts
    state = worked(school, "regions", parts, files=painted(regions()))
    assert state.state == "done", state.error
    folder = Jobs(school.config).newest("regions", "cell")
    assert folder is not None
    result = folder.result()
    made = load_bundle(school.config.bundles_dir / result.bundle_dir, result.bundle)
    assert made.manifest.segments == ("spot here", "rest")
    assert (made.segment_map() == regions()).all()
    assert result.helps and result.decides == "segad"
    assert result.evidence["segad_auroc"] > result.evidence["map_max_auroc"]
    learn = [part for part in parts if part.role == "learn"]
    assert result.counts["good"] + result.counts["bad"] == len(learn)
    # The verify parts had no say, and are judged by both bundles.
    sealed = folder.sealed()
    assert {one.name for one in sealed} == {p.name for p in parts if p.role == "verify"}
    good = [one.margin for one in sealed if one.kind == "good"]
    bad = [one.margin for one in sealed if one.kind == "spot"]
    assert max(good) < min(bad)
    assert min(one.current for one in sealed) > 150, "the map's maximum is the bar"


@pytest.mark.timeout(300)
def test_a_network_is_taught_on_this_boxs_parts_with_the_map_in_force(tmp_path: Path) -> None:
    box = School(
        tmp_path, ("good", "good", "good", "", "good", "good") * 9 + ("spot",) * 4, net=(32, 48)
    )
    store = box.store()
    known = labelled(store, box.opinions, "cell")
    rest = unjudged(store, box.opinions, "cell", 8, (Word.OK,))
    store.close()
    state = worked(box, "teach", (*known.parts, *rest), epochs=1)
    assert state.state == "done", state.error
    folder = Jobs(box.config).newest("teach", "cell")
    assert folder is not None
    result = folder.result()
    made = load_bundle(box.config.bundles_dir / result.bundle_dir, result.bundle)
    assert made.manifest.segments == ("top", "bottom")
    assert (made.segment_map() == box.bundle.segment_map()).all()
    assert made.manifest.provenance["plan_epochs"] == "1"
    assert result.decides != "segad", "four bad parts are too few for a forest"
    good, bad = known.count("learn", True), known.count("learn", False)
    taught = round(good * 300 / 440)
    counts = result.counts
    assert (counts["network"], counts["good"], counts["bad"]) == (taught + 8, good - taught, bad)
    assert len(folder.sealed()) == known.count("verify")
    assert [path.name for path in box.config.bundles_dir.iterdir() if path.name[0] == "."] == []
    box.people.close()


def test_what_cannot_be_done_is_said_and_leaves_no_bundle(school: School) -> None:
    before = sorted(path.name for path in school.config.bundles_dir.iterdir())
    learn = [part for part in lesson(school).parts if part.role == "learn"]
    few = tuple(part for part in learn if part.kind == "good")[:4]
    state = worked(school, "regions", few, files=painted(regions()))
    assert state.state == "failed" and "good parts with a picture: expected 5" in state.error
    picture = school.config.data_dir / few[0].image
    picture.rename(picture.with_suffix(".away"))
    try:
        assert "picture gone" in worked(school, "look", few[:1]).error
    finally:
        picture.with_suffix(".away").rename(picture)
    assert sorted(path.name for path in school.config.bundles_dir.iterdir()) == before


def test_a_job_that_somebody_stops_ends_at_its_next_step(school: School) -> None:
    jobs, folder = ask(school, "look", lesson(school).parts)
    with pytest.raises(ConfigError, match="one at a time"):
        ask(school, "look", lesson(school).parts)
    jobs.stop()
    assert jobs.waiting is None and folder.state(False).state == "stopped"
    jobs, folder = ask(school, "look", lesson(school).parts)
    with jobs.working():
        taken = jobs.take()
        assert taken is not None
        jobs.stop()
        assert work(school.config, jobs, taken).state == "stopped"
    assert not jobs.is_stopping


def test_the_process_does_the_job_that_waits_and_a_lost_one_is_a_failure(school: School) -> None:
    jobs, folder = ask(school, "look", lesson(school).parts)
    command = [sys.executable, "-m", "appliance", "work", "--config",
               str(school.root / "config.toml")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert folder.state(jobs.is_busy).state == "done"

    jobs, folder = ask(school, "look", lesson(school).parts)
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        until("a worker", lambda: jobs.is_busy, 60)
        os.kill(process.pid, signal.SIGSTOP)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert not jobs.is_busy
    ended = folder.state(jobs.is_busy)
    assert ended.is_over or ended.state == "waiting"


def test_old_jobs_go_and_so_do_bundles_that_no_recipe_names(school: School, tmp_path: Path) -> None:
    box = School(tmp_path, ())
    jobs = Jobs(box.config)
    for number in range(KEPT + 2):
        path = jobs.root / new_id("teach", number * 10**9)
        path.mkdir(parents=True)
        folder = JobFolder(path)
        folder.say(State(state="done"))
        (path / "job.json").write_bytes(
            b'{"id":"%s","kind":"teach","recipe":"cell/1","bundle":"","by":"eva","parts":[]}'
            % path.name.encode()
        )
        (path / "result.json").write_bytes(
            b'{"bundle":"","bundle_dir":"made-%d","decides":"segad","t1":0,"t2":1,"why":"",'
            b'"helps":true,"evidence":{},"counts":{}}' % number
        )
        (box.config.bundles_dir / f"made-{number}").mkdir()
    jobs.all()[-2].mark_proposed()
    for number in range(KEPT):  # another kind pushes none of them out
        path = jobs.root / new_id("look", (100 + number) * 10**9)
        path.mkdir()
        (path / "job.json").write_bytes(b"{}")
    jobs.tidy(used={"made-0"})
    left = {path.name for path in box.config.bundles_dir.iterdir()}
    assert left == {"cell-1", *(f"made-{n}" for n in range(KEPT + 2))}
    os.utime(jobs.all()[-1].path / "proposed", (0, 0))
    jobs.tidy(used={"made-0"})
    left = {path.name for path in box.config.bundles_dir.iterdir()}
    assert left == {"cell-1", "made-0", *(f"made-{n}" for n in range(2, KEPT + 2))}
    assert len(jobs.all()) == 2 * KEPT
    with pytest.raises(ConfigError, match="the name of a job"):
        jobs.folder("../elsewhere")
    box.people.close()


def test_no_bundle_goes_while_a_recipe_cannot_be_read(tmp_path: Path) -> None:
    box = School(tmp_path, ())
    assert in_use(box.config) == {"cell-1"}
    (box.config.recipes_dir / "cell" / "2.toml").write_text("id = ")
    assert in_use(box.config) is None
    box.people.close()


def test_a_request_that_cannot_be_read_is_gone_all_the_same(tmp_path: Path) -> None:
    box = School(tmp_path, ())
    jobs = Jobs(box.config)
    jobs.root.mkdir()
    (jobs.root / "request.json").write_bytes(b"{")
    with pytest.raises(ConfigError):
        jobs.take()
    assert jobs.take() is None
    box.people.close()


def test_pictures_are_what_the_world_says() -> None:
    assert part_picture(1, is_bad=True)[8:20, 8:32].mean() > 130
    assert part_picture(1, is_bad=False)[8:20, 8:32].mean() < 90
