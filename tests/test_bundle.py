"""Tests of reading, verifying and writing bundles: each refusal is caused."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import os
import stat
import struct
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hedge.models import archive
from hedge.models.bundle import Bundle, load_bundle, pack_bundle, write_bundle
from hedge.models.dataset import read_seen
from hedge.models.errors import BundleError, DataError, HedgeError, MissingExtraError, ModelError
from hedge.models.manifest import Calibration, Cloud, Edge, Filter, Input, Manifest, Reuse, Split
from hedge.models.toml import write_toml

Linear = Callable[..., bytes]
Files = dict[str, bytes]
changed = msgspec.structs.replace


def edit(folder: Path, old: str, new: str) -> None:
    """Change the manifest's text."""
    file = folder / "manifest.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def put(folder: Path, name: str, data: bytes) -> None:
    """Change a file and its hash, as whoever forges a bundle would."""
    file = folder / name
    edit(folder, hashlib.sha256(file.read_bytes()).hexdigest(), hashlib.sha256(data).hexdigest())
    file.write_bytes(data)


def zipped(folder: Path, **members: bytes) -> Path:
    """Zip a folder's files and ``members`` as any zip tool would."""
    path = folder.with_suffix(".hedge")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for file in sorted(folder.rglob("*")):
            target.write(file, file.relative_to(folder))
        for name, data in members.items():
            target.writestr(name, data)
    return path


def refusal(path: Path, *, pin: str | None = None, kind: type[HedgeError] = BundleError) -> str:
    """Return what loading says, without the place, which it must begin with."""
    with pytest.raises(HedgeError) as caught:
        load_bundle(path, pin=pin)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(str(path))
    return str(caught.value).removeprefix(str(path)).lstrip("/")


# ---- what is sound


def test_a_folder_and_its_zip_are_the_same_bundle(bundle_dir: Path, bundle_files: Files) -> None:
    bundle = load_bundle(bundle_dir)
    packed = load_bundle(zipped(bundle_dir))
    assert packed.manifest == bundle.manifest
    assert (packed.digest, packed.contract) == (bundle.digest, bundle.contract)
    for one in (bundle, packed):
        assert one.labels == ("rest", "walk", "run")
        assert one.input.shape == (4,)
        assert one.files.keys() == {"manifest.toml", *bundle_files}
        for name, data in bundle_files.items():
            assert one.read(name) == data


def test_the_digest_is_the_manifests_sha256(bundle_dir: Path) -> None:
    bundle = load_bundle(bundle_dir)
    document = (bundle_dir / "manifest.toml").read_bytes()
    assert bundle.digest == hashlib.sha256(document).hexdigest()
    assert bundle.read("manifest.toml") == document
    assert load_bundle(bundle_dir, pin=bundle.digest).digest == bundle.digest


def test_the_contract_is_the_hash_of_what_both_ends_must_agree_on(bundle_dir: Path) -> None:
    text = '{"dtype":"float32","kind":"tensor","labels":["rest","walk","run"],"name":"steps",'
    text += '"shape":[4]}'
    expected = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert load_bundle(bundle_dir).contract == expected


def test_the_contract_is_kept_by_versions_and_broken_by_labels(
    tmp_path: Path, manifest: Manifest, bundle_files: Files, linear_onnx: Linear
) -> None:
    def contract(manifest: Manifest, **files: bytes) -> str:
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        return write_bundle(out, manifest, {**bundle_files, **files}).contract

    first = contract(manifest)
    retrained = {"edge.onnx": linear_onnx(3, seed=99)}
    assert contract(changed(manifest, version="1.1"), **retrained) == first
    assert contract(changed(manifest, labels=("rest", "run", "walk"))) != first
    assert contract(changed(manifest, name="steps2")) != first
    assert contract(changed(manifest, input=changed(manifest.input, kind="audio"))) != first


def test_training_rows_can_be_told_from_unseen_ones(bundle_dir: Path) -> None:
    seen = read_seen(load_bundle(bundle_dir).read("seen.npy"), where="seen.npy")
    assert seen.tolist() == [3, 7, 2**63]


def test_folders_inside_and_their_entries_in_a_zip_are_fine(
    tmp_path: Path, manifest: Manifest, bundle_files: Files
) -> None:
    files = {"models/edge.onnx": bundle_files.pop("edge.onnx"), **bundle_files}
    manifest = changed(manifest, edge=(changed(manifest.edge[0], file="models/edge.onnx"),))
    bundle = write_bundle(tmp_path / "b", manifest, files)
    packed = load_bundle(zipped(bundle.path))
    assert packed.digest == bundle.digest
    assert packed.read("models/edge.onnx") == files["models/edge.onnx"]


# ---- tampering


