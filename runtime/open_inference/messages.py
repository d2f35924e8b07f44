"""The protocol's messages for gRPC, as classes of `google.protobuf`.

They are described here field by field, as in the specification's
open_inference_grpc.proto, and made when first needed: generated code would tie us to one
series of protobuf. Fields that we neither set nor read are left out; a reader skips them.
"""

from __future__ import annotations

from typing import Any

_FIELDS: dict[str, dict[str, tuple[int, str]]] = {
    "ServerReadyRequest": {},
    "ServerReadyResponse": {"ready": (1, "bool")},
    "ModelReadyRequest": {"name": (1, "string"), "version": (2, "string")},
    "ModelReadyResponse": {"ready": (1, "bool")},
    "ModelMetadataRequest": {"name": (1, "string"), "version": (2, "string")},
    "ModelMetadataResponse": {"inputs": (4, "*Tensor"), "outputs": (5, "*Tensor")},
    "ModelInferRequest": {
        "model_name": (1, "string"),
        "model_version": (2, "string"),
        "inputs": (5, "*Tensor"),
        "outputs": (6, "*RequestedOutput"),
        "raw_input_contents": (7, "*bytes"),
    },
    "ModelInferResponse": {"outputs": (5, "*Tensor"), "raw_output_contents": (6, "*bytes")},
    # one shape for the metadata's, the request's and the response's, whose numbers agree
    "Tensor": {
        "name": (1, "string"),
        "datatype": (2, "string"),
        "shape": (3, "*int64"),
        "contents": (5, "Contents"),
    },
    "RequestedOutput": {"name": (1, "string")},
    "Contents": {
        "int_contents": (2, "*int32"),
        "uint_contents": (4, "*uint32"),
        "fp32_contents": (6, "*float"),
        "fp64_contents": (7, "*double"),
    },
}
CONTENTS = {
    "INT8": "int_contents",
    "INT16": "int_contents",
    "UINT8": "uint_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
"""Where a tensor's numbers are if they are not raw, by datatype; FP16 is always raw."""


def message_classes() -> dict[str, Any]:
    """Return the class of each message by its name."""
    from google.protobuf import (  # noqa: PLC0415 -- an extra, on first use
        descriptor_pb2,
        descriptor_pool,
        message_factory,
    )

    package = "hedge.oip"  # a name is no part of what travels
    file = descriptor_pb2.FileDescriptorProto(
        name="hedge/open_inference.proto", package=package, syntax="proto3"
    )
    for message, fields in _FIELDS.items():
        described = file.message_type.add(name=message)
        for name, (number, kind) in fields.items():
            described.field.add(name=name, number=number, **_kind(kind, package))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for name in _FIELDS
    }


def _kind(kind: str, package: str) -> dict[str, Any]:
    """Return what descriptor.proto says of a field; * is for repeated."""
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field  # noqa: PLC0415

    label = Field.LABEL_REPEATED if kind.startswith("*") else Field.LABEL_OPTIONAL
    kind = kind.removeprefix("*")
    if kind in _FIELDS:
        return {
            "label": label,
            "type": Field.TYPE_MESSAGE,
            "type_name": f".{package}.{kind}",
        }
    return {"label": label, "type": getattr(Field, f"TYPE_{kind.upper()}")}
