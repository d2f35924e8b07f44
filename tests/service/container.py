"""A container that boots systemd, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
from faults.mounts import make_ext4, mount_small, unmount

STATE = "/var/lib/private/hedge"
"""Where the device's state lies: on a small disk of its own."""

_STATE_BYTES = 96 << 20
_PATIENCE_S = 60.0
_BOOTED = ("running", "degraded")  # some machines let some unit of Debian's fail
_LEAVES = ("payload", "supervisor")  # the cgroups that systemd-nspawn makes with --keep-unit


class Wrong(Exception):  # noqa: N818 -- what is wrong with the device, not with the harness
    """Something is not as it has to be."""


class Container:
    """Layers of file systems, one above the other, in which systemd runs.

    Processes, network (a loopback alone) and mounts are its own. `close` ends all of them.
    """

    def __init__(self, layers: Sequence[Path], work: Path) -> None:
        self.root, self.state = work / "root", work / "state"
        self._log = work / "console.log"
        self._image = work / "state.img"
        self._nspawn: subprocess.Popen[bytes] | None = None
        upper, scratch = work / "upper", work / "scratch"
        for folder in (self.root, self.state, upper, scratch):
            folder.mkdir()
        below = ":".join(map(str, layers))
        options = f"lowerdir={below},upperdir={upper},workdir={scratch}"
        subprocess.run(
            ["mount", "-t", "overlay", "overlay", "-o", options, str(self.root)], check=True
        )
        if not make_ext4(self._image, self.state, size_bytes=_STATE_BYTES):
            mount_small(self.state, size_bytes=_STATE_BYTES)
        (self.root / "var/lib/private").mkdir(mode=0o700, exist_ok=True)
        (self.root / STATE.lstrip("/")).mkdir(mode=0o700, exist_ok=True)

    @property
    def leader(self) -> int:
        """The process that is number 1 inside."""
        if self._nspawn is None or self._nspawn.poll() is not None:
            raise Wrong("the container does not run")
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self._nspawn.pid).children():
                return child.pid
        raise Wrong("the container has no process")

    def boot(self) -> None:
        """Start it, and wait until systemd has started everything."""
        options = ("--register=no", "--keep-unit", "--private-network", "--quiet")
        with self._log.open("ab") as log:
            self._nspawn = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "TERM", "systemd-nspawn", *options),
                    *("-D", str(self.root), f"--bind={self.state}:{STATE}", "--boot"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.await_boot()

    def await_boot(self) -> None:
        """Wait until systemd has started everything."""
        self.wait(lambda: self.run("systemctl", "is-system-running", check=False), _BOOTED)

    def run(self, *words: str, check: bool = True) -> str:
        """Run a command inside; return what it prints, with ``check`` after a success only.

        Raises:
            Wrong: it failed, with its last line.
        """
        try:
            entered = ("nsenter", "-t", str(self.leader), "-a", *words)
        except Wrong:
            if check:
                raise
            return ""
        environ = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": "/root"}
        done = subprocess.run(
            entered, check=False, capture_output=True, text=True, timeout=180, env=environ
        )
        if done.returncode and check:
            told = (done.stderr or done.stdout).strip().splitlines()
            raise Wrong(f"{' '.join(words)}: {told[-1] if told else done.returncode}")
        return done.stdout

    def wait(
        self, look: Callable[[], str], wanted: Sequence[str], *, timeout_s: float = _PATIENCE_S
    ) -> str:
        """Look until something wanted is there; return it.

        Raises:
            Wrong: it does not come.
        """
        until_s = time.monotonic() + timeout_s
        seen = ""
        while time.monotonic() < until_s:
            seen = look().strip()
            if seen in wanted:
                return seen
            time.sleep(0.05)
        raise Wrong(f"{seen or 'nothing'} after {timeout_s:g} s instead of {' or '.join(wanted)}")

    def reboot(self) -> None:
        """Have systemd reboot, in an orderly way.

        With --keep-unit systemd-nspawn ends then, and leaves the next start to us.
        """
        self.run("systemctl", "reboot")
        self._end()
        self.boot()

    def cut(self) -> None:
        """Kill everything at once, as a loss of power would; start again."""
        os.kill(self.leader, signal.SIGKILL)  # number 1 takes all others along
        self._end()
        self.boot()

    def ensure_running(self) -> None:
        """Start it if it does not run."""
        if self._nspawn is None or self._nspawn.poll() is not None:
            self._end()
            self.boot()

    def close(self) -> None:
        """Leave no process, no mount and no cgroup behind."""
        with contextlib.suppress(Wrong, OSError):
            os.kill(self.leader, signal.SIGKILL)
        self._end()
        clear_away(self.root.parent)

    def _end(self) -> None:
        if self._nspawn is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._nspawn.wait(_PATIENCE_S)
            if self._nspawn.poll() is None:
                self._nspawn.kill()
                self._nspawn.wait()
            self._nspawn = None
        _sweep()


def clear_away(work: Path) -> None:
    """Unmount and remove what a run, also one that was killed, has left of its folder."""
    for name in ("root", "state"):
        unmount(work / name)
    shutil.rmtree(work, ignore_errors=True)


def _sweep() -> None:
    """Remove the empty cgroups that systemd-nspawn leaves below ours, in every hierarchy."""
    top = Path("/sys/fs/cgroup")
    lines = Path("/proc/self/cgroup").read_text("utf-8").splitlines()
    ours = {line.split(":", 2)[2].lstrip("/") for line in lines}
    for base in (top, *(one for one in top.iterdir() if one.is_dir())):
        for place in (base / own / leaf for own in ours for leaf in _LEAVES):
            for folder, _, _ in os.walk(place, topdown=False):
                with contextlib.suppress(OSError):  # somebody is in it
                    Path(folder).rmdir()
