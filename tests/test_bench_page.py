"""Tests of the page that `hedge bench run` draws."""

from __future__ import annotations

import argparse
import re
import resource
import runpy
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from hedge.models.errors import ConfigError
from hedge.runtime import bench_command
from hedge.runtime.bench.conditions import Moment
from hedge.runtime.bench.page.frontier_picture import best, wilson
from hedge.runtime.bench.page.latency_picture import latency_picture
from hedge.runtime.bench.page.page import page
from hedge.runtime.bench.page.svg import Scale, around, text_of
from hedge.runtime.bench.page.units import OF_J, OF_MS, shown
from hedge.runtime.bench.record import BenchReport, Course, Failed, Phase, PowerPoint
from hedge.runtime.bench.scenario_record import ScenarioResult

# What makes reports; its functions are typed there.
make: Any = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("bench_reports.py"))))

HOSTILE = "<script>alert(1)</script>\"' onload=x &amp; \x00\x1b]0;\u202egnp"


class Reading(HTMLParser):
    """Which elements and attributes a page has, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: dict[str, set[str]] = {}
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, set()).add(value or "")

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


def two_variants(**more: Any) -> BenchReport:  # noqa: ANN401 -- the record's fields
    """Return a report of a float and an int8 variant, the first right more often."""
    rng = np.random.default_rng(3)
    right = rng.random(500) < 0.95
    fewer = right & (rng.random(500) < 0.97)
    found: BenchReport = make.report(
        make.measured(
            "float",
            make.rounds(90_000, seed=1),
            accuracy=make.accuracy(right),
            energy=make.energy(4.1e-4, 2e-5),
        ),
        make.measured(
            "small8",
            make.rounds(52_000, seed=2),
            accuracy=make.accuracy(fewer),
            energy=make.energy(2.3e-4, 3e-5),
        ),
        floor=make.rounds(1500, seed=3),
        course=course(),
        **more,
    )
    return found


def course(*, replayed: bool = False) -> Course:
    """Return ninety seconds of power and heat, slowed down for five of them."""
    return Course(
        phases=(
            Phase(what="latency", begin_s=2.0, end_s=40.0),
            Phase(what="energy", begin_s=40.0, end_s=88.0),
        ),
        moments=tuple(
            Moment(t_s=t, temp_c=40 + t / 2, clock_hz=1_500_000_000, slowed=60 <= t < 65)
            for t in range(90)
        ),
        power=tuple(
            PowerPoint(t_s=t / 4, power_w=None if 100 < t < 110 else 5 + t % 7) for t in range(360)
        ),
        power_source="ina3221",
        replayed=replayed,
    )


def scenario(**more: Any) -> ScenarioResult:  # noqa: ANN401 -- the record's fields
    one = ScenarioResult(
        scenario="Server",
        variant="float",
        threads=1,
        parts=("filter", "infer"),
        valid=True,
        loadgen="6",
        seed=0,
        min_duration_s=600,
        min_queries=1024,
        warm_up_samples=9,
        expected_samples_per_s=300.0,
        queries=3000,
        samples=3000,
        seconds=601.0,
        samples_per_s=5.0,
        latency=make.measured("float", make.rounds(50_000, seed=1, number=6)).latency,
        loadgen_ms={},
        scored_percentile=0.99,
        scored_ms=0.0625,
        target_qps=5.0,
        target_latency_ms=10.0,
    )
    return msgspec.structs.replace(one, **more)


def pictures(text: str) -> list[ET.Element]:
    """Return the page's pictures; each must be well-formed XML."""
    found = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    return [ET.fromstring(one) for one in found]  # noqa: S314 -- our own page


# ---- The page.


def test_a_page_needs_nothing_but_itself() -> None:
    text = page(two_variants(scenarios=(scenario(),)))
    found = Reading(text)
    assert not found.tags & {"script", "link", "img", "iframe", "object", "use", "image"}
    assert not found.attributes.keys() & {"href", "src", "style", "xlink:href"}
    assert not re.search(r"https?:|url\(|@import", text)
    assert "default-src 'none'; style-src 'unsafe-inline'" in found.attributes["content"]
    assert len(text) < 100_000


def test_a_page_has_every_picture_and_says_what_is_in_it() -> None:
    text = page(two_variants(scenarios=(scenario(),)))
    titles = [picture[0].text for picture in pictures(text)]
    assert titles == [
        "Latency of one sample by variant",
        "Energy of one sample by variant",
        "Accuracy against cost by variant",
        "Power and temperature over time",
    ]
    labels = [[one.text for one in picture.iter("text")] for picture in pictures(text)]
    assert {"float", "small8", "null backend", "one sample (µs)"} <= set(labels[0])
    assert {"410 µJ", "230 µJ", "net energy of one sample (µJ)"} <= set(labels[1])
    assert {"accuracy (%)", "median latency of one sample (µs)"} <= set(labels[2])
    assert {"power (W), ina3221", "hottest zone (°C)", "throttled"} <= set(labels[3])
    found = Reading(text)
    assert "REPLAYED" not in found.text
    assert "THROTTLED in 5 of 90 looks while it ran" in found.text
    assert "percentile(99%) = 0.0625 ms" in found.text


