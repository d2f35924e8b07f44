"""What a worker tells: its metrics, whether it lives, and whether asks can come."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from ...telemetry.clock import Clock, boottime_ns
from ...telemetry.exporters import worker_families as of
from ...telemetry.exporters.exposition import Exposition, Family
from ...uplink.far_end.worker_figures import QUANTILES, Figures, ModelFigures, Times
from .page import Page

_EVICTED = "evicted"
_AWAY = HTTPStatus.SERVICE_UNAVAILABLE
_DROPS = {
    "expired": "expired",
    "retained": "retained",
    "malformed": "malformed",
    "oversized": "oversized",
    "shed": "no_room",
    "parts_no_room": "no_room_for_parts",
    "parts_forgotten": "parts_missing",
}
"""By counter, the reason for which a message came to nothing."""


class WorkerPages:
    """An `Answer`: `/healthz`, `/readyz` and `/metrics`.

    ``figures`` may be called from several threads. After ``stuck_s`` without a turn of the
    worker it is no longer healthy: longer than its model and the set-up of a connection may
    take.
    """

    def __init__(
        self,
        figures: Callable[[], Figures],
        *,
        stuck_s: float = 60.0,
        clock: Clock = boottime_ns,
    ) -> None:
        self._figures = figures
        self._stuck_s = stuck_s
        self._clock = clock

    def __call__(self, path: str) -> Page:
        """Return the page of a path."""
        figures = self._figures()
        match path:
            case "/healthz":
                still_s = (self._clock() - figures.turned_ns) / 1e9
                if still_s > self._stuck_s:
                    return Page(f"stuck for {still_s:.0f} s\n", _AWAY)
                return Page("ok\n")
            case "/readyz":
                why = _unready(figures)
                return Page(why, _AWAY) if why else Page("ok\n")
            case "/metrics":
                return Page(metrics(figures))
            case _:
                text = "there are /healthz, /readyz and /metrics\n"
                return Page(text, HTTPStatus.NOT_FOUND)


def _unready(figures: Figures) -> str:
    """Return a line for each thing that is missing."""
    lines = [f"{one.name}: {one.away}\n" for one in figures.models if one.away is not None]
    if not figures.connected:
        lines.append("not connected to the broker\n")
    elif figures.serving is None:
        lines.append("not subscribed\n")
    return "".join(lines)


def metrics(figures: Figures) -> str:
    """Return the figures in Prometheus' text format, as docs/metrics.md lists them."""
    page, counts = Exposition(), figures.counters
    page.add(of.CONNECTED, figures.connected)
    page.add(of.READY, figures.ready)
    page.add(of.WAITING, figures.waiting)
    page.add(of.CLAIMED, figures.gathering)
    page.add(of.ASKS, counts["asks"])
    page.add(of.REPEATS, counts["repeated"])
    page.add(of.REFUSALS, counts["errors"])
    page.add(of.CONNECTS, counts["connects"])
    page.add(of.SENT, counts["bytes_up"])
    page.add(of.RECEIVED, counts["bytes_down"])
    for counter, reason in _DROPS.items():
        page.add(of.DROPPED, counts[counter], reason=reason)
    for model in figures.models:
        _model(page, model)
    return page.text()


def _model(page: Exposition, one: ModelFigures) -> None:
    page.add(of.MODEL_READY, one.away is None, model=one.name)
    page.add(of.ANSWERS, one.answers.count, model=one.name)
    page.add(of.BATCHES, one.batches, model=one.name)
    _times(page, of.ANSWER, one.answers, model=one.name)
    _times(page, of.CALL, one.calls, model=one.name)
    for fate, count in (one.pairs or {}).items():
        if fate == _EVICTED:  # was kept before
            page.add(of.EVICTED, count, model=one.name)
        else:
            page.add(of.PAIRS, count, model=one.name, fate=fate)


def _times(page: Exposition, family: Family, times: Times, *, model: str) -> None:
    quantiles = list(zip(QUANTILES, times.quantiles_s, strict=True))
    page.add_summary(family, quantiles, count=times.count, total=times.sum_s, model=model)
