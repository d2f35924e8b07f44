"""A filter as a stream uses it: it fails open, is shadowed, and switches itself off.

A stream goes on without a filter rather than stop: where one fails on a sample, that sample goes
to the model as if there were none, and one that fails time after time is left out for a while. And
a small share of the samples, drawn at random, goes to the model whatever a filter says of them (see
`shadow`). What the model makes of such a sample is its answer: it is there, it is the better one of
the two, and what it has cost is booked where it has arisen.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...models.errors import DataError
from ...models.filtering.rules import Rule
from ...models.manifest import Tuned
from ...models.records import Probs
from ...telemetry.filter_state import CacheState, FilterState
from ..logs import rarely
from .coin import Coin
from .filtered import Filter, Filtered
from .least_certain import LeastCertain
from .nearest import Key
from .reuse import ReuseFilter
from .shadow import Shadow

_log = logging.getLogger(__name__)

_FEW = 16  # failures in a row, and a filter is left out for as many samples, then for twice as many
_MANY = 1024  # samples that it is left out for at most, until it is tried again


class Pending:
    """A sample that a filter has let pass, until the far end's answer to it is there."""

    __slots__ = ("_drawn", "_key", "_said", "_screen")

    def __init__(
        self, screen: Screen, *, key: Key | None, said: Filtered | None, drawn: bool
    ) -> None:
        self._screen = screen
        self._key = key
        self._said = said
        self._drawn = drawn

    def answered(self, probs: Probs, *, sample_id: str) -> None:
        """Let the filter know the answer (K,)."""
        self._screen.learn(
            probs, key=self._key, said=self._said, drawn=self._drawn, sample_id=sample_id
        )


