"""What edge, cloud and both together say to the same rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...models.evidence import Array, Figures
from ...models.fusion import fuse
from ...models.manifest import Calibration, Cloud, Edge
from ...models.measures import Flags
from ...models.opinion import Assessor, Opinions
from ...models.scores import max_prob
from ..policy import Policy


class Asked(NamedTuple):
    """Which rows (N,) the gate escalates, and which of these are fused."""

    escalated: Flags
    fused: Flags


class Answers(NamedTuple):
    """The opinions of both sides, and what the gate makes of them.

    ``asked`` is None without a gate, ``cooperative`` too, and without a cloud.
    """

    edge: Opinions
    cloud: Opinions | None
    asked: Asked | None
    cooperative: Opinions | None


def answers(
    edge_outputs: Array,
    cloud_outputs: Array | None,
    *,
    edge: Edge,
    cloud: Cloud | None,
    calibration: Calibration | None,
) -> Answers:
    """Return the answers to N rows from raw outputs (N, K), decided as the device decides.

    Raises:
        ModelError: outputs are no numbers, or should be a distribution and are none.
    """
    classes = edge_outputs.shape[1]
    assessor = edge_assessor(edge, calibration, classes=classes)
    near = assessor.deepen_batch(assessor.assess_batch(edge_outputs), edge_outputs)
    far = None
    if cloud is not None and cloud_outputs is not None:
        far = Assessor.of(cloud, classes=classes).assess_batch(cloud_outputs)
    asked = None if calibration is None else decided(edge_outputs, assessor, calibration)
    both = None if far is None or asked is None else _together(near, far, asked)
    return Answers(near, far, asked, both)


def edge_assessor(edge: Edge, calibration: Calibration | None, *, classes: int) -> Assessor:
    """Return what reads the edge's outputs, with the score that gates."""
    scoring = None if calibration is None else calibration.scoring
    return Assessor.of(edge, classes=classes, score=scoring)


def decided(outputs: Array, assessor: Assessor, calibration: Calibration) -> Asked:
    """Return what the policy makes of each row of ``outputs`` (N, K)."""
    policy = Policy.of(calibration)
    actions = np.array(
        [
            policy.decide(assessor.assess(row), row, deepen=assessor.deepen)[0].action
            for row in outputs
        ]
    )
    return Asked(actions != "accept", actions == "fuse")


def _together(edge: Opinions, cloud: Opinions, asked: Asked) -> Opinions:
    """Return the final answers; their score is 1 - max p, since no other is common to all."""
    probs = np.where(asked.escalated[:, None], cloud.probs, edge.probs)
    if asked.fused.any():
        probs[asked.fused] = fuse(edge.rows(asked.fused), cloud.rows(asked.fused))
    return Opinions(
        probs=probs,
        score=max_prob(probs),
        score_name="max_prob",
        vacuity=_vacuity(edge, cloud, asked),
    )


def _vacuity(edge: Opinions, cloud: Opinions, asked: Asked) -> Figures | None:
    """Return the vacuity of whoever answered; None where someone has none."""
    if edge.vacuity is None or cloud.vacuity is None or asked.fused.any():
        return None
    mixed: Figures = np.where(asked.escalated, cloud.vacuity, edge.vacuity)
    return mixed