@pytest.mark.parametrize("name", ["edge.onnx", "skip.onnx", "cloud.onnx", "seen.npy"])
@pytest.mark.parametrize("pack", [False, True])
def test_one_changed_byte_is_refused_by_file(bundle_dir: Path, name: str, *, pack: bool) -> None:
    data = bytearray((bundle_dir / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle_dir / name).write_bytes(data)
    message = refusal(zipped(bundle_dir) if pack else bundle_dir)
    found = hashlib.sha256(data).hexdigest()[:16]
    assert message.startswith(f"{name}: has been changed: its SHA-256 is {found}")


def test_swapped_files_are_refused(bundle_dir: Path) -> None:
    (bundle_dir / "edge.onnx").rename(bundle_dir / "x")
    (bundle_dir / "cloud.onnx").rename(bundle_dir / "edge.onnx")
    (bundle_dir / "x").rename(bundle_dir / "cloud.onnx")
    assert "onnx: has been changed" in refusal(bundle_dir)


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("size", [0, 1])
def test_a_file_changed_after_loading_is_refused_on_reading(
    bundle_dir: Path, size: int, *, pack: bool
) -> None:
    bundle = load_bundle(zipped(bundle_dir) if pack else bundle_dir)
    data = (bundle_dir / "edge.onnx").read_bytes()
    (bundle_dir / "edge.onnx").write_bytes(b"evil" + data[4 + size :])
    zipped(bundle_dir)
    with pytest.raises(BundleError, match=r"edge\.onnx: (has been )?changed"):
        bundle.read("edge.onnx")


def test_a_file_turned_into_a_link_after_loading_is_not_followed(bundle_dir: Path) -> None:
    bundle = load_bundle(bundle_dir)
    (bundle_dir / "edge.onnx").rename(bundle_dir.parent / "edge.onnx")
    (bundle_dir / "edge.onnx").symlink_to(bundle_dir.parent / "edge.onnx")
    with pytest.raises(BundleError, match=r"edge\.onnx: cannot be read"):
        bundle.read("edge.onnx")


def test_a_file_that_the_bundle_does_not_hold_is_refused_by_name(bundle_dir: Path) -> None:
    with pytest.raises(BundleError, match=r"steps: holds no file '\.\./secret'"):
        load_bundle(bundle_dir).read("../secret")


def test_the_pinned_digest_decides(bundle_dir: Path) -> None:
    pin, digest = "ab" * 32, load_bundle(bundle_dir).digest
    assert refusal(bundle_dir, pin=pin) == f": its digest is {digest}, but {pin} is pinned"


def test_the_pin_is_checked_before_anything_is_parsed(bundle_dir: Path) -> None:
    (bundle_dir / "manifest.toml").write_text("[[[[")
    assert "is pinned" in refusal(bundle_dir, pin="ab" * 32)


def test_a_forger_who_also_changes_the_hash_is_stopped_by_the_pin(
    bundle_dir: Path, linear_onnx: Linear
) -> None:
    pin = load_bundle(bundle_dir).digest
    put(bundle_dir, "edge.onnx", linear_onnx(3, seed=666))
    load_bundle(bundle_dir)
    assert "is pinned" in refusal(bundle_dir, pin=pin)


@pytest.mark.parametrize("pack", [False, True])
def test_a_missing_file_is_named(bundle_dir: Path, *, pack: bool) -> None:
    (bundle_dir / "cloud.onnx").unlink()
    message = refusal(zipped(bundle_dir) if pack else bundle_dir)
    assert message == ": 'cloud.onnx' is missing"


@pytest.mark.parametrize("pack", [False, True])
def test_a_file_that_the_manifest_does_not_list_is_named(bundle_dir: Path, *, pack: bool) -> None:
    (bundle_dir / "run.py").write_text("import os")
    message = refusal(zipped(bundle_dir) if pack else bundle_dir)
    assert message == ": 'run.py' is not listed in manifest.toml"


def test_what_is_no_bundle_says_so(tmp_path: Path) -> None:
    (tmp_path / "text.hedge").write_text("hello")
    assert "not a .zip" in refusal(tmp_path / "text.hedge")
    assert refusal(tmp_path / "absent.hedge") == ": no such bundle"
    (tmp_path / "text.hedge").rename(tmp_path / "text")
    assert refusal(tmp_path) == ": no manifest.toml: not a bundle"


# ---- paths and kinds of files


@pytest.mark.parametrize("name", ["edge.onnx", "manifest.toml"])
def test_a_symbolic_link_in_a_folder_is_refused(bundle_dir: Path, name: str) -> None:
    (bundle_dir / name).rename(bundle_dir.parent / name)
    (bundle_dir / name).symlink_to(bundle_dir.parent / name)
    assert refusal(bundle_dir) == f": '{name}' is a symbolic link"


def test_a_linked_folder_is_refused(bundle_dir: Path) -> None:
    (bundle_dir / "etc").symlink_to("/etc")
    assert refusal(bundle_dir) == ": 'etc' is a symbolic link"


def test_a_pipe_is_refused_and_not_waited_for(bundle_dir: Path) -> None:
    (bundle_dir / "edge.onnx").unlink()
    os.mkfifo(bundle_dir / "edge.onnx")
    assert refusal(bundle_dir) == ": 'edge.onnx' is no regular file"


def test_a_symbolic_link_in_a_zip_is_refused(bundle_dir: Path) -> None:
    path = zipped(bundle_dir)
    with zipfile.ZipFile(path, "a") as target:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        target.writestr(info, "/etc/passwd")
    assert refusal(path) == ": 'link' is a symbolic link"


ESCAPES = ["../x", "a/../../x", "/etc/passwd", "..\\x", "C:\\x", "C:x", "\\x"]


@pytest.mark.parametrize("name", ESCAPES)
def test_a_zip_member_that_leads_out_is_refused(bundle_dir: Path, name: str) -> None:
    assert refusal(zipped(bundle_dir, **{name: b"x"})) == f": {name!r} leads out of the bundle"
    assert not (bundle_dir.parent / "x").exists()


@pytest.mark.parametrize("name", ESCAPES)
def test_a_manifest_path_that_leads_out_is_refused(bundle_dir: Path, name: str) -> None:
    edit(bundle_dir, '"edge.onnx" =', f"{json.dumps(name)} =")
    message = refusal(bundle_dir)
    assert message == f"manifest.toml: $.files: {name!r} leads out of the bundle"


@pytest.mark.parametrize(
    "name", [".hidden", "a b", "a\x1b[2J", "ü", "a/b/c/d/e", "a//b", "-x", "."]
)
def test_odd_file_names_are_refused(bundle_dir: Path, name: str) -> None:
    message = refusal(zipped(bundle_dir, **{name: b"x"}))
    assert message.startswith(f": {name!r} is no file name for a bundle")


def test_writing_checks_names_too(tmp_path: Path, manifest: Manifest, bundle_files: Files) -> None:
    with pytest.raises(BundleError, match=r"'\.\./x' leads out of the bundle"):
        write_bundle(tmp_path / "b", manifest, {**bundle_files, "../x": b""})
    assert list(tmp_path.iterdir()) == []


# ---- zip files


def test_a_zip_bomb_is_refused_before_it_unpacks(bundle_dir: Path) -> None:
    path = zipped(bundle_dir, bomb=bytes(4 << 20))
    assert ": 'bomb' would unpack to 4194304 bytes from" in refusal(path)


@pytest.mark.parametrize(
    ("size", "message"), [(10, "cannot be read: "), (99_999, "changed while it was read: 99999")]
)
def test_a_size_that_is_a_lie_is_refused(bundle_dir: Path, size: int, message: str) -> None:
    path = zipped(bundle_dir)
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")  # skip.onnx, the last of the list
    data[entry + 24 : entry + 28] = struct.pack("<I", size)
    path.write_bytes(data)
    assert refusal(path).startswith(f"skip.onnx: {message}")


def test_too_many_files_are_refused_before_they_are_listed(bundle_dir: Path) -> None:
    members = {f"f{place}": b"" for place in range(archive.MAX_MEMBERS)}
    assert refusal(zipped(bundle_dir, **members)) == ": more than 256 files"
    for name in members:
        (bundle_dir / name).touch()
    assert refusal(bundle_dir) == ": more than 256 files"


def test_a_zip_whose_end_claims_too_many_files_is_refused(bundle_dir: Path) -> None:
    path = zipped(bundle_dir)
    data = bytearray(path.read_bytes())
    data[-12:-10] = struct.pack("<H", 257)
    path.write_bytes(data)
    assert refusal(path) == ": more than 256 files"


def test_an_endless_list_of_members_is_refused(bundle_dir: Path) -> None:
    path = zipped(bundle_dir)
    with zipfile.ZipFile(path, "a") as target:
        for info in (zipfile.ZipInfo(f"f{place}") for place in range(20)):
            info.comment = b"x" * 60_000
            target.writestr(info, b"")
    assert refusal(path) == ": its list of files is too long"


def test_a_zip64_list_that_would_overrule_the_count_is_refused(bundle_dir: Path) -> None:
    path = zipped(bundle_dir)
    data = path.read_bytes()
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, len(data) - 22, 1)
    path.write_bytes(data[:-22] + locator + data[-22:])
    assert refusal(path) == ": more than 256 files"


