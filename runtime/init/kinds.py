"""Which sources and sinks there are to choose from, and what each has to be told."""

from __future__ import annotations

import re
import shlex
from typing import Any, Literal, NamedTuple, get_args

from ...models.errors import ConfigError
from ...models.manifest import Input
from .hardware import Hardware

SourceKind = Literal[
    "replay", "folder", "video", "images", "audio", "serial", "mqtt", "socket", "stdin"
]
SOURCE_KINDS: tuple[SourceKind, ...] = get_args(SourceKind)
SINK_KINDS = ("jsonl", "terminal", "mqtt", "sqlite", "http", "command")
_OF_SAMPLES: tuple[SourceKind, ...] = ("replay", "folder")
_LIVE: dict[str, tuple[SourceKind, ...]] = {
    "image": ("video", "images", "mqtt", "socket", "stdin"),
    "audio": ("audio",),
    "tensor": ("serial", "mqtt", "socket", "stdin"),
    "text": ("stdin", "socket", "mqtt", "serial"),
}
_WHAT = {
    "replay": "the rows of an .npz",
    "folder": "a folder of .npy samples",
    "video": "a camera, an rtsp:// address or a film",
    "images": "a folder that pictures are put into",
    "audio": "a microphone or a sound file",
    "serial": "a sensor on a serial port",
    "mqtt": "messages of a topic",
    "socket": "programs that write to a Unix socket",
    "stdin": "standard input",
}
_FORMATS = {"image": "image", "text": "text"}
_SECRET = re.compile(r"^[a-z0-9+.-]+://[^/@]*:[^/@]+@", re.IGNORECASE)


class Need(NamedTuple):
    """The one thing that a kind of source has to be told: a question, a key and its flag."""

    question: str
    key: str
    flag: str


_NEEDS = {
    "replay": Need("The samples, an .npz", "path", "--path FILE"),
    "folder": Need("The folder of samples", "path", "--path FOLDER"),
    "video": Need("The camera's address or device, or a film", "url", "--url URL"),
    "images": Need("The folder of pictures", "path", "--path FOLDER"),
    "audio": Need("The microphone, by ALSA's name", "device", "--device NAME"),
    "serial": Need("The serial port", "port", "--port DEVICE"),
    "mqtt": Need("The topic", "topic", "--topic FILTER"),
    "socket": Need("Where to listen, a path", "path", "--path PATH"),
}
TAKES: dict[str, tuple[str, ...]] = {
    "replay": ("path", "rate_hz"),
    "folder": ("path", "rate_hz"),
    "video": ("url", "pipeline", "rate_hz", "password_file"),
    "images": ("path",),
    "audio": ("device", "path"),
    "serial": ("port", "baud", "format", "fields"),
    "mqtt": ("topic", "format", "fields"),
    "socket": ("path", "format", "fields"),
    "stdin": ("format", "fields"),
}
"""By kind of source, which of the flags' keys it takes."""


def sources_for(spec: Input) -> tuple[SourceKind, ...]:
    """Return the kinds of sources that can feed samples of ``spec``, the likeliest first."""
    live = _LIVE[spec.kind] if getattr(spec, spec.kind) is not None else ()
    return (*live, *_OF_SAMPLES)


def source_kind(text: str, spec: Input, *, where: str) -> SourceKind:
    """Return the kind of source of that name.

    Raises:
        ConfigError: there is none, or it gives nothing that the bundle takes.
    """
    suiting = sources_for(spec)
    for kind in suiting:
        if kind == text:
            return kind
    hint = f"one of {', '.join(suiting)}"
    if text not in _WHAT:
        raise ConfigError(f"{text!r} is no kind of source", where="--source", hint=hint)
    if text in _LIVE[spec.kind]:
        raise ConfigError(
            f"the bundle has no [input.{spec.kind}], so nothing says how what {text} gives "
            "becomes a sample",
            where=where,
            hint=f"add that table to its manifest, or take {' or '.join(suiting)}",
        )
    what = {"image": "pictures", "audio": "sound", "tensor": "numbers", "text": "text"}[spec.kind]
    raise ConfigError(f"the bundle takes {what}, not {_WHAT[text]}", where="--source", hint=hint)


def offers_of_kinds(spec: Input) -> list[tuple[str, str]]:
    """Return the kinds that suit, each with what it is."""
    return [(kind, _WHAT[kind]) for kind in sources_for(spec)]


def need_of(kind: SourceKind) -> Need | None:
    """Return what that kind has to be told; None: nothing."""
    return _NEEDS.get(kind)


def format_for(kind: SourceKind, spec: Input) -> str | None:
    """Return the format that goes with the bundle, where the kind's default does not."""
    return _FORMATS.get(spec.kind) if "format" in TAKES[kind] else None


def found_for(kind: SourceKind, hardware: Hardware) -> list[tuple[str, str]]:
    """Return what this machine has for that kind: each with its name."""
    match kind:
        case "video":
            cameras = ((one.url or one.pipeline or "", one) for one in hardware.cameras)
            return [(way, f"{one.name} {one.note or ''}".strip()) for way, one in cameras]
        case "audio":
            return [(one.device, one.name) for one in hardware.sound_cards]
        case "serial":
            return [(one.port, one.name) for one in hardware.serial_ports]
        case _:
            return []


def sink_of(text: str) -> dict[str, Any]:
    """Return the table of a sink, given as KIND or KIND=WHAT.

    Raises:
        ConfigError: there is no such kind, or it has to be told something else.
    """
    kind, _, what = text.partition("=")
    where = f"--sink {kind}"
    match kind:
        case "jsonl" | "sqlite":
            named = {"jsonl": "outcomes.jsonl", "sqlite": "outcomes.db"}[kind]
            return {"kind": kind, "path": what or named}
        case "http":
            return {"kind": kind, **({"listen": what} if what else {})}
        case "command":
            try:
                words = shlex.split(what)
            except ValueError as error:
                raise ConfigError(f"cannot be split into words: {error}", where=where) from error
            if not words:
                raise ConfigError("which program?", where=where, hint='command="notify {label}"')
            return {"kind": kind, "argv": words}
        case "terminal" | "mqtt":
            if what:
                raise ConfigError(f"takes nothing, not {what!r}", where=where)
            return {"kind": kind}
    hint = f"one of {', '.join(SINK_KINDS)}"
    raise ConfigError(f"{kind!r} is no kind of sink", where="--sink", hint=hint)


def without_secret(url: str, *, flag: str) -> str:
    """Return a URL as it is, if no password stands in it.

    Raises:
        ConfigError: one does, and would be read by whoever reads the file.
    """
    if _SECRET.match(url):
        raise ConfigError(
            "a password does not belong into a URL, which others can read",
            where=flag.partition(" ")[0],
            hint="put it into a file (chmod 600) and name that by --source-password-file, or "
            "--password-file for the broker",
        )
    return url
