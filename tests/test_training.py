"""Training: splits, losses, export, the recipes, and the bundle that ships."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import dirichlet

from hedge.models.bundle import Bundle, load_bundle
from hedge.models.dataset import Dataset, is_seen, load_dataset, read_seen, row_digests
from hedge.models.errors import BundleError, DataError, MissingExtraError
from hedge.models.onnx_graph import check_graph
from hedge.models.training import RECIPES
from hedge.models.training.measuring import Outputs, measure
from hedge.models.training.skipping import matters, place_threshold
from hedge.models.training.splits import Shares, by_group, by_row
from hedge.models.training.trained import Trained
from hedge.runtime.backends.onnx import OnnxModel
from hedge.runtime.shipped import bundle_path

Array = NDArray[Any]
SHARES = Shares(train=0.5, calibration=0.2)
HAR_LABELS = ("WALKING", "SITTING", "LAYING")


def training(module: str) -> ModuleType:
    """Import a module of the recipes, which needs torch."""
    pytest.importorskip("torch", reason="torch, which trains, is not installed")
    pytest.importorskip("sklearn", reason="scikit-learn, which brings the digits, is missing")
    return importlib.import_module(f"hedge.models.training.{module}")


class Quick(NamedTuple):
    """A bundle that was trained for a few epochs, and what was said meanwhile."""

    bundle: Bundle
    unseen: Dataset
    trained: Trained
    lines: list[str]


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Quick:
    lines: list[str] = []
    out = tmp_path_factory.mktemp("trained") / "quick"
    trained = training("digits").train(out, seed=3, say=lines.append, effort=0.1)
    unseen = load_dataset(Path(trained.unseen_file))
    return Quick(load_bundle(out), unseen, trained, lines)


def outputs(bundle: Bundle, data: Dataset) -> Outputs:
    """Return what ONNX Runtime makes of a bundle's models, one row at a time as a device does."""
    files = ("edge.onnx", "cloud.onnx", "skip.onnx")
    edge, cloud, skip = (
        np.concatenate([model.infer(row[None]) for row in data.x])
        for model in (OnnxModel(bundle.read(file), where=file) for file in files)
    )
    probability = 1.0 / (1.0 + np.exp(-skip[:, 0].astype(np.float64)))
    return Outputs(edge, cloud, probability > bundle.manifest.filter[0].threshold)


def windows(*, people: int, each: int, seed: int) -> dict[str, Array]:
    """Return motion that is easy to tell apart: strides, stillness, and a phone on its side."""
    random = np.random.default_rng(seed)
    y = np.tile(np.arange(3), people * each)
    subject = np.repeat(np.arange(people) + 11, 3 * each)
    pace = random.uniform(1.5, 2.5, len(y))[:, None, None] * np.arange(128) / 50
    stride = np.sin(2 * np.pi * (pace + random.random((len(y), 6, 1))))
    moving = np.where(y == 0, 0.4, 0.01)[:, None, None] * stride
    moving += random.normal(size=moving.shape) * 0.01
    gravity = np.zeros((len(y), 3, 1))
    gravity[np.arange(len(y)), np.where(y == 2, 1, 0)] = 1.0
    x = np.concatenate((moving, gravity + moving[:, :3]), axis=1).astype(np.float32)
    return {"X": x, "y": y, "subject": subject, "label_names": np.array(HAR_LABELS)}


# Splits


@given(st.integers(0, 2**32 - 1), st.integers(0, 40))
def test_a_split_by_rows_shares_no_row_and_keeps_equal_rows_together(
    seed: int, repeats: int
) -> None:
    random = np.random.default_rng(7)
    x = random.integers(0, 255, (100, 5)).astype(np.uint8)
    x, y = np.concatenate((x, x[:repeats])), np.arange(100) % 3
    y = np.concatenate((y, y[:repeats]))
    split = by_row(x, y, shares=SHARES, seed=seed)
    assert sorted(np.concatenate(split).tolist()) == list(range(100 + repeats))
    digests = [set(row_digests(x[rows]).tolist()) for rows in split]
    assert not digests[0] & digests[1]
    assert not digests[2] & (digests[0] | digests[1])


def test_a_split_by_rows_gives_each_class_the_same_shares_and_another_seed_other_rows() -> None:
    x = np.arange(500, dtype=np.int16)[:, None]
    y = np.repeat([0, 1, 2], [300, 150, 50])
    split = by_row(x, y, shares=SHARES, seed=1)
    counts = [[Counter(y[rows].tolist())[label] for label in range(3)] for rows in split]
    assert counts == [[150, 75, 25], [60, 30, 10], [90, 45, 15]]
    again, other = (by_row(x, y, shares=SHARES, seed=seed) for seed in (1, 2))
    assert np.array_equal(split.unseen, again.unseen)
    assert not np.array_equal(split.unseen, other.unseen)


