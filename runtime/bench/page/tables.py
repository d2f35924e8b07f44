"""The page's tables: the variants, LoadGen's scenarios, what the board was in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..conditions import Conditions, hertz
from ..energy_record import Energy
from ..lines import scored_line
from ..measure import named
from ..record import BenchReport, Measured
from ..scenario_record import ScenarioResult
from .style import COLOURS
from .svg import element, text_of
from .units import OF_J, OF_MS, shown

_MOST_WHY = 400
_UNKNOWN = "\N{EN DASH}"


def variants_table(found: BenchReport) -> str:
    """Return a row of figures for each variant, the null backend last."""
    heads = (
        *("variant", "median", "p90", "p99", "times the first", "samples/s"),
        *("accuracy", "escalated", "energy a sample"),
    )
    rows = [_variant(one, place) for place, one in enumerate(found.measured)]
    floor = found.floor
    latencies = (_time(floor.median_ms), _time(floor.p90_ms), _time(floor.p99_ms))
    rows.append(["null backend, the floor", *latencies, "", "", "", "", ""])
    return table(heads, rows)


def scenarios_table(scenarios: Sequence[ScenarioResult]) -> str:
    """Return a row for each scenario, and LoadGen's words below an invalid one."""
    heads = ("scenario", "variant", "of", "result", "scored", "median", "queries", "seconds")
    rows = []
    for one in scenarios:
        verdict = element(
            "span",
            "VALID" if one.valid else "INVALID",
            class_="valid" if one.valid else "invalid",
        )
        why = "; ".join(one.why_invalid)
        rows.append(
            [
                text_of(one.scenario),
                text_of(f"{one.variant}, {named(one.threads)}"),
                text_of(" + ".join(one.parts)),
                verdict
                + (element("div", text_of(why, most=_MOST_WHY), class_="dim") if why else ""),
                text_of(scored_line(one), most=_MOST_WHY),
                _time(one.latency.median_ms),
                f"{one.queries}",
                f"{one.seconds:.4g}",
            ]
        )
    return table(heads, rows, left=(1, 2, 3, 4))


def conditions_table(before: Conditions, after: Conditions) -> str:
    """Return what the board was in, before and after."""
    rows = [[text_of(what, most=_MOST_WHY)] for what, _ in _conditions(before)]
    for one in (before, after):
        known = dict(_conditions(one))
        for row, (what, _) in zip(rows, _conditions(before), strict=True):
            row.append(text_of(known.get(what, _UNKNOWN), most=_MOST_WHY))
    return table(("", "before", "after"), rows)


def _conditions(one: Conditions) -> list[tuple[str, str]]:
    throttled = {None: "not known", True: f"YES: {', '.join(one.throttled_by)}", False: "no"}
    return [
        ("throttled", throttled[one.throttled]),
        ("power mode", one.power_mode or _UNKNOWN),
        ("governor", ", ".join(one.governors) or _UNKNOWN),
        *((f"clock, {clock.name}", _clock(clock.now_hz, clock.limit_hz)) for clock in one.cpu),
        *((f"clock, {clock.name}", _clock(clock.now_hz, clock.limit_hz)) for clock in one.gpu),
        *((f"temperature, {zone}", f"{temp_c:g} °C") for zone, temp_c in one.temps_c.items()),
        ("load", f"{one.load:g}"),
    ]


def _clock(now_hz: int | None, limit_hz: int | None) -> str:
    now = _UNKNOWN if now_hz is None else hertz(now_hz)
    return now if limit_hz is None else f"{now} of {hertz(limit_hz)}"


def _variant(one: Measured, place: int) -> list[str]:
    ratio, given, latency = one.ratio, one.accuracy, one.latency
    chip = element("span", class_=f"chip chip{place % COLOURS}")
    note = element("div", text_of(f"{one.precision}, {named(one.threads)}"), class_="dim")
    times = "1" if place == 0 else f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
    return [
        chip + text_of(one.variant) + note,
        _time(latency.median_ms),
        _time(latency.p90_ms),
        _time(latency.p99_ms),
        times,
        f"{1e3 / latency.mean_ms:,.0f}" if latency.mean_ms else _UNKNOWN,
        _share(None if given is None else given.accuracy),
        _share(None if given is None else given.escalated_share),
        _energy(one.energy),
    ]


def _energy(given: Energy | None) -> str:
    if given is None:
        return "no power source"
    told = "not resolvable" if given.joules is None else text_of(shown(given.joules, OF_J))
    return told + (f"<br>{replayed()}" if given.replayed else "")


def replayed() -> str:
    """Return the word that stands beside whatever was recorded elsewhere."""
    return element("span", "REPLAYED", class_="replayed")


def _time(value: float) -> str:
    return shown(value, OF_MS)


def _share(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:.2%}"


def table(
    heads: Iterable[str], rows: Iterable[Sequence[str]], *, left: tuple[int, ...] = ()
) -> str:
    """Return a table of cells that are HTML already."""

    def cells(name: str, texts: Iterable[str]) -> str:
        return "".join(
            element(name, text, class_="left" if place in left else None)
            for place, text in enumerate(texts)
        )

    head = element("thead", element("tr", cells("th", heads)))
    body = element("tbody", "".join(element("tr", cells("td", row)) for row in rows))
    return element("div", element("table", head + body), class_="wide")
