"""Several tasks of one skip filter, as one score."""

from __future__ import annotations

import numpy as np

from ...models.evidence import Figures
from ...models.filtering.comparing import Aim
from .placing import Rows


def joint_score(rows: Rows, aim: Aim) -> Figures:
    """Return one score (N,) for all tasks, by which they are filtered as they are placed.

    For a recall, which each task keeps, the share of its rows that lie below; else the greatest.
    """
    assert rows.scores is not None  # noqa: S101 -- of a skip filter
    assert rows.tasks is not None  # noqa: S101 -- as above
    if aim.recall is None or rows.scores.shape[1] == 1:
        return np.asarray(rows.scores.max(axis=1))
    lost = [
        np.searchsorted(np.sort(score[matters]), score, side="right") / max(1, matters.sum())
        for score, matters in zip(rows.scores.T, rows.tasks.T, strict=True)
    ]
    found: Figures = np.max(lost, axis=0)
    return found