@given(st.integers(0, 2**32 - 1), st.integers(3, 30))
def test_a_split_by_group_shares_no_group_and_leaves_no_part_empty(seed: int, groups: int) -> None:
    names = np.array([f"p{number % groups}" for number in range(4 * groups)])
    split = by_group(names, shares=Shares(train=13 / 21, calibration=4 / 21), seed=seed)
    found = [set(names[rows].tolist()) for rows in split]
    assert all(found)
    assert sum(len(one) for one in found) == len(found[0] | found[1] | found[2]) == groups
    assert sum(len(rows) for rows in split) == len(names)


def test_two_groups_cannot_be_split() -> None:
    with pytest.raises(DataError, match="2 groups cannot be split into three parts"):
        by_group(np.array([4, 4, 9]), shares=SHARES, seed=0)


# The filter


@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.integers(1, 300), st.floats(-3, 3))
def test_a_threshold_loses_at_most_four_in_a_thousand_of_what_matters(
    seed: int, kept: int, redundant: int, between: float
) -> None:
    random = np.random.default_rng(seed)
    keep = np.repeat([True, False], [kept, redundant])
    logits = random.normal(size=kept + redundant) + np.where(keep, between, 0.0)
    passes = 1.0 / (1.0 + np.exp(-logits)) > place_threshold(logits, keep)
    assert np.sum(~passes & keep) <= 0.004 * kept


def test_a_threshold_stands_in_the_middle_of_a_gap() -> None:
    logits = np.array([-7.0, 4.0, -3.0, 1.0])
    keep = np.array([False, True, False, True])
    assert place_threshold(logits, keep) == pytest.approx(1 / (1 + np.exp(1.0)))


def test_what_matters_is_what_the_edge_says() -> None:
    logits = np.array([[0.1, 2.0, 0.3], [3.0, 0.0, 0.0], [0.0, 0.1, 0.2]])
    assert matters(logits, redundant=np.array([1, 2])).tolist() == [False, True, False]


# Losses


def test_the_evidential_loss_is_the_papers_with_a_growing_kl_term() -> None:
    losses, torch = training("losses"), importlib.import_module("torch")
    logits = np.random.default_rng(5).normal(scale=3.0, size=(7, 4))
    y = np.array([0, 3, 1, 1, 2, 0, 3])
    expected = {}
    for weight in (0.0, 0.3, 1.0):
        rows = []
        for row, label in zip(logits, y, strict=True):
            alpha = np.log1p(np.exp(row)) + 1
            wrong = np.where(np.arange(4) == label, 1.0, alpha)
            # the uniform Dirichlet's density is Γ(K), so its cross-entropy is -ln Γ(4)
            divergence = -dirichlet(wrong).entropy() - np.log(6.0)
            rows.append(np.log(alpha.sum()) - np.log(alpha[label]) + weight * divergence)
        expected[weight] = np.mean(rows)
    for weight, value in expected.items():
        loss = losses.evidential(torch.tensor(logits), torch.tensor(y), weight)
        assert loss.item() == pytest.approx(value, rel=1e-9)
    assert expected[1.0] > expected[0.3] > expected[0.0]


def test_evidence_for_the_true_class_is_not_punished() -> None:
    losses, torch = training("losses"), importlib.import_module("torch")
    logits = torch.tensor([[2.0, -1.0, 0.5]], requires_grad=True)
    with_term = losses.evidential(logits, torch.tensor([0]), 1.0)
    without = losses.evidential(logits, torch.tensor([0]), 0.0)
    (gradient,) = torch.autograd.grad(with_term - without, logits)
    assert gradient[0, 0] == 0
    assert gradient[0, 1] > 0
    assert gradient[0, 2] > 0


# Augmentation


def test_turning_a_window_keeps_gravity_and_lengths() -> None:
    har, torch = training("har"), importlib.import_module("torch")
    x = torch.tensor(windows(people=3, each=2, seed=1)["X"])
    with training("fitting").repeatable(4):
        turned = har.augment(x)
    gravity, turned_gravity = x[:, 6:] - x[:, :3], turned[:, 6:] - turned[:, :3]
    assert torch.allclose(gravity.norm(dim=1), turned_gravity.norm(dim=1), atol=1e-5)
    factor = turned[:, 3:6].norm(dim=1) / x[:, 3:6].norm(dim=1)
    assert torch.allclose(factor, factor[:, :1].expand_as(factor), rtol=1e-3)
    assert (turned[:, :3].norm(dim=1) / x[:, :3].norm(dim=1)).sub(factor).abs().max() < 1e-3
    assert factor[:, 0].std() > 0.01


