"""Teaching filters: what a model said of its inputs is all that they learn from.

A skip filter learns which rows matter, a reuse filter which pairs have the same result. Both are
stopped where rows that do not teach stop getting better, and are then as they were at their best.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ..fitting import repeatable
from .authors import authors_net
from .nets import Joint, ReuseHead, SkipHead
from .ours import our_net
from .view import View

_BEGIN = 4096  # rows that the standardisation looks at
_RUN = 256  # rows at a time, where nothing is learnt
_MARGIN = 1.0
_EVERY = 5  # epochs between two lines that tell how far it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """How a filter is taught, at most ``epochs`` long.

    It ends after ``patience`` epochs in which the rows held out have not got better.
    """

    epochs: int = 60
    batch: int = 64
    rate: float = 2e-3
    decay: float = 1e-3
    patience: int = 10
    optimiser: Literal["adamw", "rmsprop"] = "adamw"


AUTHORS = Lesson(epochs=20, batch=32, rate=1e-3, decay=0.0, patience=20, optimiser="rmsprop")
"""The authors' own: RMSprop, 20 epochs, the best of which counts."""


class Part(NamedTuple):
    """Rows x (n, *shape) as the graph is fed them, and what there is to learn of them.

    For skip that is which matter to each task, (n, T) bool; for reuse their results, (n,).
    """

    x: NDArray[Any]
    target: NDArray[Any]


class Taught(NamedTuple):
    """A filter, what it reached on the rows held out, and after how many epochs."""

    net: SkipHead | ReuseHead
    loss: float
    epochs: int


def features(
    seen: tuple[View, ...],
    *,
    vocabulary: int = 0,
    whose: Literal["ours", "authors"] = "ours",
    width: int | None = None,
) -> Joint:
    """Return the feature nets for what is ``seen`` of a sample, as one: ours, or the authors'."""
    make = our_net if whose == "ours" else authors_net
    kept = {} if width is None else {"width": width}
    return Joint([(one, make(one, vocabulary=vocabulary, **kept)) for one in seen])


def vocabulary_of(x: NDArray[Any]) -> int:
    """Return how many tokens a table needs for the ids ``x`` (n, L)."""
    return int(x.max()) + 1


def teach_skip(
    make: Callable[[], Joint],
    taught: Part,
    held: Part,
    *,
    lesson: Lesson | None = None,
    seed: int = 0,
    say: Callable[[str], None],
) -> Taught:
    """Teach which rows matter: the mean binary cross-entropy over rows and tasks.

    The same seed gives the same weights on the same machine.
    """
    tasks = taught.target.shape[1]
    course = _Course(taught, held, _skip_loss, lesson or Lesson(), say)
    return _teach(lambda: SkipHead(make(), tasks), course, seed=seed)


def teach_reuse(
    make: Callable[[], Joint],
    taught: Part,
    held: Part,
    *,
    lesson: Lesson | None = None,
    seed: int = 0,
    say: Callable[[str], None],
) -> Taught:
    """Teach which rows have the same result: the contrastive loss over all pairs of a batch.

    Pairs that are the same count as much as pairs that differ.
    """
    course = _Course(taught, held, _reuse_loss, lesson or Lesson(), say)
    return _teach(lambda: ReuseHead(make()), course, seed=seed)


def run(net: nn.Module, x: NDArray[Any]) -> NDArray[np.float32]:
    """Return what a filter gives, (n, ·), for rows ``x`` (n, *shape)."""
    net.eval()
    with torch.no_grad():
        parts = [net(_tensor(x[at : at + _RUN])).numpy() for at in range(0, len(x), _RUN)]
    found: NDArray[np.float32] = np.concatenate(parts)
    return found


def contrastive(keys: Tensor, b: Tensor, results: Tensor) -> Tensor:
    """Return the contrastive loss over all pairs of ``keys`` (B, width) of ``results`` (B,).

    The mean of d² over pairs with the same result and that of max(1 - d, 0)² over the others, both
    weighed the same; d = sigmoid(L1 distance + b).
    """
    first, second = torch.triu_indices(len(keys), len(keys), 1)
    d = torch.sigmoid((keys[first] - keys[second]).abs().sum(1) + b)
    differ = results[first] != results[second]
    same, apart = d[~differ].square(), (_MARGIN - d[differ]).clamp(min=0.0).square()
    means = [part.mean() for part in (same, apart) if len(part)]
    return torch.stack(means).mean() if means else d.sum() * 0.0


_Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


def _skip_loss(net: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(net(x), target.float())


def _reuse_loss(net: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    assert isinstance(net, ReuseHead)  # noqa: S101  it has been made here
    return contrastive(net(x), net.b, target)


class _Course(NamedTuple):
    """What is taught by which rows, and how."""

    taught: Part
    held: Part
    loss: _Loss
    lesson: Lesson
    say: Callable[[str], None]


def _teach(make: Callable[[], SkipHead | ReuseHead], course: _Course, *, seed: int) -> Taught:
    with repeatable(seed):
        net = make()
        net.features.begin(_tensor(_some(course.taught.x)))
        return _learn(net, course)


def _learn(net: SkipHead | ReuseHead, course: _Course) -> Taught:
    taught, held, loss, lesson, say = course
    began = time.monotonic()
    optimiser = _optimiser(net, lesson)
    best, since, state = math.inf, 0, copy.deepcopy(net.state_dict())
    epoch = at = 0
    for epoch in range(1, lesson.epochs + 1):
        net.train()
        for rows in _batches(len(taught.x), size=lesson.batch):
            target = torch.from_numpy(taught.target[rows])
            found = loss(net, _tensor(taught.x[rows]), target)
            optimiser.zero_grad()
            torch.autograd.backward(found)
            optimiser.step()
        now = _held_loss(net, loss, held)
        since += 1
        if now < best:
            best, since, at, state = now, 0, epoch, copy.deepcopy(net.state_dict())
        if epoch == 1 or epoch % _EVERY == 0:
            say(f"epoch {epoch}: {now:.4f} on rows held out, {time.monotonic() - began:.0f} s")
        if since >= lesson.patience:
            break
    say(f"epoch {at} of {epoch} was the best: {best:.4f}, {time.monotonic() - began:.0f} s")
    net.load_state_dict(state)
    net.eval()
    return Taught(net, best, epoch)


def _held_loss(net: nn.Module, loss: _Loss, held: Part) -> float:
    net.eval()
    sums, rows = 0.0, 0
    with torch.no_grad():
        for at in range(0, len(held.x), _RUN):
            part = slice(at, at + _RUN)
            target = torch.from_numpy(held.target[part])
            sums += loss(net, _tensor(held.x[part]), target).item() * len(target)
            rows += len(target)
    return sums / rows


def _optimiser(net: nn.Module, lesson: Lesson) -> torch.optim.Optimizer:
    if lesson.optimiser == "rmsprop":
        return torch.optim.RMSprop(net.parameters(), lr=lesson.rate)
    return torch.optim.AdamW(net.parameters(), lr=lesson.rate, weight_decay=lesson.decay)


def _batches(rows: int, *, size: int) -> Iterator[NDArray[np.intp]]:
    """Give the row numbers in a new order; what does not fill a batch is left."""
    order: NDArray[np.intp] = torch.randperm(rows).numpy()
    size = min(size, rows)
    for at in range(0, rows - size + 1, size):
        yield order[at : at + size]


def _some(x: NDArray[Any]) -> NDArray[Any]:
    """Return rows from all over ``x``."""
    return x[:: max(1, len(x) // _BEGIN)]


def _tensor(x: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x)).float()
