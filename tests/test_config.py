"""The configuration: precedence, and errors that name the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from hedge.models.errors import ConfigError
from hedge.runtime.config import Config, load_config
from hedge.runtime.gate.options import GateOptions
from hedge.runtime.sources.options import FolderSource, ReplaySource

_WHOLE = """
[device]
name = "porch-7"
[[stream]]
name = "front-door"
bundle = "digits"
answer_within_ms = 500
source = { kind = "replay", path = "x.npz", rate_hz = 10 }
[[stream]]
name = "back"
bundle = "digits"
source = { kind = "folder", path = "in" }
[uplink]
broker = "mqtt://127.0.0.1:1883"
[[sink]]
kind = "terminal"
"""


def _load(tmp_path: Path, text: str = _WHOLE, **environ: str) -> Config:
    file = tmp_path / "hedge.toml"
    file.write_text(text)
    return load_config(file, environ=environ)


def test_a_file_is_read_and_completed_with_defaults(tmp_path: Path) -> None:
    config = _load(tmp_path)
    assert config.device.site == "default"
    assert config.stream[0].source == ReplaySource(path="x.npz", rate_hz=10)
    assert config.stream[1].source == FolderSource(path="in")
    assert config.stream[1].answer_within_ms == 2000


def test_the_environment_overrides_the_file_and_names_streams(tmp_path: Path) -> None:
    config = _load(
        tmp_path,
        HEDGE__DEVICE__SITE="north",
        HEDGE__STREAM__FRONT_DOOR__ANSWER_WITHIN_MS="900",
        HEDGE__TELEMETRY__REPORT="r.json",
        HEDGE__STREAM__BACK__FILTER="false",
        PATH="/bin",
    )
    assert config.device.site == "north"
    assert [stream.answer_within_ms for stream in config.stream] == [900, 2000]
    assert config.telemetry.report == "r.json"
    assert [stream.filter for stream in config.stream] == [True, False]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("name = ", "nome = ", r"\$\.device\.nome: unknown key.*'name'"),
        ("answer_within_ms = 500", "answer_within_ms = 0", r"\$\.stream\[0\]\.answer_within_ms"),
        ('"replay"', '"reply"', r"'reply' is not a choice.*replay"),
        ('"porch-7"', '"Porch 7"', r"\$\.device\.name"),
        ('"back"', '"front-door"', r"a second stream 'front-door'"),
        ("rate_hz = 10", "rate_hz = -1", r"rate_hz"),
        ("[device]", "[device", r"not TOML"),
        ("within_ms = 500", "within_ms = 999999999999999", r"answer_within_ms"),
        ('"x.npz"', '"x\\u0000.npz"', r"source\.path"),
        ('"x.npz"', '""', r"source\.path"),
    ],
)
def test_a_mistake_is_named_with_its_key(
    tmp_path: Path, before: str, after: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        _load(tmp_path, _WHOLE.replace(before, after, 1))
    assert "hedge.toml" in str(caught.value)


def test_a_gate_has_one_budget_at_most_and_nought_is_none(tmp_path: Path) -> None:
    def gate(given: str) -> GateOptions:
        text = _WHOLE.replace('name = "back"', f'name = "back"\ngate = {{ {given} }}')
        return next(one.gate for one in _load(tmp_path, text).stream if one.name == "back")

    assert gate("messages_per_hour = 0, bytes_per_hour = 1e6").bytes_per_hour == 1e6
    assert gate("messages_per_hour = 60").promise
    with pytest.raises(ConfigError, match="of messages or of bytes, not of both") as caught:
        gate("messages_per_hour = 60, bytes_per_hour = 1e6")
    assert (caught.value.where or "").endswith("stream back: gate")
    assert gate("bytes_per_hour = 1").bytes_per_hour == 1
    for key, text in (("bytes_per_hour", "1e-9"), ("messages_per_hour", "0.5")):
        with pytest.raises(ConfigError, match=r"below 1 .*\(0 is none\)") as caught:
            gate(f"{key} = {text}")
        assert (caught.value.where or "").endswith(f"stream back: gate.{key}")
    with pytest.raises(ConfigError, match="1000000000000"):
        gate("messages_per_hour = inf")
    with pytest.raises(ConfigError, match=r"audit\.share|share"):
        _load(tmp_path, _WHOLE.replace('name = "back"', 'name = "back"\naudit = { share = 2 }'))


def test_an_environment_variable_that_names_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="HEDGE__STREAM__SIDE__MODE"):
        _load(tmp_path, HEDGE__STREAM__SIDE__MODE="wait")
    with pytest.raises(ConfigError, match="names a list"):
        _load(tmp_path, HEDGE__STREAM__MODE="wait")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read"):
        load_config(tmp_path / "none.toml", environ={})


@pytest.mark.parametrize(
    ("report", "log", "sink", "key"),
    [
        ("r.json", "same.jsonl", "./same.jsonl", "telemetry.log.path"),
        ("r.json", "t.jsonl", "t.jsonl.2", "telemetry.log.path (.2)"),
        ("out.jsonl", "t.jsonl", "a/../out.jsonl", "telemetry.report"),
    ],
)
def test_no_two_parts_of_a_device_write_to_one_file(
    tmp_path: Path, report: str, log: str, sink: str, key: str
) -> None:
    file = tmp_path / "device.toml"
    file.write_text(
        f'[device]\nname = "d"\n[telemetry]\nreport = "{report}"\nlog = {{ path = "{log}" }}\n'
        '[[stream]]\nname = "s"\nbundle = "b"\nsource = { kind = "folder", path = "p" }\n'
        f'[[sink]]\nkind = "jsonl"\npath = "{sink}"\n'
    )
    with pytest.raises(ConfigError, match=r"is the file of sink\[0\]\.path, too") as caught:
        load_config(file, environ={})
    assert caught.value.where == f"{file}: $.{key}"
