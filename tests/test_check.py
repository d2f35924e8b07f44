"""`hedge check`: everything that could keep a device from running, found before it has to run."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from onnx import helper

from hedge.models.bundle import write_bundle
from hedge.models.errors import ConfigError
from hedge.models.manifest import Manifest
from hedge.runtime import check_command
from hedge.runtime.backends.options import BackendOptions
from hedge.runtime.checks import backends
from hedge.runtime.checks.amounts import size_text, time_text
from hedge.runtime.checks.clock import check_clock
from hedge.runtime.checks.finding import Finding, guarded, ok
from hedge.runtime.checks.report import CheckReport, lines, summary
from hedge.runtime.checks.target import target_of
from hedge.runtime.probe.messages import Probed
from hedge.runtime.trust import why_untrusted
from hedge.uplink.link.broker_url import Broker
from hedge.uplink.link.link import Connected, Disconnected
from hedge.uplink.link.mqtt import MqttLink
from hedge.uplink.outbox.owner import lock

Linear = Callable[..., bytes]
StartBroker = Callable[..., subprocess.Popen[bytes]]
PASSWORD = "open sesame"  # noqa: S105 -- of a broker that a test starts


class Checked:
    """One run of `hedge check`: its exit code, its text and its findings."""

    def __init__(self, code: int, text: str, report: CheckReport) -> None:
        self.code = code
        self.text = text
        self.report = report

    def of(self, area: str, level: str | None = None) -> list[Finding]:
        """Return the findings of one area, at one level if given."""
        return [
            one for one in self.report.findings if one.area == area and level in (None, one.level)
        ]

    def said(self, area: str, level: str) -> str:
        """Return all that was said of an area at one level."""
        return "\n".join(f"{one.text} ({one.todo})" for one in self.of(area, level))


Check = Callable[..., Checked]


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Check:
    """Give `check(target, *flags)`."""

    def run(target: object, *flags: str) -> Checked:
        place = tmp_path / "check.json"
        parser = argparse.ArgumentParser()
        check_command.add_parser(parser.add_subparsers())
        options = parser.parse_args(["check", str(target), "--json", str(place), *flags])
        code = options.run(options)
        text = capsys.readouterr().out
        assert "Traceback" not in text
        return Checked(code, text, msgspec.json.decode(place.read_bytes(), type=CheckReport))

    return run


@pytest.fixture
def config(tmp_path: Path, bundle_dir: Path) -> Callable[..., Path]:
    """Give `config(stream=…, more=…, bundle=…)`: the file of a device that could run.

    Its filter is left out, unless ``filtered``: each model takes half a second to try.
    """
    np.savez(tmp_path / "rows.npz", X=np.ones((5, 4), np.float32))

    def write(
        *, stream: str = "", more: str = "", bundle: object = bundle_dir, filtered: bool = False
    ) -> Path:
        file = tmp_path / "device.toml"
        file.write_text(
            f"""
            [device]
            name = "porch"
            state_dir = "state"
            [[stream]]
            name = "steps"
            bundle = "{bundle}"
            filter = {str(filtered).lower()}
            source = {{ kind = "replay", path = "rows.npz" }}
            {stream}
            [[sink]]
            kind = "jsonl"
            path = "outcomes.jsonl"
            {more}
            """
        )
        return file

    return write


# ---- A device that could run, and the command around it.


def test_a_device_that_could_run_is_found_fit(
    check: Check, config: Callable[..., Path], tmp_path: Path
) -> None:
    found = check(config(filtered=True))
    assert found.code == 0, found.text
    assert found.report.errors == 0
    areas = {one.area for one in found.report.findings}
    assert areas == {
        *("config", "bundle", "backend", "board", "sensors", "heat", "memory", "disk", "state"),
        *("clock", "broker", "source", "privacy", "gate", "sink"),
    }
    assert [one.subject for one in found.of("backend")] == [
        "stream steps: skip.onnx",
        "stream steps: edge.onnx",
    ]
    assert "runs on onnxruntime " in found.said("backend", "ok")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"steps", "rows.npz", "device.toml", "check.json"}, "a check leaves nothing"


def test_warnings_fail_only_where_that_is_asked_for(
    check: Check, config: Callable[..., Path]
) -> None:
    many = 4096 // 16
    file = config(stream=f"backend = {{ threads = {many} }}")
    found = check(file)
    assert found.code == 0
    assert f"{many} threads on" in found.said("backend", "warning")
    assert check(file, "--warnings-as-errors").code == 1


def test_errors_of_one_area_hide_none_of_another(
    check: Check, config: Callable[..., Path], tmp_path: Path, free_port: int
) -> None:
    (tmp_path / "state").write_text("no folder")
    (tmp_path / "outcomes.jsonl").write_text("no outcomes")
    (tmp_path / "rows.npz").write_bytes(b"no rows")
    found = check(
        config(
            stream='codec = "jpeg"\nbackend = { providers = ["AcmeExecutionProvider"] }',
            more=f"""
            [uplink]
            broker = "mqtt://127.0.0.1:{free_port}"
            [telemetry]
            report = "no/report.json"
            """,
        )
    )
    assert found.code == 1
    wrong = [one.area for one in found.report.findings if one.level == "error"]
    assert sorted(set(wrong)) == ["backend", "broker", "bundle", "sink", "source", "state"]
    assert wrong.count("sink") == 2
    assert "Connection refused" in found.said("broker", "error")
    assert found.report.errors == len(wrong)


def test_a_configuration_that_cannot_be_read_is_one_error_and_the_machine_is_checked(
    check: Check, config: Callable[..., Path]
) -> None:
    found = check(config(stream="windoww = 3"))
    assert found.code == 1
    assert found.said("config", "error") == "unknown key (did you mean 'window'?)"
    assert found.of("memory")
    assert found.of("clock")


def test_a_target_that_is_not_there_is_wrong_usage(check: Check, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        check(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="--root /nonexist: is no folder"):
        check(tmp_path, "--root", "/nonexist")
    with pytest.raises(SystemExit) as caught:
        check(tmp_path, "--offlin3")
    assert caught.value.code == 2


def test_what_is_no_plain_file_is_not_opened(check: Check, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.onnx")
    with socket.socket(socket.AF_UNIX) as ear:
        ear.bind(str(tmp_path / "m.sock"))
        for name in (tmp_path / "m.onnx", tmp_path / "m.sock", "/dev/zero"):
            with pytest.raises(ConfigError, match="is no plain file"):
                check(name)


def test_the_worst_stands_last_and_a_last_line_counts() -> None:
    findings = [
        Finding(area="broker", subject="b", level="error", text="is away", todo="wait"),
        ok("disk", "state", "is there"),
        Finding(area="clock", subject="wall", level="warning", text="is\x1b[2J late", where="w"),
    ]
    report = CheckReport.of(findings, version="1", target="d.toml", kind="config")
    assert list(lines(report)) == [
        "ok       disk    state  is there",
        "warning  clock   wall   w: is\N{REPLACEMENT CHARACTER}[2J late",
        "error    broker  b      is away",
        "                 wait",
        "d.toml: 1 error, 1 warning, 1 ok",
    ]
    assert any("\x1b[1;31merror" in line for line in lines(report, colours=True))
    assert summary(CheckReport.of([], version="1", target="d", kind="model")) == "d: 0 ok"


def test_a_check_that_fails_itself_is_one_finding() -> None:
    def failing() -> Iterator[Finding]:
        yield ok("heat", "board", "fine so far")
        raise ZeroDivisionError("by nothing\nat all")

    found = list(guarded("heat", "board", failing()))
    assert [one.level for one in found] == ["ok", "error"]
    assert found[1].text == "could not be checked: ZeroDivisionError: by nothing"


# ---- Bundles.


def test_a_bundle_that_is_not_the_pinned_one_is_an_error(
    check: Check, config: Callable[..., Path]
) -> None:
    found = check(config(stream=f'pin = "{"0" * 64}"'))
    assert "is pinned" in found.said("bundle", "error")
    assert found.code == 1


def test_a_bundle_without_calibration_is_an_error(
    check: Check,
    config: Callable[..., Path],
    tmp_path: Path,
    manifest: Manifest,
    bundle_files: dict[str, bytes],
) -> None:
    bare = msgspec.structs.replace(manifest, calibration=None)
    bundle = write_bundle(tmp_path / "bare", bare, bundle_files).path
    found = check(config(bundle=bundle))
    assert "has no [calibration]" in found.said("bundle", "error")
    assert found.of("backend", "ok"), "its models are tried all the same"


def test_a_variant_that_is_not_there_is_an_error(check: Check, config: Callable[..., Path]) -> None:
    found = check(config(stream='variant = "huge"'))
    assert "has no variant 'huge' (it has tiny)" in found.said("bundle", "error")


def test_a_codec_that_does_not_fit_is_an_error(check: Check, config: Callable[..., Path]) -> None:
    assert check(config(stream='codec = "jpeg"')).of("bundle", "error")


# ---- Backends.


def test_a_missing_provider_says_which_there_are(check: Check, config: Callable[..., Path]) -> None:
    found = check(config(stream='backend = { providers = ["AcmeExecutionProvider"] }'))
    said = found.said("backend", "error")
    assert "CPUExecutionProvider" in said
    assert "fallback = true" in said


def test_a_gpu_that_is_not_there_is_one_line_and_with_a_fallback_a_warning(
    check: Check, config: Callable[..., Path]
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    asked = 'providers = ["CUDAExecutionProvider"]'
    assert "CUDAExecutionProvider" in str(
        check(config(stream=f"backend = {{ {asked} }}")).of("backend", "error")
    )
    found = check(config(stream=f"backend = {{ {asked}, fallback = true }}"))
    assert found.code == 0
    assert "the CPU does its work" in found.said("backend", "warning")


def _without(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str) -> None:
    """Let probes run ``code`` before anything else."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_a_missing_library_says_what_to_install(
    check: Check, config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _without(monkeypatch, tmp_path / "lib", "import sys; sys.modules['onnxruntime'] = None")
    found = check(config())
    assert "pip install 'hedge-runtime[onnx]'" in found.said("backend", "error")