def test_files_beyond_the_size_limits_are_refused_before_they_are_read(
    bundle_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (bundle_dir / "edge.onnx").open("wb") as stream:
        stream.truncate(archive.MAX_FILE_BYTES + 1)  # sparse: takes no room
    assert "'edge.onnx' has 1073741825 bytes, at most 1073741824" in refusal(bundle_dir)
    monkeypatch.setattr(archive, "MAX_FILE_BYTES", 2 << 30)
    monkeypatch.setattr(archive, "MAX_TOTAL_BYTES", 1 << 30)
    assert "bytes in all, at most 1073741824" in refusal(bundle_dir)


def test_an_endless_manifest_is_refused(bundle_dir: Path) -> None:
    with (bundle_dir / "manifest.toml").open("ab") as stream:
        stream.truncate((1 << 20) + 1)
    assert refusal(bundle_dir) == "manifest.toml: 1048577 bytes are too many"


@pytest.mark.parametrize("name", ["edge.onnx", "EDGE.onnx"])
def test_a_name_that_comes_twice_is_refused(bundle_dir: Path, name: str) -> None:
    path = zipped(bundle_dir, **{"3dge.onnx": b"x"})
    path.write_bytes(path.read_bytes().replace(b"3dge.onnx", name.encode()))
    assert refusal(path) == f": {name!r} is there twice"


def test_an_encrypted_member_is_refused(bundle_dir: Path) -> None:
    path = zipped(bundle_dir)
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert refusal(path) == ": 'skip.onnx' is encrypted"


def test_an_unusual_compression_is_refused(bundle_dir: Path) -> None:
    path = zipped(bundle_dir)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_BZIP2) as target:
        target.writestr("x", b"x" * 100)
    assert refusal(path) == ": 'x' is neither stored nor deflated"


