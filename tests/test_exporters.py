"""A snapshot as Prometheus reads it, and as lines in files that never grow without bound."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import runpy
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedge.models.errors import ConfigError
from hedge.telemetry.exporters.exposition import Exposition, Family
from hedge.telemetry.exporters.families import DROPS, FAMILIES, UPLINK
from hedge.telemetry.exporters.prometheus import text
from hedge.telemetry.exporters.telemetry_log import TelemetryLog
from hedge.telemetry.exporters.worker_families import FAMILIES as WORKER
from hedge.telemetry.gate_state import GateState
from hedge.telemetry.histogram import Histogram
from hedge.telemetry.ledger import BOUNDS_MS, STAGES, Ledger, latency
from hedge.telemetry.snapshot import Snapshot

_REAL = runpy.run_path(str(Path(__file__).with_name("real_snapshot.py")))
_DOCS = Path(__file__).parents[1] / "docs" / "metrics.md"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """Give what a real run has counted."""
    found: Snapshot = _REAL["real_snapshot"](tmp_path_factory.mktemp("run"))
    return found


def parsed(page: str) -> tuple[dict[str, str], Samples]:
    """Return the kind of each family and the value of each sample, as Prometheus' parser has it."""
    parser = pytest.importorskip(
        "prometheus_client.parser", reason="prometheus-client is not installed"
    )
    kinds, samples = {}, {}
    for family in parser.text_string_to_metric_families(page):
        kinds[family.name] = family.type
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in samples, f"{key} twice"
            samples[key] = sample.value
    return kinds, samples


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


def empty(**fields: Any) -> Snapshot:  # noqa: ANN401 -- those of Snapshot
    return Snapshot(session=3, uptime_s=1.5, streams={}, uplink={}, counts={}, **fields)


# ---- Prometheus


def test_every_figure_of_a_run_is_read_back_as_it_was(real: Snapshot) -> None:
    _, samples = parsed(text(real))
    cam, who = real.streams["cam"], {"stream": "cam", "model": "steps/tiny"}
    assert cam.read == 61
    for route, count in cam.routes.items():
        assert value(samples, "hedge_samples_total", **who, route=route) == count
    for end, count in cam.ends.items():
        assert value(samples, "hedge_ends_total", **who, end=end) == count
    for reason, count in cam.reasons.items():
        assert value(samples, "hedge_reasons_total", **who, reason=reason) == count
    for name, count in real.uplink.items():
        if name in DROPS:
            what, why = DROPS[name]
            assert value(samples, "hedge_dropped_total", what=what, reason=why) == count
        elif name in UPLINK:
            assert value(samples, UPLINK[name].name) == count
        else:
            assert re.fullmatch("left_(bytes|messages)_per_(hour|day)", name)
    assert value(samples, "hedge_uplink_budget_left_bytes", per="day") == pytest.approx(1e9, 1e-3)
    assert value(samples, "process_resident_memory_bytes") == 81_000_000
    assert value(samples, "process_cpu_seconds_total") == 3.25
    assert value(samples, "hedge_events_total", event="sink_errors") == 81
    assert value(samples, "hedge_power_watts") == 6.25
    assert value(samples, "hedge_temperature_celsius", zone="cpu-thermal") == 61.5
    assert value(samples, "hedge_throttled") == 1


def test_every_counter_of_the_uplink_has_a_metric_of_its_own(real: Snapshot) -> None:
    left = {name for name in real.uplink if name.startswith("left_")}
    assert set(real.uplink) - set(UPLINK) - set(DROPS) == left
    outbox = {name for name in UPLINK if name.startswith(("outbox_", "outcomes_"))}
    assert set(UPLINK) - set(real.uplink) - outbox == set(), "nothing is listed that is not there"


