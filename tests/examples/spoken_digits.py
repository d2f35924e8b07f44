"""Spoken digits: a sound file of somebody whom nobody trained on, a digit in every second."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np

from hedge.models.dataset import load_dataset
from hedge.models.training import spoken_digits

from .scene import Place, Scene, chosen


def scene(place: Place) -> Scene:
    """Train on two speakers, calibrate on one, and play another."""
    out = place.folder / "spoken-digits.hedge"
    data = place.data / "fsdd"
    trained = spoken_digits.train(
        out, data=data, seed=place.seed, say=place.say, effort=place.effort
    )
    rows = load_dataset(Path(trained.unseen_file))
    assert rows.y is not None
    assert rows.group is not None
    heard = spoken_digits.heard(data, seed=place.seed, speakers=set(rows.group.tolist()))
    some = chosen(len(rows.x), place.samples, seed=place.seed)
    sound = np.concatenate([heard[row] for row in some])
    with wave.open(str(place.folder / "digits.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(spoken_digits.RATE_HZ)
        file.writeframes((sound * 32768).astype("<i2").tobytes())
    return Scene(
        bundle=out,
        x=rows.x[some],
        y=rows.y[some],
        play=lambda: None,  # the device reads the file by itself
        values={'"mqtt://127.0.0.1:1883"': f'"{place.broker}"'},
    )
