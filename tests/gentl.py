"""Our own GenTL producer, built once per run; and pictures that say which they are."""

import ctypes
import functools
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

BUILD = Path(__file__).parent.parent / "tools" / "gentl" / "build"


@functools.cache
def _built() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="gentl"))
    subprocess.run([str(BUILD), str(folder)], check=True, timeout=120)
    return folder / "folder.cti"


def producer(folder: Path, **cameras: "list[np.ndarray]") -> Path:
    """A producer in `folder` with these cameras; skips the test where there is no compiler."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler to build the producer of tools/gentl with")
    for name, pictures in cameras.items():
        (folder / name).mkdir(parents=True)
        for number, picture in enumerate(pictures):
            write_pgm(folder / name / f"{number:04d}.pgm", picture)
    path = folder / "folder.cti"
    shutil.copy(_built(), path)
    return path


_TLSIMU = ("TLSimu.cti", "libVirtualFG.so")


@functools.cache
def tlsimu() -> Path:
    """The GenTL simulator that the wheel of genicam 1.5.0 brought, fetched for these tests alone.

    Skips the test where the wheel cannot be had: another processor, no network.
    """
    if platform.machine() != "x86_64":
        pytest.skip("the wheel of genicam 1.5.0 is for x86_64")
    folder = Path(tempfile.mkdtemp(prefix="tlsimu"))
    fetch = [
        sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps",
        "--only-binary", ":all:", "--python-version", "3.11", "--implementation", "cp", "--abi",
        "cp311", "--platform", "manylinux2014_x86_64", "-d", str(folder), "genicam==1.5.0",
    ]  # fmt: skip
    try:
        done = subprocess.run(fetch, capture_output=True, text=True, timeout=90)
    except subprocess.TimeoutExpired:
        pytest.skip("the wheel of genicam 1.5.0 did not come within 90 s")
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        pytest.skip(f"the wheel of genicam 1.5.0 cannot be had: {done.stderr.strip()[-200:]}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        for name in wheel.namelist():
            if Path(name).name in _TLSIMU:
                (folder / Path(name).name).write_bytes(wheel.read(name))
    # The producer does not say where its own library lies.
    ctypes.CDLL(str(folder / "libVirtualFG.so"), mode=ctypes.RTLD_GLOBAL)
    return folder / "TLSimu.cti"


def write_pgm(path: Path, picture: np.ndarray) -> None:
    """(H, W) of 8 bits, or of 12 bits in uint16, which OpenCV would call 16."""
    height, width = picture.shape
    is_deep = picture.dtype != np.uint8
    head = f"P5 {width} {height} {4095 if is_deep else 255}\n".encode()
    path.write_bytes(head + (picture.astype(">u2") if is_deep else picture).tobytes())


class Barrier:
    """The light barrier of one of its cameras."""

    def __init__(self, folder: Path) -> None:
        self._line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._line.connect(str(folder / "line1.sock"))

    def pulse(self, picture: int | None = None) -> None:
        """The next picture, or the one with this number, is exposed now."""
        self._line.send(b"" if picture is None else str(picture).encode())

    def __enter__(self) -> "Barrier":
        return self

    def __exit__(self, *_: object) -> None:
        self._line.close()
