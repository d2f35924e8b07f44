"""What was measured on: the machine, and the software on it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

_LIBRARIES = (
    *("numpy", "onnxruntime", "onnxruntime-gpu", "ai-edge-litert", "tflite-runtime"),
    *("tensorrt", "pycuda"),
)


class Machine(Struct, frozen=True, kw_only=True):
    """Where figures come from; ``load`` is the load of the last minute, that of others too."""

    architecture: str
    processor: str | None
    cpus: int
    system: str
    python: str
    libraries: dict[str, str]
    load: float

    def __str__(self) -> str:
        libraries = "".join(f", {name} {version}" for name, version in self.libraries.items())
        processor = "" if self.processor is None else f" ({self.processor})"
        return (
            f"{self.architecture}{processor}, {self.cpus} CPUs, {self.system}, "
            f"Python {self.python}{libraries}, load {self.load:g}"
        )


def this_machine(*, root: Path = Path("/")) -> Machine:
    """Return what this process runs on; ``root`` is where /proc lies."""
    return Machine(
        architecture=platform.machine(),
        processor=_processor(root / "proc" / "cpuinfo"),
        cpus=os.cpu_count() or 1,
        system=f"{platform.system()} {platform.release().split('-')[0]}",
        python=platform.python_version(),
        libraries=dict(_versions()),
        load=round(os.getloadavg()[0], 2),
    )


def _processor(cpuinfo: Path) -> str | None:
    """Return the processor's name; ARM kernels mostly give none."""
    with contextlib.suppress(OSError):
        for line in cpuinfo.read_text("utf-8", "replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model"):
                return value.strip() or None
    return None


def _versions() -> Iterator[tuple[str, str]]:
    for name in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield name, importlib.metadata.version(name)
