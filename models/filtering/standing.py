"""Where a skip filter stands, task by task, and which samples that lets pass.

A sample passes where the logit of any task is above that of the task's threshold. Logits are
compared, here as on the device, so that a row that is counted offline is what a sample will be.
"""

from __future__ import annotations

import math

import numpy as np

from ..errors import ModelError
from ..evidence import Array, Figures
from ..manifest import Filter
from ..measures import Flags


def logit_of(probability: float) -> float:
    """Return the logit of a probability; infinite at 0 and 1.

    >>> logit_of(0.5)
    0.0
    """
    if probability <= 0:
        return -math.inf
    return math.inf if probability >= 1 else math.log(probability / (1 - probability))


def thresholds_of(part: Filter) -> tuple[float, ...]:
    """Return a skip filter's thresholds: one of each task, or one of all."""
    return part.thresholds or (part.threshold,)


def passes(part: Filter, outputs: Array) -> Flags:
    """Return (N,) which rows a skip filter lets pass by its ``outputs`` (N, T).

    Raises:
        ModelError: one is NaN, or there are not as many tasks as thresholds.
    """
    if np.isnan(outputs).any():
        row = int(np.argmax(np.isnan(outputs).any(axis=1)))
        raise ModelError(f"row {row}: the filter's output is NaN", where=part.file)
    check_tasks(outputs.shape[1], part.thresholds, where=part.file)
    limits = np.array([logit_of(one) for one in thresholds_of(part)])
    return to_any(outputs.astype(np.float64) > limits)


def check_tasks(tasks: int, thresholds: tuple[float, ...], *, where: str) -> None:
    """See to it that a filter with several thresholds has as many tasks.

    Raises:
        ModelError: it has not.
    """
    if thresholds and len(thresholds) != tasks:
        raise ModelError(f"gives {tasks} logits for {len(thresholds)} thresholds", where=where)


def to_any(tasks: Flags) -> Flags:
    """Return (N,) which rows matter to any of the tasks (N, T).

    >>> to_any(np.array([[False, True], [False, False]]))
    array([ True, False])
    """
    found: Flags = np.logical_or.reduce(tasks, axis=1)
    return found


def probabilities(outputs: Array) -> Figures:
    """Return the sigmoids (N, T) of logits.

    >>> probabilities(np.array([[0.0]]))
    array([[0.5]])
    """
    with np.errstate(over="ignore"):
        found: Figures = 1.0 / (1.0 + np.exp(-outputs.astype(np.float64)))
    return found
