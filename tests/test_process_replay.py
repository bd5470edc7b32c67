"""A live line is recorded, and its recording gives the same verdicts: late and missing ones too.

INSPECTD_REPLAY_PARTS=500 makes the run as long as the one in docs/replay.md.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tomli_w

from appliance.bundle import GateLimits
from appliance.codes import Reason, Word
from appliance.deck import SCHEMAS
from appliance.messages import FrameReady, PlcTold, Verdict
from appliance.recipe import Limits, Recipe, load_recipe, write_recipe
from appliance.recording import Recording, SegmentWriter
from appliance.service import EXIT_CONFIG, EXIT_DONE, EXIT_NO
from appliance.wire import decode, encode
from tests.networks import write_network_bundle
from tests.recorded_world import replayed
from tests.rig import Rig
from tests.waiting import until
from tools.plc_program import Part, PlcOptions
from tools.plc_sim import run_plc

PARTS = int(os.environ.get("INSPECTD_REPLAY_PARTS", "72"))
T1, T2 = 110.0, 150.0
DEADLINE_MS = 250


def shown(number: int) -> np.ndarray:
    """(64, 96) uint8 whose hottest place codes the margin: a third each OK, UNCERTAIN and NG, and
    one in eleven too dark for the gates."""
    rng = np.random.default_rng(number)
    if number % 11 == 5:
        return rng.integers(1, 6, (64, 96)).astype(np.uint8)
    level = 60.0 + number * 47 % 130
    return np.clip(rng.normal(level - 25, 3, (64, 96)), 30, 250).astype(np.uint8) + np.uint8(
        25 * (number % 2)
    )


def replay(
    rig: Rig, *arguments: str, config: Path | None = None
) -> tuple[int, dict[str, Any], str]:
    """See `replayed`; whose engine judges is `config`, or the rig's own."""
    return replayed(config or rig.config_path, *arguments)


