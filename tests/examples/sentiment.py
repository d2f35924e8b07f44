"""Sentiment: lines that another program writes to standard input."""

from __future__ import annotations

import os

import numpy as np

from hedge.models.bundle import load_bundle
from hedge.models.training import sentiment
from hedge.models.training.sampling import samples

from .scene import Place, Scene, chosen, paced

_RATE_HZ = 100.0


def scene(place: Place) -> Scene:
    """Train on the pool, and play the validation set, of which nothing was trained on."""
    out = place.folder / "sentiment.hedge"
    data = place.data / "tweeteval_sentiment"
    sentiment.train(out, data=data, seed=place.seed, say=place.say, effort=place.effort)
    y, lines = sentiment.read_lines(data / "val.tsv")
    rows = chosen(len(lines), place.samples, seed=place.seed)
    lines = [lines[row] for row in rows]
    bundle = load_bundle(out)
    name = bundle.input.tokenizer or ""
    reading, writing = os.pipe()
    stdin = place.stack.enter_context(os.fdopen(reading, "rb"))
    return Scene(
        bundle=out,
        x=samples(
            bundle.input,
            map(sentiment.as_captured, lines),
            name="sentiment",
            files={name: bundle.read(name)},
        ),
        y=np.asarray(y[rows]),
        play=lambda: _write(writing, lines),
        values={'"mqtt://127.0.0.1:1883"': f'"{place.broker}"'},
        stdin=stdin,
    )


def _write(pipe: int, lines: list[str]) -> None:
    with os.fdopen(pipe, "wb", buffering=0) as file:
        for number in paced(len(lines), rate_hz=_RATE_HZ):
            file.write(f"{lines[number]}\n".encode())
