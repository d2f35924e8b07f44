"""A snapshot in Prometheus' text format: base units, and nothing where nothing is known."""

from __future__ import annotations

import re
from typing import get_args

from ..energy.figures import NOT_RESOLVABLE, EnergyReport, Joules, StreamEnergy
from ..filter_state import FilterState
from ..gate_state import AuditState, GateState, PromiseIs
from ..ledger import BOUNDS_MS, STAGES, Latency, StreamReport
from ..snapshot import BoardState, Snapshot
from . import families as of
from .exposition import Exposition, Family

_BOUNDS_S = tuple(ms / 1e3 for ms in BOUNDS_MS)
_LEFT = re.compile(r"left_(bytes|messages)_per_(\w+)")


def text(snapshot: Snapshot) -> str:
    """Return a snapshot's metrics, as docs/metrics.md lists them.

    A figure that is None or "not resolvable" is left out; of the latter a gauge says so.
    """
    page = Exposition()
    _run(page, snapshot)
    for report in snapshot.streams.values():
        _stream(page, report)
    for event, count in sorted(snapshot.counts.items()):
        page.add(of.EVENTS, count, event=event)
    page.add(of.CONNECTED, snapshot.connected)
    _uplink(page, snapshot.uplink)
    if snapshot.energy is not None:
        _energy(page, snapshot.energy)
    if snapshot.board is not None:
        _board(page, snapshot.board)
    return page.text()


def _run(page: Exposition, snapshot: Snapshot) -> None:
    page.add(of.BUILD, 1, version=snapshot.version, device=snapshot.device, site=snapshot.site)
    page.add(of.SESSION, snapshot.session)
    page.add(of.UPTIME, snapshot.uptime_s)
    page.add(of.AT, snapshot.at_s)
    page.add(of.RESIDENT, snapshot.rss_bytes)
    page.add(of.CPU, snapshot.cpu_s)


def _stream(page: Exposition, report: StreamReport) -> None:
    who = {"stream": report.stream, "model": report.model}
    for route, count in report.routes.items():
        page.add(of.SAMPLES, count, **who, route=route)
    for end, count in report.ends.items():
        page.add(of.ENDS, count, **who, end=end)
    page.add(of.RESUMED, report.resumed, **who)
    page.add(of.WAITING, report.waiting, **who)
    for reason, count in report.reasons.items():
        page.add(of.REASONS, count, **who, reason=reason)
    for stage in STAGES:
        if stage in report.latency_ms:
            _latency(page, of.STAGE, report.latency_ms[stage], **who, stage=stage)
    for route, latency in report.first_ms.items():
        _latency(page, of.FIRST, latency, **who, route=route)
    for whose, latency in report.final_ms.items():
        _latency(page, of.FINAL, latency, **who, whose=whose)
    _parts(page, report, who)


def _parts(page: Exposition, report: StreamReport, who: dict[str, str | None]) -> None:
    if report.energy is not None:
        _stream_energy(page, report.energy, who)
    if report.source is not None:
        page.add(of.SOURCE_OPEN, report.source.state == "open", **who)
        page.add(of.SOURCE_OPENED, report.source.opened, **who)
        page.add(of.SOURCE_LOST, report.source.lost, **who)
    if report.gate is not None:
        _gate(page, report.gate, who)
    for one in report.filters:
        _filter(page, one, {**who, "filter": one.name})


def _gate(page: Exposition, gate: GateState, who: dict[str, str | None]) -> None:
    page.add(of.GATE, gate.total, **who, score=gate.score)
    page.add(of.GATE_CALIBRATED, gate.calibrated, **who, score=gate.score)
    if gate.budget is not None:
        unit = gate.budget.unit
        page.add(of.BUDGET, gate.budget.per_hour, **who, unit=unit)
        page.add(of.SPENT, gate.budget.last_hour, **who, unit=unit)
        page.add(of.STRAYED, gate.budget.strayed, **who, unit=unit)
    if gate.promise is not None:
        for state in get_args(PromiseIs):
            page.add(of.PROMISE, state == gate.promise.state, **who, state=state)
        page.add(of.PROMISED, round(1 - gate.promise.accuracy, 9), **who)
        page.add(of.MOVES, gate.promise.tightened, **who, way="tightened")
        page.add(of.MOVES, gate.promise.relaxed, **who, way="relaxed")
    if gate.audit is not None:
        _audit(page, gate.audit, who)
    if gate.drift is not None:
        page.add(of.DRIFT, gate.drift.statistic, **who)
        page.add(of.DRIFT_LIMIT, gate.drift.limit, **who)
        page.add(of.DRIFTING, gate.drift.drifting, **who)
        page.add(of.DRIFTS, gate.drift.events, **who)


def _audit(page: Exposition, audit: AuditState, who: dict[str, str | None]) -> None:
    page.add(of.DRAWN, audit.drawn, **who)
    page.add(of.AUDITED, audit.asked, **who)
    page.add(of.JUDGED, audit.judged, **who)
    page.add(of.ERROR, audit.error, **who)
    page.add(of.ERROR_LOW, audit.low, **who)
    page.add(of.ERROR_HIGH, audit.high, **who)