def test_digits_are_moved_by_less_than_a_pixel_or_two() -> None:
    digits, torch = training("digits"), importlib.import_module("torch")
    x = torch.zeros(200, 8, 8)
    x[:, 2, 5] = 16.0
    with training("fitting").repeatable(4):
        moved = digits.augment(x.view(200, 64)).view(200, 8, 8)
    assert moved.min() >= 0
    assert moved.max() <= 16
    at = moved / moved.sum((1, 2), keepdim=True)
    row = (at.sum(2) * torch.arange(8.0)).sum(1)
    column = (at.sum(1) * torch.arange(8.0)).sum(1)
    assert (row - 2).abs().max() < 2
    assert (column - 5).abs().max() < 2
    assert row.std() > 0.1


# Export


@pytest.mark.parametrize("net", ["edge", "cloud", "skip"])
@pytest.mark.parametrize("recipe", ["digits", "har"])
def test_an_exported_graph_gives_what_torch_gives(recipe: str, net: str) -> None:
    module, torch = training(recipe), importlib.import_module("torch")
    if recipe == "digits":
        plan, rows = module.plan(), np.random.default_rng(2).integers(0, 17, (40, 64))
        x = rows.astype(np.uint8)
    else:
        plan, x = module.plan(3), windows(people=3, each=2, seed=2)["X"].astype(np.float16)
    with training("fitting").repeatable(6):
        made = getattr(plan, net).net()
        made.train()
        made(torch.tensor(x).float())  # moves the running figures from where they start
        made.eval()
    data = training("export").to_onnx(made, shape=x.shape[1:], dtype=x.dtype.name)
    info = check_graph(data, where="graph")
    assert info.ir_version <= 10
    assert {domain for domain, _ in info.operators} == {""}
    (given_,) = info.inputs
    assert given_.dtype == x.dtype
    assert given_.shape == (None, *x.shape[1:])
    with torch.no_grad():
        expected = made(torch.tensor(x).float()).numpy()
    model = OnnxModel(data, where="graph")
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(model.infer(x), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.infer(x[4:5]), expected[4:5], rtol=1e-4, atol=1e-5)


def test_the_same_net_gives_the_same_bytes_and_no_path_of_this_machine() -> None:
    export, plan = training("export"), training("digits").plan()
    with training("fitting").repeatable(1):
        net = plan.cloud.net()
    first, second = (export.to_onnx(net, shape=(64,), dtype="uint8") for _ in range(2))
    assert first == second
    assert b".py" not in first
    assert str(Path(__file__).parents[1]).encode() not in first


# Recipes


