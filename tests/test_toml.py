"""Tests of reading TOML into records."""

from __future__ import annotations

import importlib.util
from typing import Literal

import msgspec
import pytest

from hedge.models.errors import BundleError, ConfigError, MissingExtraError
from hedge.models.toml import read_toml, write_toml


class Tcp(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="tcp"):
    port: int


class Serial(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="serial"
):
    device: str
    baud: int | None = None


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    mode: Literal["wait", "async"] = "async"
    link: tuple[Tcp | Serial, ...] = ()
    spare: Serial | None = None
    note: str | None = None


def read(text: str) -> Machine:
    return read_toml(text.encode(), Machine, where="c.toml", error=ConfigError)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('nam = "x"', "c.toml: $.nam: unknown key (did you mean 'name'?)"),
        ('colour = 1\nname = "x"', "c.toml: $.colour: unknown key (known: name, mode, link"),
        (
            'name = "x"\n[[link]]\nkind = "tcp"\nport = 1\n[[link]]\nkind = "serial"\nbuad = 9600',
            "c.toml: $.link[1].buad: unknown key (did you mean 'baud'?)",
        ),
        (
            'name = "x"\n[[link]]\nkind = "tpc"\nport = 1',
            "c.toml: $.link[0].kind: 'tpc' is not a choice (did you mean 'tcp'?)",
        ),
        ('name = "x"\n[spare]\nkind = "serial"\nprot = 1', "c.toml: $.spare.prot: unknown key"),
        ('name = "x"\nmode = "wiat"', "$.mode: 'wiat' is not a choice (did you mean 'wait'?)"),
        ("name = 3", "c.toml: $.name: Expected `str`, got `int`"),
        ('mode = "wait"', "c.toml: $: Object missing required field `name`"),
        ('name = "x"\n[[link]]\nkind = [1]', "c.toml: $.link[0].kind: Expected `str`"),
        ("name = ", "c.toml: not TOML: Invalid value"),
        ("a = " + "[" * 5000, "c.toml: nested too deeply"),
        ('"a\\u001b[2J" = 1', r"c.toml: '$.a\x1b[2J': unknown key"),
    ],
)
def test_a_mistake_is_named_by_file_and_key(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert message in str(caught.value)


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(BundleError, match=r"^m\.toml: byte 4 is not UTF-8"):
        read_toml(b'a= "\xff"', Machine, where="m.toml", error=BundleError)


def test_a_record_survives_writing_without_what_is_empty() -> None:
    machine = Machine(name='a "b"', link=(Tcp(5), Serial("/dev/ttyS0")), mode="wait")
    text = write_toml(machine).decode()
    assert read(text) == machine
    assert "note" not in text
    assert "baud" not in text
    assert "link" not in write_toml(Machine(name="x")).decode()


def test_writing_without_the_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # noqa: ARG005
    with pytest.raises(
        MissingExtraError, match=r"tomli_w is not installed .*hedge-runtime\[bundle\]"
    ):
        write_toml(Machine(name="x"))
