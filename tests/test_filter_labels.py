"""Which samples are labelled for active update, and how they are sent."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from hedge.models.filtering.rules import rule_of
from hedge.models.manifest import Calibration, Input, Reuse
from hedge.models.model import ModelSpec
from hedge.models.opinion import Assessor
from hedge.models.prepare import preparer
from hedge.models.records import Outcome
from hedge.runtime.filters.filtered import Filter as AnyFilter
from hedge.runtime.filters.key_cache import KeyCache
from hedge.runtime.filters.label_options import LabelOptions
from hedge.runtime.filters.least_certain import LeastCertain
from hedge.runtime.filters.screen import Screen
from hedge.runtime.filters.skip import SkipFilter
from hedge.runtime.gate.gate import Gate
from hedge.runtime.gate.options import AuditOptions, GateOptions
from hedge.runtime.lane import Lane
from hedge.runtime.loop import Loop
from hedge.runtime.policy import Policy
from hedge.runtime.privacy import Nothing, Share, Whole
from hedge.runtime.sources.replay import Replay
from hedge.telemetry.clock import boottime_ns
from hedge.telemetry.ledger import Ledger
from hedge.uplink.absent import Absent
from hedge.uplink.asks import Answer, Ask

SEED = 20311
HOUR_NS = 3600 * 10**9
LABELS = ("rest", "fall")
MANY = LabelOptions(share=0.1, by_lot=0.0, most_per_hour=1_000_000)


class Clock:
    """Stands until it is set."""

    now_ns = 10**9

    def __call__(self) -> int:
        return self.now_ns


def _chooser(
    share: float, *, by_lot: float = 0.0, most_per_hour: int = 1_000_000
) -> tuple[LeastCertain, Clock]:
    """Return a chooser an hour after its beginning."""
    clock = Clock()
    options = LabelOptions(share=share, by_lot=by_lot, most_per_hour=most_per_hour)
    chooser = LeastCertain(options, rng=random.Random(SEED), clock=clock)  # noqa: S311 -- no secret
    clock.now_ns += HOUR_NS
    return chooser, clock


# ---- Which samples are chosen


@pytest.mark.parametrize("share", [0.005, 0.02, 0.1, 0.5])
@pytest.mark.parametrize("kind", ["normal", "ties", "constant"])
@pytest.mark.parametrize("by_lot", [0.0, 0.5, 1.0])
def test_the_share_that_is_asked_for_is_chosen_however_certainties_are_spread(
    share: float, kind: str, by_lot: float
) -> None:
    rng = np.random.default_rng(SEED)
    rows = 20_000
    certainty = np.abs(rng.normal(size=rows))
    if kind == "ties":
        certainty = np.round(certainty, 1)
    if kind == "constant":
        certainty = np.full(rows, 0.25)
    chooser, _ = _chooser(share, by_lot=by_lot)
    chosen = sum(chooser.choose(one) for one in certainty.tolist())
    assert abs(chosen - rows * share) <= 4 * (rows * share * (1 - share)) ** 0.5


def test_those_are_chosen_of_which_few_of_the_last_thousand_are_less_certain() -> None:
    certainty = np.random.default_rng(SEED).gamma(2.0, size=4000)
    chooser, _ = _chooser(0.05)
    chosen = np.array([chooser.choose(one) for one in certainty.tolist()])
    for row in range(len(certainty)):
        last = certainty[max(0, row - 1000) : row]
        below, among = int((last < certainty[row]).sum()), 0.05 * (len(last) + 1)
        if below + 1 <= among:
            assert chosen[row], row
        if below >= among:
            assert not chosen[row], row
    cut = chooser.state().cut
    assert cut is not None
    assert (certainty[-1000:] <= cut).sum() == int(0.05 * 1001)


def test_what_a_lot_decides_is_drawn_from_those_too_that_the_filter_is_sure_of() -> None:
    assert LabelOptions(share=0.1).by_lot == 0.5, "by default half"
    certainty = np.random.default_rng(SEED).gamma(2.0, size=20_000)
    chooser, _ = _chooser(0.1, by_lot=0.4)
    chosen = np.array([chooser.choose(one) for one in certainty.tolist()])
    sure = certainty > np.quantile(certainty, 0.5)
    assert abs(chosen[sure].mean() - 0.04) < 0.01
    unsure = certainty < np.quantile(certainty, 0.05)
    assert chosen[unsure][100:].mean() > 0.98
    only, _ = _chooser(0.1, by_lot=1.0)
    alike = np.array([only.choose(one) for one in certainty.tolist()])
    assert abs(alike[unsure].mean() - 0.1) < 0.04


def test_a_filter_that_turns_unsure_is_asked_for_more_for_a_while_and_then_for_the_share() -> None:
    rng = np.random.default_rng(SEED)
    certainty = np.concatenate((rng.gamma(4.0, size=5000), rng.gamma(4.0, size=5000) / 4))
    chooser, _ = _chooser(0.05)
    chosen = np.array([chooser.choose(one) for one in certainty.tolist()])
    assert 0.03 < chosen[1000:5000].mean() < 0.07
    assert 0.06 < chosen[5000:6000].mean() < 0.5
    assert 0.03 < chosen[6000:].mean() < 0.07


def test_no_more_are_chosen_than_an_hour_allows_also_by_what_follows() -> None:
    chooser, clock = _chooser(1.0, most_per_hour=60)
    assert sum(chooser.choose(0.5) for _ in range(100)) == 5, "saved up for five minutes"
    clock.now_ns += HOUR_NS // 20
    assert sum(chooser.choose(0.5) for _ in range(100)) == 3
    after, _ = _chooser(1.0, most_per_hour=60)
    after.succeed(chooser)
    assert after.state() == chooser.state()
    none, _ = _chooser(1.0, most_per_hour=0)
    assert not any(none.choose(0.5) for _ in range(100))


# ---- What filters are certain of


class Plain:
    """A model that gives what a function makes of its batch."""

    runs_on = "test"
    spec = ModelSpec((), ())

    def __init__(self, function: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
        self.infer = function

    def reset(self) -> None: ...

    def close(self) -> None: ...


def _first(batch: NDArray[Any]) -> NDArray[Any]:
    """Return a skip filter's logit: the first value of a row."""
    return batch[:, :1]


