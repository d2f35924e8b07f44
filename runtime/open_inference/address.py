"""Where a served model is, as one URL: `http[s]|grpc[s]://host:port/[prefix/]MODEL[?version=V]`."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import SplitResult, parse_qsl, urlsplit

from msgspec import Struct

from ...models.errors import ConfigError

_PORTS = {"http": 80, "https": 443}
_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Address(Struct, frozen=True, kw_only=True):
    """One model on one server. ``version`` None: the one that the server prefers.

    ``prefix`` is the path before the protocol's own, "" or "/…"; gRPC has none.
    """

    protocol: Literal["http", "grpc"]
    tls: bool
    host: str
    port: int
    prefix: str
    model: str
    version: str | None = None

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read a URL.

        Raises:
            ConfigError: another scheme, no host, port or model, or a part that does not
                belong there; a password above all, which every process list would show.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"no URL: {error}", where="model server") from error
        where = f"{parts.scheme}://{parts.hostname or ''}"
        if parts.username is not None or parts.fragment:
            raise ConfigError("only a server, a model and its version belong there", where=where)
        port = port or _PORTS.get(parts.scheme)
        prefix, _, model = parts.path.rpartition("/")
        protocol: Literal["http", "grpc"] = "grpc" if parts.scheme in {"grpc", "grpcs"} else "http"
        if (
            parts.scheme not in {"http", "https", "grpc", "grpcs"}
            or not parts.hostname
            or port is None
            or not all(_NAME.fullmatch(one) for one in (*prefix.split("/")[1:], model))
            or (prefix and protocol == "grpc")
        ):
            raise ConfigError(
                "no URL of a served model",
                where=where,
                hint="http://host:port/MODEL or grpc://host:port/MODEL; https, grpcs for TLS",
            )
        return cls(
            protocol=protocol,
            tls=parts.scheme.endswith("s"),
            host=parts.hostname,
            port=port,
            prefix=prefix,
            model=model,
            version=_version(parts, where=where),
        )

    @property
    def place(self) -> str:
        """The server: host and port."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        version = "" if self.version is None else f"?version={self.version}"
        scheme = self.protocol + "s" * self.tls
        return f"{scheme}://{self.place}{self.prefix}/{self.model}{version}"


def _version(parts: SplitResult, *, where: str) -> str | None:
    found = None
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        if key != "version" or not _NAME.fullmatch(value):
            raise ConfigError(f"{key}={value} is not known", where=where, hint="version=V")
        found = value
    return found
