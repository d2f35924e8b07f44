"""The pages say what is true: their configurations are read, their tables compared."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from hedge.models.consistency import check_manifest, parts
from hedge.models.errors import BundleError
from hedge.models.manifest import Manifest
from hedge.models.toml import parse_toml, to_record
from hedge.runtime.commands import parser
from hedge.runtime.config import Config, UplinkConfig, load_config
from hedge.uplink.codecs import LOSS

_DOCS = Path(__file__).parents[1] / "docs"
_PAGES = [*sorted(_DOCS.glob("*.md")), _DOCS.with_name("README.md")]
_MANIFEST = "# manifest.toml"
_WHOLE = {
    "format": 1,
    "name": "some",
    "version": "1",
    "task": "classification",
    "labels": ["cat", "dog", "bird"],
    "licence": "CC0-1.0",
    "input": {"kind": "tensor", "shape": [4], "dtype": "float32"},
    "edge": [{"name": "tiny", "file": "edge.onnx", "head": "evidential"}],
    "files": {},
}
"""What a fragment of a manifest is put into."""
_DEVICE = """
[device]
name = "d"
[[stream]]
name = "s"
bundle = "digits"
source = { kind = "replay", path = "rows.npz" }
"""


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )


def _toml(*, of_manifests: bool) -> list[tuple[str, str]]:
    """Return page and text of each TOML block; those of manifests say so in their first line."""
    blocks = [(page.name, block) for page in _PAGES for block in _blocks(page, "toml")]
    return [one for one in blocks if one[1].startswith(_MANIFEST) == of_manifests]


def _read(text: str, folder: Path) -> Config:
    path = folder / "device.toml"
    path.write_text(text if "[device]" in text else _DEVICE + text)
    return load_config(path, environ={})


@pytest.mark.parametrize(("page", "text"), _toml(of_manifests=False))
def test_every_configuration_of_the_pages_is_accepted(page: str, text: str, tmp_path: Path) -> None:
    assert _read(text, tmp_path).stream, page


@pytest.mark.parametrize(("page", "text"), _toml(of_manifests=True))
def test_every_table_of_a_manifest_in_the_pages_is_accepted(page: str, text: str) -> None:
    tables = parse_toml(text.encode(), where=page, error=BundleError)
    manifest = to_record(_WHOLE | tables, Manifest, where=page, error=BundleError)
    files = {one.file: "0" * 64 for one in parts(manifest)}
    if manifest.input.tokenizer is not None:
        files[manifest.input.tokenizer] = "0" * 64
    check_manifest(msgspec.structs.replace(manifest, files=files), where=page)


def test_the_page_about_the_uplink_names_every_key_that_there_is(tmp_path: Path) -> None:
    text = (_DOCS / "uplink.md").read_text("utf-8") + (_DOCS / "topics.md").read_text("utf-8")
    unnamed = [key for key in UplinkConfig.__struct_fields__ if not re.search(rf"\b{key}\b", text)]
    assert unnamed == []
    given = _read(_blocks(_DOCS / "uplink.md", "toml")[0], tmp_path).uplink
    assert given is not None
    for key in ("keepalive_s", "outbox", "outbox_count", "outbox_bytes", "min_free_bytes"):
        defaults = UplinkConfig(broker="mqtt://a")
        assert getattr(given, key) == getattr(defaults, key), f"{key}: the page shows the default"


def test_the_page_states_what_each_codec_loses() -> None:
    text = (_DOCS / "uplink.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\S+)` \| .* \| (.*) \|$", text, re.MULTILINE)
    said = {codec: "none" if loss == "nothing" else loss for codec, loss in rows}
    assert said == dict(LOSS)


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_every_command_of_the_pages_is_one_that_there_is(page: Path) -> None:
    for block in _blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("hedge "):
                parser().parse_args(line.partition("#")[0].split()[1:])


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_every_page_that_a_page_names_is_there(page: Path) -> None:
    for name in re.findall(r"`([\w-]+\.md)`|\]\(([\w-]+\.md)\)", page.read_text("utf-8")):
        assert (_DOCS / "".join(name)).exists(), name
