"""What a process needs of its surroundings: the log."""

from structlog.testing import capture_logs

from appliance.service import Service


def test_a_state_is_logged_when_it_changes_and_when_it_ends() -> None:
    looks = ["", "Processor at step 1", "Processor at step 1", "Processor at step 2", "", ""]
    with capture_logs() as logged:
        service = Service("decide")
        for before, now in zip(["", *looks], looks, strict=False):
            service.changed("throttled", before, now)
    assert [line["event"] for line in logged] == ["throttled"] * 3
    assert [line["now"] for line in logged] == [
        "Processor at step 1", "Processor at step 2", "no more",
    ]  # fmt: skip
