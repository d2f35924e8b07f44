"""What it takes to make a sample of a capture: pictures, rows and lines of text.

`python tests/bench/inputs.py [--keep]`. Every kind is measured in turn with the others, ROUNDS
times, each time beside its floor: a copy of the capture. Pictures are noise, for which resizing
takes as long as for any other.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import PIL
import tokenizers
from msgspec import convert
from numpy.typing import NDArray

from hedge.models.inputs.preprocess import Preprocess, preprocessor
from hedge.models.inputs.resize import Filter
from hedge.models.manifest import ImageInput, Input, TensorInput, TextInput
from hedge.runtime.bench.machine import this_machine

SEED = 20266
ROUNDS = 60
_SIZES = (((432, 768), 96), ((1080, 1920), 224))  # of the picture (height, width), of the sample
_WORDS = 30_000
_TOKENS = 128

Case = tuple[str, Preprocess, NDArray[Any]]


def _open(spec: Input, content: bytes = b"") -> Preprocess:
    return preprocessor(spec, read=lambda _: content, where="bench")


def pictures(rng: np.random.Generator) -> Iterator[Case]:
    """Yield each way of resizing, from each size, in colour and in grey."""
    for (height, width), side in _SIZES:
        picture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        for resize, colour in itertools.product((*get_args(Filter), "linear"), ("rgb", "grey")):
            shape = (side, side, 1 if colour == "grey" else 3)
            how = convert({"resize": resize, "colour": colour}, ImageInput)
            spec = Input(kind="image", shape=shape, dtype="uint8", image=how)
            yield f"{width}x{height} to {side}, {resize}, {colour}", _open(spec), picture


def rows(rng: np.random.Generator) -> Iterator[Case]:
    """Yield a window of six channels, shifted and scaled."""
    how = TensorInput(channels=tuple("abcdef"), rows=128, scale=(0.5,) * 6, offset=(1.0,) * 6)
    spec = Input(kind="tensor", shape=(6, 128), dtype="float32", layout="CT", tensor=how)
    yield "128 rows of 6 channels", _open(spec), rng.normal(size=(128, 6)).astype(np.float32)


def texts(rng: np.random.Generator) -> Iterator[Case]:
    """Yield lines of 20 and of 2000 words, by a tokenizer of pieces of words."""
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = sorted({"".join(rng.choice(letters, rng.integers(2, 7))) for _ in range(_WORDS)})
    pieces = ["[UNK]", *letters, *(f"##{one}" for one in letters), *words]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({piece: at for at, piece in enumerate(pieces)})
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    spec = Input(kind="text", shape=(_TOKENS,), dtype="int32", tokenizer="t.json", text=TextInput())
    prepare = _open(spec, tokenizer.to_str().encode())
    for count in (20, 2000):
        line = " ".join(rng.choice(words, count)).encode()
        yield f"{count} words to {_TOKENS} tokens", prepare, np.frombuffer(line, np.uint8)


def spent_ms(call: Callable[[], object]) -> float:
    """Return how long one call takes."""
    begun_ns = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - begun_ns) / 1e6


def quantiles(spent: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Return the median and the 99th percentile of what was measured, and the floor's median."""
    prepared, copied = np.array(spent).T
    figures = (*np.percentile(prepared, [50, 99]), np.median(copied))
    names = ("p50", "p99", "a copy, p50")
    return {name: round(float(one), 4) for name, one in zip(names, figures, strict=True)}


def main() -> None:
    """Measure, print, and keep the figures beside this file."""
    rng = np.random.default_rng(SEED)
    cases = [*pictures(rng), *rows(rng), *texts(rng)]
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name, _, _ in cases}
    for _ in range(ROUNDS):
        for name, prepare, data in cases:
            spent[name].append((spent_ms(partial(prepare, data, {})), spent_ms(data.copy)))
    found: dict[str, Any] = {
        "machine": str(this_machine()),
        "with": f"Pillow {PIL.__version__}, tokenizers {tokenizers.__version__}",
        "seed": SEED,
        "rounds": ROUNDS,
        "ms": {name: quantiles(each) for name, each in spent.items()},
    }
    print(json.dumps(found, indent=1))  # noqa: T201 -- what the command is for
    if "--keep" in sys.argv:
        Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
