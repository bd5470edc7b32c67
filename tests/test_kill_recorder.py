"""`kill -9` of record while the line runs; 50 times is `python -m tools.kill_recorder`."""

from tools.kill_recorder import kill_recorder

KILLS = 3


def test_what_record_acknowledged_is_there_and_every_recording_opens() -> None:
    found = kill_recorder(KILLS)
    assert found.is_good, found
    assert found.kills == KILLS
    assert 0 < found.recordings <= KILLS + 1, "a life may end before its first message"
    assert found.acknowledged > 0 and found.taped > 0 and found.pictures > 0
