"""What an edge is taught by, and what comes of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...models.evidence import Array
from ...models.measures import Labels


class Material(NamedTuple):
    """What is taught: samples (n, *shape), the classes (m,) of the first m, and both opinions.

    ``cloud`` (n, K) is what the cloud thinks of each, ``edge_unsure`` and ``cloud_unsure`` (n,)
    how unsure both are, as for `adapting.Lessons`; ``xi`` tells sure from unsure. ``check`` are
    samples to choose the rate on, of the classes ``check_y``, of which the cloud knows
    ``check_cloud``.
    """

    x: NDArray[Any]
    y: Labels
    cloud: Array
    edge_unsure: NDArray[np.float64]
    cloud_unsure: NDArray[np.float64]
    xi: float
    check: NDArray[Any]
    check_y: Labels
    check_cloud: NDArray[np.bool_]


class Taught(NamedTuple):
    """A graph with new weights, and the rate at which it was taught."""

    data: bytes
    rate: float
