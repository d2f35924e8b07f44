"""The live sources: opened for a moment, to see that what they give becomes a sample.

A camera that is not there now may be there later, so that is a warning; what can never work is
an error. Nothing stays open.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from msgspec.structs import replace

from ...models.bundle import Bundle
from ...models.errors import DataError, SourceError
from ...models.inputs.preprocess import preprocessor
from ...models.manifest import Input
from ...uplink.outbox.owner import is_owned
from ..config import OUTBOX, Config, Stream
from ..credentials import secret_path
from ..sources.images import other_file
from ..sources.opening import Surroundings, is_file, reader_of, waits
from ..sources.options import (
    AudioSource,
    ImagesSource,
    LiveOptions,
    MqttSource,
    SerialSource,
    SocketSource,
    StdinSource,
    VideoSource,
)
from ..sources.source import Captured, Reader
from ..sources.video.place import tells_password
from ..top.feed_socket import SOCKET
from .finding import Finding, error, ok, warning
from .places import why_no_folder

_PATIENCE_S = 3.0
_LOOK_S = 1.5  # a picture that was just written is left alone at first
_LONGEST_WINDOW_S = 15.0
_RATE_S = 1.0  # how long captures are counted
_MANY = 20


def check_live(
    stream: Stream,
    options: LiveOptions,
    bundle: Bundle,
    *,
    config: Config,
    base: Path,
    offline: bool,
) -> Iterator[Finding]:
    """Yield whether the source is there, and whether what it gives becomes a sample.

    Raises:
        HedgeError: it can never be read so, or the bundle does not say how.
    """
    subject, spec = f"stream {stream.name}", bundle.input
    preprocess = preprocessor(spec, read=bundle.read, where=stream.bundle)
    name = f"{config.device.name[:58]}-check"  # the daemon may be at the broker under its own
    around = Surroundings(base=base, device=name, uplink=config.uplink)
    reader = reader_of(stream.name, _harmless(options), spec, around=around)
    if isinstance(options, VideoSource) and tells_password(options.pipeline):
        yield _visible(subject)
    try:
        untried = _untried(options, base / config.device.state_dir, base=base, offline=offline)
        if untried is not None:
            yield from _unreadable(subject, options, base=base)
            yield untried if isinstance(untried, Finding) else ok("source", subject, untried)
            return
        found = list(_captured(reader, _patience_s(options, spec), one=waits(options)))
        if not found:
            yield _silent(subject, options, base=base)
            return
        sample = preprocess(found[-1].data, found[-1].meta or {})
    except (SourceError, DataError) as caught:
        yield warning("source", subject, caught.what, where=caught.where, todo=caught.hint)
        return
    finally:
        reader.close()
    text = f"{_told(found, spec)}; a sample is {sample.shape} {sample.dtype}"
    fits = sample.shape == spec.shape and sample.dtype == spec.dtype
    if fits:
        yield ok("source", subject, text)
    else:
        what = f"{text}, and the bundle takes {spec.shape} {spec.dtype}"
        yield error("source", subject, what, where=str(bundle.path))


def _harmless(options: LiveOptions) -> LiveOptions:
    """Return the options with which looking changes nothing."""
    if isinstance(options, ImagesSource):
        return replace(options, remove=False, existing=True)
    return options


def _untried(
    options: LiveOptions, state: Path, *, base: Path, offline: bool
) -> str | Finding | None:
    """Return why the source is not opened here; None: it is."""
    match options:
        case StdinSource():
            return "standard input: read when the device runs"
        case SocketSource(path=path):
            why = why_no_folder((base / path).parent)
            if why is not None:
                todo = "name a path in a folder that the device's user may write"
                return error("source", path, why, where="source.path", todo=todo)
            return f"{path}: listened on when the device runs"
        case MqttSource(topic=topic) if offline:
            return f"topic {topic}: not tried, as --offline asks"
        case VideoSource(url=str(url)) if offline and "://" in url:
            return f"{_place(url)}: not tried, as --offline asks"
    taken = _is_device(options) and _is_running(state)
    return "not tried: a running device is reading it" if taken else None


def _is_device(options: LiveOptions) -> bool:
    """Return whether only one process can read the source."""
    match options:
        case VideoSource(url=url):
            return url is None or ("://" not in url and not is_file(url))
        case AudioSource(device=device):
            return device is not None
        case _:
            return isinstance(options, SerialSource)


def _is_running(state: Path) -> bool:
    """Return whether a daemon lives in this state directory."""
    if is_owned(state / OUTBOX):
        return True
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as peer:
        peer.connect(os.fspath(state / SOCKET))
        return True
    return False


def _patience_s(options: LiveOptions, spec: Input) -> float:
    """Return how long to wait for the first capture: a window lasts, too."""
    if isinstance(options, ImagesSource):
        return _LOOK_S  # what lies there comes at once
    window_s = 0.0
    if spec.audio is not None:
        window_s = spec.audio.samples / spec.audio.sample_rate_hz
    elif spec.tensor is not None and spec.tensor.rate_hz is not None:
        window_s = spec.tensor.rows / spec.tensor.rate_hz
    if isinstance(options, VideoSource | AudioSource):
        window_s += 1.0  # cameras and cards take a while to begin
    return _PATIENCE_S + min(window_s, _LONGEST_WINDOW_S)


def _captured(reader: Reader, patience_s: float, *, one: bool) -> Iterator[Captured]:
    """Yield what comes: one capture, or those of a second.

    Raises:
        SourceError: the source is not there.
        DataError: nothing came but what is no good.
    """
    reader.open()
    until_s = time.monotonic() + patience_s
    count, bad = 0, None
    while time.monotonic() < until_s and count < (1 if one else _MANY):
        try:
            found = reader.read()
        except DataError as caught:
            bad = caught
            continue
        if found is None:
            break
        if found and not count:
            until_s = min(until_s, time.monotonic() + _RATE_S)
        count += len(found)
        yield from found
    if not count and bad is not None:
        raise bad


def _visible(subject: str) -> Finding:
    """Return that everybody on the machine can read a password."""
    return warning(
        "source",
        subject,
        "the pipeline holds a password, which the list of processes shows to everybody here",
        where="source.pipeline",
        todo="read the camera by url and password_file, or give it a user who may only look",
    )


def _unreadable(subject: str, options: LiveOptions, *, base: Path) -> Iterator[Finding]:
    """Yield which of the source's secrets and certificates cannot be read."""
    for key in ("password_file", "ca_file", "cert_file", "key_file"):
        name = getattr(options, key, None)
        if name is None:
            continue
        path = secret_path(name, base=base, environ=os.environ)
        try:
            path.open("rb").close()
        except OSError as caught:
            text = f"{path} cannot be read: {caught.strerror}"
            todo = "is its path right? The device's user must be able to read it"
            yield warning("source", subject, text, where=f"source.{key}", todo=todo)


