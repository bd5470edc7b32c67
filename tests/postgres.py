"""A PostgreSQL of the tests' own: a fresh cluster on a socket, nothing on the network."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Postgres:
    """One cluster; `address` is what config.toml would say."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self._binaries, self.folder = binaries, folder
        self.address = f"postgresql+psycopg://inspectd@/postgres?host={folder}"

    def start(self) -> None:
        options = f"-k {self.folder} -c listen_addresses= -c fsync=off"
        self._run("pg_ctl", "-D", f"{self.folder}/data", "-w", "-o", options,
                  "-l", f"{self.folder}/log", "start")  # fmt: skip

    def stop(self) -> None:
        self._run("pg_ctl", "-D", f"{self.folder}/data", "-m", "immediate", "-w", "stop")

    def make(self) -> None:
        self._run("initdb", "-D", f"{self.folder}/data", "-U", "inspectd", "-A", "trust",
                  "--no-sync", "-E", "UTF8", "--locale=C")  # fmt: skip

    def drop_tables(self) -> None:
        self._run("psql", "-h", str(self.folder), "-U", "inspectd", "-q", "-c",
                  "DROP SCHEMA public CASCADE; CREATE SCHEMA public", "postgres")  # fmt: skip

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._binaries / program), *arguments]
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            command = ["runuser", "-u", "postgres", "--", *command]
        subprocess.run(command, check=True, capture_output=True, timeout=60, cwd="/")


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Skips where Debian's `postgresql` is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    pytest.importorskip("psycopg")
    folder = Path(tempfile.mkdtemp(prefix="inspg", dir="/tmp"))
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    server = Postgres(found[-1].parent, folder)
    try:
        server.make()
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
