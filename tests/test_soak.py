"""A short soak: seconds of load with random faults and kills, and every part accounted for."""

from tools.soak import soak


def test_every_part_is_accounted_for_under_random_faults() -> None:
    report = soak(seconds=12, rate_hz=30, kill_every_s=4, seed=3)
    assert report["faults"], "nothing was killed"
    assert report["ok_unscored"] == 0
    assert report["open_parts"] == 0
    assert report["unaccounted"] == 0
    assert report["words"]["OK NONE"] > 50
    assert report["passed"]
