"""From a torch net to the bytes of an ONNX graph that takes samples as they come."""

from __future__ import annotations

import io
import warnings
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

_OPSET = 17


class _FromSample(nn.Module):
    """A net behind a cast from the sample's own dtype."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x.float())
        return logits


def to_onnx(net: nn.Module, *, shape: tuple[int, ...], dtype: str) -> bytes:
    """Return ``net`` as ONNX: input ``x`` (B, *shape) of ``dtype``, output ``logits``, B free.

    The bytes depend on the net and the version of torch only. The exporter is the one by
    tracing: the newer needs one more library, and writes graphs that older runtimes refuse.
    """
    sample = torch.from_numpy(np.zeros((2, *shape), dtype))
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            _FromSample(net).eval(),
            (sample,),
            cast("Any", stream),  # it takes one, and its signature does not say so
            dynamo=False,
            opset_version=_OPSET,
            input_names=["x"],
            output_names=["logits"],
            dynamic_axes={"x": {0: "B"}, "logits": {0: "B"}},
        )
    return stream.getvalue()