def test_a_histogram_of_a_stage_is_that_of_what_was_recorded() -> None:
    ledger, spent_ns = Ledger("cam"), [9_000, 30_000, 30_000, 4_000_000, 70_000_000_000]
    for duration_ns in spent_ns:
        ledger.stages.infer.record(duration_ns)
    page = text(msgspec.structs.replace(empty(), streams={"cam": ledger.report(buckets=True)}))
    _, samples = parsed(page)
    infer = {"stream": "cam", "stage": "infer"}
    for bound_ms in BOUNDS_MS:
        expected = sum(one <= bound_ms * 1e6 for one in spent_ns)
        found = value(samples, "hedge_stage_seconds_bucket", **infer, le=f"{bound_ms / 1e3:.9g}")
        assert found == expected, bound_ms
    assert value(samples, "hedge_stage_seconds_bucket", **infer, le="+Inf") == len(spent_ns)
    assert value(samples, "hedge_stage_seconds_count", **infer) == len(spent_ns)
    total_s = value(samples, "hedge_stage_seconds_sum", **infer)
    assert total_s == pytest.approx(sum(spent_ns) / 1e9, abs=5e-9)


@given(st.lists(st.integers(0, 2**37), max_size=50))
def test_buckets_never_fall_and_none_exceeds_the_count(spent_ns: list[int]) -> None:
    histogram = Histogram()
    for duration_ns in spent_ns:
        histogram.record(duration_ns)
    below = latency(histogram, buckets=True).below
    assert below is not None
    assert list(below) == sorted(below)
    assert not below or below[-1] <= len(spent_ns)


def test_without_counts_by_bucket_a_histogram_is_its_sum_and_count() -> None:
    ledger = Ledger("cam")
    ledger.stages.infer.record(2_000_000)
    _, samples = parsed(text(msgspec.structs.replace(empty(), streams={"cam": ledger.report()})))
    infer = {"stream": "cam", "stage": "infer"}
    buckets = [
        key for key in samples if key[0].endswith("_bucket") and ("stage", "infer") in key[1]
    ]
    assert len(buckets) == 1
    assert value(samples, "hedge_stage_seconds_bucket", **infer, le="+Inf") == 1
    assert value(samples, "hedge_stage_seconds_sum", **infer) == 0.002


def test_how_a_gate_stands_is_told_with_its_audit_promise_drift_and_budget(real: Snapshot) -> None:
    _, samples = parsed(text(real))
    who = {"stream": "cam", "model": "steps/tiny"}
    for name, labels, expected in (
        ("hedge_gate_threshold", {"score": "vacuity"}, 0.4375),
        ("hedge_gate_calibrated_threshold", {"score": "vacuity"}, 0.5),
        ("hedge_gate_budget_per_hour", {"unit": "messages"}, 60),
        ("hedge_gate_spent_per_hour", {"unit": "messages"}, 58),
        ("hedge_gate_strayed_ratio", {"unit": "messages"}, -0.0625),
        ("hedge_promise_state", {"state": "tightened"}, 1),
        ("hedge_promise_state", {"state": "kept"}, 0),
        ("hedge_promise_error_ratio", {}, 0.0625),
        ("hedge_promise_moves_total", {"way": "tightened"}, 1),
        ("hedge_promise_moves_total", {"way": "relaxed"}, 0),
        ("hedge_audit_drawn_total", {}, 90),
        ("hedge_audit_asked_total", {}, 61),
        ("hedge_audit_judged_total", {}, 84),
        ("hedge_audit_error_low_ratio", {}, 0.0125),
        ("hedge_audit_error_high_ratio", {}, 0.1875),
        ("hedge_drift_index", {}, 0.25),
        ("hedge_drift_limit", {}, 0.2),
        ("hedge_drifting", {}, 1),
        ("hedge_drifts_total", {}, 2),
    ):
        assert value(samples, name, **who, **labels) == expected, name
    assert value(samples, "hedge_audit_error_ratio", **who) == pytest.approx(3 / 57)


def test_of_a_gate_that_nothing_moves_only_where_it_stands_is_told() -> None:
    gate = GateState(score="entropy", total=0.5, calibrated=0.5)
    page = text(msgspec.structs.replace(empty(), streams={"cam": Ledger("cam").report(gate=gate)}))
    assert "hedge_gate_threshold" in page
    assert "hedge_audit" not in page
    assert "hedge_promise" not in page
    assert "hedge_drift" not in page


