"""A Debian in a folder and the libraries of a device, both made once and kept."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

from arm64.root import PYTHON, make_venv

SUITE = "bookworm"
PLACE = "opt/hedge"

_MIRROR = "http://deb.debian.org/debian"
_PACKAGES = ("systemd", "systemd-sysv", "dbus", "python3", "mosquitto", "ca-certificates")
_ALONE = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
_EXTRAS = ("onnx", "tflite")
_OLDER = ("typing-extensions",)  # what pip leaves out where the machine's Python is newer
_GLIBC = 36  # its C library, 2.36
_PROGRAMS = {
    "systemd-nspawn": "systemd-container",
    "debootstrap": "debootstrap",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "unshare": "util-linux",
    "git": "git",
}


def missing() -> list[str]:
    """Return what this machine lacks, each with what to do."""
    if platform.system() != "Linux":
        return [f"this is {platform.system()}: Linux is needed"]
    found = []
    if os.geteuid() != 0:
        found.append("not root: containers and mounts need it (sudo make service-test)")
    for program, package in _PROGRAMS.items():
        if shutil.which(program) is None:
            found.append(f"no {program}: apt-get install {package}")
    if "\toverlay\n" not in Path("/proc/filesystems").read_text("utf-8"):
        found.append("the kernel knows no overlay file system: modprobe overlay")
    return found


def debian(cache: Path) -> Path:
    """Return the root file system in ``cache``; make it where it is not there yet (a minute).

    HEDGE_DEBIAN_MIRROR names another mirror.

    Raises:
        subprocess.CalledProcessError: debootstrap failed; it has said why.
    """
    key = hashlib.sha256(" ".join(_PACKAGES).encode()).hexdigest()[:8]
    root = cache / f"debian-{SUITE}-{key}"
    if root.exists():
        return root
    sys.stderr.write(f"making {root}: this takes a minute, once\n")
    new = root.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    mirror = os.environ.get("HEDGE_DEBIAN_MIRROR", _MIRROR)
    options = ("--variant=minbase", f"--include={','.join(_PACKAGES)}")
    subprocess.run(
        [*_ALONE, "debootstrap", *options, SUITE, str(new), mirror],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    shutil.rmtree(new / "var" / "cache" / "apt", ignore_errors=True)
    (new / "etc" / "machine-id").write_text("")  # the first start makes one
    for unit in ("mosquitto.service", "apt-daily.timer", "apt-daily-upgrade.timer"):
        enabled = new.glob(f"etc/systemd/system/*.wants/{unit}")
        for link in list(enabled):
            link.unlink()
    return new.rename(root)


def libraries(cache: Path, wheel: Path) -> Path:
    """Return a layer with the libraries that the wheel requires, at /opt/hedge.

    Raises:
        subprocess.CalledProcessError: pip failed; it has said why.
    """
    wanted = _requirements(wheel)
    key = hashlib.sha256("\n".join((PYTHON, *wanted)).encode()).hexdigest()[:12]
    layer = cache / f"libraries-{key}"
    if not layer.exists():
        new = layer.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        _pip(wanted, _environment(new))
        new.rename(layer)
        for old in set(cache.glob("libraries-*")) - {layer}:
            shutil.rmtree(old)
    return layer


def install_ours(wheel: Path, layer: Path) -> None:
    """Put our wheel into a layer of its own, at /opt/hedge as well."""
    _pip(["--no-deps", str(wheel)], _environment(layer))


def _environment(layer: Path) -> Path:
    """Make what a virtual environment consists of; return where its packages go."""
    packages: Path = make_venv(layer / PLACE, place=Path("/") / PLACE)
    return packages


def _requirements(wheel: Path) -> list[str]:
    """Return what the core and the backends require, from the wheel's own metadata."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        told = Parser().parsestr(archive.read(name).decode("utf-8"))
    found = set(_OLDER)
    for line in told.get_all("Requires-Dist") or ():
        what, _, marker = line.partition(";")
        extras = any(f'"{one}"' in marker or f"'{one}'" in marker for one in _EXTRAS)
        if extras if "extra ==" in marker else "python_version" not in marker:
            found.add(what.strip())
    return sorted(found)


def _pip(wanted: list[str], packages: Path) -> None:
    machine, version = platform.machine(), PYTHON.replace(".", "")
    options = [
        *(f"--platform=manylinux_2_{minor}_{machine}" for minor in range(_GLIBC, 16, -1)),
        f"--platform=manylinux2014_{machine}",
        *(f"--abi={one}" for one in (f"cp{version}", "abi3", "none")),
        "--implementation=cp",
        f"--python-version={PYTHON}",
        "--only-binary=:all:",
        f"--target={packages}",
    ]
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    subprocess.run([*pip, "install", *options, *wanted], check=True)
