"""The figures as lines for people, as `trtexec` and TFLite's `benchmark_model` print them."""

from __future__ import annotations

from collections.abc import Iterator

from .accuracy import Accuracy
from .latency import Latency
from .measure import named
from .record import BenchReport, Energy, Measured


def lines(found: BenchReport) -> Iterator[str]:
    """Yield the report, line by line."""
    mode = "" if found.power_mode is None else f" in power mode {found.power_mode}"
    yield f"{found.bundle} {found.version}, digest {found.digest[:16]}, on {found.board}{mode}"
    yield f"{found.machine}"
    yield f"seed {found.seed}, {found.rounds} rounds in turn, {found.floor.count} calls of each"
    for one in found.measured:
        yield from _measured(one, first=found.measured[0])
    yield "null backend, the floor of it all"
    yield f"  Latency: {_latency(found.floor)}"
    if found.seen_rows_left_out:
        yield f"{found.seen_rows_left_out} rows that training or calibration saw are left out"
    for failed in found.failed:
        yield f"{failed.variant}, {named(failed.threads)}: not measured: {failed.reason}"


def _measured(one: Measured, *, first: Measured) -> Iterator[str]:
    opening, ratio = one.opening, one.ratio
    peak_mb, added_mb = opening.peak_bytes / 1e6, opening.added_bytes / 1e6
    yield f"{one.variant}, {named(one.threads)}: {one.precision}, {one.runs_on}"
    by = "" if opening.runs_on == one.runs_on else f" by {opening.runs_on}"
    yield (
        f"  Opening{by}: open = {opening.open_ms:.3g} ms, warm-up = {opening.warm_up_ms:.3g} ms; "
        f"memory: peak = {peak_mb:.1f} MB, added = {added_mb:.1f} MB"
    )
    yield f"  Latency: {_latency(one.latency)}"
    yield f"  Throughput: {1e3 / one.latency.mean_ms:.5g} samples/s"
    if one is not first:
        yield (
            f"  Ratio to {first.variant}, {named(first.threads)}: {ratio.median:.3f} "
            f"[{ratio.low:.3f}, {ratio.high:.3f}] in {ratio.pairs} pairs"
        )
    yield f"  Accuracy: {_accuracy(one.accuracy)}"
    yield f"  Energy: {_energy(one.energy)}"


def _latency(given: Latency) -> str:
    return (
        f"count = {given.count}, first = {given.first_ms:.4g} ms, min = {given.min_ms:.4g} ms, "
        f"max = {given.max_ms:.4g} ms, mean = {given.mean_ms:.4g} ms, "
        f"median = {given.median_ms:.4g} ms, percentile(90%) = {given.p90_ms:.4g} ms, "
        f"percentile(99%) = {given.p99_ms:.4g} ms, std = {given.std_ms:.4g} ms"
    )


def _accuracy(given: Accuracy | None) -> str:
    if given is None:
        return "no data"
    shares = (
        (given.accuracy, f"of {given.rows} rows"),
        (given.accepted_accuracy, "of those accepted"),
        (given.escalated_share, "escalated"),
    )
    return ", ".join(f"{share:.2%} {of}" for share, of in shares if share is not None) or (
        f"{given.rows} rows without classes"
    )


def _energy(given: Energy | None) -> str:
    if given is None:
        return "no power source"
    window = f"{given.samples} samples in {given.window_s:g} s"
    return f"{given.per_sample_j:.4g} J a sample ({given.source}, {window})"
