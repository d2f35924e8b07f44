"""What a filter's decision costs, against the authors' own in the same run, turn by turn.

    OMP_NUM_THREADS=1 python tests/bench/filters.py [OUT.json]

*Nets*: ours and the authors', rebuilt as InFi's chapter 3 and their published code have them, with
random weights, in one thread: as TFLite where litert-torch is installed, as theirs were, else in
ONNX Runtime; ``format`` says which. ``ours`` and ``authors`` are a whole `SkipFilter.keep`,
hand-off and all, ``model`` is our net alone. A picture is 224 x 224 x 3 bytes, a vector 128
float32.

*Look-up*: 1000 keys of 200 float32, K = 5. ``heaps``: keys lie in twelve heaps and so do the
samples, so that all of them are hits; ``beyond``: the samples lie in other heaps, so that all are
misses; ``all over``: keys and samples have nothing in common, and no distance is too great, which
is the worst case. ``authors`` compares one key after the other and sorts; ``plain`` is
`np.abs(keys - key).sum(axis=1)` and `argpartition`. ``lane`` is a whole sample, filter and ledger
and all, with a filter's graph that costs nothing.

Prints microseconds, the least and the median of each, and the median of the ratios of turns: how
many times as long as ours (the first) each took.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hedge.models.manifest import Calibration, Input, Reuse
from hedge.models.model import Model
from hedge.models.opinion import Assessor
from hedge.models.prepare import preparer
from hedge.models.training.export import to_onnx
from hedge.models.training.fitting import repeatable
from hedge.models.training.infi.nets import SkipHead
from hedge.models.training.infi.teaching import features
from hedge.models.training.infi.to_tflite import to_tflite
from hedge.models.training.infi.view import View
from hedge.runtime.backends import open_model
from hedge.runtime.backends.null import NullModel
from hedge.runtime.backends.options import BackendOptions
from hedge.runtime.filters.key_cache import KeyCache
from hedge.runtime.filters.nearest import Nearest
from hedge.runtime.filters.reuse import ReuseFilter
from hedge.runtime.filters.screen import Screen
from hedge.runtime.filters.skip import SkipFilter
from hedge.runtime.lane import Lane
from hedge.runtime.policy import Policy
from hedge.runtime.sources.replay import Replay
from hedge.telemetry.clock import boottime_ns
from hedge.telemetry.ledger import Ledger

SEED, KEYS, WIDTH, K, TURNS = 20283, 1000, 200, 5, 1000
_WARM = 10
_CALIBRATION = Calibration(
    score="max_prob", total=0.4, method="bench", rows=1, data_sha256="0" * 64
)
_INPUT = Input(kind="tensor", shape=(WIDTH,), dtype="float32")

_FORMAT: Literal["onnx", "tflite"] = "onnx" if find_spec("litert_torch") is None else "tflite"

_WHOSE: tuple[Literal["ours", "authors"], ...] = ("ours", "authors")

Rows = NDArray[np.float32]


class _Seen(NamedTuple):
    """What a filter sees, as a bundle would say it, and in how many turns it is timed."""

    view: View
    dtype: Literal["uint8", "float32"]
    turns: int


_SEEN = {
    "image 224": _Seen(View("image", (224, 224, 3), "HWC"), "uint8", 150),
    "vector 128": _Seen(View("vector", (128,)), "float32", 20_000),
}


def main(out: Path | None) -> None:
    """Measure, print, and write to ``out``."""
    rng = np.random.default_rng(SEED)
    cases = {
        "heaps": _heaps(rng, rng, KEYS),
        "beyond": _heaps(rng, np.random.default_rng(SEED + 1), KEYS),
        "all over": (_embedded(rng, KEYS), _embedded(rng, KEYS)),
    }
    found: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "seed": SEED,
        "keys": KEYS,
        "width": WIDTH,
        "neighbours": K,
        "turns": TURNS,
        "format": _FORMAT,
    }
    for name, seen in _SEEN.items():
        found[name] = _nets(seen, rng)
    for name, (keys, samples) in cases.items():
        within = np.inf if name == "all over" else 20.0
        found[name] = _compare(keys, samples, within=within)
    keys, samples = cases["heaps"]
    found["lane"] = _lanes(keys, samples)
    text = json.dumps(found, indent=2)
    sys.stdout.write(text + "\n")
    if out is not None:
        out.write_text(text + "\n", "utf-8")


def _nets(seen: _Seen, rng: np.random.Generator) -> dict[str, Any]:
    """Return what a decision takes with our net and with the authors', and how large they are."""
    spec = Input(kind="tensor", shape=seen.view.shape, dtype=seen.dtype)
    samples = rng.integers(0, 256, (8, 1, *seen.view.shape)).astype(seen.dtype)
    own, theirs = (_net(seen, whose) for whose in _WHOSE)
    with closing(_opened(own, seen)) as model, closing(_opened(theirs, seen)) as other:
        ours, authors = (
            SkipFilter(one, threshold=0.5, prepare=preparer(spec)) for one in (model, other)
        )
        times = _turns(
            samples, turns=seen.turns, ours=ours.keep, model=model.infer, authors=authors.keep
        )
    return {"parameters": _parameters(own), "authors_parameters": _parameters(theirs), **times}


def _net(seen: _Seen, whose: Literal["ours", "authors"]) -> SkipHead:
    with repeatable(SEED):
        return SkipHead(features((seen.view,), whose=whose)).eval()


