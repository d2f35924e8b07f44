"""How a device runs a stream's models: the table ``[stream.backend]`` of its configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Threads = Annotated[int, Meta(ge=1, le=256)]
Path = Annotated[str, Meta(min_length=1, max_length=4000, pattern=r"^[^\x00]+\Z")]
Provider = Annotated[str, Meta(pattern=r"^[A-Za-z]{1,64}ExecutionProvider\Z")]
CPU = "CPUExecutionProvider"


class BackendOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the device decides, and no bundle: library, threads, accelerators.

    ``use`` "auto" takes the library for the file's format; "tensorrt" builds an engine from
    an ONNX file. ``threads`` are those of one call; None: as the board's profile says.

    ONNX Runtime runs on ``providers``, in that order, by default on the CPU. Unless ``fallback``
    is set, the CPU does nothing for a provider that is missing or refuses a part of the graph:
    that is an error. TFLite hands its operators to the library at ``delegate`` (an absolute
    path). TensorRT builds for ``precision``; int8 is calibrated with the rows of
    ``calibration``, an npz.
    """

    use: Literal["auto", "onnx", "tflite", "tensorrt"] = "auto"
    threads: Threads | None = None
    providers: tuple[Provider, ...] = ()
    provider_options: dict[str, dict[str, str]] = {}
    session_options: dict[str, str] = {}
    fallback: bool = False
    delegate: Path | None = None
    delegate_options: dict[str, str] = {}
    precision: Literal["fp32", "fp16", "int8"] = "fp16"
    calibration: Path | None = None
