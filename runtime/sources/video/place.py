"""Where a video's pictures come from: what is asked for, checked before anything is opened."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote, urlsplit

from ....models.errors import ConfigError, SourceError
from ...credentials import secret_path
from ..opening import is_file
from ..options import VideoSource

LAUNCH = "gst-launch-1.0"
_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
_PASSWORD = re.compile(r"(-pw|passw(or)?d)\s*=|://[^/\s@]+:[^/\s]+@", re.IGNORECASE)
_OF_DEVICES = ("size", "fps", "pixel_format")


@dataclass(frozen=True, kw_only=True)
class Place:
    """A file, an address in the network, a V4L2 device or a GStreamer pipeline.

    ``name`` is what errors and logs call it: without user, password and query. ``url`` is what
    is opened; it may hold a password. ``server`` is the host and port of a network address,
    ``elements`` are those of a pipeline. ``login`` is what the URL has of user and password.
    """

    kind: Literal["file", "network", "device", "pipeline"]
    name: str
    url: str = field(default="", repr=False)
    server: tuple[str, int] | None = None
    elements: tuple[str, ...] = field(default=(), repr=False)
    login: Literal["none", "user", "password"] = "none"

    @property
    def live(self) -> bool:
        """Whether it goes on by itself, whoever reads."""
        return self.kind != "file"


def place_of(options: VideoSource, *, base: Path) -> Place:
    """Return where the pictures are; relative paths begin at ``base``.

    Raises:
        ConfigError: the options do not go together.
    """
    if (options.url is None) == (options.pipeline is None):
        raise ConfigError("one of url and pipeline is needed", where="source")
    if options.pipeline is not None:
        place = _pipeline(options.pipeline)
    elif options.url is not None and is_file(options.url):
        path = str(base / options.url)
        place = Place(kind="file", name=path, url=path)
    elif options.url is not None and options.url.startswith("/dev/"):
        place = Place(kind="device", name=options.url, url=options.url)
    else:
        place = _network(options.url or "")
    _check(options, place)
    return place


def let_in(place: Place, password_file: str | None, *, base: Path) -> Place:
    """Return the place with the password that is in the file now; as it is where none is named.

    Raises:
        SourceError: the file cannot be read.
    """
    if password_file is None:
        return place
    path = secret_path(password_file, base=base, environ=os.environ)
    try:
        password = path.read_text("utf-8").strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = str(error.strerror) if isinstance(error, OSError) else "not UTF-8"
        raise SourceError(
            f"the password cannot be read: {why}",
            where=str(path),
            hint="password_file of the source names it; the device's user must be able to read it",
        ) from error
    parts = urlsplit(place.url)
    user, _, at = parts.netloc.rpartition("@")
    url = parts._replace(netloc=f"{user}:{quote(password, safe='')}@{at}").geturl()
    return replace(place, url=url, login="password")


def _check(options: VideoSource, place: Place) -> None:
    """Refuse what would be ignored, and a region that is none."""
    if place.kind != "device":
        for name in _OF_DEVICES:
            if getattr(options, name) is not None:
                raise ConfigError("is for V4L2 devices", where=f"source.{name}")
    if options.realtime and place.live:
        raise ConfigError("is for files: all else has its own pace", where="source.realtime")
    if options.password_file is not None and place.kind != "network":
        raise ConfigError("is for network addresses", where="source.password_file")
    if options.password_file is not None and place.login == "none":
        raise ConfigError("the url names no user", where="source.password_file")
    if options.region is not None:
        left, top, width, height = options.region
        if not (width and height and left + width <= 1 and top + height <= 1):
            raise ConfigError(
                "is not inside the picture",
                where="source.region",
                hint="left, top, width and height are shares of it, like [0.25, 0, 0.5, 1]",
            )


def _pipeline(text: str) -> Place:
    try:
        elements = tuple(shlex.split(text))
    except ValueError as error:
        raise ConfigError(f"no pipeline: {error}", where="source.pipeline") from error
    if not elements or elements[0].startswith("-"):  # which would be an option
        raise ConfigError("no pipeline: it begins with no element", where="source.pipeline")
    if shutil.which(LAUNCH) is None:
        raise ConfigError(
            f"{LAUNCH} is not installed",
            where="source.pipeline",
            hint="apt install gstreamer1.0-tools gstreamer1.0-plugins-good",
        )
    return Place(kind="pipeline", name=f"pipeline {elements[0]} …", elements=elements)


def tells_password(pipeline: str | None) -> bool:
    """Return whether a pipeline holds a password, which everybody sees in the list of processes."""
    return pipeline is not None and _PASSWORD.search(pipeline) is not None


def _network(url: str) -> Place:
    """Take an address apart; whatever is wrong with it, a password in it is not shown."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError as error:
        raise ConfigError("is no address", where="source.url") from error
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ConfigError(
            "is no address of a video",
            where="source.url",
            hint="a file, /dev/video0, rtsp://[user@]host[:port]/path, or http://…",
        )
    if parts.password is not None:
        raise ConfigError(
            "a password does not belong into a URL",
            where="source.url",
            hint="put it into a file, and name that as password_file",
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    at = f"{host}:{port}"
    user = None if parts.username is None else quote(unquote(parts.username), safe="")
    return Place(
        kind="network",
        name=f"{parts.scheme}://{at}{parts.path}",
        url=parts._replace(netloc=at if user is None else f"{user}@{at}").geturl(),
        server=(parts.hostname, port),
        login="none" if user is None else "user",
    )
