"""What a path holds, told by its content: a configuration, a bundle or a model."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Literal, NamedTuple

from ...models.errors import ConfigError
from ..shipped import bundle_path
from .report import Kind

_HEAD_BYTES = 4096
_ZIP = b"PK\x03\x04"
_TFLITE = b"TFL3"
_ONNX = b"\x08"  # protobuf: the first field, ir_version
_SUFFIXES = {".onnx": "onnx", ".tflite": "tflite", ".hedge": "bundle", ".toml": "config"}
_FOREIGN = {
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".safetensors"), "export it with torch.onnx.export"),
    **dict.fromkeys((".h5", ".keras", ".pb"), "convert it with tf.lite.TFLiteConverter"),
    **dict.fromkeys(
        (".engine", ".plan", ".trt"),
        "engines fit one GPU and one version: give the ONNX file that it was built from",
    ),
    ".ort": "give the ONNX file that it was made of",
}


class Target(NamedTuple):
    """What is to be checked; ``format`` is that of a model."""

    path: Path
    kind: Kind
    format: Literal["onnx", "tflite"] | None = None


def target_of(name: str) -> Target:
    """Return what the path, or the shipped bundle, of that name is.

    Raises:
        ConfigError: there is nothing, or nothing that hedge knows.
    """
    path = bundle_path(name)
    if path.is_dir():
        return Target(path, "bundle")
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # to open a FIFO waits for who writes it
            raise ConfigError("is no plain file", where=name)
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror}",
            where=name,
            hint="give a configuration, a bundle or a model file",
        ) from error
    suffix = path.suffix.lower()
    if suffix in _FOREIGN:
        raise ConfigError(f"hedge does not run {suffix} files", where=name, hint=_FOREIGN[suffix])
    return _told(path, _by_content(head) or _SUFFIXES.get(suffix, "config"))


def _told(path: Path, what: str) -> Target:
    match what:
        case "onnx" | "tflite":
            return Target(path, "model", what)
        case "bundle":
            return Target(path, "bundle")
        case _:
            return Target(path, "config")


def _by_content(head: bytes) -> str | None:
    """Return what the first bytes say, None if they say nothing."""
    if head.startswith(_ZIP):
        return "bundle"
    if head[4:8] == _TFLITE:
        return "tflite"
    return "onnx" if head.startswith(_ONNX) else None
