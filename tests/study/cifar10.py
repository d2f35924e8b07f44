"""CIFAR-10: the ready-made ResNet8 of MLPerf Tiny beside a larger net taught on this copy.

ResNet8 has seen the pictures that the larger net is taught, so that both are calibrated and tested
on halves of what neither has seen.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hedge.models.dataset import Dataset, row_digests
from hedge.models.manifest import Edge, Input

from .pictures import read, teach_cloud
from .sealed import npz_files, only
from .task import SOFTMAX, Material, Place, Taught
from .teaching import CLOUD_MODEL, graph, manifest

NAME = "cifar10"
VERSION = "1"
EDGE = "ResNet8 of MLPerf Tiny, ready-made"
CLOUD = "a residual net of 1.1 million weights"
INPUT = Input(kind="image", shape=(32, 32, 3), dtype="uint8", layout="HWC", scale=1.0)
_FOLDER = "cifar10_jpeg"
_RESNET8 = Path("models", "mlperf_tiny_ic_resnet8_float.tflite")
_PLAIN = Edge(name=SOFTMAX, file="edge.tflite", format="tflite", output="probabilities")


def material(place: Place) -> Material:
    """Halve the test pictures: one half to calibrate on, the other, or others, to test on."""
    folder = place.data / _FOLDER
    data = _pictures(folder / "cifar10_test_half.npz")
    order = np.random.default_rng(place.seed).permutation(len(data.x))
    held, rest = np.split(order, [len(order) // 2])
    test, source = data.rows(rest), "half of the open test pictures"
    if place.acceptance is not None:
        others = _of_others(place.acceptance, data)
        file = only(others, what=NAME, folder=place.acceptance)
        test, source = _pictures(file), file.name
    return Material(
        train=lambda: _pictures(folder / "cifar10_train.npz"),
        calibration=data.rows(held),
        test=test,
        test_from=source,
    )


def teach(place: Place, material: Material) -> Taught:
    """Take ResNet8 as it is, and teach the larger net."""
    train = material.train()
    resnet8 = (place.data / _RESNET8).read_bytes()
    cloud, earlier_s = _cloud(place, train)
    return Taught(
        manifest=manifest(NAME, spec=INPUT, data=train, edges=(_PLAIN,)),
        files={_PLAIN.file: resnet8, CLOUD_MODEL.file: cloud},
        seen=row_digests(train.x),
        dropout={},
        earlier_s=earlier_s,
    )


def _cloud(place: Place, train: Dataset) -> tuple[bytes, float]:
    """Return the larger net, which takes half an hour and is kept for itself, and how long it took.

    That is 0 if it was taught now.
    """
    kept = place.keep / f"{NAME}-cloud-{VERSION}-{place.seed}-{place.effort}.onnx"
    took = kept.with_suffix(".seconds")
    if took.exists():
        return kept.read_bytes(), float(took.read_text("utf-8"))
    assert train.y is not None
    began = time.monotonic()
    net = teach_cloud(train.x, train.y, seed=place.seed, say=place.say, effort=place.effort)
    like = Dataset(x=train.x[:1].astype(np.float32))  # ResNet8 takes them as float32, too
    place.keep.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(graph(net, like))
    took.write_text(f"{time.monotonic() - began:.0f}", "utf-8")
    return kept.read_bytes(), 0.0


def _pictures(file: Path) -> Dataset:
    x, y = read(file)
    return Dataset(x=x, y=y, labels=_labels(file))


def _labels(file: Path) -> tuple[str, ...]:
    with np.load(file, allow_pickle=False) as npz:
        return tuple(npz["label_names"].tolist())


def _of_others(folder: Path, known: Dataset) -> Iterator[Path]:
    """Yield the files of pictures of these classes that are not in ``known``."""
    digests: NDArray[np.uint64] = row_digests(known.x)
    for file in npz_files(folder, "jpeg", "offset", "y", "label_names"):
        alike = _labels(file) == known.labels
        if alike and not np.isin(row_digests(_pictures(file).x), digests).any():
            yield file