def test_a_member_without_a_name_is_refused(bundle_dir: Path) -> None:
    path = zipped(bundle_dir, ghost=b"x")
    path.write_bytes(path.read_bytes().replace(b"ghost", b"\0host"))  # a name ends at its zero
    assert refusal(path) == ": '' leads out of the bundle"


def test_an_empty_folder_in_a_zip_is_refused(bundle_dir: Path) -> None:
    assert refusal(zipped(bundle_dir, **{"x/": b""})) == ": 'x/' is an empty folder"


def test_a_zip_with_a_comment_is_refused(bundle_dir: Path) -> None:
    path = zipped(bundle_dir)
    with zipfile.ZipFile(path, "a") as target:
        target.comment = b"#!/bin/sh"
    assert "with a comment" in refusal(path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_zip_is_refused(bundle_dir: Path, share: float) -> None:
    path = zipped(bundle_dir)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert refusal(path) == ": not a .zip, or cut short, or with a comment"


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)
@given(st.lists(st.tuples(st.integers(0, 1 << 14), st.integers(0, 255)), min_size=1, max_size=5))
def test_a_damaged_zip_raises_nothing_but_our_error(
    bundle_dir: Path, changes: list[tuple[int, int]]
) -> None:
    packed = pack_bundle(bundle_dir, bundle_dir.with_name("p.hedge"))
    data = bytearray(packed.path.read_bytes())
    for place, value in changes:
        data[-1 - place % len(data)] = value
    damaged = bundle_dir.with_name("damaged.hedge")
    damaged.write_bytes(data)
    try:
        bundle = load_bundle(damaged)
    except HedgeError:
        return
    assert bundle.digest == packed.digest  # harmless: a time stamp, say


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)
@given(st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 255)), min_size=1, max_size=3))
def test_a_damaged_manifest_raises_nothing_but_our_error(
    bundle_dir: Path, changes: list[tuple[int, int]]
) -> None:
    file = bundle_dir / "manifest.toml"
    before = file.read_bytes()
    data = bytearray(before)
    for place, value in changes:
        data[place % len(data)] = value
    file.write_bytes(data)
    try:
        load_bundle(bundle_dir)
    except HedgeError as error:
        assert error.where is not None  # noqa: PT017  a comment or a name may change unnoticed
    finally:
        file.write_bytes(before)


