"""`inspectd engine` on a runtime that builds nothing: opened, warmed up, proved."""

import json
from pathlib import Path

import numpy as np
import pytest

from appliance.__main__ import main
from appliance.bundle import Bundle, load_bundle
from appliance.config import Engine, load_config
from appliance.engine_opening import network_file, open_engine, passport_of, passports_of
from appliance.errors import ArtefactError
from tests.networks import NET, network_model, write_network_bundle


@pytest.fixture
def site(tmp_path: Path) -> Path:
    text = 'root = "."\ndeadline_ms = 200\n[[camera]]\nname = "top"\nkind = "files"\nfolder = "x"\n'
    (tmp_path / "config.toml").write_text(text)
    return tmp_path


def engine(site: Path, *options: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["engine", str(site / "b"), "--config", str(site / "config.toml"), *options])
    return int(ended.value.code or 0)


def test_the_golden_frames_are_reproduced(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = write_network_bundle(site / "b")
    assert engine(site, "--json", "--size", "40x60") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["bundle"] == bundle.id
    proved, other = told["engines"]
    assert (proved["size"], proved["golden_frames"]) == ("64x96", 2)
    assert proved["golden_deviation"] <= proved["golden_tolerance"]
    assert other["size"] == "40x60"
    assert "golden_frames" not in other


def test_what_does_not_run_as_stored_is_exit_78(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_network_bundle(site / "b").folder
    frame = folder / "golden/0.npz"
    np.savez(frame, map=np.zeros((1, 16, 24), np.float32), score=np.float32(0))
    assert engine(site) == 78
    assert "golden/0.npz: expected SHA-256" in capsys.readouterr().err


OTHERS = ("network.plain.onnx", "network.last.onnx", "network.winograd.onnx")
PLAIN = OTHERS[0]
SHIFT = 1e-4
"""Of the published graph: what tells it apart, within the tolerance of the golden frames."""


def both(site: Path, shift: float = SHIFT) -> Bundle:
    return write_network_bundle(site / "b", others={PLAIN: network_model(shift, NET)})


def runs(site: Path) -> str:
    """Which graph the line would run: by its passport, and by what its engine answers."""
    config, bundle = load_config(site / "config.toml"), load_bundle(site / "b")
    cache = config.engines_dir
    passport = passport_of(config.engine, bundle, cache)
    (named,) = (n for n, sha in bundle.manifest.files.items() if sha == passport.network)
    engine = open_engine(config.engine, bundle, 64, 96, 1, cache)
    score = engine.infer(np.full((64, 96), 1, np.uint8), np.empty((1, *NET), np.float32))
    engine.close()
    assert (score > 1 + SHIFT / 2) is (named == "network.plain.onnx")
    return named


@pytest.mark.parametrize(
    ("times", "graph"),
    [
        ([2.0, 1.8], "network.plain.onnx"),
        ([2.0, 1.99], "network.onnx"),  # not worth it
        ([1.0, 2.0], "network.onnx"),
    ],
)
def test_the_faster_graph_is_the_one_that_the_line_runs(
    site: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    times: list[float],
    graph: str,
) -> None:
    both(site)
    assert runs(site) == "network.onnx", "until it was measured"
    monkeypatch.setattr("appliance.engine_command.times_in_turn", lambda engines: times)
    assert engine(site, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["graph"] == runs(site) == graph
    assert [row["graph"] for row in told["engines"]] == ["network.onnx", "network.plain.onnx"]
    assert [row["ms"] for row in told["engines"]] == times
    assert all(row["golden_frames"] == 2 for row in told["engines"])
    monkeypatch.setattr("appliance.engine_command.times_in_turn", lambda engines: [1.0, 2.0])
    assert engine(site) == 0, "measured again, it may come out otherwise"
    assert "\nnetwork.onnx is what a line runs here\n" in capsys.readouterr().out
    assert runs(site) == "network.onnx"


def test_of_several_graphs_the_fastest_runs(
    site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is measured against the exact one: what else the machine does meets both of a pair."""
    others = {name: network_model(SHIFT * (1 + n), NET) for n, name in enumerate(OTHERS)}
    bundle = write_network_bundle(site / "b", others=others)
    pairs = iter([[2.0, 1.9], [4.0, 3.0], [2.0, 1.8]])
    monkeypatch.setattr("appliance.engine_command.times_in_turn", lambda engines: next(pairs))
    assert engine(site, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["graph"] for row in told["engines"]] == ["network.onnx", *OTHERS]
    assert told["graph"] == "network.last.onnx"
    assert [row.get("of_exact") for row in told["engines"]] == [None, 0.95, 0.75, 0.9]
    config = load_config(site / "config.toml")
    passport = passport_of(config.engine, bundle, config.engines_dir)
    assert network_file(bundle, passport) == "network.last.onnx"


def test_winograds_graph_is_for_float32_alone(tmp_path: Path) -> None:
    others = {name: network_model(SHIFT * (1 + n), NET) for n, name in enumerate(OTHERS)}
    bundle = write_network_bundle(tmp_path / "b", others=others)
    pytest.importorskip("openvino")
    float32, bfloat16 = Engine(kind="openvino"), Engine(kind="openvino", precision="bf16")
    for settings, count in ((float32, 4), (bfloat16, 3)):
        files = [network_file(bundle, one) for one in passports_of(settings, bundle)]
        assert files == ["network.onnx", *OTHERS][:count]


def test_both_are_measured_in_turn(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both(site)
    assert engine(site, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert all(row["ms"] > 0 for row in told["engines"])
    assert told["graph"] == runs(site)


def test_a_graph_that_answers_otherwise_is_never_chosen(
    site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    both(site, shift=1.0)
    monkeypatch.setattr("appliance.engine_command.times_in_turn", lambda engines: [2.0, 1.0])
    assert engine(site, "--json") == 0
    told = capsys.readouterr()
    assert "network.plain.onnx is left out: " in told.err
    assert "the stored map and score within" in told.err
    assert [row["graph"] for row in json.loads(told.out)["engines"]] == ["network.onnx"]
    assert runs(site) == "network.onnx"


def test_a_choice_that_was_edited_is_refused_by_name(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both(site)
    monkeypatch.setattr("appliance.engine_command.times_in_turn", lambda engines: [2.0, 1.0])
    assert engine(site) == 0
    (record,) = site.rglob("passport.json")
    record.write_bytes(record.read_bytes().replace(b"onnxruntime 1.", b"onnxruntime 0."))
    with pytest.raises(ArtefactError, match=r"passport\.json: expected runtime onnxruntime"):
        runs(site)
