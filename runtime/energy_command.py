"""`hedge energy`: what the power sensors say, and what the board takes when idle."""

from __future__ import annotations

import argparse
import itertools
import math
import os
import platform
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
from msgspec import Struct

from ..models.errors import ConfigError
from ..telemetry.boards.detect import Detected, detect
from ..telemetry.boards.profile import find_profile
from ..telemetry.clock import boottime_ns
from ..telemetry.energy.baseline import (
    Baseline,
    baseline_of,
    mode_of,
    read_baseline,
    write_baseline,
)
from ..telemetry.energy.integral import Totals
from ..telemetry.energy.sampler import PowerSampler
from ..telemetry.power.opening import KEY, find_reader
from ..telemetry.power.reader import PowerReader, PowerSource
from ..telemetry.power.recording import MAX_ROWS, Recording, Row, write_recording
from ..uplink.outbox.owner import is_owned
from .config import OUTBOX, load_config
from .progress import Progress
from .report import check_place, write_json
from .telling import SOCKET

IDLE_S = 60.0
BUSY = 0.1
"""A larger share of the CPUs than this is not what anybody would call idle."""

_LONGEST_S = 86_400.0
_PAUSE_S = 0.2
_GLANCE_S = 0.5  # between two reads of a counter
_Reading = tuple[int, Sequence[float | None]]


class Shown(Struct, frozen=True, kw_only=True):
    """A device's sensor, what it says now, and the idle baseline.

    ``passed`` says why other sensors are not read. ``misfit`` is why the baseline in ``idle``
    does not count here and now.
    """

    board: str | None
    power_mode: str | None
    source: PowerSource
    passed: tuple[str, ...]
    rate_hz: float
    power_w: float | None
    rails_w: dict[str, float | None]
    idle: Baseline | None
    misfit: str | None


class Recorded(Struct, frozen=True, kw_only=True):
    """What a recording holds: rows, how much of its seconds is covered, and faults."""

    out: str
    rows: int
    seconds: float
    coverage: float
    power_w: float | None
    faults: dict[str, int]


