"""From flags, answers and what was found to a configuration, not yet written."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from ...models.bundle import SUFFIX, Bundle, load_bundle
from ...models.errors import ConfigError
from ...models.manifest import Name
from ...models.toml import to_record
from ...uplink.link.broker_url import Broker
from ..checks.places import why_no_folder
from ..config import Config, Device
from ..shipped import bundle_path
from ..sources.opening import is_file
from .asking import Ask
from .commented import commented
from .hardware import Hardware
from .kinds import (
    TAKES,
    SourceKind,
    format_for,
    found_for,
    need_of,
    offers_of_kinds,
    sink_of,
    source_kind,
    sources_for,
    without_secret,
)

_SHIPPED = "digits"
_MAX_OFFERS = 9
_STREAMS: dict[SourceKind, str] = {
    "video": "camera",
    "images": "pictures",
    "audio": "sound",
    "serial": "sensor",
    "mqtt": "topic",
    "socket": "programs",
    "stdin": "lines",
}


class Wishes(Struct, frozen=True, kw_only=True):
    """What the flags say; None: nothing. Relative paths begin where the command is called."""

    name: str | None = None
    site: str | None = None
    state_dir: str | None = None
    stream: str | None = None
    bundle: str | None = None
    source: str | None = None
    url: str | None = None
    pipeline: str | None = None
    device: str | None = None
    port: str | None = None
    topic: str | None = None
    path: str | None = None
    format: str | None = None
    fields: tuple[str, ...] | None = None
    baud: int | None = None
    rate_hz: float | None = None
    source_password_file: str | None = None
    broker: str | None = None
    password_file: str | None = None
    sink: tuple[str, ...] = ()


_OF_SOURCE = (
    *("url", "pipeline", "device", "port", "topic", "path"),
    *("format", "fields", "baud", "rate_hz"),
)
_PLACES = ("url", "pipeline", "device", "port", "topic", "path")


class Draft(Struct, frozen=True, kw_only=True):
    """A configuration, and the text that says it."""

    config: Config
    text: str


def draft(wishes: Wishes, hardware: Hardware, ask: Ask, *, base: Path) -> Draft:
    """Return the configuration that is wished for, to be written into the folder ``base``.

    Raises:
        HedgeError: something is missing, or cannot be.
    """
    name = _given(wishes.name, ask, "The device's name", flag="--name NAME", default=_host())
    shown, bundle = _bundle(wishes, ask)
    kind = _kind(wishes, bundle, ask)
    source = _source(wishes, kind, bundle, hardware, ask, base=base)
    uplink = _uplink(wishes, ask, base=base, needed=kind == "mqtt")
    site = {} if wishes.site is None else {"site": wishes.site}
    document: dict[str, Any] = {
        "device": {"name": name, **site, "state_dir": _state_dir(wishes, base=base)},
        "stream": [
            {
                "name": wishes.stream or _STREAMS.get(kind, kind),
                "bundle": _placed(shown, base=base) if Path(shown).exists() else shown,
                "source": source,
            }
        ],
        **({} if uplink is None else {"uplink": uplink}),
        "sink": _sinks(wishes, ask, base=base, has_broker=uplink is not None),
    }
    config = to_record(document, Config, where="hedge init", error=ConfigError)
    examples = {"pin": bundle.digest, "variant": bundle.manifest.edge[0].name}
    text = commented(config, labels=bundle.labels, examples=examples)
    return Draft(config=config, text=text)


def _given(value: str | None, ask: Ask, question: str, *, flag: str, default: str | None) -> str:
    """Return a name, by its flag or by asking for it."""

    def accept(text: str) -> str:
        try:
            return msgspec.convert(text, Name)
        except msgspec.ValidationError as error:
            where = flag.partition(" ")[0]
            hint = "a-z, 0-9, _ and -, at most 64"
            raise ConfigError(f"{text!r} is no name", where=where, hint=hint) from error

    return accept(value) if value else ask(question, flag=flag, accept=accept, default=default)


def _bundle(wishes: Wishes, ask: Ask) -> tuple[str, Bundle]:
    def accept(text: str) -> tuple[str, Bundle]:
        bundle = load_bundle(bundle_path(text))
        if not bundle.manifest.edge:
            raise ConfigError(
                "has no edge model: a device asks the far end about all that its filters let pass",
                where=text,
                hint="that stream is written by hand, with an [uplink], as in docs/split.md; "
                "hedge check then tells what is missing",
            )
        return text, bundle

    if wishes.bundle is not None:
        return accept(wishes.bundle)
    there = sorted(str(one) for one in Path().glob(f"*{SUFFIX}"))[:_MAX_OFFERS]
    offers = [*((one, "") for one in there), (_SHIPPED, "ships with hedge, to try it out")]
    return ask("The model, a bundle", flag="--bundle BUNDLE", accept=accept, offers=offers)


def _kind(wishes: Wishes, bundle: Bundle, ask: Ask) -> SourceKind:
    def accept(text: str) -> SourceKind:
        return source_kind(text, bundle.input, where=str(bundle.path))

    if wishes.source is not None:
        return accept(wishes.source)
    told = {key for key in _PLACES if getattr(wishes, key) is not None}
    if told:
        able = [kind for kind in sources_for(bundle.input) if told <= _takes(kind)]
        if "folder" in able and str(wishes.path).endswith(".npz"):
            return "replay"
        if len(able) == 1:
            return able[0]
    return ask(
        "Where samples come from",
        flag="--source KIND",
        accept=accept,
        offers=offers_of_kinds(bundle.input),
    )


def _takes(kind: SourceKind) -> set[str]:
    return {*TAKES[kind], *(("device",) if kind == "video" else ())}


def _source(
    wishes: Wishes,
    kind: SourceKind,
    bundle: Bundle,
    hardware: Hardware,
    ask: Ask,
    *,
    base: Path,
) -> dict[str, Any]:
    """Return the source's table: what the flags say, and what has to be asked for."""
    told = {key: getattr(wishes, key) for key in _OF_SOURCE if getattr(wishes, key) is not None}
    if wishes.source_password_file is not None:
        told["password_file"] = _placed(wishes.source_password_file, base=base)
    if kind == "video" and "url" not in told and "device" in told:
        told["url"] = told.pop("device")
    for key in told:
        if key not in TAKES[kind]:
            flag = "source-password-file" if key == "password_file" else key.replace("_", "-")
            raise ConfigError(f"is nothing for a source of kind {kind}", where=f"--{flag}")
    told.update(_place(told, kind, hardware, ask))
    for key in ("path", "url"):
        if key in told and is_file(told[key]):
            told[key] = _placed(told[key], base=base)
    form = format_for(kind, bundle.input)
    if form is not None:
        told.setdefault("format", form)
    return {"kind": kind, **told}


