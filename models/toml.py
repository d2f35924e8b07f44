"""TOML to frozen records and back, with messages that name the file and the key."""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from .errors import HedgeError, MissingExtraError

Record = TypeVar("Record", bound=msgspec.Struct)

_tomllib: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")


def read_toml(data: bytes, kind: type[Record], *, where: str, error: type[HedgeError]) -> Record:
    """Return the TOML document ``data`` as a record of ``kind``.

    Raises:
        HedgeError: of class ``error``; its ``where`` is ``FILE: $.dotted.key``.
    """
    return to_record(parse_toml(data, where=where, error=error), kind, where=where, error=error)


def parse_toml(data: bytes, *, where: str, error: type[HedgeError]) -> dict[str, Any]:
    """Return the TOML document ``data`` as plain dicts, lists and scalars."""
    try:
        document: dict[str, Any] = _tomllib.loads(data.decode())
    except UnicodeDecodeError as caught:
        raise error(f"byte {caught.start} is not UTF-8", where=where) from caught
    except _tomllib.TOMLDecodeError as caught:
        raise error(f"not TOML: {caught}", where=where) from caught
    except RecursionError as caught:
        raise error("nested too deeply", where=where) from caught
    return document


_type_info = functools.cache(inspect.type_info)  # takes milliseconds, and never changes


def to_record(
    document: dict[str, Any], kind: type[Record], *, where: str, error: type[HedgeError]
) -> Record:
    """Return ``document`` as a record of ``kind``; unknown keys get the nearest known one."""
    for path, what, hint in _mistakes(document, _type_info(kind), "$"):
        key = path if path.isprintable() else ascii(path)
        raise error(what, where=f"{where}: {key}", hint=hint)
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as caught:
        what, _, path = str(caught).partition(" - at `")
        raise error(what, where=f"{where}: {path.rstrip('`') or '$'}") from caught


def write_toml(record: msgspec.Struct) -> bytes:
    """Return a record as TOML, without what is None or empty.

    Raises:
        MissingExtraError: `tomli_w` is not installed.
    """
    if importlib.util.find_spec("tomli_w") is None:
        raise MissingExtraError("tomli_w", extra="bundle")
    text: str = importlib.import_module("tomli_w").dumps(_lean(msgspec.to_builtins(record)))
    return text.encode()


def _lean(value: Any) -> Any:  # noqa: ANN401  TOML has no better type
    """Drop None and empty lists, for which TOML has no use, all the way down."""
    match value:
        case dict():
            return {key: _lean(item) for key, item in value.items() if item not in (None, [], ())}
        case list() | tuple():
            return [_lean(item) for item in value]
        case _:
            return value


def _mistakes(raw: object, kind: inspect.Type, path: str) -> Iterator[tuple[str, str, str]]:
    """Yield (path, what, hint) for each unknown key and each value outside a fixed choice."""
    match kind, raw:
        case inspect.UnionType(), _:
            yield from _mistakes_of_union(raw, kind, path)
        case inspect.StructType(), dict():
            fields = {field.encode_name: field.type for field in kind.fields}
            known = [*fields, *([kind.tag_field] if kind.tag_field else [])]
            for key in raw:
                if key in fields:
                    yield from _mistakes(raw[key], fields[key], f"{path}.{key}")
                elif key not in known:
                    yield f"{path}.{key}", "unknown key", _nearest(key, known)
        case inspect.VarTupleType() | inspect.ListType(), list():
            for place, item in enumerate(raw):
                yield from _mistakes(item, kind.item_type, f"{path}[{place}]")
        case inspect.LiteralType(), str() if raw not in kind.values:
            yield path, f"{raw!r} is not a choice", _nearest(raw, kind.values)
        case inspect.Metadata(), _:
            yield from _mistakes(raw, kind.type, path)


def _mistakes_of_union(
    raw: object, kind: inspect.UnionType, path: str
) -> Iterator[tuple[str, str, str]]:
    """Look into the option that is meant: the only one, or the one named by its tag."""
    options = [option for option in kind.types if not isinstance(option, inspect.NoneType)]
    tags = {o.tag: o for o in options if isinstance(o, inspect.StructType) and o.tag_field}
    if len(options) == 1:
        yield from _mistakes(raw, options[0], path)
    elif tags and isinstance(raw, dict):
        field = str(next(iter(tags.values())).tag_field)
        tag = raw.get(field)
        if isinstance(tag, str) and tag in tags:
            yield from _mistakes(raw, tags[tag], path)
        elif isinstance(tag, str):
            yield f"{path}.{field}", f"{tag!r} is not a choice", _nearest(tag, tags)


def _nearest(word: str, known: Iterable[object]) -> str:
    names = [str(name) for name in known]
    near = difflib.get_close_matches(word, names, n=1)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names)}"
