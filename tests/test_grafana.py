"""The dashboard asks for what there is: its queries are held against what a real run exports."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import runpy
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hedge.runtime.adapt.pair_keeper import PairKeeper, PairTerms
from hedge.runtime.adapt.pairs import About
from hedge.runtime.local_server.worker_pages import metrics
from hedge.telemetry.exporters import families, worker_families
from hedge.telemetry.exporters.prometheus import text
from hedge.telemetry.ledger import ENDS, FINALS, ROUTES, STAGES
from hedge.uplink.far_end.responder import Responder
from hedge.uplink.far_end.worker import Worker
from hedge.uplink.link.scripted import ScriptedBroker, ScriptedLink

FAMILIES = (*families.FAMILIES, *worker_families.FAMILIES)
_FOLDER = Path(__file__).parents[1] / "board_configs" / "grafana"
_DASHBOARD: dict[str, Any] = json.loads((_FOLDER / "hedge.json").read_text("utf-8"))
_REAL = runpy.run_path(str(Path(__file__).with_name("real_snapshot.py")))
_BY_PROMETHEUS = {"instance", "job"}  # it adds these itself
_BUILT_IN = {"__rate_interval", "__interval", "__range"}
_PANELS = [panel for panel in _DASHBOARD["panels"] if panel["type"] != "row"]
_VARIABLES = {one["name"]: one for one in _DASHBOARD["templating"]["list"]}
_SELECTOR = re.compile(r"\b([a-z_]+)\{([^}]*)\}")
_MATCHER = re.compile(r'(\w+)(=~|!=|=)"([^"]*)"')
_GROUPED = re.compile(r"\b(?:by|on) \(([^)]*)\)")
_WORDS = {
    *("sum", "min", "max", "count", "by", "on", "and", "or", "unless"),
    *("rate", "increase", "delta", "deriv", "changes", "histogram_quantile"),
}
_ALL = {"route": ROUTES, "end": ENDS, "stage": STAGES, "whose": FINALS}


def _queries() -> list[tuple[str, str, str]]:
    """Return the panel, the expression and the legend of each query."""
    found = [
        (panel["title"], target["expr"], target["legendFormat"])
        for panel in _PANELS
        for target in panel["targets"]
    ]
    notes = _DASHBOARD["annotations"]["list"]
    return [*found, *((one["name"], one["expr"], one["textFormat"]) for one in notes)]


def _worker(folder: Path, responder: Responder) -> str:
    """Return the metrics of a worker that keeps pairs."""
    contract = responder.contract
    about = About(
        name=contract.name,
        contract=contract.digest,
        labels=("rest", "walk", "run"),
        dtype=contract.dtype,
        shape=contract.shape,
    )
    terms = PairTerms(about=about, bundle="b" * 64, score="vacuity", total=0.4, limit=0.5)
    with contextlib.closing(PairKeeper(folder, terms, max_bytes=1 << 20)) as keep:
        keeping = msgspec.structs.replace(responder, keep=(keep,))
        worker = Worker(ScriptedLink(ScriptedBroker()), name="w0", responders=[keeping])
        return metrics(worker.figures())


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, set[str]]]:
    """Give by sample what labels it has, and the values of each, after a real run."""
    folder = tmp_path_factory.mktemp("run")
    real = _REAL["real_snapshot"](folder)
    responder = Responder(contract=_REAL["_CONTRACT"], respond=_REAL["_respond"])
    page = text(_REAL["with_everything"](real)) + _worker(folder / "pairs", responder)
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for line in page.splitlines():
        if not line.startswith("#"):
            name = re.split(r"[{ ]", line)[0]
            found[name].update()
            for label, value in re.findall(r'(\w+)="([^"]*)"', line):
                found[name][label].add(value)
    return found


def _labels(expression: str) -> Iterator[str]:
    for group in _GROUPED.findall(expression):
        yield from (label.strip() for label in group.split(","))


@pytest.mark.parametrize(("panel", "expression", "legend"), _queries())
def test_every_query_names_metrics_and_labels_that_a_run_exports(
    panel: str, expression: str, legend: str, exported: dict[str, dict[str, set[str]]]
) -> None:
    selectors = _SELECTOR.findall(expression)
    assert selectors, panel
    have = set(_BY_PROMETHEUS)
    for name, matchers in selectors:
        assert name in exported, f"{panel}: nobody exports {name}"
        have |= set(exported[name])
        for label, how, wanted in _MATCHER.findall(matchers):
            assert label in {*exported[name], *_BY_PROMETHEUS}, f"{panel}: {name} has no {label}"
            if "$" in wanted:
                assert how == "=~", f"{panel}: a variable may have several values"
            else:
                known = exported[name][label] | set(_ALL.get(label, ()))
                assert set(wanted.split("|")) <= known, f"{panel}: {label} is never {wanted}"
        chosen = "$worker" if name.startswith("hedge_worker_") else "$instance"
        assert f'instance=~"{chosen}"' in matchers, f"{panel}: shows those that are not chosen"
    grouped = set(_labels(expression))
    assert grouped <= have, panel
    shown = set(re.findall(r"\{\{(\w+)\}\}", legend))
    aggregated = re.match(r"-?(0 \* )?(sum|min|max|count|histogram_quantile)\b", expression)
    assert shown <= (grouped if aggregated else have), f"{panel}: no such label in {legend}"


@pytest.mark.parametrize(("panel", "expression", "legend"), _queries())
def test_every_query_is_made_of_words_that_prometheus_knows(
    panel: str, expression: str, legend: str
) -> None:
    del legend
    bare = _GROUPED.sub("by ", _SELECTOR.sub(" ", expression))
    assert set(re.findall(r"(?<!\$)\b[a-z_]{2,}\b", re.sub(r"\[[^]]*\]", " ", bare))) <= _WORDS
    for before, after in itertools.pairwise(re.findall(r"[()]", expression)):
        assert before + after in {"((", "()", "))", ")("}
    assert expression.count("(") == expression.count(")"), panel
    unknown = set(re.findall(r"\$\{?(\w+)", expression)) - set(_VARIABLES) - _BUILT_IN
    assert not unknown, panel


@pytest.mark.parametrize(("panel", "expression", "legend"), _queries())
def test_rates_are_taken_of_counters_and_differences_of_gauges(
    panel: str, expression: str, legend: str
) -> None:
    del legend
    kinds = {family.name: family.kind for family in FAMILIES}
    for function, name in re.findall(r"\b(\w+)\((\w+)\{", expression):
        kind = kinds[re.sub(r"_(bucket|sum|count)$", "", name)]
        if function in {"rate", "increase"}:
            assert kind in {"counter", "histogram"}, f"{panel}: {name} can fall"
        if function in {"delta", "deriv"}:
            assert kind == "gauge", f"{panel}: {name} begins at 0 after a restart"
    for name in re.findall(r"histogram_quantile\(.*?(\w+)\{", expression):
        assert name.endswith("_bucket")
        assert "by (le" in expression


def test_every_variable_asks_for_labels_that_there_are(
    exported: dict[str, dict[str, set[str]]],
) -> None:
    for one in _VARIABLES.values():
        if one["type"] == "query":
            found = re.fullmatch(r"label_values\((\w+)(\{.*\})?, (\w+)\)", one["definition"])
            assert found is not None
            assert found[3] in {*exported[found[1]], *_BY_PROMETHEUS}
            for label, _, wanted in _MATCHER.findall(found[2] or ""):
                assert label in {*exported[found[1]], *_BY_PROMETHEUS}
                assert wanted.removeprefix("$") in _VARIABLES
    assert _VARIABLES["datasource"]["type"] == "datasource"


@pytest.mark.parametrize("panel", _PANELS, ids=lambda panel: panel["title"])
def test_every_panel_says_what_it_shows_and_in_which_unit(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["unit"]
    assert defaults["thresholds"]["steps"][0]["value"] is None, "the first has no lower end"
    bounds = [step["value"] for step in defaults["thresholds"]["steps"][1:]]
    assert bounds == sorted(bounds)
    for target in panel["targets"]:
        assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert target["legendFormat"] or panel["type"] == "table"
    refs = [target["refId"] for target in panel["targets"]]
    assert len(refs) == len(set(refs))


def test_no_panel_lies_on_another_and_none_beside_the_page() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in _DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = set(
            itertools.product(
                range(place["x"], place["x"] + place["w"]),
                range(place["y"], place["y"] + place["h"]),
            )
        )
        assert not cells & taken, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in _DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    assert _DASHBOARD["schemaVersion"] >= 38, "Grafana 10 or later"
    assert _DASHBOARD["id"] is None, "Grafana gives it one"


def test_the_page_beside_it_lists_the_metrics_that_no_panel_shows() -> None:
    asked = {name for _, expression, _ in _queries() for name, _ in _SELECTOR.findall(expression)}
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    page = (_FOLDER / "README.md").read_text("utf-8").split("No panel shows")[1]
    assert re.findall(r"`(\w+)`", page) == sorted(
        family.name for family in FAMILIES if family.name not in shown
    )
