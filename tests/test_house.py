"""The house: rooms, the way imports go, public names, and what a wheel holds."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import hedge

_ROOT = Path(__file__).parents[1]
_ROOMS = ("models", "telemetry", "uplink", "runtime")
_CORE = {"msgspec", "numpy", "paho", "psutil", "tomli"}
_LATER = {"training", "quantize", "tensorrt", "video", "onnx.py", "sound_file.py"}
"""Folders and files that are imported only where what they need is asked for."""


def _files(room: str) -> list[Path]:
    return sorted((_ROOT / room).rglob("*.py"))


def _imports(file: Path) -> list[tuple[str, bool]]:
    """Every module that a file imports, absolute, and whether it does so at its top."""
    tree = ast.parse(file.read_text("utf-8"))
    here = ("hedge", *file.relative_to(_ROOT).with_suffix("").parts)
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                found += [(alias.name, node in tree.body) for alias in names]
            case ast.ImportFrom(module=module, level=level, names=names):
                base = ".".join(here[: len(here) - level]) if level else ""
                full = ".".join(part for part in (base, module) if part)
                found += [(f"{full}.{alias.name}", node in tree.body) for alias in names]
    return found


@pytest.mark.parametrize("room", _ROOMS)
def test_rooms_import_only_from_rooms_to_their_left(room: str) -> None:
    allowed = {f"hedge.{one}" for one in _ROOMS[: _ROOMS.index(room) + 1]}
    wrong = [
        f"{file.relative_to(_ROOT)}: {name}"
        for file in _files(room)
        for name, _ in _imports(file)
        if name.startswith("hedge.") and ".".join(name.split(".")[:2]) not in allowed
    ]
    assert not wrong


def test_whoever_starts_the_command_line_loads_no_library_that_is_an_extra() -> None:
    code = "import sys, hedge.runtime.commands, hedge.runtime.sources.opening; print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    extras = {"av", "PIL", "watchdog", "serial", "soxr", "tokenizers", "onnxruntime", "torch"}
    assert not extras & set(told.stdout.split())


@pytest.mark.parametrize("room", _ROOMS)
def test_a_device_imports_nothing_but_the_core_libraries_at_the_top(room: str) -> None:
    wrong = [
        f"{file.relative_to(_ROOT)}: {name}"
        for file in _files(room)
        if not _LATER & {*file.parts}
        for name, at_top in _imports(file)
        if at_top
        and (top := name.split(".")[0]) not in sys.stdlib_module_names | _CORE | {"hedge"}
        and top
    ]
    assert not wrong


def test_models_know_no_threads_sockets_clocks_or_inference_libraries() -> None:
    unknown = {"threading", "socket", "time", "asyncio", "onnxruntime", "paho", "psutil"}
    wrong = [
        f"{file.relative_to(_ROOT)}: {name}"
        for file in _files("models")
        if "training" not in file.parts
        for name, _ in _imports(file)
        if name.split(".")[0] in unknown
    ]
    assert not wrong


def test_the_public_names_are_these_sorted_and_all_resolve() -> None:
    assert hedge.__all__ == sorted(hedge.__all__)
    assert dir(hedge) == hedge.__all__
    for name in hedge.__all__:
        assert getattr(hedge, name).__name__ == name
    assert not hasattr(hedge, "Nothing")


def test_importing_the_package_loads_no_library() -> None:
    code = "import sys, hedge; print(sorted({'numpy', 'msgspec', 'paho'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    assert done.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names of the files in a wheel built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=_ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, tracked.stdout.decode().split("\0")):
        if (_ROOT / name).is_file():
            copy = folder / "src" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((_ROOT / name).read_bytes())
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*build, str(folder / "src")], cwd=folder, check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    return zipfile.ZipFile(file).namelist()


def test_the_wheel_holds_every_module_of_every_room(wheel: list[str]) -> None:
    wanted = {f"hedge/{f.relative_to(_ROOT)}" for room in _ROOMS for f in _files(room)}
    assert not wanted - set(wheel)


def test_the_wheel_holds_the_shipped_bundle_and_the_type_marker(wheel: list[str]) -> None:
    for name in ("py.typed", "models/zoo/digits/manifest.toml", "models/zoo/digits-unseen.npz"):
        assert f"hedge/{name}" in wheel


def test_the_wheel_holds_no_tests_no_setup_and_nothing_outside_the_package(
    wheel: list[str],
) -> None:
    top = {name.split("/")[0] for name in wheel if ".dist-info" not in name}
    assert top == {"hedge"}
    assert not [name for name in wheel if "/tests/" in name or name.endswith("setup.py")]
