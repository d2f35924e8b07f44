"""The drift of a stream's scores: the statistic, its noise, and the event that tells of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import beta, chi2, norm

from hedge.models.bundle import write_bundle
from hedge.models.manifest import Manifest
from hedge.models.opinion import Assessor
from hedge.runtime.config import load_config
from hedge.runtime.daemon import serve
from hedge.runtime.events.events import Events
from hedge.runtime.gate.drift import (
    EVERY,
    LIMIT,
    Bins,
    DriftWatch,
    design_effect,
    noise,
    stability_index,
)
from hedge.telemetry.gate_state import DriftState

Figures = NDArray[np.float64]
_SEED = 20267
_TWENTIETHS = np.arange(1, 20) / 20


def _alike(count: int, rho: float, rng: np.random.Generator) -> Figures:
    """Return (count,) of a standard normal sequence, each correlated by rho with the last."""
    found = rng.normal(size=count)
    for at in range(1, count):
        found[at] = rho * found[at - 1] + math.sqrt(1 - rho * rho) * found[at]
    return found


def _scores(normal: Figures) -> Figures:
    found: Figures = beta(1, 4).ppf(norm.cdf(normal))
    return found


def _watch(rows: int, rng: np.random.Generator) -> DriftWatch:
    reference = np.quantile(rng.beta(1, 4, rows), _TWENTIETHS)
    return DriftWatch(reference.tolist(), calibrated=rows)


def _looks(watch: DriftWatch, scores: Figures) -> list[bool]:
    """Feed the watch; return whether it drifts after each look."""
    found = []
    for begin in range(0, scores.size - EVERY + 1, EVERY):
        before = watch.drifting
        turned = watch.look(scores[begin : begin + EVERY])
        assert turned == (watch.drifting != before)
        found.append(watch.drifting)
    return found


# ---- The statistic.


def test_the_index_is_the_symmetric_divergence_of_what_is_found_from_what_is_due() -> None:
    rng = np.random.default_rng(_SEED)
    found, due = rng.dirichlet([3.0, 1.0, 5.0, 2.0]), rng.dirichlet([2.0, 4.0, 1.0, 3.0])
    both = sum(
        float((one * np.log(one / other)).sum()) for one, other in ((found, due), (due, found))
    )
    assert stability_index(found * 700, due) == pytest.approx(both)
    assert stability_index(due * 700, due) == pytest.approx(0.0)
    assert math.isfinite(stability_index(np.array([0.0, 9.0]), np.array([0.5, 0.5])))


def test_scores_are_counted_between_the_quantiles_by_blocks() -> None:
    bins = Bins.of([0.1, 0.2, 0.4])
    rows = np.tile([0.05, 0.1, 0.15, 0.9], 32)
    assert bins.cells(rows).tolist() == [[16, 16, 16, 0, 0, 0, 16]] * 2
    assert bins.due(np.array([20.0, 0, 10, 0, 30, 0, 40])).tolist() == [0.25] * 4


def test_equal_scores_beyond_a_quantile_are_due_as_they_are_found() -> None:
    bins = Bins.of([0.1, 0.1, 0.3])  # half up to 0.1, three quarters up to 0.3
    assert bins.due(np.array([10.0, 50, 20, 0, 20])).tolist() == pytest.approx([0.6, 0.15, 0.25])
    assert bins.due(np.array([10.0, 85, 0, 0, 5])).tolist() == pytest.approx([0.75, 0.005, 0.25])
    assert bins.due(np.array([60.0, 0, 20, 0, 20])).tolist() == pytest.approx([0.5, 0.25, 0.25])


def test_many_equal_scores_are_no_drift_from_themselves() -> None:
    rng = np.random.default_rng(_SEED)
    levels = np.array([0.0, 0.004, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9])
    shares = [0.58, 0.1, 0.05, 0.05, 0.05, 0.05, 0.04, 0.04, 0.03, 0.01]
    for _ in range(20):
        rows = rng.choice(levels, 6000, p=shares)
        watch = DriftWatch(np.quantile(rows[:2000], _TWENTIETHS).tolist(), calibrated=2000)
        assert not any(_looks(watch, rows[2000:]))
        assert watch.statistic is not None
        assert watch.statistic < LIMIT / 2


def test_scores_that_were_all_equal_have_one_edge() -> None:
    watch = DriftWatch([0.25] * 19, calibrated=100)
    assert not any(_looks(watch, np.full(2048, 0.25)))
    assert any(_looks(watch, np.full(2048, 0.75)))


def test_the_noise_is_the_quantile_of_chi_square_over_the_rows() -> None:
    for bins, rows, calibrated in ((20, 2048, 500), (5, 100, 10_000)):
        exact = chi2(bins - 1).isf(norm.sf(4.0)) * (1 / rows + 1 / calibrated)
        assert noise(bins, rows=rows, calibrated=calibrated) == pytest.approx(exact, rel=0.05)


def test_independent_rows_have_no_design_effect_and_alike_ones_have_theirs() -> None:
    rng = np.random.default_rng(_SEED)
    bins = Bins.of(np.quantile(rng.beta(1, 4, 5000), _TWENTIETHS).tolist())
    effects = {
        rho: np.mean([design_effect(bins.cells(_scores(_alike(2048, rho, rng)))) for _ in range(8)])
        for rho in (0.0, 0.9, 0.99)
    }
    assert 1 <= effects[0.0] < 1.3
    assert 1.5 < effects[0.9] < 6
    assert effects[0.99] > 8


# ---- The watch.


def test_a_stream_like_its_calibration_does_not_drift_even_where_its_samples_are_alike() -> None:
    rng = np.random.default_rng(_SEED)
    for calibrated in (300, 2000):
        for rho in (0.0, 0.9):
            drifted = [
                any(_looks(_watch(calibrated, rng), _scores(_alike(4096, rho, rng))))
                for _ in range(15)
            ]
            assert sum(drifted) <= 1, (calibrated, rho)


@pytest.mark.parametrize(("shift", "rho"), [(1.0, 0.0), (1.0, 0.9), (-1.0, 0.9), (2.0, 0.99)])
def test_scores_that_shift_are_found_before_the_ring_has_turned_twice(
    shift: float, rho: float
) -> None:
    rng = np.random.default_rng(_SEED)
    watch = _watch(2000, rng)
    _looks(watch, _scores(_alike(2048, 0.5, rng)))
    assert not watch.drifting
    assert any(_looks(watch, _scores(_alike(4096, rho, rng) + shift)))
    assert watch.state().events == 1
    assert (watch.state().statistic or 0) >= LIMIT


def test_drift_ends_only_well_below_where_it_begins() -> None:
    rng = np.random.default_rng(_SEED)
    watch = _watch(5000, rng)
    assert _looks(watch, _scores(rng.normal(size=2048) + 1.0))[-1]
    between = _looks(watch, _scores(rng.normal(size=4096) + 0.36))
    assert all(between)
    assert LIMIT / 2 < (watch.statistic or 0) < LIMIT
    assert not _looks(watch, _scores(rng.normal(size=4096)))[-1]
    assert watch.state().events == 1


def test_nothing_is_said_of_a_few_samples() -> None:
    rng = np.random.default_rng(_SEED)
    watch = _watch(2000, rng)
    assert not any(_looks(watch, np.full(EVERY, 0.99)))
    assert watch.state().statistic is None


# ---- What is told.


class _Sink:
    def __init__(self) -> None:
        self.told: list[Any] = []

    def emit(self, outcome: object) -> None: ...

    def tell(self, event: object) -> None:
        self.told.append(event)

    def close(self) -> None: ...


def test_drift_is_told_as_an_event_that_opens_and_closes_once(tmp_path: Path) -> None:
    events, sink = Events(state=tmp_path, session=3, wall=iter(range(100)).__next__), _Sink()
    events.serve({}, [sink])
    for drifting, index in ((True, 0.5), (True, 0.6), (False, 0.05), (False, 0.04)):
        state = DriftState(rows=2048, statistic=index, limit=LIMIT, drifting=drifting)
        events.drift("cam", state, score="entropy")
    opened, closed = sink.told
    assert (opened.event, opened.stream, opened.state, opened.label) == (
        *("drift", "cam", "opened", "entropy"),
    )
    assert (opened.statistic, closed.statistic) == (0.5, 0.05)
    assert (closed.id, closed.state, closed.why) == (opened.id, "closed", "quiet")
    assert closed.closed_at_s >= opened.opened_at_s
    assert events.counters()["events_opened.cam.drift"] == 1


def test_drift_that_is_open_when_the_device_stops_is_closed(tmp_path: Path) -> None:
    events, sink = Events(state=tmp_path, session=3), _Sink()
    events.serve({}, [sink])
    events.drift("cam", DriftState(rows=2048, statistic=0.5, drifting=True), score="entropy")
    assert (tmp_path / "events.json").exists(), "a kill would leave it open"
    events.close()
    assert [event.why for event in sink.told] == [None, "stopped"]
    assert not (tmp_path / "events.json").exists()


@pytest.mark.parametrize("watched", [True, False])
def test_a_device_whose_scores_shift_says_so(
    tmp_path: Path,
    manifest: Manifest,
    bundle_files: Mapping[str, bytes],
    linear_onnx: Callable[..., bytes],
    caplog: pytest.LogCaptureFixture,
    watched: bool,  # noqa: FBT001 -- a parameter of pytest's
) -> None:
    rng = np.random.default_rng(_SEED)
    weights = rng.normal(size=(4, 3)).astype(np.float32)
    assert manifest.calibration is not None
    rows = rng.normal(size=(2000, 4)).astype(np.float32)
    assess = Assessor(output="logits", head="evidential", classes=3)
    files = {**bundle_files, "edge.onnx": linear_onnx(3, seed=_SEED)}
    weights = np.random.default_rng(_SEED).normal(size=(4, 3)).astype(np.float32)
    scores = [assess.assess(row).score for row in rows @ weights]
    calibration = msgspec.structs.replace(
        manifest.calibration,
        reference=tuple(float(one) for one in np.quantile(scores, _TWENTIETHS)),
        rows=2000,
    )
    made = msgspec.structs.replace(manifest, calibration=calibration, filter=())
    files.pop("skip.onnx")
    bundle = write_bundle(tmp_path / "drifting", made, files).path
    later = rng.normal(size=(2560, 4)).astype(np.float32) * np.float32(0.2)
    np.savez(tmp_path / "rows.npz", X=np.concatenate([rows, later]))
    (tmp_path / "device.toml").write_text(
        f'[device]\nname = "d"\nstate_dir = "state"\n[[stream]]\nname = "s"\n'
        f'bundle = "{bundle}"\nsource = {{ kind = "replay", path = "rows.npz" }}\n'
        f"gate = {{ drift = {str(watched).lower()} }}\n"
        '[[sink]]\nkind = "jsonl"\npath = "out.jsonl"\nwhich = "events"\n'
    )
    report = serve(load_config(tmp_path / "device.toml", environ={}), base=tmp_path)
    told = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    gate = report.streams[0].gate
    assert gate is not None
    if not watched:
        assert (told, gate.drift) == ([], None)
        return
    assert [(one["event"], one["state"]) for one in told] == [
        *(("drift", "opened"), ("drift", "closed")),
    ]
    assert gate.drift is not None
    assert (gate.drift.drifting, gate.drift.events) == (True, 1)
    assert "drift from those of calibration" in caplog.text
    assert report.counts["events_opened.s.drift"] == 1


def test_drift_that_nobody_watches_any_more_after_a_reload_has_been_stopped(tmp_path: Path) -> None:
    events, sink = Events(state=tmp_path, session=3), _Sink()
    events.serve({}, [sink])
    events.drift("cam", DriftState(rows=2048, statistic=0.5, drifting=True), score="entropy")
    events.drift("cam", DriftState(rows=0), score="entropy")
    assert [(event.why, event.statistic) for event in sink.told] == [(None, 0.5), ("stopped", 0.5)]
