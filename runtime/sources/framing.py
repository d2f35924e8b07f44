"""Framing: where one message ends and the next begins, in bytes that come piece by piece."""

from __future__ import annotations

from typing import Protocol

from ...models.errors import DataError
from .options import Format

_HEAD_BYTES = 4
_LINES = ("json", "csv", "text")


class FramingError(DataError):
    """Nobody can say where the next message begins: nothing more can be read there."""


class Frames(Protocol):
    """Takes a stream of bytes apart; it keeps at most one message that is not whole yet."""

    def feed(self, data: bytes) -> list[bytes | DataError]:
        """Return the messages that ``data`` completes, and what is wrong in between.

        A `FramingError` is the last that comes.
        """

    def end(self) -> list[bytes | DataError]:
        """Return what the end of the stream completes, or cuts off."""


class Lines:
    r"""Lines that end with \n or \r\n; one of more than ``max_bytes`` is passed over.

    With ``mid_line`` what comes before the first line end is passed over silently: nobody knows
    how much of that line went before.
    """

    def __init__(self, *, max_bytes: int, where: str, mid_line: bool = False) -> None:
        self._max_bytes = max_bytes
        self._where = where
        self._passing = mid_line
        self._begun = bytearray()

    def feed(self, data: bytes) -> list[bytes | DataError]:
        """Return the lines that ``data`` completes; see `Frames`."""
        *whole, rest = data.split(b"\n")
        found: list[bytes | DataError] = []
        for part in whole:
            self._go_on(part, found)
            if not self._passing:
                found.append(bytes(self._begun).removesuffix(b"\r"))
            self._begun.clear()
            self._passing = False
        self._go_on(rest, found)
        return found

    def end(self) -> list[bytes | DataError]:
        """Return the last line, if nothing ends it; see `Frames`."""
        rest = bytes(self._begun).removesuffix(b"\r")
        self._begun.clear()
        return [rest] if rest else []

    def _go_on(self, part: bytes, found: list[bytes | DataError]) -> None:
        """Add to the line that has begun; what grows too long is told once, and passed over."""
        if self._passing:
            return
        if len(self._begun) + len(part) > self._max_bytes:
            self._passing = True
            self._begun.clear()
            found.append(
                DataError(f"a line of more than {self._max_bytes} bytes", where=self._where)
            )
        else:
            self._begun += part


class Lengths:
    """Messages after their length: unsigned, 32 bits, little-endian.

    The length is checked before anything is kept: what claims more than ``max_bytes`` is no
    message of ours, and then nobody knows where the next one begins.
    """

    def __init__(self, *, max_bytes: int, where: str) -> None:
        self._max_bytes = max_bytes
        self._where = where
        self._begun = bytearray()
        self._lost = False

    def feed(self, data: bytes) -> list[bytes | DataError]:
        """Return the messages that ``data`` completes; see `Frames`."""
        if self._lost:
            return []
        self._begun += data
        found: list[bytes | DataError] = []
        at = 0
        while len(self._begun) - at >= _HEAD_BYTES:
            size = int.from_bytes(self._begun[at : at + _HEAD_BYTES], "little")
            if size > self._max_bytes:
                self._lost = True
                self._begun.clear()
                return [*found, self._beyond(size)]
            end = at + _HEAD_BYTES + size
            if len(self._begun) < end:
                break
            found.append(bytes(self._begun[at + _HEAD_BYTES : end]))
            at = end
        del self._begun[:at]
        return found

    def end(self) -> list[bytes | DataError]:
        """Tell of a message that is cut off; see `Frames`."""
        begun, self._begun = len(self._begun), bytearray()
        cut = f"the end comes after {begun} bytes of a message that has more"
        return [DataError(cut, where=self._where)] if begun else []

    def _beyond(self, size: int) -> FramingError:
        return FramingError(
            f"a message of {size} bytes, and max_bytes is {self._max_bytes}: cut off",
            where=self._where,
            hint="each message comes after its length: 4 bytes, unsigned, little-endian",
        )


def frames_of(form: Format, *, max_bytes: int, where: str) -> Frames:
    """Return how messages of that form stand in a stream of bytes."""
    if form in _LINES:
        return Lines(max_bytes=max_bytes, where=where)
    return Lengths(max_bytes=max_bytes, where=where)
