"""The rows that did not teach, for what comes next: written with the bundle that taught, or not."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..models.dataset import Dataset
from ..models.errors import DataError


def check_rest(path: Path) -> None:
    """Refuse to write over anything.

    Raises:
        DataError: something is there.
    """
    if os.path.lexists(path):
        raise DataError("is there already", where=f"--rest {path}", hint="name another file")


@contextlib.contextmanager
def with_rest(path: Path | None, rest: Dataset, *, labels: tuple[str, ...]) -> Iterator[None]:
    """Write ``rest`` beside ``path``, and put it there once what is within has succeeded.

    Raises:
        DataError: it cannot be written.
    """
    if path is None:
        yield
        return
    check_rest(path)
    beside = path.with_name(f"{path.name}.new")
    try:
        with _named(path):
            _write(beside, rest, labels=labels)
        yield
        with _named(path):
            beside.replace(path)
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def _write(path: Path, rest: Dataset, *, labels: tuple[str, ...]) -> None:
    columns = {"X": rest.x, "y": rest.y, "group": rest.group, "time": rest.time}
    arrays = {name: column for name, column in columns.items() if column is not None}
    arrays["labels"] = np.array(labels)
    with path.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot be written: {error.strerror}", where=str(path)) from error
