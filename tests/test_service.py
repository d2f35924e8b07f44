"""The service: its units are tight, and installing touches nothing that is not ours."""

from __future__ import annotations

import argparse
import http.server
import re
import resource
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hedge.models.errors import ConfigError
from hedge.runtime import service_command, worker_command
from hedge.runtime.credentials import secret_path
from hedge.runtime.service import steps
from hedge.runtime.service.device_install import plan_device
from hedge.runtime.service.plan import Command, LetRead, Plan, RemoveFile, WriteFile
from hedge.runtime.service.reach import closed, hidden, is_missing
from hedge.runtime.service.removal import plan_removal
from hedge.runtime.service.status import ServiceStatus, _health, _last_end, _seconds, lines
from hedge.runtime.service.steps import apply
from hedge.runtime.service.units import marked, ownership, quoted, shipped
from hedge.runtime.service.worker_install import _FILES, plan_worker

_PROGRAM = ("/opt/hedge/bin/hedge",)
_UNIT = "etc/systemd/system/hedge.service"
_DEVICE = """\
[device]
name = "porch-7"
[[stream]]
name = "meter"
bundle = "digits"
source = { kind = "replay", path = "rows.npz" }
"""
_BROKER = '[uplink]\nbroker = "mqtt://127.0.0.1"\npassword_file = "broker-password"\n'


def _analyze_version() -> int:
    """Return systemd's version where `systemd-analyze` is, else 0."""
    if shutil.which("systemd-analyze") is None:
        return 0
    told = subprocess.run(
        ["systemd-analyze", "--version"], capture_output=True, text=True, check=False
    )
    found = re.match(r"systemd (\d+)", told.stdout)
    return int(found[1]) if found else 0


