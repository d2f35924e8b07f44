"""A filter that has switched itself off stays so, over restarts, until its bundle is another."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from hedge.models.bundle import Bundle, load_bundle, write_bundle
from hedge.models.manifest import Filter, Manifest, Tuned
from hedge.runtime.checks.filters_off import check_filters_off
from hedge.runtime.checks.finding import Finding
from hedge.runtime.config import load_config
from hedge.runtime.daemon import serve
from hedge.runtime.filters.kept_off import KeptOff, read_off
from hedge.runtime.report import RunReport
from hedge.telemetry.filter_state import FilterState

SEED = 20292
_WORD = Tuned(
    aim="accuracy",
    target=0.99,
    recall=0.9,
    accuracy=0.99,
    rate=0.5,
    optimum=0.6,
    rows=100,
    data_sha256="0" * 64,
)


def _bundle(
    folder: Path, manifest: Manifest, files: Mapping[str, bytes], *, version: str = "1.0"
) -> Bundle:
    """Write a bundle whose filter drops all, and says that it may."""
    drops = Filter(kind="skip", file="skip.onnx", threshold=1.0, redundant=("rest",), tuned=_WORD)
    made = msgspec.structs.replace(
        manifest,
        version=version,
        filter=(drops,),
        calibration=msgspec.structs.replace(manifest.calibration, total=2.0),  # type: ignore[type-var]
    )
    return write_bundle(folder, made, files)


@pytest.fixture
def erring(tmp_path: Path, manifest: Manifest, bundle_files: Mapping[str, bytes]) -> Bundle:
    """Give a bundle whose filter breaks its word."""
    return _bundle(tmp_path / "b", manifest, bundle_files)


def _config(folder: Path, bundle: Path) -> Path:
    x = np.random.default_rng(SEED).normal(size=(300, 4)).astype(np.float32)
    np.savez(folder / "rows.npz", X=x)
    file = folder / "hedge.toml"
    file.write_text(
        '[device]\nname = "d"\nstate_dir = "state"\n'
        f'[[stream]]\nname = "cam"\nbundle = "{bundle}"\nfilter_shadow = 0.5\n'
        '[stream.source]\nkind = "replay"\npath = "rows.npz"\n'
        '[[sink]]\nkind = "jsonl"\npath = "out.jsonl"\n'
    )
    return file


def _serve(folder: Path, bundle: Path) -> RunReport:
    return serve(load_config(_config(folder, bundle), environ={}), base=folder)


def _state(report: RunReport) -> FilterState:
    (found,) = report.streams[0].filters
    return found


def _check(folder: Path, bundle: Path) -> list[Finding]:
    config = load_config(_config(folder, bundle), environ={})
    found = load_bundle(bundle)
    return list(check_filters_off(config.stream[0], found, config=config, base=folder))


def test_a_filter_that_is_off_is_off_after_a_restart_and_drops_nothing(
    tmp_path: Path, erring: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    assert _check(tmp_path, erring.path) == []
    first = _serve(tmp_path, erring.path)
    assert (_state(first).state, first.streams[0].routes["dropped"] > 0) == ("off", True)
    file = tmp_path / "state" / "filters_off.json"
    assert file.stat().st_mode & 0o777 == 0o600
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        again = _serve(tmp_path, erring.path)
    assert again.streams[0].routes["dropped"] == 0
    state = _state(again)
    assert (state.state, state.seen) == ("off", 0)
    assert state.why is not None
    assert state.why.startswith("since 20")
    assert state.why.endswith(str(_state(first).why))
    assert len([one for one in caplog.records if "stays off, since" in one.message]) == 1
    (told,) = _check(tmp_path, erring.path)
    assert (told.area, told.level, told.where) == ("filter", "warning", str(file))
    assert "the filter skip has been off since 20" in told.text


def test_another_version_of_the_bundle_begins_afresh_and_so_does_a_device_without_the_file(
    tmp_path: Path, erring: Bundle, manifest: Manifest, bundle_files: Mapping[str, bytes]
) -> None:
    _serve(tmp_path, erring.path)
    newer = _bundle(tmp_path / "b2", manifest, bundle_files, version="1.1")
    assert _check(tmp_path, newer.path) == []
    assert _serve(tmp_path, newer.path).streams[0].routes["dropped"] > 0
    assert len(read_off(tmp_path / "state" / "filters_off.json")) == 2
    assert _serve(tmp_path, erring.path).streams[0].routes["dropped"] == 0, "it is back to the old"
    (tmp_path / "state" / "filters_off.json").unlink()
    assert _serve(tmp_path, erring.path).streams[0].routes["dropped"] > 0


def _spoil(file: Path, how: str) -> None:
    one: dict[str, Any] = json.loads(file.read_text())
    match how:
        case "cut off":
            file.write_bytes(file.read_bytes()[:-7])
        case "empty":
            file.write_bytes(b"")
        case "noise":
            file.write_bytes(np.random.default_rng(SEED).bytes(300))
        case "too large":
            os.truncate(file, 1 << 30)
        case "newer":
            file.write_text(json.dumps({**one, "v": 2}))
        case "no time":
            one["off"][0]["at_s"] = 1e300
            file.write_text(json.dumps(one))
        case "a pipe":
            file.unlink()
            os.mkfifo(file)


@pytest.mark.parametrize(
    "how", ["cut off", "empty", "noise", "too large", "newer", "no time", "a pipe"]
)
def test_a_file_that_is_spoilt_is_one_counted_warning_and_filters_are_on(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "filters_off.json"
    kept = KeptOff(file, unix_s=lambda: 1e9)
    kept.keep("cam", "x", "skip", "it erred")
    found = KeptOff(file).find("cam", bundle="x", name="skip")
    assert found is not None
    assert (found.since, found.why) == ("2001-09-09T01:46:40Z", "it erred")
    _spoil(file, how)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        again = KeptOff(file)
    assert again.find("cam", bundle="x", name="skip") is None
    assert again.counters() == {"filters_off_refused": 1}
    assert len(caplog.records) == 1
    assert "filters that were off are on again" in caplog.text
    again.keep("cam", "x", "skip", "it erred again")
    assert [one.why for one in read_off(file)] == ["it erred again"]


def test_a_spoilt_file_is_found_by_a_check(tmp_path: Path, erring: Bundle) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "filters_off.json").write_text("{")
    (told,) = _check(tmp_path, erring.path)
    assert (told.level, told.todo) == ("warning", "remove it; filters that were off are on again")


def test_only_what_was_switched_off_last_is_kept_and_a_disk_that_fails_is_counted(
    tmp_path: Path,
) -> None:
    kept = KeptOff(tmp_path / "filters_off.json")
    for number in range(300):
        kept.keep("cam", f"{number}", "skip", "it erred")
    found = read_off(tmp_path / "filters_off.json")
    assert [one.bundle for one in found] == [f"{number}" for number in range(44, 300)]
    (tmp_path / "way").write_text("in the way")
    lost = KeptOff(tmp_path / "way" / "filters_off.json")
    lost.keep("cam", "x", "skip", "it erred")
    assert lost.counters()["filters_off_unwritten"] == 1
    assert lost.find("cam", bundle="x", name="skip") is not None
