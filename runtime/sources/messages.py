"""Messages: from bytes to captures, by their form and the bundle's `[input]`.

What a message may be, by the bundle's kind of input and the source's ``format``:

========  ========  ==========================================================================
tensor    json      an object, whose members named by ``fields`` are a row; a list, one row; a
                    list of objects or of lists, several rows. With one channel a list is as
                    many rows, and a bare number one.
          csv       lines of numbers, a row each, parted by commas, semicolons, tabs or blanks;
                    ``fields`` picks columns. No header.
          tensor    whole rows, one after the other: of each row all channels in the bundle's
                    order, in the bundle's dtype (float32 where [input.tensor] has ``scale`` or
                    ``offset``), little-endian. So rows of a window lie as with layout "TC",
                    whatever the bundle's layout is.
audio     tensor    float32, little-endian: mono sound at the bundle's rate, in [-1, 1)
text      text      UTF-8, a line each
          json      a string, or an object with one named "text", or as ``fields`` says
image     image     a picture: JPEG, PNG and what else Pillow reads
========  ========  ==========================================================================

Blank lines are nothing. A message that is no good is one failed capture, and a gap: the window
that it falls into is begun anew.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...models.errors import ConfigError, DataError
from ...models.manifest import Input, TensorInput
from .options import Format
from .source import Captured
from .windows import Windows

_AT_ONCE = 64  # captures of one `Inbox.take`
_EXCERPT = 40
_DEEP = "nested too deep"
_FORMS = {
    "tensor": '"json", "csv" or "tensor"',
    "audio": '"tensor"',
    "text": '"text" or "json"',
    "image": '"image"',
}
Read = Callable[[bytes, str], "NDArray[Any] | None"]
"""What a message holds, and None where that is nothing; told where it comes from."""


class Messages:
    """How the messages of one stream are read.

    ``fields`` and ``hop`` are as the source's options say them, ``max_pixels`` bounds a picture.

    Raises:
        ConfigError: the bundle takes nothing of that form, or the options do not fit.
    """

    def __init__(
        self,
        form: Format,
        spec: Input,
        *,
        fields: Sequence[str] | None = None,
        hop: int | None = None,
        max_pixels: int = 1 << 25,
    ) -> None:
        self._spec = spec
        self._hop = hop
        self._read = _reader(form, spec, fields=fields, max_pixels=max_pixels)
        if hop is not None and spec.kind not in {"tensor", "audio"}:
            raise ConfigError(f"a bundle of {spec.kind} has no windows", where="source.hop")

    def series(self, *, where: str, meta: Mapping[str, Any] | None = None) -> Series:
        """Return what reads the messages of one sender; windows are cut of its rows alone."""
        told = dict(meta or {})
        audio, windows = self._spec.audio, None
        if self._spec.kind == "tensor":
            table = _tensor(self._spec)
            hop = self._hop or table.hop
            windows = Windows(table.rows, hop, channels=len(table.channels))
        elif audio is not None and self._spec.kind == "audio":
            hop, rate_hz = self._hop or audio.hop, audio.sample_rate_hz
            windows = Windows(audio.samples, hop, channels=None, period_ns=1e9 / rate_hz)
            told["sample_rate_hz"] = rate_hz
        return Series(self._read, windows, where=where, meta=told or None)


class Series:
    """The messages of one sender, in order; see `Messages`."""

    def __init__(
        self, read: Read, windows: Windows | None, *, where: str, meta: dict[str, Any] | None
    ) -> None:
        self._read = read
        self._windows = windows
        self._where = where
        self._meta = meta

    def captures(self, message: bytes, taken_at_ns: int) -> Iterator[Captured]:
        """Return what a message holds, or completes; it is cut as it is asked for.

        Raises:
            DataError: it is no good. Rows that come after it begin a new window.
        """
        try:
            data = self._read(message, self._where)
        except DataError:
            self.reset()
            raise
        return iter(()) if data is None else self._cut(data, taken_at_ns)

    def reset(self) -> None:
        """Begin a new window: something is missing here."""
        if self._windows is not None:
            self._windows.reset()

    def _cut(self, data: NDArray[Any], taken_at_ns: int) -> Iterator[Captured]:
        if self._windows is None:
            yield Captured(data, taken_at_ns, self._meta)
            return
        for window, at_ns in self._windows.cut(data, taken_at_ns):
            yield Captured(window, at_ns, self._meta)


class Inbox:
    """Messages that have come and are not read yet; as many as its owner puts there."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Series, bytes | DataError, int]] = deque()
        self._current: Iterator[Captured] = iter(())
        self._error: DataError | None = None
        self._more = False

    def __bool__(self) -> bool:
        return self._more or bool(self._waiting)

    def put(self, series: Series, message: bytes | DataError, taken_at_ns: int) -> None:
        """Add a message, or what is wrong where one should be."""
        self._waiting.append((series, message, taken_at_ns))

    def take(self) -> list[Captured]:
        """Return the next captures, a few at a time; none: all messages are read.

        Raises:
            DataError: what comes next is no good.
        """
        found: list[Captured] = []
        try:
            while True:
                self._fail()
                found += islice(self._current, _AT_ONCE - len(found))
                self._more = len(found) >= _AT_ONCE
                if self._more or not self._waiting:
                    return found
                self._begin()
        except DataError as error:
            if not found:
                raise
            self._error, self._more = error, True
            return found

    def _begin(self) -> None:
        series, message, taken_at_ns = self._waiting.popleft()
        if isinstance(message, DataError):
            series.reset()
            raise message
        self._current = series.captures(message, taken_at_ns)

    def _fail(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            self._more = False
            raise error


def _tensor(spec: Input) -> TensorInput:
    if spec.tensor is None:
        raise ConfigError(
            "the bundle's manifest has no [input.tensor], which names the channels",
            where="source.format",
        )
    return spec.tensor


def _reader(form: Format, spec: Input, *, fields: Sequence[str] | None, max_pixels: int) -> Read:
    """Return what reads a message of that form for a bundle of that kind."""
    if fields is not None and form not in {"json", "csv"}:
        raise ConfigError(f"the format {form!r} has no fields", where="source.fields")
    read: Read
    match spec.kind, form:
        case "tensor", "json":
            read = functools.partial(_json_rows, _named(spec, fields))
        case "tensor", "csv":
            read = functools.partial(_csv_rows, len(_tensor(spec).channels), _columns(spec, fields))
        case "tensor", "tensor":
            read = functools.partial(_raw_rows, len(_tensor(spec).channels), _raw_dtype(spec))
        case "audio", "tensor":
            read = _sound
        case "text", "text":
            read = _text
        case "text", "json":
            if fields is not None and len(fields) != 1:
                raise ConfigError("one name is wanted, that of the text", where="source.fields")
            read = functools.partial(_json_text, "text" if fields is None else fields[0])
        case "image", "image":
            read = functools.partial(_picture, max_pixels)
        case _:
            raise ConfigError(
                f"the bundle takes {spec.kind}, which no message of the format {form!r} holds",
                where="source.format",
                hint=f"format = {_FORMS[spec.kind]}",
            )
    return read


def _named(spec: Input, fields: Sequence[str] | None) -> tuple[str, ...]:
    """Return the members of an object that are the channels."""
    channels = _tensor(spec).channels
    if fields is not None and len(fields) != len(channels):
        raise ConfigError(
            f"{len(fields)} fields for {len(channels)} channels",
            where="source.fields",
            hint=f"one each for {_some(channels)}",
        )
    return channels if fields is None else tuple(fields)


def _columns(spec: Input, fields: Sequence[str] | None) -> tuple[int, ...] | None:
    """Return the columns of a line that are the channels; None: all, as they come."""
    if fields is None:
        return None
    wrong = [one for one in fields if not (one.isascii() and one.isdigit() and len(one) <= 4)]
    if wrong:
        raise ConfigError(
            f"{_excerpt(wrong[0])} is no column's number",
            where="source.fields",
            hint='columns are counted from 0: fields = ["1", "2"]',
        )
    return tuple(int(one) for one in _named(spec, fields))


def _json(message: bytes, where: str) -> Any:  # noqa: ANN401 -- whatever it holds
    try:
        return msgspec.json.decode(message)
    except (ValueError, RecursionError) as error:  # msgspec's own and Unicode's are ValueErrors
        why = _DEEP if isinstance(error, RecursionError) else str(error)
        raise DataError(f"no JSON: {_excerpt(message)}: {why}", where=where) from error


def _json_rows(names: tuple[str, ...], message: bytes, where: str) -> NDArray[Any] | None:
    """Return rows (n, channels) float32."""
    if not message.strip():
        return None
    found = _json(message, where)
    if len(names) == 1 and isinstance(found, int | float):
        found = [found]
    if isinstance(found, dict):
        found = [found]
    if not isinstance(found, list) or not found:
        raise DataError("neither an object nor a list of numbers", where=where)
    if all(isinstance(one, dict) for one in found):
        rows = [_members(one, names, where) for one in found]
    elif all(isinstance(one, list) for one in found):
        rows = found
    else:
        rows = [[one] for one in found] if len(names) == 1 else [found]
    for row in rows:
        if len(row) != len(names):
            raise _miscounted(len(row), len(names), where)
        if not {*map(type, row)} <= {int, float}:
            wrong = next(one for one in row if type(one) not in {int, float})
            raise DataError(f"{_excerpt(wrong)} is no number", where=where)
    return _finite(rows, where)


def _members(one: dict[str, Any], names: tuple[str, ...], where: str) -> list[Any]:
    try:
        return [one[name] for name in names]
    except KeyError as error:
        raise DataError(
            f"has no {_excerpt(error.args[0])}",
            where=where,
            hint=f"it has {_some(one)}; see the source's fields",
        ) from error


def _csv_rows(
    channels: int, columns: tuple[int, ...] | None, message: bytes, where: str
) -> NDArray[Any] | None:
    """Return rows (n, channels) float32."""
    try:
        text = message.decode("ascii")
    except UnicodeDecodeError as error:
        what = f"no line of numbers: {_excerpt(message)}"
        raise DataError(what, where=where, hint="is its baud rate or format another?") from error
    lines = [line for line in text.split("\n") if line and not line.isspace()]
    if not lines:
        return None
    return _finite([_cells(line, channels, columns, where) for line in lines], where)


def _cells(line: str, channels: int, columns: tuple[int, ...] | None, where: str) -> list[float]:
    parting = next((one for one in (",", ";") if one in line), None)
    cells = line.split(parting)
    if columns is not None:
        if max(columns) >= len(cells):
            what = f"a line of {len(cells)} columns has no column {max(columns)}"
            raise DataError(f"{what}: {_excerpt(line)}", where=where)
        cells = [cells[at] for at in columns]
    elif len(cells) != channels:
        raise _miscounted(len(cells), channels, where)
    try:
        if "_" not in line:  # which Python takes for a part of a number
            return [float(cell) for cell in cells]
        return [float(cell.replace("_", "?")) for cell in cells]
    except ValueError as error:
        headed = line.lstrip("\"' ")[:1].isalpha()
        what = "a header line, no numbers" if headed else "no line of numbers"
        raise DataError(f"{what}: {_excerpt(line)}", where=where) from error


def _raw_dtype(spec: Input) -> np.dtype[Any]:
    table = _tensor(spec)
    scaled = table.scale is not None or table.offset is not None
    found: np.dtype[Any] = np.dtype("float32" if scaled else spec.dtype).newbyteorder("<")
    return found


def _raw_rows(
    channels: int, dtype: np.dtype[Any], message: bytes, where: str
) -> NDArray[Any] | None:
    """Return rows (n, channels) float32."""
    row_bytes = channels * dtype.itemsize
    if not message or len(message) % row_bytes:
        raise DataError(
            f"{len(message)} bytes are no whole rows",
            where=where,
            hint=f"a row is {channels} {dtype.name}: {row_bytes} bytes",
        )
    return _finite(np.frombuffer(message, dtype).reshape(-1, channels), where)


def _sound(message: bytes, where: str) -> NDArray[Any] | None:
    """Return sound (n,) float32."""
    if not message or len(message) % 4:
        raise DataError(f"{len(message)} bytes are no sound in float32", where=where)
    return _finite(np.frombuffer(message, "<f4"), where)


def _text(message: bytes, where: str) -> NDArray[Any] | None:
    """Return UTF-8 (n,) uint8."""
    try:
        message.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"no UTF-8: {_excerpt(message)}", where=where) from error
    line = message.rstrip(b"\r\n")
    return np.frombuffer(line, np.uint8) if line.strip() else None


