"""The pairs of one contract on disk: one SQLite file, of mode 0600, that keeps to a size.

A transaction is there or not, whatever happens to the power (journal and synchronous FULL), and
every row says by a checksum that it is what was written. Several workers of one machine may write
to the same file, and the command line beside them. Where there is no room, the oldest pairs of
the device that has most of them give way: no device can push out another's, and none what was
released. What is dropped is overwritten (secure_delete).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ...models.errors import ConfigError, DataError
from ..sqlite_transaction import transaction
from .pairs import About, Pair, State, level

FILE = "pairs.db"
_MAGIC = b"SQLite format 3\x00"
_APPLICATION_ID = 0x68656470  # "hedp"
_VERSION = 1
_PAGE_BYTES = 4096
_ROW_BYTES = 512  # what a row takes beside its arrays, names included
_FULL = 0.9  # the share of the pages that rows may take: the rest is the tree's
_BUSY_S = 5.0
_STATES: tuple[State, ...] = ("quarantined", "released")

_TABLES = (
    "CREATE TABLE about (one TEXT NOT NULL)",
    """CREATE TABLE pair (
        n INTEGER PRIMARY KEY,
        key TEXT NOT NULL UNIQUE,
        state INTEGER NOT NULL,
        at_s REAL NOT NULL,
        site TEXT NOT NULL,
        device TEXT NOT NULL,
        stream TEXT NOT NULL,
        id TEXT NOT NULL,
        kind TEXT NOT NULL,
        bundle TEXT NOT NULL,
        score REAL NOT NULL,
        doubt REAL NOT NULL,
        edge BLOB NOT NULL,
        cloud BLOB NOT NULL,
        alpha BLOB,
        checksum INTEGER NOT NULL,
        body BLOB NOT NULL
    )""",
    "CREATE INDEX pair_device ON pair (state, site, device, n)",
)
_PUT = (
    "INSERT INTO pair (key, state, at_s, site, device, stream, id, kind, bundle, score, doubt,"
    " edge, cloud, alpha, checksum, body) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)
_COLUMNS = (
    "key, state, at_s, site, device, stream, id, kind, bundle, score, doubt, edge, cloud, alpha"
)


class Kept(NamedTuple):
    """What became of pairs that were to be kept: ``evicted`` are others, which gave way."""

    kept: int = 0
    repeated: int = 0
    no_room: int = 0
    evicted: int = 0


class Line(Struct, frozen=True, kw_only=True):
    """How many pairs there are of a device, a stream, a state and a label of the cloud's."""

    device: str
    stream: str
    state: State
    label: str
    pairs: int


