"""From a model's raw outputs to an Opinion: the step between inference and policy.

An `Assessor` is built once per model, binds the right functions, and is then called once
per sample. The batch form gives exactly the same numbers, so that a threshold found on a
data set means the same on the device.
"""

from __future__ import annotations

import math
from typing import Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from .errors import ModelError
from .evidence import (
    LEAST,
    Array,
    Figures,
    Uncertainties,
    alpha_from_logits,
    depth_of,
    depths_of,
    log_probs,
    ones_of,
    row_sums,
    strength,
)
from .evidence_head import HeadForm, alpha_of
from .manifest import Cloud, Edge, EvidenceHead, Head, Output, Score, Scoring
from .records import Opinion
from .scores import Rule, rule_of

INT8_STEP = 1 / 256  # what a quantised softmax counts in


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

    ``classes`` is K. ``score`` is what the policy gates on, its name or, where it needs more,
    a Scoring; None takes vacuity where there is evidence and max_prob where there is none.
    ``precision`` int8 floors probabilities at half a step of 1/256 before their logarithm.
    ``evidence`` says how sure a softmax is, whose outputs then count as an evidential head's.
    ``where`` names the model in errors.

    The evidence of such a table is read where it is needed. Where vacuity gates that is at once,
    and ``probs`` are the mean of the Dirichlet; where another score does, that score and ``probs``
    are of the softmax, and the evidence is read past the gate.

    One of these is for one thread: what `deepen` adds up stands in memory that is kept.

    Raises:
        ModelError: the combination has no meaning, such as vacuity without evidence.
    """

    def __init__(
        self,
        *,
        output: Output,
        head: Head,
        classes: int,
        score: Score | Scoring | None = None,
        precision: Literal["float", "int8"] = "float",
        evidence: EvidenceHead | None = None,
        where: str = "model",
    ) -> None:
        scoring = _scoring(score or default_score(head))
        name = scoring.score
        learnt = evidence is not None
        check(name, output=output, head=head, classes=classes, learnt=learnt, where=where)
        half_step = INT8_STEP / 2 if precision == "int8" else 0.0
        rule = rule_of(scoring, classes=classes, where=where)
        floor, slack = max(half_step, LEAST), 1e-3 + classes * half_step
        gate = _Gate(rule, name)
        given = _Distribution(classes, slack=slack, floor=floor, where=where)
        self._table = None
        if head == "evidential" and evidence is not None:
            form = HeadForm(evidence, classes=classes)
            self._table = _Table(form, given if output == "probabilities" else None)
        self._reader: _Reader
        if self._table is not None and gate.vacuous:
            self._reader = self._table
        elif head == "evidential" and self._table is None:
            self._reader = _Evidence(gate, classes)
        elif output == "probabilities":
            self._reader = _Probabilities(gate, given)
        else:
            self._reader = _Logits(gate, classes)
        self._row = self._reader.row
        self._uncertainties = Uncertainties(classes)
        self._output = output
        self._floor = floor
        self._shape = (classes,)
        self._where = where

    @classmethod
    def of(
        cls, variant: Edge | Cloud, *, classes: int, score: Score | Scoring | None = None
    ) -> Assessor:
        """Return the assessor of a manifest's edge variant or cloud."""
        return cls(
            output=variant.output,
            head=variant.head,
            classes=classes,
            score=score,
            precision=variant.precision if isinstance(variant, Edge) else "float",
            evidence=variant.evidence,
            where=variant.file,
        )

    def assess(self, outputs: Array) -> Opinion:
        """Return the opinion on one sample from its raw ``outputs`` (K,).

        ``probs`` and ``alpha`` are fresh arrays in the outputs' dtype (float32 for any but
        float64). Of a table's evidence what the gate has no need of is left to `deepen`.

        Raises:
            ModelError: the shape is not (K,), an output is NaN or infinite, or the outputs
                should be a distribution and are none.
        """
        if outputs.shape != self._shape:
            raise self._misshapen(outputs, f"{self._shape}")
        if outputs.dtype.char not in "fd":
            outputs = outputs.astype(np.float32)
        # Squares cannot cancel: finite, unless an output is not (or is beyond 1e18). The sum of
        # a distribution says as much.
        if self._output == "logits" and not math.isfinite(outputs.dot(outputs)):
            require_finite(outputs, where=self._where)
        return self._row(outputs)

    def deepen(self, opinion: Opinion, outputs: Array) -> Opinion:
        """Return the ``opinion`` on ``outputs`` (K,) with all evidence filled in, if any."""
        alpha, mean, vacuity = opinion.alpha, opinion.probs, opinion.vacuity
        if vacuity is None:
            if self._table is None:
                return opinion
            if outputs.dtype.char not in "fd":
                outputs = outputs.astype(np.float32)
            mean, vacuity = self._table.read(outputs)
        total = mean.size / vacuity
        if alpha is None:
            alpha = alpha_of(mean, total)
        aleatoric, epistemic = self._uncertainties(alpha, mean, total=total)
        return Opinion(
            opinion.probs,
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
        require_finite(outputs, where=self._where)
        return self._reader.batch(outputs)

    def deepen_batch(self, opinions: Opinions, outputs: Array) -> Opinions:
        """Return the ``opinions`` on ``outputs`` (N, K) with all evidence filled in, if any.

        Row by row, since other sums than those of `deepen` would round otherwise.
        """
        alphas, means, vacuity = opinions.alpha, opinions.probs, opinions.vacuity
        if vacuity is None or alphas is None:
            if self._table is None:
                return opinions
            read = self._table.batch(np.ascontiguousarray(outputs, dtype=means.dtype))
            alphas, means, vacuity = read.alpha, read.probs, read.vacuity
        assert alphas is not None  # noqa: S101  a table has evidence
        assert vacuity is not None  # noqa: S101
        totals = (alphas.shape[1] / vacuity).tolist()
        rows = zip(alphas, means, totals, strict=True)
        both = np.array([self._uncertainties(alpha, p, total=total) for alpha, p, total in rows])
        aleatoric, epistemic = both.reshape(-1, 2).T
        return msgspec.structs.replace(
            opinions, vacuity=vacuity, aleatoric=aleatoric, epistemic=epistemic, alpha=alphas
        )

    def logits_batch(self, outputs: Array) -> Array:
        """Return raw ``outputs`` (N, K) as what the scores of logits see: else logarithms."""
        if self._output == "logits":
            return outputs
        return log_probs(outputs / strength(outputs), floor=self._floor)

    def _misshapen(self, outputs: Array, wanted: str) -> ModelError:
        return ModelError(f"outputs have shape {outputs.shape}, not {wanted}", where=self._where)


def require_finite(outputs: Array, *, where: str) -> None:
    """Raise `ModelError` for the first of ``outputs`` (K,) or (N, K) that is NaN or infinite."""
    finite = np.isfinite(outputs)
    if finite.all():
        return
    at = tuple(np.argwhere(~finite)[0].tolist())
    row = f"row {at[0]}, " if len(at) == 2 else ""
    raise ModelError(f"{row}output {at[-1]} is {outputs[at]}", where=where)


def default_score(head: Head) -> Score:
    """Return the score to gate on where nothing else is known."""
    return "vacuity" if head == "evidential" else "max_prob"


def check(
    score: Score, *, output: Output, head: Head, classes: int, learnt: bool = False, where: str
) -> None:
    """Raise `ModelError` for a combination that has no meaning, with what to do instead.

    ``learnt`` says that the evidence is not the graph's own, but of a table for what it gives.
    """
    if classes < 2:
        raise ModelError(f"{classes} classes; at least 2 are needed", where=where)
    if head == "evidential" and output == "probabilities" and not learnt:
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


def _scoring(score: Score | Scoring) -> Scoring:
    return score if isinstance(score, Scoring) else Scoring(score=score)


class _Gate:
    """The score that gates, from whatever a reader has at hand: see `Rule`."""

    def __init__(self, rule: Rule, name: Score) -> None:
        self.name = name
        self.vacuous = rule.of == "alpha"
        self.below = rule.below
        self.beside = rule.beside
        self.at = rule.at
        self.row = rule.row
        self._rows = rule.rows

    def rows(self, probs: Array, depth: Array, answer: NDArray[np.intp]) -> Figures:
        """Score rows: ``probs`` and ``depth`` (N, K), ``answer`` (N,)."""
        if self.below is None:
            return self._rows(probs)
        both = zip(depth, answer, strict=True)
        return np.array([self.below(*one) for one in both], np.float64)


class _Reader(Protocol):
    """How one kind of outputs becomes opinions; both forms do the same arithmetic."""

    def row(self, outputs: Array) -> Opinion:
        """Read one row (K,): the hot path."""

    def batch(self, outputs: Array) -> Opinions:
        """Read rows (N, K)."""


class _Evidence:
    """The logits of an evidential head."""

    def __init__(self, gate: _Gate, classes: int) -> None:
        self._gate = gate
        self._classes = classes
        self._ones = ones_of(classes)

    def row(self, logits: Array) -> Opinion:
        alpha = alpha_from_logits(logits)
        total = alpha.dot(self._ones[alpha.dtype.char])
        probs = alpha / total
        vacuity = self._classes / float(total)
        gate = self._gate
        if gate.vacuous:
            score = vacuity
        elif gate.below is None:
            score = gate.row(probs)
        else:
            score = gate.below(*depth_of(logits))
        return Opinion(probs, score, gate.name, vacuity, None, None, alpha)

    def batch(self, logits: Array) -> Opinions:
        alpha = alpha_from_logits(logits)
        total = row_sums(alpha)
        probs = alpha / total[:, None]
        vacuity = self._classes / total.astype(np.float64)
        gate = self._gate
        score = vacuity if gate.vacuous else gate.rows(probs, *depths_of(logits))
        return Opinions(
            probs=probs, score=score, score_name=gate.name, vacuity=vacuity, alpha=alpha
        )


class _Logits:
    """The logits of a softmax."""

    def __init__(self, gate: _Gate, classes: int) -> None:
        self._gate = gate
        self._ones = ones_of(classes)

    def row(self, logits: Array) -> Opinion:
        depth, answer = depth_of(logits)
        probs = np.exp(depth)
        probs[answer] = 0.0
        rest = float(probs.dot(self._ones[probs.dtype.char]))
        probs[answer] = 1.0
        probs /= np.array(1.0 + rest, probs.dtype)
        gate = self._gate
        if gate.beside is not None:
            score = gate.beside(rest, answer)
        elif gate.at is not None:
            score = gate.at(probs, answer)
        elif gate.below is not None:
            score = gate.below(depth, answer)
        else:
            score = gate.row(probs)
        return Opinion(probs, score, gate.name)

    def batch(self, logits: Array) -> Opinions:
        depth, answer = depths_of(logits)
        at = np.arange(len(logits)), answer
        probs = np.exp(depth)
        probs[at] = 0.0
        total = 1.0 + row_sums(probs).astype(np.float64)
        probs[at] = 1.0
        probs /= total.astype(probs.dtype)[:, None]
        score = self._gate.rows(probs, depth, answer)
        return Opinions(probs=probs, score=score, score_name=self._gate.name)


class _Distribution:
    """Outputs that should be one: their sum may be off by ``slack``, each of K by half a step.

    ``floor`` stands for what is less, before a logarithm.
    """

    def __init__(self, classes: int, *, slack: float, floor: float, where: str) -> None:
        self._least, self._most = max(1.0 - slack, LEAST), 1.0 + slack
        self._ones = ones_of(classes)
        self._floor = {dtype: np.array(floor, dtype) for dtype in ("f", "d")}
        self._enough = floor * (1.0 + 1e-6)  # not below the floor, in any dtype
        self._where = where

    def sum(self, given: Array) -> float:
        """Return the sum of a row (K,)."""
        total = float(given.dot(self._ones[given.dtype.char]))
        if not self._least <= total <= self._most or given.item(given.argmin()) < 0.0:
            raise self._refused(given)
        return total

    def depth_of_given(self, given: Array) -> tuple[Array, np.intp]:
        """Return `depth_of` of a row (K,), once it is known to be a distribution."""
        total, least = float(given.dot(self._ones[given.dtype.char])), given.item(given.argmin())
        if not self._least <= total <= self._most or least < 0.0:
            raise self._refused(given)
        if least < self._enough:
            return self.depth_of(given)
        answer = given.argmax()
        kept = given / given[answer, ...]
        return np.log(kept, kept), answer

    def _refused(self, given: Array) -> ModelError:
        require_finite(given, where=self._where)
        return self._error("")

    def sums(self, given: Array) -> Array:
        """Return the sums (N, 1) of rows (N, K)."""
        total = row_sums(given)
        wide = total.astype(np.float64)
        bad = (wide < self._least) | (wide > self._most) | (given < 0.0).any(axis=1)
        if bad.any():
            raise self._error(f"row {int(np.argmax(bad))}: ")
        return total[:, None]

    def depth_of(self, given: Array) -> tuple[Array, np.intp]:
        """Return `evidence.depth_of` of the logarithms of a row (K,)."""
        kept = np.maximum(given, self._floor[given.dtype.char])
        answer = given.argmax()
        kept = kept / kept[answer, ...]
        return np.log(kept, kept), answer

    def depths_of(self, given: Array) -> tuple[Array, NDArray[np.intp]]:
        """Return `evidence.depths_of` of the logarithms of rows (N, K)."""
        kept = np.maximum(given, self._floor[given.dtype.char])
        answer = given.argmax(axis=1)
        kept = kept / kept[np.arange(len(kept)), answer][:, None]
        return np.log(kept, kept), answer

    def _error(self, row: str) -> ModelError:
        return ModelError(
            f"{row}the outputs are no distribution",
            where=self._where,
            hint='a model that gives logits needs output = "logits"',
        )


class _Probabilities:
    """Probabilities."""

    def __init__(self, gate: _Gate, given: _Distribution) -> None:
        self._gate = gate
        self._given = given

    def row(self, given: Array) -> Opinion:
        probs = given / np.array(self._given.sum(given), given.dtype)
        gate = self._gate
        below = gate.below
        score = gate.row(probs) if below is None else below(*self._given.depth_of(probs))
        return Opinion(probs, score, gate.name)

    def batch(self, given: Array) -> Opinions:
        probs = given / self._given.sums(given)
        score = self._gate.rows(probs, *self._given.depths_of(probs))
        return Opinions(probs=probs, score=score, score_name=self._gate.name)


class _Table:
    """What a softmax gives, logits or else a distribution, and a form that says how sure it is."""

    def __init__(self, form: HeadForm, given: _Distribution | None) -> None:
        self._below = form.below
        self._given = given
        self._depth_of = depth_of if given is None else given.depth_of_given

    def read(self, outputs: Array) -> tuple[Array, float]:
        """Return the mean (K,) of a row's Dirichlet, and its vacuity."""
        mean, total = self._below(*self._depth_of(outputs))
        return mean, mean.size / total

    def row(self, outputs: Array) -> Opinion:
        mean, vacuity = self.read(outputs)
        return Opinion(mean, vacuity, "vacuity", vacuity)

    def batch(self, outputs: Array) -> Opinions:
        if self._given is not None:
            self._given.sums(outputs)  # so that errors name a row
        found = [self.read(row) for row in outputs]
        kept = [mean for mean, _ in found]
        means: Array = np.array(kept, outputs.dtype).reshape(outputs.shape)
        vacuity = np.array([vacuity for _, vacuity in found], np.float64)
        return Opinions(
            probs=means,
            score=vacuity,
            score_name="vacuity",
            vacuity=vacuity,
            alpha=alpha_of(means, means.shape[1] / vacuity[:, None]),
        )