class Recorded:
    """The line after its run, and where its recording lies."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        (self.path,) = sorted(rig.config.recordings_dir.iterdir())
        self.verdicts = {row.verdict.part_id: row.verdict for row in rig.rows()}


@pytest.fixture(scope="module")
def line() -> Iterator[Recorded]:
    """A run with every kind of part in it."""
    faults = {"drop_every": 13, "incomplete_every": 17}
    camera = {"order": "sequence", "faults": faults, "record": "all", "rate_hz": 20.0}
    changes = {"engine": {"kind": "onnx", "threads": 1}, "deadline_ms": DEADLINE_MS}
    with Rig(changes, camera, pictures=131, picture=shown) as rig:
        bundle = write_network_bundle(
            rig.config.bundles_dir / "net",
            gates=GateLimits(
                mean=(20, 250),
                saturated=(0, 1),
                focus=(0, 1e9),
                shift_px=None,
                mean_image="gates.png",
            ),
            mean_image=np.full((16, 24), 100, np.uint8),
        )
        for version, t2 in ((1, T2), (2, T2 - 10)):
            limits = Limits(t1=T1, t2=t2)
            write_recipe(
                rig.config,
                Recipe(
                    id="net", version=version, bundle=bundle.id, bundle_dir="net",
                    decides="map_max", limits=limits,
                ),
            )  # fmt: skip
        (rig.root / "products.toml").write_text('[[product]]\nnumber = 1\nrecipe = "net/1"\n')
        rig.start()
        with rig.ear("camera:top", "record") as ear:
            until("Ready", lambda: ear.is_ready, 60)
            infer = rig.pid("infer")
            seen: list[Part] = []

            def judged(part: Part) -> None:
                seen.append(part)
                if len(seen) % 19 == 7:  # the next part's score will come after its deadline
                    os.kill(infer, signal.SIGSTOP)
                    go_on = threading.Timer(0.4, os.kill, (infer, signal.SIGCONT))
                    go_on.start()

            options = PlcOptions(
                port=rig.port, parts=PARTS, deadline_ms=5000.0, accept_simulated=True
            )
            asyncio.run(run_plc(options, judged))
            until("all rows", lambda: ear.has_rows(PARTS), 30)
            assert ear.unaccounted == 0
        assert rig.stop() == 0
        yield Recorded(rig)


def test_the_run_holds_every_kind_of_part(line: Recorded) -> None:
    words = Counter(verdict.word for verdict in line.verdicts.values())
    reasons = Counter(verdict.reason for verdict in line.verdicts.values())
    least = 20 if PARTS >= 500 else 3
    assert len(line.verdicts) == PARTS
    for word in (Word.OK, Word.NG, Word.UNCERTAIN, Word.ERROR):
        assert words[word] >= least, words
    for reason in (Reason.NO_IMAGE, Reason.INCOMPLETE_IMAGE, Reason.IMAGE_HEALTH, Reason.LATE):
        assert reasons[reason] >= 1, reasons
    sys.stderr.write(f"\n{dict(words)} {dict(reasons)}\n")


def test_on_the_same_engine_every_part_is_equal_bit_for_bit_and_twice(line: Recorded) -> None:
    answers: list[dict[str, Any]] = []
    for _ in range(2):
        code, answer, errors = replay(line.rig, str(line.path))
        assert code == EXIT_DONE, errors
        found = answer["replay"]
        assert found["compared"] == found["equal"] == answer["parts"] == PARTS, errors
        assert found["different"] == found["undecidable"] == []
        assert found["largest_margin_difference"] == found["largest_map_difference"] == 0.0
        assert found["lost_messages"] == found["lost_pictures"] == 0
        assert (found["words_compared"], found["words_different"]) == (PARTS, [])
        answers.append(answer)
        sys.stderr.write(f"\n{json.dumps(found)[:400]}\n")
    words = Counter(verdict.word.name.lower() for verdict in line.verdicts.values())
    keys = ("ok", "ng", "uncertain", "error", "reasons")
    assert {key: answers[0][key] for key in keys[:4]} == dict(words)
    assert [answers[0][key] for key in keys] == [answers[1][key] for key in keys]


def test_another_limit_flips_exactly_the_parts_between_the_two(line: Recorded) -> None:
    between = {
        part_id
        for part_id, verdict in line.verdicts.items()
        if verdict.word is not Word.ERROR
        and verdict.margin is not None
        and T2 - 10 <= verdict.margin < T2
    }
    assert between, "the run has no part between the limits"
    pictures = line.rig.root / "flipped"
    arguments = ["--recipe", "net/2", "--pictures", str(pictures)]
    code, answer, errors = replay(line.rig, str(line.path), *arguments)
    assert code == EXIT_DONE, errors
    flips = answer["replay"]["flips"]
    assert {flip["part_id"] for flip in flips} == between
    assert {(flip["was"], flip["now"]) for flip in flips} == {("UNCERTAIN", "NG")}
    assert answer["replay"]["from_to"]["UNCERTAIN → NG"] == len(between)
    assert answer["ng"] == answer["replay"]["recorded"]["ng"] + len(between)
    names = {file.name for file in pictures.iterdir()}
    assert names == {f"{part_id}-UNCERTAIN-NG.png" for part_id in between}


def test_labels_tell_what_a_change_does_to_escapes_and_overkill(line: Recorded) -> None:
    labels = line.rig.root / "labels.csv"
    bad = {p for p, v in line.verdicts.items() if v.margin is not None and v.margin >= T2 - 5}
    rows = "".join(f"{part_id},{int(part_id in bad)}\n" for part_id in line.verdicts)
    labels.write_text(f"part_id,is_bad\n{rows}")
    arguments = ["--recipe", "net/2", "--labels", str(labels)]
    _, answer, errors = replay(line.rig, str(line.path), *arguments)
    between = sum(
        v.word is not Word.ERROR and v.margin is not None and T2 - 10 <= v.margin < T2 - 5
        for v in line.verdicts.values()
    )
    assert answer["overkill"] == answer["replay"]["recorded"]["overkill"] + between
    assert answer["auroc_shown"] is not None
    assert "overkill among" in errors


def test_another_engine_lists_what_is_too_near_to_a_limit(line: Recorded) -> None:
    """Another number of threads is another passport; the tolerance is the bundle's."""
    config = line.rig.root / "other.toml"
    settings = {**line.rig._settings, "engine": {"kind": "onnx", "threads": 2}}
    config.write_text(tomli_w.dumps(settings))
    _, answer, errors = replay(line.rig, str(line.path), config=config)
    found = answer["replay"]
    tolerance = 2e-3
    near = sorted(
        part_id
        for part_id, verdict in line.verdicts.items()
        if verdict.word is not Word.ERROR
        and verdict.margin is not None
        and min(abs(verdict.margin - T1), abs(verdict.margin - T2)) <= tolerance
    )
    assert sorted(found["undecidable"]) == near, errors
    assert found["different"] == found["words_different"] == []
    assert found["equal"] == PARTS - len(near)


def test_a_bundle_with_one_byte_changed_is_refused(line: Recorded) -> None:
    network = line.rig.config.bundles_dir / "net" / "network.onnx"
    data = network.read_bytes()
    network.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    try:
        code, answer, errors = replay(line.rig, str(line.path))
    finally:
        network.write_bytes(data)
    assert code == EXIT_CONFIG
    assert answer == {}
    assert f"{network}: expected SHA-256" in errors


