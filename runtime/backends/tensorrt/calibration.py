"""The rows that int8 is calibrated with: TensorRT sees them go through and takes its ranges."""

from __future__ import annotations

import hashlib
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ....models.dataset import load_dataset
from ....models.errors import ConfigError
from ....models.model import TensorSpec
from ....models.prepare import Prepare

_log = logging.getLogger(__name__)

MAX_ROWS = 512  # NVIDIA calls 500 images enough for ImageNet's classifiers
KEY = "backend.calibration"


class Rows(Struct, frozen=True):
    """Rows as the graph takes them, (n, *shape) of ``dtype``, in C order, little-endian."""

    dtype: str
    shape: tuple[int, ...]
    values: bytes

    @classmethod
    def of(cls, rows: NDArray[Any]) -> Rows:
        """Return an array's rows."""
        dtype = rows.dtype.newbyteorder("<")
        return cls(rows.dtype.name, rows.shape, np.ascontiguousarray(rows, dtype).tobytes())

    def array(self) -> NDArray[Any]:
        """Return the rows."""
        dtype = np.dtype(self.dtype)
        return np.frombuffer(self.values, dtype.newbyteorder("<")).astype(dtype).reshape(self.shape)

    def digest(self) -> str:
        """Return the SHA-256, in hex, of dtype, shape and values."""
        head = f"{self.dtype} {self.shape} ".encode()
        return hashlib.sha256(head + self.values).hexdigest()


def load_rows(path: Path, wanted: TensorSpec, *, prepare: Prepare) -> Rows:
    """Return at most `MAX_ROWS` of the rows of a data set, spread over all of it, prepared.

    Raises:
        DataError: the file is no data set.
        ConfigError: its rows are not what the model takes.
    """
    every = load_dataset(path).x
    some = every[np.linspace(0, len(every) - 1, min(len(every), MAX_ROWS)).astype(int)]
    rows = prepare(some)
    if np.can_cast(rows.dtype, wanted.dtype, "same_kind"):
        rows = rows.astype(wanted.dtype, copy=False)
    if rows.dtype != wanted.dtype or rows.shape[1:] != wanted.shape[1:]:
        raise ConfigError(
            f"{path}: its rows are {rows.dtype} {rows.shape[1:]}, "
            f"the model takes {wanted.dtype} {wanted.shape[1:]}",
            where=KEY,
        )
    return Rows.of(rows)


def calibrator(trt: Any, cuda: Any, rows: NDArray[Any], *, batch: int) -> Any:  # noqa: ANN401  untyped
    """Return TensorRT's entropy calibrator (IInt8EntropyCalibrator2), fed from ``rows``.

    It gives whole batches only, as TensorRT wants them, the first rows once more at the end.
    What it raises would end the process, so it says so and ends the rows instead. Call its
    ``free`` after the build.
    """
    whole = np.resize(rows, (math.ceil(len(rows) / batch) * batch, *rows.shape[1:]))
    memory = cuda.mem_alloc(whole[:batch].nbytes)

    class Calibrator(trt.IInt8EntropyCalibrator2):  # type: ignore[misc]  # the base is untyped
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)
            self._next = 0

        def get_batch_size(self) -> int:
            return batch

        def get_batch(self, names: list[str]) -> list[int] | None:  # noqa: ARG002  one input
            if self._next >= len(whole):
                return None
            try:
                cuda.memcpy_htod(memory, whole[self._next : self._next + batch])
            except cuda.Error:
                _log.exception("calibration ends early")
                return None
            self._next += batch
            return [int(memory)]

        def read_calibration_cache(self) -> bytes | None:
            return None

        def write_calibration_cache(self, cache: Any) -> None:  # noqa: ANN401  a buffer
            """The engine is what is kept."""

        def free(self) -> None:
            memory.free()

    return Calibrator()
