"""The figures as lines for people, as `trtexec` and TFLite's `benchmark_model` print them."""

from __future__ import annotations

from collections.abc import Iterator

from .accuracy import Accuracy
from .conditions import Conditions, hertz
from .energy_record import Energy
from .latency import Latency
from .measure import named
from .record import BenchReport, Measured
from .scenario_record import ScenarioResult


def lines(found: BenchReport) -> Iterator[str]:
    """Yield the report, line by line; of names and reasons nothing but text."""
    yield from map(printable, _lines(found))


def printable(line: str) -> str:
    """Return the line as a terminal may have it: what is not to be printed is replaced."""
    return "".join(
        one if one.isprintable() else " " if one.isspace() else "\N{REPLACEMENT CHARACTER}"
        for one in line
    )


def plain_number(value: float, *, figures: int = 4) -> str:
    """Return a number in so many figures, never less than its whole part: 163,380."""
    if abs(value) >= 10 ** (figures - 1):
        return f"{value:,.0f}"
    return f"{value:.{figures}g}"


def _lines(found: BenchReport) -> Iterator[str]:
    mode = "" if found.power_mode is None else f" in power mode {found.power_mode}"
    yield f"{found.bundle} {found.version}, digest {found.digest[:16]}, on {found.board}{mode}"
    yield f"{found.machine}"
    yield f"seed {found.seed}, {found.rounds} rounds in turn, {found.floor.count} calls of each"
    if found.preempted_hz is not None:
        yield f"something else took the processor {plain_number(found.preempted_hz)} times a second"
    for when, one in (("before", found.before), ("after", found.after)):
        if one is not None:
            yield f"conditions {when}: {conditions_line(one)}"
    yield from (f"warning: {warning}" for warning in found.warnings)
    for measured in found.measured:
        yield from _measured(measured, first=found.measured[0])
    yield "null backend, the floor of it all"
    yield f"  Latency: {_latency(found.floor)}"
    for scenario in found.scenarios:
        yield from _scenario(scenario)
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
        f"  Opening{by}: open = {plain_number(opening.open_ms)} ms, "
        f"warm-up = {plain_number(opening.warm_up_ms)} ms; "
        f"memory: peak = {peak_mb:.1f} MB, added = {added_mb:.1f} MB"
    )
    yield f"  Latency: {_latency(one.latency)}"
    yield f"  Throughput: {_a_second(one.latency)} samples/s"
    if one is not first:
        yield (
            f"  Ratio to {first.variant}, {named(first.threads)}: {ratio.median:.3f} "
            f"[{ratio.low:.3f}, {ratio.high:.3f}] in {ratio.pairs} pairs"
        )
    yield f"  Accuracy: {_accuracy(one.accuracy)}"
    yield f"  Energy: {energy_line(one.energy)}"


def _latency(given: Latency) -> str:
    times = (
        *(("first", given.first_ms), ("min", given.min_ms), ("max", given.max_ms)),
        *(("mean", given.mean_ms), ("median", given.median_ms)),
        *(("percentile(90%)", given.p90_ms), ("percentile(99%)", given.p99_ms)),
        ("std", given.std_ms),
    )
    told = (f"{what} = {plain_number(value)} ms" for what, value in times)
    return ", ".join([f"count = {given.count}", *told])


def _a_second(given: Latency) -> str:
    return plain_number(1e3 / given.mean_ms, figures=5) if given.mean_ms else "unknown"


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


def energy_line(given: Energy | None) -> str:
    """Return the energy of a sample, and what the figure rests on."""
    if given is None:
        return "no power source"
    source = f"{given.source}, REPLAYED" if given.replayed else given.source
    window = f"{given.samples} samples in {plain_number(given.window_s)} s"
    if given.coverage is not None:
        window += f", coverage {given.coverage:.0%}"
    if given.joules is None:
        finest = given.resolution_j
        of = "" if finest is None else f", the sensor's step is {joules(finest)} a sample"
        return f"not resolvable ({source}, {window}{of})"
    interval = ""
    if given.low_j is not None and given.high_j is not None:
        interval = f" [{joules(given.low_j)}, {joules(given.high_j)}]"
    net = "" if given.idle_w is None else f", net of {given.idle_w:.4g} W idle"
    return f"{joules(given.joules)} a sample{interval} ({source}, {window}{net})"


def joules(value: float) -> str:
    """Return joules with the prefix that fits."""
    for least, factor, unit in ((1.0, 1.0, "J"), (1e-3, 1e3, "mJ"), (0.0, 1e6, "uJ")):
        if abs(value) >= least:
            return f"{value * factor:.4g} {unit}"
    return f"{value:g} J"


def conditions_line(one: Conditions) -> str:
    """Return what the board was in; what is not known is left out."""
    clocks = (
        f"{clock.name} {hertz(clock.now_hz)}"
        + ("" if clock.limit_hz is None else f" of {hertz(clock.limit_hz)}")
        for clock in (*one.cpu, *one.gpu)
        if clock.now_hz is not None
    )
    parts = [
        f"load {one.load:g}",
        *([] if one.power_mode is None else [f"power mode {one.power_mode}"]),
        *([f"governor {', '.join(one.governors)}"] if one.governors else []),
        *clocks,
        *([] if one.hottest_c is None else [f"hottest zone {one.hottest_c:g} °C"]),
        {None: "throttling not known", True: "THROTTLED", False: "not throttled"}[one.throttled],
    ]
    return ", ".join(parts)


def _scenario(one: ScenarioResult) -> Iterator[str]:
    """Yield a scenario as LoadGen judged it; an invalid one is no result, and says so first."""
    parts = " + ".join(one.parts)
    yield f"LoadGen {one.scenario}, {one.variant}, {named(one.threads)}, of {parts}"
    yield f"  Result is: {'VALID' if one.valid else 'INVALID'}{_whys(one)}"
    yield f"  Scored: {scored_line(one)}"
    yield f"  Latency: {_latency(one.latency)}"
    yield (
        f"  Served: {one.samples} samples in {one.queries} queries, {plain_number(one.seconds)} s "
        f"(seed {one.seed}, at least {one.min_duration_s:g} s and {one.min_queries} queries, "
        f"LoadGen {one.loadgen})"
    )
    counts = (
        ("escalated", one.escalated),
        ("answered", one.answered),
        ("dropped", one.dropped),
        ("reused", one.reused),
    )
    known = [f"{count} {what}" for what, count in counts if count is not None]
    if known:
        yield f"  Samples: {', '.join(known)}"
    if one.energy is not None:
        yield f"  Energy: {energy_line(one.energy)}"


def _whys(one: ScenarioResult) -> str:
    return "".join(f"; {why}" for why in one.why_invalid)


def scored_line(one: ScenarioResult) -> str:
    """Return the figure that the scenario is about."""
    throughput = f"{plain_number(one.samples_per_s, figures=5)} samples/s"
    if one.scenario == "Offline":
        return throughput
    of = f"percentile({one.scored_percentile * 100:g}%)"
    scored = "no estimate" if one.scored_ms is None else f"{plain_number(one.scored_ms)} ms"
    bounds = [
        *(
            []
            if one.target_qps is None
            else [f"target {plain_number(one.target_qps, figures=6)} queries/s"]
        ),
        *([] if one.target_latency_ms is None else [f"within {one.target_latency_ms:g} ms"]),
    ]
    return ", ".join([f"{of} = {scored}", throughput, *bounds])
