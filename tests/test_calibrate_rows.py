"""What `hedge calibrate` makes of rows: copies, and what each of its figures is of."""

from __future__ import annotations

import doctest
import json
import re
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from onnx import TensorProto, helper, numpy_helper

from hedge.models.bundle import Bundle, load_bundle, write_bundle
from hedge.models.calibration import TargetAccuracy, TargetRate, calibrate, repeats
from hedge.models.calibration.outputs import check_outputs
from hedge.models.calibration.repeats import find_repeats
from hedge.models.dataset import load_dataset
from hedge.models.errors import ConfigError, DataError, ModelError
from hedge.models.manifest import Calibration, Edge

from .test_calibrate_command import LABELS, WIDTH, bundle, command, data, true_weights

pytest.importorskip("onnxruntime", reason="the models of these bundles are ONNX graphs")

SHA = "ab" * 32


def gate(path: Path) -> Calibration:
    found = load_bundle(path).manifest.calibration
    assert found is not None
    return found


def copied(path: Path, *, rows: int, times: int, relabelled: int = 0) -> Path:
    """Write ``rows`` rows, each given oftener, some of the last copies under another class."""
    once = load_dataset(data(path.with_name("once.npz"), rows=rows))
    assert once.y is not None
    x, y = np.tile(once.x, (times, 1)), np.tile(once.y, times)
    y[len(y) - relabelled :] = (y[len(y) - relabelled :] + 1) % 3
    np.savez(path, X=x, y=y)
    return path


def test_the_worked_examples_of_repeats_hold() -> None:
    found = doctest.testmod(repeats, extraglobs={"np": np})
    assert (found.failed, found.attempted > 0) == (0, True)


def test_of_rows_that_are_equal_one_counts() -> None:
    same = np.array([5, 9, 5, 5, 2, 9], np.uint64)

    found = find_repeats(same, np.array([0, 1, 0, 1, 2, 1]), seed=4)

    assert sorted(same[found.kept]) == [2, 5, 9]
    assert (found.copies, found.torn) == (3, 1)
    assert find_repeats(np.arange(4, dtype=np.uint64)).kept.all()


def test_which_class_of_a_row_counts_is_not_a_matter_of_order() -> None:
    same, y = np.repeat(np.arange(400, dtype=np.uint64), 2), np.tile([0, 1], 400)

    found = find_repeats(same, y, seed=2)

    assert 150 < y[found.kept].sum() < 250


def test_a_person_who_is_there_under_two_names_is_one() -> None:
    same = np.tile(np.arange(50, dtype=np.uint64), 2)
    group = np.array(["zoe"] * 50 + ["ann"] * 50)

    found = find_repeats(same, group=group)

    assert set(group[found.kept]) == {"zoe"}


