"""The model that is to get evidence: one of a bundle's, or a bare file that becomes a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

from msgspec.structs import replace as replaced

from ...models.bundle import Bundle
from ...models.consistency import parts
from ...models.dataset import Dataset
from ...models.errors import BundleError, ConfigError
from ...models.evidence import LEAST, Array, log_probs
from ...models.manifest import Cloud, Edge, Manifest
from ...models.opinion import INT8_STEP
from ...models.prepare import fed_dtype
from ...models.proposal import Proposal
from ..backends import open_model
from ..both_models import WITHOUT_EDGE, model_outputs
from ..probe.probe import Fed, probe_model

PartName = Literal["edge", "cloud"]


class Subject(NamedTuple):
    """A manifest, its files, and which of its models is meant; ``where`` names it in messages.

    ``bundle`` is None where a bare file is to become one.
    """

    manifest: Manifest
    files: Mapping[str, bytes]
    part: PartName
    model: Edge | Cloud
    where: str
    bundle: Bundle | None = None

    @property
    def data(self) -> bytes:
        """The model's file."""
        return self.files[self.model.file]

    @property
    def floor(self) -> float:
        """What stands for smaller probabilities before their logarithm."""
        is_int8 = isinstance(self.model, Edge) and self.model.precision == "int8"
        return INT8_STEP / 2 if is_int8 else LEAST

    def outputs(self, data: Dataset) -> Array:
        """Return the model's raw outputs (N, K) for all rows, once it has proved to end.

        Raises:
            ModelError: it cannot be opened, or fails.
            MissingExtraError: its backend is not installed.
        """
        model, spec = self.model, self.manifest.input
        probe_model(
            self.data,
            format=model.format,
            where=self.where,
            output=model.output_name,
            sample=Fed(spec.shape, fed_dtype(spec).name),
        )
        opened = open_model(
            self.data,
            format=model.format,
            where=self.where,
            output=model.output_name,
            keeps_state=isinstance(model, Edge) and model.state != "reset",
        )
        with closing(opened):
            return model_outputs(opened, spec, data)

    def logits(self, outputs: Array) -> Array:
        """Return raw outputs as logits: of probabilities, their logarithms."""
        if self.model.output == "logits":
            return outputs
        return log_probs(outputs, floor=self.floor)

    def with_model(self, model: Edge | Cloud, data: bytes) -> Subject:
        """Return the subject with another model in its place, and no calibration.

        A file that another part uses too stays for that one.
        """
        if isinstance(model, Edge):
            edges = [model if one.name == model.name else one for one in self.manifest.edge]
            manifest = replaced(self.manifest, edge=tuple(edges), calibration=None)
        else:
            manifest = replaced(self.manifest, cloud=model, calibration=None)
        files = {name: content for name, content in self.files.items() if name != self.model.file}
        if self._is_shared():
            files[self.model.file] = self.data
        return Subject(
            manifest, {**files, model.file: data}, self.part, model, self.where, self.bundle
        )

    def new_file(self) -> str:
        """Return the name for a changed model: its own, unless another part uses that file."""
        if not self._is_shared():
            return self.model.file
        path = PurePosixPath(self.model.file)
        return str(path.with_name(f"{path.stem}-{self.part}-evidence{path.suffix}"))

    def _is_shared(self) -> bool:
        return [part.file for part in parts(self.manifest)].count(self.model.file) > 1


def of_bundle(bundle: Bundle, *, part: PartName, variant: str | None) -> Subject:
    """Return a bundle's model: an edge ``variant`` (None: the first), or the cloud.

    Raises:
        BundleError: it has no such part.
        ConfigError: it has no such variant.
    """
    manifest, where = bundle.manifest, str(bundle.path)
    if part == "cloud":
        if variant is not None:
            raise ConfigError("is of edges", where="--variant")
        if manifest.cloud is None:
            raise BundleError("has no cloud model", where=where)
        model: Edge | Cloud = manifest.cloud
    else:
        model = _edge(manifest, variant, where=where)
    files = {name: bundle.read(name) for name in manifest.files}
    return Subject(manifest, files, part, model, f"{where}/{model.file}", bundle)


def of_model(proposal: Proposal, *, where: str) -> Subject:
    """Return the one model of a proposed bundle."""
    manifest = proposal.manifest
    return Subject(manifest, proposal.files, "edge", manifest.edge[0], where)


def _edge(manifest: Manifest, name: str | None, *, where: str) -> Edge:
    if not manifest.edge:
        raise BundleError("has no edge model", where=where, hint=WITHOUT_EDGE)
    found = [edge for edge in manifest.edge if name in (None, edge.name)]
    if not found:
        known = ", ".join(edge.name for edge in manifest.edge)
        raise ConfigError(f"no variant {name!r}", where="--variant", hint=f"has {known}")
    return found[0]