class Screen:
    """Asks one filter of one stream, and watches it.

    ``rule`` says what is redundant, by which a skip filter's shadow is judged (None: it is not);
    a reuse filter's is by the label that is answered. ``tuned`` is the bundle's word on it: a
    recall is of what matters by the rule, and nobody can be held to one without a rule. ``share``
    is how much of what it judges is drawn. ``labels`` chooses samples by how certain the filter is
    of them, also while it is off: what it is taught by next is needed most then. ``failed`` hears
    of what fails, ``broken`` why it switches itself off.
    """

    def __init__(
        self,
        asked: Filter,
        *,
        name: str,
        kind: Literal["skip", "reuse"],
        stream: str = "",
        rule: Rule | None = None,
        tuned: Tuned | None = None,
        share: float = 0.0,
        labels: LeastCertain | None = None,
        failed: Callable[[Exception], None] | None = None,
        broken: Callable[[str], None] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        rng = rng or random.Random()  # noqa: S311 -- no secret
        if tuned is not None and tuned.aim == "recall" and rule is None:
            tuned = None
        share = share if kind == "reuse" or rule is not None else 0.0
        self.name = name
        self.kind = kind
        self.reuse = asked if isinstance(asked, ReuseFilter) else None
        self._asked = asked
        self._labels = labels
        self._judge = asked.judge if labels is None else self._weighed
        self._stream = stream
        self._rule = rule
        self._told = failed or self._tell
        self._tell_broken = broken
        self._coin = Coin(share, rng=rng)
        tasks = ("",) if rule is None or kind == "reuse" else [one.text for one in rule.tasks]
        self._shadow = Shadow(tuned, tasks=tasks)
        self._last: Probs | None = None  # that was answered, for a rule of two
        self._passed = False  # the last sample, by the filter's own word or in its shadow
        self.shadowed: Filtered | None = None
        self.drawn = False  # the last sample is to go to the model, past the filters behind
        self.unsure = False  # the far end is to label the last sample
        self.why: str | None = None
        self.seen = self.filtered = self.failed = self.left_out = 0
        self._failing = 0  # times in a row
        self._waits = 0  # samples until it is tried again
        self._pauses = 0

    def judge(self, batch: NDArray[Any]) -> Filtered | None:
        """Return what becomes of the one sample of ``batch`` (1, *input shape); None: it goes on.

        What goes on though it was ruled out is `shadowed`, until the next one.
        """
        self.shadowed, self.drawn, self._passed = None, False, False
        if self.why is not None and self._labels is None:
            return None
        if self._waits:
            self._waits -= 1
            self.left_out += 1
            return None
        try:
            found = self._judge(batch)
        except Exception as error:  # noqa: BLE001 -- a filter must not stop the stream
            self._fail(error)
            self._leave_out()
            return None
        self._failing = 0
        return None if self.why is not None else self._drawn_of(found)

    def stay_off(self, why: str) -> None:
        """Filter nothing from the start, as in an earlier run."""
        self.why = why
        _log.warning(
            "%s: the filter %s stays off, %s",
            *(self._stream, self.name, why),
            extra={"hedge_stream": self._stream},
        )

    @property
    def labelling(self) -> bool:
        """Whether it ever chooses a sample for a label."""
        return self._labels is not None

    def labelled(self) -> None:
        """Take in that the far end is asked about the last sample, of which it was `unsure`."""
        if self._labels is not None:
            self._labels.asked()

    def by_edge(self, probs: Probs) -> None:
        """Take in what the edge model says (K,) of the sample that was judged last.

        A skip filter was taught by what a model says, so it is judged by that, whatever the far
        end may answer besides. A reuse filter knows answers, so it waits for the final one.
        """
        if self._passed and self.reuse is None:
            self._passed = False
            self._by_rule(probs, said=self.shadowed, drawn=self.drawn)

    def accepted(self, probs: Probs, *, sample_id: str) -> None:
        """Take in that the sample that was judged last is answered so, by the edge alone."""
        if self._passed and self.reuse is not None:
            key, said = self.reuse.key, self.shadowed
            self.learn(probs, key=key, said=said, drawn=self.drawn, sample_id=sample_id)

    def pending(self) -> Pending | None:
        """Return what wants to know the far end's answer to the sample that was judged last."""
        if not self._passed:
            return None
        key = None if self.reuse is None or self.reuse.key is None else self.reuse.key.copy()
        return Pending(self, key=key, said=self.shadowed, drawn=self.drawn)

    def learn(
        self,
        probs: Probs,
        *,
        key: Key | None,
        said: Filtered | None,
        drawn: bool,
        sample_id: str,
    ) -> None:
        """Take in the answer (K,) to a sample with this ``key``, of which the filter had ``said``.

        A degraded answer is none: nothing is to be learnt from that.
        """
        if self.reuse is None:
            self._by_rule(probs, said=said, drawn=drawn)
            return
        if self.why is not None or key is None:
            return
        rule = self._rule
        if drawn:
            matters = rule is None or not self._redundant(rule, probs)
            wrong = said is not None and said.label != int(probs.argmax())
            self._hear(filtered=said is not None, wrong=wrong, matters=[matters])
        self._last = probs
        try:
            self.reuse.learn(key, probs, sample_id=sample_id)
        except DataError as error:
            self._fail(error)

    def succeed(self, other: Screen) -> None:
        """Go on where another one of the same filter stops."""
        self._shadow, self.why, self._last = other._shadow, other.why, other._last
        self.seen, self.filtered, self.failed = other.seen, other.filtered, other.failed
        self.left_out = other.left_out
        if self.reuse is not None and other.reuse is not None:
            self.reuse.cache = other.reuse.cache
        if self._labels is not None and other._labels is not None:
            self._labels.succeed(other._labels)

    def state(self) -> FilterState:
        """Return how it stands."""
        shadow = self._shadow.state(seen=self.seen, filtered=self.filtered)
        cache = None if self.reuse is None else self.reuse.cache
        return FilterState(
            name=self.name,
            kind=self.kind,
            state="on" if self.why is None else "off",
            seen=self.seen,
            filtered=self.filtered,
            failed=self.failed,
            left_out=self.left_out,
            why=self.why,
            shadow=shadow if self._coin.share else None,
            cache=None
            if cache is None
            else CacheState(
                keys=len(cache), most=cache.most, evicted=cache.evicted, expired=cache.expired
            ),
            labels=None if self._labels is None else self._labels.state(),
        )

    def _weighed(self, batch: NDArray[Any]) -> Filtered | None:
        """Judge a sample, and see whether it is one of those that it is least certain of."""
        found = self._asked.judge(batch)
        certainty = self._asked.certainty
        if self._labels is not None and certainty is not None:
            self.unsure = self._labels.choose(certainty)
        return found

    def _drawn_of(self, found: Filtered | None) -> Filtered | None:
        """Return what becomes of a sample of which the filter has said ``found``."""
        self.seen += 1
        self.filtered += found is not None
        drawn = self._coin.throw()
        if found is not None:
            if not drawn:
                return found
            self._shadow.drawn += 1
            self.shadowed = found
        self.drawn = drawn and (found is not None or self._shadow.holds)
        self._passed = True
        return None

    def _by_rule(self, probs: Probs, *, said: Filtered | None, drawn: bool) -> None:
        """Hold what a skip filter has ``said`` against its rule."""
        rule = self._rule
        if rule is None:
            return
        if drawn:
            matters = [not self._redundant(one, probs) for one in rule.tasks]
            filtered = said is not None
            self._hear(filtered=filtered, wrong=filtered and any(matters), matters=matters)
        self._last = probs

    def _redundant(self, rule: Rule, probs: Probs) -> bool:
        """Return whether the rule says so of ``probs`` (K,) that come after the last ones."""
        if self._last is None:
            return not rule.is_of("last") and bool(rule.redundant(probs[None])[0])
        return bool(rule.redundant(np.stack([self._last, probs]))[1])

    def _hear(self, *, filtered: bool, wrong: bool, matters: Sequence[bool]) -> None:
        if not filtered:
            self._shadow.keep(matters=matters)
            return
        why = self._shadow.judge(wrong=wrong, matters=matters)
        if why is None or self.why is not None:
            return
        self.why = why
        _log.warning(
            "%s: the filter %s is switched off, and stays so: %s",
            *(self._stream, self.name, why),
            extra={"hedge_stream": self._stream},
        )
        if self._tell_broken is not None:
            self._tell_broken(why)

    def _fail(self, error: Exception) -> None:
        self.failed += 1
        self._told(error)

    def _leave_out(self) -> None:
        """Where it has failed time after time, let samples go by it untried, ever more of them."""
        self._failing += 1
        again = self._failing - _FEW
        if again < 0:
            return
        self._waits = min(_FEW << min(again, 10), _MANY)
        if again:
            return
        self._pauses += 1
        _log.log(
            rarely(self._pauses),
            "%s: the filter %s has failed %d times in a row, and is left out for %d samples, "
            "for ever more of them until it works",
            *(self._stream, self.name, self._failing, self._waits),
            extra={"hedge_stream": self._stream},
        )

    def _tell(self, error: Exception) -> None:
        level = rarely(max(1, self.failed - _FEW))
        _log.log(
            level,
            "%s: the filter %s failed on sample %d, which goes on without it: %s",
            *(self._stream, self.name, self.failed, error),
        )
