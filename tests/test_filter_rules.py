"""Rules are text: what they say, and how they name labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedge.models.errors import ConfigError
from hedge.models.filtering.rules import labels_text, rule_of

LABELS = ("größe", "b, c", "d;e", 'five "f"', "g")


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("labels größe", (0,)),
        ('labels "b, c"', (1,)),
        ('labels g,"b, c" , größe', (0, 1, 4)),
        ('labels "d;e"', (2,)),
        ('labels "five ""f""",g', (3, 4)),
        ('labels "g"', (4,)),
    ],
)
def test_a_label_with_a_separator_is_named_in_quotes(text: str, places: tuple[int, ...]) -> None:
    assert rule_of(text, LABELS).labels == places


def test_a_separator_within_quotes_separates_no_rules() -> None:
    rule = rule_of('labels "d;e",g; confidence below 0.5', LABELS)
    assert [one.kind for one in rule.tasks] == ["labels", "confidence"]
    assert rule_of(rule.text, LABELS) == rule


def test_a_label_that_is_not_known_is_named_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match="'b' is none of the labels") as caught:
        rule_of("labels b, c", LABELS)
    assert caught.value.hint == 'größe, "b, c", "d;e", "five ""f""", g'


def test_a_quote_within_a_label_needs_none_where_there_is_no_separator() -> None:
    assert rule_of('labels 5" pipe,rod', ('5" pipe', "rod", "bar")).labels == (0, 1)


_NAME = st.text(st.sampled_from('ab ,;"'), min_size=1).map(str.strip).filter(bool)


@given(st.lists(_NAME, min_size=3, max_size=5, unique=True), st.data())
def test_what_names_labels_is_read_as_these_labels(labels: list[str], data: st.DataObject) -> None:
    places = data.draw(st.sets(st.integers(0, len(labels) - 1), min_size=1, max_size=2))
    text = labels_text([labels[place] for place in sorted(places)])
    assert rule_of(text, labels).labels == tuple(sorted(places))
    probs = np.eye(len(labels))
    assert set(np.flatnonzero(rule_of(text, labels).redundant(probs))) == places
