"""What an example achieves, and the table that its page shows."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from hedge.models.bundle import load_bundle
from hedge.runtime.demo_figures import predict

from .running import Ran
from .scene import Scene

Labels = NDArray[np.intp]


class Figures(Struct, frozen=True, kw_only=True):
    """An example's figures.

    Of ``samples`` that were played ``labelled`` have a class; the accuracies are of those, the
    cloud's as if it had been asked for all. ``same_as_offline`` is the share of first answers
    that are what the edge model makes of the same samples in a file. Latencies are from capture,
    in milliseconds; ``cpu_share`` is of one core.
    """

    example: str
    machine: str
    python: str
    seed: int
    effort: float
    seconds: float
    samples: int
    labelled: int
    read: int
    overrun: int
    failed: int
    degraded: int
    unanswered: int
    edge_accuracy: float
    cloud_accuracy: float
    accuracy: float
    escalated_share: float
    same_as_offline: float
    first_ms: dict[str, float | None]
    final_ms: dict[str, float | None]
    cpu_share: float
    rss_mb: float
    bytes_up: int
    more: dict[str, Any]


def figures(scene: Scene, ran: Ran, *, example: str, seed: int, effort: float) -> Figures:
    """Do the sums."""
    bundle = load_bundle(scene.bundle)
    (stream,) = ran.report["streams"]
    tally, known = ran.tally, scene.y >= 0
    assert bundle.manifest.cloud is not None
    cloud = predict(bundle, bundle.manifest.cloud, scene.x)
    edge = predict(bundle, bundle.manifest.edge[0], scene.x)
    answered = tally.route != ""
    return Figures(
        example=example,
        machine=f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        python=platform.python_version(),
        seed=seed,
        effort=effort,
        seconds=round(ran.seconds, 1),
        samples=len(scene.x),
        labelled=int(known.sum()),
        read=stream["read"],
        overrun=stream["routes"]["overrun"],
        failed=stream["routes"]["failed"],
        degraded=int(tally.degraded.sum()),
        unanswered=int((~tally.final).sum()),
        edge_accuracy=_share(tally.first[known] == scene.y[known]),
        cloud_accuracy=_share(cloud[known] == scene.y[known]),
        accuracy=_share(tally.label[known] == scene.y[known]),
        escalated_share=_share(tally.asked),
        same_as_offline=_share(tally.first[answered] == edge[answered]),
        first_ms=_percentiles(stream["latency_ms"]["first"]),
        final_ms=_percentiles(stream["latency_ms"]["final"]),
        cpu_share=round(ran.cpu_share, 4),
        rss_mb=round(ran.rss_bytes / 1e6, 1),
        bytes_up=ran.report["uplink"].get("bytes_up", 0),
        more=_more(scene, ran),
    )


def table(found: Figures) -> str:
    """Return the figures as a page shows them."""
    first, final = found.first_ms, found.final_ms
    rows = [
        ("samples", f"{found.samples}, of which {found.labelled} have a label"),
        ("accuracy, edge only", f"{found.edge_accuracy:.1%}"),
        ("accuracy, cloud only", f"{found.cloud_accuracy:.1%}"),
        ("accuracy, cooperative", f"{found.accuracy:.1%}"),
        ("escalated", f"{found.escalated_share:.1%}"),
        ("read / overrun / failed", f"{found.read} / {found.overrun} / {found.failed}"),
        ("first outcome, p50 / p99", f"{_ms(first['p50'])} / {_ms(first['p99'])} ms"),
        ("final outcome, p50 / p99", f"{_ms(final['p50'])} / {_ms(final['p99'])} ms"),
        ("CPU", _cpu(found)),
        ("memory (RSS)", f"{found.rss_mb:.0f} MB"),
        *_more_rows(found.more),
        ("seed, machine", f"{found.seed}, {found.machine}"),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _more_rows(more: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if (unknown := more.get("without_label")) is not None:
        share = f"{unknown['escalated_share']:.1%} of {unknown['samples']}"
        yield "escalated of what has no label", share
    if "visits" in more:
        after_s = [one for one in more["told_after_s"] if one is not None]
        when = f"{min(after_s, default=0)} to {max(after_s, default=0)} s after they began"
        yield "visits told as events", f"{more['visits_told']} of {more['visits']}, {when}"
        yield "false events / clips", f"{more['false_events']} / {more['clips']}"


def _more(scene: Scene, ran: Ran) -> dict[str, Any]:
    unknown = scene.y < 0
    found: dict[str, Any] = {} if scene.more is None else scene.more(ran.events)
    if unknown.any():
        found["without_label"] = {
            "samples": int(unknown.sum()),
            "escalated_share": _share(ran.tally.asked[unknown]),
        }
    return found


def _share(which: NDArray[np.bool_]) -> float:
    return round(float(which.mean()), 4) if len(which) else 0.0


def _percentiles(latency: dict[str, Any]) -> dict[str, float | None]:
    return {
        name: None if latency[name] is None else round(latency[name], 3) for name in ("p50", "p99")
    }


def _cpu(found: Figures) -> str:
    each_ms = found.cpu_share * found.seconds / found.samples * 1e3
    rate_hz = found.samples / found.seconds
    return f"{found.cpu_share:.0%} of a core at {rate_hz:.0f} a second: {each_ms:.1f} ms a sample"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