def test_a_recording_that_lacks_a_picture_is_refused_without_partial(
    line: Recorded, tmp_path: Path
) -> None:
    recording = Recording(line.path)
    copy = SegmentWriter(tmp_path / "lossy" / "000001.mcap", recording.about, SCHEMAS)
    for name, facts in recording.notes.items():
        copy.note(name, facts)
    scored = next(p for p, verdict in line.verdicts.items() if verdict.word is Word.NG)
    for entry in recording.entries():
        camera = ("/camera/top", entry.log_ns)
        copy.add(entry)
        message = decode(entry.data) if entry.topic == "/tape/seen" else None
        is_dropped = isinstance(message, FrameReady) and message.part_id == scored
        if recording.has_image(*camera) and not is_dropped:
            key, pixels = recording.image(*camera)
            copy.add_image(entry._replace(topic="/camera/top"), pixels, key)
    copy.finish()
    code, _, errors = replay(line.rig, str(tmp_path / "lossy"))
    assert code == EXIT_CONFIG
    assert "LOSSY: the recording lacks 0 messages and 1 pictures" in errors
    code, answer, errors = replay(line.rig, str(tmp_path / "lossy"), "--partial")
    assert code == EXIT_DONE, errors
    assert answer["replay"]["lost_pictures"] == 1
    assert answer["replay"]["equal"] == PARTS - 1


def test_a_recorded_verdict_that_differs_is_exit_1_and_named(
    line: Recorded, tmp_path: Path
) -> None:
    """Somebody changed the margin and the word of one recorded part, and the words of another."""
    recording = Recording(line.path)
    copy = SegmentWriter(tmp_path / "edited" / "000001.mcap", recording.about, SCHEMAS)
    for name, facts in recording.notes.items():
        copy.note(name, facts)
    edited = told = 0
    for entry in recording.entries():
        message = decode(entry.data) if entry.topic in ("/tape/verdicts", "/tape/words") else None
        if not told and edited and isinstance(message, PlcTold) and message.part_id != edited:
            told = message.part_id
            words = (message.words[0], 1 + message.words[1] % 3, *message.words[2:])
            entry = entry._replace(data=encode(msgspec.structs.replace(message, words=words)))
        if not edited and isinstance(message, Verdict) and message.word is Word.NG:
            edited = message.part_id
            message = msgspec.structs.replace(message, word=Word.OK, margin=1.0)
            entry = entry._replace(data=encode(message))
        copy.add(entry)
        if recording.has_image("/camera/top", entry.log_ns):
            key, pixels = recording.image("/camera/top", entry.log_ns)
            copy.add_image(entry._replace(topic="/camera/top"), pixels, key)
    copy.finish()
    code, answer, errors = replay(line.rig, str(tmp_path / "edited"))
    assert code == EXIT_NO
    (different,) = answer["replay"]["different"]
    assert different["part_id"] == edited
    assert [d["field"] for d in different["differences"]] == ["margin", "word"]
    assert f"part {edited}: first at margin: recorded 1.0" in errors
    (different,) = answer["replay"]["words_different"]
    assert different["part_id"] == told
    assert [d["field"] for d in different["differences"]] == ["Verdict"]
    assert f"part {told}: words for the PLC: Verdict: recorded" in errors
    code, answer, _ = replay(line.rig, str(tmp_path / "edited"), "--golden")
    assert code == EXIT_NO
    assert replay(line.rig, str(line.path), "--golden")[0] == EXIT_DONE


def test_a_folder_of_pictures_is_judged_as_the_line_would(line: Recorded) -> None:
    folder = line.rig.root / "labelled"
    for name, number in (("good/a.png", 0), ("bad/b.png", 47), ("good/dark.png", 5)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(line.rig.root / "pictures" / f"{number:04d}.png", folder / name)
    code, answer, errors = replay(line.rig, str(folder), "--recipe", "net/1")
    assert code == EXIT_DONE, errors
    assert answer["parts"] == 3
    assert answer["reasons"]["IMAGE_HEALTH"] == 1
    by_source = {verdict.source: verdict for verdict in line.verdicts.values()}
    known = [by_source[f"{n:04d}.png"].word for n in (0, 47) if f"{n:04d}.png" in by_source]
    for word in known:
        assert answer[word.name.lower()] >= 1
    code, _, errors = replay(line.rig, str(folder))
    assert code == EXIT_CONFIG
    assert "--recipe" in errors


def test_the_recipe_in_the_recording_is_the_one_that_judged(line: Recorded) -> None:
    recording = Recording(line.path)
    loaded = load_recipe(line.rig.config, "net/1")
    assert recording.notes["recipe:net/1"]["hash"] == loaded.hash
    assert recording.about["engine"] == "onnx"
    words = [json.loads(entry.data) for entry in recording.entries("/words")]
    assert words and "registers" in words[0]
    shown_words = Counter(json.loads(e.data)["word"] for e in recording.entries("/verdict"))
    assert shown_words == Counter(v.word.name for v in line.verdicts.values())