def _parameters(net: SkipHead) -> int:
    return sum(one.numel() for one in net.parameters())


def _opened(net: SkipHead, seen: _Seen) -> Model:
    make = to_onnx if _FORMAT == "onnx" else to_tflite
    graph = make(net, shape=seen.view.shape, dtype=seen.dtype)
    return open_model(graph, format=_FORMAT, where="bench", options=BackendOptions(threads=1))


def _embedded(rng: np.random.Generator, rows: int) -> Rows:
    return np.maximum(rng.normal(size=(rows, WIDTH)), 0).astype(np.float32)


def _heaps(rng: np.random.Generator, other: np.random.Generator, rows: int) -> tuple[Rows, Rows]:
    """Return keys in heaps, and samples in the same ones, or in those that ``other`` draws."""
    middles = _embedded(rng, 12)
    beyond = middles if other is rng else _embedded(other, 12)
    return _around(rng, middles, rows), _around(rng, beyond, rows)


def _around(rng: np.random.Generator, middles: Rows, rows: int) -> Rows:
    spread = 0.1 * rng.normal(size=(rows, WIDTH))
    return np.maximum(middles[rng.integers(0, len(middles), rows)] + spread, 0).astype(np.float32)


def _compare(keys: Rows, samples: Rows, *, within: float) -> dict[str, Any]:
    nearest = Nearest(width=WIDTH, most=KEYS)
    for slot, key in enumerate(keys):
        nearest.put(slot, key, age=slot)
    options = Reuse(width=WIDTH, distance=min(within, 1e9), neighbours=K, capacity_bytes=1 << 22)
    cache = KeyCache(options, classes=10, clock=boottime_ns)
    probs = np.eye(10, dtype=np.float32)
    for number, key in enumerate(keys):
        cache.insert(key, probs[0], sample_id=f"1-{number}")

    def plain(key: Rows) -> object:
        return np.abs(keys - key).sum(axis=1).argpartition(K)[:K]

    def authors(key: Rows) -> object:
        far = [float(np.abs(one - key).sum()) for one in keys]
        return sorted(range(len(far)), key=far.__getitem__)[:K]

    times = _turns(
        samples,
        search=lambda key: nearest.find(key, k=K, within=within),
        vote=cache.find,
        plain=plain,
    )
    slow = _turns(
        samples,
        turns=TURNS // 10,
        search=lambda key: nearest.find(key, k=K, within=within),
        authors=authors,
    )
    hits = sum(cache.find(key) is not None for key in samples) / len(samples)
    return {"hits": hits, **times, "authors_us": slow["authors_us"]}


def _lanes(keys: Rows, samples: Rows) -> dict[str, Any]:
    """Return what a filtered sample costs in the lane, and what of it is the look-up."""
    options = Reuse(width=WIDTH, distance=20.0, neighbours=K, capacity_bytes=1 << 22)
    cache = KeyCache(options, classes=10, clock=boottime_ns)
    for number, key in enumerate(keys):
        cache.insert(key, np.eye(10, dtype=np.float32)[0], sample_id=f"1-{number}")
    reuse = ReuseFilter(NullModel(samples, shape=(WIDTH,)), cache=cache, width=WIDTH, prepare=_same)
    drop = SkipFilter(
        NullModel(np.full((1, 1), -9, np.float32), shape=(WIDTH,)), threshold=0.5, prepare=_same
    )
    reusing = _lane(Screen(reuse, name="reuse", kind="reuse", share=0.01))
    skipping = _lane(Screen(drop, name="skip", kind="skip"))
    return _turns(samples, find=cache.find, reused=reusing.judge, dropped=skipping.judge)


def _same(batch: NDArray[Any]) -> NDArray[Any]:
    return batch


def _lane(screen: Screen) -> Lane:
    return Lane(
        name="bench",
        source=Replay(np.zeros((1, WIDTH), np.float32)),
        input=_INPUT,
        filters=[screen],
        model=NullModel(np.zeros((1, 10), np.float32), shape=(WIDTH,)),
        prepare=preparer(_INPUT),
        assessor=Assessor(output="logits", head="softmax", classes=10),
        policy=Policy.of(_CALIBRATION),
        ledger=Ledger("bench"),
        clock=boottime_ns,
        answer_within_ns=10**9,
    )


def _turns(
    samples: NDArray[Any], *, turns: int = TURNS, **ways: Callable[[Any], object]
) -> dict[str, Any]:
    """Return the least and the median time of each way, in microseconds, one after the other.

    The first turns warm up. ``times`` are the medians of the ratios to the first way of that turn.
    """
    took: dict[str, list[int]] = {name: [] for name in ways}
    for turn in range(turns + _WARM):
        sample = samples[turn % len(samples)]
        for name, way in ways.items():
            begun_ns = time.perf_counter_ns()
            way(sample)
            took[name].append(time.perf_counter_ns() - begun_ns)
    lists = {name: one[_WARM:] for name, one in took.items()}
    first = next(iter(lists.values()))
    return {
        f"{name}_us": {
            "least": round(min(one) / 1e3, 1),
            "median": round(statistics.median(one) / 1e3, 1),
            "times": round(statistics.median(a / b for a, b in zip(one, first, strict=True)), 2),
        }
        for name, one in lists.items()
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
