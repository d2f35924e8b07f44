"""The protocol as the worker needs it, whatever carries it: readiness, metadata, inference."""

from __future__ import annotations

from typing import Any, NamedTuple, NoReturn, Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ...models.errors import ModelError

MAX_RESPONSE_BYTES = 64 << 20
DATATYPES: dict[str, np.dtype[Any]] = {
    "UINT8": np.dtype("u1"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
"""The protocol's names of what a bundle's graph may take or give, little-endian."""


class Described(Struct, frozen=True):
    """A tensor as the server describes it; an extent that may vary is -1."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Description(Struct, frozen=True):
    """What the server says of a model. Both may be empty: not every server knows."""

    inputs: tuple[Described, ...] = ()
    outputs: tuple[Described, ...] = ()


class Fed(NamedTuple):
    """One named input tensor."""

    name: str
    datatype: str
    array: NDArray[Any]


class Server(Protocol):
    """One model on one server. Every call ends within the time-out it was built with.

    All of them raise `ModelAwayError` where the server or the model is not there for now,
    and `ModelError` where it is, and fails or says what cannot be.
    """

    def ready(self) -> None:
        """Return if the server and the model are ready."""

    def describe(self) -> Description:
        """Ask what the model takes and gives."""

    def infer(self, fed: Fed, *, output: str | None) -> NDArray[Any]:
        """Run the model; return the output of that name, or the first one."""

    def close(self) -> None:
        """Close the connection; closing twice is harmless."""


def datatype_of(dtype: np.dtype[Any]) -> str:
    """Return the protocol's name of ``dtype``, one of those that a bundle may have."""
    return next(name for name, one in DATATYPES.items() if one == dtype.newbyteorder("<"))


def shaped(data: NDArray[Any], shape: tuple[int, ...], *, where: str) -> NDArray[Any]:
    """Return ``data`` in ``shape``.

    Raises:
        ModelError: it does not have as many elements.
    """
    if min(shape, default=1) < 0 or data.size != int(np.prod(shape, dtype=np.int64)):
        raise ModelError(f"answers {data.size} numbers as {shape}", where=where)
    return data.reshape(shape)


def unknown(datatype: str, *, where: str) -> NoReturn:
    """Refuse a datatype.

    Raises:
        ModelError: always.
    """
    raise ModelError(
        f"answers in {datatype[:32]!r}, not one of {', '.join(DATATYPES)}", where=where
    )
