"""A real RTSP server: a film of H.264 in a loop, at its own pace.

    /usr/bin/python3 tests/rtsp_server.py film.mp4 [--port 8554] [--user u --password p]

Needs GStreamer's RTSP server and its introspection (python3-gi, gir1.2-gst-rtsp-server-1.0),
which are the system's: so it is run by the system's Python, and imports nothing of hedge. It
prints the port once it serves, at rtsp://127.0.0.1:PORT/film. Every client sees the film from
its begin, and never its end. With ``--streams`` it is at /film0, /film1 … too.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402 -- as gi wants it

_READ = (
    "filesrc name=file ! parsebin ! h264parse config-interval=-1 "
    "! video/x-h264,stream-format=byte-stream,alignment=au ! appsink name=sink sync=false"
)
_SERVE = (
    "( appsrc name=film format=time is-live=true block=true max-bytes=1000000 "
    "! h264parse ! rtph264pay name=pay0 pt=96 config-interval=-1 )"
)
_FRAME_NS = 40_000_000  # where a film does not say how long its last frame is shown


class Unit(NamedTuple):
    """One encoded picture; times in nanoseconds from the film's begin."""

    data: bytes
    pts: int
    dts: int
    keyframe: bool


class Film:
    """All encoded pictures of a film, to be given again and again."""

    def __init__(self, path: Path) -> None:
        self.caps: Any = None
        self.units: list[Unit] = []
        pipeline = Gst.parse_launch(_READ)
        pipeline.get_by_name("file").set_property("location", str(path))
        sink = pipeline.get_by_name("sink")
        pipeline.set_state(Gst.State.PLAYING)
        while (sample := sink.emit("pull-sample")) is not None:
            self.caps = self.caps or sample.get_caps()
            self.units.append(_unit(sample.get_buffer()))
        pipeline.set_state(Gst.State.NULL)
        if not self.units:
            raise SystemExit(f"{path}: no film of H.264")
        begin = self.units[0].dts
        self.units = [
            unit._replace(pts=unit.pts - begin, dts=unit.dts - begin) for unit in self.units
        ]
        last = self.units[-2:]
        self.ns = last[-1].dts + (last[-1].dts - last[0].dts or _FRAME_NS)


def _unit(buffer: Any) -> Unit:  # noqa: ANN401 -- gi has no types
    data = buffer.extract_dup(0, buffer.get_size())
    dts = buffer.pts if buffer.dts == Gst.CLOCK_TIME_NONE else buffer.dts
    return Unit(data, buffer.pts, dts, not buffer.has_flags(Gst.BufferFlags.DELTA_UNIT))


class Factory(GstRtspServer.RTSPMediaFactory):  # type: ignore[misc]  # gi has no types
    """Makes the media of each client."""

    def __init__(self, film: Film) -> None:
        super().__init__()
        self._film = film
        self.set_launch(_SERVE)

    def do_configure(self, media: Any) -> None:  # noqa: ANN401 -- gi has no types
        """Feed a client's media from the film's begin."""
        source = media.get_element().get_child_by_name("film")
        source.set_property("caps", self._film.caps)
        source.connect("need-data", Feed(self._film).push)


class Feed:
    """Gives a film to one client."""

    def __init__(self, film: Film) -> None:
        self._film = film
        self._given = 0

    def push(self, source: Any, _bytes: int) -> None:  # noqa: ANN401 -- gi has no types
        """Give the next picture."""
        loops, number = divmod(self._given, len(self._film.units))
        unit = self._film.units[number]
        buffer = Gst.Buffer.new_wrapped(unit.data)
        buffer.pts = unit.pts + loops * self._film.ns
        buffer.dts = unit.dts + loops * self._film.ns
        if not unit.keyframe:
            buffer.set_flags(Gst.BufferFlags.DELTA_UNIT)
        self._given += 1
        source.emit("push-buffer", buffer)


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("film", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--streams", type=int, default=0)
    parser.add_argument("--user")
    parser.add_argument("--password", default="")
    options = parser.parse_args()
    Gst.init(None)
    film = Film(options.film)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(str(options.port))
    if options.user is not None:
        server.set_auth(_auth(options.user, options.password))
    for name in ("/film", *(f"/film{number}" for number in range(options.streams))):
        factory = Factory(film)
        if options.user is not None:
            _let_in(factory)
        server.get_mount_points().add_factory(name, factory)
    if not server.attach(None):
        raise SystemExit(f"port {options.port} is taken")
    sys.stdout.write(f"{server.get_bound_port()}\n")
    sys.stdout.flush()
    GLib.MainLoop().run()


def _auth(user: str, password: str) -> Any:  # noqa: ANN401 -- gi has no types
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    auth = GstRtspServer.RTSPAuth()
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    return auth


def _let_in(factory: Any) -> None:  # noqa: ANN401 -- gi has no types
    role = Gst.Structure.new_empty("viewer")
    for what in ("access", "construct"):
        role.set_value(f"media.factory.{what}", True)
    factory.add_role_from_structure(role)


if __name__ == "__main__":
    main()