def test_an_energy_that_cannot_be_told_is_absent_and_a_gauge_says_so(real: Snapshot) -> None:
    _, samples = parsed(text(real))
    who = {"stream": "cam", "model": "steps/tiny"}
    stages = {
        stage: (
            value(samples, "hedge_stage_energy_joules", **who, stage=stage),
            value(samples, "hedge_stage_energy_resolvable", **who, stage=stage),
        )
        for stage in STAGES
    }
    assert stages == {
        "preprocess": (1.5, 1),
        "filter": (None, 0),
        "infer": (2.25, 1),
        "uncertainty": (None, None),  # it was not measured
        "uplink": (1.5, 1),
    }
    assert value(samples, "hedge_energy_joules_total") == 75.125
    assert value(samples, "hedge_energy_resolvable", figure="total") == 1
    assert value(samples, "hedge_other_energy_joules") is None
    assert value(samples, "hedge_energy_resolvable", figure="other") == 0
    rails = [("VDD_IN", 75.125, 1), ("VDD_SOC", None, 0), ("NC", None, None)]
    for rail, joules, resolvable in rails:
        assert value(samples, "hedge_rail_energy_joules_total", rail=rail) == joules
        assert value(samples, "hedge_rail_energy_resolvable", rail=rail) == resolvable


def test_what_is_not_known_is_absent_and_never_0() -> None:
    kinds, samples = parsed(text(empty()))
    assert {name for name, _ in samples} == {
        *("hedge_build_info", "hedge_session", "hedge_uptime_seconds")
    }
    assert set(kinds) == {"hedge_build_info", "hedge_session", "hedge_uptime_seconds"}
    _, samples = parsed(text(empty(connected=False, cpu_s=0.0)))
    assert value(samples, "hedge_connected") == 0
    assert value(samples, "process_cpu_seconds_total") == 0


@given(st.text(), st.text())
def test_any_text_can_be_a_label_and_comes_back(site: str, device: str) -> None:
    page = text(empty(site=site, device=device))
    assert page.count("\n") == 9, "a sample is one line"
    if "\\" not in site + device and "\r" not in site + device:  # the parser strips some itself
        labels = {"site": site, "device": device}
        shown = {name: one.replace("\n", "\\n").replace('"', '\\"') for name, one in labels.items()}
        assert f'device="{shown["device"]}",site="{shown["site"]}"' in page


def test_quotes_newlines_and_backslashes_in_a_label_are_escaped() -> None:
    page = text(empty(site='a"b\\n\nc'))
    assert r'hedge_build_info{site="a\"b\\n\nc"} 1' in page.split("\n")
    _, samples = parsed(page)
    assert value(samples, "hedge_build_info", site='a"b\\n\nc') == 1


def test_a_counter_that_the_uplink_gets_later_is_told_by_its_own_name() -> None:
    page = text(msgspec.structs.replace(empty(), uplink={"brand-new thing": 5}))
    _, samples = parsed(page)
    assert value(samples, "hedge_uplink_brand_new_thing_total") == 5


def test_numbers_that_are_no_numbers_are_written_as_prometheus_has_them() -> None:
    page, family = Exposition(), Family("x", "gauge", "Of a test.", ("a",))
    for number, value_ in enumerate((float("nan"), float("inf"), -float("inf"), 1e-9, True)):
        page.add(family, value_, a=str(number))
    shown = [line.split(" ")[1] for line in page.text().splitlines() if line.startswith("x{")]
    assert shown == ["NaN", "+Inf", "-Inf", "1e-09", "1"]
    with pytest.raises(ValueError, match="x has no label b"):
        page.add(family, 1, b="?")


_UNITS = ("seconds", "bytes", "joules", "watts", "celsius", "ratio", "messages")
_FOREIGN = r"_(ms|milliseconds|us|ns|minutes|hours|kb|mb|kib|mib|percent|wh|mw|milliwatts)(_|$)"


