"""What holds for every message."""

from appliance.messages import Message


def test_the_garbage_collector_looks_at_no_message():
    kinds = [Message]
    for kind in kinds:
        assert not kind.__struct_config__.gc, kind
        kinds += kind.__subclasses__()
    assert len(kinds) > 20
