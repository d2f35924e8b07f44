"""The sinks: JSON lines that survive a crash, and the terminal."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hedge.models.errors import ConfigError
from hedge.models.records import Opinion, Outcome
from hedge.runtime.sinks.json_lines import JsonLines
from hedge.runtime.sinks.terminal import Terminal

_LABELS = {"door": ("nobody", "person")}


def _outcome(number: int = 0, *, final: bool = True) -> Outcome:
    probs = np.array([0.25, 0.75], np.float32)
    opinion = Opinion(probs, 0.5, "vacuity", vacuity=0.5)
    return Outcome(
        "door", f"3-{number}", "edge", 1, probs, opinion, final, latency_ns=2_500_000, reason="sure"
    )


def _lines(file: Path) -> list[str]:
    return file.read_text("utf-8").splitlines()


def test_an_outcome_becomes_one_line_with_its_label_by_name(tmp_path: Path) -> None:
    sink = JsonLines(tmp_path / "out" / "o.jsonl", labels=_LABELS)
    sink.emit(_outcome())
    sink.emit(Outcome("door", "3-1", "dropped", None, None, None, True))
    sink.close()
    first, second = (json.loads(line) for line in _lines(tmp_path / "out/o.jsonl"))
    assert first == {
        "stream": "door",
        "id": "3-0",
        "final": True,
        "route": "edge",
        "label": "person",
        "latency_ms": 2.5,
        "probs": [0.25, 0.75],
        "score": 0.5,
        "score_name": "vacuity",
        "reason": "sure",
    }
    assert second["label"] is None
    assert "probs" not in second


def test_only_the_owner_can_read_the_file(tmp_path: Path) -> None:
    JsonLines(tmp_path / "o.jsonl", labels=_LABELS).close()
    assert stat.S_IMODE((tmp_path / "o.jsonl").stat().st_mode) == 0o600


@pytest.mark.parametrize("torn", [b'{"id": "3-1", "la', b"x" * 200_000])
def test_a_torn_last_line_is_cut_off_and_whole_lines_stay(tmp_path: Path, torn: bytes) -> None:
    file = tmp_path / "o.jsonl"
    file.write_bytes(b'{"stream":"door","id":"3-0"}\n' + torn)
    sink = JsonLines(file, labels=_LABELS)
    sink.emit(_outcome(2))
    sink.close()
    assert sink.recovered_bytes == len(torn)
    assert [json.loads(line)["id"] for line in _lines(file)] == ["3-0", "3-2"]


def test_a_file_that_is_one_torn_line_becomes_empty(tmp_path: Path) -> None:
    file = tmp_path / "o.jsonl"
    file.write_bytes(b'{"stream":"do')
    JsonLines(file, labels=_LABELS).close()
    assert file.read_bytes() == b""


def test_a_writer_killed_at_any_moment_leaves_only_whole_lines_after_reopening(
    tmp_path: Path,
) -> None:
    file = tmp_path / "o.jsonl"
    code = (
        "import sys, numpy as np, pathlib\n"
        "from hedge.models.records import Outcome\n"
        "from hedge.runtime.sinks.json_lines import JsonLines\n"
        "sink = JsonLines(pathlib.Path(sys.argv[1]), labels={'door': ('a', 'b')})\n"
        "number = 0\n"
        "while True:\n"
        "    probs = np.array([0.25, 0.75], np.float32)\n"
        "    sink.emit(Outcome('door', f'1-{number}', 'edge', 1, probs, None, True))\n"
        "    number += 1\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(file)], cwd=tmp_path)
    while not file.exists() or file.stat().st_size < 100_000:
        assert writer.poll() is None
    writer.kill()
    writer.wait()
    JsonLines(file, labels=_LABELS).close()
    ids = [json.loads(line)["id"] for line in _lines(file)]
    assert ids == [f"1-{number}" for number in range(len(ids))]


def test_a_full_disk_raises_and_leaves_no_half_line(tmp_path: Path) -> None:
    file = tmp_path / "o.jsonl"
    sink = JsonLines(file, labels=_LABELS)
    sink.emit(_outcome(0))
    size = file.stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, before[1]))
    try:
        with pytest.raises(OSError, match=r"bytes were written|too large"):
            sink.emit(_outcome(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    sink.emit(_outcome(2))
    sink.close()
    assert [json.loads(line)["id"] for line in _lines(file)] == ["3-0", "3-2"]


@pytest.mark.parametrize("content", [b"PK\x03\x04 an npz", b"no newline", b"{}\n", b'{"id": 1}'])
def test_a_file_of_anything_else_is_refused_and_not_touched(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows.npz").write_bytes(content)
    with pytest.raises(
        ConfigError, match=r"rows\.npz: is there already, and is no file of outcomes"
    ):
        JsonLines(tmp_path / "rows.npz", labels=_LABELS)
    assert (tmp_path / "rows.npz").read_bytes() == content


@pytest.mark.parametrize("place", [".", "/dev/full", "file/o.jsonl"])
def test_a_place_that_is_no_file_is_refused_by_name(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be written|no file of outcomes"):
        JsonLines(tmp_path / place, labels=_LABELS)


def test_a_closed_file_refuses_outcomes(tmp_path: Path) -> None:
    sink = JsonLines(tmp_path / "o.jsonl", labels=_LABELS)
    sink.close()
    sink.close()
    with pytest.raises(OSError, match="closed"):
        sink.emit(_outcome())


def test_the_terminal_shows_label_certainty_and_time() -> None:
    out = io.StringIO()
    sink = Terminal(labels=_LABELS, out=out)
    sink.emit(_outcome(final=False))
    sink.close()
    line = out.getvalue()
    for part in ("door", "3-0", "first", "person", "75.0%", "2.500 ms", "sure"):
        assert part in line
    assert line.count(os.linesep) == 1