# ---- the manifest


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("shape =", "colour = 3\nshape =", "$.input.colour: unknown key (known: kind, shape,"),
        (
            "shape =",
            "layuot = 'x'\nshape =",
            "$.input.layuot: unknown key (did you mean 'layout'?)",
        ),
        ("licence =", "license =", "$.license: unknown key (did you mean 'licence'?)"),
        (
            '"evidential"',
            '"evidental"',
            "$.edge[0].head: 'evidental' is not a choice (did you mean",
        ),
        ('"float32"', '"float64"', "$.input.dtype: 'float64' is not a choice (did you mean 'float"),
        ('"steps"', '"Steps"', "$.name: Expected `str` matching"),
        ("format = 1", "format = 2\nnew = 1", "$.format: 2, this hedge reads 1"),
        ("format = 1", 'format = "1"', "$.format: Expected `int`, got `str`"),
        ("threshold = 0.25", "threshold = nan", "$.filter[0].threshold: Expected `float` >="),
        ("total = 0.4", "total = inf", "$.calibration.total: inf is not finite"),
        ("total = 0.4", "total = 0.4\nfusion_gain = nan", "$.calibration.fusion_gain: nan is not"),
        (
            "total = 0.4",
            "total = 0.4\nbudget = { messages_per_hour = 60, bytes_per_hour = 60000 }",
            "$.calibration.budget: is of messages or of bytes, not of both",
        ),
        (
            "total = 0.4",
            "total = 0.4\nbudget = { bytes_per_hour = 1e-9 }",
            "$.calibration.budget.bytes_per_hour: Expected `float` >= 1",
        ),
        (
            "total = 0.4",
            "total = 0.4\nbudget = { messages_per_hour = 0 }",
            "$.calibration.budget.messages_per_hour: Expected `float` >= 1",
        ),
        ('"edge.onnx"', '"other.onnx"', "$.edge[0].file: 'other.onnx' is not listed in [files]"),
        ('seen = "seen.npy"', 'seen = "s.npy"', "$.training.seen: 's.npy' is not listed"),
        ("shape =", "tokenizer = 't'\nshape =", "$.input.tokenizer: 't' is not listed in [files]"),
        (
            "[files]",
            f"[files]\n'manifest.toml' = '{'0' * 64}'",
            "$.files: manifest.toml cannot hold",
        ),
        ("name =", "name", "not TOML: Expected '='"),
        ('"Nobody, 2025"', r'"a\u001b[2Jb"', r"$.citations[0]: 'a\x1b[2Jb' is empty or not print"),
    ],
)
def test_a_mistake_in_the_manifest_is_named_by_key(
    bundle_dir: Path, old: str, new: str, message: str
) -> None:
    edit(bundle_dir, old, new)
    said = refusal(bundle_dir)
    assert said.startswith("manifest.toml: ")
    assert message in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edge": (), "cloud": None, "calibration": None}, "$: neither an edge nor a cloud model"),
        ({"labels": ("a", "rest", "a")}, "$.labels: 'a' is there twice"),
        ({"labels": ("rest", "b", " ")}, "$.labels[2]: ' ' is empty or not printable"),
        ({"labels": ("rest", "b", "c\n")}, r"$.labels[2]: 'c\n' is empty or not printable"),
        ({"labels": ("b", "walk", "run")}, "$.filter[0].redundant: 'rest' is none of the labels"),
        ({"edge": ()}, "$.calibration: there is no edge model to gate"),
        ({"format": 7}, "$.format: 7, this hedge reads 1"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_not_even_written(
    tmp_path: Path, manifest: Manifest, bundle_files: Files, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(BundleError) as caught:
        write_bundle(tmp_path / "b", changed(manifest, **change), bundle_files)
    assert str(caught.value).startswith(f"{tmp_path / 'b'}/manifest.toml: {message}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("edge", {"head": "softmax"}, "$.calibration.score: 'vacuity' needs head = 'evidential'"),
        ("edge", {"output": "probabilities"}, "$.edge[0].head: an evidential head needs output ="),
        ("cloud", {"head": "evidential", "output": "probabilities"}, "$.cloud.head: an evidential"),
        ("filter", {"redundant": ("rest", "walk", "run")}, "$.filter[0].redundant: names every"),
        ("input", {"scale": 0.0}, "$.input.scale: 0 would make all samples the same"),
        ("input", {"offset": float("nan")}, "$.input.offset: nan is not finite"),
        ("input", {"shape": (1 << 20, 1 << 20)}, "$.input.shape: (1048576, 1048576) is beyond"),
    ],
)
def test_parts_that_contradict_each_other_are_refused(
    manifest: Manifest, bundle_dir: Path, part: str, change: dict[str, Any], message: str
) -> None:
    before = getattr(manifest, part)
    after = changed(before[0] if isinstance(before, tuple) else before, **change)
    manifest = changed(manifest, **{part: (after,) if isinstance(before, tuple) else after})
    files = load_bundle(bundle_dir).manifest.files
    (bundle_dir / "manifest.toml").write_bytes(write_toml(changed(manifest, files=files)))
    assert refusal(bundle_dir).startswith(f"manifest.toml: {message}")


def test_two_variants_of_one_name_are_refused(
    tmp_path: Path, manifest: Manifest, bundle_files: Files
) -> None:
    manifest = changed(manifest, edge=manifest.edge * 2)
    with pytest.raises(BundleError, match=r"\$\.edge: two variants are called 'tiny'"):
        write_bundle(tmp_path / "b", manifest, bundle_files)


def test_fusion_needs_a_cloud(tmp_path: Path, manifest: Manifest, bundle_files: Files) -> None:
    assert manifest.calibration is not None
    fused = changed(manifest.calibration, fusion=True)
    manifest = changed(manifest, calibration=fused, cloud=None)
    with pytest.raises(BundleError, match=r"\$\.calibration\.fusion: there is no cloud"):
        write_bundle(tmp_path / "b", manifest, bundle_files)


# ---- the graphs


@pytest.mark.parametrize(
    ("file", "options", "message"),
    [
        ("edge.onnx", {"outputs": 4}, "output 'y' has the shape (B, 4), but the 3 labels asks for"),
        (
            "cloud.onnx",
            {"outputs": 2},
            "output 'y' has the shape (B, 2), but the 3 labels asks for",
        ),
        (
            "edge.onnx",
            {"shape": (5,)},
            "input 'x' has the shape (B, 5), but $.input.shape asks for",
        ),
        ("cloud.onnx", {"shape": (4, 1)}, "input 'x' has the shape (B, 4, 1), but $.input.shape"),
        ("skip.onnx", {"batch": 2}, "input 'x' has the shape (2, 4), but $.input.shape asks for"),
        ("edge.onnx", {"dtype": "float64"}, "input 'x' is float64, but is fed float32"),
        ("edge.onnx", {"operator": ("acme", "Run")}, "custom operator 'Run' of domain 'acme'"),
        ("cloud.onnx", {"opset": 22}, "opset 22, supported are 1 to 21"),
        ("edge.onnx", {"ir_version": 11}, "IR version 11, supported are 3 to 10"),
    ],
)
def test_a_graph_that_does_not_fit_is_refused_by_file(
    bundle_dir: Path, linear_onnx: Linear, file: str, options: dict[str, Any], message: str
) -> None:
    options = {"outputs": 1 if file == "skip.onnx" else 3, **options}
    put(bundle_dir, file, linear_onnx(**options))
    assert refusal(bundle_dir, kind=ModelError).startswith(f"{file}: {message}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda graph: graph.input.add().CopyFrom(graph.output[0]), "takes 2 inputs ('x', 'y')"),
        (lambda graph: graph.input.pop(), "takes 0 inputs"),
        (lambda graph: graph.output.pop(), "gives no output"),
        (lambda graph: _retype(graph.output[0], 7), "output 'y' is int64, not floating"),
    ],
)
def test_a_graph_of_another_form_is_refused_by_file(
    bundle_dir: Path, linear_onnx: Linear, change: Callable[[onnx.GraphProto], None], message: str
) -> None:
    model = onnx.load_from_string(linear_onnx(3))
    change(model.graph)
    put(bundle_dir, "edge.onnx", model.SerializeToString())
    assert refusal(bundle_dir, kind=ModelError).startswith(f"edge.onnx: {message}")


