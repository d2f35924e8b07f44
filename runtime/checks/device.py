"""Everything that a device needs, checked in order; one area's errors hide no other's."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

from ...models.bundle import Bundle
from ...models.errors import HedgeError
from ...models.manifest import Edge, Filter
from ...telemetry.boards.detect import Detected, detect
from ...telemetry.boards.profile import find_profile
from ...telemetry.power.opening import KEY
from ...uplink.link.broker_url import Broker
from ..backends.options import BackendOptions
from ..config import Config, Stream, UplinkConfig, load_config
from ..device_models import on_board
from ..probe.messages import Probed
from ..probe.parts import probe_part
from .backends import check_model
from .board import check_board
from .broker import check_broker, check_uplink
from .bundles import check_bundle, load, parts_of
from .clock import check_clock
from .disk import check_disk
from .engines import check_rows
from .events import check_events
from .filter_labels import check_filter_labels
from .filters_off import check_filters_off
from .finding import Finding, guarded, ok, refusal
from .gate import check_gate
from .heat import check_heat
from .memory import check_memory
from .power import check_power
from .privacy import check_privacy
from .sensors import check_sensors
from .sinks import check_sinks
from .sources import check_source
from .state import check_state


def check_device(
    path: Path, *, environ: Mapping[str, str], root: Path = Path("/"), offline: bool = False
) -> Iterator[Finding]:
    """Yield what is found of the configuration at ``path`` and of everything it names.

    ``root`` is where the board's /proc and /sys are read; ``offline`` leaves the broker alone.
    """
    try:
        config = load_config(path, environ=environ)
    except HedgeError as caught:
        yield refusal("config", path.name, caught)
        yield from check_machine(detect(root=root), [], root=root)
        yield from guarded("clock", "wall", check_clock(tls=False))
        return
    streams = ", ".join(stream.name for stream in config.stream)
    yield ok("config", path.name, f"device {config.device.name}; streams {streams}")
    base = path.resolve().parent
    try:
        named = config.device.board
        profile = None if named is None else find_profile(named, base=base)
    except HedgeError as caught:
        yield refusal("board", "device.board", caught)
        profile = None
    board = detect(root=root, board=profile)
    yield from _check_all(config, base, root=root, board=board, offline=offline)


def check_machine(board: Detected, probed: list[Probed], *, root: Path) -> Iterator[Finding]:
    """Yield what is found of sensors, heat and memory."""
    yield from guarded("sensors", "power", check_sensors(board))
    yield from guarded("heat", "board", check_heat(board))
    yield from guarded("memory", "free", check_memory(board, probed, root=root))


def _check_all(
    config: Config, base: Path, *, root: Path, board: Detected, offline: bool
) -> Iterator[Finding]:
    bundles: dict[str, Bundle] = {}
    for stream in config.stream:
        found = load(stream, base=base)
        if isinstance(found, Finding):
            yield found
        else:
            bundles[stream.name] = found
            has_uplink = config.uplink is not None
            checks = check_bundle(stream, found, board=board, has_uplink=has_uplink)
            yield from guarded("bundle", f"stream {stream.name}", checks)
    probed: list[Probed] = []
    wanted: dict[str, tuple[str, BackendOptions]] = {}
    for stream in config.stream:
        if stream.name in bundles:
            bundle = bundles[stream.name]
            parts = parts_of(stream, bundle, board=board)
            if parts:
                options = on_board(stream.backend, parts[-1], board=board, base=base)
                wanted[stream.name] = (parts[-1].format, options)
            yield from _check_models(stream, bundle, parts, base=base, board=board, probed=probed)
    yield from guarded("board", "board", check_board(board, root=root, wanted=wanted))
    yield from check_machine(board, probed, root=root)
    power = check_power(config.telemetry.power, board, base=base, root=root)
    yield from guarded("sensors", KEY, power)
    yield from _check_surroundings(config, base, bundles=bundles, offline=offline)


def _check_models(
    stream: Stream,
    bundle: Bundle,
    parts: list[Edge | Filter],
    *,
    base: Path,
    board: Detected,
    probed: list[Probed],
) -> Iterator[Finding]:
    for part in parts:
        options = on_board(stream.backend, part, board=board, base=base)
        subject = f"stream {stream.name}: {part.file}"
        probe = functools.partial(probe_part, bundle, part, options=options)
        checks = check_model(subject, probe, options=options, found=probed)
        yield from guarded("backend", subject, checks)
        rows = check_rows(subject, bundle, part, options=options)
        yield from guarded("backend", subject, rows)


def _check_surroundings(
    config: Config, base: Path, *, bundles: Mapping[str, Bundle], offline: bool
) -> Iterator[Finding]:
    """Yield what is found of everything around the models."""
    for stream in config.stream:
        subject, bundle = f"stream {stream.name}", bundles.get(stream.name)
        checks = check_source(stream, bundle, config=config, base=base, offline=offline)
        yield from guarded("source", subject, checks)
        if bundle is not None:
            private = check_privacy(stream, bundle, config=config)
            yield from guarded("privacy", subject, private)
            gate = check_gate(stream, bundle, config=config)
            yield from guarded("gate", subject, gate)
            labels = check_filter_labels(stream, bundle, config=config)
            yield from guarded("filter", subject, labels)
            off = check_filters_off(stream, bundle, config=config, base=base)
            yield from guarded("filter", subject, off)
            events = check_events(stream, bundle.labels, config=config, base=base)
            yield from guarded("event", subject, events)
    yield from guarded("sink", "sinks", check_sinks(config, base=base))
    yield from guarded("state", config.device.state_dir, check_state(config, base=base))
    yield from guarded("disk", config.device.state_dir, check_disk(config, base=base))
    yield from guarded("clock", "wall", check_clock(tls=_has_tls(config.uplink)))
    uplink = config.uplink
    if uplink is None:
        yield ok("broker", "uplink", "none: the device answers alone")
        return
    settled = list(guarded("broker", "uplink", check_uplink(config, uplink, base=base)))
    yield from settled
    if any(one.level == "error" for one in settled):
        return
    if offline:
        yield ok("broker", "uplink", "not tried, as --offline asks")
    else:
        yield from guarded("broker", "uplink", check_broker(config, uplink, base=base))


def _has_tls(uplink: UplinkConfig | None) -> bool:
    try:
        return uplink is not None and Broker.parse(uplink.broker).tls
    except HedgeError:
        return False  # said by the check of the broker