class _Device(NamedTuple):
    """A configuration's place, its board and its sensor."""

    state: Path
    board: Detected
    reader: PowerReader
    passed: tuple[str, ...]
    rate_hz: float


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "energy",
        help="read the power sensors, and measure what the board takes when idle",
        description="Read the power sensors that a device's configuration names.",
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    one = _verb(verbs, "show", "say which sensor it is, what it says now, and the idle baseline")
    one.set_defaults(run=_run_show)
    one = _verb(verbs, "idle", "measure the idle baseline, with the daemon ended")
    one.add_argument("--seconds", type=float, default=IDLE_S, metavar="S", help="(60)")
    one.set_defaults(run=_run_idle)
    one = _verb(verbs, "record", "write what the sensor says to a file that can be replayed")
    one.add_argument("--seconds", type=float, required=True, metavar="S")
    one.add_argument("--out", type=Path, required=True, metavar="FILE.csv")
    one.add_argument("--note", metavar="TEXT", help="what the board did meanwhile")
    one.set_defaults(run=_run_record)


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, about: str
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=about)
    parser.add_argument("config", type=Path, metavar="CONFIG.toml")
    parser.add_argument("--rate-hz", type=float, metavar="R", help="instead of the configured rate")
    parser.add_argument(
        "--root", type=Path, default=Path("/"), metavar="PATH", help="where /sys and /usr lie"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write what is found there too")
    return parser


def _run_show(options: argparse.Namespace) -> int:
    check_place(options.json)
    with _opened(options) as device:
        found = _shown(device)
    write_json(options.json, found)
    for line in _shown_text(found):
        print(line if line.isprintable() else ascii(line)[1:-1])  # labels come from files
    return 0


def _run_idle(options: argparse.Namespace) -> int:
    check_place(options.json)
    with _opened(options) as device:
        _check_idle(device)
        found = _measured(device, seconds=_seconds(options))
    file = write_baseline(found, device.state)
    write_json(options.json, found)
    print(f"{file}: {_baseline_text(found)}")
    if found.cpu_share is not None and found.cpu_share > BUSY:
        print(f"warning: the CPUs were {found.cpu_share:.0%} busy: this is not the board at rest")
    if found.faults:
        print(f"warning: {_counted(found.faults)} readings do not count")
    return 0


def _run_record(options: argparse.Namespace) -> int:
    check_place(options.json)
    check_place(options.out)
    with _opened(options) as device:
        found = _recorded(device, options.out, seconds=_seconds(options), note=options.note)
    write_json(options.json, found)
    power = "power not known" if found.power_w is None else f"{found.power_w:.3f} W on average"
    print(f"{found.out}: {found.rows} rows, {found.coverage:.0%} of {found.seconds:.1f} s, {power}")
    return 0


@contextmanager
def _opened(options: argparse.Namespace) -> Iterator[_Device]:
    """Give the device that a configuration describes, with its sensor open."""
    config = load_config(options.config, environ=os.environ)
    base = options.config.resolve().parent
    named = config.device.board
    profile = None if named is None else find_profile(named, base=base)
    board = detect(root=options.root, board=profile)
    power = config.telemetry.power
    rate_hz = power.rate_hz if options.rate_hz is None else options.rate_hz
    if not 0.1 <= rate_hz <= 100:
        raise ConfigError("is not between 0.1 and 100", where="--rate-hz")
    found = find_reader(power, board=board, base=base, root=options.root, clock=boottime_ns)
    with closing(found.reader):
        yield _Device(base / config.device.state_dir, board, found.reader, found.passed, rate_hz)


def _seconds(options: argparse.Namespace) -> float:
    seconds: float = options.seconds
    if not 0 < seconds <= _LONGEST_S:
        raise ConfigError(f"is not between 0 and {_LONGEST_S:g}", where="--seconds")
    return seconds


def _check_idle(device: _Device) -> None:
    """Refuse to measure with a daemon at work."""
    if is_owned(device.state / OUTBOX) or _answers(device.state / SOCKET):
        raise ConfigError(
            "a daemon runs on this state directory",
            where=str(device.state),
            hint="end it first: what it takes would count as idle",
        )


def _answers(path: Path) -> bool:
    """Tell whether somebody listens on a Unix socket."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as asking:
        asking.settimeout(1.0)
        try:
            asking.connect(str(path))
        except OSError:  # nobody does, or the path is too long for anybody to
            return False
    return True


def _needs_sensor(device: _Device) -> PowerSource:
    source = device.reader.source
    if not source.rails:
        why = "; ".join(device.passed) or "the configuration says so"
        raise ConfigError(f"no power sensor is read ({why})", where=f"{KEY}.reader")
    return source


def _watched(sampler: PowerSampler, *, seconds: float) -> None:
    """Let a sampler read for some seconds."""
    begun_s = time.monotonic()
    sampler.start()
    with Progress() as progress:
        while (passed_s := time.monotonic() - begun_s) < seconds:
            sampler.check()
            power_w = sampler.totals().power_w
            now = "-" if power_w is None else f"{power_w:.3f} W"
            progress.show(f"{passed_s:.0f} of {seconds:g} s: {now}")
            time.sleep(min(_PAUSE_S, seconds - passed_s))


def _measured(device: _Device, *, seconds: float) -> Baseline:
    source = _needs_sensor(device)
    psutil.cpu_percent()  # the share is that since the call before
    with closing(PowerSampler(device.reader, rate_hz=device.rate_hz)) as sampler:
        _watched(sampler, seconds=seconds)
        busy = psutil.cpu_percent()
        sampler.check()
        return baseline_of(
            sampler.totals(),
            sampler.recent(),
            source=source,
            board=device.board.hardware,
            power_mode=mode_of(device.board),
            cpu_share=min(1.0, busy / 100),
            at_s=time.time(),
        )


def _recorded(device: _Device, out: Path, *, seconds: float, note: str | None) -> Recorded:
    source = _needs_sensor(device)
    if source.replayed:
        raise ConfigError("plays a recording; there is nothing to record", where=f"{KEY}.reader")
    heard: list[_Reading] = []
    sampler = PowerSampler(
        device.reader, rate_hz=device.rate_hz, hear=lambda *reading: heard.append(reading)
    )
    if seconds * sampler.rate_hz >= MAX_ROWS:
        raise ConfigError(f"more than {MAX_ROWS} rows", where="--seconds")
    with closing(sampler):
        _watched(sampler, seconds=seconds)
    totals = sampler.totals()
    rows = _rows(heard, source)
    write_recording(out, _recording(rows, source, device.board, note=note))
    return Recorded(
        out=str(out),
        rows=len(rows),
        seconds=totals.window_ns / 1e9,
        coverage=totals.coverage,
        power_w=_mean_w(totals),
        faults=totals.faults,
    )


def _rows(heard: Sequence[_Reading], source: PowerSource) -> tuple[Row, ...]:
    """Return seconds and watts; a counter's are the mean since the row before."""
    if source.kind == "power":
        rows = [(at_ns, tuple(map(_finite, said))) for at_ns, said in heard]
    else:
        pairs = itertools.pairwise(heard)
        rows = [
            (at_ns, tuple(_finite(j and j * 1e9 / (at_ns - before_ns)) for j in joules))
            for (before_ns, _), (at_ns, joules) in pairs
        ]
    begun_ns = rows[0][0] if rows else 0
    return tuple(((at_ns - begun_ns) / 1e9, watts) for at_ns, watts in rows)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _recording(
    rows: tuple[Row, ...], source: PowerSource, board: Detected, *, note: str | None
) -> Recording:
    release = f"Jetson Linux {board.l4t}" if board.l4t else f"Linux {platform.release()}"
    return Recording(
        board=board.hardware or "unknown",
        image=release,
        source=source.name,
        scope=source.scope,
        rails=source.rails,
        total=source.total,
        step=source.step if source.kind == "power" else None,
        negative=source.negative,
        note=note,
        rows=rows,
    )


def _mean_w(totals: Totals) -> float | None:
    return totals.total_j * 1e9 / totals.covered_ns if totals.covered_ns else None


def _shown(device: _Device) -> Shown:
    source, board = device.reader.source, device.board
    sampler = PowerSampler(device.reader, rate_hz=device.rate_hz)
    sampler.sample()
    if source.kind == "energy":
        time.sleep(_GLANCE_S)
        sampler.sample()
    totals, idle = sampler.totals(), read_baseline(device.state)
    mode = mode_of(board)
    return Shown(
        board=board.hardware,
        power_mode=mode,
        source=source,
        passed=device.passed,
        rate_hz=sampler.rate_hz,
        power_w=totals.power_w,
        rails_w=dict(zip(source.rails, totals.rails_w, strict=True)),
        idle=idle,
        misfit=None if idle is None else idle.misfit(source, board=board.hardware, power_mode=mode),
    )


def _shown_text(found: Shown) -> Iterator[str]:
    source = found.source
    replayed = ", replayed" if source.replayed else ""
    what = f"{source.name}: {source.kind} of {source.scope}{replayed}"
    yield what if source.rails else "no power sensor is read"
    mode = "not known" if found.power_mode is None else found.power_mode
    yield f"  board       {found.board or 'not known'}, power mode {mode}"
    yield from (f"  not read    {why}" for why in found.passed)
    if source.rails:
        unit = "W" if source.kind == "power" else "J"
        step = "not known" if source.step is None else f"{source.step:.3g} {unit}"
        yield f"  step        {step}; read {found.rate_hz:.2f} times a second"
    for label, power_w in found.rails_w.items():
        inside = "" if label in source.total else "  (not in the total)"
        yield f"  {label:<20} {_watts(power_w)}{inside}"
    if source.total:
        yield f"  {'total':<20} {_watts(found.power_w)}"
    idle = "not measured: hedge energy idle" if found.idle is None else _baseline_text(found.idle)
    yield f"  idle        {idle}"
    if found.misfit is not None:
        yield f"              does not count: {found.misfit}"


def _watts(power_w: float | None) -> str:
    return "-" if power_w is None else f"{power_w:9.3f} W"


def _baseline_text(found: Baseline) -> str:
    busy = "" if found.cpu_share is None else f", CPUs {found.cpu_share:.0%} busy"
    replayed = ", replayed" if found.replayed else ""
    return (
        f"{found.power_w:.3f} W ± {found.uncertain_w:.3f} ({found.samples} readings of "
        f"{found.source} in {found.window_s:.1f} s, {found.coverage:.0%} covered{busy}{replayed})"
    )


def _counted(faults: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(faults.items()))
