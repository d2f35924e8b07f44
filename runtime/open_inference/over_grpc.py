"""The Open Inference Protocol over gRPC, with tensors as raw bytes."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...models.errors import ConfigError, MissingExtraError, ModelAwayError, ModelError
from .address import Address
from .messages import CONTENTS, message_classes
from .server import (
    DATATYPES,
    MAX_RESPONSE_BYTES,
    Described,
    Description,
    Fed,
    shaped,
    unknown,
)

_SERVICE = "/inference.GRPCInferenceService/"
_AWAY = frozenset(
    {"CANCELLED", "DEADLINE_EXCEEDED", "NOT_FOUND", "PERMISSION_DENIED"}
    | {"UNAUTHENTICATED", "UNAVAILABLE"}
)
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_RESPONSE_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),  # who calls has a backoff of its own
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class GrpcServer:
    """A `Server` over one channel, which connects by itself.

    Raises:
        MissingExtraError: grpcio or protobuf is not installed.
        ConfigError: the file of certificates cannot be read.
    """

    def __init__(self, address: Address, *, timeout_s: float, ca_file: Path | None = None) -> None:
        for library, module in (("grpcio", "grpc"), ("protobuf", "google")):
            if find_spec(module) is None:
                raise MissingExtraError(library, extra="oip")
        import grpc  # noqa: PLC0415 -- an extra, on first use

        self._error: type[Exception] = grpc.RpcError
        self._where = str(address)
        self._timeout_s = timeout_s
        self._named = {"name": address.model, "version": address.version or ""}
        self._messages = message_classes()
        if address.tls:
            trusted = grpc.ssl_channel_credentials(_certificates(ca_file))
            self._channel = grpc.secure_channel(address.place, trusted, _OPTIONS)
        else:
            self._channel = grpc.insecure_channel(address.place, _OPTIONS)
        self._server_ready = self._method("ServerReady")
        self._model_ready = self._method("ModelReady")
        self._model_metadata = self._method("ModelMetadata")
        self._model_infer = self._method("ModelInfer")

    def ready(self) -> None:
        """Ask the server, then for the model; see `Server`."""
        try:
            server = self._server_ready().ready
            model = server and self._model_ready(**self._named).ready
        except ModelAwayError:
            raise
        except ModelError as error:  # MLServer: UNKNOWN for a model that it does not have
            raise ModelAwayError(error.what, where=self._where) from error
        if not model:
            what = "the model" if server else "the server"
            raise ModelAwayError(f"{what} is not ready", where=self._where)

    def describe(self) -> Description:
        """Fetch the metadata; see `Server`."""
        found = self._model_metadata(**self._named)
        return Description(_described(found.inputs), _described(found.outputs))

    def infer(self, fed: Fed, *, output: str | None) -> NDArray[Any]:
        """Send the tensor; see `Server`."""
        tensor = self._messages["Tensor"](
            name=fed.name, datatype=fed.datatype, shape=fed.array.shape
        )
        answer = self._model_infer(
            model_name=self._named["name"],
            model_version=self._named["version"],
            inputs=[tensor],
            outputs=[] if output is None else [self._messages["RequestedOutput"](name=output)],
            raw_input_contents=[_raw(fed.array)],
        )
        for place, one in enumerate(answer.outputs):
            if output in {None, one.name}:
                return self._array(one, answer.raw_output_contents, place)
        raise ModelError(f"answers without the output {output!r}", where=self._where)

    def close(self) -> None:
        """Close the channel; see `Server`."""
        self._channel.close()

    def _array(self, tensor: Any, raw: Any, place: int) -> NDArray[Any]:  # noqa: ANN401 -- protobuf
        """Return a tensor's numbers, which stand beside it as bytes, or in it one by one."""
        dtype = DATATYPES.get(tensor.datatype) or unknown(tensor.datatype, where=self._where)
        if raw:
            data = raw[place] if place < len(raw) else b""
            if len(data) % dtype.itemsize:
                raise ModelError(f"answers {len(data)} bytes of {dtype}", where=self._where)
            numbers = np.frombuffer(data, dtype)
        else:
            held = CONTENTS.get(tensor.datatype)
            numbers = np.array([] if held is None else getattr(tensor.contents, held), dtype)
        return shaped(numbers, tuple(tensor.shape), where=self._where)

    def _method(self, name: str) -> Callable[..., Any]:
        """Return a remote method as a function of its request's fields."""
        request = self._messages[f"{name}Request"]
        call = self._channel.unary_unary(
            _SERVICE + name,
            request_serializer=request.SerializeToString,
            response_deserializer=self._messages[f"{name}Response"].FromString,
        )

        def method(**fields: Any) -> Any:  # noqa: ANN401 -- protobuf
            try:
                return call(request(**fields), timeout=self._timeout_s)
            except self._error as error:
                raise self._failed(error) from error

        return method

    def _failed(self, error: Any) -> ModelError:  # noqa: ANN401 -- a grpc.RpcError that is a Call
        code = error.code().name
        says = " ".join(str(error.details())[:200].split())
        if code in _AWAY:
            return ModelAwayError(f"cannot be reached: {code} {says}", where=self._where)
        return ModelError(f"answers {code}: {says}", where=self._where)


def _described(tensors: Any) -> tuple[Described, ...]:  # noqa: ANN401 -- protobuf
    return tuple(Described(one.name, one.datatype, tuple(one.shape)) for one in tensors)


def _raw(array: NDArray[Any]) -> bytes:
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def _certificates(ca_file: Path | None) -> bytes | None:
    try:
        return None if ca_file is None else ca_file.read_bytes()
    except OSError as error:
        raise ConfigError(f"no certificates: {error}", where=str(ca_file)) from error
