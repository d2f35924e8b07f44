"""The first samples of each stream and what the device would do; nothing leaves it.

Sources, bundles and models are opened as the daemon does, but no sink and no uplink, and state
goes to a folder that is gone afterwards. TensorRT builds nothing meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from ...telemetry.boards.detect import Detected, detect
from ...telemetry.boards.profile import find_profile
from ...telemetry.clock import Clock, boottime_ns
from ..config import Config, Stream
from ..lane import Lane
from ..sources import live
from ..streams import Streams
from .keeping import Keeping
from .look import Facts, Look, take
from .oddities import oddities
from .table import head, row

_LONGEST_WAIT_S = 0.1
_NAME = 60  # what is left of a device's name, so that it is another's


class DryStream(Struct, frozen=True, kw_only=True):
    """What was seen of one stream; ``why`` says why nothing was."""

    stream: str
    samples: tuple[Look, ...]
    warnings: tuple[str, ...]
    why: str | None = None


class DryReport(Struct, frozen=True, kw_only=True):
    """What a dry run has seen."""

    device: str
    streams: tuple[DryStream, ...]

    @property
    def is_whole(self) -> bool:
        """Whether every stream gave something."""
        return all(one.samples for one in self.streams)


def dry_run(
    config: Config,
    *,
    base: Path,
    samples: int,
    seconds: float,
    folder: Path,
    say: Callable[[str], None],
    clock: Clock = boottime_ns,
) -> DryReport:
    """Show the first ``samples`` of each stream, for at most ``seconds`` or until Ctrl-C.

    Lines go to ``say``, files that show the samples to ``folder``.

    Raises:
        HedgeError: a source, a bundle or a model cannot be opened, or nothing kept there.
        OSError: the folder cannot be written.
    """
    keeping, bell = Keeping(folder), threading.Event()
    with contextlib.ExitStack() as stack:
        state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hedge-dry-")))
        streams = Streams(
            _board(config, base=base),
            state=state,
            base=base,
            systemd=lambda _: None,
            bell=bell,
        )
        stack.callback(streams.close)
        stack.enter_context(_without_log(live.__name__))
        streams.serve(streams.open_all(_dry(config)))
        streams.begin()
        if config.uplink is None:
            say("no [uplink]: what it would ask, it would answer itself")
        watched = [
            _Watched(one.lane, one.bundle.labels, samples=samples)
            for one in streams.served.values()
        ]
        say(head(widest=max(len(one.lane.name) for one in watched)))
        with contextlib.suppress(KeyboardInterrupt):
            _watch(watched, seconds=seconds, keeping=keeping, say=say, bell=bell, clock=clock)
        found = tuple(one.found(seconds) for one in watched)
    for one in found:
        for line in _summary(one, folder):
            say(line)
    return DryReport(device=config.device.name, streams=found)


@dataclass(slots=True)
class _Watched:
    """One stream and what was seen of it."""

    lane: Lane
    labels: tuple[str, ...]
    samples: int
    looks: list[Look] = field(default_factory=list)
    facts: list[Facts] = field(default_factory=list)
    said: str | None = None

    @property
    def done(self) -> bool:
        return len(self.looks) >= self.samples or self.lane.source.ended

    def news(self) -> str | None:
        """Return what has changed about its source since the last time."""
        state = self.lane.source.state()
        why = None if state is None or state.state != "away" else state.why
        if why == self.said:
            return None
        self.said = why
        return f"{self.lane.name}: {'is there' if why is None else f'not there: {why}'}"

    def found(self, seconds: float) -> DryStream:
        odd = oddities(self.looks, self.facts, self.lane.input, overrun=self.lane.source.overrun)
        why = None
        if not self.looks:
            why = self.said or (
                "its source ended" if self.lane.source.ended else f"nothing came in {seconds:g} s"
            )
        return DryStream(
            stream=self.lane.name, samples=tuple(self.looks), warnings=tuple(odd), why=why
        )


def _watch(
    watched: list[_Watched],
    *,
    seconds: float,
    keeping: Keeping,
    say: Callable[[str], None],
    bell: threading.Event,
    clock: Clock,
) -> None:
    """Take turns until each stream has given enough, or the time is over."""
    begun_ns = clock()
    until_ns = begun_ns + int(seconds * 1e9)
    widest = max(len(one.lane.name) for one in watched)
    while clock() < until_ns and not all(one.done for one in watched):
        is_idle = True
        for one in watched:
            news = one.news()
            if news is not None:
                say(news)
            if one.done:
                continue
            taken = take(
                one.lane,
                one.labels,
                number=len(one.looks) + 1,
                begun_ns=begun_ns,
                now_ns=clock(),
            )
            if taken is None:
                continue
            is_idle = False
            look = replace(taken.look, files=keeping.keep(one.lane.name, taken, one.lane.input))
            one.looks.append(look)
            one.facts += [] if taken.facts is None else [taken.facts]
            say(row(one.lane.name, look, widest=widest))
        if is_idle:
            bell.wait(_LONGEST_WAIT_S)
            bell.clear()


def _dry(config: Config) -> Config:
    """Return the configuration as it is opened here: under another name, without TensorRT."""
    streams = tuple(_without_tensorrt(stream) for stream in config.stream)
    device = replace(config.device, name=f"{config.device.name[:_NAME]}-dry")
    return replace(config, device=device, stream=streams)


def _without_tensorrt(stream: Stream) -> Stream:
    if stream.backend.use != "tensorrt":
        return stream
    return replace(stream, backend=replace(stream.backend, use="auto"))


def _board(config: Config, *, base: Path) -> Detected:
    named = config.device.board
    found = detect(board=None if named is None else find_profile(named, base=base))
    return replace(found, backend="onnx") if found.backend == "tensorrt" else found


@contextlib.contextmanager
def _without_log(name: str) -> Iterator[None]:
    """Keep a module from logging what is said here in other words."""
    logger = logging.getLogger(name)
    logger.addFilter(_nothing)
    try:
        yield
    finally:
        logger.removeFilter(_nothing)


def _nothing(_: logging.LogRecord) -> bool:
    return False


def _summary(found: DryStream, folder: Path) -> Iterator[str]:
    if found.why is not None:
        yield f"{found.stream}: gave nothing: {found.why}"
        return
    counts = {would: sum(one.would == would for one in found.samples) for would in _ORDER}
    told = ", ".join(f"{count} {_ORDER[would]}" for would, count in counts.items() if count)
    shown = f"; to be seen in {folder}" if any(one.files for one in found.samples) else ""
    yield f"{found.stream}: {len(found.samples)} samples: {told}{shown}"
    for line in found.warnings:
        yield f"{found.stream}: warning: {line}"


_ORDER = {
    "answer": "answered",
    "ask": "asked",
    "ask and fuse": "asked and fused",
    "drop": "dropped",
    "fail": "failed",
}
