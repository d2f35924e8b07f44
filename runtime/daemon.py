"""The daemon: everything a device needs, built in order and closed in reverse."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from collections.abc import Mapping
from pathlib import Path

import psutil

from ..models.bundle import Bundle, load_bundle
from ..models.choice import chosen
from ..models.dataset import load_dataset
from ..models.errors import BundleError, ConfigError
from ..models.manifest import Edge, Input
from ..models.opinion import Assessor
from ..telemetry.boards.detect import Detected, detect
from ..telemetry.boards.profile import find_profile
from ..telemetry.clock import boottime_ns
from ..telemetry.ledger import Ledger
from .config import (
    Config,
    FolderSource,
    JsonLinesSink,
    MqttSinkConfig,
    ReplaySource,
    Stream,
    TerminalSink,
)
from .device_models import DeviceModels
from .feed import Feed
from .filters.skip import SkipFilter
from .lane import Lane
from .loop import Loop
from .notify import Notifier
from .policy import Policy
from .report import RunReport, check_place, write_json
from .session import next_session
from .shipped import bundle_path
from .signals import stopped_by_signals
from .sinks.json_lines import JsonLines
from .sinks.sink import Sink
from .sinks.terminal import Terminal
from .sources.folder import Folder
from .sources.replay import Replay
from .sources.source import Source
from .way_out import telemetry_feed, way_out

_log = logging.getLogger(__name__)

_GOODBYE_S = 2.0


def serve(config: Config, *, base: Path, report: Path | None = None) -> RunReport:
    """Serve the streams of ``config`` until their sources end or a signal comes.

    Relative paths of the configuration begin at ``base``. The report goes to ``report``
    and to the place that the configuration names.

    Raises:
        HedgeError: something named by the configuration cannot be opened.
    """
    configured = config.telemetry.report
    places = [report, None if configured is None else base / configured]
    for place in places:
        check_place(place)
    with contextlib.ExitStack() as stack:
        notifier = Notifier()
        stack.callback(notifier.close)
        bell = threading.Event()
        bundles = _bundles(config, base=base)
        board = _board(config, base=base)
        models = DeviceModels(
            board,
            state=base / config.device.state_dir,
            base=base,
            stack=stack,
            systemd=notifier.send,
        )
        lanes = [
            _lane(stream, bundles[stream.name], base=base, board=board, models=models, stack=stack)
            for stream in config.stream
        ]
        sinks = _sinks(config, bundles, base=base, stack=stack)
        session = next_session(base / config.device.state_dir)
        out = way_out(config, bundles, base=base, session=session, bell=bell)
        uplink = out.uplink
        feeds: list[Feed] = [notifier, models]
        models.tell(uplink.note)
        loop = Loop(
            lanes,
            ids=(f"{session}-{number}" for number in itertools.count()),
            sinks=[*sinks, *out.sinks],
            uplink=uplink,
            bell=bell,
            clock=boottime_ns,
            feeds=feeds,
        )
        if out.telemetry is not None and config.telemetry.every_s is not None:
            feeds.append(
                telemetry_feed(
                    out.telemetry,
                    every_s=config.telemetry.every_s,
                    session=session,
                    lanes=lanes,
                    loop=loop,
                    uplink=uplink,
                    models=models,
                )
            )
        stack.enter_context(stopped_by_signals(loop.stop))
        loop.resume(uplink.owed())
        uplink.start()
        stack.callback(uplink.close, timeout_s=_GOODBYE_S)
        notifier.send("READY=1\nSTATUS=serving")
        begun_ns = boottime_ns()
        loop.run()
        notifier.send("STOPPING=1")
        found = RunReport(
            device=config.device.name,
            site=config.device.site,
            session=session,
            seconds=(boottime_ns() - begun_ns) / 1e9,
            streams=tuple(lane.ledger.report() for lane in lanes),
            uplink=uplink.counters(),
            counts={**loop.counts, **models.counts()},
            rss_bytes=psutil.Process().memory_info().rss,
        )
    for place in places:
        write_json(place, found)
    return found


def _bundles(config: Config, *, base: Path) -> dict[str, Bundle]:
    """Load each stream's bundle, once where several streams share it."""
    loaded: dict[tuple[Path, str | None], Bundle] = {}
    bundles = {}
    for stream in config.stream:
        key = (bundle_path(stream.bundle, base=base), stream.pin)
        if key not in loaded:
            loaded[key] = load_bundle(key[0], pin=stream.pin)
        bundles[stream.name] = loaded[key]
    return bundles


