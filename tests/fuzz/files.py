"""What lies on disk: an outbox whose files were changed is opened all the same."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from zlib import crc32

from hedge.uplink.outbox import frames, stored
from hedge.uplink.outbox.durable_outbox import DurableOutbox
from hedge.uplink.outbox.log_files import TAIL
from hedge.uplink.outbox.outbox import Record
from hedge.uplink.outbox.recovery import read, survey

from .decoders import record
from .mutator import Mutator

_COUNT = 12
_ENDED = {"7-2": "answered", "7-3": "expired"}
_MEMORY = Path("/dev/shm")  # noqa: S108 -- nothing here has to survive
_RIGHT = 0x80
_CRC_AT, _LENGTH_AT = 4, 8


class Files:
    """A `Target`: the files of an outbox, of which one is an input.

    An input's first byte says which file it is, and whether the checksums of its frames
    are made right again, so that what is behind them is reached too.
    """

    name = "files"

    def __init__(self) -> None:
        place = _MEMORY if _MEMORY.is_dir() else None
        self._place = tempfile.TemporaryDirectory(prefix="hedge-fuzz-", dir=place)
        self._folder = Path(self._place.name)
        self._asks = {one.id: one for one in map(record, range(_COUNT + 1))}
        self._whole = _written(self._folder / "first", list(self._asks.values()))
        self.seeds: Sequence[bytes] = [
            bytes((number | right,)) + data
            for number, data in enumerate(self._whole.values())
            for right in (0, _RIGHT)
        ]
        self._turns = 0
        logging.getLogger("hedge").setLevel(logging.CRITICAL)

    def draw(self, mutator: Mutator) -> bytes:
        """Change a file; see `Target`."""
        seed = mutator.rng.choice(self.seeds)
        return seed[:1] + mutator.bytes_like((seed[1:],))

    def __call__(self, data: bytes) -> None:
        """Read the folder with one file changed, and sometimes open it; see `Target`."""
        self._turns += 1
        forged = data[:1] >= bytes((_RIGHT,))
        name = list(self._whole)[(data[0] & ~_RIGHT) % len(self._whole) if data else 0]
        folder = self._folder / "changed"
        folder.mkdir()
        try:
            for one, content in self._whole.items():
                (folder / one).write_bytes(content)
            (folder / name).write_bytes(_made_right(data[1:], name) if forged else data[1:])
            self._look(folder, honest=not forged)
            if self._turns % 4 == 0:
                self._open(folder)
        finally:
            shutil.rmtree(folder)

    def _look(self, folder: Path, *, honest: bool) -> None:
        """Survey what is there; what is found is what was put, unless it was forged."""
        for ask_id, kept in survey(folder).asks.items():
            payload = read(folder, kept)
            if honest:
                assert payload is not None
                assert stored.unpack(payload, ahead_ns=0).request == self._asks[ask_id].request

    def _open(self, folder: Path) -> None:
        """Open it, and see that it takes a new ask, and gives what it has."""
        outbox = _opened(folder)
        try:
            placed = outbox.put([record(_COUNT + 5)])
            assert not placed.refused
            waiting = [one.id for one in outbox.due(1000)]
            assert record(_COUNT + 5).id in waiting
        finally:
            outbox.close()

    def finish(self) -> None:
        """Open it as it was, and leave nothing behind; see `Target`."""
        outbox = _opened(self._folder / "first")
        waiting = outbox.stats().pending
        outbox.close()
        self._place.cleanup()
        assert waiting == len(self._asks) - len(_ENDED)


def _opened(folder: Path) -> DurableOutbox:
    return DurableOutbox(folder, max_bytes=1 << 20, min_free_bytes=0)


def _written(folder: Path, asks: Sequence[Record]) -> Mapping[str, bytes]:
    """Fill an outbox and return its files."""
    outbox = _opened(folder)
    outbox.put(asks[:-1])
    outbox._log.roll()
    outbox.put(asks[-1:])
    outbox.sent("7-1", lease_until_ns=1)
    outbox.settle({"7-2": "answered", "7-3": "expired"})
    outbox.final(["7-2", "7-3", "7-4"])
    outbox.close()
    names = sorted(path.name for path in folder.iterdir() if path.suffix == ".log")
    return {name: (folder / name).read_bytes() for name in (*names, TAIL)}


def _made_right(data: bytes, name: str) -> bytes:
    """Give every frame the checksum of what it now holds, and the hint too."""
    if name == TAIL:
        return data[:-4] + crc32(data[:-4]).to_bytes(4, "little")
    made, at, segment = bytearray(data), data.find(frames.MAGIC), int(name.partition(".")[0])
    while 0 <= at <= len(made) - frames.HEADER_BYTES:
        length = int.from_bytes(made[at + _LENGTH_AT : at + _LENGTH_AT + 4], "little")
        end = min(at + frames.HEADER_BYTES + length, len(made))
        crc = crc32(made[at + _LENGTH_AT : end], segment)
        made[at + _CRC_AT : at + _LENGTH_AT] = crc.to_bytes(4, "little")
        at = data.find(frames.MAGIC, at + frames.HEADER_BYTES)
    return bytes(made)
