"""A data set: one .npz with the samples X, their classes y, and what splits need.

Arrays of the file: ``X`` (n, *sample shape), optional ``y`` (n,) class numbers, ``group``
or ``subject`` (n,) whoever or whatever a row comes from, ``time`` (n,), and ``label_names``
or ``labels`` (K,) the names of the classes. Others are ignored. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DataError
from .manifest import Input

_GROUP = ("group", "subject")
_LABELS = ("label_names", "labels")
_KNOWN = frozenset({"X", "y", "time", *_GROUP, *_LABELS})
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,  # object arrays, wrong headers, short members; UnicodeDecodeError too
    SyntaxError,
    KeyError,
    NotImplementedError,  # a compression that zipfile does not know
    RuntimeError,  # an encrypted member
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Dataset:
    """Samples and what is known of them; row i of every array is the same sample.

    ``x`` (n, *shape) is of an integer or floating dtype and finite, n at least 1; ``y``
    (n,) int64 class numbers from 0; ``group`` (n,) integers or strings; ``time`` (n,)
    integers or floats; ``labels`` the K names of the classes, every y below K.
    """

    x: NDArray[Any]
    y: NDArray[np.int64] | None = None
    group: NDArray[Any] | None = None
    time: NDArray[Any] | None = None
    labels: tuple[str, ...] | None = None

    def rows(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> Dataset:
        """Return the rows that ``which`` marks (n,) or lists (m,)."""
        return Dataset(
            x=self.x[which],
            y=None if self.y is None else self.y[which],
            group=None if self.group is None else self.group[which],
            time=None if self.time is None else self.time[which],
            labels=self.labels,
        )

    def fitted(self, spec: Input, *, labels: tuple[str, ...] | None = None, where: str) -> Dataset:
        """Return the data set in a bundle's sample dtype and, where given, its order of labels.

        Raises:
            DataError: another shape, values that the dtype cannot hold, or other classes.
        """
        if self.x.shape[1:] != spec.shape:
            raise DataError(
                f"samples of shape {self.x.shape[1:]}; the bundle takes {spec.shape}", where=where
            )
        with np.errstate(invalid="ignore", over="ignore"):
            x = self.x.astype(spec.dtype, copy=False)
        rounds = self.x.dtype.kind == x.dtype.kind == "f" and np.isfinite(x).all()
        if not rounds and not np.array_equal(x, self.x):
            raise DataError(
                f"samples of {self.x.dtype}, not all of which are {spec.dtype}", where=where
            )
        return Dataset(x=x, y=self._renamed(labels, where), group=self.group, time=self.time)

    def _renamed(self, labels: tuple[str, ...] | None, where: str) -> NDArray[np.int64] | None:
        """Return y as numbers of ``labels``: by name where the data has names, else as it is."""
        if self.y is None or labels is None:
            return self.y
        names = labels if self.labels is None else self.labels
        if self.y.max() >= len(names):
            raise DataError(f"class {self.y.max()}; there are {len(names)} labels", where=where)
        unknown = {names[one] for one in np.unique(self.y)} - set(labels)
        if unknown:
            raise DataError(f"class {min(unknown)!r} is none of the bundle's labels", where=where)
        return np.array([labels.index(name) if name in labels else -1 for name in names])[self.y]


def load_dataset(path: Path) -> Dataset:
    """Read and check the data set at ``path``: an .npz, or a folder that holds just one.

    Raises:
        DataError: there is no such file, it is damaged, or an array is not as it should be.
    """
    file = _only_npz(path) if path.is_dir() else path
    if file.exists() and not file.is_file():
        raise DataError("is no plain file", where=str(file))  # a pipe would hold us up for ever
    arrays = _read(file)
    where = str(file)
    x = _samples(arrays, where=where)
    labels = _labels(arrays, where=where)
    return Dataset(
        x=x,
        y=_classes(arrays, rows=len(x), labels=labels, where=where),
        group=_column(arrays, _GROUP, kinds="iuU", rows=len(x), where=where),
        time=_column(arrays, ("time",), kinds="iuf", rows=len(x), where=where),
        labels=labels,
    )


def row_digests(x: NDArray[Any]) -> NDArray[np.uint64]:
    """Return the 64-bit digest of each row of ``x`` (n, *shape), as (n,) uint64.

    A row's digest is BLAKE2b-8 (RFC 7693), read as a little-endian integer, over the
    row's values as little-endian float32 in C order, with -0 as 0. All sample dtypes of
    a bundle fit float32 exactly (int32 up to 2**24, as the ids of tokens are), so equal
    values give equal digests in whichever of them they are stored; of wider dtypes, convert
    to the sample's dtype first.
    """
    rows = x.reshape(len(x), math.prod(x.shape[1:]))
    with np.errstate(over="ignore"):
        digests = b"".join(_row_digest(row) for row in rows)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def save_seen(digests: NDArray[np.uint64]) -> bytes:
    """Return the bytes of the .npy that a bundle's ``training.seen`` names: sorted, unique."""
    stream = io.BytesIO()
    np.save(stream, np.unique(digests).astype("<u8"), allow_pickle=False)
    return stream.getvalue()


def read_seen(data: bytes, *, where: str) -> NDArray[np.uint64]:
    """Return the (n,) sorted row digests that `save_seen` wrote.

    Raises:
        DataError: the bytes are no such .npy.
    """
    with _reading("not a readable .npy", where=where):
        seen: object = np.load(io.BytesIO(data), allow_pickle=False)
    if not isinstance(seen, np.ndarray) or seen.dtype != np.uint64 or seen.ndim != 1:
        raise DataError("should be a one-dimensional .npy of uint64", where=where)
    if not (seen[:-1] < seen[1:]).all():
        raise DataError("the row digests are not sorted and unique", where=where)
    return seen.astype(np.uint64)


