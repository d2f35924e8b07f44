"""From a filter's net to TFLite, by litert-torch."""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import MissingExtraError, ModelError


class _FromSample(nn.Module):
    """A net behind a cast from the sample's own dtype."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Return what the net gives for samples ``x`` (1, *shape)."""
        found: Tensor = self.net(x.float())
        return found


def check_tflite_export() -> None:
    """See to it that nets can become TFLite here.

    Raises:
        MissingExtraError: litert-torch is not installed.
    """
    if find_spec("litert_torch") is None:
        raise MissingExtraError("litert-torch", extra="train-tflite")


def to_tflite(
    net: nn.Module,
    *,
    shape: tuple[int, ...],
    dtype: str,
    where: str = "filter",
) -> bytes:
    """Return ``net`` as TFLite: one sample (1, *shape) of ``dtype`` in, its output out.

    Raises:
        MissingExtraError: litert-torch is not installed.
        ModelError: it cannot convert the net.
    """
    check_tflite_export()
    sample = torch.from_numpy(np.zeros((1, *shape), dtype))
    silent = io.StringIO()
    try:
        with (
            contextlib.redirect_stdout(silent),
            contextlib.redirect_stderr(silent),
            warnings.catch_warnings(),
            tempfile.TemporaryDirectory() as folder,
        ):
            warnings.simplefilter("ignore")
            made = import_module("litert_torch").convert(_FromSample(net).eval(), (sample,))
            path = Path(folder, "filter.tflite")
            made.export(str(path))
            data = path.read_bytes()
    except Exception as error:  # the library's errors share no base
        raise ModelError(
            f"litert-torch cannot convert it: {str(error).partition(chr(10))[0]}", where=where
        ) from error
    return data
