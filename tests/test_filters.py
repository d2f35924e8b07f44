"""Filters in a stream: dropped, reused and learnt samples, and what comes of filters that fail."""

from __future__ import annotations

import itertools
import logging
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from hedge.models.bundle import Bundle, write_bundle
from hedge.models.dataset import load_dataset
from hedge.models.errors import ModelError
from hedge.models.filtering.rules import rule_of
from hedge.models.manifest import Calibration, Filter, Input, Manifest, Reuse, Tuned
from hedge.models.model import Model, ModelSpec
from hedge.models.opinion import Assessor
from hedge.models.prepare import preparer
from hedge.models.records import Outcome
from hedge.runtime.both_models import passing
from hedge.runtime.config import load_config
from hedge.runtime.daemon import serve
from hedge.runtime.filters.filtered import Filtered
from hedge.runtime.filters.key_cache import KeyCache
from hedge.runtime.filters.reuse import ReuseFilter
from hedge.runtime.filters.screen import Screen
from hedge.runtime.filters.skip import SkipFilter
from hedge.runtime.lane import Lane
from hedge.runtime.loop import Loop
from hedge.runtime.policy import Policy
from hedge.runtime.report import RunReport
from hedge.runtime.sources.replay import Replay
from hedge.telemetry.filter_state import FilterState
from hedge.telemetry.ledger import Ledger
from hedge.uplink.asks import Answer, Ask, Audited

SEED = 20282
_LABELS = ("rest", "walk", "run")
_INPUT = Input(kind="tensor", shape=(3,), dtype="float32")
_TUNED = Tuned(
    aim="accuracy",
    target=0.9,
    recall=0.9,
    accuracy=0.9,
    rate=0.5,
    optimum=0.6,
    rows=100,
    data_sha256="0" * 64,
)
_CALIBRATION = Calibration(score="max_prob", total=0.4, method="test", rows=1, data_sha256="0" * 64)
_REUSE = Reuse(width=3, distance=0.5, neighbours=1)


