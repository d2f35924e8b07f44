"""A folder of samples: every .npy file in it once, in the order of their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...models.errors import DataError
from .paced import Pace
from .source import Captured


def read_sample(file: Path) -> NDArray[Any]:
    """Return the one sample that an .npy file holds.

    Raises:
        DataError: it holds none.
    """
    if not file.is_file():
        raise DataError("is no plain file", where=str(file))  # a pipe would hold the loop up
    try:
        data: object = np.load(file, allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise DataError("not a sample: no readable .npy of numbers", where=str(file)) from error
    if not isinstance(data, np.ndarray):
        raise DataError("an archive of arrays, not one sample", where=str(file))
    return data


class Folder:
    """Reads one sample from each .npy file of a folder, as the loop asks for them.

    Raises:
        DataError: the folder is missing, or holds no .npy file.
    """

    overrun = 0
    recorder = None

    def __init__(self, path: Path, *, rate_hz: float | None = None) -> None:
        if not path.is_dir():
            raise DataError("no such folder", where=str(path))
        self._files = sorted(path.glob("*.npy"))
        if not self._files:
            raise DataError("no .npy file in this folder", where=str(path))
        self._pace = Pace(rate_hz)
        self.patient = self._pace.patient

    @property
    def ended(self) -> bool:
        """Whether every file was given."""
        return self._pace.taken >= len(self._files)

    def begin(self) -> None:
        """Do nothing: it is read when it is asked."""

    def state(self) -> None:
        """Return None: it is no live source."""

    def due_ns(self) -> int:
        """Return when the next file is due."""
        return self._pace.due_ns()

    def poll(self, now_ns: int) -> Captured | None:
        """Read the next file if it is due.

        Raises:
            DataError: this file holds no array; the ones after it are not touched.
        """
        file = self._files[self._pace.taken]
        taken_at_ns = self._pace.take(now_ns)
        if taken_at_ns is None:
            return None
        return Captured(read_sample(file), taken_at_ns, {"file": file.name})

    def close(self) -> None:
        """Do nothing: no file stays open between two samples."""
