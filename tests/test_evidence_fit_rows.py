"""`hedge evidence fit`: copies, files that stay as they were, what it costs, outputs of no use."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("torch", reason="torch, which fits, is not installed")

from hedge.models.bundle import load_bundle
from hedge.models.dataset import Dataset, load_dataset, row_digests
from hedge.models.errors import BundleError, ConfigError, DataError, ModelError
from hedge.models.evidence_head import HeadForm
from hedge.models.training.evidence_fit import fit_head
from hedge.runtime import calibrate_command
from hedge.runtime.evidence.division import divide
from hedge.runtime.evidence.record import Quality, Scored
from hedge.runtime.evidence.verdict import advise, worse_of

from .test_evidence_fit import LABELS, WEIGHT, hedge, linear

NAMED = ("--labels", ",".join(LABELS))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Give a classifier that is twice as sure as the rows of `rows` bear out."""
    path = tmp_path / "net.onnx"
    path.write_bytes(linear(WEIGHT))
    return path


def rows(
    path: Path, *, count: int = 400, times: int = 1, groups: int = 0, flipped: int = 0
) -> Path:
    """Write rows with their classes, each of them ``times``, the last ``flipped`` otherwise."""
    random = np.random.default_rng(7)
    x = random.normal(0, 1.2, (count, 4)).astype(np.float32)
    y = (x @ WEIGHT * 0.5 + random.gumbel(size=(count, 3))).argmax(axis=1)
    x, y = np.tile(x, (times, 1)), np.tile(y, times)
    y[len(y) - flipped :] = (y[len(y) - flipped :] + 1) % 3
    more: dict[str, Any] = {"group": np.arange(len(x)) // (len(x) // groups)} if groups else {}
    np.savez(path, X=x, y=y, labels=np.array(LABELS), **more)
    return path


def test_copies_count_once_and_are_told(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = rows(tmp_path / "rows.npz", times=3, flipped=20)
    rest, figures = tmp_path / "rest.npz", tmp_path / "figures.json"

    hedge(model, data, *NAMED, "--out", tmp_path / "out", "--rest", rest, "--json", figures)

    found, told = json.loads(figures.read_text()), capsys.readouterr().out
    assert (found["copies"], found["torn"]) == (800, 20)
    assert found["taught_rows"] + found["held_rows"] == 400
    assert found["measured"]["units"] == found["held_rows"]
    assert "800 of 1200 rows are copies, equal to the byte, of the other 400 (20 of" in told
    assert len(np.unique(row_digests(load_dataset(rest).x))) == found["held_rows"]


def test_few_rows_given_often_are_few(model: Path, tmp_path: Path) -> None:
    data = rows(tmp_path / "rows.npz", count=60, times=25)

    with pytest.raises(DataError, match="30 rows are held out"):
        hedge(model, data, *NAMED, "--out", tmp_path / "out")


def test_a_row_that_is_in_two_groups_is_on_one_side_only(model: Path, tmp_path: Path) -> None:
    data, rest = rows(tmp_path / "rows.npz", times=2, groups=8), tmp_path / "rest.npz"

    hedge(model, data, *NAMED, "--out", tmp_path / "out", "--rest", rest)

    made = load_bundle(tmp_path / "out")
    assert made.manifest.training is not None
    kept = load_dataset(rest)
    assert len(kept.x) == 200
    assert kept.group is not None
    assert set(kept.group) < {0, 1, 2, 3}  # four who are there again under four other names


def test_a_file_that_is_there_is_refused_before_any_work(model: Path, tmp_path: Path) -> None:
    data, rest = rows(tmp_path / "rows.npz"), tmp_path / "rest.npz"
    rest.write_text("of long ago")

    with pytest.raises(DataError, match=r"--rest .*rest\.npz: is there already"):
        hedge(model, data, *NAMED, "--out", tmp_path / "out", "--rest", rest)

    assert rest.read_text() == "of long ago"
    assert not (tmp_path / "out").exists()


def test_no_rows_stay_behind_where_the_bundle_cannot_be_written(
    model: Path, tmp_path: Path
) -> None:
    data, rest = rows(tmp_path / "rows.npz"), tmp_path / "rest.npz"
    out = tmp_path / "out"
    out.write_text("no bundle")

    with pytest.raises(BundleError):
        hedge(model, data, *NAMED, "--out", out, "--rest", rest, "--replace")

    assert sorted(one.name for one in tmp_path.iterdir()) == ["net.onnx", "out", "rows.npz"]


def test_figures_that_cannot_be_written_are_printed(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = rows(tmp_path / "rows.npz")

    with pytest.raises(ConfigError, match="/dev/full: cannot be written"):
        hedge(model, data, *NAMED, "--out", tmp_path / "out", "--json", "/dev/full")

    assert "wrote " in capsys.readouterr().out
    assert load_bundle(tmp_path / "out").manifest.edge[0].head == "evidential"


def test_the_command_that_is_said_to_come_next_works_as_it_stands(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = rows(tmp_path / "rows.npz")
    out = tmp_path / "a b.hedge"
    hedge(model, data, *NAMED, "--out", out, "--rest", tmp_path / "rest.npz")

    said = capsys.readouterr().err.partition("when to ask: hedge ")[2]
    assert _run(said) == 0

    assert load_bundle(tmp_path / "a b-calibrated.hedge").manifest.calibration is not None


def _run(line: str) -> int:
    import argparse  # noqa: PLC0415  here alone
    import shlex  # noqa: PLC0415

    parser = argparse.ArgumentParser()
    calibrate_command.add_parser(parser.add_subparsers(required=True))
    options = parser.parse_args(shlex.split(line))
    code: int = options.run(options)
    return code


def test_what_became_worse_is_said_in_the_table_and_in_the_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    honest = tmp_path / "honest.onnx"
    honest.write_bytes(linear(0.5 * WEIGHT))  # the very distribution that the classes come from
    data, file = rows(tmp_path / "rows.npz", count=3000), tmp_path / "figures.json"

    hedge(honest, data, *NAMED, "--out", tmp_path / "out", "--json", file)

    told, measured = capsys.readouterr().out, json.loads(file.read_text())["measured"]
    worse = {(one["measure"], one["than"]) for one in measured["worse"]}
    assert ("log_score_nats", "before") in worse
    assert measured["after"]["log_score_nats"] > measured["before"]["log_score_nats"]
    assert "worse than before: " in told
    assert measured["advice"] in told


def _quality(ece: float, log: float) -> Quality:
    return Quality(accuracy=0.8, ece_prob=ece, ece_vacuity=0.01, brier=0.3, log_score_nats=log)


def _scores(more: float) -> tuple[Scored, ...]:
    own = Scored(name="vacuity", aurc=0.1, augrc=0.05, more=0, low=0, high=0)
    other = Scored(name="p-norm", aurc=0.1, augrc=0.05 + more, more=more, low=-1, high=1)
    return own, other


def test_advice_weighs_what_vacuity_gains_against_what_the_probabilities_lose() -> None:
    worse = worse_of(_quality(0.01, 0.5), _quality(0.04, 0.4), _quality(0.05, 0.3))
    assert [(one.measure, one.than, one.now) for one in worse] == [
        ("ece_prob", "before", 0.04),
        ("log_score_nats", "temperature", 0.4),
    ]

    assert advise(_scores(0.002), worse, part="edge") == (
        "vacuity gains 0.00200 of AUGRC over p-norm (within what chance does), but ECE of max p "
        "worsens from 0.0100 to 0.0400: gate by it, and read no probabilities off it"
    )
    beaten = (
        "vacuity gains no AUGRC here, and log score worsens from 0.3000 to 0.4000 beside a "
        "temperature alone: the plainer score p-norm, of the model as it was, is no worse and "
        "costs less"
    )
    assert advise(_scores(-0.002), worse[1:], part="cloud") == beaten
    by_hand = f"{beaten} (hedge calibrate --score p_norm)"
    assert advise(_scores(-0.002), worse[1:], part="edge") == by_hand
    assert "no worse: take the evidence" in advise(_scores(0.002), (), part="edge")
    assert "and the probabilities are no worse" in advise(_scores(-0.002), (), part="edge")
    assert worse_of(*[_quality(0.01, 0.5)] * 3) == ()


def ending_in_sigmoids() -> bytes:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Sigmoid", ["z"], ["y"])],
        "sigmoids",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 3])],
        [numpy_helper.from_array(WEIGHT.astype(np.float32), "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = made.SerializeToString()
    return data


def test_sigmoids_of_an_onnx_graph_are_refused_for_what_they_are(tmp_path: Path) -> None:
    model = tmp_path / "net.onnx"
    model.write_bytes(ending_in_sigmoids())

    for flags in ((), ("--output", "logits"), ("--output", "probabilities")):
        with pytest.raises(ModelError, match=r"no distribution, and no logits: .*as sigmoids give"):
            hedge(model, rows(tmp_path / "r.npz"), *NAMED, *flags, "--out", tmp_path / "out")


@pytest.mark.parametrize("int8", [False, True])
def test_sigmoids_of_a_tflite_file_are_refused_for_what_they_are(
    tmp_path: Path, linear_tflite: Callable[..., bytes], *, int8: bool
) -> None:
    model = tmp_path / "net.tflite"
    model.write_bytes(_ending_in_logistic(linear_tflite(3, int8=int8)))

    with pytest.raises(ModelError, match=r"no distribution, and no logits: .*as sigmoids give"):
        hedge(
            *(model, rows(tmp_path / "r.npz"), *NAMED, "--input-dtype", "float32"),
            *("--out", tmp_path / "out"),
        )


def _ending_in_logistic(softmax: bytes) -> bytes:
    import flatbuffers  # noqa: PLC0415  comes with the extra
    from ai_edge_litert import schema_py_generated as schema  # noqa: PLC0415  an extra

    model = schema.ModelT.InitFromPackedBuf(softmax)
    code = model.operatorCodes[1]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.LOGISTIC
    last = model.subgraphs[0].operators[1]
    last.builtinOptionsType, last.builtinOptions = schema.BuiltinOptions.NONE, None
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_labels_of_any_length_are_labels(tmp_path: Path) -> None:
    model = tmp_path / "net.onnx"
    model.write_bytes(linear(WEIGHT))
    many = ",".join(f"class{one}" for one in range(2000))

    with pytest.raises((ModelError, ConfigError), match=r"2000|3") as caught:
        hedge(model, rows(tmp_path / "r.npz"), "--labels", many, "--out", tmp_path / "out")

    assert "File name too long" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_rows_of_another_kind_of_number_are_told_how_to_be_taken(
    tmp_path: Path, linear_tflite: Callable[..., bytes]
) -> None:
    model, data = tmp_path / "net.tflite", rows(tmp_path / "r.npz")
    model.write_bytes(linear_tflite(3, int8=True))
    words = (model, data, *NAMED, "--out", tmp_path / "out")

    with pytest.raises(DataError, match=r"int8 is guessed .*; --input-dtype float32 if that is"):
        hedge(*words)
    assert hedge(*words, "--input-dtype", "float32") == 0


# ---- Many classes


def test_one_minus_vacuity_is_the_share_of_right_answers_of_many_classes_too() -> None:
    random = np.random.default_rng(20313)
    for classes in (3, 60, 200):
        logits = random.normal(0.0, 2.5, (4000, classes))
        y = (logits + random.gumbel(size=logits.shape)).argmax(axis=1)
        head = fit_head(logits[:2000], y[:2000], data_sha256="0" * 64).head
        alpha, total = HeadForm(head, classes=classes).rows(logits[2000:])
        right = alpha.argmax(axis=1) == y[2000:]
        sure = 1.0 - classes / total
        bins = np.array_split(np.argsort(sure), 10)
        ece = np.mean([abs(sure[one].mean() - right[one].mean()) for one in bins])
        assert ece < 0.05, classes


def test_each_class_of_which_there_are_two_rows_is_held_out_once() -> None:
    random = np.random.default_rng(20314)
    y = np.concatenate([np.repeat(np.arange(60), 2), np.full(200, 60), [61]])
    data = Dataset(x=random.normal(size=(len(y), 3)), y=y)
    for seed in range(5):
        found = divide(data, share=0.5, seed=seed)
        assert set(y[found.held].tolist()) >= set(range(61))
        assert len(found.taught) + len(found.held) == len(y)
        assert len(found.taught) > 100
