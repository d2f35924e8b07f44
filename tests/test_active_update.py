"""The study's updates of a filter, on a stream whose truth is known."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch, which trains, is not installed")
sys.path.append(str(Path(__file__).parent))  # where the study is run from

from study import active_update as update
from study.active_update import Active, At, Filter, Part, Stream
from study.task import Place

SHIFT, ROWS = 500, 2000


def _stream() -> Stream:
    """Return samples of which those matter whose first value is above 0, and then the second."""
    x = np.random.default_rng(7).normal(size=(ROWS, 2)).astype(np.float32)
    decides = np.where(np.arange(ROWS) < SHIFT, x[:, 0], x[:, 1])
    return Stream(x, decides > 0, SHIFT)


def _look_at(column: int) -> Filter:
    return Filter(lambda rows: rows[:, column].astype(np.float64), 0.0)


def _follow(choice: At | Active) -> Any:  # noqa: ANN401 -- what `follow` returns
    """Serve the stream by what labels of its latter half tell, if there are any."""
    stream = _stream()

    def teach(older: Part, labels: Part) -> Filter:
        del older
        right = [((labels.x[:, at] > 0) == labels.target[:, 0]).mean() for at in (0, 1)]
        return _look_at(int(np.argmax(right)))

    place = Place(data=Path(), keep=Path(), seed=3, say=lambda _: None)
    older = Part(stream.x[:9], stream.matters[:9, None].astype(np.int64))
    return update.follow(stream, older, _look_at(0), choice, teach, place)


def test_a_frozen_filter_goes_on_and_one_with_labels_of_new_times_does_not() -> None:
    stream = _stream()
    frozen, none = _follow(At([]))
    assert none == []
    assert np.array_equal(frozen, stream.x[:, 0] <= 0)
    learnt, labels = _follow(At(range(SHIFT, ROWS, 5)))
    assert labels == [*range(SHIFT, ROWS, 5)]
    first = SHIFT + update.EVERY
    assert np.array_equal(learnt[:first], frozen[:first]), "no update comes before its labels"
    assert np.array_equal(learnt[first:], stream.x[first:, 1] <= 0)


def test_a_device_labels_the_share_half_of_it_by_lot() -> None:
    stream = _stream()
    _, labels = _follow(Active(5))
    assert abs(len(labels) - ROWS * update.SHARE) < 60
    sure = np.abs(stream.x).min(axis=1) > 0.5
    drawn = sure[labels].sum() / sure.sum()
    assert abs(drawn - update.SHARE / 2) < 0.03


def test_labels_weigh_as_much_as_older_rows_and_the_recall_is_kept_where_it_is_placed() -> None:
    few = Part(np.arange(3), np.arange(3))
    assert update._repeated(few, 7).x.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert len(update._repeated(Part(few.x[:0], few.target[:0]), 7).x) == 0
    logits, matters = np.arange(200.0), np.arange(200) >= 100
    threshold = update.placed(logits, matters)
    assert (logits[matters] > threshold).mean() == update.RECALL
    assert (logits > np.nextafter(threshold, np.inf)).sum() == 94


def test_what_a_way_comes_to_is_counted_from_the_shift_and_drawn() -> None:
    stream = _stream()
    ran = _follow(At([]))
    found = [update._course(way, stream, ran, seed) for way in update.WAYS for seed in (0, 1)]
    before, shifted, *_, whole = found[0].stretches
    assert (before.rows, before.recall, before.accuracy) == (SHIFT, 1.0, 1.0)
    assert shifted.rows == update.EVERY
    lost = stream.matters & (stream.x[:, 0] <= 0)
    assert whole.accuracy == pytest.approx(1 - lost[SHIFT:].mean())
    assert whole.recall == pytest.approx(1 - lost[SHIFT:].sum() / stream.matters[SHIFT:].sum())
    assert sum(one.lost for one in found[0].windows if one.at > 0) == lost[SHIFT:1900].sum()
    assert update.page(found).count("\n") == 3 + len(update.WAYS) * len(update.PARTS)
    root = ET.fromstring(update.drawing(found))  # noqa: S314 -- made here
    lines = [one for one in root.iter() if str(one.get("class")).startswith("line")]
    assert len(lines) == 3 * len(update.WAYS), "one of each panel, and in the legend"
