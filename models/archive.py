"""The files of a bundle: a folder, or a .zip that is read without being unpacked.

Neither is trusted. Links, devices, paths that lead out, names twice, encrypted members and
anything beyond the limits are refused before a byte of it is read or decompressed.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Protocol

from .errors import BundleError

MAX_MEMBERS = 256
MAX_FILE_BYTES = 1 << 30
MAX_TOTAL_BYTES = 2 << 30
MAX_RATIO = 200
_SMALL_BYTES = 1 << 20  # below this no ratio is a danger
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,99}){0,3}")
_EPOCH = (1980, 1, 1, 0, 0, 0)


class Archive(Protocol):
    """Named files that do not change their set while they are read."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Every file's name, relative and with slashes, and its size in bytes."""

    def read(self, name: str) -> bytes:
        """Return one file's content.

        Raises:
            BundleError: the file is gone, damaged or larger than it said.
        """


def open_archive(path: Path, *, where: str) -> Archive:
    """Return the files of the folder or .zip at ``path``, which messages call ``where``.

    Raises:
        BundleError: there is none, or it holds what a bundle may not hold.
    """
    if path.is_dir():
        return _Folder(path, where=where)
    if path.is_file():
        return _Zip(path, where=where)
    raise BundleError("no such bundle", where=where)


def check_name(name: str, *, where: str) -> None:
    """Refuse a file name that leads out of the bundle or that some system reads otherwise."""
    parts = re.split(r"[/\\]", name)
    if ".." in parts or parts[0] == "" or ":" in parts[0]:
        raise BundleError(f"{name!r} leads out of the bundle", where=where)
    if _NAME.fullmatch(name) is None:
        raise BundleError(
            f"{name!r} is no file name for a bundle",
            where=where,
            hint="letters, digits, . _ - and at most three folders",
        )


