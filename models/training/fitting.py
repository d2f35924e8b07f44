"""Fitting a net to rows: the one training loop, seeded and repeatable."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .losses import Loss

_RUN = 1024  # rows at a time, where nothing is learned
_THREADS = 1  # fixed, since sums over another number round otherwise; small nets need no more


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How one net is taught: AdamW on a one-cycle schedule.

    ``net`` makes it; it takes samples (B, *shape) as float32, normalisation inside, and
    gives logits. ``augment`` alters a batch of samples before the net sees it.
    """

    net: Callable[[], nn.Module]
    loss: Loss
    epochs: int
    batch: int = 64
    rate: float = 3e-3
    decay: float = 1e-4
    augment: Callable[[Tensor], Tensor] | None = None


def epochs(full: int, effort: float) -> int:
    """Return how many epochs an ``effort`` is, of a ``full`` number; one at least."""
    return max(1, round(full * effort))


class Material(NamedTuple):
    """Rows to learn from, x (n, *shape) float32 and y (n,) int64, and rows to look at."""

    x: Tensor
    y: Tensor
    check_x: Tensor
    check_y: Tensor


@contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """Within, torch gives the same numbers for the same seed; afterwards it is as it was."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(_THREADS)
        torch.use_deterministic_algorithms(mode=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(mode=strict)
            torch.set_num_threads(threads)


def fit(course: Course, material: Material, *, name: str, say: Callable[[str], None]) -> nn.Module:
    """Make a net and teach it ``material``; return it ready for use.

    At most six times in all a line with epoch, loss, calibration accuracy and time goes to
    ``say``.
    """
    began = time.monotonic()
    net = course.net()
    batch = min(course.batch, len(material.x))
    steps = course.epochs * (len(material.x) // batch)
    optimiser = torch.optim.AdamW(net.parameters(), lr=course.rate, weight_decay=course.decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, course.rate, total_steps=steps)
    for epoch in range(1, course.epochs + 1):
        net.train()
        losses = []
        for rows in _batches(len(material.x), size=batch):
            x = material.x[rows]
            logits = net(x if course.augment is None else course.augment(x))
            loss = course.loss(logits, material.y[rows], (epoch - 1) / course.epochs)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        if epoch % math.ceil(course.epochs / 5) == 0 or epoch == course.epochs:
            right = accuracy(run(net, material.check_x), material.check_y)
            say(
                f"{name}: epoch {epoch}/{course.epochs}, loss {sum(losses) / len(losses):.3f}, "
                f"calibration accuracy {right:.1%}, {time.monotonic() - began:.0f} s"
            )
    return net.eval()


def run(net: nn.Module, x: Tensor) -> Tensor:
    """Return the logits (n, K) of a net for the samples ``x`` (n, *shape)."""
    net.eval()
    with torch.no_grad():
        return torch.cat([net(x[at : at + _RUN]) for at in range(0, len(x), _RUN)])


def accuracy(logits: Tensor, y: Tensor) -> float:
    """Return the share of rows that are right; one logit (n, 1) says class 1 above 0."""
    chosen = logits.argmax(1) if logits.shape[1] > 1 else (logits[:, 0] > 0).long()
    return (chosen == y).float().mean().item()


def _batches(rows: int, *, size: int) -> Iterator[Tensor]:
    """Give the row numbers in a new order, ``size`` at a time; what does not fill one is left."""
    order = torch.randperm(rows)
    for at in range(0, rows - size + 1, size):
        yield order[at : at + size]
