"""What this machine needs to run aarch64 binaries, and the kernel's note on who runs them."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

PROGRAM = "qemu-aarch64-static"

_NAME = "hedge-arm64"
_ELF = rb"\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
_MASK = rb"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
_PACKAGES = {
    PROGRAM: "qemu-user-static",
    "debootstrap": "debootstrap",
    "unshare": "util-linux",
    "git": "git",
}


def missing() -> list[str]:
    """Return what this machine lacks, each with what to do."""
    found = []
    if platform.system() != "Linux":
        return [f"this is {platform.system()}: Linux is needed"]
    if platform.machine() == "aarch64":
        return ["this machine is itself ARM64: `make test` is what to run"]
    if os.geteuid() != 0:
        found.append("not root: chroot and mounting need it (sudo make test-arm64)")
    for program, package in _PACKAGES.items():
        if shutil.which(program) is None:
            found.append(f"no {program}: apt-get install {package}")
    if "binfmt_misc" not in Path("/proc/filesystems").read_text("utf-8"):
        found.append("the kernel knows no binfmt_misc: modprobe binfmt_misc")
    return found


@contextlib.contextmanager
def registered() -> Iterator[None]:
    """Have the kernel start aarch64 programs by the emulator, until this is left.

    The flag F opens the emulator now, so that it is found from within any root.

    Raises:
        OSError: the kernel does not let us.
    """
    program = os.fsencode(str(shutil.which(PROGRAM)))
    with _binfmt() as folder:
        _forget(folder)
        told = b":".join((b"", _NAME.encode(), b"M", b"", _ELF, _MASK, program, b"OCF"))
        (folder / "register").write_bytes(told)
        try:
            yield
        finally:
            _forget(folder)


def version() -> str:
    """Return the emulator's name and version."""
    ran = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True)
    return " ".join(ran.stdout.split()[:3])


@contextlib.contextmanager
def _binfmt() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hedge-binfmt-") as name:
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", name], check=True)
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", name], check=True)


def _forget(folder: Path) -> None:
    if (folder / _NAME).exists():  # also what a killed run has left
        (folder / _NAME).write_bytes(b"-1")