class Plain:
    """A model that gives what a function makes of its batch."""

    def __init__(self, function: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
        self.infer = function
        self.runs_on = "test"
        self.spec = ModelSpec((), ())

    def reset(self) -> None: ...

    def close(self) -> None: ...


class FarEnd:
    """An uplink that answers each ask with label 2, or, from the third on, never."""

    connected = True

    def __init__(self, *, answers: int) -> None:
        self._left = answers
        self._due: list[Answer] = []

    def offer(self, ask: Ask) -> bool:
        if self._left:
            self._left -= 1
            probs = np.array([0.1, 0.1, 0.8], np.float32)
            self._due.append(Answer(ask.id, ask.stream, "answered", probs, asked_at_ns=0))
        return True

    def answers(self) -> list[Answer]:
        due, self._due = self._due, []
        return due

    def audited(self) -> list[Audited]:
        return []

    def check(self) -> None: ...

    def final(self, ask_id: str) -> None: ...


class Sink:
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def emit(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def close(self) -> None: ...


def _drop_all(_: NDArray[Any]) -> NDArray[Any]:
    return np.full((1, 1), -9.0)


def _model(function: Callable[[NDArray[Any]], NDArray[Any]]) -> Model:
    return Plain(function)


def _screen(
    function: Callable[[NDArray[Any]], NDArray[Any]],
    *,
    kind: Literal["skip", "reuse"] = "skip",
    reuse: Reuse = _REUSE,
    rule: str | None = "labels rest",
    **options: Any,  # noqa: ANN401 -- those of Screen
) -> Screen:
    """Return a screen of a filter whose model is ``function``."""
    model, prepare = _model(function), preparer(_INPUT)
    asked: SkipFilter | ReuseFilter = SkipFilter(model, threshold=0.5, prepare=prepare)
    if kind == "reuse":
        cache = KeyCache(reuse, classes=3, clock=lambda: 0)
        asked = ReuseFilter(model, cache=cache, width=reuse.width, prepare=prepare)
    return Screen(
        asked,
        name=kind,
        kind=kind,
        stream="s",
        rule=None if rule is None else rule_of(rule, _LABELS),
        rng=random.Random(SEED),  # noqa: S311 -- no secret
        **options,
    )


def _run(
    x: NDArray[Any], filters: Sequence[Screen], *, answers: int = 1 << 20
) -> tuple[list[Outcome], Lane]:
    """Serve ``x`` (N, 3), whose rows are the edge's logits, through these filters."""
    lane = Lane(
        name="s",
        source=Replay(x.astype(np.float32)),
        input=_INPUT,
        filters=filters,
        model=_model(lambda batch: batch),
        prepare=preparer(_INPUT),
        assessor=Assessor(output="logits", head="softmax", classes=3),
        policy=Policy.of(_CALIBRATION),
        ledger=Ledger("s"),
        clock=itertools.count().__next__,
        answer_within_ns=1,
        mode="wait",
    )
    sink = Sink()
    loop = Loop(
        [lane],
        ids=(f"1-{number}" for number in itertools.count()),
        sinks=[sink],
        uplink=FarEnd(answers=answers),  # type: ignore[arg-type]  # as much of one as is used
        bell=threading.Event(),
        clock=lane.clock,
        feeds=[],
    )
    loop.run()
    assert lane.ledger.imbalance() is None
    return sink.outcomes, lane


def _sure(label: int, *, nudge: float = 0.0) -> list[float]:
    return [8.0 + nudge if one == label else 0.0 for one in range(3)]


_UNSURE = [0.5, 0.4, 0.3]


def _rows(*labels: int) -> NDArray[np.float32]:
    return np.array([_sure(label) for label in labels], np.float32)


def test_what_is_like_an_earlier_sample_is_answered_as_that_was_and_says_which() -> None:
    screen = _screen(lambda batch: batch, kind="reuse")
    x = np.array([_sure(1), _sure(2), _sure(1, nudge=0.25), _sure(2), _sure(0)])
    outcomes, lane = _run(x, [screen])
    told = [(one.route, one.label, one.reused_from, one.final) for one in outcomes]
    assert told == [
        ("edge", 1, None, True),
        ("edge", 2, None, True),
        ("reused", 1, "1-0", True),
        ("reused", 2, "1-1", True),
        ("edge", 0, None, True),
    ]
    assert outcomes[2].probs == pytest.approx(outcomes[0].probs)
    ledger = lane.ledger
    assert (ledger.routes["reused"], ledger.routes["accepted"]) == (2, 3)
    assert ledger.busy_ns["reused"] > 0
    assert (ledger.first["reused"].count, ledger.final["reused"].count) == (2, 2)
    report = ledger.report()
    assert report.latency_ms["final"].count == 5, "a reused answer is an answer"
    assert screen.state().cache is not None
    assert screen.state().cache.keys == 3  # type: ignore[union-attr]


def test_of_an_escalated_sample_the_far_end_s_answer_is_learnt_and_a_degraded_one_is_not() -> None:
    away = [*_UNSURE[:2], 0.45]
    screen = _screen(lambda batch: 100 * batch, kind="reuse")
    outcomes, _ = _run(np.array([_UNSURE, _UNSURE, away, away]), [screen], answers=1)
    told = [(one.route, one.label, one.degraded is not None) for one in outcomes if one.final]
    assert told == [
        ("cloud", 2, False),
        ("reused", 2, False),
        ("edge", 0, True),
        ("edge", 0, True),
    ]
    assert outcomes[2].reused_from == "1-0"


def test_a_filter_that_fails_lets_samples_pass_and_is_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(_: NDArray[Any]) -> NDArray[Any]:
        raise ModelError("has burnt down", where="filter")

    def bug(_: NDArray[Any]) -> NDArray[Any]:
        raise ZeroDivisionError

    failing = [
        _screen(broken),
        _screen(lambda _: np.full((1, 1), np.nan)),
        _screen(bug, kind="reuse"),
        _screen(lambda _: np.full((1, 3), np.nan, np.float32), kind="reuse"),
        _screen(lambda _: np.zeros((1, 7), np.float32), kind="reuse"),
    ]
    with caplog.at_level(logging.WARNING):
        outcomes, lane = _run(_rows(*([1] * 40)), failing)
    assert [one.route for one in outcomes] == ["edge"] * 40
    assert lane.ledger.routes["failed"] == 0
    for one in failing:
        state = one.state()
        assert (state.failed, state.seen, state.filtered, state.state) == (17, 0, 0, "on")
        assert state.left_out == 23, "16 samples, and of the next 32 as many as there were"
    assert all(one.reuse is None or len(one.reuse.cache) == 0 for one in failing)
    assert len(caplog.records) == (17 + 1) * 5
    assert "has failed 16 times in a row, and is left out for 16 samples" in caplog.text
    assert "the filter skip failed on sample 1, which goes on without it" in caplog.text


def test_what_is_drawn_passes_by_the_filters_behind_whatever_is_said_of_it() -> None:
    keeps = _screen(lambda _: np.full((1, 1), 9.0), share=1.0, tuned=_TUNED)
    outcomes, _ = _run(_rows(1, 0, 2), [keeps, _screen(_drop_all)])
    assert [one.route for one in outcomes] == ["edge"] * 3, "for else the draw is not uniform"
    nothing_said = _screen(lambda _: np.full((1, 1), 9.0), share=1.0)
    outcomes, _ = _run(_rows(1, 0, 2), [nothing_said, _screen(_drop_all)])
    assert [one.route for one in outcomes] == ["dropped"] * 3


def _reused_wrongly(tuned: Tuned, *, rule: str | None) -> FilterState:
    """Return how a filter stands that has answered all as the first sample, a "walk"."""
    screen = _screen(
        lambda _: np.zeros((1, 3), np.float32),
        kind="reuse",
        reuse=Reuse(width=3, distance=0.5, neighbours=1, ttl_s=None),
        rule=rule,
        share=0.5,
        tuned=tuned,
    )
    rest = (np.random.default_rng(SEED).random(1000) < 0.5).tolist()
    _run(_rows(1, *(0 if one else 1 for one in rest)), [screen])
    return screen.state()


def test_a_reuse_filter_is_held_to_the_recall_that_was_promised_and_to_no_other_figure() -> None:
    recall = msgspec.structs.replace(_TUNED, aim="recall", accuracy=0.97)
    # half of the samples are answered wrongly, and of those "rest" does not matter
    assert _reused_wrongly(recall, rule="labels rest").state == "on"
    assert _reused_wrongly(recall, rule="labels walk").state == "off"
    told = _reused_wrongly(recall, rule=None)
    assert (told.state, told.shadow is not None) == ("on", True), "it is told, and of what unknown"
    assert _reused_wrongly(_TUNED, rule=None).state == "off"


def test_a_skip_filter_of_several_tasks_drops_what_none_of_them_wants() -> None:
    screen = _screen(lambda batch: batch - 4)  # the sample is kept for the sake of one of three
    outcomes, _ = _run(np.array([[0, 0, 0], [0, 8, 0], [3, 3, 3.5], [9, 9, 0]]), [screen])
    assert [one.route for one in outcomes if one.final] == ["dropped", "edge", "dropped", "cloud"]


def test_what_a_skip_filter_drops_a_reuse_filter_neither_sees_nor_learns() -> None:
    skip = _screen(lambda batch: 4 - batch[:, :1])
    reuse = _screen(lambda batch: batch, kind="reuse")
    outcomes, _ = _run(_rows(0, 1, 0, 1, 2), [skip, reuse])
    assert [one.route for one in outcomes] == ["dropped", "edge", "dropped", "reused", "edge"]
    assert (skip.state().filtered, reuse.state().seen) == (2, 3)


def test_what_is_in_the_shadow_has_the_model_s_answer_and_is_judged_by_the_rule() -> None:
    drops_all = _screen(_drop_all, share=1.0)
    reuse = _screen(lambda batch: batch, kind="reuse")
    outcomes, _ = _run(_rows(0, 1, 2, 0, 0), [drops_all, reuse])
    assert [(one.route, one.label) for one in outcomes] == [
        ("edge", label) for label in (0, 1, 2, 0, 0)
    ]
    state = drops_all.state()
    assert (state.seen, state.filtered, state.state) == (5, 5, "on"), "nothing was promised"
    assert state.shadow is not None
    assert (state.shadow.drawn, state.shadow.judged, state.shadow.wrong) == (5, 5, 2)
    assert reuse.state().seen == 0, "it goes straight to the model"


def test_a_reused_answer_is_judged_by_what_is_answered_in_the_end() -> None:
    screen = _screen(lambda _: np.zeros((1, 3), np.float32), kind="reuse", share=1.0)
    x = np.array([_sure(1), _sure(1), _UNSURE, _sure(2), _UNSURE, _sure(0)])
    outcomes, _ = _run(x, [screen], answers=1)
    assert [one.route for one in outcomes if one.final] == ["edge", "edge", "cloud", *["edge"] * 3]
    state = screen.state().shadow
    assert state is not None
    # the oldest key says 1, and is right once; of one sample nobody knows
    assert (state.drawn, state.judged, state.wrong) == (5, 4, 3)


def test_the_rule_that_looks_back_is_held_against_the_last_answer() -> None:
    screen = _screen(_drop_all, rule="same as last", share=1.0)
    _run(_rows(0, 0, 1, 1, 1, 2), [screen])
    state = screen.state().shadow
    assert state is not None
    assert (state.judged, state.wrong) == (6, 3), "the first one, and both that differ"


def test_a_filter_that_breaks_the_bundle_s_word_switches_itself_off_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    screen = _screen(_drop_all, share=0.2, tuned=_TUNED)
    rng = np.random.default_rng(SEED)
    labels = (rng.random(2000) < 0.5).astype(int)  # half of what it drops matters
    with caplog.at_level(logging.WARNING):
        outcomes, lane = _run(_rows(*labels), [screen])
    state = screen.state()
    assert state.state == "off"
    assert state.why is not None
    assert "it has ruled out" in state.why
    assert "that it should not have; 0.1 of them may be so" in state.why
    assert len([one for one in caplog.records if "switched off" in one.message]) == 1
    dropped = lane.ledger.routes["dropped"]
    assert 0 < dropped < 400
    assert [one.route for one in outcomes[-1000:]] == ["edge"] * 1000
    assert state.seen < 500, "it judges no more"


def _bundle(
    folder: Path, manifest: Manifest, files: Mapping[str, bytes], *filters: Filter
) -> Bundle:
    made = msgspec.structs.replace(
        manifest,
        filter=filters,
        calibration=msgspec.structs.replace(manifest.calibration, total=2.0),  # type: ignore[type-var]
    )
    return write_bundle(folder, made, files)


def _reusing(linear: Callable[..., bytes]) -> tuple[Filter, bytes]:
    reuse = Reuse(width=5, distance=0.25, neighbours=1)
    return Filter(kind="reuse", file="keys.onnx", reuse=reuse), linear(5, seed=9)


def _serve(folder: Path, bundle: Path, x: NDArray[Any], *lines: str) -> RunReport:
    np.savez(folder / "rows.npz", X=x)
    config = folder / "hedge.toml"
    config.write_text(
        "\n".join(
            [
                '[device]\nname = "d"\nstate_dir = "state"',
                '[[stream]]\nname = "cam"',
                f'bundle = "{bundle}"',
                *lines,
                '[stream.source]\nkind = "replay"\npath = "rows.npz"',
                '[[sink]]\nkind = "jsonl"\npath = "out.jsonl"',
            ]
        )
    )
    return serve(load_config(config, environ={}), base=folder)


@pytest.fixture
def reusing(
    tmp_path: Path,
    manifest: Manifest,
    bundle_files: Mapping[str, bytes],
    linear_onnx: Callable[..., bytes],
) -> Path:
    """Give a bundle whose one filter reuses answers."""
    one, graph = _reusing(linear_onnx)
    return _bundle(tmp_path / "b", manifest, {**bundle_files, "keys.onnx": graph}, one).path


def _state(report: RunReport) -> FilterState:
    (found,) = report.streams[0].filters
    return found


def _x(rows: int) -> NDArray[np.float32]:
    return np.random.default_rng(SEED).normal(size=(rows, 4)).astype(np.float32)


def test_a_device_reuses_and_knows_after_a_restart_what_it_was_told_to_keep(
    tmp_path: Path, reusing: Path
) -> None:
    x = np.repeat(_x(10), 3, axis=0)
    first = _serve(tmp_path, reusing, x, 'filter_cache = "kept"', "filter_shadow = 0")
    assert first.streams[0].routes["reused"] == 20
    assert _state(first).cache is not None
    again = _serve(tmp_path, reusing, x, 'filter_cache = "kept"', "filter_shadow = 0")
    assert again.streams[0].routes["reused"] == 30
    off = _serve(tmp_path, reusing, x, "filter = false")
    assert (off.streams[0].routes["reused"], off.streams[0].filters) == (0, ())


def test_a_damaged_cache_file_costs_the_cache_and_no_sample(tmp_path: Path, reusing: Path) -> None:
    x, kept = np.repeat(_x(4), 2, axis=0), 'filter_cache = "kept"'
    _serve(tmp_path, reusing, x, kept, "filter_shadow = 0")
    (file,) = (tmp_path / "state" / "filters").iterdir()
    file.write_bytes(file.read_bytes()[:-7])
    report = _serve(tmp_path, reusing, x, kept, "filter_shadow = 0")
    assert report.streams[0].routes["reused"] == 4
    assert report.counts["filter_caches_refused"] == 1
    whole = _serve(tmp_path, reusing, x, kept, "filter_shadow = 0")
    assert (whole.streams[0].routes["reused"], whole.counts.get("filter_caches_refused")) == (
        8,
        None,
    )


def test_a_rule_that_names_code_is_not_believed_and_the_filter_works_unwatched(
    tmp_path: Path,
    manifest: Manifest,
    bundle_files: Mapping[str, bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:
    rule = Filter(kind="skip", file="skip.onnx", rule="os:getpid")
    bundle = _bundle(tmp_path / "b", manifest, bundle_files, rule)
    with caplog.at_level(logging.WARNING):
        report = _serve(tmp_path, bundle.path, _x(50))
    assert _state(report).shadow is None
    assert _state(report).seen == 50
    assert "cannot be watched: rule: 'os:getpid' is no rule" in caplog.text


def test_a_device_says_what_its_skip_filter_has_done_as_an_offline_run_does(
    tmp_path: Path,
    manifest: Manifest,
    bundle_files: Mapping[str, bytes],
) -> None:
    bundle = _bundle(tmp_path / "b", manifest, bundle_files, *manifest.filter)
    x = _x(300)
    report = _serve(tmp_path, bundle.path, x, "filter_shadow = 0.5")
    state = _state(report)
    passes = passing(bundle, load_dataset(tmp_path / "rows.npz"))
    assert (state.seen, state.filtered) == (300, int((~passes).sum()))
    assert state.shadow is not None
    assert 0 < state.shadow.drawn == state.shadow.judged < state.filtered
    assert report.streams[0].routes["dropped"] == state.filtered - state.shadow.drawn


def test_what_is_filtered_is_what_the_filter_has_said() -> None:
    said = Filtered("reused", np.array([0.25, 0.75], np.float32), 1, "1-7")
    assert (said.route, said.label, said.reused_from) == ("reused", 1, "1-7")


def test_a_filter_that_is_opened_anew_goes_on_where_the_one_before_it_stopped() -> None:
    def keys(batch: NDArray[Any]) -> NDArray[Any]:
        return batch

    before, after = _screen(keys, kind="reuse", share=0.5), _screen(keys, kind="reuse", share=0.5)
    _run(_rows(1, 2, 1, 1, 1, 1, 2, 2), [before])
    after.succeed(before)
    assert after.state() == before.state()
    outcomes, _ = _run(_rows(2, 1), [after])
    assert all(one.label in {1, 2} for one in outcomes)
    assert after.state().seen == 10
    assert after.state().filtered == before.state().filtered + 2, "it knows both"
    before.why = "it was switched off"
    after.succeed(before)
    assert after.judge(_rows(1)) is None
    assert after.state().state == "off"