def test_listing_the_recipes_needs_no_torch() -> None:
    code = (
        "import sys; from hedge.models.training import RECIPES; "
        "print(sorted(RECIPES), {'torch', 'sklearn', 'onnx'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    assert done.stdout.split("\n")[0] == "['digits', 'har'] set()"


def test_without_torch_a_recipe_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hedge.models.training.find_spec", lambda name: name != "torch" or None)
    with pytest.raises(MissingExtraError, match=r"torch .*hedge-runtime\[train\]"):
        RECIPES["digits"](Path("out"), data=None, seed=0, say=print)


def test_the_same_seed_gives_the_same_files_and_another_seed_others(
    quick: Quick, tmp_path: Path
) -> None:
    digits = training("digits")
    again = digits.train(tmp_path / "quick", seed=3, say=str, effort=0.1)
    assert again.digest == quick.trained.digest
    for name in quick.bundle.files:
        assert (tmp_path / "quick" / name).read_bytes() == quick.bundle.read(name)
    unseen = Path(quick.trained.unseen_file).read_bytes()
    assert (tmp_path / "quick-unseen.npz").read_bytes() == unseen
    other = digits.train(tmp_path / "other.hedge", seed=4, say=str, effort=0.1)
    assert other.digest != quick.trained.digest
    assert (tmp_path / "other-unseen.npz").read_bytes() != unseen


def test_a_recipe_tells_how_far_it_is(quick: Quick) -> None:
    first, *epochs = quick.lines
    assert first == "digits: 898 rows to train, 359 to calibrate, 540 unseen"
    assert {line.split(":")[0] for line in epochs} == {"edge", "cloud", "filter"}
    assert all("loss" in line and "calibration accuracy" in line for line in epochs)
    assert "unseen rows  540" in str(quick.trained)


def test_no_unseen_row_was_seen_and_every_other_one_was(quick: Quick) -> None:
    source = importlib.import_module("sklearn.datasets").load_digits()
    manifest = quick.bundle.manifest
    assert manifest.training is not None
    seen = read_seen(quick.bundle.read(manifest.training.seen), where="seen")
    assert not is_seen(quick.unseen.x, seen).any()
    assert is_seen(source.data, seen).sum() == len(seen) == 1797 - 540
    assert quick.unseen.labels == tuple("0123456789")


def test_a_recipe_reports_what_onnx_runtime_finds(quick: Quick) -> None:
    manifest = quick.bundle.manifest
    assert manifest.calibration is not None
    assert quick.unseen.y is not None
    found = measure(
        outputs(quick.bundle, quick.unseen),
        quick.unseen.y,
        edge=manifest.edge[0],
        calibration=manifest.calibration,
        redundant=np.array([0]),
    )
    told = quick.trained.figures
    for name in found.__struct_fields__:
        # a row that lies on a threshold may fall on either side of it
        assert getattr(found, name) == pytest.approx(getattr(told, name), abs=0.01, rel=0.01)


def test_the_figures_count_what_passes_and_the_clouds_answer_where_the_edge_asks(
    quick: Quick,
) -> None:
    manifest = quick.bundle.manifest
    assert manifest.calibration is not None
    sure, unsure = [30.0, 0.0, 0.0], [1.2, 1.0, 0.9]
    edge = np.array([sure, unsure, unsure, sure, [0.0, 30.0, 0.0]])
    cloud = np.array([[0, 0, 9], [0, 9, 0], [0, 0, 9], [9, 0, 0], [9, 0, 0]], np.float64)
    passes = np.array([True, True, True, True, False])
    calibration = manifest.calibration.__class__(
        score="max_prob", total=0.5, method="by hand", rows=1, data_sha256="0" * 64
    )
    found = measure(
        Outputs(edge, cloud, passes),
        np.array([0, 1, 1, 0, 0]),
        edge=manifest.edge[0],
        calibration=calibration,
        redundant=np.array([1]),
    )
    assert (found.rows, found.passed) == (5, 4)
    assert found.edge_accuracy_all == pytest.approx(2 / 5)
    assert found.edge_accuracy == pytest.approx(2 / 4)
    assert found.cloud_accuracy == pytest.approx(2 / 4)
    assert found.accuracy == pytest.approx(3 / 4)
    assert found.gap_recovered is None
    assert found.escalated_share == pytest.approx(2 / 4)
    assert found.dropped_share == pytest.approx(1 / 5)
    assert (found.filter_agreement, found.filter_recall) == (1.0, 1.0)


def test_motion_is_split_by_person_and_its_filter_knows_who_lies(tmp_path: Path) -> None:
    arrays = windows(people=7, each=20, seed=8)
    np.savez(tmp_path / "motion.npz", allow_pickle=False, **arrays)
    out = tmp_path / "new" / "har.hedge"
    har = training("har")
    trained = har.train(out, data=tmp_path / "motion.npz", seed=2, say=str, effort=2.0)
    unseen = load_dataset(tmp_path / "new" / "har-unseen.npz")
    assert unseen.group is not None
    assert unseen.x.dtype == np.float16
    people = set(unseen.group.tolist())
    ours = np.isin(arrays["subject"], list(people))
    assert 1 <= len(people) <= 2
    bundle = load_bundle(out)
    seen = read_seen(bundle.read("seen.npy"), where="seen")
    assert np.array_equal(is_seen(arrays["X"].astype(np.float16), seen), ~ours)
    assert bundle.manifest.filter[0].redundant == ("LAYING",)
    assert trained.figures.edge_accuracy_all > 0.95
    assert trained.figures.filter_recall > 0.99
    assert trained.figures.dropped_share == pytest.approx(1 / 3, abs=0.05)


def test_motion_of_people_is_learnt_from_the_real_data(tmp_path: Path) -> None:
    place = os.environ.get("HEDGE_DATA")
    if place is None:
        pytest.skip("HEDGE_DATA does not say where the data sets are")
    with np.load(Path(place) / "har_windows" / "har_windows_train.npz") as whole:
        arrays = {name: whole[name] for name in ("X", "y", "subject", "label_names")}
    few = arrays["subject"] <= 17
    rows = {name: array[few] if len(array) == len(few) else array for name, array in arrays.items()}
    np.savez(tmp_path / "few.npz", allow_pickle=False, **rows)
    har = training("har")
    trained = har.train(tmp_path / "har", data=tmp_path, seed=0, say=str, effort=0.3)
    assert trained.figures.edge_accuracy > 0.75
    assert trained.figures.cloud_accuracy > trained.figures.edge_accuracy
    assert trained.figures.accuracy > trained.figures.edge_accuracy
    assert trained.figures.filter_recall > 0.95


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": np.zeros((5, 9, 64), np.float16)}, r"X \(5, 9, 64\) should be \(n, 9, 128\)"),
        ({"X": np.zeros((5, 9, 128), np.int16)}, "of floats"),
        ({"X": np.full((5, 9, 128), 2e5, np.float32)}, "X reaches 200000 .g and rad/s"),
        ({"subject": None}, "no array subject, or no label_names"),
        ({"label_names": None}, "no array subject, or no label_names"),
        ({"subject": np.repeat([1, 2], [3, 2])}, "2 groups cannot be split"),
        ({"label_names": np.array(["A", "B"])}, "no label 'LAYING'"),
        ({"y": None}, "no y or no label_names"),
    ],
)
def test_data_that_is_no_motion_is_refused(
    tmp_path: Path, arrays: dict[str, Array | None], message: str
) -> None:
    given_ = {
        "X": np.zeros((5, 9, 128), np.float16),
        "y": np.array([0, 1, 0, 1, 1]),
        "subject": np.arange(5),
        "label_names": np.array(["A", "LAYING"]),
    }
    kept = {name: array for name, array in (given_ | arrays).items() if array is not None}
    np.savez(tmp_path / "motion.npz", allow_pickle=False, **kept)
    with pytest.raises(DataError, match=message):
        training("har").train(tmp_path / "out", data=tmp_path / "motion.npz", say=str)
    assert not (tmp_path / "out").exists()


