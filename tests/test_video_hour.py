"""The harness of an hour of video in short: every picture is read, and a camera comes back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("av", reason="PyAV is not installed")


def test_a_film_in_a_loop_is_read_whole_and_cameras_come_back(tmp_path: Path) -> None:
    results = tmp_path / "video.json"
    ran = subprocess.run(
        [sys.executable, "-m", "video", "--quick", "--results", str(results)],
        cwd=Path(__file__).parent,
        capture_output=True,
        check=False,
        env={"PATH": "/usr/bin:/bin"},  # the film is one that is drawn
    )
    assert results.exists(), ran.stderr.decode()
    found = json.loads(results.read_text())
    hour, recovery = found["hour"], found["recovery"]
    assert found["film"] == "drawn"
    assert (hour["pictures"], hour["failed"]) == (600, 0)
    assert hour["rss_mb"]["last"] > 0
    if recovery is not None:  # GStreamer's RTSP server is not everywhere
        assert set(recovery["seconds_to_the_first_picture"]) == {"killed", "hung", "silent"}
