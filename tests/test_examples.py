"""The worked examples in short: each trains a little, and runs whole on a real live source."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from hedge.runtime.commands import parser
from hedge.runtime.config import load_config

pytestmark = pytest.mark.timeout(300)  # they train, on whatever machine this is
_TESTS = Path(__file__).parent
_PAGES = _TESTS.parent / "docs" / "examples"
_NAMES = ("bearing", "motion", "person", "sentiment", "spoken-digits")
_NEEDS = MappingProxyType(
    {
        "bearing": ("torch",),
        "motion": ("torch", "serial"),
        "person": ("torch", "av", "PIL", "ai_edge_litert", "tomli_w"),
        "sentiment": ("torch", "tokenizers"),
        "spoken_digits": ("torch", "av"),
    }
)


def ran(name: str, folder: Path, *, effort: float, samples: int) -> dict[str, Any]:
    """Run an example in short and return its figures; skip where something is missing."""
    if not os.environ.get("HEDGE_DATA"):
        pytest.skip("HEDGE_DATA does not say where the recordings are")
    if shutil.which("mosquitto") is None and shutil.which("mosquitto", path="/usr/sbin") is None:
        pytest.skip("mosquitto is not installed")
    for module in (*_NEEDS[name], "onnxruntime", "sklearn"):
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    results = folder / "results.json"
    command = [sys.executable, "-m", "examples", "--only", name, "--effort", str(effort)]
    done = subprocess.run(
        [*command, "--samples", str(samples), "--results", str(results)],
        cwd=_TESTS,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert results.exists(), done.stderr
    found: dict[str, Any] = json.loads(results.read_bytes())[name]
    assert done.returncode == 0, found
    assert found["samples"] <= found["read"]
    assert (found["overrun"], found["failed"], found["unanswered"]) == (0, 0, 0)
    assert found["same_as_offline"] > 0.99  # what the device saw is what was recorded
    assert found["first_ms"]["p50"] > 0
    return found


def test_a_bearing_is_judged_by_its_vibration_over_mqtt(tmp_path: Path) -> None:
    found = ran("bearing", tmp_path, effort=0.1, samples=60)
    assert found["edge_accuracy"] > 0.4  # ten classes
    assert found["accuracy"] >= found["edge_accuracy"]
    assert found["escalated_share"] > 0


def test_a_persons_activity_is_seen_in_lines_of_a_serial_port(tmp_path: Path) -> None:
    found = ran("motion", tmp_path, effort=0.25, samples=120)
    assert found["edge_accuracy"] > 0.45  # six classes
    assert found["cloud_accuracy"] > 0.6
    assert found["labelled"] < found["samples"], "the stream has transitions, too"


def test_the_sentiment_of_lines_on_standard_input_is_told(tmp_path: Path) -> None:
    found = ran("sentiment", tmp_path, effort=0.3, samples=400)
    assert found["accuracy"] > 0.48  # the most frequent of three has 0.43
    assert found["cloud_accuracy"] > 0.5


def test_a_digit_is_understood_in_a_sound_file_of_a_speaker_nobody_heard(tmp_path: Path) -> None:
    found = ran("spoken_digits", tmp_path, effort=0.12, samples=150)
    assert found["accuracy"] > 0.3  # ten classes
    assert found["escalated_share"] > 0


def test_a_person_at_the_door_is_seen_in_the_stream_of_a_real_server(tmp_path: Path) -> None:
    served = "import gi; gi.require_version('GstRtspServer', '1.0')"
    if subprocess.run(["/usr/bin/python3", "-c", served], check=False).returncode:
        pytest.skip("the system's Python has no GStreamer RTSP server")
    found = ran("person", tmp_path, effort=0.12, samples=90)
    assert found["edge_accuracy"] > 0.8
    assert found["accuracy"] > 0.8
    assert found["more"]["visits_told"] == found["more"]["visits"] == 1
    assert found["more"]["false_events"] == 0


@pytest.mark.parametrize("name", _NAMES)
def test_the_configuration_of_every_example_is_accepted(name: str) -> None:
    config = load_config(_PAGES / name / "hedge.toml", environ={})
    assert config.uplink is not None
    assert len(config.stream) == 1


def test_the_pages_show_the_figures_that_are_kept() -> None:
    command = [sys.executable, "-m", "examples", "--check"]
    done = subprocess.run(command, cwd=_TESTS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kept = json.loads((_TESTS / "examples" / "results.json").read_bytes())
    assert set(kept) == set(_NEEDS)


@pytest.mark.parametrize("name", _NAMES)
def test_the_commands_of_every_page_are_some_that_there_are(name: str) -> None:
    text = (_PAGES / name / "README.md").read_text("utf-8")
    (block,) = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for line in block.replace("\\\n", " ").splitlines() if line.startswith("hedge ")]
    assert len(lines) >= 3
    for line in lines:
        parser().parse_args(line.split()[1:])
