"""Where the broker is, as one URL.

``scheme://[user@]host[:port][,host[:port]…][/path][?version=5|3.1.1]``: ``mqtt``, ``mqtts``,
``ws`` and ``wss``, the last two over WebSocket. Of several hosts, the nodes of one cluster,
each is tried in turn. The user is percent-encoded, if need be; a path is for WebSocket only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple, get_args
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from msgspec import Struct

from ...models.errors import ConfigError

Version = Literal["5", "3.1.1"]
_PORTS = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}
_PATH = "/mqtt"  # what EMQX, HiveMQ and most others serve; mosquitto takes any
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<places>[^/?#]*)(?P<rest>.*)")
_HINT = "mqtt://host:port, mqtts://host:port, ws://host:port/path or wss://host:port/path"
_PASSWORD = "HEDGE_BROKER_PASSWORD"  # noqa: S105 -- the variable's name, not a password


class Place(NamedTuple):
    """One node's address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Broker(Struct, frozen=True, kw_only=True):
    """A broker's address.

    ``path`` is that of its WebSocket; None: plain TCP. ``version`` None: MQTT 5, and 3.1.1
    where that is refused.
    """

    places: tuple[Place, ...]
    tls: bool = False
    path: str | None = None
    username: str | None = None
    version: Version | None = None

    @classmethod
    def parse(cls, url: str) -> Broker:
        """Read a URL.

        Raises:
            ConfigError: another scheme, no host, or a part that does not belong there; a
                password above all, which every process list would show.
        """
        found = _URL.fullmatch(url)
        if found is None:
            raise ConfigError("not a broker's URL", where="broker", hint=_HINT)
        user, _, hosts = found["places"].rpartition("@")
        try:
            parts = urlsplit(f"{found['scheme']}://-{found['rest']}")
        except ValueError as error:
            raise ConfigError(f"no URL: {error}", where="broker") from error
        where = f"{parts.scheme}://{hosts}"
        if ":" in user:
            raise ConfigError(
                "a password does not belong into a URL",
                where=where,
                hint=f"put it into a file or into {_PASSWORD}",
            )
        if parts.scheme not in _PORTS or parts.fragment:
            raise ConfigError("not a broker's URL", where=where, hint=_HINT)
        return cls(
            places=tuple(_place(one, parts.scheme, where=where) for one in hosts.split(",")),
            tls=parts.scheme in {"mqtts", "wss"},
            path=_path(parts, where=where),
            username=unquote(user) or None,
            version=_version(parts, where=where),
        )

    def __str__(self) -> str:
        scheme = ("mqtt" if self.path is None else "ws") + ("s" if self.tls else "")
        return f"{scheme}://{','.join(map(str, self.places))}{self.path or ''}"


def read_password(file: Path | None, *, environ: Mapping[str, str]) -> str | None:
    """Return the password from ``file``, else from HEDGE_BROKER_PASSWORD, else None.

    Raises:
        ConfigError: the file cannot be read.
    """
    if file is None:
        return environ.get(_PASSWORD)
    try:
        return file.read_text("utf-8").rstrip("\r\n")
    except OSError as error:
        what = f"the password cannot be read: {error.strerror}"
        raise ConfigError(what, where=str(file)) from error
    except UnicodeDecodeError as error:
        raise ConfigError("the password is not UTF-8", where=str(file)) from error


def _place(text: str, scheme: str, *, where: str) -> Place:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"no URL: {error}", where=where) from error
    if not host or port == 0:
        raise ConfigError("not a broker's URL", where=where, hint=_HINT)
    return Place(host, _PORTS[scheme] if port is None else port)


def _path(parts: SplitResult, *, where: str) -> str | None:
    """Return the path of a WebSocket, which goes into a request's first line as it is."""
    if parts.scheme not in {"ws", "wss"}:
        if parts.path.strip("/"):
            raise ConfigError("a path is for ws:// and wss://", where=where, hint=_HINT)
        return None
    if not re.fullmatch("[!-~]*", parts.path):
        raise ConfigError("a path has to be percent-encoded", where=where)
    return parts.path or _PATH


def _version(parts: SplitResult, *, where: str) -> Version | None:
    found: Version | None = None
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        if key != "version" or value not in get_args(Version):
            raise ConfigError(
                f"{key}={value} is not known", where=where, hint="version=5 or version=3.1.1"
            )
        found = "5" if value == "5" else "3.1.1"
    return found
