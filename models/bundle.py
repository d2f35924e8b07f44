"""A bundle: what a model is, on disk. A folder or its .zip (`.hedge`), never trusted.

A bundle that could be loaded has been verified: its manifest is sound, it holds exactly
the files that the manifest lists, each with its SHA-256, and its graphs are standard ones
that fit the manifest. One digest, that of `manifest.toml`, stands for all of it; pinned in
the configuration, it is what makes a bundle trustworthy, since whoever changes a file can
also change a hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from .archive import Archive, check_name, open_archive, sync_folder, write_folder, write_zip
from .consistency import MANIFEST, check_manifest, check_model, parts
from .dataset import read_seen
from .errors import BundleError, HedgeError
from .manifest import FORMAT, Input, Manifest, Split
from .toml import parse_toml, to_record, write_toml

SUFFIX = ".hedge"
_STALE_S = 3600.0  # no writer takes so long
_ZIP_HEAD_BYTES = 30  # before the name of the first file
_BARE = frozenset({".onnx", ".tflite"})
MAX_MANIFEST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A verified bundle.

    ``digest`` (64 hex) names every byte of it. ``contract`` (16 hex) names what a device
    and a worker must agree on: the bundle's name, labels, and input kind, shape and dtype;
    versions of a bundle may differ in their models and keep it.
    """

    path: Path
    manifest: Manifest
    digest: str
    contract: str
    _archive: Archive = field(repr=False, compare=False)

    @property
    def labels(self) -> tuple[str, ...]:
        """The K labels; an Outcome's ``label`` indexes them."""
        return self.manifest.labels

    @property
    def input(self) -> Input:
        """What one sample is."""
        return self.manifest.input

    @property
    def files(self) -> Mapping[str, int]:
        """Every file's name and size in bytes, the manifest included."""
        return self._archive.sizes

    def read(self, name: str) -> bytes:
        """Return one file, verified again against the manifest that was loaded.

        Raises:
            BundleError: there is no such file, or it has changed.
        """
        expected = self.digest if name == MANIFEST else self.manifest.files.get(name)
        if expected is None:
            raise BundleError(f"holds no file {name!r}", where=str(self.path))
        return _read(self._archive, name, sha256=expected, where=str(self.path))


def load_bundle(path: Path, *, pin: str | None = None) -> Bundle:
    """Open and verify the bundle at ``path``, a folder or a .hedge file.

    Args:
        path: where it lies.
        pin: the digest it must have, checked before anything is parsed.

    Raises:
        BundleError: it cannot be read, is not the pinned one, or contradicts itself.
        ModelError: a graph in it is refused or does not fit the manifest.
    """
    return _load(path, pin=pin, shown=path)


def write_bundle(
    out: Path, manifest: Manifest, files: Mapping[str, bytes], *, replace: bool = False
) -> Bundle:
    """Write and verify a bundle of ``files``; the manifest's own ``files`` are made here.

    ``out`` becomes a .zip if it ends in .hedge, else a folder. It appears whole or not at
    all, with the same bytes for the same content. What is there already stays, if it is
    this bundle; another bundle is replaced only if ``replace``, anything else never.

    Raises:
        BundleError: the bundle would be refused on loading, or cannot be written.
        ModelError: a graph is refused or does not fit the manifest.
        MissingExtraError: `tomli_w` is not installed.
    """
    for name in files:
        check_name(name, where=str(out))
    if MANIFEST in files:
        raise BundleError(f"{MANIFEST} is made, not given", where=str(out))
    names = sorted(files)
    table = {name: hashlib.sha256(files[name]).hexdigest() for name in names}
    document = write_toml(msgspec.structs.replace(manifest, files=table))
    return _place(out, {MANIFEST: document, **{n: files[n] for n in names}}, replace=replace)