def test_nothing_in_data_becomes_markup() -> None:
    hostile = {
        "bundle": HOSTILE,
        "version": HOSTILE,
        "board": HOSTILE,
        "power_mode": HOSTILE,
        "digest": HOSTILE,
        "machine": msgspec.structs.replace(
            make.MACHINE, processor=HOSTILE, libraries={HOSTILE: HOSTILE}
        ),
        "failed": (Failed(variant=HOSTILE, threads=1, reason=HOSTILE),),
        "before": msgspec.structs.replace(
            make.COOL,
            power_mode=HOSTILE,
            governors=(HOSTILE,),
            temps_c={HOSTILE: 41.0},
            throttled=True,
            throttled_by=(HOSTILE,),
        ),
        "scenarios": (scenario(variant=HOSTILE, valid=False, why_invalid=(HOSTILE,)),),
    }
    report = two_variants(**hostile)
    first = msgspec.structs.replace(
        report.measured[0],
        variant=HOSTILE,
        precision=HOSTILE,
        energy=msgspec.structs.replace(make.energy(1e-3, 1e-5), source=HOSTILE),
    )
    given = msgspec.structs.replace(course(), power_source=HOSTILE)
    report = msgspec.structs.replace(report, measured=(first, report.measured[1]), course=given)
    text = page(report)
    found, plain = Reading(text), Reading(page(two_variants(scenarios=(scenario(),))))
    assert found.tags == plain.tags
    assert found.attributes.keys() == plain.attributes.keys()
    assert text.count("&lt;script&gt;") > 10
    assert not re.search("[\x00\x1b\u202e]", text)
    assert len(pictures(text)) == 4


def test_a_replayed_recording_is_called_so_in_its_pictures() -> None:
    report = two_variants()
    replayed = [
        msgspec.structs.replace(one, energy=make.energy(1e-3, 1e-5, replayed=True))
        for one in report.measured
    ]
    text = page(
        msgspec.structs.replace(report, measured=tuple(replayed), course=course(replayed=True))
    )
    marked = [
        "REPLAYED" in [one.text for one in picture.iter("text")] for picture in pictures(text)
    ]
    assert marked == [False, True, True, True]
    assert "they tell nothing of this run" in Reading(text).text


def test_what_was_not_measured_is_said() -> None:
    rounds = make.rounds(90_000, seed=1)
    text = page(make.report(make.measured("only", rounds), floor=rounds))
    assert len(pictures(text)) == 1
    found = Reading(text)
    assert "No power source: what a sample costs in joules was not measured." in found.text
    assert "No data with classes" in found.text
    assert "Neither power nor temperature nor clocks can be read here." in found.text
    nothing = page(make.report(floor=rounds, failed=(Failed(variant="a", threads=2, reason="b"),)))
    assert "a, 2 threads: not measured: b" in Reading(nothing).text


def test_joules_that_cannot_be_told_are_no_number_in_the_picture() -> None:
    report = two_variants()
    untold = msgspec.structs.replace(
        make.energy(1e-5, 2e-5), per_sample_j="not resolvable", resolution_j=4e-5
    )
    first = msgspec.structs.replace(report.measured[0], energy=untold)
    text = page(msgspec.structs.replace(report, measured=(first, report.measured[1])))
    labels = [one.text for one in pictures(text)[1].iter("text")]
    assert "not resolvable" in labels
    assert "410 µJ" not in labels
    points = [one.text for one in pictures(text)[2].iter("text")]
    assert points.count("float") == 1  # against latency, not against energy


def test_an_invalid_scenario_says_so_and_why() -> None:
    bad = scenario(valid=False, why_invalid=("min duration not met", "too few queries"))
    found = Reading(page(two_variants(scenarios=(bad,))))
    assert "INVALID min duration not met; too few queries" in found.text
    assert " VALID" not in found.text


def test_a_report_of_old_is_drawn_without_what_it_did_not_keep() -> None:
    report = two_variants()
    old = [msgspec.structs.replace(one, spread=None) for one in report.measured]
    report = msgspec.structs.replace(
        report, measured=tuple(old), floor_spread=None, before=None, after=None, course=None
    )
    assert len(pictures(page(report))) == 3


def test_latencies_that_no_clock_resolved_are_drawn_all_the_same() -> None:
    nothing = [np.zeros(5, np.int64)] * 4
    assert len(pictures(page(make.report(make.measured("a", nothing), floor=nothing)))) == 1