class PairStore:
    """The pairs in a folder; one thread at a time uses it.

    With ``about`` the file is made if need be, and holds ``max_bytes`` at most; without, it must
    be there.

    Raises:
        DataError: there are no pairs, they are damaged, or of another contract.
        ConfigError: something else is in the file's place, or it cannot be made.
        sqlite3.OperationalError: the disk is full or fails, or another writes for too long.
    """

    def __init__(
        self, folder: Path, *, about: About | None = None, max_bytes: int | None = None
    ) -> None:
        self.path = folder / FILE
        is_new = _look(self.path, makes=about is not None)
        try:
            if is_new:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise ConfigError(f"cannot be made: {error}", where=str(self.path)) from error
        self._base = sqlite3.connect(
            self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
        )
        self._pages = None if max_bytes is None else max_bytes // _PAGE_BYTES
        try:
            self.about = self._opened(about)
        except BaseException:
            self._base.close()
            raise

    @property
    def most(self) -> int:
        """How many pairs there is room for."""
        assert self._pages is not None  # noqa: S101  only who writes has a bound
        each = self.about.body_bytes + 12 * self.about.classes + _ROW_BYTES
        if each > _PAGE_BYTES // 2:  # then rows do not share a page
            each = -(-each // (_PAGE_BYTES - 16)) * _PAGE_BYTES
        return int(_FULL * self._pages * _PAGE_BYTES) // each

    def put(self, pairs: Sequence[Pair], bodies: Sequence[bytes]) -> Kept:
        """Keep pairs in quarantine, all in one transaction; ``bodies`` are their samples.

        Raises:
            sqlite3.Error: the disk is full or fails: none of them is kept.
        """
        with transaction(self._base):
            new = {pair.key: (pair, body) for pair, body in zip(pairs, bodies, strict=True)}
            for key in list(new):
                if self._base.execute("SELECT 1 FROM pair WHERE key = ?", (key,)).fetchone():
                    del new[key]
            repeated = len(pairs) - len(new)
            coming = list(new.values())
            evicted, no_room = self._make_room(coming)
            self._base.executemany(_PUT, [_row(pair, body) for pair, body in coming])
        return Kept(len(coming), repeated, no_room, evicted)

    def lines(self) -> list[Line]:
        """Count the pairs by device, stream, state and label.

        Raises:
            DataError: the file is damaged.
        """
        found = Counter(
            (pair.whose, pair.stream, pair.state, self.about.labels[pair.label])
            for pair in self.pairs()
        )
        return [
            Line(device=device, stream=stream, state=state, label=label, pairs=count)
            for (device, stream, state, label), count in sorted(found.items())
        ]

    def pairs(self, state: State | None = None) -> Iterator[Pair]:
        """Yield the pairs in the order in which they were kept; damaged ones are passed over.

        Raises:
            DataError: the file is damaged.
        """
        where = "" if state is None else f"WHERE state = {_STATES.index(state)}"
        with self._reading():
            for row in self._base.execute(f"SELECT {_COLUMNS} FROM pair {where} ORDER BY n"):  # noqa: S608 -- ours
                pair = _pair(row, classes=self.about.classes)
                if pair is not None:
                    yield pair

    def samples(self, pairs: Sequence[Pair]) -> tuple[list[Pair], NDArray[Any]]:
        """Return those of ``pairs`` that are whole, and their samples (n, *shape).

        Raises:
            DataError: the file is damaged.
        """
        whole, samples = [], []
        about = self.about
        with self._reading():
            for pair in pairs:
                found = self._base.execute(
                    "SELECT checksum, body FROM pair WHERE key = ?", (pair.key,)
                ).fetchone()
                if found is None or not isinstance(found[1], bytes):
                    continue
                if len(found[1]) == about.body_bytes and found[0] == _checksum(pair, found[1]):
                    whole.append(pair)
                    samples.append(np.frombuffer(found[1], np.dtype(about.dtype).newbyteorder("<")))
        rows = np.stack(samples) if samples else np.empty((0, about.body_bytes), about.dtype)
        return whole, rows.astype(about.dtype).reshape(len(samples), *about.shape)

    def release(self, keys: Collection[str]) -> int:
        """Let pairs out of quarantine; return how many there were.

        Raises:
            DataError: the file is damaged, or the disk refuses.
        """
        return self._each("UPDATE pair SET state = 1 WHERE state = 0 AND key = ?", keys)

    def drop(self, keys: Collection[str]) -> int:
        """Remove pairs, and give their bytes back to the disk; return how many there were.

        Raises:
            DataError: the file is damaged, or the disk refuses.
        """
        gone = self._each("DELETE FROM pair WHERE key = ?", keys)
        with self._reading():
            self._base.execute("VACUUM")
        return gone

    def check(self) -> None:
        """Read the whole file.

        Raises:
            DataError: it is damaged.
        """
        with self._reading():
            (found,) = self._base.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise _damaged(self.path, found)

    def close(self) -> None:
        """Close it; closing twice is harmless."""
        self._base.close()

    def _opened(self, about: About | None) -> About:
        """Set the file up; return what its pairs are about."""
        try:
            self._base.execute("PRAGMA synchronous = FULL")
            self._base.execute("PRAGMA secure_delete = ON")
            if about is not None:
                self._make(about)
            if self._pages is not None:
                self._base.execute(f"PRAGMA max_page_count = {max(1, self._pages)}")
            (text,) = self._base.execute("SELECT one FROM about").fetchone()
            found = _about(text)
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
            raise _damaged(self.path, error) from error
        except (sqlite3.DatabaseError, TypeError, ValueError, KeyError) as error:
            raise _damaged(self.path, error) from error
        if about is not None and found != about:
            raise DataError(
                f"holds pairs of {found.name} of another contract", where=str(self.path)
            )
        return found

    def _make(self, about: About) -> None:
        """Make the tables, unless they are there."""
        with transaction(self._base):
            (version,) = self._base.execute("PRAGMA user_version").fetchone()
            if version:
                return
            self._base.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            for statement in _TABLES:
                self._base.execute(statement)
            self._base.execute("INSERT INTO about VALUES (?)", (_about_text(about),))
            self._base.execute(f"PRAGMA user_version = {_VERSION}")

    def _make_room(self, coming: list[tuple[Pair, bytes]]) -> tuple[int, int]:
        """Let old pairs give way to ``coming``; return how many did, and how many of these must.

        The latter are taken out of ``coming``.
        """
        (released,) = self._base.execute("SELECT count(*) FROM pair WHERE state = 1").fetchone()
        held = Counter(
            {
                (site, device): count
                for site, device, count in self._base.execute(
                    "SELECT site, device, count(*) FROM pair WHERE state = 0 GROUP BY site, device"
                )
            }
        )
        wanted = held + Counter((pair.site, pair.device) for pair, _ in coming)
        most = level(np.array(list(wanted.values())), most=max(0, self.most - released))
        evicted = no_room = 0
        for (site, device), count in wanted.items():
            over = max(0, count - most)
            old = min(over, held[site, device])
            self._base.execute(
                "DELETE FROM pair WHERE n IN (SELECT n FROM pair WHERE state = 0 AND site = ?"
                " AND device = ? ORDER BY n LIMIT ?)",
                (site, device, old),
            )
            evicted += old
            mine = [one for one in coming if (one[0].site, one[0].device) == (site, device)]
            for one in mine[: over - old]:
                coming.remove(one)
                no_room += 1
        return evicted, no_room

    def _each(self, statement: str, keys: Collection[str]) -> int:
        with self._reading(), transaction(self._base):
            return sum(self._base.execute(statement, (key,)).rowcount for key in keys)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise DataError(f"cannot be used: {error}", where=str(self.path)) from error
        except sqlite3.DatabaseError as error:
            raise _damaged(self.path, error) from error


def stores_in(place: Path) -> list[PairStore]:
    """Open the pairs in a folder that a worker was given, or in one of its folders.

    What else lies there is passed over.

    Raises:
        DataError: there are none, or some are damaged.
        ConfigError: another program's file is in their place.
    """
    folders = [place] if (place / FILE).exists() else sorted(place.glob(f"*/{FILE}"))
    opened: list[PairStore] = []
    try:
        for found in folders:
            opened.append(PairStore(found if found.is_dir() else found.parent))  # noqa: PERF401 -- closed below if one fails
    except sqlite3.OperationalError as error:
        raise DataError(f"cannot be opened: {error}", where=str(place)) from error
    finally:
        if len(opened) < len(folders):
            for one in opened:
                one.close()
    if not opened:
        raise DataError(
            "holds no pairs", where=str(place), hint="hedge worker … --pairs DIR keeps them there"
        )
    return opened


def key_of(site: str, device: str, stream: str, ask_id: str, body: bytes) -> str:
    """Return what makes two pairs the same one."""
    place = f"{site}/{device}/{stream}/{ask_id}/".encode()
    return hashlib.blake2b(place + body, digest_size=16).hexdigest()


def _look(path: Path, *, makes: bool) -> bool:
    """Return whether a file is to be made; refuse what is none of ours."""
    try:
        with path.open("rb") as file:
            head = file.read(100) if path.is_file() else b"no file"
    except FileNotFoundError as error:
        if makes:
            return True
        raise DataError("holds no pairs", where=str(path.parent)) from error
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from error
    if not head and makes:
        return True
    if not head.strip(b"\x00") or (head.startswith(_MAGIC) and len(head) < 100):
        raise _damaged(path, "it is cut short")
    if not head.startswith(_MAGIC):
        raise ConfigError("is no file of pairs", where=str(path), hint="remove or rename it")
    version, owner = (int.from_bytes(head[at : at + 4], "big") for at in (60, 68))
    if owner not in (0, _APPLICATION_ID) or version > _VERSION:
        what = "another program's database" if owner != _APPLICATION_ID else f"of version {version}"
        raise ConfigError(f"is {what}", where=str(path), hint="remove or rename it")
    return False


def _damaged(path: Path, why: object) -> DataError:
    return DataError(
        f"is damaged: {why}", where=str(path), hint="a worker lays it aside when it starts"
    )


def _about_text(about: About) -> str:
    return json.dumps({name: getattr(about, name) for name in about.__struct_fields__})


def _about(text: str) -> About:
    given = json.loads(text)
    return About(
        name=given["name"],
        contract=given["contract"],
        labels=tuple(given["labels"]),
        dtype=np.dtype(given["dtype"]).name,
        shape=tuple(int(one) for one in given["shape"]),
    )


def _row(pair: Pair, body: bytes) -> tuple[object, ...]:
    return (
        *(pair.key, _STATES.index(pair.state), pair.at_s, pair.site, pair.device, pair.stream),
        *(pair.id, pair.kind, pair.bundle, pair.score or 0.0, pair.doubt),
        *(
            _bytes(pair.edge),
            _bytes(pair.cloud),
            None if pair.alpha is None else _bytes(pair.alpha),
        ),
        *(_checksum(pair, body), body),
    )


def _pair(row: Sequence[Any], *, classes: int) -> Pair | None:
    """Return the pair of a row; None where it is not what was written."""
    key, state, at_s, site, device, stream, ask_id, kind, bundle, score, doubt, *arrays = row
    if state not in (0, 1):
        return None
    try:
        edge, cloud, alpha = (_array(one, classes) if one else None for one in arrays)
    except (TypeError, ValueError):
        return None
    if cloud is None:
        return None
    return Pair(
        key=key,
        site=site,
        device=device,
        stream=stream,
        id=ask_id,
        kind=kind,
        at_s=at_s,
        bundle=bundle,
        score=None if edge is None else score,
        doubt=doubt,
        edge=edge,
        cloud=cloud,
        alpha=alpha,
        state=_STATES[state],
    )


def _bytes(array: NDArray[Any] | None) -> bytes:
    """Return its bytes; none where there is none."""
    return b"" if array is None else array.astype("<f4").tobytes()


def _array(data: bytes, classes: int) -> NDArray[np.float32]:
    found = np.frombuffer(data, "<f4")
    if found.shape != (classes,) or not np.isfinite(found).all():
        raise ValueError("no row of numbers")
    return found.astype(np.float32)


def _checksum(pair: Pair, body: bytes) -> int:
    arrays = _bytes(pair.edge) + _bytes(pair.cloud) + _bytes(pair.alpha)
    return zlib.crc32(pair.key.encode() + arrays + body)
