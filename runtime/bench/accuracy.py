"""How right a variant is, and how much of it the bundle's gate would escalate."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Annotated

import numpy as np
from msgspec import Meta, Struct

from ...models.bundle import Bundle
from ...models.dataset import Dataset, load_dataset
from ...models.evidence import Array
from ...models.manifest import Edge
from ...models.measures import Flags, accuracy, hits
from ...models.opinion import Assessor
from ...models.unseen import unseen
from ..policy import Policy
from .rounds import Contender

MOST_KEPT = 1 << 20
_BATCH = 256

Rows = Annotated[int, Meta(ge=1)]
Part = Annotated[float, Meta(ge=0, le=1)]


class Accuracy(Struct, frozen=True, kw_only=True):
    """Of ``rows`` rows, none filtered: a share is None where there is nothing to take it of.

    ``accepted_accuracy`` is that of the rows that the bundle's calibration accepts at the
    edge, ``escalated_share`` the share of the others. ``right`` says of each row whether the
    variant is right (bits, base64), of up to MOST_KEPT rows; ``data_sha256`` which rows in
    which order: two variants that saw the same can be compared row by row.
    """

    rows: Rows
    accuracy: Part | None
    accepted_accuracy: Part | None
    escalated_share: Part | None
    right: str | None = None
    data_sha256: str | None = None

    def hits(self) -> Flags | None:
        """Return (rows,) whether each row was right, None if that was not kept."""
        if self.right is None or self.rows > MOST_KEPT:
            return None
        try:
            packed = np.frombuffer(base64.b64decode(self.right, validate=True), np.uint8)
        except ValueError:
            return None
        if len(packed) != -(-self.rows // 8):
            return None
        return np.unpackbits(packed, count=self.rows).astype(bool)


def unseen_rows(path: Path, bundle: Bundle) -> tuple[Dataset, int]:
    """Return the rows of an npz that training and calibration did not see, and how many they saw.

    Raises:
        DataError: it does not fit the bundle, or they saw all of it.
    """
    data = load_dataset(path).fitted(bundle.input, labels=bundle.labels, where=str(path))
    return unseen(data, bundle, where=str(path))


def measure_accuracy(
    contender: Contender, data: Dataset, *, bundle: Bundle, edge: Edge
) -> Accuracy:
    """Run a variant over all rows and judge it.

    Raises:
        ModelError: it failed, or gives what the bundle's score has no use for.
    """
    outputs = _outputs(contender, data)
    calibration = bundle.manifest.calibration
    assessor = Assessor.of(
        edge, classes=len(bundle.labels), score=None if calibration is None else calibration.scoring
    )
    right = None if data.y is None else hits(assessor.assess_batch(outputs).probs, data.y)
    accepted = None
    if calibration is not None:
        accepted = _accepted(outputs, assessor, Policy.of(calibration))
    return Accuracy(
        rows=len(data.x),
        accuracy=None if right is None else accuracy(right),
        accepted_accuracy=(
            None
            if right is None or accepted is None or not accepted.any()
            else accuracy(right[accepted])
        ),
        escalated_share=None if accepted is None else float(1.0 - accepted.mean()),
        right=None if right is None or len(right) > MOST_KEPT else _packed(right),
        data_sha256=None if right is None else _digest(data),
    )


def _packed(right: Flags) -> str:
    return base64.b64encode(np.packbits(right).tobytes()).decode()


def _digest(data: Dataset) -> str:
    """Return the SHA-256 of the rows and their classes, in their order."""
    digest = hashlib.sha256(np.ascontiguousarray(data.x).tobytes())
    digest.update(b"" if data.y is None else np.ascontiguousarray(data.y).tobytes())
    return digest.hexdigest()


def _outputs(contender: Contender, data: Dataset) -> Array:
    prepare, infer = contender
    places = range(0, len(data.x), _BATCH)
    return np.concatenate([infer(prepare(data.x[at : at + _BATCH])) for at in places])


def _accepted(outputs: Array, assessor: Assessor, policy: Policy) -> Flags:
    """Return (n,) whether the policy accepts each row, decided as the device decides."""
    decided = [
        policy.decide(assessor.assess(row), row, deepen=assessor.deepen)[0] for row in outputs
    ]
    return np.array([one.action == "accept" for one in decided])
