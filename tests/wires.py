"""Wirings in a directory of the test's own, and what travels on them."""

import shutil
import tempfile
from pathlib import Path

import pytest

from appliance.messages import Health
from appliance.wire import Wiring
from tests.waiting import until


@pytest.fixture
def folder():
    """A directory with a short path: an ipc address has room for about 107 characters."""
    path = Path(tempfile.mkdtemp(prefix="insp", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def wire(folder):
    """Makes wirings in this directory and closes them."""
    made: list[Wiring] = []

    def make(remote=None, keys=None):
        made.append(Wiring(folder / "run", remote, keys))
        return made[-1]

    yield make
    for wiring in made:
        wiring.close()


def send(sender, message, pixels=None):
    until("receiver", lambda: sender.send(message, pixels))


def health(process="decide"):
    return Health(process=process, pid=1, is_serving=True)