def _screen(*, threshold: float = 0.5, labels: LabelOptions | None = MANY) -> Screen:
    asked: AnyFilter = SkipFilter(Plain(_first), threshold=threshold, prepare=lambda batch: batch)
    clock = Clock()
    chooser = None
    if labels is not None:
        chooser = LeastCertain(labels, rng=random.Random(SEED), clock=clock)  # noqa: S311 -- no secret
        clock.now_ns += HOUR_NS
    rule = rule_of("labels rest", LABELS)
    return Screen(asked, name="skip", kind="skip", labels=chooser, rule=rule, share=0.5)


def test_a_skip_filter_wants_labels_where_its_output_is_near_a_half_kept_or_dropped() -> None:
    x = np.random.default_rng(SEED).normal(size=(3000, 2)).astype(np.float32) * 3
    screen = _screen()
    unsure = []
    for row in x:
        screen.unsure = False
        screen.judge(row[None])
        unsure.append(screen.unsure)
    chosen, away = np.array(unsure), np.abs(1 / (1 + np.exp(-x[:, 0])) - 0.5)
    assert 200 < chosen.sum() < 400
    assert away[chosen][30:].max() < np.quantile(away, 0.2)
    assert 0.3 < (x[chosen, 0] > 0).mean() < 0.7
    assert screen.state().labels is not None