def _silent(subject: str, options: LiveOptions, *, base: Path) -> Finding:
    """Return that nothing came, and what may help."""
    match options:
        case ImagesSource(path=path, suffixes=suffixes):
            other = other_file(base / path, suffixes)
            if other is not None:
                text = f"{path} is watched, and {other!a} there is passed over"
                todo = f"suffixes of the source are {' '.join(suffixes)}: add its own"
                return warning("source", subject, text, where="source.suffixes", todo=todo)
            return ok("source", subject, f"{path} is watched; no picture lies there now")
        case MqttSource(topic=topic):
            text = f"the broker lets us listen to {topic}, and nothing was sent there meanwhile"
            return ok("source", subject, text)
        case SerialSource(port=port, baud=baud):
            text = f"{port} is there, and gives no whole window at {baud} baud"
            todo = "is the sensor on, and its speed right? A long window takes its time"
            return warning("source", subject, text, todo=todo)
        case VideoSource() | AudioSource():
            text = "is there, and gives nothing"
            return warning("source", subject, text, todo="does another program read it?")
        case _:
            return warning("source", subject, "gives nothing")


def _told(found: list[Captured], spec: Input) -> str:
    """Return what was captured, in a few words."""
    first, last = found[0], found[-1]
    match spec.kind:
        case "image":
            text = f"pictures of {last.data.shape[1]}x{last.data.shape[0]}"
        case "audio":
            rate_hz = (last.meta or {}).get("sample_rate_hz", 0)
            seconds = f" ({len(last.data) / rate_hz:.3g} s at {rate_hz:g} Hz)" if rate_hz else ""
            text = f"sound, windows of {len(last.data)}{seconds}"
        case "tensor":
            text = f"windows of {last.data.shape[0]} rows of {last.data.shape[-1]}"
        case "text":
            text = "text"
    span_s = (last.taken_at_ns - first.taken_at_ns) / 1e9
    if len(found) > 1 and span_s > 0:
        text += f", {(len(found) - 1) / span_s:.3g} a second"
    return text


def _place(url: str) -> str:
    """Return a URL without whoever is to be let in."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