def test_a_runtime_that_crashes_does_not_end_the_check(
    check: Check, config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "lib"
    _without(monkeypatch, folder, "")
    (folder / "onnxruntime.py").write_text("import os; os.abort()")
    found = check(config())
    assert "crashes its runtime: killed by SIGABRT" in found.said("backend", "error")
    assert found.of("sink", "ok")


def test_tensorrt_that_is_not_there_is_an_error_and_with_a_fallback_a_warning(
    check: Check, config: Callable[..., Path]
) -> None:
    if find_spec("tensorrt") is not None:
        pytest.skip("TensorRT is installed")
    found = check(config(stream='backend = { use = "tensorrt" }'))
    assert "tensorrt is not installed (pip install" in found.said("backend", "error")
    found = check(config(stream='backend = { use = "tensorrt", fallback = true }'))
    assert "TensorRT does not take over: tensorrt is not" in found.said("backend", "warning")
    assert found.code == 0


def test_a_delegate_that_others_could_have_written_is_not_loaded(
    check: Check, config: Callable[..., Path], tmp_path: Path
) -> None:
    library = tmp_path / "libdelegate.so"
    library.write_bytes(b"no library")
    library.chmod(0o777)
    found = check(config(stream=f'backend = {{ delegate = "{library}" }}'))
    assert "is not loaded: " in found.said("backend", "error")
    assert "can be written by others" in found.said("backend", "error")
    for path, why in (("lib.so", "is no absolute path"), (str(tmp_path / "none.so"), "is missing")):
        found = check(config(stream=f'backend = {{ delegate = "{path}" }}'))
        assert f"is not loaded: {path} {why}" in found.said("backend", "error")
        assert "as root" not in found.said("backend", "error")


def _probed(*, again_s: float = 0.01, model_bytes: int = 1_000_000, finite: bool = True) -> Probed:
    return Probed(
        inputs=(),
        outputs=(),
        given=(1, 3),
        finite=finite,
        runs_on="this",
        open_s=0.2,
        first_s=26.0,
        again_s=again_s,
        peak_bytes=model_bytes,
        model_bytes=model_bytes,
    )


def test_what_a_model_costs_is_said_without_exponents() -> None:
    assert backends.said(_probed()) == (
        "runs on this: opens in 200 ms, first call 26 s, then 10 ms; takes 1 MB"
    )


@pytest.mark.parametrize(
    ("probed", "text"),
    [
        (_probed(), None),
        (_probed(again_s=1.5), "takes 1.5 s for a sample"),
        (_probed(model_bytes=1_200_000_000), "takes 1.2 GB of memory"),
        (_probed(finite=False), "gives NaN or Inf on zeros"),
    ],
)
def test_a_model_that_few_devices_can_bear_is_a_warning(probed: Probed, text: str | None) -> None:
    found = list(backends.check_model("m", lambda: probed, options=BackendOptions(), found=[]))
    assert [one.level for one in found] == (["ok"] if text is None else ["ok", "warning"])
    assert text in (None, found[-1].text)


def test_what_belongs_to_another_user_is_not_trusted(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    file = tmp_path / "lib.so"
    file.write_bytes(b"")
    assert why_untrusted(file) is None
    os.chown(file, 65534, 65534)
    assert "belongs to user 65534" in str(why_untrusted(file))


# ---- The board, told from a copied tree.


@pytest.fixture
def xavier(tmp_path: Path) -> Path:
    """Give the root of a Jetson Xavier NX with JetPack 5, hot, and short of memory."""
    root = tmp_path / "xavier"
    files = {
        "proc/device-tree/compatible": "nvidia,p3509-0000+p3668-0000\0nvidia,tegra194\0",
        "proc/device-tree/model": "NVIDIA Jetson Xavier NX Developer Kit\0",
        "proc/meminfo": "MemTotal:  7000000 kB\nMemAvailable:  50000 kB\n",
        "etc/nv_tegra_release": "# R35 (release), REVISION: 4.1, GCID: 1, BOARD: t186ref\n",
        "sys/class/thermal/thermal_zone0/type": "CPU-therm\n",
        "sys/class/thermal/thermal_zone0/temp": "88500\n",
        "sys/class/thermal/thermal_zone0/trip_point_0_type": "passive\n",
        "sys/class/thermal/thermal_zone0/trip_point_0_temp": "95000\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_board_says_what_does_not_run_there_and_how_it_feels(
    check: Check, config: Callable[..., Path], xavier: Path
) -> None:
    options = 'use = "tensorrt", precision = "int8"'
    found = check(config(stream=f"backend = {{ {options} }}"), "--root", str(xavier))
    assert "int8 needs rows" in found.said("backend", "error")
    assert "JetPack 5" in found.said("board", "ok")
    assert "run hedge in a container" in found.said("board", "warning")
    assert "TensorRT does not run here: JetPack 5" in found.said("board", "error")
    assert {one.subject for one in found.of("sensors", "warning")} >= {"VDD_IN", "VDD_SOC"}
    assert "88 °C, and at 95 °C" in found.said("heat", "warning")
    assert "51.2 MB free" in found.said("memory", "error")


def test_a_board_that_the_configuration_names_is_believed(
    check: Check, config: Callable[..., Path], xavier: Path
) -> None:
    file = config()
    device = file.read_text()
    file.write_text(device.replace("[device]", '[device]\nboard = "raspberry-pi-5"'))
    found = check(file, "--root", str(xavier))
    assert found.of("board", "ok")[0].subject == "raspberry-pi-5"
    assert "looks like jetson-xavier-nx" in found.said("board", "warning")
    file.write_text(device.replace("[device]", '[device]\nboard = "raspberry-pie-5"'))
    assert "did you mean 'raspberry-pi-5'?" in check(file).said("board", "error")


def test_in_a_container_the_board_is_content(
    check: Check, config: Callable[..., Path], xavier: Path
) -> None:
    (xavier / ".dockerenv").write_text("")
    assert not check(config(), "--root", str(xavier)).of("board", "warning")


@pytest.mark.parametrize(
    ("release", "stream", "said"),
    [
        (None, "", "which JetPack this is, is not known: ONNX Runtime"),
        ("# R35 (release), REVISION: 4.1", "", "which JetPack 5 (Ubuntu 20.04) has not: ONNX"),
        ("# R99 (release), REVISION: 1.0", "", "no JetPack is known with Jetson Linux 99.1.0"),
        ("# R36 (release), REVISION: 4.3", "backend = { fallback = true }", None),
        (None, 'backend = { use = "onnx" }', None),
    ],
)
def test_a_board_whose_tensorrt_cannot_serve_is_a_warning(
    check: Check,
    config: Callable[..., Path],
    tmp_path: Path,
    release: str | None,
    stream: str,
    said: str | None,
) -> None:
    (tmp_path / "orin" / "etc").mkdir(parents=True)
    (tmp_path / "orin" / ".dockerenv").write_text("")
    if release is not None:
        (tmp_path / "orin" / "etc" / "nv_tegra_release").write_text(release)
    file = config(stream=stream)
    device = file.read_text()
    file.write_text(device.replace("[device]", '[device]\nboard = "jetson-agx-orin"'))
    warned = check(file, "--root", str(tmp_path / "orin")).said("board", "warning")
    if said is None:
        assert "prefers TensorRT" not in warned
    else:
        assert said in warned
        assert "or set [stream.backend] use" in warned


@pytest.mark.parametrize(
    ("machine", "board", "fits"),
    [
        ("x86_64", "jetson-nano", False),
        ("aarch64", "generic-x86", False),
        ("aarch64", "jetson-nano", True),
        ("x86_64", "generic-x86", True),
    ],
)
def test_a_board_that_this_machine_cannot_be_is_a_warning(
    check: Check,
    config: Callable[..., Path],
    tmp_path: Path,
    *,
    machine: str,
    board: str,
    fits: bool,
) -> None:
    (tmp_path / "root/proc/sys/kernel").mkdir(parents=True)
    (tmp_path / "root/proc/sys/kernel/arch").write_text(machine)
    file = config()
    file.write_text(file.read_text().replace("[device]", f'[device]\nboard = "{board}"'))
    warned = check(file, "--root", str(tmp_path / "root")).said("board", "warning")
    assert (f"says {board}, and this is {machine}" in warned) is not fits


# ---- Disk, state, clock, secrets.


@pytest.mark.parametrize(
    ("key", "level", "said"),
    [
        ("min_free_bytes = 1_125_899_906_842_624", "error", "nothing can be stored"),
        ("outbox_bytes = 1_099_511_627_776", "warning", "asks are given up earlier"),
    ],
)
def test_a_disk_that_is_too_small_is_told_in_numbers(
    check: Check, config: Callable[..., Path], key: str, level: str, said: str
) -> None:
    file = config(more=f'[uplink]\nbroker = "mqtt://broker"\n{key}')
    assert said in check(file, "--offline").said("disk", level)


def test_a_state_directory_that_cannot_be_is_one_error(
    check: Check, config: Callable[..., Path]
) -> None:
    file = config()
    file.write_text(file.read_text().replace('"state"', '"/proc/hedge"'))
    found = check(file)
    assert len(found.of("state", "error")) == 1
    assert not found.of("disk")


def test_a_state_directory_in_use_is_told(
    check: Check, config: Callable[..., Path], tmp_path: Path
) -> None:
    owner = lock(tmp_path / "state" / "outbox")
    try:
        assert "a daemon is using it now" in check(config()).said("state", "ok")
    finally:
        os.close(owner)


@pytest.mark.parametrize(("tls", "level"), [(True, "error"), (False, "warning")])
def test_a_clock_that_was_never_set_matters_most_to_certificates(*, tls: bool, level: str) -> None:
    (found,) = check_clock(tls=tls, wall_s=12.0)
    assert found.level == level
    assert "1970-01-01" in found.text


def test_a_secret_that_others_can_read_is_a_warning(
    check: Check, config: Callable[..., Path], tmp_path: Path
) -> None:
    secret = tmp_path / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)
    more = '[uplink]\nbroker = "mqtt://me@broker"\npassword_file = "password"'
    found = check(config(more=more), "--offline")
    assert "others can read this secret (chmod 600)" in found.said("broker", "warning")
    assert "in the clear" in found.said("broker", "warning")
    assert "not tried" in found.said("broker", "ok")
    assert PASSWORD not in found.text


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('broker = "http://broker"', "not a broker's URL"),
        ('broker = "mqtt://broker"\nca_file = "ca.pem"', "certificates need TLS"),
        ('broker = "mqtt://broker"\nquiet_hours = ["late"]', "quiet_hours"),
        ('broker = "mqtt://broker"\nbudget = { messages_per_day = 0 }', "messages_per_day"),
        ('broker = "mqtt://me@broker"\npassword_file = "none"', "password cannot be read"),
    ],
)
def test_an_uplink_that_cannot_be_meant_is_refused_without_the_network(
    check: Check, config: Callable[..., Path], more: str, said: str
) -> None:
    found = check(config(more=f"[uplink]\n{more}"), "--offline")
    (wrong,) = found.of("broker", "error")
    assert said in f"{wrong.where} {wrong.text} {wrong.todo}"