@pytest.mark.parametrize(("threshold", "middle"), [(0.9, np.log(9)), (0.0, 0.0), (1.0, 0.0)])
def test_a_skip_filter_is_least_certain_where_its_output_is_near_the_threshold(
    threshold: float, middle: float
) -> None:
    skip = SkipFilter(Plain(_first), threshold=threshold, prepare=lambda batch: batch)
    for logit in (-3.0, 0.5, 4.0):
        skip.keep(np.full((1, 2), logit, np.float32))
        assert skip.certainty == pytest.approx(abs(logit - middle))


def test_without_labels_nothing_is_weighed_and_a_filter_that_is_off_still_says_what_it_lacks() -> (
    None
):
    screen = _screen(labels=None)
    screen.judge(np.zeros((1, 2), np.float32))
    assert (screen.labelling, screen.unsure, screen.state().labels) == (False, False, None)
    off = _screen(labels=replace(MANY, share=1.0))
    off.why = "it errs"
    assert off.judge(np.full((1, 2), -9.0, np.float32)) is None
    assert off.unsure
    assert (off.seen, off.state().state) == (0, "off")


def test_a_vote_is_the_less_certain_the_fewer_agree_and_then_the_further_they_are() -> None:
    rng = np.random.default_rng(SEED)
    options = Reuse(width=3, distance=0.6, neighbours=3, share=0.6)
    caches = [KeyCache(options, classes=3, clock=Clock()) for _ in range(2)]
    keys, answers = rng.normal(size=(60, 3)).astype(np.float32), rng.integers(0, 3, 60)
    for cache in caches:
        assert cache.find(keys[0], weigh=True) is None
        assert cache.certainty is None
        for number, (key, answer) in enumerate(zip(keys, answers.tolist(), strict=True)):
            cache.insert(key, np.eye(3, dtype=np.float32)[answer], sample_id=str(number))
    found = []
    for key in rng.normal(size=(300, 3)).astype(np.float32):
        plain, weighed = caches[0].find(key), caches[1].find(key, weigh=True)
        assert (plain is None) == (weighed is None)
        assert plain is None or (weighed is not None and plain.nearest == weighed.nearest)
        away = np.abs(keys.astype(np.float64) - key).sum(axis=1)
        near = np.argsort(away, kind="stable")[:3]
        most = max(Counter(answers[near].tolist()).values())
        assert caches[1].certainty is not None
        found.append((caches[1].certainty, most / 3, -away[near].mean()))
    assert caches[0].certainty is None
    assert sorted(found) == sorted(found, key=lambda one: one[1:])


# ---- What is sent


class FarEnd(Absent):
    """Keeps what it is asked, and answers it at once."""

    connected = True

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Ask] = []
        self._due: list[Answer] = []

    def offer(self, ask: Ask) -> bool:
        self.asked.append(ask)
        probs = np.array([0.2, 0.8], np.float32)
        if ask.deadline_ns is not None:  # else nobody waits, and the uplink tells nobody
            self._due.append(Answer(ask.id, ask.stream, "answered", probs, asked_at_ns=0))
        return True

    def answers(self) -> list[Answer]:
        due, self._due = self._due, []
        return due