def _retype(value: onnx.ValueInfoProto, element: int) -> None:
    value.type.tensor_type.elem_type = element


def test_a_model_with_its_weights_elsewhere_is_refused(
    bundle_dir: Path, linear_onnx: Linear, tmp_path: Path
) -> None:
    model, file = onnx.load_from_string(linear_onnx(3)), tmp_path / "m.onnx"
    onnx.save(model, file, save_as_external_data=True, size_threshold=0, location="w.bin")
    put(bundle_dir, "edge.onnx", file.read_bytes())
    message = refusal(bundle_dir, kind=ModelError)
    assert message.startswith("edge.onnx: tensor 'W' has its data outside the file")


def test_a_graph_of_one_sample_at_a_time_fits(bundle_dir: Path, linear_onnx: Linear) -> None:
    put(bundle_dir, "edge.onnx", linear_onnx(3, batch=1))
    load_bundle(bundle_dir)


def test_scaled_samples_need_a_float32_graph(
    tmp_path: Path, manifest: Manifest, bundle_files: Files, linear_onnx: Linear
) -> None:
    sample = Input(kind="tensor", shape=(4,), dtype="int8")
    with pytest.raises(ModelError, match=r"\.onnx: input 'x' is float32, but is fed int8"):
        write_bundle(tmp_path / "b", changed(manifest, input=sample), bundle_files)
    scaled = changed(manifest, input=changed(sample, scale=0.5))
    write_bundle(tmp_path / "b", scaled, bundle_files)
    files = {**bundle_files, "cloud.onnx": linear_onnx(3, dtype="float16")}
    with pytest.raises(ModelError, match=r"cloud\.onnx: input 'x' is float16, but is fed float32"):
        write_bundle(tmp_path / "c", scaled, files)


def test_a_filter_on_features_takes_those_of_the_split(
    tmp_path: Path, manifest: Manifest, bundle_files: Files, linear_onnx: Linear
) -> None:
    features = changed(manifest.filter[0], attach="feature")
    with pytest.raises(BundleError, match=r"\$\.filter\[0\]\.attach: there is no \[split\]"):
        write_bundle(tmp_path / "a", changed(manifest, filter=(features,)), bundle_files)
    split = Split(file="here.onnx", width=64, cloud=Cloud(file="there.onnx"))
    files = {
        **bundle_files,
        "here.onnx": linear_onnx(64),
        "there.onnx": linear_onnx(3, shape=(64,)),
        "skip.onnx": linear_onnx(1, shape=(64,)),
    }
    write_bundle(tmp_path / "b", changed(manifest, filter=(features,), split=split), files)
    files["skip.onnx"] = linear_onnx(1)
    with pytest.raises(ModelError, match=r"skip\.onnx: input 'x' has the shape \(B, 4\)"):
        write_bundle(tmp_path / "c", changed(manifest, filter=(features,), split=split), files)


def test_a_skip_filter_may_have_several_tasks_and_no_reuse_table(
    tmp_path: Path, manifest: Manifest, bundle_files: Files, linear_onnx: Linear
) -> None:
    files = {**bundle_files, "skip.onnx": linear_onnx(3)}
    assert write_bundle(tmp_path / "a", manifest, files).manifest.filter == manifest.filter
    odd = changed(manifest.filter[0], reuse=Reuse(width=3, distance=0.5))
    with pytest.raises(BundleError, match=r"\$\.filter\[0\]\.reuse: is for reuse filters"):
        write_bundle(tmp_path / "b", changed(manifest, filter=(odd,)), files)


def test_a_reuse_filter_has_its_table_gives_keys_of_its_width_and_is_the_only_one(
    tmp_path: Path, manifest: Manifest, bundle_files: Files, linear_onnx: Linear
) -> None:
    one = Filter(kind="reuse", file="keys.onnx", reuse=Reuse(width=6, distance=0.5))
    files = {**bundle_files, "keys.onnx": linear_onnx(6)}

    def write(*parts: Filter, **others: bytes) -> None:
        found = changed(manifest, filter=(*manifest.filter, *parts))
        write_bundle(tmp_path / "b", found, {**files, **others}, replace=True)

    write(one)
    with pytest.raises(BundleError, match=r"\$\.filter\[1\]\.reuse: is missing"):
        write(changed(one, reuse=None))
    with pytest.raises(BundleError, match=r"\$\.filter\[2\]\.kind: a second reuse filter"):
        write(one, one)
    with pytest.raises(ModelError, match=r"\(B, 5\), but the 6 values of a key"):
        write(one, **{"keys.onnx": linear_onnx(5)})


def test_a_wrong_list_of_seen_rows_is_refused(bundle_dir: Path) -> None:
    put(bundle_dir, "seen.npy", b"junk")
    assert refusal(bundle_dir, kind=DataError).startswith("seen.npy: not a readable .npy")


# ---- writing


