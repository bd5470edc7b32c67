"""`kill -9` of the camera under a PLC's triggers; 100 times: `python -m tools.camera_kills`."""

from tools.camera_kills import kill_camera

KILLS = 8


def test_no_kill_of_the_camera_leaves_memory_behind_or_a_part_without_verdict() -> None:
    found = kill_camera(KILLS)
    assert found["passed"], found
    assert found["kills"] == KILLS <= found["parts"]
    assert found["open_parts"] == found["rings_left"] == found["accepted_unscored"] == 0