@pytest.mark.parametrize("family", [*FAMILIES, *WORKER], ids=lambda family: family.name)
def test_every_metric_keeps_to_the_rules_of_naming(family: Family) -> None:
    assert re.fullmatch(r"(hedge|process)_[a-z0-9_]+", family.name)
    assert family.name.endswith("_total") == (family.kind == "counter")
    assert family.help.endswith(".")
    assert not re.search(_FOREIGN, family.name)
    assert not re.search(r"_(counter|gauge|histogram|summary|sum|count|bucket)(_|$)", family.name)
    bare = family.name.removesuffix("_total")
    for unit in _UNITS:
        assert bare.endswith(f"_{unit}") or f"_{unit}_" not in f"{bare}_", "the unit is last"
    assert not {"le", "quantile", "job", "instance"} & set(family.labels)


def test_no_two_metrics_have_one_name_and_each_has_its_help_and_its_kind(real: Snapshot) -> None:
    names = [family.name for family in (*FAMILIES, *WORKER)]
    assert len(names) == len(set(names))
    page = text(real)
    kinds = {family.name: family.kind for family in FAMILIES}
    for line in page.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            assert kinds[name] == kind
            assert f"# HELP {name} " in page


def test_promtool_finds_nothing_to_say(real: Snapshot) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run(
        [promtool, "check", "metrics"],
        input=text(_REAL["with_everything"](real)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_page_about_metrics_lists_those_there_are() -> None:
    row = r"^\| `(\w+)` \| (\w+) \| ([^|]*) \| ([^|]+) \|$"
    rows = re.findall(row, _DOCS.read_text("utf-8"), re.MULTILINE)
    said = [(name, kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in rows]
    assert said == [(one.name, one.kind, one.labels) for one in (*FAMILIES, *WORKER)]


# ---- The log


def record(session: int, *, size: int = 0) -> Snapshot:
    """Return a record that is told by its session, padded by ``size`` bytes."""
    return Snapshot(
        session=session, uptime_s=1.5, streams={}, uplink={}, counts={}, note="x" * size
    )


def sessions(path: Path) -> list[int]:
    return [json.loads(line)["session"] for line in path.read_text("utf-8").splitlines()]


def files(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


def fill(log: TelemetryLog, numbers: range, *, size: int = 200) -> None:
    for number in numbers:
        log.offer(record(number, size=size))


def test_a_snapshot_is_a_line_that_is_read_back_and_only_its_owner_reads_it(
    tmp_path: Path, real: Snapshot
) -> None:
    log = TelemetryLog(tmp_path / "a" / "t.jsonl")
    log.offer(real)
    log.offer(record(9))
    log.close()
    log.close()
    first, second = (tmp_path / "a" / "t.jsonl").read_bytes().splitlines()
    assert msgspec.json.decode(first, type=Snapshot) == real
    assert msgspec.json.decode(second, type=Snapshot) == record(9)
    assert stat.S_IMODE((tmp_path / "a" / "t.jsonl").stat().st_mode) == 0o600
    assert log.counters()["telemetry_log_lines"] == 2


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_all_files_together_stay_within_their_bound_and_hold_the_newest_lines(
    tmp_path: Path, keep: int
) -> None:
    log = TelemetryLog(tmp_path / "t.jsonl", max_bytes=2000, keep=keep)
    for number in range(40):
        log.offer(record(number, size=37 * (number % 7)))
        sizes = [one.stat().st_size for one in tmp_path.iterdir()]
        assert max(sizes) <= 2000
        assert sum(sizes) <= (keep + 1) * 2000
    log.close()
    older = [f"t.jsonl.{number}" for number in range(1, keep + 1)]
    assert files(tmp_path) == ["t.jsonl", *older]
    told = [one for name in (*reversed(older), "t.jsonl") for one in sessions(tmp_path / name)]
    assert told == list(range(told[0], 40)), "the newest, in order, without a gap"
    assert log.counters()["telemetry_log_rotations"] > 3
    assert all(stat.S_IMODE(one.stat().st_mode) == 0o600 for one in tmp_path.iterdir())


def test_a_line_that_is_longer_than_a_file_may_be_is_lost_and_counted(tmp_path: Path) -> None:
    log = TelemetryLog(tmp_path / "t.jsonl", max_bytes=1000)
    log.offer(record(1))
    log.offer(record(2, size=2000))
    log.offer(record(3))
    log.close()
    assert sessions(tmp_path / "t.jsonl") == [1, 3]
    assert log.counters()["telemetry_log_lost"] == 1


def test_a_torn_line_of_a_crash_is_cut_off_and_the_log_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    log = TelemetryLog(path)
    log.offer(record(1))
    log.close()
    with path.open("ab") as file:
        file.write(b'{"session":2,"upti')
    log = TelemetryLog(path)
    log.offer(record(3))
    log.close()
    assert sessions(path) == [1, 3]
    assert log.recovered_bytes == 18


@pytest.mark.parametrize("call", range(1, 6))
def test_a_crash_at_any_point_of_a_rotation_leaves_no_gap_and_loses_no_newer_line(
    tmp_path: Path, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, calls = tmp_path / "t.jsonl", [0]
    log = TelemetryLog(path, max_bytes=1000, keep=3)
    fill(log, range(8))  # two a file, all places taken
    assert files(tmp_path) == ["t.jsonl", "t.jsonl.1", "t.jsonl.2", "t.jsonl.3"]

    class Killed(BaseException):
        """The power goes."""

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def act(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 -- whatever is called
            calls[0] += 1
            if calls[0] == call:
                raise Killed
            return real(*arguments, **options)

        return act

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dying(Path.rename))
        patch.setattr(Path, "unlink", dying(Path.unlink))
        try:
            fill(log, range(8, 9))
        except Killed:
            log.close()
    assert calls[0] == min(call, 4), "one file goes, three are renamed"
    log = TelemetryLog(path, max_bytes=1000, keep=3)
    fill(log, range(9, 10))
    log.close()
    names = files(tmp_path)
    assert names == ["t.jsonl", *(f"t.jsonl.{number}" for number in range(1, len(names)))]
    told = [one for name in (*reversed(names[1:]), "t.jsonl") for one in sessions(tmp_path / name)]
    assert told == sorted(told)
    assert set(told) >= {4, 5, 6, 7, 9}
    assert sum(one.stat().st_size for one in tmp_path.iterdir()) <= 4000


def test_a_gap_in_the_numbers_is_closed_when_the_log_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    log = TelemetryLog(path, max_bytes=1000, keep=5)
    fill(log, range(12))
    log.close()
    (tmp_path / "t.jsonl.2").unlink()
    TelemetryLog(path, max_bytes=1000, keep=5).close()
    assert files(tmp_path) == ["t.jsonl", *(f"t.jsonl.{number}" for number in range(1, 5))]
    assert sessions(tmp_path / "t.jsonl.2") == [4, 5]


def test_with_fewer_or_smaller_files_than_before_the_oldest_go(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    log = TelemetryLog(path, max_bytes=1000, keep=5)
    fill(log, range(12))
    log.close()
    TelemetryLog(path, max_bytes=1000, keep=2).close()
    assert files(tmp_path) == ["t.jsonl", "t.jsonl.1", "t.jsonl.2"]
    log = TelemetryLog(path, max_bytes=450, keep=2)
    fill(log, range(12, 13))
    log.close()
    assert sum(one.stat().st_size for one in tmp_path.iterdir()) <= 3 * 450
    assert sessions(path) == [12]


def test_a_file_that_holds_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("dear diary\n")
    with pytest.raises(ConfigError, match=r"t\.jsonl: is there already, and is no file of telem"):
        TelemetryLog(path)
    path.unlink()
    (tmp_path / "t.jsonl.4").write_text("dear diary\n")
    with pytest.raises(ConfigError, match=r"t\.jsonl\.4: is there already"):
        TelemetryLog(path)
    assert (tmp_path / "t.jsonl.4").read_text() == "dear diary\n"


def test_a_folder_that_cannot_be_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/t\.jsonl: cannot be written"):
        TelemetryLog(tmp_path / "file" / "t.jsonl")


def test_on_a_full_disk_lines_are_lost_whole_and_counted_and_later_ones_are_written(
    tmp_path: Path,
) -> None:
    path = tmp_path / "t.jsonl"
    log = TelemetryLog(path)
    fill(log, range(3))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, hard))
    try:
        fill(log, range(3, 6))
        assert sessions(path) == [0, 1, 2]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    fill(log, range(6, 8))
    log.close()
    assert sessions(path) == [0, 1, 2, 6, 7]
    assert log.counters()["telemetry_log_lost"] == 3
    assert log.counters()["telemetry_log_lines"] == 5


def test_where_no_new_file_can_be_begun_the_bound_still_holds_and_later_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.jsonl"
    log = TelemetryLog(path, max_bytes=1000, keep=1)
    fill(log, range(2))

    def fail(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail)
        fill(log, range(2, 5))
    assert sessions(path) == [0, 1]
    assert log.counters()["telemetry_log_lost"] == 3
    fill(log, range(5, 6))
    log.close()
    assert sessions(path) == [5]
    assert sessions(tmp_path / "t.jsonl.1") == [0, 1]


def test_a_device_that_writes_its_log_counts_in_its_own_metrics(tmp_path: Path) -> None:
    log = TelemetryLog(tmp_path / "t.jsonl")
    fill(log, range(3))
    log.close()
    _, samples = parsed(text(msgspec.structs.replace(empty(), counts=log.counters())))
    assert value(samples, "hedge_events_total", event="telemetry_log_lines") == 3


def test_a_half_line_that_cannot_be_cut_at_once_is_cut_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.jsonl"
    log = TelemetryLog(path)
    fill(log, range(1))

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "the disk is ill")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, line, write=os.write: write(fd, line[:20]))
        patch.setattr(os, "ftruncate", fail)
        fill(log, range(1, 3))
    assert not path.read_bytes().endswith(b"\n")
    fill(log, range(3, 4))
    log.close()
    assert sessions(path) == [0, 3]
    assert log.counters()["telemetry_log_lost"] == 2


def test_a_disk_that_is_full_at_the_start_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "t.jsonl"

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        log = TelemetryLog(path)
        fill(log, range(2))
    fill(log, range(2, 3))
    log.close()
    assert sessions(path) == [2]
    assert log.counters()["telemetry_log_lost"] == 2
    assert "No space left" in caplog.text


def test_a_writer_killed_at_any_moment_leaves_whole_lines_and_files_without_a_gap(
    tmp_path: Path, eventually: Callable[[Callable[[], bool]], None]
) -> None:
    path = tmp_path / "log" / "t.jsonl"
    code = (
        "import sys, pathlib\n"
        "from hedge.telemetry.exporters.telemetry_log import TelemetryLog\n"
        "from hedge.telemetry.snapshot import Snapshot\n"
        "log = TelemetryLog(pathlib.Path(sys.argv[1]), max_bytes=4000, keep=3)\n"
        "number = int(sys.argv[2])\n"
        "while True:\n"
        "    log.offer(Snapshot(session=number, uptime_s=1.0, streams={}, uplink={}, counts={}))\n"
        "    number += 1\n"
    )
    for turn in range(5):
        begin = turn * 10_000_000
        writer = subprocess.Popen([sys.executable, "-c", code, str(path), str(begin)], cwd=tmp_path)
        eventually(partial(_reaches, path, begin + 100 * turn))
        writer.kill()
        writer.wait()
        TelemetryLog(path, max_bytes=4000, keep=3).close()
        names = files(path.parent)
        assert names == ["t.jsonl", *(f"t.jsonl.{number}" for number in range(1, len(names)))]
        told = [
            one for name in (*reversed(names[1:]), names[0]) for one in sessions(path.parent / name)
        ]
        assert told == sorted(told)


def _reaches(path: Path, session: int) -> bool:
    """Whether a file that is being written holds a session, or a later one."""
    try:
        found = re.findall(rb'"session":(\d+),', path.read_bytes())
    except FileNotFoundError:  # it is being changed for a new one
        return False
    return max(map(int, found), default=-1) >= session