def test_a_promise_counts_a_copied_row_once(tmp_path: Path) -> None:
    made, rows = bundle(tmp_path / "a"), copied(tmp_path / "rows.npz", rows=60, times=25)

    with pytest.raises(
        DataError, match=r"60 rows are too few .*; 1440 of 1500 rows are copies, equal to the byte"
    ):
        command(made.path, rows, "--accuracy", 0.9, "--out", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_copies_change_nothing_about_a_promise_and_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = bundle(tmp_path / "a")
    rows = copied(tmp_path / "rows.npz", rows=1500, times=3, relabelled=40)

    command(made.path, rows, "--accuracy", 0.8, "--out", tmp_path / "b")

    told, found = capsys.readouterr().out, gate(tmp_path / "b")
    assert "3000 of 4500 rows are copies, equal to the byte, of the other 1500 (40 of" in told
    assert "under more than one class): each row counts once" in told
    assert found.rows == 1500
    assert "3000 copies of other rows left out" in found.method
    assert found.promise is not None
    assert found.promise.rows < 1000  # two thirds of the 1500 test, and not all are accepted


def test_a_rate_counts_rows_as_they_come_and_says_that_some_are_copies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, rows = bundle(tmp_path / "a"), copied(tmp_path / "rows.npz", rows=200, times=2)

    command(made.path, rows, "--rate", 0.2, "--out", tmp_path / "b")

    told = capsys.readouterr().out
    assert "200 of 400 rows are copies, equal to the byte, of the other 200: they count" in told
    assert gate(tmp_path / "b").rows == 400


def test_no_fit_is_judged_by_a_copy_of_what_it_saw() -> None:
    random = np.random.default_rng(3)
    z = random.normal(0, 1.0, (60, 4))
    y = (z + random.gumbel(size=(60, 4))).argmax(axis=1)
    edge = Edge(name="a", file="a.onnx")

    def routed(*, told: bool) -> float:
        same = np.tile(np.arange(60, dtype=np.uint64), 20)
        found = calibrate(
            np.tile(z, (20, 1)),
            None,
            np.tile(y, 20),
            edge=edge,
            cloud=None,
            aim=TargetRate(0.3),
            data_sha256=SHA,
            same=same if told else None,
        )
        return next(one.augrc for one in found.candidates if one.score == "router")

    assert routed(told=True) > routed(told=False) + 0.01


def test_the_score_can_be_chosen_by_hand_and_the_losers_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, rows = bundle(tmp_path / "a"), data(tmp_path / "rows.npz")
    command(made.path, rows, "--rate", 0.2, "--out", tmp_path / "b")
    best = gate(tmp_path / "b")
    capsys.readouterr()

    command(made.path, rows, "--rate", 0.2, "--score", "p_norm", "--out", tmp_path / "c")

    told, found = capsys.readouterr().out, gate(tmp_path / "c")
    assert (found.score, len(found.candidates)) == ("p_norm", len(best.candidates))
    assert "score by hand" in found.method
    assert "score by least AUGRC" in best.method
    assert f"* chosen by hand; by AUGRC it would be {best.score}" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--rate", "0.2", "--score", "vacuity"), "'vacuity' cannot gate this edge .*these can: m"),
        (("--quantiles", "--score", "entropy"), "--score entropy: the paper's quantiles are vac"),
    ],
)
def test_a_score_that_cannot_gate_is_refused(
    tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    made, rows = bundle(tmp_path / "a"), data(tmp_path / "rows.npz")

    with pytest.raises(ConfigError, match=message):
        command(made.path, rows, *words, "--out", tmp_path / "b")


def test_without_a_cloud_it_is_said_that_one_is_assumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = data(tmp_path / "rows.npz")
    command(bundle(tmp_path / "a", cloud=False).path, rows, "--rate", 0.2, "--out", tmp_path / "b")
    alone = capsys.readouterr().out
    command(bundle(tmp_path / "c").path, rows, "--rate", 0.2, "--out", tmp_path / "d")
    both = capsys.readouterr().out

    said = "as if there were a cloud that is always right"
    assert said in alone
    assert said not in both


def test_it_is_said_of_which_rows_the_figures_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, rows = bundle(tmp_path / "a"), data(tmp_path / "rows.npz")
    file = tmp_path / "r.json"

    command(made.path, rows, "--accuracy", 0.8, "--out", tmp_path / "b", "--json", file)

    told, report = capsys.readouterr().out, json.loads(file.read_text())
    assert "scores compared on 400 rows, drawn to choose by; the promise is tested on the" in told
    assert (report["compared"], report["counted"], report["copies"]) == (400, 1200, 0)
    share = round(100 * report["accepted"] / 1200, 1)
    assert share == pytest.approx(100 - 100 * report["escalated_share"], abs=0.06)
    assert f"{report['accepted']} of 1200 rows" in told


def test_the_logits_of_an_evidential_edge_are_said_to_be_no_softmax_s(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = bundle(tmp_path / "a")
    edge = replace(plain.manifest.edge[0], head="evidential")
    files = {name: plain.read(name) for name in plain.manifest.files}
    made = write_bundle(tmp_path / "e", replace(plain.manifest, edge=(edge,)), files)
    rows = data(tmp_path / "rows.npz")

    command(made.path, rows, "--rate", 0.2, "--out", tmp_path / "b")
    evidential = capsys.readouterr().out
    command(plain.path, rows, "--rate", 0.2, "--out", tmp_path / "c")

    said = "p_norm, temperature, router: of the evidence's logits, which are no softmax's"
    assert said in evidential
    assert said not in capsys.readouterr().out


def test_figures_that_cannot_be_written_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, rows = bundle(tmp_path / "a"), data(tmp_path / "rows.npz")

    with pytest.raises(ConfigError, match="/dev/full: cannot be written"):
        command(made.path, rows, "--rate", 0.2, "--out", tmp_path / "b", "--json", "/dev/full")

    assert "1200 of 1200 rows pass" in capsys.readouterr().out
    assert gate(tmp_path / "b").score


def ending_in(operator: str, path: Path, *, output: str = "logits") -> Bundle:
    """Write a bundle whose edge ends in an operator, on logits."""
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "W"], ["z"]),
            helper.make_node(operator, ["z"], ["y"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", len(LABELS)])],
        [numpy_helper.from_array(true_weights().astype(np.float32), "W")],
    )
    imports = [helper.make_opsetid("", 17)]
    file = helper.make_model(graph, ir_version=8, opset_imports=imports).SerializeToString()
    plain = bundle(path.with_name("plain"), cloud=False)
    edge = replace(plain.manifest.edge[0], output=output)
    return write_bundle(path, replace(plain.manifest, edge=(edge,)), {"edge.onnx": file})


@pytest.mark.parametrize(
    ("operator", "output", "message"),
    [
        ("Sigmoid", "logits", "no distribution, and no logits: .* as sigmoids give"),
        ("Sigmoid", "probabilities", "no distribution, and no logits: .* as sigmoids give"),
        ("Softmax", "logits", "every output is a distribution, and they are said to be logits"),
    ],
)
def test_an_edge_whose_output_is_no_distribution_is_refused(
    tmp_path: Path, operator: str, output: str, message: str
) -> None:
    made, rows = ending_in(operator, tmp_path / "a", output=output), data(tmp_path / "rows.npz")

    with pytest.raises(ModelError, match=message):
        command(made.path, rows, "--rate", 0.2, "--out", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_logits_are_taken_for_what_they_are_wherever_they_lie() -> None:
    random = np.random.default_rng(5)
    edge = Edge(name="a", file="a.onnx")
    y = random.integers(0, 3, 300)
    for low, high in ((-0.1, 0.9), (0.1, 1.1), (-4.0, 9.0)):
        z = random.uniform(low, high, (300, 3)) + 0.05 * np.eye(3)[y]
        found = calibrate(z, None, y, edge=edge, cloud=None, aim=TargetRate(0.3), data_sha256=SHA)
        assert found.rows == 300


def test_a_promise_made_of_copies_told_to_the_maths_is_that_of_the_rows() -> None:
    random = np.random.default_rng(8)
    z = random.normal(0, 3.0, (900, 3))
    y = (z + random.gumbel(size=(900, 3))).argmax(axis=1)
    many = np.repeat(np.arange(900), 4)

    found = calibrate(
        z[many],
        None,
        y[many],
        edge=Edge(name="a", file="a.onnx"),
        cloud=None,
        aim=TargetAccuracy(accuracy=0.85),
        data_sha256=SHA,
        same=many.astype(np.uint64),
    )

    assert found.rows == 900
    assert found.promise is not None
    assert found.promise.rows <= 600


def test_rows_that_score_the_same_are_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = ending_in("Hardmax", tmp_path / "a", output="probabilities")
    rows = data(tmp_path / "rows.npz")
    command(made.path, rows, "--rate", 0.2, "--out", tmp_path / "b")
    told = capsys.readouterr().out
    assert re.search(r"\d{3,} of 1200 rows score the same by \w+: a gate lets all of them", told)
    plain = bundle(tmp_path / "c")
    command(plain.path, rows, "--rate", 0.2, "--out", tmp_path / "d")
    assert "score the same" not in capsys.readouterr().out


def test_outputs_that_are_always_the_same_are_refused() -> None:
    for value in (0.0, 1.0 / 3.0, -2.0):
        z = np.full((100, 3), value)
        with pytest.raises(ModelError, match="of every row and class: nothing is told apart"):
            check_outputs(z, model=Edge(name="a", file="a.onnx"), where="a.onnx")


def test_a_score_that_carries_a_promise_by_group_clearly_further_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = ending_in("Identity", tmp_path / "a")
    random = np.random.default_rng(17)
    group = np.repeat(np.arange(12), 200)
    loud = np.exp(random.normal(0, 1.0, 12))[group]  # whose logits are large, right or wrong
    z = random.normal(0, 2.0, (len(group), 3))
    y = (z + random.gumbel(size=z.shape)).argmax(axis=1)
    x = (z * loud[:, None]) @ np.linalg.pinv(true_weights())
    np.savez(tmp_path / "rows.npz", X=x.astype(np.float32), y=y, group=group)
    line = (made.path, tmp_path / "rows.npz", "--accuracy", 0.8, "--by-group")

    command(*line, "--out", tmp_path / "b", "--json", tmp_path / "b.json")
    told = re.search(r"by (\w+) it would cover ([\d.]+)%", capsys.readouterr().out)
    assert told is not None
    command(*line, "--score", told[1], "--out", tmp_path / "c")

    before, after = (gate(tmp_path / name).promise for name in "bc")
    assert before is not None
    assert after is not None
    assert f"{after.coverage:.1%}" == f"{told[2]}%"
    assert after.coverage > before.coverage + 0.05
    assert "it would cover" not in capsys.readouterr().out
