"""Reports are written whole, or what was there stays."""

from __future__ import annotations

import os
import resource
import shutil
import threading
from pathlib import Path

import pytest
from msgspec import Struct

from hedge.models.bundle import load_bundle, pack_bundle
from hedge.models.errors import ConfigError
from hedge.runtime.cli import main
from hedge.runtime.report import write_json, write_output
from hedge.runtime.shipped import bundle_path


class Figures(Struct):
    rows: list[int]


def test_a_report_that_does_not_fit_leaves_the_one_before(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    write_json(file, Figures([1, 2]))
    before = file.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # as a disk that is full after 4 KiB
    try:
        with pytest.raises(ConfigError, match=r"report\.json: cannot be written"):
            write_json(file, Figures(list(range(10_000))))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize("name", ["digits/manifest.toml", "digits/new.json", "digits.hedge"])
@pytest.mark.parametrize(
    "line",
    [
        ["bundle", "show", "digits", "--json"],
        ["bundle", "verify", "digits.hedge", "--json"],
        ["evidence", "report", "digits", "rows.npz", "--html"],
        ["evidence", "report", "digits", "rows.npz", "--json"],
    ],
    ids=lambda line: f"{line[0]} {line[1]}",
)
def test_figures_do_not_spoil_a_bundle(
    line: list[str],
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shipped = bundle_path("digits")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(shipped, "digits")
    pack_bundle(Path("digits"), Path("digits.hedge"))
    shutil.copy(shipped.with_name("digits-unseen.npz"), "rows.npz")
    assert main([*line, name]) == 2
    said = capsys.readouterr().err
    assert "name another file to write" in said
    assert load_bundle(Path("digits")).digest == load_bundle(Path("digits.hedge")).digest


def test_a_report_goes_through_a_link_and_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    link = tmp_path / "report.json"
    link.symlink_to(tmp_path / "kept" / "today.json")
    write_output(link, b"{}")
    assert link.is_symlink()
    assert (tmp_path / "kept" / "today.json").read_bytes() == b"{}"


def test_a_report_may_go_into_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_output(pipe, b"{}")
    reader.join(20)
    assert read == [b"{}"]
