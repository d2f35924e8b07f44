"""The whole page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ....models.manifest import Input
from ...bench.page.document import document
from ...bench.page.svg import element, text_of
from ...report import write_output
from ..lines import apart_line, rows_line, speed_lines
from ..maps import Shown
from ..measure import Measured
from ..record import EvidenceReport
from .apart_picture import apart_picture
from .classes_picture import classes_picture
from .curve_pictures import escalation_picture, risk_picture
from .maps_picture import maps_picture
from .reliability_picture import reliability_picture
from .speed_picture import speed_picture
from .style import STYLE
from .tables import classes_table, scores_table, sides_table

_MOST = 2000


def write_page(path: Path | None, found: Measured, spec: Input) -> None:
    """Write the page, whole or not at all; nowhere if ``path`` is None.

    Raises:
        ConfigError: the file cannot be written.
    """
    if path is not None:
        write_output(path, page(found.report, found.shown, spec).encode())


def page(found: EvidenceReport, shown: Sequence[Shown], spec: Input) -> str:
    """Return the report as one HTML file; whatever comes from data is escaped."""
    title = f"{found.bundle} {found.version}: hedge evidence"
    return document(title, _body(found, shown, spec), extra_style=STYLE, images=True)


def _body(found: EvidenceReport, shown: Sequence[Shown], spec: Input) -> Iterator[str]:
    yield element("h1", text_of(f"{found.bundle} {found.version}, edge {found.variant}"))
    yield _note(rows_line(found))
    yield _note(f"digest {found.digest[:16]}; {found.machine}")
    if found.concerns:
        concerns = (element("p", text_of(_capital(one), most=_MOST)) for one in found.concerns)
        yield element("div", "".join(concerns), class_="warning")
    said = (element("p", text_of(_capital(one), most=_MOST)) for one in found.findings)
    yield element("div", "".join(said), class_="findings")
    yield from _measures(found)
    yield from _cooperation(found)
    yield from _others(found, shown, spec)


def _measures(found: EvidenceReport) -> Iterator[str]:
    yield element("h2", "How right, and how honest")
    yield sides_table(found)
    yield _note(
        "ECE: how far confidence is from accuracy. Brier and log score (nats): how good the "
        "probabilities are. AURC and AUGRC: how well the score ranks what is wrong behind what is "
        "right. Less is better in all of them. Cooperative: as the bundle's gate decides, ranked "
        "by 1 - max p."
    )
    yield from _figure(
        "Reliability",
        reliability_picture(found),
        "On the diagonal answers are as right as they claim; below it they claim too much. "
        "A dot is as large as many rows are as sure.",
    )


def _cooperation(found: EvidenceReport) -> Iterator[str]:
    yield element("h2", "Every score as a gate")
    yield scores_table(found)
    yield _note(
        "Part of the gap from edge to cloud that is recovered where so many of the rows escalate "
        "that score highest; below each figure its 95 % interval. Random: by chance. Oracle: "
        "knows what is wrong. Last column: how much better than the bundle's own score, in points "
        f"of mean accuracy while up to {found.area_up_to:.0%} escalate (without a cloud: AUGRC)."
        + _missing(found)
    )
    yield from _figure(
        "Accuracy against escalation",
        escalation_picture(found),
        "All rows answered, those that score highest by the cloud.",
        missing="The bundle has no cloud model.",
    )
    yield from _figure(
        "Speed against escalation",
        speed_picture(found),
        _sentences(speed_lines(found.speed)),
        missing=_sentences(speed_lines(found.speed)),
    )
    yield from _figure(
        "Risk and coverage",
        risk_picture(found),
        "The edge alone: how often it is wrong where it answers only what it is surest of.",
    )


def _missing(found: EvidenceReport) -> str:
    """Return why scores of the table have no figures."""
    why = [f"{one.title} ({one.missing})" for one in found.scores if one.missing is not None]
    return f" Not here: {', '.join(why)}." if why else ""


def _others(found: EvidenceReport, shown: Sequence[Shown], spec: Input) -> Iterator[str]:
    yield from _figure(
        "In and out of distribution",
        apart_picture(found),
        f"{apart_line(found)}. AUROC: how often a row of another kind scores above an own one; "
        "0.5 is chance." + _made(found),
    )
    yield from _figure(
        "What escalates, by class",
        classes_picture(found),
        "Rows that escalate, by their class (left) and by what the edge takes them for. Blue: the "
        "edge was right.",
        missing="Nothing escalates, the bundle has no gate, or more classes than a matrix shows.",
    )
    yield classes_table(found)
    yield _note("Accepted: the edge's accuracy where the gate lets it answer alone.")
    maps = found.maps
    yield from _figure(
        "Where the uncertainty lies",
        maps_picture(maps, shown, spec),
        f"Over the picture, u · normalise(Σ mean(F) F) of the feature map {maps.layer} "
        f"{maps.shape}: orange where the features lie that count most, and as strong as the edge "
        f"is unsure (u: {maps.uncertainty}).",
        missing=f"No map: {maps.missing}.",
    )


def _made(found: EvidenceReport) -> str:
    if found.apart.how == "other":
        return ""
    return " These rows are made up: give real ones by --out-of-distribution OTHER.npz."


def _sentences(told: Iterable[str]) -> str:
    return " ".join(f"{_capital(one)}." for one in told)


def _capital(told: str) -> str:
    return told[:1].upper() + told[1:]


def _figure(title: str, picture: str | None, note: str, *, missing: str = "") -> Iterator[str]:
    yield element("h2", text_of(title))
    if picture is None:
        yield _note(missing)
        return
    yield element("figure", picture)
    yield _note(note)


def _note(words: str) -> str:
    return element("p", text_of(words, most=_MOST), class_="dim")
