"""The daemon: everything a device needs, built in order and closed in reverse."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from collections.abc import Callable
from pathlib import Path

from ..telemetry.boards.detect import Detected, detect
from ..telemetry.boards.profile import find_profile
from ..telemetry.clock import boottime_ns
from ..telemetry.power.opening import open_reader
from .config import Config
from .cost import Cost
from .events.events import Events
from .feed import Feed
from .gate.audit_labels import AuditLabels
from .loop import Loop
from .notes import Notes
from .notify import Notifier
from .reload import Reload
from .report import RunReport, check_place, write_json
from .run_figures import RunFigures
from .session import next_session
from .shared_since import SharedSince
from .signals import stopped_by_signals
from .sinks.local import LocalSinks, open_sinks
from .snapshots import Snapshots
from .streams import Streams
from .telling import open_log, periodic, serve_locally
from .tracing.opening import open_tracer
from .tracing.tracer import Tracer
from .version import installed
from .way_out import way_out

_log = logging.getLogger(__name__)

_GOODBYE_S = 2.0


def serve(
    config: Config,
    *,
    base: Path,
    report: Path | None = None,
    reread: Callable[[], Config] | None = None,
) -> RunReport:
    """Serve the streams of ``config`` until their sources end or a signal comes.

    Relative paths of the configuration begin at ``base``. The report goes to ``report``
    and to the place that the configuration names. On SIGHUP ``reread`` gives the
    configuration as it is then (see `reload`).

    Raises:
        HedgeError: something named by the configuration cannot be opened.
    """
    configured = config.telemetry.report
    places = [report, None if configured is None else base / configured]
    for place in places:
        check_place(place)
    with contextlib.ExitStack() as stack:
        found = _serve(config, base=base, reread=reread, stack=stack)
    for place in places:
        write_json(place, found)
    return found


def _serve(
    config: Config,
    *,
    base: Path,
    reread: Callable[[], Config] | None,
    stack: contextlib.ExitStack,
) -> RunReport:
    def local_sinks(config: Config, before: LocalSinks | None = None) -> LocalSinks:
        return open_sinks(config, streams.labels, base=base, before=before)

    notifier, bell, state = Notifier(), threading.Event(), base / config.device.state_dir
    stack.callback(notifier.close)
    board = _board(config, base=base)
    streams = Streams(board, state=state, base=base, systemd=notifier.send, bell=bell)
    stack.callback(streams.close)
    streams.serve(streams.open_all(config))
    sinks = local_sinks(config)
    stack.callback(sinks.close)
    log = open_log(config.telemetry, base=base, stack=stack)
    tracer = _tracer(config, base=base)
    stack.callback(tracer.close)
    reader = open_reader(config.telemetry.power, board=board, base=base, clock=boottime_ns)
    stack.callback(reader.close)
    session = next_session(state)
    shared = SharedSince(state, config.stream, session=session)
    out = way_out(config, streams, base=base, session=session, bell=bell, since=shared.since)
    events = Events(state=state, session=session)
    events.serve(streams.watched(), [*sinks.sinks, *out.sinks])
    notes = Notes(out.uplink.note)
    streams.tell(notes.say)
    streams.hear(events.drift)
    feeds: list[Feed] = [notifier, streams]
    loop = Loop(
        streams.lanes(),
        ids=(f"{session}-{number}" for number in itertools.count()),
        sinks=[*sinks.sinks, *out.sinks, events],
        uplink=out.uplink,
        bell=bell,
        clock=boottime_ns,
        feeds=feeds,
        tracer=tracer,
    )
    reload = Reload(
        config,
        reread or (lambda: config),
        streams=streams,
        sinks=sinks,
        open_sinks=local_sinks,
        kept=out.sinks,
        events=events,
        loop=loop,
        uplink=out.uplink,
        notes=notes,
        shared=shared,
        renew=out.renew,
        systemd=notifier.send,
        bell=bell,
    )
    stack.callback(reload.close)
    cost = Cost(
        reader,
        rate_hz=config.telemetry.power.rate_hz,
        board=board,
        state=state,
        ledgers=streams.ledgers,
        uplink=out.uplink,
        clock=boottime_ns,
    )
    stack.callback(cost.close)
    audited = AuditLabels(out.labels, lanes=streams.lanes, labels=streams.labels)
    figures = RunFigures(
        config,
        session=session,
        streams=streams,
        loop=loop,
        uplink=out.uplink,
        notes=notes,
        cost=cost,
        counters=[
            tracer.counters,
            events.counters,
            reload.counters,
            audited.counters,
            *([] if log is None else [log.counters]),
        ],
        clock=boottime_ns,
    )
    snapshots = Snapshots(lambda: figures.snapshot(buckets=True), bell=bell)
    feeds += [reload, cost, snapshots, events, audited]
    feeds += periodic(config.telemetry, figures, topic=out.telemetry, log=log)
    serve_locally(config.telemetry, snapshots, state=state, stack=stack)
    stack.enter_context(
        stopped_by_signals(loop.stop, reload=None if reread is None else reload.ask)
    )
    loop.resume(out.uplink.owed())
    out.uplink.start()
    stack.callback(out.uplink.close, timeout_s=_GOODBYE_S)
    cost.start()
    notifier.send("READY=1\nSTATUS=serving")
    streams.begin()
    loop.run()
    notifier.send("STOPPING=1")
    events.close()  # what is open ends with us, and the sinks are to hear of it
    tracer.close()  # what it still has to tell counts
    out.uplink.close(timeout_s=_GOODBYE_S)
    loop.learn()
    streams.keep()
    return figures.report()


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


def _tracer(config: Config, *, base: Path) -> Tracer:
    return open_tracer(
        config.telemetry.traces,
        device=config.device.name,
        site=config.device.site,
        version=installed(),
        base=base,
    )