def _place(told: dict[str, Any], kind: SourceKind, hardware: Hardware, ask: Ask) -> dict[str, str]:
    """Return where the source is, if nothing told says it."""
    need = need_of(kind)
    if "url" in told:
        without_secret(told["url"], flag="--url")
    if need is None or any(key in told for key in _PLACES):
        return {}
    offers = found_for(kind, hardware)
    only = offers[0][0] if len(offers) == 1 else None
    found = ask(
        need.question,
        flag=need.flag,
        accept=lambda text: without_secret(text, flag=need.flag),
        default=only,
        offers=offers,
    )
    piped = any(found == one.pipeline for one in hardware.cameras)
    return {"pipeline" if piped else need.key: found}


def _uplink(wishes: Wishes, ask: Ask, *, base: Path, needed: bool) -> dict[str, Any] | None:
    def accept(text: str) -> str:
        if text:
            Broker.parse(text)
        return text

    if wishes.broker is not None:
        broker = accept(wishes.broker)
    else:
        broker = ask(
            "The MQTT broker, like mqtt://host",
            flag="--broker URL",
            accept=accept,
            default=None if needed else "",
        )
    if not broker:
        if wishes.password_file is not None:
            raise ConfigError("for which broker?", where="--password-file", hint="--broker URL")
        return None
    if wishes.password_file is None:
        return {"broker": broker}
    return {"broker": broker, "password_file": _placed(wishes.password_file, base=base)}


def _sinks(wishes: Wishes, ask: Ask, *, base: Path, has_broker: bool) -> list[dict[str, Any]]:
    def accept(text: str) -> list[dict[str, Any]]:
        parts = [text] if text.startswith("command=") else text.split(",")
        return [sink_of(part.strip()) for part in parts]

    if wishes.sink:
        found = [sink_of(one) for one in wishes.sink]
    else:
        found = ask(
            "Where outcomes go, as KIND or KIND=PLACE",
            flag="--sink KIND",
            accept=accept,
            default="jsonl",
            offers=[
                ("jsonl", "a file of JSON lines"),
                ("terminal", "standard output"),
                ("sqlite", "a database file"),
                ("http", "for programs on this machine that ask"),
                ("mqtt", "the broker, as topics"),
            ],
        )
    for one in found:
        if one["kind"] == "mqtt" and not has_broker:
            raise ConfigError("needs a broker", where="--sink mqtt", hint="give --broker URL")
        if "path" in one and any(given.partition("=")[2] for given in wishes.sink):
            one["path"] = _placed(one["path"], base=base)
    return found


def _state_dir(wishes: Wishes, *, base: Path) -> str:
    """Return where state is kept: the system's place where this user may write there."""
    if wishes.state_dir is not None:
        return _placed(wishes.state_dir, base=base)
    system = next(
        str(one.default) for one in msgspec.structs.fields(Device) if one.name == "state_dir"
    )
    return system if why_no_folder(Path(system)) is None else "state"


def _host() -> str | None:
    """Return this machine's name as a device may be called; None: it has no such name."""
    name = socket.gethostname().partition(".")[0].lower()
    return re.sub(r"[^a-z0-9_-]+", "-", name).strip("-")[:64] or None


def _placed(path: str, *, base: Path) -> str:
    """Return a path that was given from here as the file in the folder ``base`` has to say it."""
    if Path(path).is_absolute() or base.resolve() == Path.cwd():
        return path
    return str(Path(path).absolute())
