"""What leaves the camera, where there is no room for it."""

import pytest

from appliance.config import Config
from appliance.config_camera import Camera
from appliance.errors import DeviceError
from appliance.outlet import Outlet
from appliance.wire import Wiring
from tests.rig_camera import short_root

CAMERA = Camera(name="top", kind="files", folder="x", rate_hz=1000)
NEVER = 1 << 44
"""Bytes of a picture that no machine has shared memory for."""


def test_shared_memory_that_is_full_is_a_device_that_fails() -> None:
    """Nobody need come: it ends when whoever still maps an older ring lets go of it."""
    with short_root() as root:
        config = Config(root=str(root), deadline_ms=200, camera=(CAMERA,))
        with Wiring(config.runtime_dir) as wiring:
            outlet = Outlet(config, CAMERA, wiring, lambda: 1)
            for _ in range(2):  # without a ring before, and with one; each tried more than once
                for _ in range(2):
                    with pytest.raises(DeviceError, match=r"frame-top: expected .* shared memory"):
                        outlet.begin(NEVER)
                outlet.begin(1 << 16)
            assert len(list(config.rings_dir.glob("*.ring"))) == 1
            outlet.close()
        config.rings_dir.rmdir()
