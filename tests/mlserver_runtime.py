"""The custom runtime of the tests' MLServer: an ONNX file as it is, with its own names."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

_DATATYPES = {"FP32": np.float32, "UINT8": np.uint8}


class OnnxRuntime(MLModel):  # type: ignore[misc]  # untyped where it is not installed
    """Feeds its only input, returns its first output; a first number of 99 fails, 98 hangs."""

    async def load(self) -> bool:
        """Open the file that the settings name."""
        self.session = onnxruntime.InferenceSession(self.settings.parameters.uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer one request."""
        given: Any = payload.inputs[0]
        data = given.data.root if hasattr(given.data, "root") else given.data
        raw = isinstance(data, bytes)
        dtype = _DATATYPES[given.datatype]
        batch = np.frombuffer(data, dtype) if raw else np.array(data, dtype)
        if batch.flat[0] == 99:
            raise RuntimeError("it broke")
        if batch.flat[0] == 98:
            await asyncio.sleep(3600)
        name = self.session.get_outputs()[0].name
        (outputs,) = self.session.run([name], {given.name: batch.reshape(given.shape)})
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                ResponseOutput(
                    name=name,
                    shape=list(outputs.shape),
                    datatype="FP32",
                    data=outputs.ravel().tolist(),
                )
            ],
        )
