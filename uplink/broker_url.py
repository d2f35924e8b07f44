"""Where the broker is, as one URL: `mqtt://[user@]host[:port][?version=5|3.1.1]`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import SplitResult, parse_qsl, urlsplit

from msgspec import Struct

from ..models.errors import ConfigError

Version = Literal["5", "3.1.1"]
_PORTS = {"mqtt": 1883, "mqtts": 8883}
_PASSWORD = "HEDGE_BROKER_PASSWORD"  # noqa: S105 -- the variable's name, not a password


class Broker(Struct, frozen=True, kw_only=True):
    """A broker's address. ``version`` None: MQTT 5, and 3.1.1 where that is refused."""

    host: str
    port: int
    tls: bool = False
    username: str | None = None
    version: Version | None = None

    @classmethod
    def parse(cls, url: str) -> Broker:
        """Read a URL.

        Raises:
            ConfigError: another scheme, no host, or a part that does not belong there; a
                password above all, which every process list would show.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"no URL: {error}", where="broker") from error
        where = f"{parts.scheme}://{parts.hostname or ''}"
        if parts.password is not None:
            raise ConfigError(
                "a password does not belong into a URL",
                where=where,
                hint=f"put it into a file or into {_PASSWORD}",
            )
        if parts.scheme not in _PORTS or not parts.hostname or parts.path.strip("/") or port == 0:
            raise ConfigError(
                "not a broker's URL", where=where, hint="mqtt://host:port or mqtts://host:port"
            )
        return cls(
            host=parts.hostname,
            port=_PORTS[parts.scheme] if port is None else port,
            tls=parts.scheme == "mqtts",
            username=parts.username,
            version=_version(parts, where=where),
        )

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"mqtt{'s' if self.tls else ''}://{host}:{self.port}"


def read_password(file: Path | None, *, environ: Mapping[str, str]) -> str | None:
    """Return the password from ``file``, else from HEDGE_BROKER_PASSWORD, else None.

    Raises:
        ConfigError: the file cannot be read.
    """
    if file is None:
        return environ.get(_PASSWORD)
    try:
        return file.read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the password cannot be read: {error}", where=str(file)) from error


def _version(parts: SplitResult, *, where: str) -> Version | None:
    found: Version | None = None
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        if key != "version" or value not in get_args(Version):
            raise ConfigError(
                f"{key}={value} is not known", where=where, hint="version=5 or version=3.1.1"
            )
        found = "5" if value == "5" else "3.1.1"
    return found
