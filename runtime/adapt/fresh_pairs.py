"""Pairs that have been released, and can teach an edge as it is now."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...models.bundle import Bundle
from ...models.dataset import Dataset, row_digests
from ...models.errors import DataError
from ...models.evidence import Array
from ...models.manifest import Calibration, Edge
from ...models.opinion import Assessor
from ..backends import open_model
from ..both_models import model_outputs
from .pair_store import FILE, PairStore
from .pairs import Pair

LEAST_PAIRS = 10
_ROUNDING = 1e-6  # of a score, between a device's processor and this one


class Fresh(NamedTuple):
    """Pairs and their samples, what the edge makes of these, and how many others are left out.

    ``sure``: the edge is sure of them. ``judged``: they are among the rows kept back.
    ``damaged``: they are not what was written, or no numbers.
    """

    pairs: Sequence[Pair]
    data: Dataset
    near: Array
    sure: int
    judged: int
    damaged: int


def fresh_pairs(
    bundle: Bundle, edge: Edge, calibration: Calibration, place: Path, *, kept_back: Dataset
) -> Fresh:
    """Return the released pairs at ``place`` that teach ``edge``: of which it is not sure.

    What a device said of the edge's opinion does not count: it is asked again, and is unsure by
    the gate of ``calibration``. A pair whose sample is among the rows ``kept_back`` is left out.

    Raises:
        DataError: there are none, or only some of another contract.
    """
    with closing(store_of(bundle, place)) as store:
        pairs = list(store.pairs("released"))
        waiting = sum(1 for _ in store.pairs("quarantined"))
        whole, x = store.samples(pairs)
    if not pairs:
        hint = f"{waiting} are in quarantine: look at them with hedge adapt show, then release"
        raise DataError(
            "no pairs have been released", where=str(place), hint=hint if waiting else None
        )
    damaged, where = len(pairs) - len(whole), str(place)
    if not whole:
        raise DataError(f"all {damaged} released pairs are damaged", where=where)
    data = Dataset(x=x)
    judged = np.isin(row_digests(x), row_digests(kept_back.x))
    finite = np.ones(len(x), bool)
    if x.dtype.kind == "f":
        finite = np.isfinite(x).reshape(len(x), -1).all(axis=1)
    outputs = np.zeros((len(x), len(bundle.labels)), np.float32)
    score = np.full(len(x), -np.inf)
    if finite.any():
        outputs[finite] = edge_outputs(bundle, edge, bundle.read(edge.file), data.rows(finite))
        assessor = Assessor.of(edge, classes=len(bundle.labels), score=calibration.scoring)
        score[finite] = assessor.assess_batch(outputs[finite]).score
    unsure = score >= calibration.total - _ROUNDING
    used = finite & ~judged & unsure
    if used.sum() < LEAST_PAIRS:
        raise DataError(
            f"{int(used.sum())} released pairs can teach, at least {LEAST_PAIRS} are needed "
            f"({int((~unsure & finite).sum())} of {len(x)} the edge is sure of now, "
            f"{int(judged.sum())} are among the labelled rows that judge)",
            where=where,
        )
    return Fresh(
        pairs=[pair for pair, is_used in zip(whole, used, strict=True) if is_used],
        data=data.rows(used),
        near=outputs[used],
        sure=int((finite & ~judged & ~unsure).sum()),
        judged=int(judged.sum()),
        damaged=damaged + int((~finite).sum()),
    )


def store_of(bundle: Bundle, place: Path) -> PairStore:
    """Open the pairs of a bundle's contract.

    Raises:
        DataError: there are none.
    """
    folder = place if (place / FILE).exists() else place / bundle.contract
    if not place.exists():
        raise DataError("is not there", where=str(place))
    if not (folder / FILE).exists():
        others = sorted(one.parent.name for one in place.glob(f"*/{FILE}"))
        what = f", but of the contracts {', '.join(others[:3])}" if others else ", nor any others"
        raise DataError(
            f"holds nothing of this bundle's contract {bundle.contract}{what}", where=str(place)
        )
    store = PairStore(folder)
    if store.about.contract != bundle.contract or store.about.shape != bundle.input.shape:
        store.close()
        raise DataError(
            f"holds pairs of {store.about.name}, contract {store.about.contract}; "
            f"{bundle.manifest.name} has {bundle.contract}",
            where=str(folder),
        )
    return store


def edge_outputs(bundle: Bundle, edge: Edge, graph: bytes, data: Dataset) -> Array:
    """Return the raw outputs (N, K) of ``edge`` with another ``graph`` for all rows of ``data``."""
    where = f"{bundle.path}/{edge.file}"
    with closing(open_model(graph, format="onnx", where=where, output=edge.output_name)) as model:
        return model_outputs(model, bundle.input, data)
