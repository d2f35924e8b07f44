"""The whole page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...report import write_output
from ..measure import named
from ..record import BenchReport
from .course_picture import course_picture
from .document import document
from .energy_picture import energy_picture
from .frontier_picture import frontier_picture
from .latency_picture import latency_picture
from .svg import element, text_of
from .tables import conditions_table, replayed, scenarios_table, variants_table

_MOST = 1000


def page(found: BenchReport) -> str:
    """Return the report as one HTML file; whatever comes from data is escaped."""
    title = f"{found.bundle} {found.version} on {found.board}: hedge bench"
    return document(title, _body(found))


def write_page(path: Path | None, found: BenchReport) -> None:
    """Write the page, whole or not at all; nowhere if ``path`` is None.

    Raises:
        ConfigError: the file cannot be written.
    """
    if path is not None:
        write_output(path, page(found).encode())


def _body(found: BenchReport) -> Iterator[str]:
    mode = "" if found.power_mode is None else f", power mode {found.power_mode}"
    where = f"on {found.board}{mode}"
    yield element("h1", text_of(f"{found.bundle} {found.version} {where}", most=_MOST))
    what = f"digest {found.digest[:16]}; {found.machine}"
    yield element("p", text_of(what, most=_MOST), class_="dim")
    counts = (
        f"seed {found.seed}, {found.rounds} rounds in turn, {found.floor.count} calls of each"
        + _seen(found)
    )
    yield element("p", text_of(counts, most=_MOST), class_="dim")
    if found.warnings:
        warnings = (element("p", text_of(one, most=_MOST)) for one in found.warnings)
        yield element("div", "".join(warnings), class_="warning")
    yield variants_table(found)
    for failed in found.failed:
        what = f"{failed.variant}, {named(failed.threads)}: not measured: {failed.reason}"
        yield element("p", text_of(what, most=_MOST), class_="invalid")
    yield from _pictures(found)
    if found.scenarios:
        yield element("h2", "MLPerf LoadGen")
        yield _note(
            "One query after the other (SingleStream), eight samples a query (MultiStream), "
            "arriving by chance (Server), all at once (Offline). INVALID: not a result to quote."
        )
        yield scenarios_table(found.scenarios)
    if found.before is not None and found.after is not None:
        yield element("h2", "Conditions")
        yield conditions_table(found.before, found.after)


def _seen(found: BenchReport) -> str:
    if not found.seen_rows_left_out:
        return ""
    return f"; {found.seen_rows_left_out} rows that training or calibration saw are left out"


def _pictures(found: BenchReport) -> Iterator[str]:
    yield from _figure(
        "Latency",
        latency_picture(found),
        "How often a sample took how long, from the source's sample to the model's outputs; "
        "every row has a height of its own. Solid line: median; dotted: 99th percentile.",
    )
    mark = replayed() if _is_replayed(found) else ""
    yield from _figure(
        "Energy",
        energy_picture(found),
        _energy_note(found),
        missing="No power source: what a sample costs in joules was not measured.",
        mark=mark,
    )
    yield from _figure(
        "Accuracy and cost",
        frontier_picture(found),
        "Up and to the left is better; bars: 95 % interval of the accuracy. The line joins the "
        "variants that no other beats in both.",
        missing="No data with classes: accuracy was not measured.",
    )
    yield from _figure(
        "While it ran",
        course_picture(found),
        "Shaded: what was being measured. Red: the board says that it slowed down.",
        missing="Neither power nor temperature nor clocks can be read here.",
        mark=mark,
    )


def _energy_note(found: BenchReport) -> str:
    energies = [one.energy for one in found.measured if one.energy is not None]
    if not energies:
        return ""
    sources = ", ".join(dict.fromkeys(energy.source for energy in energies))
    replayed_too = " Its values were recorded elsewhere and are replayed: they tell nothing of "
    return (
        f"Sensor: {sources}, net of the idle power right before each window. Large dot: mean; "
        "bar: its 95 % interval; small dots: windows. Dashed: one step of the sensor, below "
        "which nothing can be told." + (f"{replayed_too}this run." if _is_replayed(found) else "")
    )


def _is_replayed(found: BenchReport) -> bool:
    course = found.course is not None and found.course.replayed
    return course or any(one.energy is not None and one.energy.replayed for one in found.measured)


def _figure(
    title: str, picture: str | None, note: str, *, missing: str = "", mark: str = ""
) -> Iterator[str]:
    shown = "" if picture is None or not mark else f" {mark}"
    yield element("h2", text_of(title) + shown)
    if picture is None:
        yield _note(missing)
        return
    yield element("figure", picture + element("figcaption", text_of(note, most=_MOST)))


def _note(words: str) -> str:
    return element("p", text_of(words, most=_MOST), class_="dim")
