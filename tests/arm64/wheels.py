"""Wheels for aarch64, fetched by the machine's own pip: ours, and what setup.py names for it."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

from . import root

EXTRAS = ("dev", "onnx", "tflite", "quantize", "oip", "zstd", "jpeg", "demo")
"""The extras whose requirements are installed, but for `LEFT_OUT`."""

LEFT_OUT = ("torch", "scikit-learn", "mypy", "ruff", "types-psutil", "build", "litert-torch")
"""What nothing that runs there imports: training, and what looks at sources only."""

_OLDER = ("typing-extensions",)  # what pip leaves out where the machine's Python is newer
_EXTRA = re.compile(r"""extra == ['"]([\w-]+)['"]""")
_PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


def build(source: Path, folder: Path) -> Path:
    """Build our wheel, which holds no machine code, from a copy of the sources.

    Raises:
        subprocess.CalledProcessError: it cannot be built; pip has said why.
    """
    options = ("--no-deps", "--no-build-isolation", "--wheel-dir", str(folder))
    subprocess.run([*_PIP, "wheel", *options, str(source)], check=True)
    (wheel,) = folder.glob("hedge_runtime-*.whl")
    return wheel


def requirements(wheel: Path) -> list[str]:
    """Return what the core, the extras and the tests require, from the wheel's own metadata."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        told = Parser().parsestr(archive.read(name).decode("utf-8"))
    found = set(_OLDER)
    for line in told.get_all("Requires-Dist") or ():
        extra = _EXTRA.search(line)
        what, _, marker = line.partition(";")
        if "python_version" in marker and "<" in marker:
            continue  # tomli and its like, for Pythons older than the root's
        if extra is None or extra[1] in EXTRAS:
            found.add(what.strip())
    return sorted(one for one in found if re.split(r"[^\w-]", one)[0] not in LEFT_OUT)


def environment(cache: Path, wanted: list[str]) -> Path:
    """Return the environment in ``cache`` that has ``wanted``; fetch it in place of an older one.

    Raises:
        subprocess.CalledProcessError: there is no such wheel for aarch64; pip has said which.
    """
    key = hashlib.sha256("\n".join((root.PYTHON, *wanted)).encode()).hexdigest()[:12]
    folder = cache / f"venv-{key}"
    if not folder.exists():
        new = folder.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        _install(wanted, root.make_venv(new))
        new.rename(folder)
        for old in set(cache.glob("venv-*")) - {folder}:
            shutil.rmtree(old)
    return folder


def install_ours(wheel: Path, folder: Path) -> None:
    """Put our wheel into an environment, in place of the one that is there."""
    packages = root.make_venv(folder)
    for old in packages.glob("hedge_runtime-*.dist-info"):
        shutil.rmtree(old)
    _install(["--no-deps", "--upgrade", str(wheel)], packages)


def _install(wanted: list[str], packages: Path) -> None:
    version = root.PYTHON.replace(".", "")
    platforms = [f"manylinux_2_{minor}_aarch64" for minor in range(root.GLIBC, 16, -1)]
    options = [
        *(f"--platform={one}" for one in (*platforms, "manylinux2014_aarch64")),
        *(f"--abi={one}" for one in (f"cp{version}", "abi3", "none")),
        "--implementation=cp",
        f"--python-version={root.PYTHON}",
        "--only-binary=:all:",
        f"--target={packages}",
    ]
    subprocess.run([*_PIP, "install", *options, *wanted], check=True)