def test_figures_that_cannot_be_are_refused_on_reading() -> None:
    report = two_variants()
    given = report.measured[0].accuracy
    assert given is not None
    for field, value in (("rows", 0), ("accuracy", 1.5), ("escalated_share", -0.1)):
        wrong = msgspec.structs.replace(given, **{field: value})
        first = msgspec.structs.replace(report.measured[0], accuracy=wrong)
        raw = msgspec.json.encode(msgspec.structs.replace(report, measured=(first,)))
        with pytest.raises(msgspec.ValidationError, match=field):
            msgspec.json.decode(raw, type=BenchReport)


# ---- Its parts.


def test_text_is_cut_and_cannot_leave_its_place() -> None:
    assert text_of("<b>&\"'") == "&lt;b&gt;&amp;&quot;&#x27;"
    assert text_of("a\x07b\u2066") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"
    assert len(text_of("x" * 1000)) == 60


def test_scales_put_values_where_they_belong() -> None:
    log = Scale(0.01, 100.0, 0.0, 400.0, log=True)
    assert [log(value) for value in (0.01, 1.0, 100.0, 5000.0)] == pytest.approx(
        [0.0, 200.0, 400.0, 400.0]
    )
    assert log.ticks() == pytest.approx([0.01, 0.1, 1.0, 10.0, 100.0])
    assert Scale(0.0, 7.3, 0, 1).ticks() == pytest.approx([0.0, 2.0, 4.0, 6.0])
    flat = around([5.0, 5.0], 10.0, 20.0)
    assert flat(5.0) == pytest.approx(15.0)
    assert 3 <= len(Scale(0.00851, 0.00853, 0, 1).ticks()) <= 11


def test_units_leave_few_zeros() -> None:
    assert [shown(value, OF_MS) for value in (0.008526, 0.45, 4.25, 1234.0)] == [
        *("8.53 µs", "450 µs", "4.25 ms", "1.23 s")
    ]
    assert [shown(value, OF_J) for value in (2.5, 4.1e-4, 3e-9, 0.0)] == [
        *("2.5 J", "410 µJ", "3 nJ", "0 nJ")
    ]


def test_the_frontier_is_what_no_other_beats_in_both() -> None:
    points = [(3.0, 0.9), (1.0, 0.8), (2.0, 0.7), (1.0, 0.6), (4.0, 0.9), (5.0, 0.95)]
    assert best(points) == [(1.0, 0.8), (3.0, 0.9), (5.0, 0.95)]
    assert best([]) == []


def test_the_interval_of_a_share_is_wilsons() -> None:
    stats = pytest.importorskip("scipy.stats")
    exact = stats.binomtest(37, 41).proportion_ci(method="wilson")
    assert wilson(37 / 41, 41) == pytest.approx((exact.low, exact.high), rel=1e-6)


def test_the_outline_of_a_row_encloses_its_median() -> None:
    text = latency_picture(two_variants())
    (row,) = pictures(text)
    areas = [one for one in row.iter("path") if one.get("class") == "area0"]
    xs = [float(x) for x in re.findall(r"[ML]([\d.]+) ", str(areas[0].get("d")))]
    medians = [one for one in row.iter("line") if one.get("class") == "median"]
    assert min(xs) < float(str(medians[0].get("x1"))) < max(xs)


# ---- The command.


def test_a_page_can_be_drawn_again(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser(prog="hedge")
    bench_command.add_parser(parser.add_subparsers())
    saved, out = tmp_path / "a.json", tmp_path / "a.html"
    saved.write_bytes(msgspec.json.encode(two_variants()))
    options = parser.parse_args(["bench", "page", str(saved), "-o", str(out)])
    assert options.run(options) == 0
    assert out.read_text("utf-8") == page(two_variants())
    options = parser.parse_args(["bench", "page", str(saved), "-o", str(tmp_path / "no" / "a")])
    with pytest.raises(ConfigError, match="is a folder, or lies in none"):
        options.run(options)


def draw(report: Path, out: Path) -> int:
    """Run `hedge bench page …` in this process; return its exit code."""
    parser = argparse.ArgumentParser(prog="hedge")
    bench_command.add_parser(parser.add_subparsers())
    options = parser.parse_args(["bench", "page", str(report), "-o", str(out)])
    code: int = options.run(options)
    return code


def test_a_page_is_never_drawn_over_its_report(tmp_path: Path) -> None:
    saved, link = tmp_path / "a.json", tmp_path / "link.html"
    saved.write_bytes(msgspec.json.encode(two_variants()))
    was = saved.read_bytes()
    link.symlink_to(saved)
    for out in (saved, link):
        with pytest.raises(ConfigError, match=r"would overwrite .*a\.json \(name another"):
            draw(saved, out)
    assert saved.read_bytes() == was


def test_on_a_full_disk_the_page_before_stays_whole(tmp_path: Path) -> None:
    saved, out = tmp_path / "a.json", tmp_path / "a.html"
    saved.write_bytes(msgspec.json.encode(two_variants()))
    assert draw(saved, out) == 0
    was = out.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(was) // 2, hard))
    try:
        with pytest.raises(ConfigError, match=r"a\.html: cannot be written"):
            draw(saved, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert out.read_bytes() == was
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "a.json"]
