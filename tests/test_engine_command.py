"""`inspectd engine` on a runtime that builds nothing: opened, warmed up, proved."""

import json
from pathlib import Path

import numpy as np
import pytest

from appliance.__main__ import main
from tests.networks import write_network_bundle


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
