"""Small bundles of every kind of input, for whose live sources samples can be made.

Run by `runpy`, since the tests are no package.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

from hedge.models.bundle import write_bundle
from hedge.models.manifest import (
    AudioInput,
    Calibration,
    Edge,
    ImageInput,
    Input,
    Manifest,
    TensorInput,
    TextInput,
)

LABELS = ("rest", "walk", "run")
INPUTS = {
    "image": Input(
        kind="image", shape=(12, 16, 3), dtype="uint8", scale=1 / 255, image=ImageInput()
    ),
    "audio": Input(
        kind="audio",
        shape=(800,),
        dtype="float32",
        audio=AudioInput(sample_rate_hz=8000, samples=800),
    ),
    "tensor": Input(
        kind="tensor",
        shape=(4, 3),
        dtype="float32",
        tensor=TensorInput(channels=("x", "y", "z"), rows=4),
    ),
    "text": Input(
        kind="text",
        shape=(6,),
        dtype="int32",
        scale=0.1,
        tokenizer="tokenizer.json",
        text=TextInput(special=False),
    ),
}
_WORDS = {"[UNK]": 0, "good": 1, "bad": 2, "day": 3}
_TOKENIZER: dict[str, object] = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": None,
    "decoder": None,
    "model": {"type": "WordLevel", "vocab": _WORDS, "unk_token": "[UNK]"},
}


def small_bundle(folder: Path, spec: Input, linear: Callable[..., bytes]) -> Path:
    """Write a bundle for samples of ``spec``, whose model is ``linear`` (see conftest)."""
    manifest = Manifest(
        format=1,
        name=f"small-{spec.kind}",
        version="1.0",
        task="classification",
        labels=LABELS,
        licence="Apache-2.0",
        input=spec,
        edge=(Edge(name="tiny", file="edge.onnx"),),
        calibration=Calibration(
            score="max_prob", total=0.4, method="by hand", rows=10, data_sha256="0" * 64
        ),
        files={},
    )
    files = {"edge.onnx": linear(len(LABELS), seed=math.prod(spec.shape), shape=spec.shape)}
    if spec.tokenizer is not None:
        files[spec.tokenizer] = json.dumps(_TOKENIZER).encode()
    return write_bundle(folder, manifest, files).path