# ---- The broker.


def _uplink(url: str, more: str = "") -> str:
    return f'[uplink]\nbroker = "{url}"\n{more}'


def test_a_broker_is_entered_without_disturbing_the_daemon(
    check: Check, config: Callable[..., Path], start_broker: StartBroker, free_port: int
) -> None:
    start_broker("mosquitto", free_port)
    url = f"mqtt://127.0.0.1:{free_port}"
    with contextlib.ExitStack() as stack:
        daemon = MqttLink(Broker.parse(url), client_id="hedge-default-porch")
        stack.callback(daemon.close, timeout_s=0)
        daemon.open()
        while not any(isinstance(event, Connected) for event in daemon.poll(1)):
            pass
        found = check(config(more=_uplink(url)))
        assert found.said("broker", "ok").startswith("lets us in and hear our answers (MQTT 5)")
        assert not [one for one in daemon.poll(0.1) if isinstance(one, Disconnected)]


def test_a_wrong_password_is_told_plainly(
    check: Check,
    config: Callable[..., Path],
    start_broker: StartBroker,
    free_port: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tool = shutil.which("mosquitto_passwd")
    if tool is None:
        pytest.skip("mosquitto_passwd is not installed")
    file = tmp_path / "passwords"
    subprocess.run([tool, "-b", "-c", str(file), "me", PASSWORD], check=True, capture_output=True)
    start_broker("mosquitto", free_port, "allow_anonymous false", f"password_file {file}")
    url = _uplink(f"mqtt://me@127.0.0.1:{free_port}")
    monkeypatch.setenv("HEDGE_BROKER_PASSWORD", "sesame, open")
    found = check(config(more=url))
    assert "the user or the password is wrong" in found.said("broker", "error")
    assert "sesame" not in found.text
    monkeypatch.setenv("HEDGE_BROKER_PASSWORD", PASSWORD)
    assert check(config(more=url)).of("broker", "ok")


def test_a_certificate_for_another_name_and_an_unknown_authority_are_told_apart(
    check: Check,
    config: Callable[..., Path],
    start_broker: StartBroker,
    free_port: int,
    make_authority: Callable[[str], Any],
) -> None:
    ours = make_authority("ours")
    certificate, key = ours.issue("broker", "localhost")
    start_broker("mosquitto", free_port, f"certfile {certificate}", f"keyfile {key}")
    named, numbered = f"mqtts://localhost:{free_port}", f"mqtts://127.0.0.1:{free_port}"
    trusting = f'ca_file = "{ours.file}"'
    for url, more, said in (
        (numbered, trusting, "use the name that the certificate is made out to"),
        (named, "", "give the authority that signed it as [uplink] ca_file"),
        (named.replace("mqtts", "mqtt"), "", "TLS on both sides or on neither"),
    ):
        found = check(config(more=_uplink(url, more)))
        assert said in found.said("broker", "error"), url
    assert check(config(more=_uplink(named, trusting))).of("broker", "ok")


def test_a_broker_that_keeps_the_answers_from_us_is_an_error(
    check: Check, config: Callable[..., Path]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(4096)
                peer.sendall(b"\x20\x02\x00\x00")  # CONNACK: accepted
                subscribed = peer.recv(4096)
                peer.sendall(b"\x90\x03" + subscribed[2:4] + b"\x80")  # SUBACK: refused
                peer.recv(4096)

        broker = threading.Thread(target=refuse)
        broker.start()
        url = f"mqtt://127.0.0.1:{listener.getsockname()[1]}?version=3.1.1"
        found = check(config(more=_uplink(url)))
        broker.join()
    assert "not hear our answers on hedge/1/default/porch/answer" in found.said("broker", "error")


# ---- Sources and sinks.


@pytest.mark.parametrize(
    ("shape", "dtype", "said"),
    [((3,), np.float32, "samples of shape (3,)"), ((4,), np.float64, None)],
)
def test_samples_that_do_not_fit_are_an_error(
    check: Check,
    config: Callable[..., Path],
    tmp_path: Path,
    shape: tuple[int, ...],
    dtype: type,
    said: str | None,
) -> None:
    file = config()
    np.savez(tmp_path / "rows.npz", X=np.ones((5, *shape), dtype))
    found = check(file)
    if said is None:
        assert "5 rows" in found.said("source", "ok")
    else:
        assert said in found.said("source", "error")


def test_a_folder_is_looked_into(check: Check, config: Callable[..., Path], tmp_path: Path) -> None:
    file = config()
    file.write_text(
        file.read_text().replace('kind = "replay", path = "rows.npz"', 'kind = "folder", path="f"')
    )
    assert "no such folder" in check(file).said("source", "error")
    (tmp_path / "f").mkdir()
    assert "no .npy file" in check(file).said("source", "error")
    np.save(tmp_path / "f" / "a.npy", np.ones(4, np.float32))
    assert "1 files" in check(file).said("source", "ok")
    np.save(tmp_path / "f" / "b.npy", np.ones(4, np.complex64))
    assert "dtype complex64; the bundle takes" in check(file).said("source", "error")


@pytest.mark.parametrize("source", ['"replay", path = "f/a.npy"', '"folder", path = "f"'])
def test_a_source_that_is_no_plain_file_is_not_opened(
    check: Check, config: Callable[..., Path], tmp_path: Path, source: str
) -> None:
    (tmp_path / "f").mkdir()
    os.mkfifo(tmp_path / "f" / "a.npy")
    file = config()
    file.write_text(file.read_text().replace('"replay", path = "rows.npz"', source))
    assert "is no plain file" in check(file).said("source", "error")


def test_outcomes_go_on_in_their_own_file_only(
    check: Check, config: Callable[..., Path], tmp_path: Path
) -> None:
    place = tmp_path / "outcomes.jsonl"
    place.write_text('{"stream":"steps"}\n{"stream":"st')
    assert not check(config()).of("sink", "error")
    assert place.read_text().endswith('"st'), "a check repairs nothing"
    place.write_text("a letter")
    assert "is no file of outcomes" in check(config()).said("sink", "error")


# ---- A model file, or a bundle, alone.


def test_a_model_file_tells_what_it_is_and_what_comes_next(
    check: Check, linear_onnx: Linear, tmp_path: Path
) -> None:
    file = tmp_path / "model.bin"
    file.write_bytes(linear_onnx(3))
    found = check(file)
    assert found.code == 0, found.text
    assert found.report.kind == "model"
    said = found.said("model", "ok")
    assert "takes x float32 (B, 4), gives y float32 (B, 3)" in said
    assert f"hedge bundle init {file} --labels" in said
    assert "3 labels" in said
    assert "runs on onnxruntime" in found.said("backend", "ok")


def test_a_model_that_no_bundle_can_feed_is_told_no_next_step(
    check: Check, linear_onnx: Linear, tmp_path: Path
) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes(linear_onnx(3, dtype="float64"))
    found = check(file)
    assert found.code == 1
    assert "uint8, int8, int16, int32, float16, float32" in found.said("model", "error")
    assert "hedge bundle init" not in found.text


def test_a_tflite_file_is_known_by_its_content(
    check: Check, linear_tflite: Linear, tmp_path: Path
) -> None:
    file = tmp_path / "model"
    file.write_bytes(linear_tflite(3, int8=True))
    found = check(file)
    assert found.code == 0, found.text
    assert "tflite, " in found.said("model", "ok")
    assert "litert" in found.said("backend", "ok").lower()


def test_a_gpu_that_seems_to_be_there_is_tried(
    check: Check, linear_onnx: Linear, tmp_path: Path
) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes(linear_onnx(3))
    (tmp_path / "root" / "dev").mkdir(parents=True)
    (tmp_path / "root" / "dev" / "nvidia0").write_text("")
    found = check(file, "--root", str(tmp_path / "root"))
    of_gpu = [one for one in found.of("backend") if one.subject == "CUDAExecutionProvider"]
    assert [one.level for one in of_gpu] in (["ok"], ["warning"])


@pytest.fixture
def crashing(linear_tflite: Linear) -> bytes:
    """Give a TFLite file that LiteRT 2.3.0 dies of when it opens it."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    flatbuffers = pytest.importorskip("flatbuffers")
    model = schema.ModelT.InitFromPackedBuf(linear_tflite(3), 0)
    first = model.operatorCodes[0]  # splits now, along an axis that is not known before it runs
    first.builtinCode = first.deprecatedBuiltinCode = schema.BuiltinOperator.SPLIT
    model.subgraphs[0].operators[0].inputs = [0, 1]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_a_model_that_crashes_its_library_is_an_error_and_no_crash(
    check: Check, crashing: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "m.tflite"
    file.write_bytes(crashing)
    found = check(file)
    assert found.code == 1
    (wrong,) = found.of("backend", "error")
    if "crashes its runtime" not in wrong.text:
        pytest.skip(f"this LiteRT refuses what 2.3.0 dies of: {wrong.text}")
    assert "killed by SIG" in wrong.text


def test_a_model_that_crashes_its_library_ends_a_device_with_one_line(
    config: Callable[..., Path],
    crashing: bytes,
    manifest: Manifest,
    bundle_files: dict[str, bytes],
    tmp_path: Path,
) -> None:
    edge = msgspec.structs.replace(manifest.edge[0], file="edge.tflite", format="tflite")
    files = {**bundle_files, "edge.tflite": crashing}
    del files["edge.onnx"]
    changed = msgspec.structs.replace(manifest, edge=(edge,))
    bundle = write_bundle(tmp_path / "crashing", changed, files).path
    command = [sys.executable, "-m", "hedge", "run", str(config(bundle=bundle))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"hedge: {bundle}/edge.tflite: ")
    assert len(done.stderr.splitlines()) == 1


def _two_inputs() -> bytes:
    tensors = [helper.make_tensor_value_info(name, 1, ["B", 4]) for name in ("a", "b", "y")]
    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["y"])], "g", tensors[:2], tensors[2:]
    )
    opset = [helper.make_opsetid("", 17)]
    data: bytes = helper.make_model(graph, ir_version=8, opset_imports=opset).SerializeToString()
    return data


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda linear: linear(3)[:80], "cut short"),
        (lambda _linear: b"", "is empty"),
        (lambda linear: linear(3, dtype="float64"), "takes float64, and the samples of a bundle"),
        (lambda linear: linear(3, opset=99), "opset"),
        (lambda linear: linear(3, dtype="int32"), "int32, not floating"),
        (lambda _linear: _two_inputs(), "takes 2 inputs"),
        (lambda linear: linear(3, operator=("com.acme", "Magic")), "custom operator"),
        (lambda linear: linear(3, operator=("", "NoSuchOperator")), "NoSuchOperator"),
    ],
)
def test_a_model_file_that_is_no_good_is_one_line(
    check: Check, linear_onnx: Linear, tmp_path: Path, make: Callable[[Linear], bytes], said: str
) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes(make(linear_onnx))
    found = check(file)
    assert found.code == 1
    (wrong,) = [one for one in found.report.findings if one.level == "error"]
    assert said in wrong.text
    assert "\n" not in wrong.text


@pytest.mark.parametrize("name", ["m.onnx", "m.tflite"])
def test_a_file_that_claims_four_gigabytes_is_not_read(
    check: Check, tmp_path: Path, name: str
) -> None:
    with (tmp_path / name).open("wb") as stream:
        stream.write(b"\x08\x08")
        stream.truncate(4 << 30)
    found = check(tmp_path / name)
    assert "4.29 GB are too many" in found.said("model", "error")


@pytest.mark.parametrize(
    "content", [b"", b"TFL3", b"\x1c\x00\x00\x00TFL3", b"\x1c\0\0\0TFL3\xff\xff"]
)
def test_a_damaged_tflite_file_is_one_line(check: Check, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.tflite").write_bytes(content)
    found = check(tmp_path / "m.tflite")
    assert found.code == 1
    assert len(found.of("model", "error")) == 1


@pytest.mark.parametrize("name", ["m.pt", "m.keras", "m.engine"])
def test_files_of_other_kinds_say_how_to_get_there(check: Check, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04")
    with pytest.raises(ConfigError, match=r"does not run \.\w+ files \("):
        check(tmp_path / name)


def test_a_bundle_alone_is_tried_on_this_board(check: Check, bundle_dir: Path) -> None:
    found = check(bundle_dir)
    assert found.code == 0, found.text
    assert found.report.kind == "bundle"
    assert {one.subject for one in found.of("backend")} == {"edge.onnx", "skip.onnx"}
    assert "is the variant that runs here" in found.said("bundle", "ok")
    assert 'pin = "' in found.said("bundle", "ok")


def test_a_bundle_that_has_been_changed_is_an_error(check: Check, bundle_dir: Path) -> None:
    with (bundle_dir / "edge.onnx").open("ab") as stream:
        stream.write(b"\0")
    found = check(bundle_dir)
    assert found.code == 1
    assert "has been changed" in found.said("bundle", "error")


def test_shipped_bundles_are_known_by_name(check: Check) -> None:
    assert target_of("digits").kind == "bundle"
    assert check("digits").code == 0


@pytest.mark.parametrize(
    ("size_bytes", "said"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1500, "1.5 kB"),
        (29_400_000, "29.4 MB"),
        (4 << 30, "4.29 GB"),
        (999_900, "1 MB"),
        (1 << 50, "1126 TB"),
    ],
)
def test_sizes_are_for_people(size_bytes: int, said: str) -> None:
    assert size_text(size_bytes) == said


@pytest.mark.parametrize(
    ("time_s", "said"),
    [
        (0, "0.001 ms"),
        (0.000_012_34, "0.0123 ms"),
        (0.0345, "34.5 ms"),
        (0.4567, "457 ms"),
        (0.9994, "999 ms"),
        (0.9999, "1 s"),
        (26.04, "26 s"),
        (299.6, "300 s"),
    ],
)
def test_times_are_for_people(time_s: float, said: str) -> None:
    assert time_text(time_s) == said
