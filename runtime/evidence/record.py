"""What `hedge evidence fit` found, as it stands in its JSON, and the table that shows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Literal

from msgspec import Struct

from ...models.calibration.repeats import copies_sentence
from ..bench.machine import Machine

FORMAT = 1
MEASURES: Mapping[str, str] = MappingProxyType(
    {"ece_prob": "ECE of max p", "brier": "Brier", "log_score_nats": "log score"}
)

Place = Literal["graph", "manifest"]
"""Where a model's evidence is kept."""


class Quality(Struct, frozen=True, kw_only=True):
    """How right probabilities are, and how honest; ``ece_vacuity`` needs evidence."""

    accuracy: float
    ece_prob: float
    ece_vacuity: float | None
    brier: float
    log_score_nats: float


class Scored(Struct, frozen=True, kw_only=True):
    """A score by which one may gate. ``more`` is its AUGRC less vacuity's, 95 % from low to high.

    Below 0 it is the better one; clearly so if ``high`` is too.
    """

    name: str
    aurc: float
    augrc: float
    more: float
    low: float
    high: float


class Worse(Struct, frozen=True, kw_only=True):
    """A measure of the probabilities that evidence made worse, on the rows held out.

    ``than`` the model as it was before, or than a temperature alone makes it.
    """

    measure: Literal["ece_prob", "brier", "log_score_nats"]
    than: Literal["before", "temperature"]
    was: float
    now: float


class Measured(Struct, frozen=True, kw_only=True):
    """What the held-out rows, whose classes are known, say; ``scores`` begin with vacuity.

    ``scaled`` is what a temperature alone makes of it, fitted on the rows that teach. ``resampled``
    is what the intervals take as independent, of which there are ``units``. ``advice`` says in
    words what follows from what is ``worse``.
    """

    before: Quality
    after: Quality
    temperature: float
    scaled: Quality
    scores: tuple[Scored, ...]
    resampled: Literal["row", "group"]
    units: int
    worse: tuple[Worse, ...]
    advice: str


class EvidenceFit(Struct, frozen=True, kw_only=True):
    """A model that got evidence.

    ``taught_by`` is "labels", or the proxy. ``place`` says whether the head is in the graph or in
    the manifest. ``unused_rows`` are of the half that teaches too: so many numbers were enough
    without them. ``tried`` is what each choice of features reached, held out: AUGRC, or the
    divergence from the proxy in nats, which is ``divergence_nats`` on the rows held out for good.
    ``left_out`` rows were seen before; ``filtered`` ones a filter drops; ``copies`` are equal to
    another row, and left out too, ``torn`` of these others being there under more than one class.
    """

    format: int
    bundle: str
    version: str
    new_version: str
    out: str
    digest: str
    part: Literal["edge", "cloud"]
    model: str
    place: Place
    taught_by: str
    taught_rows: int
    unused_rows: int
    held_rows: int
    divided_by: Literal["group", "row"]
    left_out: int
    filtered: int
    copies: int
    torn: int
    seed: int
    weights: dict[str, float]
    bias: float
    temperature: float
    tried: dict[str, float]
    labels_different: int
    divergence_nats: float | None
    measured: Measured | None
    calibration_dropped: bool
    machine: Machine

    def __str__(self) -> str:
        return "\n".join(_text(self))


def plainer(measured: Measured) -> Iterator[str]:
    """Yield in words which plainer scores are better than vacuity, and how sure that is."""
    own = measured.scores[0]
    best = min(measured.scores[1:], key=lambda one: one.augrc)
    clearly = [one.name for one in measured.scores[1:] if one.high < 0]
    if clearly:
        names = " and ".join(clearly)
        yield f"plainer and clearly better here: {names}. Let hedge calibrate choose the score"
    elif best.augrc < own.augrc:
        yield (
            f"{best.name} is plainer and a little better here, within what chance does: "
            f"{best.augrc:.5f} to {own.augrc:.5f}"
        )
    else:
        yield "no plainer score is better on these rows"


def _text(found: EvidenceFit) -> Iterator[str]:
    yield (
        f"{found.bundle} {found.version} -> {found.new_version}, {found.part} {found.model}: "
        f"evidence learnt from {found.taught_by}, kept in the {found.place}"
    )
    left = f"; {found.left_out} left out that were seen before" if found.left_out else ""
    filtered = f"; {found.filtered} that a filter drops" if found.filtered else ""
    yield (
        f"  {found.taught_rows} rows taught, measured on {found.held_rows} others, divided by "
        f"{found.divided_by}, seed {found.seed}{left}{filtered}"
    )
    if found.unused_rows:
        yield f"  {found.unused_rows} rows more might have taught: so many are not needed"
    if found.copies:
        rows = found.taught_rows + found.unused_rows + found.held_rows + found.copies
        yield f"  {copies_sentence(found.copies, found.torn, rows=rows)}: each row counts once"
    yield f"  labels that are different now: {found.labels_different}"
    if found.divergence_nats is not None:
        yield f"  divergence from the proxy, per row: {found.divergence_nats:.3f} nats"
    if found.measured is not None:
        yield from _measured(found.measured)


def _measured(found: Measured) -> Iterator[str]:
    sides = found.before, found.after, found.scaled
    yield f"  {'':<18}{'before':>10}{'evidence':>10}{f'T = {found.temperature:.2f}':>10}"
    yield _line("accuracy", *(f"{side.accuracy:.2%}" for side in sides))
    yield _line("ECE of max p", *(f"{side.ece_prob:.4f}" for side in sides))
    yield _line("ECE of 1 - u", *(_number(side.ece_vacuity) for side in sides))
    yield _line("Brier", *(f"{side.brier:.4f}" for side in sides))
    yield _line("log score, nats", *(f"{side.log_score_nats:.4f}" for side in sides))
    drawn = f"95 % of {found.units} {found.resampled}s"
    yield f"  {'score':<18}{'AURC':>10}{'AUGRC':>10}{'more':>10}   {drawn}"
    for one in found.scores:
        change = f"{one.more:+.5f}   [{one.low:+.5f}, {one.high:+.5f}]"
        own = one is found.scores[0]
        yield _line(one.name, f"{one.aurc:.5f}", f"{one.augrc:.5f}", "" if own else f"  {change}")
    yield from (f"  {line}" for line in plainer(found))
    yield from (f"  {line}" for line in _worse(found))
    yield f"  {found.advice}"


def _worse(found: Measured) -> Iterator[str]:
    """Yield what became worse, a line for each thing that it is worse than."""
    for than, name in (("before", "before"), ("temperature", f"T = {found.temperature:.2f} alone")):
        changes = [
            f"{MEASURES[one.measure]} {one.was:.4f} to {one.now:.4f}"
            for one in found.worse
            if one.than == than
        ]
        if changes:
            yield f"worse than {name}: {', '.join(changes)}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _line(name: str, *values: str) -> str:
    return f"  {name:<18}" + "".join(f"{value:>10}" for value in values)