def _board(config: Config, *, base: Path) -> Detected:
    """Find out what this device is, or believe the configuration."""
    named = config.device.board
    found = detect(board=None if named is None else find_profile(named, base=base))
    prefers = None if found.profile is None else found.profile.defaults.backend
    if prefers not in (None, found.backend):
        _log.warning(
            "%s: could run %s, but its system is too old or not known, so %s serves; "
            "is /etc/nv_tegra_release hidden by a container?",
            *(found.hardware, prefers, found.backend),
        )
    return found


def _lane(
    stream: Stream,
    bundle: Bundle,
    *,
    base: Path,
    board: Detected,
    models: DeviceModels,
    stack: contextlib.ExitStack,
) -> Lane:
    manifest = bundle.manifest
    edge = variant(stream, bundle, board=board)
    if manifest.calibration is None:
        raise BundleError("has no [calibration], so nothing says when to ask", where=stream.bundle)

    source = _source(stream, manifest.input, base=base)
    stack.callback(source.close)
    filters = []
    for one in manifest.filter if stream.filter else ():
        model, prepare = models.open(bundle, one, stream.backend)
        filters.append(SkipFilter(model, threshold=one.threshold, prepare=prepare))
    model, prepare = models.open(bundle, edge, stream.backend)
    return Lane(
        name=stream.name,
        source=source,
        input=manifest.input,
        filters=filters,
        model=model,
        prepare=prepare,
        assessor=Assessor.of(edge, classes=len(manifest.labels), score=manifest.calibration.score),
        policy=Policy.of(manifest.calibration),
        ledger=Ledger(stream.name),
        clock=boottime_ns,
        answer_within_ns=stream.answer_within_ms * 1_000_000,
        mode=stream.mode,
        on_unavailable=stream.on_unavailable,
        window=stream.window,
    )


def variant(stream: Stream, bundle: Bundle, *, board: Detected) -> Edge:
    """Return the variant that the configuration names, else the bundle's choice for the board.

    Raises:
        BundleError: it has no edge model.
        ConfigError: it has no such variant.
    """
    edges = bundle.manifest.edge
    if stream.variant is None:
        return chosen(
            bundle.manifest,
            boards=board.names,
            power_mode=None if board.power_mode is None else board.power_mode.name,
        )
    for edge in edges:
        if edge.name == stream.variant:
            return edge
    names = ", ".join(edge.name for edge in edges)
    raise ConfigError(
        f"the bundle has no variant {stream.variant!r}",
        where=f"stream {stream.name}: variant",
        hint=f"it has {names}",
    )


def _source(stream: Stream, spec: Input, *, base: Path) -> Source:
    match stream.source:
        case ReplaySource(path=path, rate_hz=rate_hz):
            data = load_dataset(base / path).fitted(spec, where=str(base / path))
            return Replay(data.x, rate_hz=rate_hz)
        case FolderSource(path=path, rate_hz=rate_hz):
            return Folder(base / path, rate_hz=rate_hz)


def _sinks(
    config: Config, bundles: Mapping[str, Bundle], *, base: Path, stack: contextlib.ExitStack
) -> list[Sink]:
    labels = {name: bundle.manifest.labels for name, bundle in bundles.items()}
    sinks: list[Sink] = []
    for sink in config.sink:
        match sink:
            case JsonLinesSink(path=path):
                sinks.append(JsonLines(base / path, labels=labels))
            case TerminalSink():
                sinks.append(Terminal(labels=labels))
            case MqttSinkConfig():
                continue  # it is part of the way out
        stack.callback(sinks[-1].close)
    return sinks
