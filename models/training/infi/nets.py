"""What feature nets and heads are made of, whoever's they are.

A feature net makes an embedding (B, width) of samples (B, *shape): a front that is laid down
(layout, figures of a window), a standardisation by the mean and the spread of the rows that teach,
and a body that is learnt. All of it is in the graph. `ours` and `authors` have the bodies. A head
makes of embeddings what a filter gives: `SkipHead` logits, `ReuseHead` keys.

Source: InFi, chapter 3.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from .layout import Arranged, channels_of, clip, numbers_of, picture, series
from .view import View

EMBEDDED = 32  # numbers for a token
_LEAST_SPREAD = 1e-6
_DROPOUT = 0.5


class Standard(nn.Module):
    """Takes the mean away and divides by the spread, along axis 1, both learnt by `begin`."""

    mean: Tensor
    factor: Tensor

    def __init__(self, extent: int, axes: int) -> None:
        super().__init__()
        shape = (1, extent, *(1,) * (axes - 1))
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("factor", torch.ones(shape))

    def begin(self, x: Tensor) -> None:
        """Learn mean and spread of ``x`` (B, extent, …)."""
        others = [axis for axis in range(x.dim()) if axis != 1]
        spread = x.std(others, unbiased=False, keepdim=True)
        self.mean.copy_(x.mean(others, keepdim=True))
        self.factor.copy_(torch.where(spread > _LEAST_SPREAD, 1.0 / spread.clamp(min=1e-9), 1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` (B, extent, …), standardised."""
        return (x - self.mean) * self.factor


class Words(nn.Module):
    """Tokens by id; those that the teaching rows do not have are all the same, and 0."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary + 1, EMBEDDED)
        nn.init.normal_(self.table.weight, std=0.3)
        self.last = vocabulary

    def begin(self, x: Tensor) -> None:
        """Forget the ids that do not occur in ``x`` (B, L)."""
        known = torch.zeros(self.last + 1, dtype=torch.bool)
        known[x.long().clamp(0, self.last).flatten()] = True
        known[self.last] = False
        with torch.no_grad():
            self.table.weight[~known] = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 32, L) of ids ``x`` (B, L)."""
        found: Tensor = self.table(x.long().clamp(0, self.last))
        return found.transpose(1, 2)


class FeatureNet(nn.Module):
    """A front that `begin` fits to the rows that teach, and a body that learns."""

    def __init__(
        self, front: nn.Sequential, body: nn.Module, *, width: int, jitter: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.front, self.body, self.width = front, body, width
        self.jitter = nn.Identity() if jitter is None else jitter

    def begin(self, x: Tensor) -> None:
        """Fit the front to samples ``x`` (B, *shape)."""
        with torch.no_grad():
            for stage in self.front:
                if isinstance(stage, (Standard, Words)):
                    stage.begin(x)
                x = stage(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return embeddings (B, width) of samples ``x`` (B, *shape)."""
        found: Tensor = self.body(self.jitter(self.front(x)))
        return found


class Joint(nn.Module):
    """Several modalities at once: each its part of the sample, the embeddings side by side."""

    def __init__(self, parts: list[tuple[View, FeatureNet]]) -> None:
        super().__init__()
        self.cuts = [view.cut for view, _ in parts]
        self.nets = nn.ModuleList(net for _, net in parts)
        self.width = sum(net.width for _, net in parts)

    def begin(self, x: Tensor) -> None:
        """Fit the fronts to samples ``x`` (B, *shape)."""
        for cut, net in zip(self.cuts, self.nets, strict=True):
            cast("FeatureNet", net).begin(_part(x, cut))

    def forward(self, x: Tensor) -> Tensor:
        """Return embeddings (B, width) of samples ``x`` (B, *shape)."""
        found = [net(_part(x, cut)) for cut, net in zip(self.cuts, self.nets, strict=True)]
        return found[0] if len(found) == 1 else torch.cat(found, 1)


class SkipHead(nn.Module):
    """A filter that drops: one logit a task, (B, tasks); above 0 a sample matters."""

    def __init__(self, features: Joint, tasks: int = 1) -> None:
        super().__init__()
        self.features = features
        self.out = nn.Linear(features.width, tasks)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, tasks) of samples ``x`` (B, *shape)."""
        logits: Tensor = self.out(self.features(x))
        return logits


class ReuseHead(nn.Module):
    """A filter that recognises: keys (B, width), whose L1 distance says how different two are.

    The distance of two samples is d = sigmoid(sum of w·|e - e'| + b). With w ≥ 0 that rises with
    the L1 distance of the keys w∘e, and is ½ where that is -b (`apart`).
    """

    def __init__(self, features: Joint) -> None:
        super().__init__()
        self.features = features
        self.root = nn.Parameter(torch.full((features.width,), features.width**-0.25))
        self.b = nn.Parameter(torch.tensor(-3.0))

    def forward(self, x: Tensor) -> Tensor:
        """Return keys (B, width) of samples ``x`` (B, *shape)."""
        keys: Tensor = self.features(x) * self.root.square()
        return keys

    @property
    def apart(self) -> float:
        """The distance of keys at which two samples are as likely the same as different."""
        return max(0.0, -self.b.item())


def front_of(view: View, vocabulary: int) -> nn.Sequential:
    """Return what brings samples to (B, channels, …), standardised."""
    if view.modality == "text":
        return nn.Sequential(Words(vocabulary))
    if view.modality == "video":
        return nn.Sequential(Arranged(clip(view)), Standard(channels_of(view), 4))
    if view.modality in ("image", "audio") or len(view.shape) == 3:
        return nn.Sequential(Arranged(picture(view)), Standard(channels_of(view), 3))
    if view.is_series:
        return nn.Sequential(Arranged(series(view)), Standard(channels_of(view), 2))
    return nn.Sequential(nn.Flatten(), Standard(numbers_of(view), 1))


def dense(extent: int, body: nn.Module, *, width: int) -> nn.Sequential:
    """Return a body that gives ``extent`` numbers, and the dense layer of ``width`` behind it."""
    return nn.Sequential(body, nn.Linear(extent, width), nn.ReLU(), nn.Dropout(_DROPOUT))


class Frames(nn.Module):
    """A net for each frame, and what they find side by side; the same net may stand for all."""

    def __init__(self, nets: list[nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(dict.fromkeys(nets))
        self.count = len(nets)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, frames · n) of ``x`` (B, C, frames, H, W)."""
        if len(self.nets) == 1:
            together = x.transpose(1, 2).flatten(0, 1)
            found: Tensor = self.nets[0](together)
            return found.reshape(-1, self.count * found.shape[1])
        return torch.cat([net(x[:, :, at]) for at, net in enumerate(self.nets)], 1)


def _part(x: Tensor, cut: tuple[slice, ...]) -> Tensor:
    where = (slice(None), *cut)
    return x[where]
