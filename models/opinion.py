"""From a model's raw outputs to an Opinion: the step between inference and policy.

An `Assessor` is built once per model, binds the right functions, and is then called once
per sample. The batch form gives exactly the same numbers, so that a threshold found on a
data set means the same on the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from .errors import ModelError
from .evidence import (
    LEAST,
    Array,
    Figures,
    alpha_from_logits,
    log_probs,
    softmax,
    strength,
    uncertainties,
)
from .manifest import Cloud, Edge, Head, Output, Score
from .records import Opinion
from .scores import SCORES

INT8_STEP = 1 / 256  # what a quantised softmax counts in


class _Gate(NamedTuple):
    """A score as a function of outputs and probabilities, both (N, K) or both (K,)."""

    rows: Callable[[Array, Array], Figures]
    row: Callable[[Array, Array], float]


class Opinions(msgspec.Struct, frozen=True, kw_only=True):
    """The opinions on N samples: `Opinion` with a leading axis."""

    probs: Array
    score: Figures
    score_name: str
    vacuity: Figures | None = None
    aleatoric: Figures | None = None
    epistemic: Figures | None = None
    alpha: Array | None = None

    def rows(self, keep: NDArray[np.bool_]) -> Opinions:
        """Return the opinions on the rows that ``keep`` (N,) marks."""
        given = msgspec.structs.asdict(self)
        kept = {key: value[keep] for key, value in given.items() if isinstance(value, np.ndarray)}
        return msgspec.structs.replace(self, **kept)


class Assessor:
    """Turns the outputs of one model into opinions.

    ``classes`` is K. ``score`` is what the policy gates on; None takes vacuity where there
    is evidence and max_prob where there is none. ``precision`` int8 floors probabilities at
    half a step of 1/256 before their logarithm. ``where`` names the model in errors.

    Raises:
        ModelError: the combination has no meaning, such as vacuity without evidence.
    """

    def __init__(
        self,
        *,
        output: Output,
        head: Head,
        classes: int,
        score: Score | None = None,
        precision: Literal["float", "int8"] = "float",
        where: str = "model",
    ) -> None:
        name = score or default_score(head)
        check(name, output=output, head=head, classes=classes, where=where)
        half_step = INT8_STEP / 2 if precision == "int8" else 0.0
        gate = _gate(name, output=output, floor=max(half_step, LEAST))
        self._reader: _Reader
        if output == "probabilities":
            slack = 1e-3 + classes * half_step
            self._reader = _Probabilities(gate, name, slack=slack, where=where)
        elif head == "evidential":
            self._reader = _Evidence(None if name == "vacuity" else gate, name)
        else:
            self._reader = _Logits(gate, name)
        self._row = self._reader.row
        self._shape = (classes,)
        self._where = where

    @classmethod
    def of(cls, variant: Edge | Cloud, *, classes: int, score: Score | None = None) -> Assessor:
        """Return the assessor of a manifest's edge variant or cloud."""
        return cls(
            output=variant.output,
            head=variant.head,
            classes=classes,
            score=score,
            precision=variant.precision if isinstance(variant, Edge) else "float",
            where=variant.file,
        )

    def assess(self, outputs: Array) -> Opinion:
        """Return the opinion on one sample from its raw ``outputs`` (K,).

        ``probs`` and ``alpha`` are fresh arrays in the outputs' dtype (float32 for any but
        float64).

        Raises:
            ModelError: the shape is not (K,), an output is NaN or infinite, or the outputs
                should be a distribution and are none.
        """
        if outputs.shape != self._shape:
            raise self._misshapen(outputs, f"{self._shape}")
        if outputs.dtype.char not in "fd":
            outputs = outputs.astype(np.float32)
        # Squares cannot cancel: finite, unless an output is not (or is beyond 1e18).
        if not math.isfinite(outputs.dot(outputs)):
            self._require_finite(outputs)
        return self._row(outputs)

    def deepen(self, opinion: Opinion) -> Opinion:
        """Return ``opinion`` with aleatoric and epistemic filled, where there is evidence."""
        alpha, probs, vacuity = opinion.alpha, opinion.probs, opinion.vacuity
        if alpha is None or vacuity is None:
            return opinion
        aleatoric, epistemic = uncertainties(alpha, probs, total=alpha.size / vacuity)
        return Opinion(
            probs,
            opinion.score,
            opinion.score_name,
            vacuity,
            aleatoric,
            epistemic,
            alpha,
        )

    def assess_batch(self, outputs: Array) -> Opinions:
        """Return the opinions on N samples from their raw ``outputs`` (N, K).

        Raises:
            ModelError: as `assess`; the message names the first row at fault.
        """
        if outputs.ndim != 2 or outputs.shape[1:] != self._shape:
            raise self._misshapen(outputs, f"(N, {self._shape[0]})")
        kept = np.float64 if outputs.dtype == np.float64 else np.float32
        # Sums run in another order, and so round otherwise, where rows are not contiguous.
        outputs = np.ascontiguousarray(outputs, dtype=kept)
        self._require_finite(outputs)
        return self._reader.batch(outputs)

    def deepen_batch(self, opinions: Opinions) -> Opinions:
        """Return ``opinions`` with aleatoric and epistemic filled, where there is evidence.

        Row by row, since other sums than those of `deepen` would round otherwise.
        """
        alphas, vacuity = opinions.alpha, opinions.vacuity
        if alphas is None or vacuity is None:
            return opinions
        totals = (alphas.shape[1] / vacuity).tolist()
        rows = zip(alphas, opinions.probs, totals, strict=True)
        both = np.array([uncertainties(alpha, p, total=total) for alpha, p, total in rows])
        aleatoric, epistemic = both.reshape(-1, 2).T
        return msgspec.structs.replace(opinions, aleatoric=aleatoric, epistemic=epistemic)

    def _misshapen(self, outputs: Array, wanted: str) -> ModelError:
        return ModelError(f"outputs have shape {outputs.shape}, not {wanted}", where=self._where)

    def _require_finite(self, outputs: Array) -> None:
        finite = np.isfinite(outputs)
        if finite.all():
            return
        at = tuple(np.argwhere(~finite)[0].tolist())
        row = f"row {at[0]}, " if len(at) == 2 else ""
        raise ModelError(f"{row}output {at[-1]} is {outputs[at]}", where=self._where)


