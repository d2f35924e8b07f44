"""What puts a GPU under a test: the fake modules on the path, of this process and its children.

Nothing in the product knows of them: they are found where TensorRT and pycuda would be.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hedge.models.graph import model_spec
from hedge.runtime.backends.options import BackendOptions
from hedge.runtime.backends.tensorrt import library
from hedge.runtime.backends.tensorrt.build import BuildRequest, build, is_quantised
from hedge.runtime.backends.tensorrt.calibration import Rows
from hedge.runtime.backends.tensorrt.engine import TensorRtModel
from hedge.runtime.backends.tensorrt.engine_cache import EngineCache, EngineKey

MODULES = Path(__file__).parent / "fake_tensorrt"
_ROOMS = ("tensorrt", "pycuda", "fake_gpu")
_CACHE_BYTES = 1 << 30


class Machine:
    """A machine with a GPU, whose engines are made and opened as the product does."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.cache = EngineCache(folder / "engines", max_bytes=_CACHE_BYTES)
        self.folder = folder / "engines"
        self._open: list[TensorRtModel] = []

    @property
    def gpu(self) -> Any:  # noqa: ANN401  the fake's state
        """The fake GPU itself."""
        return importlib.import_module("fake_gpu").GPU

    def script(self, **changes: Any) -> None:  # noqa: ANN401  fields of fake_gpu.Script
        """Let something go wrong, in this process and in those started from now on."""
        script = self.gpu.script
        for name, value in changes.items():
            assert hasattr(script, name)
            setattr(script, name, value)
        os.environ["FAKE_GPU"] = json.dumps(asdict(script))
        vars(importlib.import_module("tensorrt"))["__version__"] = script.tensorrt

    def key(
        self,
        data: bytes,
        *,
        precision: str = "fp32",
        max_batch: int = 4,
        rows: NDArray[Any] | None = None,
    ) -> EngineKey:
        """Return the key of the engine for an ONNX file."""
        batch, *rest = model_spec(data, format="onnx", where="edge.onnx").inputs[0].shape
        batches = (1, max_batch, max_batch) if batch is None else (batch,)
        found = library.load(where="edge.onnx")
        return EngineKey(
            model_sha256=hashlib.sha256(data).hexdigest(),
            tensorrt=found.version,
            gpu=found.gpu,
            precision=precision,
            shapes=tuple((count, *(one or 1 for one in rest)) for count in batches),
            calibration_sha256=None if rows is None else Rows.of(rows).digest(),
        )

    def plan(
        self,
        data: bytes,
        *,
        precision: str = "fp32",
        max_batch: int = 4,
        rows: NDArray[Any] | None = None,
    ) -> bytes:
        """Build an engine, in this process; int8 is calibrated with ``rows``, else with noise."""
        if precision == "int8" and rows is None and not is_quantised(data, where="edge.onnx"):
            rows = noise(data)
        key = self.key(data, precision=precision, max_batch=max_batch, rows=rows)
        request = BuildRequest(
            model=data,
            where="edge.onnx",
            key=key,
            rows=None if rows is None else Rows.of(rows),
            cache=str(self.folder),
            cache_max_bytes=_CACHE_BYTES,
        )
        build(request, report=lambda done, what: None)  # noqa: ARG005
        plan = self.cache.load(key)
        assert plan is not None
        return plan

    def model(
        self,
        data: bytes,
        *,
        precision: str = "fp32",
        max_batch: int = 4,
        rows: NDArray[Any] | None = None,
        output: str | None = None,
    ) -> TensorRtModel:
        """Build an engine and open it; it is closed at the end of the test."""
        plan = self.plan(data, precision=precision, max_batch=max_batch, rows=rows)
        opened = TensorRtModel(plan, where="edge.onnx", output=output)
        self._open.append(opened)
        return opened

    def options(self, **changes: Any) -> BackendOptions:  # noqa: ANN401  fields of it
        """Return the device's options for TensorRT, in float32."""
        return BackendOptions(**{"use": "tensorrt", "precision": "fp32", **changes})

    def close(self) -> None:
        """Close what is open; of the fake, everything must then have been given back."""
        for model in self._open:
            model.close()
        self._open.clear()
        if self.kind == "fake":
            left_over = self.gpu.left_over()
            assert not left_over, left_over


def noise(data: bytes, *, count: int = 32) -> NDArray[Any]:
    """Return ``count`` rows as an ONNX file takes them."""
    source = model_spec(data, format="onnx", where="edge.onnx").inputs[0]
    shape = (count, *(one or 1 for one in source.shape[1:]))
    return np.random.default_rng(3).normal(size=shape).astype(source.dtype)


@contextlib.contextmanager
def machine(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """Give a machine with a fake GPU, or with the real one; skip where there is no such.

    Example, as a fixture::

        on_gpu = runpy.run_path(str(Path(__file__).with_name("gpu_machine.py")))["machine"]

        @pytest.fixture(params=["fake", "real"])
        def machine(request, tmp_path, monkeypatch):
            with on_gpu(request.param, tmp_path, monkeypatch) as found:
                yield found
    """
    if kind == "real":
        _skip_without_gpu()
        with contextlib.closing(Machine(kind, folder)) as found:
            yield found
        return
    before = _forgotten()
    monkeypatch.syspath_prepend(str(MODULES))
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join((str(MODULES), os.environ.get("PYTHONPATH", "")))
    )
    monkeypatch.setenv("FAKE_GPU", "{}")
    try:
        with contextlib.closing(Machine(kind, folder)) as found:
            yield found
    finally:
        _forgotten()
        sys.modules.update(before)
        library.listener.cache_clear()


def _forgotten() -> dict[str, Any]:
    """Take the libraries, or their fakes, out of the interpreter, and return them."""
    names = [name for name in sys.modules if name.split(".")[0] in _ROOMS]
    return {name: sys.modules.pop(name) for name in names}


def _skip_without_gpu() -> None:
    missing = [name for name in ("tensorrt", "pycuda") if find_spec(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed, so no real GPU is tried")
    cuda = pytest.importorskip("pycuda.driver", exc_type=ImportError)
    try:
        cuda.init()
        cuda.Device(0)
    except cuda.Error as error:
        pytest.skip(f"no NVIDIA GPU here: {error}")
