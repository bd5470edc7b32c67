"""A real systemd as PID 1 of its own namespaces, with the units as they are shipped.

It sees this machine's files, but /run, /tmp, /etc and /dev/shm are its own, and no unit of this
machine exists in it: nothing of the host is started, cleaned or changed. Its `inspectd` is this
checkout, bound below /run, since the hardened units see neither /root nor /home nor /tmp.
"""

import functools
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from tests.rig import Rig
from tests.waiting import until

ROOT = Path(__file__).parent.parent
UNITS = ROOT / "systemd"
NAMESPACES = ("--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--mount", "--cgroup",
              "--ipc", "--uts")  # fmt: skip

_BOOT = """
set -e
mount --make-rprivate /
for dir in /run /var/tmp /dev/shm; do mount -t tmpfs -o mode=1777 tmpfs $dir; done
cp -a /etc /run/etc
mount --bind /run/etc /etc
mkdir -p /run/systemd/system /run/t/code /run/t/site /run/t/python /run/varlib
for pair in {code}:code {site}:site {python}:python; do
    mount --bind ${{pair%%:*}} /run/t/${{pair##*:}}
done
mount --bind /run/varlib /var/lib
mkdir -p /var/lib/inspectd /run/log /etc/inspectd
mount --bind {rig} /var/lib/inspectd
mount -t tmpfs tmpfs /tmp
cd /run/systemd/system
cp -r /run/t/code/systemd/* .
for name in sysinit basic shutdown umount final network multi-user; do
    printf '[Unit]\\nDefaultDependencies=no\\n' >$name.target
done
cp /lib/systemd/system/systemd-exit.service /lib/systemd/system/exit.target .
mkdir -p inspectd@.service.d service.d
# All that differs from a machine: where the code lies, and where the log goes.
cat >inspectd@.service.d/90-checkout.conf <<'END'
[Service]
ExecStart=
ExecStart={interpreter} -m appliance process %i \
--config /etc/inspectd/config.toml --supervised
Environment=PYTHONPATH=/run/t/code:/run/t/site PYTHONDONTWRITEBYTECODE=1
Environment=LD_LIBRARY_PATH=/run/t/python/lib
END
cat >service.d/90-log.conf <<'END'
[Service]
StandardOutput=append:/run/log/%p-%i
StandardError=append:/run/log/%p-%i
END
{extra}
systemd-sysusers $PWD/inspectd.sysusers.conf
systemd-tmpfiles --create $PWD/inspectd.tmpfiles.conf
paths='root = "/var/lib/inspectd"\\nruntime = "/run/inspectd"\\nrings = "/dev/shm/inspectd"'
sed "s|^root = .*|$paths|" /var/lib/inspectd/config.toml >/etc/inspectd/config.toml
chown -R inspectd: /var/lib/inspectd
export SYSTEMD_UNIT_PATH=/run/systemd/system
exec env container=unshare /lib/systemd/systemd --unit=basic.target --log-target=null
"""


@functools.cache
def why_not() -> str:
    """What is missing for a systemd of our own; "" where it can be started."""
    if os.geteuid() != 0:
        return "a systemd of its own needs root"
    if not Path("/lib/systemd/systemd").exists() or not shutil.which("systemd-analyze"):
        return "systemd is not installed"
    probe = ["unshare", *NAMESPACES, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    done = subprocess.run(probe, capture_output=True, text=True, timeout=20)
    return f"no namespaces here: {done.stderr.strip()}" if done.returncode else ""


class Machine:
    """systemd with the units of this checkout and the installation of `rig`."""

    def __init__(self, rig: Rig, extra: str = "") -> None:
        """extra: shell lines run in the directory of the units before systemd starts."""
        base = Path(sys.base_prefix)
        self.python = f"/run/t/python/bin/python3.{sys.version_info[1]}"
        script = _BOOT.format(
            rig=rig.root,
            code=ROOT,
            site=sysconfig.get_path("purelib"),
            python=base,
            interpreter=self.python,
            extra=extra,
        )
        self._handle = subprocess.Popen(
            ["unshare", *NAMESPACES, "bash", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            self._pid = until("the first process", self._child)
            awaited = ("running", "degraded")
            until("systemd", lambda: self.ask("is-system-running") in awaited or self._fail(), 30)
        except BaseException:
            self.close()
            raise

    def _child(self) -> int:
        task = Path(f"/proc/{self._handle.pid}/task/{self._handle.pid}/children")
        return int((task.read_text().split() or ["0"])[0]) if task.exists() else 0

    def _fail(self) -> bool:
        if self._handle.poll() is not None:
            assert self._handle.stdout is not None
            raise AssertionError(f"no systemd: {self._handle.stdout.read().decode()}")
        return False

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command in there."""
        enter = ["nsenter", "--target", str(self._pid), "--all", *command]
        return subprocess.run(enter, capture_output=True, text=True, timeout=60)

    def systemctl(self, *arguments: str) -> str:
        """Standard output; fails where systemctl does."""
        done = self.run("systemctl", *arguments)
        assert done.returncode == 0, f"{arguments}: {done.stderr}{self.log()}"
        return done.stdout

    def ask(self, *arguments: str) -> str:
        """As `systemctl`, where a failure is an answer."""
        return self.run("systemctl", *arguments).stdout.strip()

    def show(self, instance: str, key: str) -> str:
        """A property of inspectd@INSTANCE.service."""
        return self.ask("show", "--property", key, "--value", f"inspectd@{instance}.service")

    def pid(self, instance: str) -> int:
        """Its main process, in there; 0 for none."""
        return int(self.show(instance, "MainPID") or 0)

    def kill(self, instance: str, number: signal.Signals) -> int:
        """Send a signal to its main process; returns its pid in there."""
        pid = self.pid(instance)
        self.systemctl("kill", "--kill-whom=main", f"--signal={number}", f"inspectd@{instance}")
        return pid

    def is_active(self, *instances: str) -> bool:
        """READY=1 came from all of them."""
        return all(self.show(instance, "ActiveState") == "active" for instance in instances)

    def log(self) -> str:
        """What all units wrote, the end of it."""
        return self.run("sh", "-c", "tail -n 40 /run/log/*").stdout

    def close(self) -> None:
        """End everything in there."""
        self._handle.kill()  # --kill-child: PID 1 dies with it, and all its processes with that
        self._handle.wait()
        if self._handle.stdout is not None:
            self._handle.stdout.close()
        end = time.monotonic() + 10
        while Path(f"/proc/{getattr(self, '_pid', 0)}/ns/pid").exists() and time.monotonic() < end:
            time.sleep(0.01)

    def __enter__(self) -> "Machine":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None:
            sys.stderr.write(self.log()[-6000:])
        self.close()
