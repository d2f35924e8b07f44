"""What `hedge evidence report` found, as it stands in its JSON."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from ..bench.machine import Machine

FORMAT = 1
SideName = Literal["edge", "cloud", "cooperative"]


class Estimate(Struct, frozen=True, kw_only=True):
    """A figure, and the 95 % interval that a bootstrap gives it; None where it gives none."""

    value: float
    low: float | None
    high: float | None


class Side(Struct, frozen=True, kw_only=True):
    """How right one side is, and how honest; ``cooperative`` is what the gate makes of both.

    ``score`` is what ranks its rows for AURC and AUGRC. ``ece_vacuity`` needs evidence.
    """

    side: SideName
    model: str
    score: str
    accuracy: Estimate
    ece_prob: Estimate
    ece_vacuity: Estimate | None
    brier: Estimate
    log_score_nats: Estimate
    aurc: Estimate
    augrc: Estimate


class AtShare(Struct, frozen=True, kw_only=True):
    """What it brings to escalate the ``share`` of the rows that score highest.

    ``recovered`` is the part of the gap from edge to cloud, None without one.
    """

    share: float
    accuracy: Estimate
    recovered: Estimate | None


class Scored(Struct, frozen=True, kw_only=True):
    """A score of the edge's outputs, or one to compare with: "random", "oracle".

    ``missing`` says why there is nothing of it. ``area`` is the mean accuracy over the shares
    escalated up to the report's ``area_up_to``. ``augrc_less`` and ``area_more`` are by how much
    it is better than the bundle's own, and ``better`` by which of them it clearly is.
    """

    name: str
    title: str
    own: bool = False
    missing: str | None = None
    aurc: Estimate | None = None
    augrc: Estimate | None = None
    area: Estimate | None = None
    at: tuple[AtShare, ...] = ()
    at_gate: AtShare | None = None
    augrc_less: Estimate | None = None
    area_more: Estimate | None = None
    better: tuple[Literal["area", "augrc"], ...] = ()


class Curve(Struct, frozen=True, kw_only=True):
    """Of one score: the accuracy where shares of 0, 1/100 … 1 escalate, the risk where they stay.

    ``accuracy`` is empty without a cloud; ``risk`` is that of the edge, at 1/100 … 1.
    """

    name: str
    accuracy: tuple[float, ...]
    risk: tuple[float, ...]


class Bin(Struct, frozen=True, kw_only=True):
    """One part of a reliability diagram; the means are None of no rows."""

    rows: int
    confidence: float | None
    accuracy: float | None


class Diagram(Struct, frozen=True, kw_only=True):
    """How right rows are that are equally sure, in equal parts of [0, 1]."""

    side: SideName
    confidence: Literal["max p", "1 - u"]
    bins: tuple[Bin, ...]


class Gate(Struct, frozen=True, kw_only=True):
    """What the bundle's calibration does to these rows.

    ``accepted_accuracy`` is that of the rows that the edge answers alone, None of none; ``fused``
    the share answered by both. ``promised`` is the accuracy that calibration promised of them.
    """

    score: str
    total: float
    method: str
    escalated: Estimate
    fused: float
    accepted_accuracy: Estimate | None
    recovered: Estimate | None
    promised: float | None


class Speed(Struct, frozen=True, kw_only=True):
    """Mean time of one sample on this machine, ``rows`` of them by turns, one thread, no network.

    ``cooperative_ms`` is measured with the gate in force, ``cloud_ms`` with every sample through
    the cloud model; ``times`` is how many times as many samples cooperation does in the same
    time. ``gate_ms`` is the opinion and the decision, within the edge's part of cooperation.
    ``equal_share`` is the least share escalated at which cooperation is within a point of the
    cloud, ``equal_times`` the ratio there, from these means.
    """

    rows: int
    edge_ms: float
    gate_ms: float
    cloud_ms: float | None
    cooperative_ms: float | None
    cooperative_share: float | None
    times: Estimate | None
    equal_share: float | None
    equal_times: float | None


class Histogram(Struct, frozen=True, kw_only=True):
    """How a score is spread over the bundle's own rows, and over others, and tells them apart."""

    score: str
    edges: tuple[float, ...]
    inside: tuple[int, ...]
    outside: tuple[int, ...]
    auroc: float


class Apart(Struct, frozen=True, kw_only=True):
    """Rows of another kind beside the bundle's own.

    ``how`` "permuted": made of its own rows, each value of a sample taken from another row.
    ``escalated`` is the share of the others that the gate would escalate.
    """

    how: Literal["other", "permuted"]
    source: str
    inside_rows: int
    outside_rows: int
    seen_left_out: int
    escalated: float | None
    auroc: dict[str, float]
    histograms: tuple[Histogram, ...]


class OfClass(Struct, frozen=True, kw_only=True):
    """Of the rows of one class: how many escalate, and how right who answers them is."""

    label: str
    rows: int
    escalated: float | None
    edge_accuracy: float | None
    accepted_accuracy: float | None
    cloud_accuracy: float | None
    cooperative_accuracy: float | None


class Classes(Struct, frozen=True, kw_only=True):
    """Rows by class; ``taken_for`` counts those that escalate by class and by the edge's label.

    It is empty without a gate, or of too many classes.
    """

    of: tuple[OfClass, ...]
    taken_for: tuple[tuple[int, ...], ...]


class MapCase(Struct, frozen=True, kw_only=True):
    """One picture of the map; ``row`` is its place in the file."""

    row: int
    truth: str
    edge: str
    cloud: str | None
    uncertainty: float
    escalated: bool | None


class Maps(Struct, frozen=True, kw_only=True):
    """The uncertainty maps of eq. 21, or why there are none."""

    missing: str | None
    layer: str | None = None
    shape: tuple[int, ...] | None = None
    uncertainty: str | None = None
    cases: tuple[MapCase, ...] = ()


class EvidenceReport(Struct, frozen=True, kw_only=True):
    """The figures of one report; ``rows`` are those judged.

    ``seen_left_out`` were seen by training or calibration, ``dropped`` by no model, since a
    filter drops them. ``resampled`` is what the intervals take as independent.
    """

    format: int
    bundle: str
    version: str
    digest: str
    variant: str
    data: str
    data_sha256: str
    machine: Machine
    seed: int
    rows: int
    seen_left_out: int
    dropped: int
    resampled: Literal["row", "group"]
    units: int
    resamples: int
    findings: tuple[str, ...]
    concerns: tuple[str, ...]
    sides: tuple[Side, ...]
    gate: Gate | None
    area_up_to: float
    scores: tuple[Scored, ...]
    curves: tuple[Curve, ...]
    reliability: tuple[Diagram, ...]
    speed: Speed
    apart: Apart
    classes: Classes
    maps: Maps
