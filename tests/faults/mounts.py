"""File systems of one's own, where this machine lets us mount them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path

_PATIENCE_S = 30.0


def runs(*command: str) -> bool:
    """Run a command; return whether it succeeded."""
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def make_ext4(image: Path, place: Path, *, size_bytes: int) -> bool:
    """Make ext4 in a file and mount it; return whether that can be done here."""
    with image.open("wb") as file:
        file.truncate(size_bytes)
    return runs("mkfs.ext4", "-q", "-F", str(image)) and mount_ext4(image, place)


def mount_ext4(image: Path, place: Path) -> bool:
    """Mount ext4 from a file; return whether it is mounted."""
    return runs("mount", "-o", "loop", str(image), str(place))


def mount_small(place: Path, *, size_bytes: int) -> bool:
    """Mount a file system in memory; return whether it is mounted."""
    return runs("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(place))


def remount_ext4(image: Path, place: Path) -> None:
    """Unmount and mount again, as after a power cut.

    A process in a mount namespace of its own may hold the old file system for a moment
    longer; to be mounted with it would bring back what the disk does not have.

    Raises:
        OSError: the file system does not come back.
    """
    subprocess.run(["umount", str(place)], check=True)
    until_s = time.monotonic() + _PATIENCE_S
    while _is_held(image) and time.monotonic() < until_s:
        time.sleep(0.002)
    if _is_held(image) or not mount_ext4(image, place):
        raise OSError(f"{image} does not come back")


def _is_held(image: Path) -> bool:
    """Whether some loop device still has an image."""
    for told in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):  # it has just gone
            if told.read_text("utf-8").strip() == str(image):
                return True
    return False


def unmount(place: Path) -> None:
    """Leave no mount behind."""
    if os.path.ismount(place):
        subprocess.run(["umount", "--lazy", str(place)], check=True)
