"""The command line as a process: exit codes, one-line errors, interruptions."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hedge.models.bundle import load_bundle
from hedge.models.dataset import load_dataset
from hedge.runtime.cli import main
from hedge.runtime.shipped import bundle_path

_UNSEEN = bundle_path("digits").with_name("digits-unseen.npz")


def _hedge(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hedge", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def _config(folder: Path, *, data: object = _UNSEEN, sink: str = "o.jsonl", more: str = "") -> Path:
    file = folder / "device.toml"
    file.write_text(
        f"""
        [device]
        name = "porch"
        state_dir = "state"
        [[stream]]
        name = "meter"
        bundle = "digits"
        answer_within_ms = 50
        source = {{ kind = "replay", path = "{data}" }}
        {more}
        [[sink]]
        kind = "jsonl"
        path = "{sink}"
        """
    )
    return file


def test_a_device_without_an_uplink_answers_alone_and_says_what_it_did(tmp_path: Path) -> None:
    done = _hedge("run", _config(tmp_path), "--json", "r.json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "meter: 540 samples:" in done.stderr
    stream = json.loads((tmp_path / "r.json").read_text())["streams"][0]
    assert stream["ends"]["refused"] == stream["routes"]["escalated"] > 0
    assert stream["waiting"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "none.npz"}, r"none.npz: no such file"),
        ({"data": "wide.npz"}, r"samples of shape (3,); the bundle takes (64,)"),
        ({"data": "half.npz"}, r"samples of float64, not all of which are uint8"),
        ({"sink": "wide.npz"}, r"wide.npz: is there already, and is no file of outcomes"),
        ({"sink": "/dev/full"}, r"/dev/full: is there already, and is no file of outcomes"),
        ({"sink": "."}, r"cannot be written"),
        ({"more": '[telemetry]\nreport = "no/r.json"'}, r"no/r.json: is a folder, or lies in none"),
        ({"more": "backend = { threads = 100000 }"}, r"$.stream[0].backend.threads"),
        ({"more": 'variant = "huge"'}, r"has no variant 'huge' (it has "),
    ],
)
def test_a_device_that_cannot_do_what_it_is_told_says_so_and_does_nothing(
    tmp_path: Path, options: dict[str, str], message: str
) -> None:
    np.savez(tmp_path / "wide.npz", X=np.ones((4, 3), np.uint8))
    np.savez(tmp_path / "half.npz", X=np.full((4, 64), 0.5))
    done = _hedge("run", _config(tmp_path, **options), folder=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_samples_of_another_dtype_are_taken_where_no_value_changes(tmp_path: Path) -> None:
    np.savez(tmp_path / "float.npz", X=load_dataset(_UNSEEN).x.astype(np.float64))
    done = _hedge("run", _config(tmp_path, data="float.npz"), folder=tmp_path)
    assert done.returncode == 0, done.stderr


def test_outcomes_that_cannot_be_written_make_the_run_a_failure(tmp_path: Path) -> None:
    config = _config(tmp_path)
    limited = f"ulimit -f 20; exec {sys.executable} -m hedge run {config}"
    done = subprocess.run(
        ["bash", "-c", limited], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "an outcome was not written" in done.stderr
    assert "outcomes could not be written" in done.stderr
    for line in (tmp_path / "o.jsonl").read_text().splitlines():
        json.loads(line)


@pytest.mark.parametrize("after_s", [0.1, 0.2, 0.3, 0.6])
def test_an_interruption_at_any_moment_is_one_line(tmp_path: Path, after_s: float) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "hedge", "demo", "--rate", "20"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(after_s)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert "Traceback" not in err or "runpy" in err, "Python itself may not be up yet"
    assert process.returncode in {130, -signal.SIGINT, 1}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_that_an_import_makes_something_else_of_is_one_line(
    number: signal.Signals,
) -> None:
    code = f"""
import os, sys
from hedge.runtime import cli
def importing(arguments):
    try:
        os.kill(os.getpid(), {int(number)})
        for _ in range(10**9): pass
    except KeyboardInterrupt as error:
        raise ImportError("initialization failed") from error
cli._run = importing
sys.exit(cli.main(["demo"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (130, "hedge: interrupted\n")


def test_a_device_that_is_told_to_reload_before_it_is_up_starts_all_the_same() -> None:
    code = """
import os, signal, sys
from hedge.runtime import cli
cli._run = lambda arguments: os.kill(os.getpid(), signal.SIGHUP) or 7
sys.exit(cli.main(["-v", "run", "device.toml"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, check=False, timeout=60
    )
    assert done.returncode == 7


def test_output_that_nobody_takes_is_no_traceback(tmp_path: Path) -> None:
    for place in ("/dev/full", "| head -c 1"):
        end = place if place.startswith("|") else f"> {place}"
        done = subprocess.run(
            ["bash", "-c", f"{sys.executable} -m hedge bundle show digits {end}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr


def test_modules_that_lie_in_the_way_are_not_run_by_the_demo(tmp_path: Path) -> None:
    (tmp_path / "paho.py").write_text("raise SystemExit('hijacked')")
    hedge = Path(sys.executable).with_name("hedge")
    if not hedge.exists():
        pytest.skip("the command hedge is not installed beside Python")
    done = subprocess.run(
        [hedge, "demo", "--rate", "2000"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_bundle_that_is_there_is_trained_over_only_on_demand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch", reason="torch, which trains, is not installed")
    place = tmp_path / "mine"
    shutil.copytree(bundle_path("digits"), place)
    before = load_bundle(place).digest
    assert main(["train", "digits", "--seed", "5", "--out", str(place)]) == 2
    assert "mine: is there already (name another place, or --replace it)" in capsys.readouterr().err
    assert load_bundle(place).digest == before