def _filter(page: Exposition, one: FilterState, who: dict[str, str | None]) -> None:
    page.add(of.FILTER_ON, one.state == "on", **who)
    page.add(of.FILTER_SEEN, one.seen, **who)
    page.add(of.FILTERED, one.filtered, **who)
    page.add(of.FILTER_FAILED, one.failed, **who)
    page.add(of.FILTER_LEFT_OUT, one.left_out, **who)
    if one.shadow is not None:
        page.add(of.SHADOWED, one.shadow.drawn, **who)
        page.add(of.SHADOW_JUDGED, one.shadow.judged, **who)
        page.add(of.SHADOW_ERROR, one.shadow.error, **who)
        page.add(of.SHADOW_LOW, one.shadow.low, **who)
        page.add(of.SHADOW_HIGH, one.shadow.high, **who)
        page.add(of.SHADOW_LIMIT, one.shadow.limit, **who)
    if one.cache is not None:
        page.add(of.FILTER_KEYS, one.cache.keys, **who)
        page.add(of.FILTER_EVICTED, one.cache.evicted, **who)
        page.add(of.FILTER_EXPIRED, one.cache.expired, **who)
    if one.labels is not None:
        by_lot = one.labels.by_lot
        page.add(of.LABELS_ASKED, by_lot, **who, why="lot")
        page.add(of.LABELS_ASKED, one.labels.asked - by_lot, **who, why="unsure")
        page.add(of.LABELS_CUT, one.labels.cut, **who)
        page.add(of.LABELS_LEFT, one.labels.left, **who)


def _latency(page: Exposition, family: Family, latency: Latency, **labels: str | None) -> None:
    """Add a histogram; without counts by bucket, its sum and its count alone."""
    below = latency.below
    page.add_histogram(
        family,
        bounds=() if below is None else _BOUNDS_S,
        below=below or (),
        count=latency.count,
        total=((latency.mean or 0.0) * latency.count if latency.sum is None else latency.sum) / 1e3,
        **labels,
    )


def _stream_energy(page: Exposition, energy: StreamEnergy, who: dict[str, str | None]) -> None:
    for stage, share in energy.stages.items():
        _joules(page, of.STAGE_ENERGY, of.STAGE_RESOLVABLE, share.joules, **who, stage=stage)
    for route, share in energy.routes.items():
        _joules(page, of.ROUTE_ENERGY, of.ROUTE_RESOLVABLE, share.joules, **who, route=route)
        page.add(of.ROUTE_BUSY, share.busy_s, **who, route=route)


def _joules(
    page: Exposition, family: Family, resolvable: Family, joules: Joules, **labels: str | None
) -> None:
    """Add an energy, and whether it can be told from nothing; neither where it is unmeasured."""
    if joules is not None:
        page.add(resolvable, joules != NOT_RESOLVABLE, **labels)
    page.add(family, _number(joules), **labels)


def _number(joules: Joules) -> float | None:
    return None if isinstance(joules, str) else joules


def _uplink(page: Exposition, counters: dict[str, int]) -> None:
    for name, count in counters.items():
        if name in of.DROPS:
            what, reason = of.DROPS[name]
            page.add(of.DROPPED, count, what=what, reason=reason)
        elif left := _LEFT.fullmatch(name):
            family = of.LEFT_BYTES if left[1] == "bytes" else of.LEFT_MESSAGES
            page.add(family, count, per=left[2])
        else:
            page.add(of.UPLINK.get(name) or _unknown(name), count)


def _unknown(name: str) -> Family:
    """Return the family of a counter that was added since, so that it is not lost."""
    plain = re.sub(r"[^a-z0-9_]", "_", name.lower())
    return Family(f"hedge_uplink_{plain}_total", "counter", f"Counter {name} of the uplink.")


def _energy(page: Exposition, energy: EnergyReport) -> None:
    page.add(
        of.ENERGY_INFO,
        1,
        source=energy.source,
        scope=energy.scope,
        replayed="true" if energy.replayed else "false",
    )
    page.add(of.POWER, energy.power_w)
    page.add(of.IDLE_POWER, energy.idle_w)
    for family, figure, joules in (
        (of.ENERGY, "total", energy.total_j),
        (of.NET_ENERGY, "net", energy.net_j),
        (of.OTHER_ENERGY, "other", energy.other_j),
    ):
        page.add(family, _number(joules))
        if joules is not None:
            page.add(of.RESOLVABLE, joules != NOT_RESOLVABLE, figure=figure)
    for rail, joules in energy.rails_j.items():
        _joules(page, of.RAIL_ENERGY, of.RAIL_RESOLVABLE, joules, rail=rail)
    page.add(of.RESOLUTION, energy.resolution_j)
    page.add(of.NET_RESOLUTION, energy.net_resolution_j)
    page.add(of.COVERAGE, energy.coverage)
    page.add(of.READINGS, energy.samples)
    page.add(of.ENERGY_WINDOW, energy.window_s)
    page.add(of.UNCHANGED, energy.unchanged_s)
    for reason, count in energy.faults.items():
        page.add(of.FAULTS, count, reason=reason)


def _board(page: Exposition, board: BoardState) -> None:
    page.add(of.TEMPERATURE, board.temp_c, zone=board.zone)
    page.add(of.THROTTLED, board.throttled)
    for cause in board.throttled_by:
        page.add(of.THROTTLED_BY, 1, cause=cause)
    if board.power_mode is not None:
        page.add(of.POWER_MODE, 1, mode=board.power_mode)
