"""A served model as the worker calls it: checked against the bundle whose model it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ...models.errors import ModelError
from ...models.model import ModelSpec, TensorSpec
from .address import Address
from .over_grpc import GrpcServer
from .over_http import HttpServer
from .server import DATATYPES, Described, Fed, Server, datatype_of

_Outputs = NDArray[np.floating[Any]]


def connect(address: Address, *, timeout_s: float, ca_file: Path | None = None) -> Server:
    """Return the way to a server; nothing is sent yet.

    Raises:
        MissingExtraError: gRPC needs the extra ``oip``.
        ConfigError: the file of certificates cannot be read.
    """
    kind = GrpcServer if address.protocol == "grpc" else HttpServer
    return kind(address, timeout_s=timeout_s, ca_file=ca_file)


class ServedModel:
    """A `Model` that a server runs. `check` comes first, and after every absence.

    ``spec`` is what the bundle's own graph takes and gives: one input (B, ...), of which the
    server's may have another name, and a first output (B, K). Where the server does not
    describe its model, the bundle's names are used.
    """

    def __init__(self, server: Server, *, spec: ModelSpec, where: str) -> None:
        self._server = server
        self.spec = spec
        self.runs_on = f"the server at {where}"
        self._where = where
        self._input, self._output = spec.inputs[0], spec.outputs[0]
        self._fed = self._input.name, datatype_of(self._input.dtype)
        self._wanted: str | None = None
        self._one_by_one = False

    def check(self) -> None:
        """See that the model is ready, is the bundle's, and answers.

        Raises:
            ModelAwayError: the server or the model is not there for now.
            ModelError: it is there, and is another model than the bundle's.
        """
        self._server.ready()
        found = self._server.describe()
        if found.inputs:
            source = self._pick(found.inputs, self._input, what="input")
            self._one_by_one = source.shape[0] == 1
            self._fed = source.name, source.datatype
        if found.outputs:
            self._wanted = self._pick(found.outputs, self._output, what="output").name
        shape = (1, *cast("tuple[int, ...]", self._input.shape[1:]))
        self.infer(np.zeros(shape, self._input.dtype))

    def infer(self, batch: NDArray[Any]) -> _Outputs:
        """Run ``batch`` (B, *input shape) on the server; return the output (B, K).

        Raises:
            ModelAwayError: the server or the model is not there for now.
            ModelError: it failed, or answers no (B, K).
        """
        if self._one_by_one and len(batch) > 1:
            return np.concatenate([self.infer(row[None]) for row in batch])
        outputs = self._server.infer(Fed(*self._fed, batch), output=self._wanted)
        wanted = (len(batch), self._output.shape[1])
        if outputs.shape != wanted or not np.issubdtype(outputs.dtype, np.floating):
            raise ModelError(
                f"answers {outputs.dtype} {outputs.shape} where the bundle's gives {wanted}",
                where=self._where,
            )
        return cast("_Outputs", outputs)

    def reset(self) -> None:
        """Do nothing: it keeps nothing of a sample."""

    def close(self) -> None:
        """Close the connection."""
        self._server.close()

    def _pick(self, found: Sequence[Described], wanted: TensorSpec, *, what: str) -> Described:
        """Return the tensor that has the bundle's name, or is the only one; it has to fit."""
        named = [one for one in found if one.name == wanted.name] or list(found)
        if len(named) != 1:
            names = ", ".join(one.name for one in found)
            raise ModelError(
                f"has {len(found)} {what}s ({names}), none of them {wanted.name!r}",
                where=self._where,
            )
        one = named[0]
        dtype = DATATYPES.get(one.datatype)
        floats = what == "output" and dtype is not None and dtype.kind == "f"
        if not (floats or dtype == wanted.dtype) or not _fits(one.shape, wanted.shape):
            raise ModelError(
                f"its {what} {one.name!r} is {one.datatype} {list(one.shape)}, but the bundle's "
                f"is {datatype_of(wanted.dtype)} {[-1 if n is None else n for n in wanted.shape]}",
                where=self._where,
                hint="another model, or another version of it, is served there",
            )
        return one


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    """Tell whether the server's shape can take the bundle's; batches are of any size, or of 1."""
    return (
        len(shape) == len(wanted)
        and shape[0] in (-1, 1)
        and all(have in (-1, want) for have, want in zip(shape[1:], wanted[1:], strict=True))
    )
