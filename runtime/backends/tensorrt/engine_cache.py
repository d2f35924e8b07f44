"""Engines on disk, each under a key of all that it depends on, and none of them trusted.

A file is `_HEAD` (magic, version, lengths, SHA-256), then its key as JSON, then what it
holds. It is handed out only if every byte is as it was written and the key is the one
asked for; any other is removed, to be built anew. Its digest catches accidents and not
forgers: who can write into the folder can have TensorRT run what he likes, so the folder is
ours alone (0700), and so is each file (0600).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import secrets
import stat
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Struct

from ....models.archive import sync_folder
from ....models.errors import ModelError
from .library import Gpu

_log = logging.getLogger(__name__)

MAX_BYTES = 4 << 30
_MAGIC = b"hedgeTRT"
_VERSION = 1
_HEAD = struct.Struct("<8sIIQ32s")  # magic, version, bytes of the key, bytes held, SHA-256 of both
_KEY_AT_MOST = 1 << 16
_ABANDONED_S = 60.0
_LOCK = "build.lock"

Shape = tuple[int, ...]


class EngineKey(Struct, frozen=True, kw_only=True, tag="engine"):
    """All that an engine depends on; two that differ in anything are two engines.

    ``shapes`` are the input's least, usual and largest, one alone if it is fixed;
    ``calibration_sha256`` is of the rows that int8 was calibrated with. The driver is not
    in it: an engine holds machine code for its GPU and runs under any driver that this
    TensorRT runs under, and rebuilding after every update of the system would cost minutes
    for nothing. Should TensorRT refuse one all the same, it is built anew.
    """

    model_sha256: str
    tensorrt: str
    gpu: Gpu
    precision: str
    shapes: tuple[Shape, ...]
    calibration_sha256: str | None


class TimingKey(Struct, frozen=True, kw_only=True, tag="timing"):
    """What the times that TensorRT measures while it builds depend on."""

    tensorrt: str
    gpu: Gpu


Key = EngineKey | TimingKey


class EngineCache:
    """The folder of engines; several processes may use it at once.

    Beyond ``max_bytes`` those that were used longest ago go. ``counts``: found, missing,
    removed (stale or damaged) and evicted.
    """

    def __init__(self, folder: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self.counts: Counter[str] = Counter()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._sweep()
        except OSError as error:
            raise ModelError(
                f"engines cannot be kept: {error.strerror or error}", where=str(folder)
            ) from error

    def load(self, key: Key) -> bytes | None:
        """Return what is held under ``key``; None if that is nothing, or nothing sound."""
        path = self.path(key)
        try:
            held = _read(path, key=_encoded(key))
            os.utime(path)
        except FileNotFoundError:
            self.counts["missing"] += 1
            return None
        except (OSError, _UnsoundError) as error:
            _log.warning("%s: removed, and built anew: %s", path, error)
            self.remove(key)
            return None
        self.counts["found"] += 1
        return held

    def store(self, key: Key, held: bytes) -> None:
        """Keep ``held`` under ``key``: all of it or, whatever happens meanwhile, nothing.

        Raises:
            ModelError: it is larger than the cache, or the disk refuses it.
        """
        path, name = self.path(key), _encoded(key)
        size_bytes = _HEAD.size + len(name) + len(held)
        if size_bytes > self._max_bytes:
            raise ModelError(
                f"{size_bytes} bytes, and all engines together may have {self._max_bytes}",
                where=str(path),
            )
        part = self._folder / f".{path.name}.{secrets.token_hex(4)}.part"
        digest = hashlib.sha256(name + held).digest()
        try:
            with _own(part) as stream:
                stream.write(_HEAD.pack(_MAGIC, _VERSION, len(name), len(held), digest))
                stream.write(name)
                stream.write(held)
                stream.flush()
                os.fsync(stream.fileno())
                part.rename(path)
            sync_folder(self._folder)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise ModelError(f"not kept: {error.strerror or error}", where=str(path)) from error
        self._evict(path)

    def remove(self, key: Key) -> None:
        """Remove what is held under ``key``, for it is of no use."""
        with contextlib.suppress(OSError):
            self.path(key).unlink()
            self.counts["removed"] += 1

    def path(self, key: Key) -> Path:
        """Return where ``key`` is held."""
        kind = "engine" if isinstance(key, EngineKey) else "timing"
        return self._folder / f"{hashlib.sha256(_encoded(key)).hexdigest()}.{kind}"

    @contextlib.contextmanager
    def building(self, *, waits: Callable[[], None]) -> Iterator[None]:
        """Be the only process that builds; call ``waits`` first if another one does.

        Two builds at once would time each other's load, and may have no memory for both.
        """
        descriptor = os.open(
            self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            if not _locked(descriptor):
                waits()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _evict(self, kept: Path) -> None:
        """Remove what was used longest ago until the rest fits; never ``kept``, the newest."""
        files = [*self._folder.glob("*.engine"), *self._folder.glob("*.timing")]
        found = sorted(_used_and_size(file) for file in files)
        total = sum(size for _, size, _ in found)
        for _, size, file in found:
            if total <= self._max_bytes:
                return
            if file != kept:
                file.unlink(missing_ok=True)
                self.counts["evicted"] += 1
                total -= size

    def _sweep(self) -> None:
        """Remove what a process that was killed had begun to write: nobody holds its lock."""
        for part in self._folder.glob(".*.part"):
            with contextlib.suppress(OSError):
                if time.time() - part.stat().st_mtime < _ABANDONED_S:
                    continue
                descriptor = os.open(part, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    if _locked(descriptor):
                        part.unlink()
                finally:
                    os.close(descriptor)


class _UnsoundError(Exception):
    """A file that is not as it was written, or is another's."""


def _encoded(key: Key) -> bytes:
    return msgspec.json.encode(key)


def _read(path: Path, *, key: bytes) -> bytes:
    """Return what the file holds, after every check; sizes before anything is read."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise _UnsoundError("it is no file of ours")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise _UnsoundError("others may write to it")
        head = stream.read(_HEAD.size)
        if len(head) < _HEAD.size:
            raise _UnsoundError("it is cut short")
        magic, version, name_bytes, held_bytes, digest = _HEAD.unpack(head)
        if (magic, version) != (_MAGIC, _VERSION) or name_bytes > _KEY_AT_MOST:
            raise _UnsoundError("it is of another format")
        if status.st_size != _HEAD.size + name_bytes + held_bytes:
            raise _UnsoundError("it is cut short, or too long")
        if stream.read(name_bytes) != key:
            raise _UnsoundError("it is for something else")
        held = stream.read(held_bytes)
    if hashlib.sha256(key + held).digest() != digest:
        raise _UnsoundError("it is damaged")
    return held


@contextlib.contextmanager
def _own(part: Path) -> Iterator[BinaryIO]:
    """Create a file of ours and hold its lock, so that nobody takes it for abandoned."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(part, flags, 0o600), "wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield stream


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _used_and_size(file: Path) -> tuple[int, int, Path]:
    try:
        status = file.stat()
    except FileNotFoundError:
        return 0, 0, file
    return status.st_mtime_ns, status.st_size, file
