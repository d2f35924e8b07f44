"""What a bundle has not seen: the rows on which it may be measured."""

from __future__ import annotations

import numpy as np

from .bundle import Bundle
from .dataset import Dataset, is_seen, read_seen
from .errors import DataError
from .measures import Flags


def seen_rows(bundle: Bundle, data: Dataset) -> Flags:
    """Tell for each row (n,) whether training, calibration or quantisation saw it."""
    training = bundle.manifest.training
    if training is None:
        return np.zeros(len(data.x), bool)
    return is_seen(data.x, read_seen(bundle.read(training.seen), where=training.seen))


def unseen(data: Dataset, bundle: Bundle, *, where: str) -> tuple[Dataset, int]:
    """Return the rows that were not seen, and how many were left out.

    Raises:
        DataError: all of ``where``'s were seen.
    """
    seen = seen_rows(bundle, data)
    if seen.all():
        raise DataError(
            f"training or calibration saw all {len(seen)} rows",
            where=where,
            hint="give rows that are new",
        )
    return data.rows(~seen), int(seen.sum())
