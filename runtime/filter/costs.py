"""What a model and its filter cost, in time, and in energy where something reads the power."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ...models.bundle import Bundle
from ...models.manifest import Cloud, Edge, Filter
from ...telemetry.boards.detect import Detected
from ...telemetry.power.reader import PowerReader
from .energy import EnergyCosts, energy_costs
from .load import Load
from .pair import open_pair
from .time_costs import TimeCosts, time_costs


class Power(NamedTuple):
    """What opens the reader of a board's power, which board it is, and how often it is read."""

    open: Callable[[], PowerReader]
    board: Detected
    rate_hz: float


def costs(
    bundle: Bundle,
    part: Filter,
    model: Edge | Cloud,
    load: Load,
    *,
    rate: float,
    power: Power | None,
    show: Callable[[str], object],
) -> tuple[TimeCosts, EnergyCosts | None]:
    """Time model and filter in turn, then measure their energy (None: nothing reads power).

    ``part`` says where the filter stands, ``rate`` what share of the samples it filters there.

    Raises:
        HedgeError: one cannot be opened or fails, or the power cannot be read.
    """
    show("timing model and filter by turns")
    spent = time_costs(
        lambda stack: open_pair(bundle, part, model, load, stack=stack), load, rate=rate
    )
    if power is None:
        return spent, None
    with contextlib.ExitStack() as stack:
        pair, opened = open_pair(bundle, part, model, load, stack=stack), power.open()
        found = energy_costs(
            pair, load, opened, board=power.board, rate=rate, rate_hz=power.rate_hz, show=show
        )
    return spent, found


def spared_bytes(bundle: Bundle) -> int | None:
    """Return the bytes that a filtered sample spares the link; None: the edge answers first."""
    manifest = bundle.manifest
    if manifest.edge:
        return None
    sent = bundle.input if manifest.split is None else manifest.split.features
    return math.prod(sent.shape) * np.dtype(sent.dtype).itemsize
