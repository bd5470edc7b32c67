"""Two people at the features of one camera."""

import pytest

from appliance.errors import ConfigError
from calibration.camera_changes import CameraChanges


def test_what_another_page_set_meanwhile_is_not_overwritten_unseen() -> None:
    changes = CameraChanges()
    eva, max_ = changes.new_page(), changes.new_page()
    changes.begin("top", "Gain", "3", "eva", page=eva, seen=0)
    changes.begin("top", "Gain", "4", "eva", page=eva, seen=0)  # her own
    changes.begin("top", "ExposureTime", "900", "max", page=max_, seen=0)  # another feature
    changes.begin("side", "Gain", "9", "max", page=max_, seen=0)  # another camera
    with pytest.raises(ConfigError, match=r"top: Gain: expected the value .* got 4, set by eva"):
        changes.begin("top", "Gain", "5", "max", page=max_, seen=0)
    with pytest.raises(ConfigError, match="got 900, set by max meanwhile"):
        changes.begin("top", "ExposureTime", "800", "eva", page=eva, seen=0)
    seen = changes.count  # he looks at the camera again
    changes.begin("top", "Gain", "5", "max", page=max_, seen=seen)
    with pytest.raises(ConfigError, match="got 5, set by max"):
        changes.begin("top", "Gain", "3", "eva", page=eva, seen=seen)


def test_what_the_device_did_not_take_stands_in_nobodys_way() -> None:
    changes = CameraChanges()
    eva, max_ = changes.new_page(), changes.new_page()
    before = changes.begin("top", "Gain", "3", "eva", page=eva, seen=0)
    changes.undo("top", "Gain", before)
    before = changes.begin("top", "Gain", "2", "max", page=max_, seen=0)
    changes.undo("top", "Gain", changes.begin("top", "Gain", "7", "max", page=max_, seen=0))
    with pytest.raises(ConfigError, match="got 2, set by max"):
        changes.begin("top", "Gain", "3", "eva", page=eva, seen=0)
