"""What a bundle has not seen: the rows on which it may be measured."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np

from .bundle import Bundle
from .dataset import Dataset, digest, is_seen, read_seen, row_digests, save_seen
from .errors import DataError
from .manifest import Manifest, Training
from .measures import Flags

_READY_MADE = "ready-made: only what was seen since is known"
_SEEN = "seen.npy"


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


def with_seen(
    manifest: Manifest, files: Mapping[str, bytes], data: Dataset
) -> tuple[Manifest, dict[str, bytes]]:
    """Return a bundle's manifest and files so that ``data`` counts as seen, too."""
    digests, training = row_digests(data.x), manifest.training
    if training is None:
        training = Training(recipe=_READY_MADE, seed=0, data_sha256=digest(data), seen=_SEEN)
    else:
        digests = np.concatenate((read_seen(files[training.seen], where=_SEEN), digests))
    wider = msgspec.structs.replace(manifest, training=training)
    return wider, {**files, training.seen: save_seen(digests)}
