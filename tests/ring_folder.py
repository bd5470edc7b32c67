"""A folder for rings in shared memory."""

import shutil
import tempfile
from pathlib import Path

import pytest


@pytest.fixture
def rings():
    folder = Path(tempfile.mkdtemp(prefix="insp", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)
