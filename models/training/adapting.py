"""Adapting an edge model: what the cloud was sure of, where the edge was not, is taught to it.

The loss is `losses.cooperative` over rows with their class, on which the edge was taught before
or might have been, and over pairs, of which only the cloud's answer is known. Where evidence
comes out of the net its distribution is alpha/S, and what evidence it has for the other classes
is taken from it, as in `losses.evidential`. Source: Lu et al., §4.3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from .fitting import repeatable
from .losses import cooperative, dirichlet

Rows = NDArray[np.intp]
_LEAST_SHARE, _MOST_SHARE = 0.25, 0.5  # of a batch that are pairs


class Lessons(NamedTuple):
    """n rows to learn from; the first have a class, the others are pairs.

    ``fed`` gives what the net takes of rows (B, ...). ``y`` (m,) are the classes of the first m
    rows. ``cloud`` (n, K) is what the cloud thinks of each; ``edge_unsure`` and ``cloud_unsure``
    (n,), in [0, 1] and on one scale, are how unsure both are (0 for an edge that does not ask).
    """

    fed: Callable[[Rows], Tensor]
    y: Tensor
    cloud: Tensor
    edge_unsure: Tensor
    cloud_unsure: Tensor

    @property
    def labelled(self) -> int:
        """How many rows have a class."""
        return len(self.y)

    @property
    def pairs(self) -> int:
        """How many are pairs."""
        return len(self.cloud) - len(self.y)


class Effort(NamedTuple):
    """How much is taught: ``steps`` of ``batch`` rows, AdamW on a one-cycle schedule."""

    steps: int
    rate: float
    batch: int = 64


def adapt(
    net: nn.Module, lessons: Lessons, *, xi: float, has_evidence: bool, effort: Effort, seed: int
) -> None:
    """Teach ``net``, which gives logits (B, K), where it stands; what it is fed is not changed.

    ``xi`` is what `losses.cooperative` tells sure from unsure by. ``has_evidence`` says that its
    logits are those of an evidential head. A batch holds as great a share of pairs as there are,
    a quarter at least and a half at most; their part of the loss does not depend on how much
    less unsure the cloud is in the mean. The same ``seed`` gives the same net.
    """
    share = float(np.clip(lessons.pairs / len(lessons.cloud), _LEAST_SHARE, _MOST_SHARE))
    drawn = effort.batch if not lessons.labelled else round(share * effort.batch)
    gap = (lessons.edge_unsure - lessons.cloud_unsure)[lessons.labelled :]
    scale = 1.0 / max(float(gap.mean()), 1e-3)
    random = np.random.default_rng(seed)
    with repeatable(seed):
        optimiser = torch.optim.AdamW(net.parameters(), lr=effort.rate, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, effort.rate, total_steps=effort.steps
        )
        net.train()
        for _ in range(effort.steps):
            known = random.integers(0, max(1, lessons.labelled), effort.batch - drawn)
            pairs = random.integers(lessons.labelled, len(lessons.cloud), drawn)
            rows = np.concatenate((known, pairs))
            logits = net(lessons.fed(rows))
            loss = _loss(
                logits,
                rows,
                lessons,
                xi=xi,
                has_evidence=has_evidence,
                scale=scale,
                split=len(known),
            )
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
        net.eval()


def _loss(
    logits: Tensor,
    rows: Rows,
    lessons: Lessons,
    *,
    xi: float,
    has_evidence: bool,
    scale: float,
    split: int,
) -> Tensor:
    """Return the loss of a batch, whose first ``split`` rows have a class."""
    log_f = (functional.softplus(logits) + 1.0).log() if has_evidence else logits
    parts = []
    for part, y, weight in (
        (slice(None, split), lessons.y[rows[:split]], 1.0),
        (slice(split, None), None, scale),
    ):
        mine = torch.from_numpy(rows[part])
        if not len(mine):
            continue
        found = weight * cooperative(
            log_f[part],
            y,
            cloud=lessons.cloud[mine],
            edge_unsure=lessons.edge_unsure[mine],
            cloud_unsure=lessons.cloud_unsure[mine],
            xi=xi,
        )
        if has_evidence:
            named = lessons.cloud[mine].argmax(1) if y is None else y
            found = found + _against_others(log_f[part], named)
        parts.append(found * (len(mine) / len(rows)))
    return torch.stack(parts).sum()


def _against_others(log_alpha: Tensor, y: Tensor) -> Tensor:
    """Return what `losses.dirichlet` adds for the evidence of other classes than ``y`` (B,)."""
    fit = functional.nll_loss(functional.log_softmax(log_alpha, dim=1), y)
    return dirichlet(log_alpha.exp(), y, 1.0) - fit