def _json_text(name: str, message: bytes, where: str) -> NDArray[Any] | None:
    """Return UTF-8 (n,) uint8."""
    if not message.strip():
        return None
    found = _json(message, where)
    if isinstance(found, dict):
        (found,) = _members(found, (name,), where)
    if not isinstance(found, str):
        raise DataError(f"{_excerpt(found)} is no text", where=where)
    return np.frombuffer(found.encode(), np.uint8) if found.strip() else None


def _picture(max_pixels: int, message: bytes, where: str) -> NDArray[Any] | None:
    """Return a picture (height, width, 3) uint8 in RGB."""
    from .pictures import decode_picture  # noqa: PLC0415 -- needs an extra

    return decode_picture(message, max_pixels=max_pixels, where=where)


def _finite(rows: Any, where: str) -> NDArray[np.float32]:  # noqa: ANN401 -- what an array can be made of
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            found = np.array(rows, np.float64).astype(np.float32)
    except OverflowError as error:
        raise DataError("a number that is too large", where=where) from error
    if not np.isfinite(found).all():
        raise DataError("a number that is not finite, or too large for float32", where=where)
    return found


def _miscounted(count: int, channels: int, where: str) -> DataError:
    return DataError(f"a row of {count} values; the bundle has {channels} channels", where=where)


def _some(names: Sequence[str] | Mapping[str, Any]) -> str:
    """Return a few names for people."""
    few = ", ".join(_excerpt(one) for one in islice(names, 8))
    return f"{few} and more" if len(names) > 8 else few or "nothing"


def _excerpt(what: object) -> str:
    """Return the beginning of what came, in printable ASCII."""
    part = what[: _EXCERPT + 1] if isinstance(what, bytes | str) else what
    text = ascii(part)
    return text if len(text) <= _EXCERPT + 3 else f"{text[:_EXCERPT]}…"
