"""Which set-up a camera has in force, which is prepared, and which settings its device holds.

A recipe is tried on: its settings are written to the device, read back, compared with those that
its limits were approved for, and taken off again, so that `Prepared` is a proof and the set-up in
force stays in force until the swap.
"""

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from appliance.camera_settings import Settings, check_approved
from appliance.config import Config
from appliance.errors import ArtefactError, DeviceError
from appliance.messages import Prepare
from appliance.recipe import View, load_setup


class Setup(NamedTuple):
    """What a recipe asks of this camera."""

    setup_hash: str
    view: View
    recipe: str
    """"ID/VERSION"."""
    approved: Settings
    """What its limits were approved for; empty = nothing yet."""


class Views:
    """The set-ups of one camera.

    begin: starts a new acquisition with this view and says which settings the device then has;
    raises ArtefactError where the view cannot be used, DeviceError where the device fails.
    """

    def __init__(self, config: Config, camera: str, begin: Callable[[View], Settings]) -> None:
        self._config, self._camera, self._begin = config, camera, begin
        self.in_force: Setup | None = None
        self.running: View | None = None
        """What the acquisition that runs was asked for; None while there is none."""
        self.settings: Settings = {}
        """What the device of the acquisition that runs has."""
        self._prepared: Setup | None = None

    def load(self, message: Prepare) -> Setup:
        """What the recipe asks. Raises ArtefactError: the file cannot be used."""
        loaded = load_setup(self._config, message.recipe, message.setup_hash)
        view = loaded.recipe.camera.get(self._camera, View())
        # The region of interest is cut by infer.
        return Setup(
            loaded.setup_hash,
            msgspec.structs.replace(view, roi=None),
            loaded.name,
            loaded.recipe.limits.settings.get(self._camera, {}),
        )

    def try_on(self, setup: Setup) -> Settings:
        """Prove that the device takes the settings; returns what it then has.

        Whether the limits were approved for that is for `prepared` to ask. Raises ArtefactError
        where the device does not take them.
        """
        if setup.view == self.running and not setup.approved:
            return self.settings  # nothing to compare them with
        try:
            self._start(setup.view)
            return self.settings
        finally:
            if self.in_force is not None:
                self.resume(self.in_force.view)

    def prepared(self, setup: Setup, found: Settings) -> None:
        """What was tried on may be put in force. Raises ArtefactError where its limits were
        approved for other settings than `found`."""
        check_approved(f"recipe {setup.recipe}", self._camera, setup.approved, found)
        self._prepared = setup

    def swap(self, setup_hash: str) -> bool:
        """Put the prepared set-up in force, or keep the old one; False where it is neither."""
        for setup in (self._prepared, self.in_force):
            if setup is not None and setup.setup_hash == setup_hash:
                if setup.view != self.running:
                    self.resume(setup.view)
                self.in_force, self._prepared = setup, None
                return True
        return False

    def resume(self, view: View) -> None:
        """Settings that the device took before; raises DeviceError where it does no more."""
        try:
            self._start(view)
        except ArtefactError as err:
            raise DeviceError(f"refused what it took before: {err}") from err

    def _start(self, view: View) -> None:
        self.running = None
        self.settings = self._begin(view)
        self.running = view
