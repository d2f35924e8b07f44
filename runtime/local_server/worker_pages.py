"""What a worker tells: its metrics, whether it lives, and whether asks can come."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Literal

from ...telemetry.clock import Clock, boottime_ns
from ...telemetry.exporters.exposition import Exposition, Family
from ...uplink.far_end.worker_figures import QUANTILES, Figures, ModelFigures, Times
from .page import Page

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
    """Return the figures in Prometheus' text format."""
    page, counts = Exposition(), figures.counters
    gauges = (
        ("connected", "Whether the broker has accepted us.", figures.connected),
        ("ready", "Whether asks can come and will be answered.", figures.ready),
        ("waiting_asks", "Asks in hand, not answered yet.", figures.waiting),
        ("claimed_requests", "Requests of which parts miss.", figures.gathering),
    )
    for name, text, value in gauges:
        page.add(_family(name, "gauge", text), value)
    counters = (
        ("asks_total", "Asks that came.", counts["asks"]),
        ("repeats_total", "Asks that came again.", counts["repeated"]),
        ("refusals_total", "Asks answered by an error.", counts["errors"]),
        ("connects_total", "Connections that the broker took.", counts["connects"]),
        ("sent_bytes_total", "Of topics and payloads.", counts["bytes_up"]),
        ("received_bytes_total", "Of topics and payloads.", counts["bytes_down"]),
    )
    for name, text, value in counters:
        page.add(_family(name, "counter", text), value)
    _drops(page, counts)
    _models(page, figures)
    return page.text()


def _family(
    name: str, kind: Literal["counter", "gauge", "summary"], text: str, *labels: str
) -> Family:
    return Family(f"hedge_worker_{name}", kind, text, labels)


def _drops(page: Exposition, counts: Mapping[str, int]) -> None:
    family = _family("dropped_total", "counter", "Messages that came to nothing.", "reason")
    for counter, reason in _DROPS.items():
        page.add(family, counts[counter], reason=reason)


def _models(page: Exposition, figures: Figures) -> None:
    ready = _family("model_ready", "gauge", "Whether the model is there.", "model")
    answers = _family("answers_total", "counter", "Asks answered.", "model")
    batches = _family("batches_total", "counter", "Calls of the model.", "model")
    answer = _family("answer_seconds", "summary", "From an ask's arrival to its answer.", "model")
    call = _family("model_seconds", "summary", "The model alone, by batch.", "model")
    for one in figures.models:
        page.add(ready, one.away is None, model=one.name)
        page.add(answers, one.answers.count, model=one.name)
        page.add(batches, one.batches, model=one.name)
        _times(page, answer, one.answers, model=one)
        _times(page, call, one.calls, model=one)


def _times(page: Exposition, family: Family, times: Times, *, model: ModelFigures) -> None:
    quantiles = list(zip(QUANTILES, times.quantiles_s, strict=True))
    page.add_summary(family, quantiles, count=times.count, total=times.sum_s, model=model.name)
