"""Bundles for each kind of input, and the film, the sound and the words that are played."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import wave
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

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

LABELS = ("no", "yes")
CHANNELS = ("x", "y", "z")
ROWS = 5
RATE_HZ = 8000
WINDOW_S = 0.2
WIDTH = 4096  # of the slow model: some milliseconds for a sample
_TOKENS = 8
_VOCABULARY = {"[PAD]": 0, "[UNK]": 1, "good": 2, "bad": 3, "film": 4}
_INPUTS = {
    "image": Input(
        kind="image", shape=(32, 32, 3), dtype="uint8", scale=1 / 255, image=ImageInput()
    ),
    "audio": Input(
        kind="audio",
        shape=(int(RATE_HZ * WINDOW_S),),
        dtype="float32",
        audio=AudioInput(sample_rate_hz=RATE_HZ, samples=int(RATE_HZ * WINDOW_S)),
    ),
    "tensor": Input(
        kind="tensor",
        shape=(ROWS, len(CHANNELS)),
        dtype="float32",
        tensor=TensorInput(channels=CHANNELS, rows=ROWS),
    ),
    "text": Input(
        kind="text", shape=(_TOKENS,), dtype="int32", tokenizer="words.json", text=TextInput()
    ),
    "slow": Input(
        kind="tensor",
        shape=(len(CHANNELS),),
        dtype="float32",
        tensor=TensorInput(channels=CHANNELS),
    ),
}


def make(folder: Path, *, seed: int) -> dict[str, Path]:
    """Write a bundle for each kind of input, and one that is slow; return where they are."""
    return {name: _bundle(folder / name, name, seed=seed) for name in _INPUTS}


def _bundle(out: Path, name: str, *, seed: int) -> Path:
    spec = _INPUTS[name]
    files = {"edge.onnx": _graph(spec, hidden=WIDTH if name == "slow" else 8, seed=seed)}
    if spec.tokenizer is not None:
        files[spec.tokenizer] = json.dumps(_tokenizer()).encode()
    manifest = Manifest(
        format=1,
        name=name,
        version="1.0",
        task="classification",
        labels=LABELS,
        licence="Apache-2.0",
        input=spec,
        edge=(Edge(name="tiny", file="edge.onnx", head="softmax"),),
        calibration=Calibration(
            score="max_prob", total=2.0, method="by hand", rows=1, data_sha256="0" * 64
        ),
        files={},
    )
    return write_bundle(out, manifest, files).path


def _graph(spec: Input, *, hidden: int, seed: int) -> bytes:
    """Return a net of two hidden layers of this width on the flattened sample."""
    integers = spec.dtype == "int32"
    rng = np.random.default_rng(seed)
    sizes = (math.prod(spec.shape), hidden, hidden, len(LABELS))
    element = TensorProto.INT32 if integers else TensorProto.FLOAT
    nodes = [helper.make_node("Flatten", ["x"], ["flat"])]
    if integers:
        nodes.append(helper.make_node("Cast", ["flat"], ["cast"], to=TensorProto.FLOAT))
    before, weights = ("cast" if integers else "flat"), []
    for layer, (rows, columns) in enumerate(itertools.pairwise(sizes)):
        drawn = rng.normal(size=(rows, columns)).astype(np.float32) / np.float32(rows**0.5)
        weights.append(numpy_helper.from_array(drawn, f"W{layer}"))
        after = "y" if layer == len(sizes) - 2 else f"h{layer}"
        nodes.append(helper.make_node("MatMul", [before, f"W{layer}"], [after]))
        before = after
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", element, ["B", *spec.shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", len(LABELS)])],
        weights,
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    return bytes(model.SerializeToString())


def _tokenizer() -> dict[str, object]:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": _VOCABULARY, "unk_token": "[UNK]"},
    }


def sound(path: Path, *, seconds: float, seed: int) -> None:
    """Write a WAV of noise."""
    samples = np.random.default_rng(seed).normal(scale=3000, size=int(seconds * RATE_HZ))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(samples.astype("<i2").tobytes())


def film(path: Path, *, seconds: float, size: str, fps: int) -> None:
    """Make a film by ffmpeg, with a key frame each second."""
    pattern = f"testsrc2=size={size}:rate={fps}:duration={seconds}"
    command = ["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", pattern, "-g", str(fps)]
    subprocess.run(
        [*command, "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", str(path)],
        check=True,
        stdin=subprocess.DEVNULL,
    )


def broken_film(path: Path, *, fps: int, seed: int) -> None:
    """Write a film of three parts: one size, then another, then one of which bytes are noise."""
    parts = [path.with_name(f"part{number}.ts") for number in range(3)]
    for part, size in zip(parts, ("320x240", "640x360", "320x240"), strict=True):
        film(part, seconds=40, size=size, fps=fps)
    whole = bytearray().join(part.read_bytes() for part in parts)
    rng, begin = np.random.default_rng(seed), sum(part.stat().st_size for part in parts[:2])
    middle = begin + parts[2].stat().st_size // 3
    for at in rng.integers(middle, middle + parts[2].stat().st_size // 10, size=400):
        whole[at] ^= int(rng.integers(1, 256))
    path.write_bytes(whole)
