"""The recipe `motion`: what someone with a phone at the waist is doing, from the bare sensors.

As in `har`, whose nets these are, rows are split by person. Unlike there nothing is filtered:
a sample is 2.56 s of six channels, the raw counts times their scale, as a device cuts it from a
stream that never ends. A window has the class that most of it has; of one that is mostly a
transition from posture to posture, or is labelled as nothing, nobody learns.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..dataset import Dataset
from ..errors import DataError
from ..manifest import Input, TensorInput
from . import har
from .fitting import Course, epochs
from .losses import cross_entropy, evidential
from .making import Plan, make
from .recordings import Arrays, bounds, load_arrays, windows
from .sampling import samples
from .splits import Shares, by_group
from .trained import Trained

ROWS, HOP = 128, 64
RATE_HZ = 50.0
CLASSES = 6  # the labels 1 to 6; those above are transitions, 0 is nothing
_ARRAYS = ("x", "offset", "label", "user", "scale", "label_names", "channels")
_SHARES = Shares(train=13 / 21, calibration=4 / 21)
_TARGET_RATE = 0.2


def train(
    out: Path,
    *,
    data: Path | None = None,
    seed: int = 0,
    say: Callable[[str], None],
    effort: float = 1.0,
) -> Trained:
    """Make the bundle ``out``; see `Recipe`.

    ``data`` is an .npz, or a folder that holds one, of recordings at 50 Hz end to end, bounded
    by offset (r + 1,), of the people user (r,): x (n, 6) counts that times scale (6,) are g and
    rad/s, three axes each; label (n,), of label_names 1 to 6 the activities; channels (6,).
    ``effort`` scales the number of epochs.

    Raises:
        DataError: there is no such data, it is of another kind, or of too few people.
        BundleError: ``out`` cannot be written, or is something else already.
    """
    arrays = load_arrays(data, _ARRAYS, recipe="motion", suffix=".npz")
    if arrays["x"].shape[1:] != (6,) or len(arrays["label_names"]) <= CLASSES:
        raise DataError(f"x {arrays['x'].shape} should be (n, 6)", where=str(data))
    rows, people = cut(arrays)
    split = by_group(people, shares=_SHARES, seed=seed)
    return make(plan(arrays, effort=effort), rows, split, out=out, seed=seed, say=say)


def plan(arrays: Arrays, *, effort: float = 1.0) -> Plan:
    """Return how the bundle is made; ``effort`` scales the number of epochs."""
    return Plan(
        name="motion",
        licence=har.LICENCE,
        citations=(har.CITATION,),
        input=Input(
            kind="tensor",
            shape=(6, ROWS),
            dtype="float32",
            layout="CT",
            tensor=TensorInput(
                channels=tuple(arrays["channels"].tolist()),
                rows=ROWS,
                hop=HOP,
                rate_hz=RATE_HZ,
                scale=tuple(arrays["scale"].tolist()),
            ),
        ),
        target_rate=_TARGET_RATE,
        edge=Course(net=_edge, loss=evidential, epochs=epochs(15, effort), augment=augment),
        cloud=Course(
            net=_cloud, loss=cross_entropy, epochs=epochs(12, effort), decay=1e-3, augment=augment
        ),
    )


def cut(arrays: Arrays) -> tuple[Dataset, NDArray[np.int64]]:
    """Return the windows (n, 6, 128) of the activities in g and rad/s, and whose each is.

    Raises:
        DataError: no window is mostly an activity.
    """
    x, y, group = [], [], []
    spec = plan(arrays).input
    for (begin, end), user in zip(bounds(arrays["offset"]), arrays["user"], strict=True):
        labels = majority(arrays["label"][begin:end])
        known = (labels > 0) & (labels <= CLASSES)
        if not known.any():
            continue
        rows = windows(arrays["x"][begin:end], length=ROWS, hop=HOP)[known]
        x.append(samples(spec, rows.astype(np.float32), name="motion"))
        y.append(labels[known] - 1)
        group.append(np.full(int(known.sum()), user, np.int64))
    if not x:
        raise DataError("no window is mostly an activity", where="label")
    people = np.concatenate(group)
    return Dataset(
        x=np.concatenate(x),
        y=np.concatenate(y),
        group=people,
        labels=tuple(arrays["label_names"][1 : CLASSES + 1].tolist()),
    ), people


def majority(label: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return which label (n,) most of each window has: (w,)."""
    found = windows(label, length=ROWS, hop=HOP)
    counts = np.stack([(found == one).sum(1) for one in range(int(label.max(initial=0)) + 1)])
    most: NDArray[np.int64] = counts.argmax(0)
    return most


class Nine(nn.Module):
    """The nine channels of `har`: the motion and the rotation, and then the whole acceleration."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 9, 128) of ``x`` (B, 6, 128)."""
        whole = x[:, :3]
        return torch.cat([whole - whole.mean(2, keepdim=True), x[:, 3:], whole], 1)


def augment(x: Tensor) -> Tensor:
    """Return the windows ``x`` (B, 6, 128) as of phones worn a little differently."""
    turned = har.augment(Nine()(x))
    return torch.cat([turned[:, 6:], turned[:, 3:6]], 1)


def _edge() -> nn.Module:
    return nn.Sequential(Nine(), har.Edge(CLASSES))


def _cloud() -> nn.Module:
    return nn.Sequential(Nine(), har.cloud(CLASSES))
