"""Fitting an evidence head to a classifier's outputs, which themselves stay as they are.

Either from labelled rows, or from a proxy's Dirichlets on rows that need no label. What is
learnt is how much evidence stands behind each answer, `manifest.EvidenceHead`: some weights and
a bias, so few that some hundred rows are enough. Which features it looks at is chosen on rows
held out in turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ..calibration.temperature import fit_temperature
from ..errors import DataError
from ..evidence import Array, Figures
from ..evidence_head import CLIP, FEATURES, LEAST, MARK
from ..manifest import EvidenceHead
from ..measures import Labels, Ranking
from ..resampling import Resampling
from ..weighted import Covered, mean
from .distillation import divergence
from .fitting import repeatable
from .losses import dirichlet

LEAST_ROWS = 50
LEAST_WRONG = 5
KL_WEIGHT = 0.01
"""Of the second term of the evidential loss, at the end. The 1 that the paper's sources have is
for nets, which can take evidence from what is wrong alone. S can only become small, and would do so
everywhere, so that 1 - u is far below the share of right answers."""

_CHEAP = (True, True, False)
_OTHERS = ((True, True, True), (False, False, True))
_SURE = 0.9  # of resampled rows on which a later one has to be better
_RESAMPLES = 200
_FOLDS = 3
_ANNEAL = (0.1, 1.0)
_STEPS = 20  # of L-BFGS, for each part of the annealing
_MANY = 10  # classes, beyond which the evidential loss, whose KL grows with them, counts for less
_DECAY = 1e-3  # of weights of standardised features
_MOST_VALUES = 10_000_000  # (N, K) that are learnt from


class Fitted(NamedTuple):
    """A head, on how many rows it learnt, and what each choice of features reached, held out.

    That is AUGRC where labels taught it, else the divergence from the proxy in nats.
    """

    head: EvidenceHead
    rows: int
    tried: dict[str, float]


class _Material(NamedTuple):
    """Logits (N, K), what there is to learn, (N,) or (N, K), and what stays together, (N,)."""

    logits: Tensor
    target: Tensor
    unit: NDArray[np.intp]

    def rows(self, which: NDArray[Any]) -> _Material:
        at = torch.from_numpy(which)
        return _Material(self.logits[at], self.target[at], self.unit[which])


class _Task(NamedTuple):
    """What is to be made small, given alphas, the logits of 1 - u, targets and progress.

    ``judged`` is what it comes to on N rows that were held out, weighed (B, N): (B,).
    ``temperature`` is one to try beside 1.
    """

    loss: Callable[[Tensor, Tensor, _Material, float], Tensor]
    judged: Callable[[Tensor, Tensor, _Material, Figures], Figures]
    temperature: float


class _Choice(NamedTuple):
    """Which features, and of the softmax at which temperature."""

    taken: tuple[bool, bool, bool]
    temperature: float

    @property
    def name(self) -> str:
        """What it is called in reports."""
        names = (name for name, taken in zip(FEATURES, self.taken, strict=True) if taken)
        return f"{' + '.join(names)} at T = {self.temperature:.2f}"


def fit_head(
    logits: Array,
    y: Labels,
    *,
    unit: NDArray[np.intp] | None = None,
    seed: int = 0,
    data_sha256: str,
) -> Fitted:
    """Return the head for ``logits`` (N, K), or logarithms of probabilities, of classes ``y`` (N,).

    The loss is the evidential one (eq. 13 with its KL term, annealed up to `KL_WEIGHT`), and the
    log score of vacuity as the probability that the answer is wrong: eq. 13 alone leaves vacuity
    at 0 wherever q is calibrated. ``unit`` (N,) are numbers of what is held out together.

    Raises:
        DataError: too few rows, all of them right, or all wrong.
    """
    material = _material(logits, torch.from_numpy(np.asarray(y, np.int64)), unit, seed=seed)
    _check_answers(material)
    temperature = fit_temperature(material.logits.numpy(), material.target.numpy())
    task = _Task(_labelled_loss, _ranking, temperature)
    return _fitted(material, task, seed=seed, data_sha256=data_sha256)


def distil_head(
    logits: Array,
    proxy: Array,
    *,
    unit: NDArray[np.intp] | None = None,
    seed: int = 0,
    data_sha256: str,
) -> Fitted:
    """Return the head by which ``logits`` (N, K) are as sure as alphas ``proxy`` (N, K) are.

    Raises:
        DataError: too few rows.
    """
    target = torch.from_numpy(np.asarray(proxy, np.float64))
    material = _material(logits, target, unit, seed=seed)
    return _fitted(material, _Task(_proxy_loss, _apart, 1.0), seed=seed, data_sha256=data_sha256)


def _labelled_loss(alpha: Tensor, sure: Tensor, rows: _Material, progress: float) -> Tensor:
    wrong = (rows.logits.argmax(1) != rows.target).to(sure.dtype)
    honest = functional.binary_cross_entropy_with_logits(-sure, wrong)
    share = min(1.0, _MANY / alpha.shape[1])
    return share * dirichlet(alpha, rows.target, KL_WEIGHT * progress) + honest


def _proxy_loss(alpha: Tensor, sure: Tensor, rows: _Material, progress: float) -> Tensor:  # noqa: ARG001  a loss
    return divergence(rows.target, alpha).mean()


def _ranking(alpha: Tensor, sure: Tensor, rows: _Material, weights: Figures) -> Figures:  # noqa: ARG001  as `_apart`
    right = (rows.logits.argmax(1) == rows.target).numpy()
    return Covered.by(Ranking.of(-sure.numpy()), right, weights).augrc()


def _apart(alpha: Tensor, sure: Tensor, rows: _Material, weights: Figures) -> Figures:  # noqa: ARG001  as `_ranking`
    return mean(divergence(rows.target, alpha).numpy(), weights)


def _material(
    logits: Array, target: Tensor, unit: NDArray[np.intp] | None, *, seed: int
) -> _Material:
    """Return what is learnt from: of very many values only some rows, drawn by ``seed``."""
    count, classes = logits.shape
    if count < LEAST_ROWS:
        raise DataError(
            f"{count} rows to learn evidence from, at least {LEAST_ROWS} are needed",
            hint="give more rows",
        )
    units = np.arange(count) if unit is None else unit
    wide = torch.from_numpy(np.asarray(logits, np.float64))
    whole = _Material(wide, target, units)
    most = max(_MOST_VALUES // classes, LEAST_ROWS * 10)
    if count <= most:
        return whole
    return whole.rows(np.sort(np.random.default_rng(seed).choice(count, most, replace=False)))


def _check_answers(material: _Material) -> None:
    wrong = int((material.logits.argmax(1) != material.target).sum())
    for count, what in ((wrong, "wrong"), (len(material.target) - wrong, "right")):
        if count < LEAST_WRONG:
            raise DataError(
                f"the model is {what} on {count} of {len(material.target)} rows, and "
                f"{LEAST_WRONG} are needed to learn when it is not to be trusted",
                hint="give more rows, and none that it was trained on",
            )


def _fitted(material: _Material, task: _Task, *, seed: int, data_sha256: str) -> Fitted:
    count = len(material.logits)
    drawings = Resampling(count, group=material.unit, seed=seed, resamples=_RESAMPLES)
    weights = np.vstack((np.ones((1, count)), *drawings.weights()))
    folds, tried = _folds(material.unit, seed=seed), dict[str, float]()

    def reached(choice: _Choice) -> Figures:
        found = _held_out(material, task, choice, folds, weights)
        tried[choice.name] = float(found[0])
        return found

    with repeatable(seed):
        net = _learn(material, task, _chosen(reached, task, classes=material.logits.shape[1]))
    return Fitted(net.head(data_sha256), count, tried)


def _chosen(reached: Callable[[_Choice], Figures], task: _Task, *, classes: int) -> _Choice:
    """Return the simplest choice that none is surely better than, held out.

    First the temperature, 1 being the simplest, then whether the peak is worth its cost.
    """
    best = _Choice(_CHEAP, 1.0)
    least = reached(best)
    others = _OTHERS if classes > 2 else ()  # the peak of two is always the same
    for taken in (_CHEAP, *others):
        at = task.temperature if taken == _CHEAP else best.temperature
        other = _Choice(taken, at)
        if other == best:
            continue
        found = reached(other)
        if np.mean(found[1:] < least[1:]) >= _SURE:
            best, least = other, found
    return best


def _folds(unit: NDArray[np.intp], *, seed: int) -> NDArray[np.intp]:
    """Return for each row by which fold it is held out."""
    units, which = np.unique(unit, return_inverse=True)
    drawn = np.random.default_rng(seed).permutation(len(units)) % _FOLDS
    folds: NDArray[np.intp] = drawn[which]
    return folds


def _held_out(
    material: _Material,
    task: _Task,
    choice: _Choice,
    folds: NDArray[np.intp],
    weights: Figures,
) -> Figures:
    """Return what a choice of features reaches where each row was held out, weighed (B, N)."""
    alpha, sure = torch.ones_like(material.logits), torch.zeros(len(folds), dtype=torch.float64)
    for fold in np.unique(folds):
        held = torch.from_numpy(np.flatnonzero(folds == fold))
        net = _learn(material.rows(np.flatnonzero(folds != fold)), task, choice, anneal=(1.0,))
        with torch.no_grad():
            alpha[held], sure[held] = net(material.logits[held])
    return task.judged(alpha, sure, material, weights)


def _learn(
    material: _Material, task: _Task, choice: _Choice, *, anneal: tuple[float, ...] = _ANNEAL
) -> _Head:
    """Fit all parameters on all rows at once, the loss annealed."""
    net = _Head(material.logits, choice)
    for progress in anneal:
        optimiser: Any = torch.optim.LBFGS(
            net.parameters(),
            max_iter=_STEPS,
            tolerance_change=1e-6,
            line_search_fn="strong_wolfe",
        )

        def closure(progress: float = progress, optimiser: Any = optimiser) -> Tensor:  # noqa: ANN401
            optimiser.zero_grad()
            alpha, sure = net(material.logits)
            loss = task.loss(alpha, sure, material, progress)
            loss = loss + _DECAY * net.weights().square().sum()
            torch.autograd.backward(loss)
            return loss

        optimiser.step(closure)
    return net


class _Head(torch.nn.Module):
    """`evidence_head.HeadForm`, of standardised features, and with gradients.

    Weights are squares: what looks surer never gets less evidence. Confidence and order say nearly
    the same, and weights of both signs would fit their differences, which few rows make.
    """

    def __init__(self, logits: Tensor, choice: _Choice) -> None:
        super().__init__()
        self.roots = torch.nn.Parameter(torch.full((len(FEATURES),), 0.7, dtype=torch.float64))
        self.bias = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.taken = torch.tensor(choice.taken, dtype=torch.float64)
        self.temperature = choice.temperature
        plain = _features(logits, choice.temperature)[1]
        self.mean, self.spread = plain.mean(0), plain.std(0).clamp(min=1e-6)

    def forward(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha (B, K) and ln((S - K)/K) (B,), the logit of 1 - u."""
        q, plain = _features(logits, self.temperature)
        standard = (plain - self.mean) / self.spread
        sure = (standard @ self.weights() + self.bias).clamp(*CLIP)
        return 1.0 + logits.shape[1] * sure.exp()[:, None] * q, sure

    def head(self, data_sha256: str) -> EvidenceHead:
        """Return what was learnt, for features as they are."""
        weights = (self.weights() / self.spread).detach()
        bias = self.bias.detach() - (weights * self.mean).sum()
        return EvidenceHead(
            weights=tuple(weights.tolist()),
            bias=float(bias),
            temperature=self.temperature,
            data_sha256=data_sha256,
        )

    def weights(self) -> Tensor:
        """Return the weights (3,) of the standardised features."""
        return self.roots.square() * self.taken


def _features(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return q (B, K), its greatest marked, and `evidence_head.features` (B, 3)."""
    greatest = functional.one_hot(logits.argmax(1), logits.shape[1]).bool()
    depth = (logits - logits[greatest][:, None]) / temperature
    exp = depth.exp()
    rest = exp.masked_fill(greatest, 0.0).sum(1)
    total = 1.0 + rest
    entropy = rest.log1p() - (exp * depth).sum(1) / total
    share = entropy / math.log(logits.shape[1])
    apart = logits - logits.mean(1, keepdim=True)
    peak = apart[greatest] / apart.pow(4).sum(1).sqrt().sqrt().clamp(min=LEAST)
    columns = -rest.clamp(min=LEAST).log(), -share.clamp(min=LEAST).log(), peak
    q = exp / total[:, None]
    return torch.where(greatest, MARK * q, q), torch.stack(columns, 1)