def is_seen(x: NDArray[Any], seen: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Tell for each row of ``x`` (n, *shape) whether its digest is in ``seen``: (n,) bool."""
    return np.isin(row_digests(x), seen)


def digest(dataset: Dataset) -> str:
    """Return the SHA-256, in hex, of the rows, the classes and the groups of a data set.

    It depends on values, order, shape and X's dtype, not on byte order, memory layout,
    compression, or the integer type in which y and group were stored.
    """
    sha = hashlib.sha256()
    for name, array in (("X", dataset.x), ("y", dataset.y), ("group", dataset.group)):
        if array is None:
            continue
        plain = _canonical(array) if name == "X" else _canonical_column(array)
        sha.update(f"{name} {plain.dtype.str} {plain.shape}\n".encode())
        sha.update(plain.data)
    return sha.hexdigest()


def _row_digest(row: NDArray[Any]) -> bytes:
    values = np.add(row, 0, dtype="<f4", casting="unsafe")
    return hashlib.blake2b(values.tobytes(), digest_size=8).digest()


def _canonical(array: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


def _canonical_column(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind == "U":  # "<U9" and "<U12" may hold the same names
        return np.frombuffer("\0".join(array.tolist()).encode(), dtype=np.uint8)
    return np.ascontiguousarray(array, dtype="<i8")


def _only_npz(folder: Path) -> Path:
    found = sorted(folder.glob("*.npz"))
    match found:
        case [file]:
            return file
        case []:
            raise DataError("no .npz in this folder", where=str(folder))
        case _:
            names = ", ".join(file.name for file in found)
            raise DataError(f"{len(found)} data sets: {names}", where=str(folder), hint="name one")


@contextmanager
def _reading(what: str, *, where: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise DataError("no such file", where=where) from error
    except _UNREADABLE as error:
        raise DataError(f"{what}: {error}", where=where) from error


def _read(file: Path) -> dict[str, NDArray[Any]]:
    where = str(file)
    with _reading("not a readable .npz", where=where), file.open("rb") as stream:
        if not zipfile.is_zipfile(stream):
            raise DataError("not an .npz, or cut short", where=where)
        stream.seek(0)
        with np.load(stream, allow_pickle=False) as npz:
            return {name: _member(npz, name, where=where) for name in npz.files if name in _KNOWN}


def _member(npz: Mapping[str, Any], name: str, *, where: str) -> NDArray[Any]:
    with _reading(f"{name} cannot be read", where=where):
        array: object = npz[name]
    if not isinstance(array, np.ndarray):
        raise DataError(f"{name} is no array", where=where)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _samples(arrays: Mapping[str, NDArray[Any]], *, where: str) -> NDArray[Any]:
    if "X" not in arrays:
        raise DataError("no array X", where=where, hint="X holds the samples, one per row")
    x = arrays["X"]
    if x.dtype.kind not in "iuf" or x.dtype.itemsize > 8:
        raise DataError(f"X is {x.dtype}, not integers or floats", where=where)
    if x.ndim < 2 or x.size == 0:
        raise DataError(f"X {x.shape} should be (rows, *sample shape), none 0", where=where)
    if x.dtype.kind == "f":
        bad = np.flatnonzero(~np.isfinite(x).reshape(len(x), -1).all(axis=1))
        if bad.size:
            what = f"X has NaN or Inf in {bad.size} of {len(x)} rows, first row {bad[0]}"
            raise DataError(what, where=where)
    return x


def _column(
    arrays: Mapping[str, NDArray[Any]],
    names: tuple[str, ...],
    *,
    kinds: str,
    rows: int,
    where: str,
) -> NDArray[Any] | None:
    """Return the first of ``names`` that is there, one value of ``kinds`` per row."""
    name = next((name for name in names if name in arrays), None)
    if name is None:
        return None
    column = arrays[name]
    if column.dtype.kind not in kinds:
        wanted = {"i": "integers", "f": "floats", "U": "strings"}
        allowed = " or ".join(text for kind, text in wanted.items() if kind in kinds)
        raise DataError(
            f"{name} is {column.dtype}, not {allowed}",
            where=where,
            hint="number the classes from 0; labels names them" if name == "y" else None,
        )
    if column.shape != (rows,):
        raise DataError(f"{name} {column.shape} does not match the {rows} rows of X", where=where)
    if column.dtype.kind == "f" and not np.isfinite(column).all():
        raise DataError(f"{name} has NaN or Inf", where=where)
    return column


def _classes(
    arrays: Mapping[str, NDArray[Any]], *, rows: int, labels: tuple[str, ...] | None, where: str
) -> NDArray[np.int64] | None:
    y = _column(arrays, ("y",), kinds="iu", rows=rows, where=where)
    if y is None:
        return None
    low, high = int(y.min()), int(y.max())
    top = 2**31 - 1 if labels is None else len(labels) - 1
    if low < 0 or high > top:
        most = "" if labels is None else f" to {top}, as there are labels"
        raise DataError(
            f"y runs from {low} to {high}, and class numbers from 0{most}",
            where=where,
            hint="number the classes from 0, in the order of the labels",
        )
    return y.astype(np.int64)


def _labels(arrays: Mapping[str, NDArray[Any]], *, where: str) -> tuple[str, ...] | None:
    name = next((name for name in _LABELS if name in arrays), None)
    if name is None:
        return None
    names = arrays[name]
    if names.dtype.kind != "U" or names.ndim != 1:
        raise DataError(
            f"{name} is {names.dtype} {names.shape}, not a list of names",
            where=where,
            hint="class numbers belong into y",
        )
    labels = tuple(names.tolist())
    if len(set(labels)) < len(labels):
        raise DataError(f"{name} has a name twice", where=where)
    return labels
