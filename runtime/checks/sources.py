"""The sources: whether samples are there, and fit the bundle."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from ...models.bundle import Bundle
from ...models.dataset import load_dataset
from ...models.errors import DataError
from ...models.manifest import Input
from ..config import Config, Stream
from ..sources.folder import Folder, read_sample
from ..sources.options import FolderSource, ReplaySource
from .finding import Finding, ok
from .live_sources import check_live

_FEW = 16  # files of a folder that are looked into


def check_source(
    stream: Stream, bundle: Bundle | None, *, config: Config, base: Path, offline: bool
) -> Iterator[Finding]:
    """Yield whether the stream's source gives what its bundle takes; None: that is no good.

    Raises:
        HedgeError: it does not, and never will.
    """
    subject = f"stream {stream.name}"
    spec = None if bundle is None else bundle.input
    match stream.source:
        case ReplaySource(path=path):
            _check_plain(base / path)
            data = load_dataset(base / path)
            if spec is not None:
                data = data.fitted(spec, where=str(base / path))
            yield ok("source", subject, f"{len(data.x)} rows of {data.x.shape[1:]} {data.x.dtype}")
        case FolderSource(path=path):
            Folder(base / path).close()
            files = sorted((base / path).glob("*.npy"))
            for file in islice(files, _FEW):
                _check_file(file, spec)
            yield ok("source", subject, f"{len(files)} files, of which {min(_FEW, len(files))} fit")
        case options:
            if bundle is not None:
                yield from check_live(
                    stream, options, bundle, config=config, base=base, offline=offline
                )


def _check_file(file: Path, spec: Input | None) -> None:
    _check_plain(file)
    sample = read_sample(file)
    if spec is None:
        return
    if sample.shape != spec.shape:
        raise DataError(
            f"a sample of shape {sample.shape}; the bundle takes {spec.shape}", where=str(file)
        )
    if not np.can_cast(sample.dtype, spec.dtype, "same_kind"):
        raise DataError(
            f"a sample of dtype {sample.dtype}; the bundle takes {spec.dtype}", where=str(file)
        )


def _check_plain(path: Path) -> None:
    """Refuse what would be waited for, like a FIFO that nobody writes to."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise DataError("is no plain file", where=str(path))
