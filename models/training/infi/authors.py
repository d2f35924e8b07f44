"""The feature nets of InFi's authors, to be compared with.

Source: InFi, chapter 3, and the authors' published nets, whose image net has 24,687 parameters
with its head.
"""

from __future__ import annotations

from torch import Tensor, nn

from .layout import channels_of, last_axis, places
from .nets import EMBEDDED, FeatureNet, Frames, dense, front_of
from .view import View

AUTHORS_WIDTH = 200
_AUTHORS_DENSE = 128
_FILTERS = (32, 64)


def authors_net(view: View, *, vocabulary: int = 0, width: int = AUTHORS_WIDTH) -> FeatureNet:
    """Return the authors' feature net for samples that are seen as ``view``.

    Text: an embedding of 32 and its maximum over the tokens. Image and audio: two residual
    blocks of separable convolutions and the maximum over all places; video: such blocks for each
    frame. Vector and feature map: dense 128 over the last axis, flattened. Then dense, ReLU and
    dropout. ``vocabulary`` is how many tokens there are.
    """
    if view.modality == "vector" and 1 in view.shape:  # one channel is a vector to them
        view = view._replace(layout=None)
    front = front_of(view, vocabulary)
    if view.modality == "text":
        return FeatureNet(front, dense(EMBEDDED, Highest(), width=width), width=width)
    if view.modality in ("image", "audio"):
        conv = _authors_conv(view)
        return FeatureNet(front, dense(_FILTERS[-1], conv, width=width), width=width)
    if view.modality == "video":
        frames = Frames([_authors_conv(view) for _ in range(view.shape[0])])
        extent = _FILTERS[-1] * view.shape[0]
        return FeatureNet(front, dense(extent, frames, width=width), width=width)
    *rows, last = last_axis(view)
    linear = nn.Sequential(LastAxis(), nn.Linear(last, _AUTHORS_DENSE), nn.Flatten())
    extent = _AUTHORS_DENSE * (rows[0] if rows else 1)
    return FeatureNet(front, dense(extent, linear, width=width), width=width)


class LastAxis(nn.Module):
    """Brings (B, channels, …) to (B, places, channels); a vector stays as it is."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` with its channels last."""
        return x if x.dim() == 2 else x.flatten(2).transpose(1, 2)


class Highest(nn.Module):
    """The maximum over all places."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C) of ``x`` (B, C, …)."""
        return x.flatten(2).amax(2)


class _ChannelNorm(nn.LayerNorm):
    """Normalises over the channels of (B, C, H, W), at each place by itself."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  the base's own name
        found: Tensor = super().forward(input.permute(0, 2, 3, 1))
        return found.permute(0, 3, 1, 2)


def _step(channels: int, filters: int, *, side: int, stride: int = 1) -> nn.Sequential:
    """Return the authors' step: ReLU, a separable convolution, and a norm over the channels."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(
            channels, channels, side, stride=stride, padding=side // 2, groups=channels, bias=False
        ),
        nn.Conv2d(channels, filters, 1),
        _ChannelNorm(filters, eps=1e-3),
    )


class _Block(nn.Module):
    """The authors' residual block: two steps and a pool beside a strided shortcut.

    ``side`` are the rows and columns of what it sees, which the pool pads as Keras' "same" does.
    """

    def __init__(self, channels: int, filters: int, *, side: tuple[int, int]) -> None:
        super().__init__()
        self.steps = nn.Sequential(
            _step(channels, filters, side=3), _step(filters, filters, side=3)
        )
        self.shortcut = _step(channels, filters, side=1, stride=2)
        self.pool = nn.MaxPool2d(3, 2, padding=(side[0] % 2, side[1] % 2), ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, filters, H/2, W/2), both rounded up, of ``x`` (B, C, H, W)."""
        pooled: Tensor = self.pool(self.steps(x))
        short: Tensor = self.shortcut(x)
        return pooled + short


def _authors_conv(view: View) -> nn.Sequential:
    small, large = _FILTERS
    rows, columns = places(view)
    half = (-(-rows // 2), -(-columns // 2))
    return nn.Sequential(
        _Block(channels_of(view), small, side=(rows, columns)),
        _Block(small, large, side=half),
        Highest(),
    )
