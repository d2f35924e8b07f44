"""What a probe is told, and what it says."""

from __future__ import annotations

from msgspec import Struct

from ...models.errors import ConfigError, HedgeError, ModelError
from ...models.model import TensorSpec
from ..backends.options import BackendOptions

TASK = "HEDGE_PROBE"
"""The environment variable that holds the `Task`, as JSON; the model comes on standard input."""


class Task(Struct, frozen=True, kw_only=True):
    """Which model to try, and how. ``shape`` and ``dtype`` are those of one sample as it is fed.

    Where they are None, the graph's own are taken, free extents as 1. ``max_bytes`` may be
    allocated beyond what the process has at its start.
    """

    format: str
    where: str
    options: BackendOptions
    max_bytes: int
    output: str | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None


class Tensor(Struct, frozen=True, kw_only=True):
    """An input or output of the graph, as it is there; None is an extent that may vary."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    scale: float | None = None
    zero_point: int | None = None

    @classmethod
    def of(cls, spec: TensorSpec) -> Tensor:
        """Return what ``spec`` says, fit for JSON."""
        scale, zero_point = spec.quantisation or (None, None)
        return cls(
            name=spec.name,
            dtype=str(spec.dtype),
            shape=spec.shape,
            scale=scale,
            zero_point=zero_point,
        )

    def __str__(self) -> str:
        extents = ", ".join("B" if extent is None else str(extent) for extent in self.shape)
        return f"{self.name} {self.dtype} ({extents})"


class Probed(Struct, frozen=True, kw_only=True, tag="probed"):
    """A model that opens and runs.

    ``given`` is the shape of what one sample gives, ``finite`` whether what zeros give is free of
    NaN and infinities. ``open_s`` includes loading the library; ``first_s`` is the first call,
    ``again_s`` the next one. ``peak_bytes`` is the most memory the probe has held at once,
    ``model_bytes`` how much of it came with library and model; memory of an accelerator is not
    in it. Where TensorRT is to take over, ``tensorrt`` names it
    and its GPU, or ``without_tensorrt`` says why it cannot.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    given: tuple[int, ...]
    finite: bool
    runs_on: str
    open_s: float
    first_s: float
    again_s: float
    peak_bytes: int
    model_bytes: int
    tensorrt: str | None = None
    without_tensorrt: str | None = None


class Refused(Struct, frozen=True, kw_only=True, tag="refused"):
    """A model that was refused with an error of ours."""

    what: str
    where: str | None
    hint: str | None
    is_config: bool

    @classmethod
    def by(cls, error: HedgeError) -> Refused:
        """Return what ``error`` says."""
        is_config = isinstance(error, ConfigError)
        return cls(what=error.what, where=error.where, hint=error.hint, is_config=is_config)

    def error(self) -> HedgeError:
        """Return the error again: of what is configured, or of the model."""
        kind = ConfigError if self.is_config else ModelError
        return kind(self.what, where=self.where, hint=self.hint)