def pack_bundle(source: Path, out: Path, *, replace: bool = False) -> Bundle:
    """Verify the bundle at ``source`` and write it as the .hedge file ``out``; same digest.

    Raises:
        BundleError, ModelError: as `load_bundle` and `write_bundle` do.
    """
    if out.suffix != SUFFIX:
        raise BundleError(f"a packed bundle ends in {SUFFIX}", where=str(out))
    bundle = load_bundle(source)
    names = (MANIFEST, *sorted(bundle.manifest.files))
    return _place(out, {name: bundle.read(name) for name in names}, replace=replace)


def contract_of(manifest: Manifest, split: Split | None = None) -> str:
    """Return the first 16 hex digits of the SHA-256 of what both ends must agree on.

    That is the JSON object of dtype, kind, labels, name and shape, keys sorted, without
    spaces, non-ASCII escaped. Where it is the features of ``split`` that are sent, dtype and
    shape are theirs, and kind is "features".
    """
    sent = manifest.input if split is None else split.features
    terms = {
        "name": manifest.name,
        "labels": manifest.labels,
        "kind": manifest.input.kind if split is None else "features",
        "shape": sent.shape,
        "dtype": sent.dtype,
    }
    text = json.dumps(terms, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _load(path: Path, *, pin: str | None, shown: Path) -> Bundle:
    where = str(shown)
    if path.suffix.lower() in _BARE and path.is_file():
        raise BundleError(
            "is a bare model, and a bundle is needed",
            where=where,
            hint="hedge bundle init makes one of it",
        )
    archive = open_archive(path, where=where)
    document = _manifest_bytes(archive, where=where)
    digest = hashlib.sha256(document).hexdigest()
    if pin is not None and pin != digest:
        raise BundleError(f"its digest is {digest}, but {pin} is pinned", where=where)
    manifest = _parse(document, where=f"{where}/{MANIFEST}")
    _check_members(archive, manifest, where=where)
    bundle = Bundle(
        path=shown,
        manifest=manifest,
        digest=digest,
        contract=contract_of(manifest),
        _archive=archive,
    )
    _check_content(bundle)
    return bundle


def _manifest_bytes(archive: Archive, *, where: str) -> bytes:
    size = archive.sizes.get(MANIFEST)
    if size is None:
        raise BundleError(f"no {MANIFEST}: not a bundle", where=where)
    if size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{size} bytes are too many", where=f"{where}/{MANIFEST}")
    return archive.read(MANIFEST)


def _parse(document: bytes, *, where: str) -> Manifest:
    raw = parse_toml(document, where=where, error=BundleError)
    if isinstance(raw.get("format"), int) and raw["format"] != FORMAT:
        # before the keys: another format has others
        raise BundleError(f"{raw['format']}, this hedge reads {FORMAT}", where=f"{where}: $.format")
    manifest = to_record(raw, Manifest, where=where, error=BundleError)
    check_manifest(manifest, where=where)
    return manifest


def _check_members(archive: Archive, manifest: Manifest, *, where: str) -> None:
    found, listed = archive.sizes.keys() - {MANIFEST}, manifest.files.keys()
    for name in sorted(found - listed):
        raise BundleError(f"{name!r} is not listed in {MANIFEST}", where=where)
    for name in sorted(listed - found):
        raise BundleError(f"{name!r} is missing", where=where)


def _check_content(bundle: Bundle) -> None:
    """Read every file once: hash, then what its role in the manifest asks for."""
    manifest = bundle.manifest
    for name in manifest.files:
        data, where = bundle.read(name), f"{bundle.path}/{name}"
        for part in parts(manifest):
            if part.file == name:
                check_model(data, part, part.takes or manifest.input, where=where)
        if manifest.training is not None and manifest.training.seen == name:
            read_seen(data, where=where)


def _read(archive: Archive, name: str, *, sha256: str, where: str) -> bytes:
    data = archive.read(name)
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise BundleError(
            f"has been changed: its SHA-256 is {found[:16]}…, {MANIFEST} says {sha256[:16]}…",
            where=f"{where}/{name}",
        )
    return data


def bundle_around(path: Path) -> Path | None:
    """Return the bundle, a folder, in which ``path`` lies, whether it is there or not."""
    above = path.resolve().parents
    return next((one for one in above if (one / MANIFEST).is_file() and is_bundle(one)), None)


def is_bundle(path: Path) -> bool:
    """Tell whether a folder's manifest, or a packed file, is a bundle's: it may be damaged."""
    try:
        if path.is_file() and _begins_as_bundle(path):
            return True
        _parse(_manifest_bytes(open_archive(path, where=str(path)), where=str(path)), where="")
    except (HedgeError, OSError):
        return False
    return True


def _begins_as_bundle(path: Path) -> bool:
    """Tell whether a file begins as one that `write_zip` wrote, of which an end may be gone."""
    with path.open("rb") as stream:
        head = stream.read(_ZIP_HEAD_BYTES + len(MANIFEST))
    return head.startswith(b"PK\x03\x04") and head.endswith(MANIFEST.encode())


def _place(out: Path, content: Mapping[str, bytes], *, replace: bool) -> Bundle:
    """Write ``content`` beside ``out``, verify it, and move it there in one step."""
    if out.suffix == ".zip":
        raise BundleError(f"a packed bundle ends in {SUFFIX}", where=str(out))
    around = bundle_around(out)
    if around is not None:
        raise BundleError(
            f"lies in the bundle {around}, which it would spoil",
            where=str(out),
            hint="name a place beside it",
        )
    if ".." in out.parts:  # the way there must not lead through what makes way
        out = out.parent.resolve() / out.name
    if _is_there(out, digest=hashlib.sha256(content[MANIFEST]).hexdigest(), replace=replace):
        return load_bundle(out)
    fresh = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    try:
        with _writing(out):
            (write_zip if out.suffix == SUFFIX else write_folder)(fresh, content)
        _load(fresh, pin=None, shown=out)
        with _writing(out):
            _move(fresh, out)
    finally:
        with suppress(OSError):
            _remove(fresh)
    _sweep(out)
    return load_bundle(out)


def _is_there(out: Path, *, digest: str, replace: bool) -> bool:
    """Tell whether ``out`` is this very bundle already; refuse what may not be replaced."""
    if not os.path.lexists(out):
        return False
    try:
        if load_bundle(out).digest == digest:
            return True
    except HedgeError:
        pass  # damaged, or no bundle at all: what follows decides
    if not replace:
        raise BundleError("is there already, and is another thing", where=str(out))
    if not _looks_like_bundle(out):
        raise BundleError("is no bundle, and is not replaced", where=str(out), hint="remove it")
    return False


def _looks_like_bundle(path: Path) -> bool:
    """Tell whether nothing but a bundle's files lie there, damaged ones included."""
    if path.is_symlink():
        return False
    if path.is_file():
        return is_bundle(path)
    try:
        archive = open_archive(path, where=str(path))
        manifest = _parse(_manifest_bytes(archive, where=str(path)), where=str(path))
    except HedgeError:
        return False
    return archive.sizes.keys() <= {MANIFEST, *manifest.files}


def _move(fresh: Path, out: Path) -> None:
    """Put ``fresh`` in the place of ``out``. A folder cannot be swapped: it makes way first."""
    if out.is_dir():
        old = fresh.with_name(f"{fresh.name}.old")
        out.rename(old)
        try:
            fresh.rename(out)
        except OSError:
            old.rename(out)
            raise
        _remove(old)
    else:
        fresh.replace(out)
    sync_folder(out.parent)


def _sweep(out: Path) -> None:
    """Remove what earlier writers to ``out`` left beside it when they were killed."""
    left = re.compile(rf"\.{re.escape(out.name)}\.[0-9a-f]{{8}}(\.old)?")
    with suppress(OSError):
        now_s = out.stat().st_mtime
        for one in out.parent.iterdir():
            if left.fullmatch(one.name) and now_s - one.lstat().st_mtime > _STALE_S:
                _remove(one)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BundleError(f"cannot be written: {error.strerror}", where=str(out)) from error