def test_motion_needs_data() -> None:
    training("har")
    with pytest.raises(DataError, match=r"brings no data along .*--data"):
        RECIPES["har"](Path("out"), data=None, seed=0, say=print)


@pytest.mark.parametrize(
    ("x", "message"),
    [(np.zeros((4, 32)), r"X \(4, 32\)"), (np.full((4, 64), 17), "from 0 to 16")],
)
def test_data_that_is_no_digits_is_refused(tmp_path: Path, x: Array, message: str) -> None:
    np.savez(tmp_path / "digits.npz", X=x, y=np.arange(4))
    with pytest.raises(DataError, match=message):
        training("digits").train(tmp_path / "out", data=tmp_path / "digits.npz", say=str)


def test_a_place_that_is_taken_is_refused_before_the_training(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("not a bundle")
    said: list[str] = []
    with pytest.raises(BundleError, match="notes: is there already, and is no sound bundle"):
        training("digits").train(tmp_path / "notes", say=said.append)
    with pytest.raises(BundleError, match="cannot be written"):
        training("digits").train(tmp_path / "notes" / "below", say=said.append)
    assert not said
    assert (tmp_path / "notes").read_text() == "not a bundle"


# The bundle that ships


@pytest.fixture(scope="module")
def shipped() -> tuple[Bundle, Dataset]:
    path = bundle_path("digits")
    return load_bundle(path), load_dataset(path.with_name("digits-unseen.npz"))


def test_the_shipped_digits_are_as_good_as_promised(shipped: tuple[Bundle, Dataset]) -> None:
    bundle, data = shipped
    manifest = bundle.manifest
    assert manifest.calibration is not None
    assert data.y is not None
    found = measure(
        outputs(bundle, data),
        data.y,
        edge=manifest.edge[0],
        calibration=manifest.calibration,
        redundant=np.array(
            [manifest.labels.index(label) for label in manifest.filter[0].redundant]
        ),
    )
    assert found.edge_accuracy_all >= 0.93
    assert found.edge_accuracy >= 0.93
    assert found.cloud_accuracy >= found.edge_accuracy + 0.03
    assert found.escalated_share <= 0.30
    assert found.gap_recovered is not None
    assert found.gap_recovered >= 0.5
    assert found.filter_recall >= 0.99
    assert found.dropped_share == pytest.approx(0.1, abs=0.02)


def test_the_shipped_digits_are_small_and_their_rows_unseen(
    shipped: tuple[Bundle, Dataset],
) -> None:
    bundle, data = shipped
    assert sum(bundle.files.values()) < 300_000
    assert bundle.manifest.training is not None
    seen = read_seen(bundle.read(bundle.manifest.training.seen), where="seen")
    assert not is_seen(data.x, seen).any()
    assert "CC-BY-4.0" in bundle.manifest.licence
    assert any("UCI" in citation for citation in bundle.manifest.citations)
