"""One rule over a stream's answers: when events open and close."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedge.models.errors import ConfigError
from hedge.runtime.events.checks import check_rules
from hedge.runtime.events.options import ClipOptions, EventRule
from hedge.runtime.events.rule import SAMPLES, Rule, Seen
from hedge.runtime.sources.options import AnySource, SerialSource, VideoSource

_S = 1_000_000_000


def _rule(**options: Any) -> EventRule:  # noqa: ANN401 -- those of EventRule
    return EventRule(**{"name": "person", "labels": ("person",), **options})


def _play(
    options: EventRule, answers: Sequence[tuple[float, float]], *, labels: tuple[str, ...] = ("p",)
) -> list[Seen]:
    """Take answers of (seconds of capture, probability), whose ids are their places."""
    rule, found = Rule(options, labels), list[Seen]()
    for place, (taken_s, prob) in enumerate(answers):
        found += rule.take(round(taken_s * _S), str(place), [prob])
    return found


def _told(seen: Sequence[Seen]) -> list[tuple[str, float, float]]:
    return [(one.state, one.opened_ns / _S, one.held_ns / _S) for one in seen]


# ---- Cases by hand


def test_one_sample_opens_and_the_next_quiet_one_closes_unless_told_otherwise() -> None:
    seen = _play(_rule(), [(1, 0.4), (2, 0.7), (3, 0.9), (4, 0.1), (5, 0.2)])
    assert _told(seen) == [("opened", 2, 2), ("closed", 2, 3)]
    opened, closed = seen
    assert (opened.samples, opened.count, opened.peak, opened.why) == (("1",), 1, 0.7, None)
    assert (closed.samples, closed.count, closed.peak) == (("1", "2"), 2, 0.9)
    assert closed.why == "quiet"


def test_k_hits_must_be_among_the_last_n_samples() -> None:
    options = _rule(k=3, n=4)
    spread = [(1, 0.9), (2, 0.9), (3, 0.1), (4, 0.1), (5, 0.9)]
    assert _play(options, spread) == [], "three hits, but of five samples"
    close = [*spread, (6, 0.1), (7, 0.9), (8, 0.9)]
    (opened,) = _play(options, close)
    assert (opened.opened_ns, opened.samples) == (5 * _S, ("4", "6", "7"))


def test_n_quiet_samples_in_a_row_close_and_fewer_do_not() -> None:
    answers = [(1, 0.9), (2, 0.1), (3, 0.1), (4, 0.9), (5, 0.1), (6, 0.1), (7, 0.1), (8, 0.1)]
    seen = _play(_rule(n=3), answers)
    assert _told(seen) == [("opened", 1, 1), ("closed", 1, 4)]


def test_between_leave_and_enter_an_event_holds_but_none_opens() -> None:
    seen = _play(_rule(enter=0.8, leave=0.3), [(1, 0.5), (2, 0.8), (3, 0.3), (4, 0.5), (5, 0.29)])
    assert _told(seen) == [("opened", 2, 2), ("closed", 2, 4)]
    assert seen[1].count == 3


def test_within_its_cooldown_nothing_counts_towards_the_next_event() -> None:
    answers = [(0.5, 0.9), (1, 0.9), (1.5, 0.1), (2, 0.1), (3, 0.9), (12, 0.9), (12.1, 0.9)]
    seen = _play(_rule(k=2, n=2, cooldown_s=10.0), [*answers, (13, 0.9)])
    assert _told(seen) == [("opened", 0.5, 1), ("closed", 0.5, 1), ("opened", 12.1, 13)], (
        "it closed at 2 s, so what was taken at 12 s is the last that does not count"
    )


def test_what_lasts_too_long_closes_and_the_sample_after_that_begins_another() -> None:
    seen = _play(_rule(max_s=3.0), [(1, 0.9), (3.9, 0.9), (4.2, 0.8), (5, 0.1)])
    ends = [("opened", 4.2, 4.2), ("closed", 4.2, 4.2)]
    assert _told(seen) == [("opened", 1, 1), ("closed", 1, 3.9), *ends]
    assert [one.why for one in seen] == [None, "too_long", None, "quiet"]


def test_what_lasts_too_long_closes_though_no_sample_comes() -> None:
    rule = Rule(_rule(max_s=3.0, cooldown_s=2.0), ("person",))
    rule.take(1 * _S, "a", [0.9])
    assert rule.due_ns == 4 * _S
    assert rule.expire(4 * _S - 1) is None
    closed = rule.expire(60 * _S)
    assert closed is not None
    assert (closed.why, closed.held_ns) == ("too_long", 1 * _S)
    assert rule.take(6 * _S, "b", [0.9]) == (), "it rests from when it was due, not from then on"
    assert [one.state for one in rule.take(6 * _S + 1, "c", [0.9])] == ["opened"]


def test_the_label_is_that_of_the_highest_probability_which_opened_it() -> None:
    rule = Rule(_rule(labels=("cat", "dog"), k=2, n=3), ("cat", "dog"))
    assert rule.take(1 * _S, "a", [0.1, 0.9]) == ()
    assert rule.take(2 * _S, "b", [0.3, 0.2]) == ()
    (opened,) = rule.take(3 * _S, "c", [0.6, 0.2])
    assert (opened.label, opened.peak, opened.samples) == ("dog", 0.9, ("a", "c"))


def test_an_event_names_a_hundred_samples_and_counts_all() -> None:
    answers = [(float(second), 0.9) for second in range(1, 251)]
    opened, closed = _play(_rule(k=120, n=150), [*answers, *[(251.0 + n, 0.0) for n in range(150)]])
    assert opened.samples == tuple(str(place) for place in range(20, 120))
    assert opened.opened_ns == 1 * _S, "though its first samples are not named"
    assert closed.samples == tuple(str(place) for place in range(150, 250))
    assert (opened.count, closed.count, len(closed.samples)) == (120, 250, SAMPLES)


# ---- Answers that come late, and out of order


def test_a_late_answer_opens_an_event_at_the_time_when_its_sample_was_taken() -> None:
    seen = _play(_rule(), [(3, 0.1), (4, 0.1), (2, 0.9), (5, 0.1)])
    assert _told(seen) == [("opened", 2, 2), ("closed", 2, 2)]


def test_hits_count_together_in_whatever_order_they_come() -> None:
    seen = _play(_rule(k=2, n=3), [(5, 0.9), (6, 0.1), (2, 0.9), (4, 0.9)])
    assert _told(seen) == [("opened", 2, 5)]


def test_a_late_answer_from_before_the_end_of_an_event_opens_no_other() -> None:
    seen = _play(_rule(), [(1, 0.9), (4, 0.1), (2, 0.9), (4, 0.9), (4.5, 0.9)])
    assert _told(seen) == [("opened", 1, 1), ("closed", 1, 1), ("opened", 4.5, 4.5)]


def test_what_was_taken_before_the_latest_sample_of_an_event_opens_no_other() -> None:
    seen = _play(_rule(n=2), [(5, 0.9), (9, 0.1), (6, 0.1), (8, 0.9), (9.5, 0.9)])
    assert _told(seen) == [("opened", 5, 5), ("closed", 5, 5), ("opened", 9.5, 9.5)]


def test_a_late_answer_from_within_the_cooldown_opens_nothing_after_it() -> None:
    options = _rule(cooldown_s=10.0)
    seen = _play(options, [(1, 0.9), (2, 0.1), (20, 0.1), (11, 0.9), (13, 0.9)])
    assert _told(seen) == [("opened", 1, 1), ("closed", 1, 1), ("opened", 13, 13)]


def test_a_late_answer_holds_an_event_but_does_not_move_its_ends() -> None:
    seen = _play(_rule(n=2), [(5, 0.9), (7, 0.9), (8, 0.1), (4, 0.9), (9, 0.1), (10, 0.1)])
    assert _told(seen) == [("opened", 5, 5), ("closed", 5, 7)]
    assert seen[1].count == 3


# ---- Against another way to say the same


class _Answer(NamedTuple):
    taken_ns: int
    probs: tuple[float, ...]


_Step = _Answer | int  # an answer, or a moment at which nothing but time has come


class _Historian:
    """Says what opens and closes by looking, after every step, at all that has come so far."""

    def __init__(self, options: EventRule, steps: Sequence[_Step]) -> None:
        self._options, self._steps = options, steps
        self._since, self._rests_until_ns = 0, -(10**30)  # what the last event has left
        self._opened_at: int | None = None  # the step that opened the event
        self.told: list[tuple[Any, ...]] = []

    def tell(self) -> list[tuple[Any, ...]]:
        """Take one step after the other."""
        for place, step in enumerate(self._steps):
            self._look_for_too_long(place, step if isinstance(step, int) else step.taken_ns)
            if isinstance(step, _Answer):
                opens = self._opened_at is None
                (self._look_for_opening if opens else self._look_for_quiet)(place)
        return self.told

    def _answers(self, begin: int, end: int) -> list[tuple[int, _Answer]]:
        steps = enumerate(self._steps[:end])
        return [(place, one) for place, one in steps if place >= begin and isinstance(one, _Answer)]

    def _opening_hits(self, upto: int) -> list[tuple[int, _Answer]]:
        answers = self._answers(self._since, upto + 1)
        counted = [(n, one) for n, one in answers if one.taken_ns > self._rests_until_ns]
        if upto not in dict(counted):
            return []
        return _hits(counted[-self._options.n :], self._options.enter)

    def _look_for_opening(self, place: int) -> None:
        hits = self._opening_hits(place)
        if len(hits) >= self._options.k:
            self._opened_at = place
            self.told.append(("opened", *_summary(hits, hits), None))

    def _look_for_quiet(self, place: int) -> None:
        assert self._opened_at is not None
        tail = self._answers(self._opened_at + 1, place + 1)[-self._options.n :]
        if len(tail) == self._options.n and not _hits(tail, self._options.leave):
            self._close(place + 1, why="quiet")

    def _look_for_too_long(self, place: int, now_ns: int) -> None:
        if self._opened_at is None or self._options.max_s is None:
            return
        hits = self._opening_hits(self._opened_at)
        due_ns = min(one.taken_ns for _, one in hits) + round(self._options.max_s * _S)
        if now_ns >= due_ns:
            self._close(place, why="too_long", due_ns=due_ns)

    def _close(self, end: int, *, why: str, due_ns: int | None = None) -> None:
        assert self._opened_at is not None
        hits = self._opening_hits(self._opened_at)
        later = self._answers(self._opened_at + 1, end)
        ones = [*hits, *_hits(later, self._options.leave)]
        self.told.append(("closed", *_summary(hits, ones), why))
        if due_ns is None:
            end_ns = max(one.taken_ns for _, one in [*hits, *later])
        else:
            end_ns = max(due_ns, *(one.taken_ns for _, one in ones))
        self._since, self._opened_at = end, None
        self._rests_until_ns = end_ns + round(self._options.cooldown_s * _S)


def _hits(answers: Sequence[tuple[int, _Answer]], bound: float) -> list[tuple[int, _Answer]]:
    return [(place, one) for place, one in answers if max(one.probs) >= bound]


def _summary(
    hits: Sequence[tuple[int, _Answer]], ones: Sequence[tuple[int, _Answer]]
) -> tuple[Any, ...]:
    best = max((max(one.probs), -place) for place, one in hits)
    probs = dict(hits)[-best[1]].probs
    return (
        "ab"[probs.index(max(probs))],
        min(one.taken_ns for _, one in hits),
        max(one.taken_ns for _, one in ones),
        tuple(str(place) for place, _ in ones)[-SAMPLES:],
        len(ones),
        max(max(one.probs) for _, one in ones),
    )


_PROB = st.sampled_from([0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.9, 1.0])


@st.composite
def _histories(draw: st.DrawFn) -> tuple[EventRule, list[_Step]]:
    n = draw(st.integers(1, 5))
    leave = draw(st.sampled_from([0.2, 0.375, 0.5]))
    options = EventRule(
        name="e",
        labels=("a", "b"),
        k=draw(st.integers(1, n)),
        n=n,
        enter=leave + draw(st.sampled_from([0.0, 0.2, 0.4])),
        leave=leave,
        cooldown_s=draw(st.sampled_from([0.0, 1.5, 6.0])),
        max_s=draw(st.sampled_from([None, 0.0, 2.5, 8.0])),
    )
    now_ns, steps = 7 * _S, list[_Step]()
    for _ in range(draw(st.integers(1, 40))):
        now_ns += draw(st.integers(0, 3)) * (_S // 2) + 1
        late_ns = draw(st.sampled_from([0, 0, 0, _S // 3, 2 * _S, 5 * _S]))
        probs = (draw(_PROB), draw(_PROB))
        answer = _Answer(now_ns - late_ns, probs)
        steps.append(now_ns if draw(st.integers(0, 5)) == 0 else answer)
    return options, steps


@given(_histories())
def test_a_rule_sees_what_the_whole_history_says(case: tuple[EventRule, list[_Step]]) -> None:
    options, steps = case
    rule, seen = Rule(options, options.labels), list[Seen]()
    for place, step in enumerate(steps):
        if isinstance(step, int):
            ended = rule.expire(step)
            seen += [] if ended is None else [ended]
        else:
            seen += rule.take(step.taken_ns, str(place), step.probs)
    found = [
        (o.state, o.label, o.opened_ns, o.held_ns, o.samples, o.count, o.peak, o.why) for o in seen
    ]
    assert found == _Historian(options, steps).tell()


@given(_histories())
def test_events_of_a_rule_never_overlap_and_share_no_opening_sample(
    case: tuple[EventRule, list[_Step]],
) -> None:
    options, steps = case
    rule = Rule(options, options.labels)
    seen = [
        one
        for place, step in enumerate(steps)
        if isinstance(step, _Answer)
        for one in rule.take(step.taken_ns, str(place), step.probs)
    ]
    states: list[Literal["opened", "closed"]] = [one.state for one in seen]
    assert states == (["opened", "closed"] * len(seen))[: len(seen)]
    opened, closed = seen[::2], seen[1::2]
    for before, after in zip(closed, opened[1:], strict=False):
        assert after.opened_ns > before.held_ns + round(options.cooldown_s * _S)
    ids = [sample for one in opened for sample in one.samples]
    assert len(ids) == len(set(ids))
    for one in closed:
        assert one.opened_ns <= one.held_ns


# ---- Rules that can never be met


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"labels": ("persn",)}, "event person: labels: the bundle has no label 'persn' (it has p"),
        ({"labels": ("person", "person")}, "event person: labels: names 'person' 2 times"),
        ({"k": 3, "n": 2}, "event person: k: 3 of the last 2 samples is never"),
        ({"enter": 0.4}, "event person: leave: is more than enter (0.4)"),
        ({"clip": ClipOptions(keep_bytes=1 << 20)}, "clip.max_bytes: is more than keep_bytes"),
    ],
)
def test_a_rule_that_can_never_be_met_is_refused_by_its_key(
    options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_rules([_rule(**options)], ("person", "nobody"), "stream door")
    assert str(caught.value).startswith("stream door: ")
    assert says in str(caught.value)


def test_a_clip_is_refused_where_the_source_keeps_none() -> None:
    rules = [_rule(clip=ClipOptions())]
    good: AnySource = VideoSource(url="/dev/video0")
    check_rules(rules, ("person",), "stream door", source=good)
    with pytest.raises(ConfigError, match="a source of kind serial keeps no clips"):
        check_rules(rules, ("person",), "stream door", source=SerialSource(port="/dev/ttyS0"))


@pytest.mark.parametrize("other", [{"keep_bytes": 1 << 29}, {"keep_days": 1.0}])
def test_rules_that_disagree_how_much_stays_in_their_folder_are_refused(
    other: dict[str, Any],
) -> None:
    rules = [_rule(clip=ClipOptions()), _rule(name="short", clip=ClipOptions(**other))]
    (key,) = other
    with pytest.raises(ConfigError, match=f"event person: clip.{key}: is not that of event short"):
        check_rules(rules, ("person",), "stream door")
    apart = _rule(name="short", clip=ClipOptions(path="clips/short", **other))
    check_rules([rules[0], apart, _rule(name="bare")], ("person",), "stream door")


def test_two_rules_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="there are two of this name"):
        check_rules([_rule(), _rule(k=2, n=2)], ("person",), "stream door")
