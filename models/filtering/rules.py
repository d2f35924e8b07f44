"""What makes a sample redundant: a rule about what the model says of it, and nothing else.

Source: InFi, chapter 3. A rule is written as text, in a manifest or on a command line::

    labels LAYING,SITTING     the model's label is one of these ("b, c" where a name has a , or ;)
    confidence below 0.9      its greatest probability is below that
    nothing above 0.5         none of its probabilities is above that: nothing was detected
    same as last              its label is that of the row before, in its group
    module:function           whatever a Python function says of the outputs, (N, K) to (N,) bool

Several rules, with ";" between them, are several tasks: a sample is redundant where all of them
say so, and matters to each of those that do not.

The last one runs code of the user's own. It is believed on a command line only, never in a
bundle, which may come from elsewhere.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ..errors import ConfigError, DataError
from ..evidence import Array
from ..measures import Flags

Kind = Literal["labels", "confidence", "nothing", "last", "python", "all"]
_NUMBER = r"(0?\.\d{1,9}|0|1|1\.0{1,9}|0\.\d{1,9})"
_CONFIDENCE = re.compile(rf"confidence below {_NUMBER}\Z")
_NOTHING = re.compile(rf"nothing above {_NUMBER}\Z")
_PYTHON = re.compile(r"([A-Za-z_][\w.]{0,127}):([A-Za-z_]\w{0,63})\Z")
_BETWEEN = ";"
_QUOTE = '"'
_LABELS = "labels "
_LAST = "same as last"
_HINT = "labels A,B; confidence below 0.9; nothing above 0.5; same as last; or module:function"


class Rule(Struct, frozen=True, kw_only=True):
    """A rule, as ``text`` and as what it says; of several ("all") those that it is of: ``parts``.

    ``labels`` are the classes that are redundant, where nothing else decides.
    """

    text: str
    kind: Kind
    labels: tuple[int, ...] = ()
    bound: float = 0.0
    function: Callable[[Array], Any] | None = None
    parts: tuple[Rule, ...] = ()

    @property
    def tasks(self) -> tuple[Rule, ...]:
        """The rules that have to agree: itself, if it is one."""
        return self.parts or (self,)

    def is_of(self, kind: Kind) -> bool:
        """Whether it, or one of those that it is of, is of this kind."""
        return any(one.kind == kind for one in self.tasks)

    def redundant(self, probs: Array, *, group: NDArray[Any] | None = None) -> Flags:
        """Return (N,) which rows are redundant.

        ``probs`` (N, K) are the model's probabilities, in the order in which the samples came;
        with a ``group`` (N,) the first row of each has no last one.

        Raises:
            DataError: the user's function fails, or gives something else than (N,) bool.
        """
        if self.kind == "all":
            found = [one.redundant(probs, group=group) for one in self.parts]
            together: Flags = np.logical_and.reduce(found)
            return together
        if self.kind == "labels":
            return np.isin(probs.argmax(axis=1), self.labels)
        if self.kind == "confidence":
            return np.asarray(probs.max(axis=1) < self.bound)
        if self.kind == "nothing":
            return np.asarray(probs.max(axis=1) <= self.bound)
        if self.kind == "last":
            return _repeats(probs.argmax(axis=1), group)
        return self._called(probs)

    def _called(self, probs: Array) -> Flags:
        assert self.function is not None  # noqa: S101 -- of its kind
        try:
            found = np.asarray(self.function(probs))
        except Exception as error:
            raise DataError(f"fails: {error}", where=f"rule {self.text}") from error
        if found.shape != (len(probs),) or found.dtype != np.bool_:
            raise DataError(
                f"gives {found.dtype} {found.shape} in place of bool ({len(probs)},)",
                where=f"rule {self.text}",
            )
        return found


def rule_of(text: str, labels: Sequence[str], *, own_code: bool = False) -> Rule:
    """Return the rule, or the rules, that ``text`` states of a model with these ``labels``.

    ``own_code``: whether it may name a function of the user's.

    Raises:
        ConfigError: it states none, names an unknown label, or all of them, or one rule twice.
    """
    texts = texts_of(text)
    parts = tuple(_one(one, labels, own_code=own_code) for one in texts)
    if len(parts) == 1:
        return parts[0]
    for place, one in enumerate(texts):
        if one in texts[:place]:
            raise ConfigError("is there twice", where=f"rule {one}", hint="each task has its own")
    common = set.intersection(*(set(one.labels) for one in parts))
    by_labels = all(one.kind == "labels" for one in parts)
    return Rule(
        text=joint(texts),
        kind="all",
        labels=tuple(sorted(common)) if by_labels else (),
        parts=parts,
    )


def joint(texts: Sequence[str]) -> str:
    """Return the text of several rules as one."""
    return f"{_BETWEEN} ".join(texts)


def texts_of(text: str) -> list[str]:
    """Return the texts of the rules that one states."""
    return _split(text, _BETWEEN)


def labels_text(names: Sequence[str]) -> str:
    """Return the rule that is of these labels.

    >>> labels_text(["rest", "walk; run"])
    'labels rest,"walk; run"'
    """
    return _LABELS + ",".join(_quoted(one) for one in names)


def _quoted(name: str) -> str:
    """Return a label as a rule names it."""
    if _BETWEEN not in name and "," not in name and _QUOTE not in name:
        return name
    return _QUOTE + name.replace(_QUOTE, 2 * _QUOTE) + _QUOTE


def _unquoted(text: str) -> str:
    if len(text) < 2 or not text.startswith(_QUOTE) or not text.endswith(_QUOTE):
        return text
    return text[1:-1].replace(2 * _QUOTE, _QUOTE)


def _split(text: str, at: str) -> list[str]:
    """Return the parts of a text between those ``at`` that are not within quotes."""
    parts, quoted = [""], False
    for letter in text:
        quoted ^= letter == _QUOTE
        if letter == at and not quoted:
            parts.append("")
        else:
            parts[-1] += letter
    return [one.strip() for one in parts]


def _one(text: str, labels: Sequence[str], *, own_code: bool) -> Rule:
    if text == _LAST:
        return Rule(text=text, kind="last")
    if text.startswith(_LABELS):
        return Rule(text=text, kind="labels", labels=_numbers(text, labels))
    for pattern, kind in ((_CONFIDENCE, "confidence"), (_NOTHING, "nothing")):
        if found := pattern.match(text):
            bound = float(found[1])
            return Rule(text=text, kind=kind, bound=bound)  # type: ignore[arg-type]  # a Kind
    if (found := _PYTHON.match(text)) and own_code:
        return Rule(text=text, kind="python", function=_function(found[1], found[2], text))
    raise ConfigError(f"{text!r} is no rule", where="rule", hint=_HINT)


def check_each(
    rule: Rule,
    probs: Array,
    *,
    group: NDArray[Any] | None = None,
    among: Flags | None = None,
) -> Flags:
    """Return (N, T) which rows matter to each task of a rule, of which some do and some do not.

    Only those ``among`` (N,) them are looked at, M in all, and returned, (M, T) (None: all); the
    others are there for rules that look at the row before.

    Raises:
        DataError: one task makes all rows redundant, or none, or all tasks together do.
    """
    redundant = [one.redundant(probs, group=group) for one in rule.tasks]
    if among is not None:
        redundant = [one[among] for one in redundant]
    for one, found in zip(rule.tasks, redundant, strict=True):
        check_both(found, rule=one.text)
    check_both(np.logical_and.reduce(redundant), rule=rule.text)
    return ~np.stack(redundant, axis=1)


def check_both(redundant: Flags, *, rule: str) -> None:
    """See to it that some rows are redundant and some are not.

    Raises:
        DataError: all are, or none is; there is nothing to learn then.
    """
    if redundant.all() or not redundant.any():
        word = "every" if redundant.all() else "no"
        raise DataError(
            f"makes {word} row redundant, of {len(redundant)}: there is nothing to learn",
            where=f"rule {rule}",
            hint="take another rule, or data in which both occur",
        )


def _repeats(labels: NDArray[np.intp], group: NDArray[Any] | None) -> Flags:
    same = np.zeros(len(labels), np.bool_)
    same[1:] = labels[1:] == labels[:-1]
    if group is not None:
        same[1:] &= group[1:] == group[:-1]
    return same


def _numbers(text: str, labels: Sequence[str]) -> tuple[int, ...]:
    told = text.removeprefix(_LABELS)
    names = [_unquoted(part) for part in _split(told, ",")]
    if not set(names) <= set(labels):  # whose quotes may be their own
        names = [name.strip() for name in told.split(",")]
    for name in names:
        if name not in labels:
            raise ConfigError(
                f"{name!r} is none of the labels",
                where=f"rule {text}",
                hint=", ".join(_quoted(one) for one in labels)[:200],
            )
    if set(names) == set(labels):
        raise ConfigError("names every label: nothing would matter", where=f"rule {text}")
    return tuple(sorted({labels.index(name) for name in names}))


def _function(module: str, name: str, text: str) -> Callable[[Array], Any]:
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:
        raise ConfigError(f"cannot be imported: {error}", where=f"rule {text}") from error
    if not callable(found):
        raise ConfigError("is no function", where=f"rule {text}")
    function: Callable[[Array], Any] = found
    return function
