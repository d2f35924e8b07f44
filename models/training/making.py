"""What every recipe does: teach its nets, calibrate them, write their bundle, measure it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..bundle import load_bundle, write_bundle
from ..calibration import TargetRate, calibrate
from ..dataset import Dataset, digest, row_digests, save_seen
from ..errors import BundleError, DataError, HedgeError
from ..manifest import FORMAT, Calibration, Cloud, Edge, Filter, Input, Manifest, Training
from ..measures import Labels
from .export import to_onnx
from .fitting import Course, Material, fit, repeatable, run
from .measuring import Outputs, measure
from .skipping import matters, place_threshold
from .splits import Split
from .trained import Trained

_EDGE = Edge(name="small", file="edge.onnx", head="evidential")
_CLOUD = Cloud(file="cloud.onnx", head="softmax")
_SKIP, _SEEN = "skip.onnx", "seen.npy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a recipe decides.

    ``input`` says what a sample is, and how a live source's captures become one. ``target_rate``
    is the share that escalates of the calibration rows that pass the filter, which ``skip``
    teaches (None: there is none) to drop the labels that ``redundant`` names. ``files`` are what
    else the bundle holds.
    """

    name: str
    licence: str
    citations: tuple[str, ...]
    input: Input
    target_rate: float
    edge: Course
    cloud: Course
    skip: Course | None = None
    redundant: tuple[str, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Nets:
    """The nets; the filter, if there is one, drops where its sigmoid is at most ``threshold``."""

    edge: nn.Module
    cloud: nn.Module
    skip: nn.Module | None = None
    threshold: float = 0.0

    def outputs(self, data: Dataset) -> Outputs:
        """Return what the nets make of the rows of ``data``."""
        x = _x(data)
        edge, cloud = (run(net, x).numpy() for net in (self.edge, self.cloud))
        if self.skip is None:
            return Outputs(edge, cloud, np.ones(len(x), np.bool_))
        passes = torch.sigmoid(run(self.skip, x)[:, 0].double()) > self.threshold
        return Outputs(edge, cloud, passes.numpy())


def make(
    plan: Plan, data: Dataset, split: Split, *, out: Path, seed: int, say: Callable[[str], None]
) -> Trained:
    """Train by ``plan`` on ``data``, write the bundle ``out`` and NAME-unseen.npz beside it.

    Raises:
        DataError: the data has no classes, no names for them, or lacks a redundant one.
        BundleError: ``out`` cannot be written, or is something else already.
    """
    began = time.monotonic()
    redundant = _redundant(plan, data)
    _check_place(out)
    train, held, unseen = (data.rows(rows) for rows in split)
    sizes = f"{len(train.x)} rows to train, {len(held.x)} to calibrate, {len(unseen.x)} unseen"
    say(f"{plan.name}: {sizes}")
    with repeatable(seed):
        nets = _teach(plan, train, held, redundant=redundant, say=say)
        calibration = _calibrate(nets, held, target_rate=plan.target_rate)
        files = {**_files(nets, train, held), **plan.files}
        figures = measure(
            nets.outputs(unseen),
            _y(unseen),
            edge=_EDGE,
            calibration=calibration,
            redundant=None if plan.skip is None else redundant,
        )
    manifest = _manifest(plan, data, nets, calibration, seed=seed)
    bundle = write_bundle(out, manifest, files, replace=True)
    return Trained(
        bundle=str(out),
        digest=bundle.digest,
        unseen_file=str(_write_unseen(out, unseen)),
        rows_trained=len(train.x),
        rows_calibrated=calibration.rows,
        score=calibration.score,
        figures=figures,
        bytes={name: len(content) for name, content in files.items()},
        seconds=time.monotonic() - began,
    )


def _redundant(plan: Plan, data: Dataset) -> NDArray[np.intp]:
    """Return the numbers of the classes that the filter may drop."""
    if data.y is None or data.labels is None:
        raise DataError("the data has no y or no label_names", hint="a recipe needs both")
    missing = set(plan.redundant) - set(data.labels)
    if missing:
        raise DataError(f"no label {min(missing)!r}, which the filter is to drop")
    return np.array([data.labels.index(label) for label in plan.redundant])


def _check_place(out: Path) -> None:
    """Refuse now what could not be written after minutes of training."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BundleError(f"cannot be written: {error}", where=str(out)) from error
    if os.path.lexists(out):
        try:
            load_bundle(out)
        except HedgeError as error:
            raise BundleError(
                "is there already, and is no sound bundle",
                where=str(out),
                hint="name another place",
            ) from error


def _teach(
    plan: Plan,
    train: Dataset,
    held: Dataset,
    *,
    redundant: NDArray[np.intp],
    say: Callable[[str], None],
) -> _Nets:
    """Teach edge and cloud the classes, and a filter which of them the edge finds."""
    x, held_x = _x(train), _x(held)
    classes = Material(x, torch.from_numpy(_y(train)), held_x, torch.from_numpy(_y(held)))
    edge = fit(plan.edge, classes, name="edge", say=say)
    cloud = fit(plan.cloud, classes, name="cloud", say=say)
    if plan.skip is None:
        return _Nets(edge=edge, cloud=cloud)
    keep, held_keep = (
        matters(run(edge, rows).numpy(), redundant=redundant) for rows in (x, held_x)
    )
    if held_keep.all() or not held_keep.any():
        raise DataError("the filter has nothing to tell apart on the calibration rows")
    worth = Material(x, torch.from_numpy(keep).long(), held_x, torch.from_numpy(held_keep).long())
    skip = fit(plan.skip, worth, name="filter", say=say)
    threshold = place_threshold(run(skip, held_x)[:, 0].double().numpy(), held_keep)
    return _Nets(edge=edge, cloud=cloud, skip=skip, threshold=threshold)


def _calibrate(nets: _Nets, held: Dataset, *, target_rate: float) -> Calibration:
    """Calibrate on the rows that the gate will see: those that pass the filter."""
    outputs = nets.outputs(held)
    passed = held.rows(outputs.passes)
    return calibrate(
        outputs.edge[outputs.passes],
        outputs.cloud[outputs.passes],
        _y(passed),
        edge=_EDGE,
        cloud=_CLOUD,
        aim=TargetRate(target_rate),
        group=passed.group,
        data_sha256=digest(passed),
    )


def _files(nets: _Nets, train: Dataset, held: Dataset) -> dict[str, bytes]:
    graphs = {_EDGE.file: nets.edge, _CLOUD.file: nets.cloud}
    if nets.skip is not None:
        graphs[_SKIP] = nets.skip
    shape, dtype = train.x.shape[1:], train.x.dtype.name
    files = {name: to_onnx(net, shape=shape, dtype=dtype) for name, net in graphs.items()}
    return {**files, _SEEN: save_seen(row_digests(np.concatenate((train.x, held.x))))}


def _manifest(
    plan: Plan, data: Dataset, nets: _Nets, calibration: Calibration, *, seed: int
) -> Manifest:
    assert data.labels is not None  # noqa: S101  `_redundant` has checked it
    skip = Filter(kind="skip", file=_SKIP, threshold=nets.threshold, redundant=plan.redundant)
    return Manifest(
        format=FORMAT,
        name=plan.name,
        version="1.0.0",
        task="classification",
        labels=data.labels,
        licence=plan.licence,
        citations=plan.citations,
        input=plan.input,
        edge=(_EDGE,),
        filter=() if nets.skip is None else (skip,),
        cloud=_CLOUD,
        calibration=calibration,
        training=Training(recipe=plan.name, seed=seed, data_sha256=digest(data), seen=_SEEN),
        files={},
    )


def _write_unseen(out: Path, unseen: Dataset) -> Path:
    """Write the rows that nobody saw where the demo looks for them."""
    path = out.with_name(f"{out.name.removesuffix('.hedge')}-unseen.npz")
    arrays = {"X": unseen.x, "y": _y(unseen), "labels": np.array(unseen.labels)}
    if unseen.group is not None:
        arrays["group"] = unseen.group
    try:
        np.savez_compressed(path, allow_pickle=False, **arrays)
    except OSError as error:
        raise DataError(f"cannot be written: {error}", where=str(path)) from error
    return path


def _x(data: Dataset) -> Tensor:
    return torch.from_numpy(data.x.astype(np.float32))


def _y(data: Dataset) -> Labels:
    assert data.y is not None  # noqa: S101  `_redundant` has checked it
    return data.y