def write_zip(path: Path, files: Mapping[str, bytes]) -> None:
    """Write ``files`` as a .zip whose bytes depend on nothing but them, and sync it.

    Members are stored, not compressed: weights hardly shrink, and the bytes stay the same
    whatever zlib a machine has.
    """
    with path.open("xb") as stream:
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
            for name, data in files.items():
                info = zipfile.ZipInfo(name, date_time=_EPOCH)
                info.create_system = 3
                info.external_attr = (stat.S_IFREG | 0o644) << 16
                archive.writestr(info, data)
        stream.flush()
        os.fsync(stream.fileno())


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write ``files`` below the new folder ``path``, and sync them."""
    path.mkdir()
    for name, data in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    for folder in (path, *(found for found in path.rglob("*") if found.is_dir())):
        sync_folder(folder)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Folder:
    def __init__(self, path: Path, *, where: str) -> None:
        self._path, self._where = path, where
        with _reading(where):
            found = islice(_walk(path, "", where=where), MAX_MEMBERS + 1)
            self.sizes: Mapping[str, int] = dict(sorted(found))
        _check_sizes(self.sizes, where=where)

    def read(self, name: str) -> bytes:
        where = f"{self._where}/{name}"
        with _reading(where):
            descriptor = os.open(self._path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as stream:
                return _exactly(stream.read(self.sizes[name] + 1), self.sizes[name], where=where)


class _Zip:
    def __init__(self, path: Path, *, where: str) -> None:
        self._path, self._where = path, where
        with _reading(where):
            _check_directory(path, where=where)
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
        folders = [info.filename for info in members if info.filename.endswith("/")]
        files = [info for info in members if not info.filename.endswith("/")]
        for info in files:
            _check_member(info, where=where)
        _check_unique([info.filename for info in members], where=where)
        _check_folders(folders, [info.filename for info in files], where=where)
        self.sizes: Mapping[str, int] = {info.filename: info.file_size for info in files}
        _check_sizes(self.sizes, where=where)

    def read(self, name: str) -> bytes:
        where = f"{self._where}/{name}"
        with _reading(where), zipfile.ZipFile(self._path) as archive, archive.open(name) as stream:
            return _exactly(stream.read(self.sizes[name] + 1), self.sizes[name], where=where)


def _walk(folder: Path, prefix: str, *, where: str) -> Iterator[tuple[str, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            name = prefix + entry.name
            if entry.is_symlink():
                raise BundleError(f"{name!r} is a symbolic link", where=where)
            check_name(name, where=where)
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(folder / entry.name, f"{name}/", where=where)
            elif entry.is_file(follow_symlinks=False):
                yield name, entry.stat(follow_symlinks=False).st_size
            else:
                raise BundleError(f"{name!r} is no regular file", where=where)


def _check_directory(path: Path, *, where: str) -> None:
    """Refuse a zip whose list of members is out of bounds, before zipfile reads that list.

    Its end record must be the last 22 bytes, and no zip64 record may overrule it.
    """
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - 42))
        tail = stream.read(42)
    end = tail[-22:]
    if len(end) < 22 or end[:4] != b"PK\x05\x06" or end[-2:] != b"\0\0":
        raise BundleError("not a .zip, or cut short, or with a comment", where=where)
    (count, size) = struct.unpack("<HI", end[10:16])
    if tail[:-22].startswith(b"PK\x06\x07") or count > MAX_MEMBERS:
        raise BundleError(f"more than {MAX_MEMBERS} files", where=where)
    if size > _SMALL_BYTES:
        raise BundleError("its list of files is too long", where=where)


def _check_member(info: zipfile.ZipInfo, *, where: str) -> None:
    name = info.filename
    check_name(name, where=where)
    mode = info.external_attr >> 16
    if stat.S_ISLNK(mode):
        raise BundleError(f"{name!r} is a symbolic link", where=where)
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise BundleError(f"{name!r} is no regular file", where=where)
    if info.flag_bits & 0x1:
        raise BundleError(f"{name!r} is encrypted", where=where)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BundleError(f"{name!r} is neither stored nor deflated", where=where)
    if info.file_size > max(_SMALL_BYTES, MAX_RATIO * info.compress_size):
        raise BundleError(
            f"{name!r} would unpack to {info.file_size} bytes from {info.compress_size}",
            where=where,
            hint=f"at most {MAX_RATIO} to 1",
        )


def _check_unique(names: Iterable[str], *, where: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name.casefold() in seen:
            raise BundleError(f"{name!r} is there twice", where=where)
        seen.add(name.casefold())


def _check_folders(folders: Iterable[str], files: Iterable[str], *, where: str) -> None:
    """Folders are no files: they may be listed, but only such as hold something."""
    needed = {parent for name in files for parent in _parents(name)}
    for folder in folders:
        if folder not in needed:
            raise BundleError(f"{folder!r} is an empty folder", where=where)


def _parents(name: str) -> Iterator[str]:
    return (name[: place + 1] for place, letter in enumerate(name) if letter == "/")


def _check_sizes(sizes: Mapping[str, int], *, where: str) -> None:
    if len(sizes) > MAX_MEMBERS:
        raise BundleError(f"more than {MAX_MEMBERS} files", where=where)
    for name, size in sizes.items():
        if size > MAX_FILE_BYTES:
            raise BundleError(f"{name!r} has {size} bytes, at most {MAX_FILE_BYTES}", where=where)
    total = sum(sizes.values())
    if total > MAX_TOTAL_BYTES:
        raise BundleError(f"{total} bytes in all, at most {MAX_TOTAL_BYTES}", where=where)


def _exactly(data: bytes, size: int, *, where: str) -> bytes:
    if len(data) != size:
        raise BundleError(f"changed while it was read: {size} bytes expected", where=where)
    return data


@contextmanager
def _reading(where: str) -> Iterator[None]:
    try:
        yield
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        NotImplementedError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise BundleError(f"cannot be read: {error}", where=where) from error