needs_analyze = pytest.mark.skipif(
    _analyze_version() < 250, reason="systemd-analyze security --offline came with systemd 250"
)
needs_systemctl = pytest.mark.skipif(
    shutil.which("systemctl") is None, reason="systemctl is not installed"
)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Give the root of a file system in which hedge and a configuration are installed."""
    root = tmp_path / "image"
    (root / "opt/hedge/bin").mkdir(parents=True)
    (root / "opt/hedge/bin/hedge").write_text("#!/bin/sh\n")
    (root / "opt/hedge/bin/hedge").chmod(0o755)
    (root / "etc/hedge").mkdir(parents=True)
    (root / "etc/group").write_text("root:x:0:\nvideo:x:44:\nrender:x:106:\nhedge-power:x:9:\n")
    (root / "etc/hedge/hedge.toml").write_text(_DEVICE)
    (root / "etc/hedge/hedge.toml").chmod(0o644)
    (root / "etc/hedge/rows.npz").touch(0o644)
    for folder in root.rglob("*"):
        if folder.is_dir():
            folder.chmod(0o755)
    root.chmod(0o755)
    return root


def _plan(image: Path, text: str | None = None, **options: object) -> Plan:
    if text is not None:
        (image / "etc/hedge/hedge.toml").write_text(text)
    return plan_device(
        Path("/etc/hedge/hedge.toml"),
        program=_PROGRAM,
        root=image,
        environ={},
        **options,  # type: ignore[arg-type]
    )


def _files_only(plan: Plan) -> Plan:
    steps = tuple(step for step in plan.steps if not isinstance(step, Command))
    return Plan(unit=plan.unit, root=plan.root, steps=steps, problems=plan.problems)


def _text(plan: Plan) -> str:
    return next(step.text for step in plan.steps if isinstance(step, WriteFile))


# --- the units ---


@needs_analyze
@pytest.mark.parametrize(
    ("unit", "drop_ins", "most"),
    [
        ("hedge.service", (), 1.5),
        ("hedge-worker.service", (), 1.5),
        ("hedge.service", ("gpu",), 2.0),
        ("hedge.service", ("pmic",), 2.0),
        ("hedge.service", ("rapl",), 1.5),
        ("hedge.service", ("camera", "sound", "serial"), 2.0),
        ("hedge.service", ("gpu", "pmic", "rapl"), 2.0),
    ],
)
def test_a_unit_exposes_little(
    unit: str, drop_ins: tuple[str, ...], most: float, tmp_path: Path
) -> None:
    place = tmp_path / "etc/systemd/system"
    (place / f"{unit}.d").mkdir(parents=True)
    (place / unit).write_text(shipped(unit))
    for name in drop_ins:
        (place / f"{unit}.d" / f"{name}.conf").write_text(shipped(f"drop-ins/{name}.conf"))
    told = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", f"--root={tmp_path}", unit],
        capture_output=True,
        text=True,
        check=True,
        env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
    ).stdout
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", told)
    assert found is not None
    assert 0 < float(found[1]) <= most


@needs_analyze
@pytest.mark.parametrize("unit", ["hedge.service", "hedge-worker.service"])
def test_systemd_has_nothing_to_say_against_a_unit(unit: str, tmp_path: Path) -> None:
    text = re.sub(r"(?m)^ExecStart=.*$", f"ExecStart={quoted(sys.executable)}", shipped(unit))
    (tmp_path / unit).write_text(text)
    told = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(tmp_path / unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    if "Failed to initialize manager" in told.stderr:
        pytest.skip("systemd-analyze verify cannot run here")
    assert [line for line in told.stderr.splitlines() if unit in line] == []


@pytest.mark.parametrize("name", ["hedge.service", "hedge-worker.service"])
def test_a_unit_runs_as_nobody_in_particular_and_is_never_given_up(name: str) -> None:
    text = shipped(name)
    for line in ("DynamicUser=yes", "StartLimitIntervalSec=0", "RestartPreventExitStatus=2"):
        assert re.search(rf"^{line}$", text, re.MULTILINE)


# --- installing ---


def test_the_unit_starts_this_installation_with_this_configuration(image: Path) -> None:
    text = _text(_plan(image))
    assert "\nExecStart=/opt/hedge/bin/hedge run /etc/hedge/hedge.toml\n" in text
    assert text.count("ExecStart=") == 1
    assert "LoadCredential" not in text


def test_planning_changes_nothing(image: Path) -> None:
    before = sorted(image.rglob("*"))
    assert _plan(image, needs=["gpu", "rapl"]).steps
    assert sorted(image.rglob("*")) == before


def test_installing_twice_is_installing_once(image: Path) -> None:
    apply(_files_only(_plan(image)))
    unit = image / _UNIT
    assert unit.read_text("utf-8") == marked(_text(_plan_anew(image)))
    assert unit.stat().st_mode & 0o777 == 0o644
    assert not [step for step in _plan(image).steps if isinstance(step, WriteFile)]


def _plan_anew(image: Path) -> Plan:
    kept = (image / _UNIT).read_text("utf-8")
    (image / _UNIT).unlink()
    plan = _plan(image)
    (image / _UNIT).write_text(kept)
    return plan


@pytest.mark.parametrize(("text", "whose"), [("[Unit]\n", "foreign"), (None, "changed")])
def test_a_unit_that_is_not_as_we_left_it_is_not_touched_without_force(
    image: Path, text: str | None, whose: str
) -> None:
    plan = _files_only(_plan(image))
    apply(plan)
    unit = image / _UNIT
    unit.write_text(text or unit.read_text("utf-8") + "Nice=5\n")
    kept = unit.read_text("utf-8")
    assert ownership(unit) == whose
    with pytest.raises(ConfigError, match="--force"):
        apply(plan)
    assert unit.read_text("utf-8") == kept
    apply(plan, force=True)
    assert ownership(unit) == "ours"


def test_a_secret_that_is_roots_alone_is_handed_over_by_systemd(image: Path) -> None:
    (image / "etc/hedge/broker-password").touch(0o600)
    plan = _plan(image, _DEVICE + _BROKER)
    assert plan.problems == ()
    assert "\nLoadCredential=broker-password:/etc/hedge/broker-password\n" in _text(plan)


def test_a_secret_in_a_hidden_place_is_handed_over_as_well(image: Path) -> None:
    (image / "home").mkdir(mode=0o755)
    (image / "home/pw").touch(0o644)
    plan = _plan(image, _DEVICE + _BROKER.replace("broker-password", "/home/pw"))
    assert plan.problems == ()
    assert "\nLoadCredential=pw:/home/pw\n" in _text(plan)


def test_a_secret_that_is_not_there_is_in_the_way(image: Path) -> None:
    (problem,) = _plan(image, _DEVICE + _BROKER).problems
    assert problem == "/etc/hedge/broker-password: uplink.password_file is not there"


def test_a_collectors_key_is_a_secret_as_well(image: Path) -> None:
    (image / "etc/hedge/key").touch(0o600)
    traces = '[telemetry.traces]\nendpoint = "http://127.0.0.1:4318"\nheaders_file = "key"\n'
    plan = _plan(image, _DEVICE + traces)
    assert plan.problems == ()
    assert "\nLoadCredential=key:/etc/hedge/key\n" in _text(plan)


def test_every_flag_of_the_worker_that_names_a_file_is_known() -> None:
    parser = argparse.ArgumentParser()
    worker_command.add_parser(parser.add_subparsers())
    (subparsers,) = (one for one in parser._actions if isinstance(one.choices, dict))
    assert isinstance(subparsers.choices, dict)
    flags = {
        flag
        for action in subparsers.choices["worker"]._actions
        for flag in action.option_strings
        if flag.endswith("-file")
    }
    assert flags == set(_FILES)


def test_two_secrets_of_one_name_are_in_the_way(image: Path) -> None:
    for folder in ("a", "b"):
        (image / "etc/hedge" / folder).mkdir(mode=0o755)
        (image / "etc/hedge" / folder / "secret").touch(0o600)
    keys = 'key_file = "a/secret"\npassword_file = "b/secret"\n'
    problems = _plan(image, f'{_DEVICE}[uplink]\nbroker = "mqtts://a"\n{keys}').problems
    assert any("another secret is called secret, too" in one for one in problems)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (_DEVICE.replace("[[", 'state_dir = "state"\n[['), "device.state_dir is state"),
        (_DEVICE + '[[sink]]\nkind = "jsonl"\npath = "out.jsonl"\n', "/etc/hedge/out.jsonl"),
        (_DEVICE + '[telemetry]\nreport = "/srv/run.json"\n', "/srv/run.json"),
        (_DEVICE + '[telemetry.log]\npath = "/srv/log.jsonl"\n', "/srv/log.jsonl"),
        (_DEVICE.replace("rows.npz", "/home/me/rows.npz"), "does not see /home"),
        (_DEVICE.replace('"digits"', '"/tmp/mine"'), "does not see /tmp"),
    ],
)
def test_what_the_service_could_not_reach_is_in_the_way(image: Path, text: str, said: str) -> None:
    plan = _plan(image, text)
    assert any(said in problem for problem in plan.problems)
    with pytest.raises(ConfigError, match="nothing was done"):
        apply(plan)
    assert not (image / _UNIT).exists()


def test_outcomes_below_the_state_directory_are_in_nobodys_way(image: Path) -> None:
    sink = '[[sink]]\nkind = "jsonl"\npath = "/var/lib/hedge/outcomes.jsonl"\n'
    assert _plan(image, _DEVICE + sink).problems == ()


def test_a_configuration_that_is_roots_alone_becomes_readable(image: Path) -> None:
    config = image / "etc/hedge/hedge.toml"
    config.chmod(0o600)
    plan = _plan(image)
    assert LetRead(path="/etc/hedge/hedge.toml") in plan.steps
    apply(_files_only(plan))
    assert config.stat().st_mode & 0o777 == 0o644


def test_hedge_that_is_not_there_is_in_the_way(image: Path) -> None:
    (image / "opt/hedge/bin/hedge").unlink()
    assert any("install hedge there first" in one for one in _plan(image).problems)


def test_drop_ins_that_are_there_already_are_told(image: Path) -> None:
    apply(_files_only(_plan(image, needs=["gpu"])))
    assert _plan(image, needs=["gpu"]).notes == ()
    (note,) = _plan(image).notes
    assert note.startswith("gpu.conf in ")


def test_a_group_that_is_not_there_is_in_the_way(image: Path) -> None:
    (image / "etc/group").write_text("video:x:44:\n")
    problems = _plan(image, needs=["gpu", "rapl"]).problems
    assert [one.partition(" (")[0] for one in problems] == [
        "--gpu: there is no group render",
        "--rapl: there is no group hedge-power",
    ]


def test_a_variable_of_this_shell_is_none_of_the_services(image: Path) -> None:
    (image / "etc/hedge/hedge.toml").write_text(_DEVICE)
    plan = plan_device(
        Path("/etc/hedge/hedge.toml"),
        program=_PROGRAM,
        root=image,
        environ={"HEDGE__DEVICE__STATE_DIR": "elsewhere"},
    )
    assert plan.problems == ()


def test_needs_bring_their_drop_ins_and_the_rule(image: Path) -> None:
    apply(_files_only(_plan(image, needs=["gpu", "rapl"])))
    folder = image / f"{_UNIT}.d"
    assert sorted(one.name for one in folder.iterdir()) == ["gpu.conf", "rapl.conf"]
    assert (image / "etc/udev/rules.d/70-hedge-rapl.rules").exists()


@needs_systemctl
def test_an_image_is_enabled_but_nothing_is_started(image: Path) -> None:
    plan = _plan(image)
    commands = [step.words for step in plan.steps if isinstance(step, Command)]
    assert commands == [("systemctl", f"--root={image}", "enable", "hedge.service")]
    apply(plan)
    assert (image / "etc/systemd/system/multi-user.target.wants/hedge.service").is_symlink()


# --- removing ---


def test_removing_leaves_state_configuration_and_the_drop_ins_of_others(image: Path) -> None:
    apply(_files_only(_plan(image, needs=["gpu"])))
    theirs = image / f"{_UNIT}.d/override.conf"
    theirs.write_text("[Service]\nNice=5\n")
    plan = plan_removal("device", root=image)
    assert any("override.conf stays" in note for note in plan.notes)
    assert any("/var/lib/hedge stays" in note for note in plan.notes)
    apply(_files_only(plan))
    assert not (image / _UNIT).exists()
    assert [one.name for one in theirs.parent.iterdir()] == ["override.conf"]
    assert (image / "etc/hedge/hedge.toml").exists()


def test_removing_what_is_not_installed_is_nothing(image: Path) -> None:
    assert plan_removal("worker", root=image).steps == ()


def test_a_foreign_unit_is_not_removed(image: Path) -> None:
    (image / _UNIT).parent.mkdir(parents=True)
    (image / _UNIT).write_text("[Unit]\n")
    plan = plan_removal("device", root=image)
    assert RemoveFile(path=f"/{_UNIT}") in plan.steps
    with pytest.raises(ConfigError, match="was not installed by hedge"):
        apply(plan)
    assert (image / _UNIT).exists()


# --- the worker ---


def test_a_workers_secret_becomes_a_credential_and_the_rest_stays(image: Path) -> None:
    (image / "etc/hedge/pw").touch(0o600)
    (image / "etc/hedge/ca.pem").touch(0o644)
    plan = plan_worker(
        ["digits", "--password-file", "/etc/hedge/pw", "--ca-file=/etc/hedge/ca.pem"],
        program=_PROGRAM,
        root=image,
    )
    text = _text(plan)
    assert plan.problems == ()
    assert "\nLoadCredential=pw:/etc/hedge/pw\n" in text
    assert (
        "ExecStart=/opt/hedge/bin/hedge worker digits --password-file "
        "${CREDENTIALS_DIRECTORY}/pw --ca-file /etc/hedge/ca.pem\n"
    ) in text


def test_a_workers_relative_path_is_in_the_way(image: Path) -> None:
    plan = _worker(image, "digits", "--key-file", "pw")
    assert plan.problems == ("pw: give the whole path; the service starts in /",)


_OPEN = ("digits", "--broker", "mqtt://127.0.0.1")


def _worker(image: Path, *arguments: str, program: tuple[str, ...] = _PROGRAM) -> Plan:
    return plan_worker(arguments, program=program, root=image)


def test_a_worker_in_a_hidden_place_is_in_the_way(image: Path) -> None:
    (problem,) = _worker(image, "digits", program=("/home/me/bin/hedge",)).problems[1:]
    assert problem == "hedge: /home/me/bin/hedge: the service does not see /home"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("mine",), "mine: no bundle that ships with hedge; give the whole path"),
        (("/srv/mine",), "/srv/mine: the bundle is not there"),
        (("/home/mine",), "bundle: /home/mine: the service does not see /home"),
        (("digits", "--password-file", "/etc/hedge/pw"), "/etc/hedge/pw: the file is not there"),
        (("digits", "--key-file=/etc/hedge/k"), "/etc/hedge/k: the file is not there"),
    ],
)
def test_what_a_worker_could_not_reach_is_in_the_way(
    image: Path, arguments: tuple[str, ...], said: str
) -> None:
    assert any(said in problem for problem in _worker(image, *arguments).problems)


def test_a_workers_own_bundle_is_taken_by_its_whole_path(image: Path) -> None:
    (image / "srv/mine").mkdir(parents=True)
    for folder in (image / "srv", image / "srv/mine"):
        folder.chmod(0o755)
    assert _worker(image, "/srv/mine", "digits").problems == ()


def test_a_password_in_a_workers_url_gets_into_no_unit(image: Path) -> None:
    with pytest.raises(ConfigError, match="use --password-file") as caught:
        _worker(image, "digits", "--broker", "mqtt://me:hush@broker")
    assert "hush" not in str(caught.value)


def test_a_worker_gets_longer_to_leave_than_its_drain(image: Path) -> None:
    assert "\nTimeoutStopSec=15s\n" in _text(_worker(image, "digits"))
    assert "\nTimeoutStopSec=70s\n" in _text(_worker(image, "digits", "--drain-s", "60"))


def test_a_flag_cut_short_is_refused(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        _worker(image, *_OPEN, "--password-f", "/etc/hedge/pw")
    assert "--password-f" in capsys.readouterr().err


def test_flags_of_a_device_are_refused_for_a_worker(image: Path) -> None:
    with pytest.raises(ConfigError, match="--gpu: is for a device only"):
        _call("install", "--worker", "--gpu", "--root", str(image), "--", "digits")


# --- odd names, links, and what is in the way ---


@pytest.mark.parametrize("name", ["a:b", "50%", "a\x01b", "clé", "my key"])
def test_a_secret_of_an_odd_name_is_in_the_way(image: Path, name: str) -> None:
    (image / "etc/hedge" / name).touch(0o600)
    plan = _worker(image, "digits", "--password-file", f"/etc/hedge/{name}")
    assert [one for one in plan.problems if "rename the file" in one]
    assert "LoadCredential" not in _text(plan)
    if name.isprintable():
        plan = _plan(image, _DEVICE + _BROKER.replace("broker-password", name))
        assert [one for one in plan.problems if "rename the file" in one]
        assert "LoadCredential" not in _text(plan)


def test_a_path_that_is_no_text_is_refused_in_one_line(image: Path) -> None:
    with pytest.raises(ConfigError, match="is not UTF-8") as caught:
        _call("install", "--root", str(image), "/etc/hedge/\udcff.toml")
    str(caught.value).encode()


def test_a_link_into_a_hidden_place_does_not_help(image: Path) -> None:
    (image / "home").mkdir()
    (image / "etc/hedge/hedge.toml").rename(image / "home/x.toml")
    (image / "etc/hedge/hedge.toml").symlink_to("/home/x.toml")
    assert any("does not see /home" in one for one in _plan(image).problems)
    (image / "opt/hedge/bin/hedge").unlink()
    (image / "opt/hedge/bin/hedge").symlink_to("../../../home/me/hedge")
    assert any("does not see /home" in one for one in _worker(image, "digits").problems)


def test_links_in_a_circle_have_an_end(image: Path) -> None:
    (image / "etc/a").symlink_to("b")
    (image / "etc/b").symlink_to("a")
    assert hidden(Path("/etc/a"), root=image) is None
    assert is_missing(Path("/etc/a"), root=image)


def test_a_full_disk_leaves_nothing_beside_the_unit(image: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(ConfigError, match="cannot be changed"):
            apply(_files_only(_plan(image)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list((image / _UNIT).parent.iterdir()) == []


@pytest.mark.parametrize("verb", ["install", "uninstall"])
def test_a_unit_that_is_not_ours_is_foretold(
    image: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (image / _UNIT).parent.mkdir(parents=True)
    (image / _UNIT).write_text("[Unit]\n")
    assert _call(verb, "--root", str(image)) == 0
    said = f"# in the way: {image / _UNIT}: was not installed by hedge"
    assert said in capsys.readouterr().out
    assert _call(verb, "--root", str(image), "--force") == 0
    assert said not in capsys.readouterr().out


def test_removing_takes_the_empty_folder_of_drop_ins_along(image: Path) -> None:
    apply(_files_only(_plan(image, needs=["gpu"])))
    apply(_files_only(plan_removal("device", root=image)))
    assert not (image / f"{_UNIT}.d").exists()


def test_that_systemd_does_not_run_is_said_first(
    image: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _call("install", "--root", str(image))
    assert capsys.readouterr().out.startswith(f"# {image} is changed, not this machine: nothing")
    monkeypatch.setattr(steps, "_BOOTED", tmp_path / "nothing")
    config = tmp_path / "hedge.toml"
    config.write_text(_DEVICE)
    _call("install", str(config))
    assert capsys.readouterr().out.startswith("# systemd does not run this machine")


def _call(*words: str) -> int:
    parser = argparse.ArgumentParser()
    service_command.add_parser(parser.add_subparsers())
    options = parser.parse_args(["service", *words])
    code: int = options.run(options)
    return code


# --- the parts ---


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("/opt/hedge/bin/hedge", "/opt/hedge/bin/hedge"),
        ("mqtt://a%40b@c", "mqtt://a%%40b@c"),
        ("two words", '"two words"'),
        ('a"b\\c', '"a\\"b\\\\c"'),
        ("$HOME", '"$$HOME"'),
        ("${CREDENTIALS_DIRECTORY}/key", "${CREDENTIALS_DIRECTORY}/key"),
        ("${CREDENTIALS_DIRECTORY}/my key", '"${CREDENTIALS_DIRECTORY}/my key"'),
    ],
)
def test_words_reach_the_program_as_they_are(word: str, line: str) -> None:
    if "%" in word:
        assert quoted(word).strip('"') == line
    else:
        assert quoted(word) == line


def test_what_is_hidden_and_what_is_closed(tmp_path: Path) -> None:
    assert hidden(Path("/home/me/x")) == "/home"
    assert hidden(Path("/homely/x")) is None
    (tmp_path / "a/b").mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "a", tmp_path / "a/b"):
        folder.chmod(0o755)
    (tmp_path / "a/b/c").touch(0o644)
    assert closed(Path("/a/b/c"), root=tmp_path) is None
    (tmp_path / "a/b/c").chmod(0o640)
    assert closed(Path("/a/b/c"), root=tmp_path) == Path("/a/b/c")
    (tmp_path / "a").chmod(0o750)
    assert closed(Path("/a/b/c"), root=tmp_path) == Path("/a")
    assert closed(Path("/nothing"), root=tmp_path) is None


def test_a_secret_from_systemd_comes_before_the_file(tmp_path: Path) -> None:
    handed = tmp_path / "credentials"
    handed.mkdir()
    environ = {"CREDENTIALS_DIRECTORY": str(handed)}
    own = tmp_path / "keys/pw"
    assert secret_path("keys/pw", base=tmp_path, environ=environ) == own
    (handed / "pw").touch()
    assert secret_path("keys/pw", base=tmp_path, environ=environ) == handed / "pw"
    assert secret_path("keys/pw", base=tmp_path, environ={}) == own


# --- status ---


class _Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/healthz" else 404)
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"ok\n")

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 -- the base's
        """Say nothing."""

    def address_string(self) -> str:
        return "unix"


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Path]:
    """Give a Unix socket on which a daemon answers."""
    path = tmp_path / "hedge.sock"
    with socketserver.UnixStreamServer(str(path), _Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield path
        server.shutdown()
        thread.join()


def test_the_daemon_is_asked_over_its_own_socket(listening: Path) -> None:
    assert _health(listening) == (True, "ok")


def test_a_daemon_that_does_not_answer_is_said_so(tmp_path: Path) -> None:
    healthy, told = _health(tmp_path / "hedge.sock")
    assert healthy is None
    assert "does not answer" in told
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "dead.sock"))
    assert _health(tmp_path / "dead.sock")[0] is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("20s", 20.0), ("1min 30s", 90.0), ("500ms", 0.5), ("0", None), ("infinity", None)],
)
def test_time_spans_of_systemd_are_read(text: str, seconds: float | None) -> None:
    assert _seconds(text) == seconds


def test_the_last_end_says_what_ended_it() -> None:
    told = {"ExecMainExitTimestamp": "Sat", "ExecMainCode": "2", "ExecMainStatus": "6"}
    assert _last_end({**told, "Result": "watchdog"}) == "watchdog, signal 6"
    assert _last_end({**told, "ExecMainCode": "1", "Result": "exit-code"}) == "exit code 6"
    assert _last_end({}) is None


def test_a_status_is_lines_for_people() -> None:
    found = ServiceStatus(
        unit="hedge.service", installed=True, state="active", sub_state="running", watchdog_s=20.0
    )
    assert next(lines(found)) == "hedge.service: active (running)"
    assert "  watchdog  20 s" in lines(found)
    assert "  health    not known" in lines(found)


def test_the_command_prints_a_plan_and_does_nothing(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    service_command.add_parser(parser.add_subparsers())
    options = parser.parse_args(["service", "install", "--root", str(image)])
    assert options.run(options) == 0
    printed = capsys.readouterr().out
    assert f"# would write {image}/{_UNIT}" in printed
    assert "nothing was done: --apply does it" in printed
    assert not (image / _UNIT).exists()


# --- live sources ---


def _live(source: str, more: str = "") -> str:
    return _DEVICE.replace('kind = "replay", path = "rows.npz"', source) + more


@pytest.mark.parametrize(
    ("source", "need", "group"),
    [
        ('kind = "video", url = "/dev/video0"', "camera", "video"),
        ('kind = "video", pipeline = "nvarguscamerasrc"', "camera", "video"),
        ('kind = "audio", device = "hw:1,0"', "sound", "audio"),
        ('kind = "serial", port = "/dev/ttyUSB0"', "serial", "dialout"),
    ],
)
def test_what_a_streams_device_needs_is_found_from_the_configuration(
    image: Path, source: str, need: str, group: str
) -> None:
    (image / "etc/group").write_text("root:x:0:\n")
    assert _plan(image, _live(source)).problems == (
        f"a stream's {need}: there is no group {group} (groupadd --system {group})",
    )
    (image / "etc/group").write_text(f"root:x:0:\n{group}:x:1:\n")
    plan = _plan(image)
    assert plan.problems == ()
    written = [step.path for step in plan.steps if isinstance(step, WriteFile)]
    assert f"/etc/systemd/system/hedge.service.d/{need}.conf" in written


@pytest.mark.parametrize(
    "source",
    [
        'kind = "video", url = "rtsp://camera.local/door"',
        'kind = "mqtt", topic = "plant/+", broker = "mqtt://127.0.0.1"',
        'kind = "socket", path = "/run/hedge/rows.sock"',
    ],
)
def test_what_comes_over_the_network_or_a_socket_needs_no_device(image: Path, source: str) -> None:
    plan = _plan(image, _live(source))
    assert plan.problems == ()
    assert not [one for one in plan.steps if isinstance(one, WriteFile) and ".conf" in one.path]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ('kind = "stdin"', "a service has no standard input"),
        ('kind = "socket", path = "/srv/rows.sock"', "may make a socket below /run/hedge alone"),
        ('kind = "images", path = "/etc/hedge", remove = true', "may remove files below"),
        ('kind = "audio", path = "/home/me/a.wav"', "/home/me/a.wav"),
    ],
)
def test_what_the_service_could_not_read_is_said_before_it_is_installed(
    image: Path, source: str, says: str
) -> None:
    assert any(says in problem for problem in _plan(image, _live(source)).problems)


def test_secrets_of_a_source_are_handed_over_as_those_of_the_uplink_are(image: Path) -> None:
    (image / "etc/hedge/camera-password").write_text("secret")
    (image / "etc/hedge/camera-password").chmod(0o600)
    source = 'kind = "video", url = "rtsp://viewer@camera/1", password_file = "camera-password"'
    text = _text(_plan(image, _live(source)))
    assert "LoadCredential=camera-password:/etc/hedge/camera-password\n" in text


def test_a_hook_that_the_service_cannot_see_and_a_port_that_it_may_not_have_are_said(
    image: Path,
) -> None:
    hook = '[[sink]]\nkind = "command"\nargv = ["/root/notify.sh"]\n'
    page = '[[sink]]\nkind = "http"\nlisten = "80"\n'
    problems = _plan(image, _DEVICE + hook + page).problems
    assert [one for one in problems if "/root" in one]
    assert [one for one in problems if "may not listen at 80" in one]


def test_what_a_sink_or_a_clip_writes_is_below_the_state_directory(image: Path) -> None:
    rule = '[[stream.event]]\nname = "e"\nlabels = ["1"]\nclip = { path = "/srv/clips" }\n'
    sink = '[[sink]]\nkind = "sqlite"\npath = "/srv/out.db"\n'
    problems = _plan(image, _live('kind = "video", url = "rtsp://c/1"', rule + sink)).problems
    assert [one for one in problems if "/srv/clips" in one]
    assert [one for one in problems if "/srv/out.db" in one]
