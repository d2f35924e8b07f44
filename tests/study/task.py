"""A task of the study: a pair of models, and what they say of rows that nobody trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hedge.models.dataset import Dataset
from hedge.models.evidence import Array
from hedge.models.manifest import Cloud, Edge, Manifest
from hedge.models.measures import Labels

EVIDENTIAL, FITTED, SOFTMAX = "evidential", "fitted", "softmax"
"""How an edge came to its evidence, and the name of its variant in the bundle.

Taught by the evidential loss; taught by cross-entropy and given evidence afterwards; not at all.
The second is the third's file, and is made of it here.
"""


class Rows(NamedTuple):
    """What both models make of N rows.

    ``edge`` and ``cloud`` (N, K) are raw outputs, ``y`` (N,) the classes, ``group`` (N,) who a row
    comes from, ``digests`` (N,) uint64 those of the samples (`dataset.row_digests`), ``dropout``
    (N, K) the edge's mean probabilities over ten passes with its dropout on, if it has any.
    """

    edge: Array
    cloud: Array
    y: Labels
    group: NDArray[Any] | None
    digests: NDArray[np.uint64]
    dropout: Array | None = None


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Task:
    """One edge beside one cloud, of one seed.

    ``name`` is the task's, ``edge.name`` how the edge was taught (`EVIDENTIAL` …). The models are
    those of ``bundle``; their outputs on the rows for calibration and for test are here.
    ``test_from`` says what the test rows are. ``edge_ms`` and ``cloud_ms`` are the median time of
    one sample in one thread; ``seconds`` is how long the training of all models took.
    """

    name: str
    edge_name: str
    cloud_name: str
    seed: int
    bundle: Path
    edge: Edge
    cloud: Cloud
    calibration: Rows
    test: Rows
    test_from: str
    edge_ms: float
    cloud_ms: float
    seconds: float

    @property
    def classes(self) -> int:
        """K, how many classes there are."""
        return int(self.test.edge.shape[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a pair is made: the folders, the seed, and who hears how far it is.

    ``acceptance`` holds other rows to test on, of the same kinds; None: the open ones. ``keep`` is
    for what need not be made again; ``effort`` scales the number of epochs.
    """

    data: Path
    keep: Path
    seed: int
    say: Callable[[str], None]
    acceptance: Path | None = None
    effort: float = 1.0


class Material(NamedTuple):
    """The rows of a task and seed: nothing is in two of the three.

    Those to train on are asked for only where there is something to train.
    """

    train: Callable[[], Dataset]
    calibration: Dataset
    test: Dataset
    test_from: str


class Taught(NamedTuple):
    """A bundle to be written, and the digests (n,) of the rows that taught its models.

    ``dropout`` is the ONNX graph of an edge whose dropout stays on, by the edge's file.
    ``earlier_s`` is how long the training took of what was taught already.
    """

    manifest: Manifest
    files: Mapping[str, bytes]
    seen: NDArray[np.uint64]
    dropout: Mapping[str, bytes]
    earlier_s: float = 0.0


class Maker(Protocol):
    """What a task's module has. A new ``VERSION`` has its pairs made anew."""

    NAME: str
    VERSION: str
    EDGE: str
    CLOUD: str

    def material(self, place: Place) -> Material:
        """Return the rows: which are which depends on the seed, the calibration rows' too."""

    def teach(self, place: Place, material: Material) -> Taught:
        """Return the models; of the calibration rows only the accuracy is looked at."""
