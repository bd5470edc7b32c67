"""What people learn of requests that the Modbus port refused."""

from appliance.refusals import Refusals

S = 1_000_000_000
STRANGER = "10.0.0.7: writes, but is not in [plc] allow"


def test_each_is_told_once_and_the_newest_is_shown_for_a_minute() -> None:
    refusals = Refusals()
    assert refusals.untold() == [] and refusals.note(0) == ""
    for tenth in range(600):
        refusals.add(STRANGER, tenth * S // 10)
        refusals.add("10.0.0.8: function code 1 is not served", tenth * S // 10)
        expected = [STRANGER, refusals.newest] if tenth == 0 else []
        assert refusals.untold() == expected
    assert refusals.note(60 * S) == "Modbus, refused: 10.0.0.8: function code 1 is not served"
    assert refusals.note(120 * S) == ""


def test_who_tries_every_register_fills_no_memory_and_no_log() -> None:
    refusals = Refusals()
    for register in range(10_000):
        refusals.add(f"10.0.0.7: writes HR {register}", 0)
    told = refusals.untold()
    assert len(told) == 201 and told[-1].startswith("others, too many to name each")
    assert refusals.newest == "10.0.0.7: writes HR 9999"
    refusals.add("10.0.0.9: writes HR 0", 0)
    assert refusals.untold() == []
