"""A Debian for arm64 in a folder, made once and kept, and how to run a command in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .processors import Processor, describe

SUITE = "bookworm"  # as Raspberry Pi OS has it
PYTHON = "3.11"  # its Python
GLIBC = 36  # its C library, 2.36: wheels for manylinux_2_17 … 2_36 run there
VENV = Path("/opt/venv")

_MIRROR = "http://deb.debian.org/debian"
_PACKAGES = ("python3", "mosquitto")
_ALONE = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
_ENTER = Path(__file__).with_name("enter.sh")
_CONFIG = f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {PYTHON}\n"
_COMMAND = """#!{place}/bin/python
import sys
from hedge.runtime.cli import main
sys.exit(main())
"""


def made(cache: Path) -> Path:
    """Return the root file system in ``cache``; make it where it is not there yet (minutes).

    HEDGE_DEBIAN_MIRROR names another mirror.

    Raises:
        subprocess.CalledProcessError: debootstrap failed; it has said why.
    """
    root = cache / f"debian-{SUITE}-{'-'.join(_PACKAGES)}"
    if root.exists():
        return root
    sys.stderr.write(f"making {root}: this takes minutes, once\n")
    new = root.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    mirror = os.environ.get("HEDGE_DEBIAN_MIRROR", _MIRROR)
    options = ("--arch=arm64", "--variant=minbase", f"--include={','.join(_PACKAGES)}")
    subprocess.run(
        [*_ALONE, "debootstrap", *options, SUITE, str(new), mirror],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    (new / "etc" / "hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
    shutil.rmtree(new / "var" / "cache" / "apt", ignore_errors=True)
    return new.rename(root)


def make_venv(folder: Path, *, place: Path = VENV) -> Path:
    """Make a virtual environment for a root, to lie at ``place`` there; return its packages."""
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    packages = folder / "lib" / f"python{PYTHON}" / "site-packages"
    packages.mkdir(parents=True, exist_ok=True)
    (folder / "pyvenv.cfg").write_text(_CONFIG)
    python, command = folder / "bin" / "python", folder / "bin" / "hedge"
    if not python.is_symlink():
        python.symlink_to("/usr/bin/python3")
    command.write_text(_COMMAND.format(place=place))
    command.chmod(0o755)
    return packages


def run(
    command: Sequence[str],
    *,
    root: Path,
    venv: Path,
    work: Path,
    processor: Processor,
    data: Path | None = None,
) -> int:
    """Run a command in the root as on a board with that processor; return its exit code.

    It finds the environment as /opt/venv, ``work`` as /work and ``data``, read only, as /data.
    Whatever it leaves running is ended, whatever is mounted for it is unmounted.
    """
    cpu = work / processor.cpu
    describe(processor, cpu)
    variables = {
        "PATH": f"{VENV}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "QEMU_CPU": processor.cpu,
        **({"HEDGE_DATA": "/data"} if data else {}),
    }
    places = (root, venv, work, cpu, data or "")
    entered = [*_ALONE, "sh", str(_ENTER), *map(str, places), *command]
    return subprocess.run(entered, check=False, env=variables).returncode