def test_the_same_content_gives_the_same_bytes(
    tmp_path: Path, manifest: Manifest, bundle_files: Files
) -> None:
    turned = dict(reversed(bundle_files.items()))
    one = write_bundle(tmp_path / "a.hedge", manifest, bundle_files)
    two = write_bundle(tmp_path / "b.hedge", manifest, turned)
    assert (tmp_path / "a.hedge").read_bytes() == (tmp_path / "b.hedge").read_bytes()
    assert one.digest == two.digest == write_bundle(tmp_path / "c", manifest, turned).digest


def test_what_is_written_is_what_is_read(
    tmp_path: Path, manifest: Manifest, bundle_files: Files
) -> None:
    bundle = write_bundle(tmp_path / "a.hedge", manifest, bundle_files)
    assert changed(load_bundle(tmp_path / "a.hedge").manifest, files={}) == manifest
    assert {name: bundle.read(name) for name in bundle_files} == bundle_files
    assert bundle.path == tmp_path / "a.hedge"


def test_packing_keeps_the_digest(bundle_dir: Path) -> None:
    packed = pack_bundle(bundle_dir, bundle_dir.with_name("p.hedge"))
    assert packed.digest == load_bundle(bundle_dir).digest == load_bundle(packed.path).digest
    with zipfile.ZipFile(packed.path) as members:
        assert members.namelist()[0] == "manifest.toml"
        assert {info.date_time for info in members.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_packing_refuses_what_is_not_sound(bundle_dir: Path) -> None:
    (bundle_dir / "extra").touch()
    with pytest.raises(BundleError, match="'extra' is not listed"):
        pack_bundle(bundle_dir, bundle_dir.with_name("p.hedge"))
    assert not bundle_dir.with_name("p.hedge").exists()


@pytest.mark.parametrize("name", ["p.zip", "p"])
def test_a_packed_bundle_has_its_own_ending(bundle_dir: Path, name: str) -> None:
    with pytest.raises(BundleError, match=rf"{name}: a packed bundle ends in \.hedge"):
        pack_bundle(bundle_dir, bundle_dir.with_name(name))


def test_a_failed_write_leaves_nothing_and_keeps_what_was_there(
    tmp_path: Path, manifest: Manifest, bundle_files: Files, linear_onnx: Linear
) -> None:
    out = tmp_path / "b.hedge"
    write_bundle(out, manifest, bundle_files)
    before = out.read_bytes()
    with pytest.raises(ModelError, match=r"b\.hedge/edge\.onnx: output 'y'"):
        write_bundle(out, manifest, {**bundle_files, "edge.onnx": linear_onnx(9)}, replace=True)
    assert list(tmp_path.iterdir()) == [out]
    assert out.read_bytes() == before


@pytest.mark.parametrize("name", ["b.hedge", "b"])
def test_another_bundle_is_replaced_only_on_demand(
    tmp_path: Path, manifest: Manifest, bundle_files: Files, name: str
) -> None:
    out = tmp_path / name
    first = write_bundle(out, manifest, bundle_files)
    assert write_bundle(out, manifest, bundle_files).digest == first.digest  # the same: kept
    newer = changed(manifest, version="2")
    with pytest.raises(BundleError, match=rf"{name}: is there already, and is another thing"):
        write_bundle(out, newer, bundle_files)
    assert load_bundle(out).digest == first.digest
    assert write_bundle(out, newer, bundle_files, replace=True).manifest.version == "2"
    assert load_bundle(out).manifest.version == "2"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("name", ["b.hedge", "b"])
def test_a_damaged_bundle_can_be_replaced(
    tmp_path: Path, manifest: Manifest, bundle_files: Files, name: str
) -> None:
    out = tmp_path / name
    write_bundle(out, manifest, bundle_files)
    file = out if out.is_file() else out / "edge.onnx"
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(BundleError, match="another thing"):
        write_bundle(out, manifest, bundle_files)
    write_bundle(out, manifest, bundle_files, replace=True)


def test_what_is_no_bundle_is_never_replaced(
    tmp_path: Path, manifest: Manifest, bundle_files: Files
) -> None:
    home = tmp_path / "home"
    write_bundle(home, manifest, bundle_files)
    (home / "thesis.tex").write_text("years of work")
    (tmp_path / "thesis").write_text("years of work")
    (tmp_path / "thesis.hedge").write_text("years of work")
    with zipfile.ZipFile(tmp_path / "years.hedge", "w") as archive:
        archive.writestr("thesis.tex", "years of work")
    for out in (home, *(tmp_path / name for name in ("thesis", "thesis.hedge", "years.hedge"))):
        with pytest.raises(BundleError, match="is no bundle, and is not replaced"):
            write_bundle(out, manifest, bundle_files, replace=True)
    assert (home / "thesis.tex").exists()
    assert (tmp_path / "thesis.hedge").read_text() == "years of work"


def test_a_bundle_within_another_is_refused(
    tmp_path: Path, manifest: Manifest, bundle_files: Files
) -> None:
    outer = write_bundle(tmp_path / "outer", manifest, bundle_files)
    for name in ("inner", "inner.hedge"):
        with pytest.raises(BundleError, match=rf"{name}: lies in the bundle .*outer, which it"):
            write_bundle(outer.path / name, manifest, bundle_files)
    assert load_bundle(outer.path).digest == outer.digest


def test_a_place_that_is_named_through_what_is_replaced_is_that_place(
    tmp_path: Path, manifest: Manifest, bundle_files: Files
) -> None:
    out = tmp_path / "b"
    write_bundle(out, manifest, bundle_files)
    newer = changed(manifest, version="2")
    write_bundle(out / ".." / "b", newer, bundle_files, replace=True)
    assert load_bundle(out).manifest.version == "2"
    assert list(tmp_path.iterdir()) == [out]


def test_what_a_killed_writer_left_is_swept_away_by_a_later_one(
    tmp_path: Path, manifest: Manifest, bundle_files: Files
) -> None:
    kept = [".b.0123abcd.txt", ".b.0123abcd0", ".c.0123abcd", ".b.fedcba98"]
    for name in (".b.0123abcd", ".b.89abcdef.old", *kept):
        (tmp_path / name).mkdir()
        (tmp_path / name / "edge.onnx").write_bytes(b"half")
        hours = 0 if name == ".b.fedcba98" else 2  # which another one writes at this moment
        os.utime(tmp_path / name, (time.time() - 3600 * hours,) * 2)
    write_bundle(tmp_path / "b", manifest, bundle_files)
    assert {one.name for one in tmp_path.iterdir()} == {"b", *kept}


def test_a_bundle_that_cannot_be_replaced_stays(
    tmp_path: Path, manifest: Manifest, bundle_files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_bundle(tmp_path / "b", manifest, bundle_files)
    real = Path.rename

    def failing(path: Path, target: Path) -> Path:
        if path.name.startswith(".b.") and not path.name.endswith(".old"):
            raise OSError(errno.EIO, "the disk is failing")
        return real(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(BundleError, match="cannot be written: the disk is failing"):
        write_bundle(tmp_path / "b", changed(manifest, version="2"), bundle_files, replace=True)
    assert load_bundle(tmp_path / "b").digest == first.digest
    assert [one.name for one in tmp_path.iterdir()] == ["b"]


def test_a_place_that_cannot_be_written_is_named(
    tmp_path: Path, manifest: Manifest, bundle_files: Mapping[str, bytes]
) -> None:
    with pytest.raises(BundleError, match=r"absent/b\.hedge: cannot be written: "):
        write_bundle(tmp_path / "absent" / "b.hedge", manifest, bundle_files)


def test_writing_needs_tomli_w_and_reading_does_not(
    bundle_dir: Path, manifest: Manifest, bundle_files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name == "tomli_w" else found(name, *more),
    )
    load_bundle(bundle_dir)
    with pytest.raises(MissingExtraError, match="tomli_w is not installed"):
        write_bundle(bundle_dir.with_name("b"), manifest, bundle_files)


def test_the_manifest_is_made_and_not_given(
    tmp_path: Path, manifest: Manifest, bundle_files: Files
) -> None:
    with pytest.raises(BundleError, match=r"manifest\.toml is made, not given"):
        write_bundle(tmp_path / "b", manifest, {**bundle_files, "manifest.toml": b""})


def test_a_bundle_for_pure_offload_needs_no_edge(
    tmp_path: Path, manifest: Manifest, bundle_files: Files
) -> None:
    manifest = changed(manifest, edge=(), filter=(), calibration=None, training=None)
    bundle = write_bundle(tmp_path / "b", manifest, {"cloud.onnx": bundle_files["cloud.onnx"]})
    assert isinstance(bundle, Bundle)
    assert bundle.manifest.cloud == Cloud(file="cloud.onnx")


def test_every_part_of_a_manifest_survives_the_way_to_disk(
    tmp_path: Path, manifest: Manifest, linear_onnx: Linear
) -> None:
    rich = changed(
        manifest,
        labels=("Gehör", "walk", 'q"uote\\'),
        input=Input(
            kind="image", shape=(2, 2, 1), dtype="uint8", layout="HWC", scale=0.1, offset=1e-7
        ),
        edge=(
            Edge(name="a", file="e.onnx", output="probabilities", head="none"),
            Edge(name="b", file="e.onnx", precision="int8"),
        ),
        filter=(
            Filter(
                kind="skip", file="e1.onnx", threshold=1 / 3, redundant=("walk",), attach="feature"
            ),
        ),
        calibration=Calibration(
            score="margin",
            total=0.1 + 0.2,
            epistemic=1e-300,
            aleatoric=0.5,
            fusion=True,
            fusion_gain=-0.25,
            neither="edge",
            method="grid",
            rows=1,
            data_sha256="a" * 64,
        ),
        cloud=Cloud(file="e.onnx"),
        split=Split(file="s.onnx", width=64, cloud=Cloud(file="t.onnx", head="none")),
        training=None,
    )
    image = {
        "e.onnx": linear_onnx(3, shape=(2, 2, 1)),
        "s.onnx": linear_onnx(64, shape=(2, 2, 1)),
        "t.onnx": linear_onnx(3, shape=(64,)),
        "e1.onnx": linear_onnx(1, shape=(64,)),
    }
    bundle = write_bundle(tmp_path / "b.hedge", rich, image)
    assert changed(load_bundle(bundle.path).manifest, files={}) == rich
