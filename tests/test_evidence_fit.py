"""Fitting evidence to a classifier: what is learnt, from labels or a proxy, and the command."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from scipy import integrate, special, stats

torch = pytest.importorskip("torch", reason="torch, which fits, is not installed")

from hedge.models.bundle import Bundle, load_bundle, write_bundle  # noqa: E402  after the skip
from hedge.models.consistency import check_manifest  # noqa: E402
from hedge.models.dataset import is_seen, load_dataset, read_seen  # noqa: E402
from hedge.models.errors import (  # noqa: E402
    BundleError,
    ConfigError,
    DataError,
    HedgeError,
    ModelError,
)
from hedge.models.evidence_head import HeadForm  # noqa: E402
from hedge.models.manifest import (  # noqa: E402
    Calibration,
    Cloud,
    Edge,
    EvidenceHead,
    Input,
    Manifest,
)
from hedge.models.measures import augrc, ece_vacuity, hits  # noqa: E402
from hedge.models.opinion import Assessor  # noqa: E402
from hedge.models.scores import SCORES  # noqa: E402
from hedge.models.training.distillation import divergence  # noqa: E402
from hedge.models.training.evidence_fit import distil_head, fit_head  # noqa: E402
from hedge.runtime import evidence_command  # noqa: E402
from hedge.runtime.both_models import outputs_of  # noqa: E402
from hedge.runtime.evidence.record import Measured, Quality, Scored, plainer  # noqa: E402

Array = NDArray[Any]
SHA = "0" * 64
LABELS = ("rest", "walk", "run")


def noisy(rows: int, *, classes: int = 3, seed: int = 1, sharp: float = 3.0) -> tuple[Array, Array]:
    """Return logits of an overconfident classifier, and classes drawn by honest ones."""
    random = np.random.default_rng(seed)
    honest = random.normal(0, 1.5, (rows, classes))
    y = (honest + random.gumbel(size=honest.shape)).argmax(axis=1)
    return (sharp * honest).astype(np.float32), y


def linear(weight: Array, *, seed: int = 0) -> bytes:
    """Return an ONNX graph of y = x W."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        f"linear{seed}",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", len(weight)])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", weight.shape[1]])],
        [numpy_helper.from_array(weight.astype(np.float32), "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = made.SerializeToString()
    return data


WEIGHT = np.array([[2.5, 0.2, -0.4], [0.1, 3.0, 0.3], [-0.2, 0.1, 2.0], [0.4, -0.3, 0.1]])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give 400 rows on which the linear model is often right, never by much."""
    random = np.random.default_rng(7)
    x = random.normal(0, 1.2, (400, 4)).astype(np.float32)
    y = (x @ WEIGHT * 0.5 + random.gumbel(size=(400, 3))).argmax(axis=1)
    path = tmp_path_factory.mktemp("data") / "rows.npz"
    np.savez(path, X=x, y=y, labels=np.array(LABELS))
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Give a calibrated bundle whose edge and cloud are plain classifiers."""
    manifest = Manifest(
        format=1,
        name="steps",
        version="1.0.9",
        task="classification",
        labels=LABELS,
        licence="Apache-2.0",
        input=Input(kind="tensor", shape=(4,), dtype="float32"),
        edge=(Edge(name="tiny", file="edge.onnx"),),
        cloud=Cloud(file="cloud.onnx"),
        calibration=Calibration(
            score="max_prob", total=0.4, method="by hand", rows=10, data_sha256=SHA
        ),
        files={},
    )
    files = {"edge.onnx": linear(WEIGHT), "cloud.onnx": linear(2 * WEIGHT, seed=1)}
    return write_bundle(tmp_path_factory.mktemp("bundles") / "plain", manifest, files)


@pytest.fixture(scope="module")
def fitted(bundle: Bundle, data: Path) -> Path:
    """Give the folder in which `hedge evidence fit` left its bundle, rest.npz and figures.json."""
    folder = bundle.path.with_name("fitted")
    folder.mkdir()
    hedge(
        *(bundle.path, data, "--out", folder / "out", "--rest", folder / "rest.npz"),
        *("--json", folder / "figures.json"),
    )
    return folder


def hedge(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    evidence_command.add_parser(parser.add_subparsers(required=True))
    options = parser.parse_args(["evidence", "fit", *map(str, arguments)])
    code: int = options.run(options)
    return code


# What is learnt


def test_the_divergence_is_that_of_an_integral() -> None:
    p, m = np.array([2.3, 1.1]), np.array([1.7, 4.2])
    one, other = stats.beta(*p), stats.beta(*m)
    expected, _ = integrate.quad(lambda x: one.pdf(x) * (one.logpdf(x) - other.logpdf(x)), 0, 1)

    found = divergence(torch.tensor(p)[None], torch.tensor(m)[None]).item()
    assert found == pytest.approx(expected, rel=1e-7)


def test_the_divergence_is_that_of_drawings() -> None:
    p, m = np.array([3.1, 1.2, 5.5, 0.8]), np.array([1.4, 2.2, 4.0, 1.9])
    drawn = np.random.default_rng(3).dirichlet(p, 200_000).T
    drawn /= drawn.sum(axis=0)
    differences = stats.dirichlet(p).logpdf(drawn) - stats.dirichlet(m).logpdf(drawn)

    found = divergence(torch.tensor(p)[None], torch.tensor(m)[None]).item()
    error = differences.std() / np.sqrt(len(differences))
    assert abs(found - differences.mean()) < 5 * error
    assert divergence(torch.tensor(p)[None], torch.tensor(p)[None]).item() == pytest.approx(0)


def test_vacuity_becomes_the_probability_of_an_error() -> None:
    logits, y = noisy(1500, classes=4)
    held, held_y = noisy(3000, classes=4, seed=2)
    fitted = fit_head(logits, y, data_sha256=SHA)

    alpha, total = HeadForm(fitted.head, classes=4).rows(held)
    vacuity = 4 / total
    probs = special.softmax(held, axis=1)
    right = hits(probs, held_y)
    before = ece_vacuity(SCORES["max_prob"].rows(probs), right)
    assert ece_vacuity(vacuity, right) < before / 2
    best = min(augrc(SCORES[name].rows(probs), right) for name in ("max_prob", "entropy"))
    assert augrc(vacuity, right) < best + 0.002
    np.testing.assert_array_equal(alpha.argmax(axis=1), held.argmax(axis=1))


def test_the_same_rows_and_seed_give_the_same_head() -> None:
    logits, y = noisy(120)

    assert fit_head(logits, y, seed=3, data_sha256=SHA) == fit_head(
        logits, y, seed=3, data_sha256=SHA
    )


def test_two_classes_have_no_peak_to_look_at() -> None:
    logits, y = noisy(400, classes=2)
    fitted = fit_head(logits, y, data_sha256=SHA)

    assert fitted.head.weights[2] == 0
    assert all("peak" not in name for name in fitted.tried)


def test_a_proxy_teaches_its_own_strength() -> None:
    logits, _ = noisy(600, classes=3)
    true = EvidenceHead(weights=(0.8, 0.4, 0.0), bias=-0.5, data_sha256=SHA)
    proxy, sure = HeadForm(true, classes=3).rows(logits.astype(np.float64))

    fitted = distil_head(logits, proxy, data_sha256=SHA)

    _, found = HeadForm(fitted.head, classes=3).rows(logits.astype(np.float64))
    np.testing.assert_allclose(3 / found, 3 / sure, atol=0.05)


@pytest.mark.parametrize(
    ("rows", "wrong", "message"),
    [(20, 10, "20 rows to learn"), (200, 2, "wrong on 2 of 200"), (200, 198, "right on 2 of 200")],
)
def test_too_little_to_learn_from_is_said(rows: int, wrong: int, message: str) -> None:
    logits = np.tile(np.array([2.0, 0.0, -1.0], np.float32), (rows, 1))
    y = np.zeros(rows, np.int64)
    y[:wrong] = 1

    with pytest.raises(DataError, match=message):
        fit_head(logits, y, data_sha256=SHA)


# The command


def test_a_bundles_edge_gets_evidence_that_travels_with_its_file(
    bundle: Bundle, data: Path, fitted: Path
) -> None:
    made, rest = load_bundle(fitted / "out"), fitted / "rest.npz"
    edge = made.manifest.edge[0]
    assert (edge.head, edge.output, edge.evidence) == ("evidential", "logits", None)
    assert made.manifest.version == "1.0.10"
    assert made.manifest.calibration is None

    rows = load_dataset(data).fitted(made.input, labels=made.labels, where="rows")
    before, after = outputs_of(bundle, rows).edge, outputs_of(made, rows).edge
    np.testing.assert_array_equal(before.argmax(axis=1), after.argmax(axis=1))

    assert made.manifest.training is not None
    seen = read_seen(made.read(made.manifest.training.seen), where="seen")
    kept = load_dataset(rest)
    assert len(kept.x) == 200
    assert not is_seen(kept.x, seen).any()
    assert is_seen(rows.x, seen).sum() == 200

    record = json.loads((fitted / "figures.json").read_text())
    assert (record["place"], record["labels_different"]) == ("graph", 0)
    assert record["measured"]["before"]["accuracy"] == record["measured"]["after"]["accuracy"]
    assert [one["name"] for one in record["measured"]["scores"]] == [
        *("vacuity", "max softmax", "temperature", "entropy", "p-norm")
    ]


def test_evidence_of_an_onnx_graph_is_kept_in_the_manifest_where_that_is_wished(
    bundle: Bundle, data: Path, fitted: Path, tmp_path: Path
) -> None:
    assert hedge(bundle.path, data, "--place", "manifest", "--out", tmp_path / "out") == 0

    made, before = load_bundle(tmp_path / "out"), load_bundle(fitted / "out")
    edge = made.manifest.edge[0]
    assert made.read(edge.file) == bundle.read(bundle.manifest.edge[0].file)
    rows = load_dataset(data).fitted(made.input, labels=made.labels, where="rows")
    by_table, by_graph = (
        Assessor.of(one.manifest.edge[0], classes=len(one.labels)).assess_batch(
            outputs_of(one, rows).edge
        )
        for one in (made, before)
    )
    assert by_table.vacuity is not None
    assert by_graph.vacuity is not None
    np.testing.assert_allclose(by_table.vacuity, by_graph.vacuity, rtol=2e-3)


def test_a_cloud_learns_from_an_evidential_edge_without_labels(
    bundle: Bundle,
    data: Path,
    fitted: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with np.load(data) as npz:
        np.savez(tmp_path / "bare.npz", X=np.random.default_rng(2).permuted(npz["X"], axis=0))
    assert hedge(
        *(bundle.path, tmp_path / "bare.npz", "--part", "cloud", "--proxy", fitted / "out"),
        *("--out", tmp_path / "both"),
    ) == 0  # fmt: skip

    made_at = tmp_path / "both"
    made = load_bundle(made_at).manifest
    assert made.cloud is not None
    assert made.cloud.head == "evidential"
    assert made.edge[0].head == "softmax"
    said = capsys.readouterr()
    assert "learnt from the proxy steps" in said.out
    assert "labels that are different now: 0" in said.out
    assert f"was dropped: a device needs to know when to ask: hedge calibrate {made_at}" in said.err


def test_a_bare_model_becomes_a_bundle_with_evidence(data: Path, tmp_path: Path) -> None:
    model = tmp_path / "net.onnx"
    model.write_bytes(linear(WEIGHT))

    assert hedge(model, data, "--labels", ",".join(LABELS), "--out", tmp_path / "out") == 0

    made = load_bundle(tmp_path / "out").manifest
    assert (made.name, made.edge[0].head) == ("net", "evidential")


def test_rows_of_one_group_teach_or_judge_never_both(
    bundle: Bundle, data: Path, tmp_path: Path
) -> None:
    with np.load(data) as npz:
        group = np.repeat(np.arange(8), 50)
        np.savez(tmp_path / "groups.npz", **npz, group=group)
    rest = tmp_path / "rest.npz"
    hedge(bundle.path, tmp_path / "groups.npz", "--out", tmp_path / "out", "--rest", rest)

    kept = load_dataset(rest)
    assert kept.group is not None
    assert np.unique(kept.group, return_counts=True)[1].tolist() == [50] * 4


def _changed(data: Path, **arrays: Array) -> Path:
    with np.load(data) as npz:
        np.savez(data.with_name("changed.npz"), **{**npz, **arrays})
    return data.with_name("changed.npz")


def test_bad_data_is_refused_by_what_is_wrong_with_it(
    bundle: Bundle, data: Path, tmp_path: Path
) -> None:
    with np.load(data) as npz:
        x, y = npz["X"], npz["y"]
    holes = x.copy()
    holes[5, 1] = np.nan
    bad: list[tuple[Path | dict[str, Array], str]] = [
        ({"y": np.where(y == 2, 7, y)}, "y runs from 0 to 7"),
        ({"y": np.zeros_like(y)}, "all rows are of class 'rest'"),
        ({"y": np.where(y == 2, 1, y)}, "no row is left of class 'run'"),
        ({"X": holes}, "NaN or Inf in 1 of 400 rows"),
        ({"X": x[:60], "y": y[:60]}, "30 rows are held out"),
    ]
    for arrays, message in bad:
        changed = _changed(data, **arrays)  # type: ignore[arg-type]
        with pytest.raises(DataError, match=message):
            hedge(bundle.path, changed, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_data_without_classes_needs_a_proxy(bundle: Bundle, data: Path, tmp_path: Path) -> None:
    with np.load(data) as npz:
        np.savez(tmp_path / "bare.npz", X=npz["X"])
    with pytest.raises(DataError, match=r"no array y \(evidence is learnt from classes, or from a"):
        hedge(bundle.path, tmp_path / "bare.npz", "--out", tmp_path / "out")


def test_a_model_that_is_not_what_it_is_said_to_be_is_refused(
    bundle: Bundle, data: Path, tmp_path: Path
) -> None:
    edge = bundle.manifest.edge[0]
    cases = (
        (msgspec.structs.replace(edge, output="probabilities"), linear(WEIGHT), "no distribution"),
        (
            edge,
            _ending_in_softmax(),
            "every output is a distribution, and they are said to be logits",
        ),
        (edge, linear(np.full((4, 3), np.nan)), "output 0 is nan"),
    )
    for place, (one, file, message) in enumerate(cases):
        manifest = msgspec.structs.replace(bundle.manifest, edge=(one,))
        files = {"edge.onnx": file, "cloud.onnx": bundle.read("cloud.onnx")}
        bad = write_bundle(tmp_path / f"bad{place}", manifest, files)
        with pytest.raises(ModelError, match=message):
            hedge(bad.path, data, "--out", tmp_path / "out")


def _ending_in_softmax() -> bytes:
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["z"]),
            helper.make_node("Softmax", ["z"], ["y"], axis=-1),
        ],
        "softmax",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 3])],
        [numpy_helper.from_array(WEIGHT.astype(np.float32), "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = made.SerializeToString()
    return data


def test_a_model_of_one_class_is_no_classifier(data: Path, tmp_path: Path) -> None:
    model = tmp_path / "one.onnx"
    model.write_bytes(linear(WEIGHT[:, :1]))
    with pytest.raises(ModelError, match="no classifier of 2 or more"):
        hedge(model, data, "--labels", ",".join(LABELS), "--out", tmp_path / "out")


def test_a_model_that_has_evidence_is_left_alone(
    bundle: Bundle, data: Path, fitted: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="has evidence already"):
        hedge(fitted / "out", data, "--out", tmp_path / "again")

    softmax = msgspec.structs.replace(bundle.manifest.edge[0], head="softmax")
    manifest = msgspec.structs.replace(bundle.manifest, edge=(softmax,))
    file = load_bundle(fitted / "out").read("edge.onnx")
    files = {"edge.onnx": file, "cloud.onnx": bundle.read("cloud.onnx")}
    write_bundle(tmp_path / "said", manifest, files)
    with pytest.raises(ModelError, match="has learnt evidence already"):
        hedge(tmp_path / "said", data, "--out", tmp_path / "again")


def test_nothing_that_is_there_is_overwritten(bundle: Bundle, data: Path, tmp_path: Path) -> None:
    before = data.read_bytes()
    with pytest.raises(ConfigError, match="would overwrite"):
        hedge(bundle.path, data, "--out", bundle.path)
    with pytest.raises(ConfigError, match="would overwrite"):
        hedge(bundle.path, data, "--out", tmp_path / "out", "--rest", data)
    write_bundle(tmp_path / "out", bundle.manifest, _files(bundle))
    with pytest.raises(BundleError, match="is there already"):
        hedge(bundle.path, data, "--out", tmp_path / "out")
    assert data.read_bytes() == before
    assert load_bundle(tmp_path / "out").digest == bundle.digest


def _files(bundle: Bundle) -> dict[str, bytes]:
    return {name: bundle.read(name) for name in bundle.manifest.files}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--share", "1"), "--share: 1.0 is not between"),
        (("--seed", "-1"), "--seed: -1 is below"),
        (("--variant", "x"), "no variant 'x'"),
        (("--part", "cloud", "--variant", "x"), "--variant: is of edges"),
        (("--labels", "a,b"), "--labels: is for a bare model"),
        (("--input-dtype", "uint8"), "is for a bare model"),
        (("--proxy-variant", "x"), "of which proxy"),
    ],
)
def test_a_wrong_flag_is_named(
    bundle: Bundle, data: Path, tmp_path: Path, flags: tuple[str, ...], message: str
) -> None:
    with pytest.raises(HedgeError, match=message):
        hedge(bundle.path, data, "--out", tmp_path / "out", *flags)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": (0.5,)}, r"\$.edge\[0\].evidence.weights: 1 of them, not 3"),
        ({"bias": float("nan")}, r"\$.edge\[0\].evidence.bias: nan is not finite"),
        ({"temperature": float("inf")}, r"\$.edge\[0\].evidence.temperature: inf is not finite"),
        ({}, r"\$.edge\[0\].evidence: makes an evidential head, and the head is said to be"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(
    bundle: Bundle, change: dict[str, Any], message: str
) -> None:
    sound = EvidenceHead(weights=(0.5, 0.2, 0.0), bias=0.1, data_sha256=SHA)
    table = msgspec.structs.replace(sound, **change)
    head = "evidential" if change else "softmax"
    edge = msgspec.structs.replace(bundle.manifest.edge[0], evidence=table, head=head)

    with pytest.raises(BundleError, match=message):
        check_manifest(msgspec.structs.replace(bundle.manifest, edge=(edge,)), where="m")


def test_the_verdict_says_when_a_plainer_score_is_better() -> None:
    quality = Quality(accuracy=0.8, ece_prob=0, ece_vacuity=0, brier=0, log_score_nats=0)

    def found(more: float, high: float) -> str:
        own = Scored(name="vacuity", aurc=0.1, augrc=0.05, more=0, low=0, high=0)
        other = Scored(name="entropy", aurc=0.1, augrc=0.05 + more, more=more, low=-1, high=high)
        measured = Measured(
            before=quality,
            after=quality,
            temperature=1,
            scaled=quality,
            scores=(own, other),
            resampled="row",
            units=5,
            worse=(),
            advice="",
        )
        return " ".join(plainer(measured))

    assert found(-0.01, -0.001).startswith("plainer and clearly better here: entropy")
    assert found(-0.01, 0.001).startswith("entropy is plainer and a little better here")
    assert found(0.01, 0.02) == "no plainer score is better on these rows"