class Sink:
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def emit(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def close(self) -> None: ...


def _served(
    x: NDArray[np.float32], screen: Screen, *, share: Share, audit: float = 0.0
) -> tuple[FarEnd, list[Outcome], Ledger]:
    """Serve rows: the second value decides whether the edge is sure."""
    calibration = Calibration(
        score="max_prob", total=0.4, method="test", rows=1, data_sha256="0" * 64
    )

    def infer(batch: NDArray[Any]) -> NDArray[Any]:
        return np.stack([np.zeros(len(batch)), batch[:, 1]], axis=1).astype(np.float32)

    spec = Input(kind="tensor", shape=(2,), dtype="float32")
    gate = Gate(
        calibration,
        stream="cam",
        options=GateOptions(),
        audit=AuditOptions(share=audit, most_per_hour=1_000_000),
        rng=random.Random(SEED),  # noqa: S311 -- no secret
    )
    gate.audit._saved = gate.audit._most_saved
    bell, far, sink, ledger = threading.Event(), FarEnd(), Sink(), Ledger("cam")
    lane = Lane(
        name="cam",
        source=Replay(x, rate_hz=None),
        input=spec,
        filters=[screen],
        model=Plain(infer),
        prepare=preparer(spec),
        assessor=Assessor(output="logits", head="softmax", classes=2, score="max_prob"),
        policy=Policy.of(calibration),
        gate=gate,
        ledger=ledger,
        clock=boottime_ns,
        answer_within_ns=10**12,
        share=share,
    )
    ids = (f"1-{number}" for number in range(10**6))
    Loop([lane], ids=ids, sinks=[sink], uplink=far, bell=bell, clock=boottime_ns, feeds=[]).run()
    return far, sink.outcomes, ledger


def test_the_least_certain_are_sent_as_labels_whatever_becomes_of_them_and_once() -> None:
    x = np.random.default_rng(SEED).normal(size=(2000, 2)).astype(np.float32) * 3
    screen = _screen(labels=replace(MANY, share=0.3))
    far, outcomes, ledger = _served(x, screen, share=Whole())
    labels = [one for one in far.asked if one.kind == "label"]
    route = {one.id: one for one in outcomes if not (one.final and one.route == "cloud")}
    assert len({one.id for one in far.asked}) == len(far.asked)
    assert 400 < len(labels) < 800
    ways = Counter(
        ("dropped" if route[one.id].route == "dropped" else "edge", one.deadline_ns is not None)
        for one in labels
    )
    assert set(ways) == {("dropped", False), ("edge", False), ("edge", True)}
    assert all((one.opinion is None) == (route[one.id].route == "dropped") for one in labels)
    awaited = [one for one in far.asked if one.deadline_ns is not None]
    assert len(awaited) == ledger.routes["escalated"] == ledger.ends["answered"]
    finals = Counter(one.id for one in outcomes if one.final)
    assert set(finals.values()) == {1}
    assert len(finals) == 2000
    state = screen.state().labels
    assert state is not None
    assert state.asked == len(labels)


def test_what_the_audit_asks_about_is_no_label_and_what_may_not_leave_is_not_asked() -> None:
    x = np.random.default_rng(SEED).normal(size=(1000, 2)).astype(np.float32) * 3
    far, _, _ = _served(x, _screen(labels=replace(MANY, share=1.0)), share=Whole(), audit=0.5)
    kinds = Counter(one.kind for one in far.asked)
    assert kinds["audit"] > 50
    assert len({one.id for one in far.asked}) == len(far.asked) == 1000
    far, _, _ = _served(x, _screen(labels=replace(MANY, share=1.0)), share=Nothing())
    assert far.asked == []


def test_how_many_labels_were_by_lot_and_how_many_may_still_be_asked_for_is_told() -> None:
    clock = Clock()
    options = LabelOptions(share=1.0, by_lot=1.0, most_per_hour=3600)
    chooser = LeastCertain(options, rng=random.Random(SEED), clock=clock)  # noqa: S311 -- no secret
    assert (chooser.state().by_lot, chooser.state().left) == (0, 0.0)
    clock.now_ns += 5 * 10**9
    assert chooser.state().left == pytest.approx(5.0)
    for _ in range(2):
        assert chooser.choose(0.5)
        chooser.asked()
    assert (chooser.state().asked, chooser.state().by_lot) == (2, 2)
    assert chooser.state().left == pytest.approx(3.0)
    clock.now_ns += HOUR_NS
    assert chooser.state().left == pytest.approx(300.0), "what five minutes bring"
    sure = LeastCertain(replace(options, by_lot=0.0), rng=random.Random(SEED), clock=clock)  # noqa: S311 -- no secret
    sure.succeed(chooser)
    assert sure.choose(0.4)
    sure.asked()
    assert (sure.state().asked, sure.state().by_lot) == (3, 2)