def default_score(head: Head) -> Score:
    """Return the score to gate on where nothing else is known."""
    return "vacuity" if head == "evidential" else "max_prob"


def check(score: Score, *, output: Output, head: Head, classes: int, where: str) -> None:
    """Raise `ModelError` for a combination that has no meaning, with what to do instead."""
    if classes < 2:
        raise ModelError(f"{classes} classes; at least 2 are needed", where=where)
    if head == "evidential" and output == "probabilities":
        raise ModelError(
            "an evidential head needs logits",
            where=where,
            hint='cut the softmax off the graph, or use head = "softmax"',
        )
    if score == "vacuity" and head != "evidential":
        raise ModelError(
            f'score "vacuity" needs an evidential head, and this one is "{head}"',
            where=where,
            hint='use score = "max_prob"',
        )
    if score == "p_norm" and classes == 2:
        raise ModelError(
            'score "p_norm" is the same for every sample of 2 classes',
            where=where,
            hint='use score = "max_prob"',
        )


def _gate(score: Score, *, output: Output, floor: float) -> _Gate:
    of, rows, row = SCORES[score]
    if of == "probs":
        return _Gate(lambda _, probs: rows(probs), lambda _, probs: row(probs))
    if output == "probabilities":
        return _Gate(
            lambda _, probs: rows(log_probs(probs, floor=floor)),
            lambda _, probs: row(log_probs(probs, floor=floor)),
        )
    return _Gate(lambda outputs, _: rows(outputs), lambda outputs, _: row(outputs))


class _Reader(Protocol):
    """How one kind of outputs becomes opinions; both forms do the same arithmetic."""

    def row(self, outputs: Array) -> Opinion:
        """Read one row (K,): the hot path."""

    def batch(self, outputs: Array) -> Opinions:
        """Read rows (N, K)."""


class _Evidence:
    """The logits of an evidential head; ``gate`` is None where vacuity gates."""

    def __init__(self, gate: _Gate | None, name: Score) -> None:
        self._gate = gate
        self._name = name

    def row(self, logits: Array) -> Opinion:
        alpha = alpha_from_logits(logits)
        total = float(np.add.reduce(alpha))
        probs = alpha / total
        vacuity = alpha.size / total
        score = vacuity if self._gate is None else self._gate.row(logits, probs)
        return Opinion(probs, score, self._name, vacuity, None, None, alpha)

    def batch(self, logits: Array) -> Opinions:
        alpha = alpha_from_logits(logits)
        total = strength(alpha)
        probs = alpha / total
        vacuity = alpha.shape[1] / total[:, 0].astype(np.float64)
        score = vacuity if self._gate is None else self._gate.rows(logits, probs)
        return Opinions(
            probs=probs, score=score, score_name=self._name, vacuity=vacuity, alpha=alpha
        )


class _Logits:
    """The logits of a softmax."""

    def __init__(self, gate: _Gate, name: Score) -> None:
        self._gate = gate
        self._name = name

    def row(self, logits: Array) -> Opinion:
        probs = np.exp(logits - logits[logits.argmax()])
        probs /= float(np.add.reduce(probs))
        return Opinion(probs, self._gate.row(logits, probs), self._name)

    def batch(self, logits: Array) -> Opinions:
        probs = softmax(logits)
        return Opinions(probs=probs, score=self._gate.rows(logits, probs), score_name=self._name)


class _Probabilities:
    """Probabilities, whose sum may be off by ``slack``: each of K by half a step."""

    def __init__(self, gate: _Gate, name: Score, *, slack: float, where: str) -> None:
        self._gate = gate
        self._name = name
        self._slack = slack
        self._where = where

    def row(self, given: Array) -> Opinion:
        total = float(np.add.reduce(given))
        if given[given.argmin()] < 0 or total <= 0 or abs(total - 1.0) > self._slack:
            raise self._error("")
        probs = given / total
        return Opinion(probs, self._gate.row(given, probs), self._name)

    def batch(self, given: Array) -> Opinions:
        total = strength(given)
        sums = total[:, 0].astype(np.float64)
        bad = (np.min(given, axis=1) < 0) | (sums <= 0) | (np.abs(sums - 1.0) > self._slack)
        if bad.any():
            raise self._error(f"row {int(np.argmax(bad))}: ")
        probs = given / total
        return Opinions(probs=probs, score=self._gate.rows(given, probs), score_name=self._name)

    def _error(self, row: str) -> ModelError:
        return ModelError(
            f"{row}the outputs are no distribution",
            where=self._where,
            hint='a model that gives logits needs output = "logits"',
        )
