"""Teaching a pair: a cloud, and one small net as an edge in each of the ways."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hedge.models.dataset import Dataset, row_digests
from hedge.models.manifest import FORMAT, Cloud, Edge, Input, Manifest
from hedge.models.training.export import to_onnx
from hedge.models.training.fitting import Course, fit, repeatable
from hedge.models.training.fitting import Material as Lessons

from .task import EVIDENTIAL, SOFTMAX, Material, Place, Taught

CLOUD_MODEL = Cloud(file="cloud.onnx")
_EVIDENTIAL = Edge(name=EVIDENTIAL, file=f"{EVIDENTIAL}.onnx", head="evidential")
_PLAIN = Edge(name=SOFTMAX, file=f"{SOFTMAX}.onnx")


def taught(
    *, name: str, spec: Input, edge: Course, cloud: Course, material: Material, place: Place
) -> Taught:
    """Return the edge taught by its course's loss and by cross-entropy, and the cloud.

    ``spec`` is the input of all; ``edge``'s loss is the evidential one.
    """
    train = material.train()
    lessons = _lessons(train, material.calibration)
    plain = dataclasses.replace(edge, loss=cross_entropy)
    courses = {EVIDENTIAL: edge, SOFTMAX: plain, "cloud": cloud}
    with repeatable(place.seed):
        nets = {
            what: fit(course, lessons, name=f"{name}: {what}", say=place.say)
            for what, course in courses.items()
        }
    return Taught(
        manifest=manifest(name, spec=spec, data=train, edges=(_EVIDENTIAL, _PLAIN)),
        files={f"{what}.onnx": graph(net, train) for what, net in nets.items()},
        seen=row_digests(train.x),
        dropout={
            edge.file: graph(dropping(nets[edge.name]), train)
            for edge in (_EVIDENTIAL, _PLAIN)
            if has_dropout(nets[edge.name])
        },
    )


def manifest(
    name: str, *, spec: Input, data: Dataset, edges: tuple[Edge, ...], cloud: Cloud = CLOUD_MODEL
) -> Manifest:
    """Return the manifest of a pair that stays where it was made."""
    return Manifest(
        format=FORMAT,
        name=name,
        version="1.0.0",
        task="classification",
        labels=data.labels or (),
        licence="for evaluation only",
        input=spec,
        edge=edges,
        cloud=cloud,
        files={},
    )


def cross_entropy(logits: Tensor, y: Tensor, progress: float) -> Tensor:  # noqa: ARG001  a Loss
    """Return the mean cross-entropy; smoothed labels would blur what the gate goes by."""
    return functional.cross_entropy(logits, y)


def has_dropout(net: nn.Module) -> bool:
    """Tell whether a net can be run with dropout."""
    return any(isinstance(part, nn.Dropout) for part in net.modules())


class _Drops(nn.Module):
    """Dropout that is never off; ONNX Runtime takes its own away where nothing is learnt."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` without a ``share`` of its values, the others made larger."""
        kept = torch.rand_like(x) >= self.share
        return x * kept / (1.0 - self.share)


def dropping(net: nn.Module) -> nn.Module:
    """Return a copy of the net whose dropout stays on: MC dropout is the mean of its runs."""
    copied = copy.deepcopy(net)
    for name, part in [*copied.named_modules()]:
        if isinstance(part, nn.Dropout):
            parent, _, own = name.rpartition(".")
            setattr(copied.get_submodule(parent), own, _Drops(part.p))
    return copied


def graph(net: nn.Module, like: Dataset) -> bytes:
    """Return the net as an ONNX graph that takes rows like those of ``like``."""
    return to_onnx(net, shape=like.x.shape[1:], dtype=like.x.dtype.name)


def _lessons(train: Dataset, held: Dataset) -> Lessons:
    return Lessons(*(tensor for data in (train, held) for tensor in _tensors(data)))


def _tensors(data: Dataset) -> tuple[Tensor, Tensor]:
    assert data.y is not None
    return torch.from_numpy(data.x.astype(np.float32)), torch.from_numpy(data.y)
